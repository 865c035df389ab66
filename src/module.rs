//! How to probe: protocol dialogue, TLS, address family, close behaviour. Pure: plain values.
//!
//! The schema is that of a TCP module of `blackbox_exporter`; what goes beyond it says so.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod pattern;
pub mod template;

use crate::module::pattern::Pattern;
use crate::module::template::Template;
use crate::secret::Secret;

/// An IP version.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The version of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// How the connection ends.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Close {
    /// Half-close, drain for a short while, close: the peer sees a clean FIN even if its banner
    /// was not read.
    #[default]
    Fin,
    /// RST. Leaves no `TIME_WAIT`; servers log it.
    Reset,
}

impl Close {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Reset => "reset",
        }
    }
}

/// What must become of the connect (beyond `blackbox_exporter`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ExpectConnect {
    /// The port accepts.
    #[default]
    Open,
    /// Nothing listens: RST or an ICMP refusal.
    Refused,
    /// Nothing comes back until the deadline.
    Timeout,
    /// Anything but an open port.
    Closed,
}

impl ExpectConnect {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

/// How names become addresses (beyond `blackbox_exporter`).
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum Resolver {
    /// Own resolver over `/etc/hosts` and `/etc/resolv.conf`: tells why, caches by TTL.
    #[default]
    Builtin,
    /// `getaddrinfo` on threads of its own, for what only nsswitch knows.
    System,
    /// These name servers and nothing else, `ip:port`.
    Servers(Vec<std::net::SocketAddr>),
}

/// PEM text given in the configuration, or the file that holds it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PemSource {
    /// Inline; of a certificate no secret, of a key one.
    Inline(Secret<String>),
    /// A file, relative to the working directory; read again when it changes.
    File(PathBuf),
    /// A name in a secret manager, which this exporter does not have: the probe is inconclusive.
    Reference(String),
}

/// A TLS protocol version that may be spoken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.0, which this exporter does not speak.
    Tls10,
    /// TLS 1.1, which this exporter does not speak.
    Tls11,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    /// Every version.
    pub const ALL: [Self; 4] = [Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];

    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls10 => "TLS10",
            Self::Tls11 => "TLS11",
            Self::Tls12 => "TLS12",
            Self::Tls13 => "TLS13",
        }
    }
}

/// `tls_config` of a module.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TlsSettings {
    /// Trust anchors that replace those of the system.
    pub ca: Option<PemSource>,
    /// Client certificate. Invariant: present exactly when `key` is.
    pub cert: Option<PemSource>,
    /// Its key.
    pub key: Option<PemSource>,
    /// Name to verify and to send as SNI instead of the target's host.
    pub server_name: Option<String>,
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
    /// Lowest version, TLS 1.2 if not given.
    pub min_version: Option<TlsVersion>,
    /// Highest version, TLS 1.3 if not given.
    pub max_version: Option<TlsVersion>,
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// A line that matches.
    Line(Pattern),
    /// A match anywhere in all that came and is not consumed yet, whatever the lines: for
    /// protocols that have none (beyond `blackbox_exporter`, `expect_stream`). `^` is the first
    /// byte not consumed; what follows the match stays for the next step.
    Stream(Pattern),
    /// Exactly these bytes.
    Bytes(Vec<u8>),
}

/// What a step sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Send {
    /// Text, expanded with the captures of the step's `expect`, and a line feed.
    Line(Secret<Template>),
    /// These bytes and nothing else (beyond `blackbox_exporter`).
    Bytes(Secret<Vec<u8>>),
    /// What a file holds, relative to the working directory; read again when it changes (beyond
    /// `blackbox_exporter`).
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether a line feed is added unless it ends with one.
        ends_line: bool,
    },
}

/// One entry of `query_response`: wait, then send, then begin TLS; each optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What to wait for.
    pub expect: Option<Expect>,
    /// What ends the probe as a failure while waiting: a line, or with [`Expect::Stream`] a match
    /// in all that came (beyond `blackbox_exporter`).
    pub reject: Option<Pattern>,
    /// Labels of `probe_expect_info`: name, and value expanded with the captures. `Some` of an
    /// empty list exposes the metric without labels.
    pub labels: Option<Vec<(String, Template)>>,
    /// What to send.
    pub send: Option<Send>,
    /// Begin TLS. Invariant: in at most one step of a module, and not with `tls`.
    pub starttls: bool,
}

/// How to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Bound of a whole probe; `None` leaves it to the scrape or the monitor.
    pub timeout: Option<Duration>,
    /// Family tried first.
    pub preferred_family: Family,
    /// Whether the other family may be used if the name has no address of the preferred one.
    pub family_fallback: bool,
    /// Local address to bind, kept as text: a bad one makes the probe inconclusive, not the start.
    pub source_address: Option<String>,
    /// TLS from the first byte.
    pub tls: bool,
    /// Settings of `tls` and of `starttls`.
    pub tls_settings: Arc<TlsSettings>,
    /// The exchange, in order.
    pub query_response: Vec<Step>,
    /// How the connection ends.
    pub close: Close,
    /// What must become of the connect.
    pub expect_connect: ExpectConnect,
    /// How long the connection must stay open after the dialogue, to find a port that accepts
    /// and then closes.
    pub hold: Option<Duration>,
    /// How names become addresses.
    pub resolver: Resolver,
}

impl Module {
    /// A connect and nothing else, with the defaults of the configuration.
    #[must_use]
    pub fn connect(name: &str) -> Self {
        Self {
            name: name.into(),
            timeout: None,
            preferred_family: Family::V6,
            family_fallback: true,
            source_address: None,
            tls: false,
            tls_settings: Arc::default(),
            query_response: Vec::new(),
            close: Close::default(),
            expect_connect: ExpectConnect::default(),
            hold: None,
            resolver: Resolver::default(),
        }
    }

    /// Whether anything happens after the connect.
    #[must_use]
    pub fn is_connect_only(&self) -> bool {
        !self.tls && self.query_response.is_empty() && self.hold.is_none()
    }
}
