//! Where the server listens and under which URL others reach it. Pure but for [`ListenAddress::bind`].

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};

use socket2::{Domain, Protocol, Socket, Type};
use url::Url;

use crate::limits::ACCEPT_QUEUE;

/// `host:port` or `:port` as given to `--web.listen-address`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenAddress {
    text: String,
    host: String,
    port: u16,
}

impl ListenAddress {
    /// Reads `host:port`, `[v6]:port` or `:port`.
    ///
    /// # Errors
    /// One line saying what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address to listen on: write host:port or :port");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '[', ']', '/']) {
            return Err(wrong());
        }
        let port = port.parse().map_err(|_| wrong())?;
        Ok(Self { text: text.to_owned(), host: bare.unwrap_or(host).to_owned(), port })
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where a client on this machine reaches it, `host:port`.
    #[must_use]
    pub fn local(&self) -> String {
        match self.host.as_str() {
            "" | "0.0.0.0" => format!("127.0.0.1:{}", self.port),
            "::" => format!("[::1]:{}", self.port),
            host if host.contains(':') => format!("[{host}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }

    /// Begins to listen. Without a host: on every address of both families.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(&self) -> io::Result<TcpListener> {
        if self.host.is_empty() {
            let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port));
            return listen(both).or_else(|err| match err.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(err),
                // A machine without IPv6.
                _ => listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port))),
            });
        }
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let address =
            addresses.next().ok_or_else(|| io::Error::other("the host has no address"))?;
        listen(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Only the wildcard means both families.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(ACCEPT_QUEUE).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The URL under which others reach the exporter, without trailing slashes in its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExternalUrl {
    text: String,
    path: String,
    host: Option<String>,
}

impl ExternalUrl {
    /// Reads a URL, or a path alone where only the prefix is meant.
    ///
    /// # Errors
    /// One line saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(['\'', '"']) || text.ends_with(['\'', '"']) {
            return Err(format!("`{text}` must not begin or end with a quotation mark"));
        }
        let absolute =
            if text.starts_with('/') { format!("http://localhost{text}") } else { text.to_owned() };
        let mut url = Url::parse(&absolute).map_err(|err| format!("`{text}` is no URL: {err}"))?;
        if url.cannot_be_a_base() {
            return Err(format!("`{text}` is no URL: write http://host:port/path"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        if text.starts_with('/') {
            return Ok(Self { text: path.clone(), path, host: None });
        }
        let host = url.host_str().map(|host| host.trim_end_matches('.').to_owned());
        Ok(Self { text: url.to_string(), path, host })
    }

    /// Its host, where it is more than a path.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The prefix of all routes. Invariant: begins and ends with one slash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoutePrefix(String);

impl RoutePrefix {
    /// Normalises `foo`, `/foo` and `/foo/` to the same.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.trim_matches('/') {
            "" => Self("/".to_owned()),
            path => Self(format!("/{path}/")),
        }
    }

    /// With its slashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for no prefix.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_as_people_write_them() {
        for (text, host, port) in [
            (":10115", "", 10115),
            ("0.0.0.0:80", "0.0.0.0", 80),
            ("[::1]:9", "::1", 9),
            ("localhost:0", "localhost", 0),
        ] {
            let address = ListenAddress::parse(text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
        }
        for text in ["10115", "a:b", "::1:80", ":", "host:", ":65536", "http://a:80"] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_are_normalised() {
        for (text, expected) in
            [("", "/"), ("/", "/"), ("foo", "/foo/"), ("/foo", "/foo/"), ("/a/b//", "/a/b/")]
        {
            assert_eq!(RoutePrefix::new(text).as_str(), expected, "{text}");
        }
    }

    #[test]
    fn external_urls_lose_trailing_slashes() {
        for (text, expected) in [
            ("http://host:1/a/", "http://host:1/a"),
            ("https://host", "https://host/"),
            ("/a/b/", "/a/b"),
        ] {
            assert_eq!(ExternalUrl::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["'http://host'", "http://host\"", "nonsense", "mailto:a@b"] {
            assert!(ExternalUrl::parse(text).is_err(), "{text}");
        }
    }
}
