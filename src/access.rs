//! Who may probe what. Pure: judges addresses that others resolved.
//!
//! A rule has up to three parts, all of which must match: a network or a pattern of names, and
//! ports. It is judged on the resolved address, so a name cannot be pointed elsewhere between
//! the question and the connection. In this order:
//!
//! 1. a `deny` rule, of everyone or of the module: denied;
//! 2. a link-local or cloud metadata address: denied, unless an `allow` rule names it by an
//!    address or a network within that range;
//! 3. `allow` rules exist and none matches, of everyone or of the module: denied;
//! 4. allowed.
//!
//! The exporter's own listeners are denied too, unless an `allow` rule names their very port.
//!
//! A name that is denied whatever its addresses are is denied before it is looked up: neither the
//! answer nor the time it takes tells whether it exists.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::Host;

/// Addresses that answer to whoever asks from this machine, with credentials or worse, and that
/// nobody watches over TCP without knowing it. Public cloud documentation names them.
const SENSITIVE: &[(IpNet, &str)] = &[
    // IPv4 link-local; most clouds have their metadata at 169.254.169.254.
    (v4(Ipv4Addr::new(169, 254, 0, 0), 16), "link_local"),
    (v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link_local"),
    // Amazon EC2 over IPv6.
    (v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128), "metadata"),
    // Google Compute Engine over IPv6.
    (v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128), "metadata"),
    // Alibaba Cloud.
    (v4(Ipv4Addr::new(100, 100, 100, 200), 32), "metadata"),
    // Oracle Cloud.
    (v4(Ipv4Addr::new(192, 0, 0, 192), 32), "metadata"),
    // Azure's platform services.
    (v4(Ipv4Addr::new(168, 63, 129, 16), 32), "metadata"),
];

/// The rule that denies the exporter's own listeners.
const OWN_LISTENER: &str = "own_listener";

/// Prefix by which IPv6-only networks reach IPv4 addresses (RFC 6052).
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

const fn v4(ip: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(ip, prefix))
}

const fn v6(ip: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(ip, prefix))
}

/// Why a target was refused: the rule's text, for the log and the counter, never for the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessDenied {
    /// The rule as configured, or the name of a built-in one.
    pub rule: Arc<str>,
}

/// Which hosts a rule is about.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Scope {
    Any,
    Network(IpNet),
    /// Pieces of the pattern between its asterisks, in lower case.
    Name(Vec<Box<str>>),
}

/// One rule: `10.0.0.0/8`, `192.0.2.1:22`, `*.example.com:8000-8010`, `[2001:db8::/32]:443`, `:22`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    text: Arc<str>,
    scope: Scope,
    /// First and last port.
    ports: (u16, u16),
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// One line saying what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        if text.is_empty() {
            return Err("the rule is empty: write a network, a name or `:port`".to_owned());
        }
        let (host, ports) = if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, after)) if after.starts_with(':') => (host, Some(&after[1..])),
                _ => return Err(format!("`{shown}` has `[` without `]`")),
            }
        } else {
            match text.split_once(':') {
                // More than one colon without brackets: an IPv6 network.
                Some((_, ports)) if ports.contains(':') => (text, None),
                Some((host, ports)) => (host, Some(ports)),
                None => (text, None),
            }
        };
        let ports = match ports {
            None | Some("*") => (0, u16::MAX),
            Some(ports) => port_range(ports).ok_or_else(|| {
                format!("`{shown}` has no ports after the colon: write `:22` or `:8000-8010`")
            })?,
        };
        Ok(Self { text: text.into(), scope: Scope::parse(host)?, ports })
    }

    /// The rule as configured.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    fn matches(&self, host: &Host, ip: IpAddr, port: u16) -> bool {
        self.may_match(host, port)
            && match &self.scope {
                Scope::Any | Scope::Name(_) => true,
                Scope::Network(network) => network.contains(&ip),
            }
    }

    /// Whether it matches for some address that the host could have.
    fn may_match(&self, host: &Host, port: u16) -> bool {
        let (first, last) = self.ports;
        (first..=last).contains(&port)
            && match (&self.scope, host) {
                (Scope::Any | Scope::Network(_), _) => true,
                (Scope::Name(pieces), host) => host
                    .literal()
                    .is_err_and(|name| matches_pieces(pieces, name.trim_end_matches('.'))),
            }
    }

    /// Whether it matches whatever address the host has.
    fn must_match(&self, host: &Host, port: u16) -> bool {
        !matches!(self.scope, Scope::Network(_)) && self.may_match(host, port)
    }

    fn is_everything(&self) -> bool {
        let all = match &self.scope {
            Scope::Any => true,
            Scope::Network(network) => network.prefix_len() == 0,
            Scope::Name(pieces) => pieces.iter().all(|it| it.is_empty()),
        };
        all && self.ports.0 <= 1 && self.ports.1 == u16::MAX
    }

    /// Whether this rule is about nothing but a part of `network`.
    fn names(&self, network: &IpNet) -> bool {
        match &self.scope {
            Scope::Network(own) => network.contains(own),
            Scope::Any | Scope::Name(_) => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Scope {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "*" {
            return Ok(Self::Any);
        }
        if let Some((address, prefix)) = text.split_once('/') {
            let network = match (address.parse::<IpAddr>(), prefix.parse::<u8>()) {
                (Ok(ip), Ok(prefix)) => IpNet::new(ip, prefix).ok(),
                _ => None,
            };
            let Some(network) = network else {
                let shown = text.escape_debug();
                return Err(format!("`{shown}` is no network: write `10.0.0.0/8`"));
            };
            if network.trunc() != network {
                let whole = network.trunc();
                return Err(format!("`{text}` has bits beyond its prefix: write `{whole}`"));
            }
            return Ok(Self::Network(unmapped(network)));
        }
        if text.bytes().all(|it| it.is_ascii_digit()) {
            return Err(format!("`{text}` looks like a port: write `:{text}`"));
        }
        if !text.contains('*') {
            return Ok(match Host::parse(text)?.literal() {
                Ok(ip) => Self::Network(unmapped(IpNet::from(ip))),
                Err(name) => Self::Name(vec![name.trim_end_matches('.').into()]),
            });
        }
        let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '*' | '-' | '_' | '.');
        if !text.chars().all(plain) {
            let shown = text.escape_debug();
            return Err(format!("`{shown}` is no pattern of names: write `*.example.com`"));
        }
        if text.bytes().all(|it| it.is_ascii_digit() || it == b'.' || it == b'*') {
            return Err(format!(
                "`{text}` looks like an address, but patterns are about names: write a network, \
                 `10.0.0.0/8`"
            ));
        }
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        Ok(Self::Name(text.split('*').map(Box::from).collect()))
    }
}

/// A network of IPv4 addresses mapped into IPv6 is one of IPv4.
fn unmapped(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && v6.prefix_len() >= 96
        && let Some(ip) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(ip, v6.prefix_len() - 96)
    {
        return IpNet::V4(v4);
    }
    network
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if digits { text.parse::<u16>().ok() } else { None }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

/// Whether a name consists of these pieces with anything between them.
fn matches_pieces(pieces: &[Box<str>], name: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| **only == *name);
    };
    let Some(mut rest) = name.strip_prefix(&**first) else { return false };
    for piece in middle {
        match rest.find(&**piece) {
            Some(found) => rest = &rest[found + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(&**last)
}

/// What may be probed and what not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// If not empty, one of these must match.
    pub allow: Vec<Rule>,
    /// None of these may match.
    pub deny: Vec<Rule>,
}

/// The access rules in force. The default denies link-local and metadata addresses only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {
    /// For every module.
    pub everyone: Rules,
    /// By module, on top.
    pub modules: BTreeMap<Arc<str>, Rules>,
    /// No rule at all, not even the built-in ones.
    unrestricted: bool,
}

impl Access {
    /// Rules as configured.
    #[must_use]
    pub const fn new(everyone: Rules, modules: BTreeMap<Arc<str>, Rules>) -> Self {
        Self { everyone, modules, unrestricted: false }
    }

    /// Allows everything: for monitors, whose targets the configuration names itself.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self { unrestricted: true, ..Self::default() }
    }

    /// Whether anybody who reaches `/probe` can reach any ordinary address by it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let allow = &self.everyone.allow;
        allow.is_empty() || allow.iter().any(Rule::is_everything)
    }

    /// Judges a target before its name is looked up: denied if no address could save it.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn judge_unresolved(
        &self,
        module: &str,
        host: &Host,
        port: u16,
    ) -> Result<(), AccessDenied> {
        if self.unrestricted {
            return Ok(());
        }
        for (module, rules) in self.lists(module) {
            if let Some(rule) = rules.deny.iter().find(|it| it.must_match(host, port)) {
                return Err(AccessDenied { rule: rule.text.clone() });
            }
            let hopeless = rules.allow.iter().all(|it| !it.may_match(host, port));
            if !rules.allow.is_empty() && hopeless {
                return Err(AccessDenied { rule: not_allowed(module) });
            }
        }
        Ok(())
    }

    /// Judges one of the exporter's own listeners: probing it is a way around passwords and
    /// firewalls, and a probe of `/probe` could go round in circles.
    ///
    /// # Errors
    /// Denied, unless an `allow` rule names the port.
    pub fn judge_own(
        &self,
        module: &str,
        host: &Host,
        address: SocketAddr,
    ) -> Result<(), AccessDenied> {
        let (ip, port) = (plain(address.ip()), address.port());
        let mut allow = self.lists(module).flat_map(|(_, it)| &it.allow);
        let named = allow.any(|it| it.ports == (port, port) && it.matches(host, ip, port));
        if self.unrestricted || named {
            return Ok(());
        }
        Err(AccessDenied { rule: Arc::from(OWN_LISTENER) })
    }

    /// Judges one resolved address of a target, for a module.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn judge(
        &self,
        module: &str,
        host: &Host,
        address: SocketAddr,
    ) -> Result<(), AccessDenied> {
        if self.unrestricted {
            return Ok(());
        }
        let port = address.port();
        let ip = plain(address.ip());
        // An address behind NAT64 is judged as both: what it is and where it leads.
        let behind = translated(ip);
        self.judge_ip(module, host, ip, port)?;
        behind.map_or(Ok(()), |ip| self.judge_behind(module, host, ip, port))
    }

    /// Every rule that can deny, for counters that start at 0.
    #[must_use]
    pub fn rules(&self) -> Vec<Arc<str>> {
        let mut rules: Vec<Arc<str>> = SENSITIVE.iter().map(|(_, name)| Arc::from(*name)).collect();
        rules.push(Arc::from(OWN_LISTENER));
        let sets = std::iter::once((None, &self.everyone))
            .chain(self.modules.iter().map(|(name, rules)| (Some(&**name), rules)));
        for (module, set) in sets {
            rules.extend(set.deny.iter().map(|it| it.text.clone()));
            if !set.allow.is_empty() {
                rules.push(not_allowed(module));
            }
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn judge_ip(
        &self,
        module: &str,
        host: &Host,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), AccessDenied> {
        self.judge_behind(module, host, ip, port)?;
        for (module, rules) in self.lists(module) {
            let allowed = rules.allow.iter().any(|it| it.matches(host, ip, port));
            if !rules.allow.is_empty() && !allowed {
                return Err(AccessDenied { rule: not_allowed(module) });
            }
        }
        Ok(())
    }

    /// The rules for everyone, and those of a module with its name.
    fn lists<'a>(&'a self, module: &'a str) -> impl Iterator<Item = (Option<&'a str>, &'a Rules)> {
        let own = self.modules.get(module).map(|it| (Some(module), it));
        std::iter::once((None, &self.everyone)).chain(own)
    }

    /// The rules that deny, without those that allow.
    fn judge_behind(
        &self,
        module: &str,
        host: &Host,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), AccessDenied> {
        let sets = || std::iter::once(&self.everyone).chain(self.modules.get(module));
        if let Some(rule) = sets().flat_map(|it| &it.deny).find(|it| it.matches(host, ip, port)) {
            return Err(AccessDenied { rule: rule.text.clone() });
        }
        let Some((network, name)) = SENSITIVE.iter().find(|(network, _)| network.contains(&ip))
        else {
            return Ok(());
        };
        let named = sets()
            .flat_map(|it| &it.allow)
            .any(|it| it.names(network) && it.matches(host, ip, port));
        if named { Ok(()) } else { Err(AccessDenied { rule: Arc::from(*name) }) }
    }
}

fn not_allowed(module: Option<&str>) -> Arc<str> {
    match module {
        None => Arc::from("not_allowed"),
        Some(module) => Arc::from(format!("not_allowed:{module}")),
    }
}

/// The address that a connection really goes to: mapped addresses are IPv4, and the kernel reads
/// the unspecified address as loopback.
fn plain(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

/// The IPv4 address that a NAT64 gateway makes of an address.
fn translated(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V6(ip) if NAT64.contains(&ip) => {
            let [.., a, b, c, d] = ip.octets();
            Some(plain(IpAddr::V4(Ipv4Addr::new(a, b, c, d))))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
