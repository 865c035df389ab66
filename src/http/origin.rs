//! Whether a request comes from a page of another site, open in somebody's browser. Pure.
//!
//! Two ways lead here. A foreign page sends a request to us: the browser says so in `Origin` or
//! `Sec-Fetch-Site`. Or its name is made to resolve to our address (DNS rebinding), so that the
//! browser takes us for that site: then `Host` is a name that is not ours. Such an attack needs a
//! name, so addresses and `localhost` are always fine; and it needs a browser, so `Host` is judged
//! only where a browser shows. Prometheus and its like may use any name.

use hyper::header::{ACCEPT_LANGUAGE, HOST, HeaderMap, HeaderValue, ORIGIN, USER_AGENT};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};
use url::{Host, Url};

/// What gives a foreign page away.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Foreign {
    /// The name in `Host` is not ours.
    Host(String),
    /// The page that asks is of another site.
    Page,
}

impl Foreign {
    /// The status that says so.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Page => StatusCode::FORBIDDEN,
        }
    }

    /// The sentence that says so.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Host(name) => format!(
                "`{name}` is not the name of this exporter: use the one of --web.external-url, or \
                 an address\n"
            ),
            Self::Page => "pages of other sites may not do this\n".to_owned(),
        }
    }
}

/// Judges a request. `own` is the host of `--web.external-url`, where that is known.
///
/// # Errors
/// What gives it away.
pub fn judge(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    own: Option<&str>,
) -> Result<(), Foreign> {
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let host = uri.authority().map(Authority::as_str);
    let host = host.or_else(|| headers.get(HOST)?.to_str().ok()).unwrap_or_default();
    if changes {
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let foreign = matches!(site, Some(b"cross-site" | b"same-site"))
            || headers.get(ORIGIN).is_some_and(|origin| !is_same(origin, host, own));
        if foreign {
            return Err(Foreign::Page);
        }
    }
    // Without a known name, one that changes something still needs an address or `localhost`.
    if shows_a_browser(headers) && (own.is_some() || changes) && !is_ours(host, own) {
        return Err(Foreign::Host(name(host).unwrap_or_default()));
    }
    Ok(())
}

/// What every browser sends and no script in it can take away, or at least one of it.
fn shows_a_browser(headers: &HeaderMap) -> bool {
    let agent =
        headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    let fetch = headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"));
    agent || fetch || headers.contains_key(ORIGIN) || headers.contains_key(ACCEPT_LANGUAGE)
}

/// Whether a page's origin is where it sends its request, or is the exporter's known name: a
/// proxy may have replaced `Host`. `null` is a page that hides where it is from.
fn is_same(origin: &HeaderValue, host: &str, own: Option<&str>) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(|text| Url::parse(text).ok()) else {
        return false;
    };
    let known = own.is_some() && origin.host_str() == own;
    let asked = Url::parse(&format!("{}://{host}", origin.scheme()));
    known || asked.is_ok_and(|asked| asked.origin() == origin.origin() && origin.has_host())
}

fn is_ours(host: &str, own: Option<&str>) -> bool {
    // Nothing to rebind.
    let Some(name) = name(host) else { return true };
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost") || own == Some(name)
}

/// The name in `host:port`; `None` if it is an address.
fn name(host: &str) -> Option<String> {
    match Url::parse(&format!("http://{host}")).ok()?.host()? {
        Host::Domain(name) => Some(name.to_owned()),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    const BROWSER: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11)");
    const OWN: Option<&str> = Some("exporter.example");

    #[track_caller]
    fn check(method: &str, host: &str, headers: &[(&str, &str)], own: Option<&str>, status: u16) {
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().chain(&[("host", host)]) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let judged = judge(&method, &Uri::from_static("/-/reload"), &map, own);
        let seen = judged.as_ref().map_or_else(|foreign| foreign.status().as_u16(), |()| 200);
        assert_eq!(seen, status, "{method} {host} {headers:?} {own:?}: {judged:?}");
    }

    #[test]
    fn programs_may_use_any_name() {
        for host in ["exporter.monitoring.svc:10115", "evil.example", "10.0.0.1:10115", "", "a b"] {
            check("GET", host, &[], OWN, 200);
            check("POST", host, &[("user-agent", "curl/8")], OWN, 200);
            check("GET", host, &[("user-agent", "Prometheus/3.5.0")], OWN, 200);
        }
    }

    #[test]
    fn a_browser_must_use_our_name_an_address_or_localhost() {
        for (host, status) in [
            ("exporter.example", 200),
            ("EXPORTER.example.:10115", 200),
            ("10.0.0.1:10115", 200),
            ("[2001:db8::1]:10115", 200),
            ("localhost:10115", 200),
            ("a.localhost", 200),
            ("evil.example", 421),
            ("exporter.example.evil.example", 421),
            ("localhost.evil.example", 421),
            ("10.0.0.1.evil.example:10115", 421),
        ] {
            for mark in [
                BROWSER,
                ("accept-language", ""),
                ("sec-fetch-mode", "cors"),
                ("origin", "http://x.example"),
            ] {
                check("GET", host, &[mark], OWN, status);
            }
            check("GET", host, &[BROWSER], None, 200);
            check("POST", host, &[BROWSER], OWN, status);
        }
        check("POST", "evil.example", &[BROWSER], None, 421);
        check("POST", "10.0.0.1", &[BROWSER], None, 200);
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        for (origin, status) in [
            ("http://10.0.0.1:10115", 200),
            ("https://exporter.example", 200),
            ("http://10.0.0.1", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            check("POST", "10.0.0.1:10115", &[("origin", origin)], OWN, status);
            check("GET", "10.0.0.1:10115", &[("origin", origin)], OWN, 200);
        }
        for (site, status) in
            [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
        {
            check("POST", "10.0.0.1", &[("sec-fetch-site", site)], None, status);
        }
    }
}
