//! `host:port`, parsed once. Pure: nothing is looked up.
//!
//! Holding an [`Address`] is proof that the text was checked; nothing downstream checks again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest host name, in bytes without a trailing dot (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label of a host name, in bytes.
const MAX_LABEL: usize = 63;

/// Names of ports that people write, with the numbers IANA gave them.
pub const WELL_KNOWN_PORTS: &[(&str, u16)] = &[
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("ntp", 123),
    ("imap", 143),
    ("imap2", 143),
    ("ldap", 389),
    ("https", 443),
    ("submissions", 465),
    ("smtps", 465),
    ("submission", 587),
    ("ldaps", 636),
    ("domain-s", 853),
    ("ftps", 990),
    ("imaps", 993),
    ("pop3s", 995),
    ("ms-sql-s", 1433),
    ("mqtt", 1883),
    ("nfs", 2049),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("sip", 5060),
    ("sips", 5061),
    ("xmpp-client", 5222),
    ("postgresql", 5432),
    ("postgres", 5432),
    ("amqps", 5671),
    ("amqp", 5672),
    ("redis", 6379),
    ("http-alt", 8080),
    ("secure-mqtt", 8883),
    ("mongodb", 27017),
];

/// Where a service runs: a literal address or a name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// A literal.
    Ip(IpAddr),
    /// A link-local IPv6 address and its zone (`fe80::1%eth0`); a box because few have one.
    Zoned(Box<(Ipv6Addr, Box<str>)>),
    /// A DNS name in lower-case ASCII, perhaps with a trailing dot.
    Name(Box<str>),
}

impl Host {
    /// Reads a host as a person writes it, brackets optional.
    ///
    /// # Errors
    /// One line saying what is wrong and what to write instead. Numeric forms that resolvers
    /// read in different ways (`10.1`, `010.0.0.1`, `0x7f.1`) are refused, since what is judged
    /// must be what is probed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = match text.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').ok_or_else(|| format!("`{text}` has `[` without `]`"))?
            }
            None => text,
        };
        if bare.is_empty() {
            return Err("the host is empty".to_owned());
        }
        let (literal, zone) = match bare.split_once('%') {
            Some((literal, zone)) => (literal, Some(zone)),
            None => (bare, None),
        };
        if let Ok(ip) = literal.parse::<Ipv6Addr>() {
            return match zone {
                Some("") => Err(format!("`{text}` has an empty zone after `%`")),
                Some(zone) => Ok(Self::Zoned(Box::new((ip, zone.into())))),
                None => Ok(Self::Ip(ip.into())),
            };
        }
        if zone.is_some() {
            return Err(format!("`{text}` has a zone, which only an IPv6 address can have"));
        }
        if let Ok(ip) = bare.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        if bare.contains(':') {
            return Err(format!("`{text}` is no IPv6 address"));
        }
        name(bare).map(Self::Name)
    }

    /// The literal address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.literal().ok()
    }

    /// The literal address, without its zone.
    ///
    /// # Errors
    /// It is none, but this name.
    pub fn literal(&self) -> Result<IpAddr, &str> {
        match self {
            Self::Ip(ip) => Ok(*ip),
            Self::Zoned(zoned) => Ok(zoned.0.into()),
            Self::Name(name) => Err(name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Zoned(zoned) => write!(f, "{}%{}", zoned.0, zoned.1),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn name(text: &str) -> Result<Box<str>, String> {
    let mut ascii = match idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY) {
        Ok(ascii) => ascii.into_owned(),
        Err(_) => return Err(format!("`{}` is no host name", text.escape_debug())),
    };
    ascii.make_ascii_lowercase();
    let labels = ascii.strip_suffix('.').unwrap_or(&ascii);
    if labels.len() > MAX_NAME {
        return Err(format!("the host name has {} bytes, at most {MAX_NAME} fit", labels.len()));
    }
    let plausible = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
    };
    if !labels.split('.').all(plausible) {
        return Err(format!(
            "`{}` is no host name: labels of letters, digits, `-` and `_`, separated by dots",
            text.escape_debug()
        ));
    }
    // The rule of the URL standard: a name whose last label is a number is a malformed address.
    let last = labels.rsplit('.').next().unwrap_or(labels);
    let number = last.bytes().all(|it| it.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|it| it.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if number {
        return Err(format!("`{text}` is no IPv4 address: write four decimal numbers, 192.0.2.1"));
    }
    Ok(ascii.into_boxed_str())
}

/// A host and a port.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// Where.
    pub host: Host,
    /// Which port. Zero only where a person asked `/probe` for it, as no service listens there.
    pub port: u16,
}

impl Address {
    /// Reads `host:port`, `[v6]:port`, `host:service-name`.
    ///
    /// An empty port counts as 0, as Go's resolver has it.
    ///
    /// # Errors
    /// One line saying what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") || text.contains('/') {
            return Err(format!("`{}` is a URL: write host:port", text.escape_debug()));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("`{}` has no port: write host:port", text.escape_debug()));
        };
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(format!(
                "`{}` has too many colons: write an IPv6 address as [2001:db8::1]:{}",
                text.escape_debug(),
                if port.is_empty() { "443" } else { port }.escape_debug()
            ));
        }
        Ok(Self { host: Host::parse(host)?, port: self::port(port)? })
    }
}

/// Reads a port: a number from 0 to 65535, or a name of [`WELL_KNOWN_PORTS`].
///
/// # Errors
/// One line saying what to write instead.
pub fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Ok(0);
    }
    if text.bytes().all(|it| it.is_ascii_digit()) {
        return text
            .parse()
            .map_err(|_| format!("port `{text}` is too large: write a number from 1 to 65535"));
    }
    WELL_KNOWN_PORTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map_or_else(
        || {
            Err(format!(
                "port `{}` is neither a number from 1 to 65535 nor a known service name",
                text.escape_debug()
            ))
        },
        |&(_, port)| Ok(port),
    )
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(_)) | Host::Zoned(_) => write!(f, "[{}]:{}", self.host, self.port),
            Host::Ip(IpAddr::V4(_)) | Host::Name(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        match Address::parse(text) {
            Ok(address) => assert_eq!(address.to_string(), expected),
            Err(error) => assert_eq!(error, expected),
        }
    }

    #[test]
    fn hosts_and_ports_as_people_write_them() {
        check("db.example.com:5432", "db.example.com:5432");
        check("DB.Example.COM.:5432", "db.example.com.:5432");
        check("under_score:1", "under_score:1");
        check("192.0.2.1:22", "192.0.2.1:22");
        check("[192.0.2.1]:22", "192.0.2.1:22");
        check("[2001:DB8::1]:443", "[2001:db8::1]:443");
        check("[fe80::1%eth0]:22", "[fe80::1%eth0]:22");
        check("mail:smtp", "mail:25");
        check("mail:", "mail:0");
        check("bücher.example:80", "xn--bcher-kva.example:80");
    }

    #[test]
    fn what_is_wrong_and_what_to_write_instead() {
        check("db", "`db` has no port: write host:port");
        check("http://db:80", "`http://db:80` is a URL: write host:port");
        check(
            "2001:db8::1:443",
            "`2001:db8::1:443` has too many colons: write an IPv6 address as [2001:db8::1]:443",
        );
        check(
            "[::1:443",
            "`[::1:443` has too many colons: write an IPv6 address as [2001:db8::1]:443",
        );
        check(":443", "the host is empty");
        check("db:65536", "port `65536` is too large: write a number from 1 to 65535");
        check("db:x y", "port `x y` is neither a number from 1 to 65535 nor a known service name");
        check(
            "a..b:1",
            "`a..b` is no host name: labels of letters, digits, `-` and `_`, separated by dots",
        );
        check(
            "a\nb:1",
            "`a\\nb` is no host name: labels of letters, digits, `-` and `_`, separated by dots",
        );
    }

    #[test]
    fn numbers_that_resolvers_read_in_different_ways_are_refused() {
        for host in
            ["10.1", "010.0.0.1", "127.1", "2130706433", "0x7f000001", "1.2.3.0x4", "1.2.3.4.5"]
        {
            let error = Address::parse(&format!("{host}:80")).unwrap_err();
            assert!(error.contains("is no IPv4 address"), "{host}: {error}");
        }
    }
}
