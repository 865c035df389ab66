//! What a request asks for: its query as Go reads it, and the parameters of `/probe`. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use crate::address::Address;
use crate::config::{Config, ModuleEntry};
use crate::diagnosis::outcome_of;
use crate::evidence::Event;
use crate::limits::ON_DEMAND_WITHIN;
use crate::module::Module;
use crate::outcome::{Phase, ProbeResult};
use crate::prober::journal::{Journal, Level};

/// The module of a request that names none.
const DEFAULT_MODULE: &str = "tcp_connect";
/// The scrape timeout of a request that tells none, in seconds.
const DEFAULT_SCRAPE_TIMEOUT: f64 = 120.0;

/// A query string, read as Go's `net/url` does: a pair with a malformed escape or a semicolon is
/// dropped, `+` is a blank.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string. Never fails.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(key)?, unescape(value)?))
        });
        Self(decoded.collect())
    }

    /// The first value of a key; empty if there is none.
    #[must_use]
    pub fn first(&self, key: &str) -> &str {
        self.0.iter().find(|(it, _)| it == key).map_or("", |(_, value)| value)
    }
}

/// Undoes percent escapes and turns `+` into a blank; `None` if an escape is malformed.
#[must_use]
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            b'+' => b' ',
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
}

/// A request for a probe, ready to be carried out.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    /// How.
    pub module: Arc<Module>,
    /// What, as asked for.
    pub target: String,
    /// What, if it is an address; else the sentence that says why not. Not an error of the
    /// request: it is the probe that fails.
    pub address: Result<Address, String>,
    /// Name for SNI and verification, where the module sets none.
    pub hostname: Option<String>,
    /// One deadline over the whole probe.
    pub timeout: Duration,
    /// Whether a person wants to read about it.
    pub debug: bool,
    /// Whether to follow the path, too.
    pub trace: bool,
}

/// Why a request is not followed. Ordered as the checks are made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Rejection {
    /// No such module.
    UnknownModule(String),
    /// The header is no number.
    BadTimeout(String),
    /// No target.
    NoTarget,
    /// The module is one of another prober.
    OtherProber(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownModule(name) => write!(f, "Unknown module {}", GoQuoted(name)),
            Self::BadTimeout(error) => {
                write!(f, "Failed to parse timeout from Prometheus header: {error}")
            }
            Self::NoTarget => f.write_str("Target parameter is missing"),
            Self::OtherProber(prober) => {
                write!(f, "Unknown prober {}: this exporter probes TCP only", GoQuoted(prober))
            }
        }
    }
}

impl Rejection {
    /// By how much it raises the count of requests for unknown modules.
    #[must_use]
    pub fn unknown_modules(&self) -> u64 {
        matches!(self, Self::UnknownModule(_)).into()
    }

    /// The status that says so.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            // A bad header is the scraper's fault; 500 is what users of `blackbox_exporter` see.
            Self::BadTimeout(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UnknownModule(_) | Self::NoTarget | Self::OtherProber(_) => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl ProbeRequest {
    /// Reads the parameters.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`Rejection`].
    pub fn parse(
        query: &Query,
        scrape_timeout: Option<&str>,
        offset_seconds: f64,
        config: &Config,
    ) -> Result<Self, Rejection> {
        let name = Some(query.first("module")).filter(|it| !it.is_empty());
        let name = name.unwrap_or(DEFAULT_MODULE);
        let Some(entry) = config.modules.get(name) else {
            return Err(Rejection::UnknownModule(name.to_owned()));
        };
        let scrape_timeout = self::scrape_timeout(scrape_timeout).map_err(Rejection::BadTimeout)?;
        let target = query.first("target");
        if target.is_empty() {
            return Err(Rejection::NoTarget);
        }
        // Service discovery sometimes escapes what Prometheus escapes again.
        let target = unescape(target).unwrap_or_else(|| target.to_owned());
        let module = match entry {
            ModuleEntry::Tcp(module) => Arc::clone(module),
            ModuleEntry::Other { prober } => return Err(Rejection::OtherProber(prober.clone())),
        };
        let hostname = Some(query.first("hostname")).filter(|it| !it.is_empty());
        Ok(Self {
            address: Address::parse(&target),
            hostname: hostname.map(str::to_owned),
            timeout: timeout(module.timeout, scrape_timeout, offset_seconds),
            debug: query.first("debug") == "true",
            trace: query.first("trace") == "true",
            module,
            target,
        })
    }
}

/// What a probe of text that is no address finds.
#[must_use]
pub fn invalid_target(error: &str, timeout: Duration, journal: &mut Journal) -> ProbeResult {
    let outcome = outcome_of(Event::InvalidTarget, Phase::Resolve);
    journal.note(Level::Warn, || format!("resolve: {error}"));
    ProbeResult { detail: Some(error.into()), ..ProbeResult::new(outcome, timeout) }
}

/// Reads `X-Prometheus-Scrape-Timeout-Seconds`; the error is the one of Go's `strconv`.
fn scrape_timeout(header: Option<&str>) -> Result<f64, String> {
    let Some(text) = header.filter(|it| !it.is_empty()) else { return Ok(DEFAULT_SCRAPE_TIMEOUT) };
    let error = |what| format!("strconv.ParseFloat: parsing {}: {what}", GoQuoted(text));
    let seconds: f64 = text.parse().map_err(|_| error("invalid syntax"))?;
    if seconds.is_infinite() && text.contains(|it: char| it.is_ascii_digit()) {
        return Err(error("value out of range"));
    }
    Ok(if seconds == 0.0 { DEFAULT_SCRAPE_TIMEOUT } else { seconds })
}

/// The module's timeout where it is shorter than what the scrape leaves, or where the offset eats
/// the whole scrape; what the scrape leaves otherwise. A client cannot wish for more than the
/// module allows, or than the bound for modules that set nothing.
fn timeout(module: Option<Duration>, scrape_timeout: f64, offset_seconds: f64) -> Duration {
    let max = scrape_timeout - offset_seconds;
    match module {
        Some(module) if module.as_secs_f64() < max || max < 0.0 => module,
        _ if max.is_nan() => Duration::ZERO,
        _ => {
            let wish = Duration::try_from_secs_f64(max.max(0.0)).unwrap_or(Duration::MAX);
            wish.min(module.unwrap_or(ON_DEMAND_WITHIN))
        }
    }
}

/// Text in the quotes of Go's `%q`, as users know it from `blackbox_exporter`.
struct GoQuoted<'a>(&'a str);

impl fmt::Display for GoQuoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for it in self.0.chars() {
            match it {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                it if it.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(it))?,
                it if it.is_control() => write!(f, "\\u{:04x}", u32::from(it))?,
                it => write!(f, "{it}")?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_timeout_table() {
        for (module, header, offset, expected) in [
            (None, Some("15"), 0.5, 14.5),
            (None, Some("15"), 0.0, 15.0),
            (Some(20.0), Some("15"), 0.5, 14.5),
            (Some(20.0), Some("15"), 0.0, 15.0),
            (Some(5.0), Some("15"), 0.0, 5.0),
            (Some(5.0), Some("15"), 0.5, 5.0),
            (Some(10.0), None, 0.5, 10.0),
            (Some(10.0), Some("10"), 0.5, 9.5),
            (Some(9.5), None, 0.5, 9.5),
            (Some(9.5), None, 1.0, 9.5),
            (None, None, 0.5, 119.5),
            (None, None, 0.0, 120.0),
            (None, Some(""), 0.5, 119.5),
            (None, Some("0"), 0.5, 119.5),
            (Some(5.0), Some("0.2"), 0.5, 5.0),
            (None, Some("0.2"), 0.5, 0.0),
            (None, Some("0.5"), 0.5, 0.0),
            (Some(5.0), Some("0.5"), 0.5, 0.0),
            (None, Some("nan"), 0.5, 0.0),
            (None, Some("1e300"), 0.5, 120.0),
            (None, Some("86400"), 0.5, 120.0),
            (None, Some("121"), 0.5, 120.0),
            (Some(5.0), Some("86400"), 0.5, 5.0),
            // What the configuration says is trusted.
            (Some(300.0), Some("86400"), 0.5, 300.0),
            (Some(300.0), Some("200"), 0.5, 199.5),
        ] {
            let scrape = scrape_timeout(header).unwrap();
            let timeout = timeout(module.map(Duration::from_secs_f64), scrape, offset);
            let expected = Duration::from_secs_f64(expected);
            assert_eq!(timeout, expected, "{module:?} {header:?} {offset}");
        }
    }

    #[test]
    fn a_bad_timeout_header_is_named_as_go_does() {
        let expected = r#"strconv.ParseFloat: parsing "x": invalid syntax"#;
        assert_eq!(scrape_timeout(Some("x")).unwrap_err(), expected);
        let expected = r#"strconv.ParseFloat: parsing "1e999": value out of range"#;
        assert_eq!(scrape_timeout(Some("1e999")).unwrap_err(), expected);
    }

    #[test]
    fn a_query_is_read_as_go_does() {
        for (text, expected) in [
            ("target=a:1", "a:1"),
            ("target=a%3A1&target=b", "a:1"),
            ("target=a+b", "a b"),
            ("target=%zz", ""),
            ("target=%", ""),
            ("target=%4", ""),
            ("target=a;b", ""),
            ("target", ""),
            ("x=%zz&target=ok", "ok"),
            ("t%61rget=ok", "ok"),
            ("target=%ff", "\u{fffd}"),
            ("target=a=b", "a=b"),
        ] {
            assert_eq!(Query::parse(text).first("target"), expected, "{text}");
        }
    }

    #[test]
    fn checks_are_made_in_order() {
        let mut config = Config::embedded();
        config.modules.insert("web".into(), ModuleEntry::Other { prober: "http".to_owned() });
        let check = |query: &str, header: Option<&str>, expected: &str| match ProbeRequest::parse(
            &Query::parse(query),
            header,
            0.5,
            &config,
        ) {
            Ok(request) => assert_eq!(format!("{:?}", request.address.is_ok()), expected),
            Err(rejection) => assert_eq!(rejection.to_string(), expected, "{query}"),
        };
        check("module=no\"pe", Some("x"), r#"Unknown module "no\"pe""#);
        check(
            "",
            Some("x"),
            "Failed to parse timeout from Prometheus header: \
             strconv.ParseFloat: parsing \"x\": invalid syntax",
        );
        check("module=web", None, "Target parameter is missing");
        check(
            "module=web&target=a",
            None,
            r#"Unknown prober "http": this exporter probes TCP only"#,
        );
        check("target=a%253A1", None, "true");
        check("target=nonsense", None, "false");
    }
}
