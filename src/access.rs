//! Who may probe what. Pure: judges addresses that others resolved.
//!
//! A rule has up to three parts, all of which must match: a network or a pattern of names, and
//! ports. It is judged on the resolved address, so a name cannot be pointed elsewhere between
//! the question and the connection. In this order:
//!
//! 1. a `deny` rule, of everyone or of the module: denied;
//! 2. a link-local or cloud metadata address: denied, unless an `allow` rule names it by an
//!    address or a network within that range;
//! 3. `allow` rules exist and none matches, of everyone or of the module: denied. A rule with a
//!    pattern of names matches an inner address (private, loopback, of this machine and its
//!    networks) only if a rule with a network matches it too: who runs the zone of a name must
//!    not decide what is reached inside;
//! 4. allowed.
//!
//! The exporter's own listeners are denied too, unless an `allow` rule names their very port.
//!
//! An IPv6 address that carries an IPv4 address (NAT64, 6to4, Teredo, ...) is denied also by what
//! denies that one.
//!
//! A name that no address could save is denied before it is looked up: neither the answer nor the
//! time it takes tells whether it exists, and nobody makes the exporter ask for nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::Host;

/// Addresses that answer to whoever asks from this machine, with credentials or worse, and that
/// nobody watches over TCP without knowing it. The documentation of the clouds names them.
const SENSITIVE: &[(IpNet, &str)] = &[
    // IPv4 link-local; most clouds have their metadata at 169.254.169.254.
    (v4(Ipv4Addr::new(169, 254, 0, 0), 16), "link_local"),
    (v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link_local"),
    // Amazon EC2 over IPv6: metadata at ::254, name server at ::253, time at ::123, credentials
    // of EKS pods at ::23. The whole prefix is Amazon's own.
    (v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32), "metadata"),
    // Google Compute Engine over IPv6.
    (v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32), "metadata"),
    // Oracle Cloud over IPv6.
    (v6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0, 0), 32), "metadata"),
    // Scaleway over IPv6.
    (v6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128), "metadata"),
    // Alibaba Cloud.
    (v4(Ipv4Addr::new(100, 100, 100, 200), 32), "metadata"),
    // Oracle Cloud.
    (v4(Ipv4Addr::new(192, 0, 0, 192), 32), "metadata"),
    // Azure's platform services.
    (v4(Ipv4Addr::new(168, 63, 129, 16), 32), "metadata"),
];

/// Addresses that mean something inside only: what a name of a foreign zone must not lead to.
const INNER: &[IpNet] = &[
    // This host, loopback (RFC 1122).
    v4(Ipv4Addr::UNSPECIFIED, 8),
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    // Private (RFC 1918) and shared by carriers (RFC 6598).
    v4(Ipv4Addr::new(10, 0, 0, 0), 8),
    v4(Ipv4Addr::new(172, 16, 0, 0), 12),
    v4(Ipv4Addr::new(192, 168, 0, 0), 16),
    v4(Ipv4Addr::new(100, 64, 0, 0), 10),
    // Link-local, protocol assignments, benchmarks.
    v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    v4(Ipv4Addr::new(192, 0, 0, 0), 24),
    v4(Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast, reserved, broadcast.
    v4(Ipv4Addr::new(224, 0, 0, 0), 3),
    // Unspecified and loopback.
    v6(Ipv6Addr::UNSPECIFIED, 127),
    // Unique local, link-local, site-local, multicast.
    v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The rule that denies the exporter's own listeners.
const OWN_LISTENER: &str = "own_listener";
/// The rule that denies an inner address to a name that only a pattern of names allows.
const INNER_ADDRESS: &str = "inner_address";

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

    /// Whether it matches by a pattern of names, so that whoever runs the zone has the last word.
    const fn is_about_names(&self) -> bool {
        matches!(self.scope, Scope::Name(_))
    }

    /// The network it is about, if it is about one and matches the port.
    fn network_for(&self, port: u16) -> Option<IpNet> {
        match self.scope {
            Scope::Network(network) if self.has_port(port) => Some(network),
            Scope::Network(_) | Scope::Any | Scope::Name(_) => None,
        }
    }

    fn has_port(&self, port: u16) -> bool {
        let (first, last) = self.ports;
        (first..=last).contains(&port)
    }

    /// Whether it matches for some address that the host could have.
    fn may_match(&self, host: &Host, port: u16) -> bool {
        self.has_port(port)
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
            Scope::Name(pieces) => pieces.iter().all(|piece| piece.is_empty()),
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
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("`{text}` looks like a port: write `:{text}`"));
        }
        if !text.contains('*') {
            return Ok(match Host::parse(text)?.literal() {
                Ok(ip) => Self::Network(unmapped(IpNet::from(ip))),
                Err(name) => Self::Name(vec![name.trim_end_matches('.').into()]),
            });
        }
        let plain =
            |char: char| char.is_ascii_alphanumeric() || matches!(char, '*' | '-' | '_' | '.');
        if !text.chars().all(plain) {
            let shown = text.escape_debug();
            return Err(format!("`{shown}` is no pattern of names: write `*.example.com`"));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'*') {
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
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
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
    /// What peers say is kept from whoever asks for a probe: a module that expects a line would
    /// read the first line of any port to strangers.
    pub hides_banners: bool,
    /// No rule at all, not even the built-in ones.
    unrestricted: bool,
}

impl Access {
    /// Rules as configured.
    #[must_use]
    pub const fn new(everyone: Rules, modules: BTreeMap<Arc<str>, Rules>) -> Self {
        Self { everyone, modules, hides_banners: false, unrestricted: false }
    }

    /// Allows everything: for monitors, whose targets the configuration names itself.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self { unrestricted: true, ..Self::default() }
    }

    /// Whether everything is allowed.
    #[must_use]
    pub const fn is_unrestricted(&self) -> bool {
        self.unrestricted
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
        // What every list allows so far, as networks.
        let mut allowed = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        for (module, rules) in self.lists(module) {
            if let Some(rule) = rules.deny.iter().find(|rule| rule.must_match(host, port)) {
                return Err(AccessDenied { rule: rule.text.clone() });
            }
            if rules.allow.is_empty() || rules.allow.iter().any(|rule| rule.must_match(host, port))
            {
                continue;
            }
            let networks: Vec<_> =
                rules.allow.iter().filter_map(|rule| rule.network_for(port)).collect();
            allowed = common(&allowed, &networks);
            if allowed.is_empty() {
                return Err(AccessDenied { rule: not_allowed(module) });
            }
        }
        let denying = || {
            let rules = self.lists(module).flat_map(|(_, rules)| &rules.deny);
            rules.filter_map(|rule| Some((rule, rule.network_for(port)?)))
        };
        let denied = IpNet::aggregate(&denying().map(|(_, network)| network).collect());
        let is_denied = |network: &IpNet| denied.iter().any(|denied| denied.contains(network));
        match denying().next() {
            Some((rule, _)) if allowed.iter().all(is_denied) => {
                Err(AccessDenied { rule: rule.text.clone() })
            }
            _ => Ok(()),
        }
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
        let mut allow = self.lists(module).flat_map(|(_, rules)| &rules.allow);
        let named = allow.any(|rule| rule.ports == (port, port) && rule.matches(host, ip, port));
        if self.unrestricted || named {
            return Ok(());
        }
        Err(AccessDenied { rule: Arc::from(OWN_LISTENER) })
    }

    /// Judges one resolved address of a target, for a module. `is_own` tells whether an address
    /// belongs to this machine or to a network it is connected to; it is asked only where that
    /// decides.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn judge(
        &self,
        module: &str,
        host: &Host,
        address: SocketAddr,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Result<(), AccessDenied> {
        if self.unrestricted {
            return Ok(());
        }
        let port = address.port();
        let ip = plain(address.ip());
        // An address that carries another is judged as both: what it is and where it leads.
        let carried = carried(ip);
        for ip in std::iter::once(ip).chain(carried.iter().copied()) {
            self.judge_denials(module, host, ip, port)?;
        }
        // Asked at most once, and only by a rule that needs to know.
        let inner = std::cell::LazyCell::new(|| {
            is_inner(ip) || carried.iter().any(|ip| is_inner(*ip)) || is_own(ip)
        });
        let mut all = self.lists(module).flat_map(|(_, rules)| &rules.allow);
        let by_network =
            all.any(|rule| matches!(rule.scope, Scope::Network(_)) && rule.matches(host, ip, port));
        for (module, rules) in self.lists(module) {
            if rules.allow.is_empty() {
                continue;
            }
            let mut matching = rules.allow.iter().filter(|rule| rule.matches(host, ip, port));
            let Some(first) = matching.next() else {
                return Err(AccessDenied { rule: not_allowed(module) });
            };
            let only_names = first.is_about_names() && matching.all(Rule::is_about_names);
            if only_names && !by_network && *inner {
                return Err(AccessDenied { rule: Arc::from(INNER_ADDRESS) });
            }
        }
        Ok(())
    }

    /// Every rule that can deny, for counters that start at 0.
    #[must_use]
    pub fn rules(&self) -> Vec<Arc<str>> {
        let mut rules: Vec<Arc<str>> = SENSITIVE.iter().map(|(_, name)| Arc::from(*name)).collect();
        rules.push(Arc::from(OWN_LISTENER));
        let sets = std::iter::once((None, &self.everyone))
            .chain(self.modules.iter().map(|(name, rules)| (Some(&**name), rules)));
        for (module, set) in sets {
            rules.extend(set.deny.iter().map(|rule| rule.text.clone()));
            if !set.allow.is_empty() {
                rules.push(not_allowed(module));
            }
            if set.allow.iter().any(Rule::is_about_names) {
                rules.push(Arc::from(INNER_ADDRESS));
            }
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// The rules for everyone, and those of a module with its name.
    fn lists<'a>(&'a self, module: &'a str) -> impl Iterator<Item = (Option<&'a str>, &'a Rules)> {
        let own = self.modules.get(module).map(|rules| (Some(module), rules));
        std::iter::once((None, &self.everyone)).chain(own)
    }

    /// The rules that deny, without those that allow.
    fn judge_denials(
        &self,
        module: &str,
        host: &Host,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), AccessDenied> {
        let sets = || self.lists(module).map(|(_, rules)| rules);
        let mut deny = sets().flat_map(|rules| &rules.deny);
        if let Some(rule) = deny.find(|rule| rule.matches(host, ip, port)) {
            return Err(AccessDenied { rule: rule.text.clone() });
        }
        let Some((network, name)) = SENSITIVE.iter().find(|(network, _)| network.contains(&ip))
        else {
            return Ok(());
        };
        let mut allow = sets().flat_map(|rules| &rules.allow);
        if allow.any(|rule| rule.names(network) && rule.matches(host, ip, port)) {
            return Ok(());
        }
        Err(AccessDenied { rule: Arc::from(*name) })
    }
}

fn not_allowed(module: Option<&str>) -> Arc<str> {
    match module {
        None => Arc::from("not_allowed"),
        Some(module) => Arc::from(format!("not_allowed:{module}")),
    }
}

/// What two lists of networks have in common. Two networks are apart, or one holds the other.
fn common(first: &[IpNet], second: &[IpNet]) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for one in first {
        for other in second {
            if one.contains(other) {
                networks.push(*other);
            } else if other.contains(one) {
                networks.push(*one);
            }
        }
    }
    networks
}

fn is_inner(ip: IpAddr) -> bool {
    INNER.iter().any(|network| network.contains(&ip))
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

/// The IPv4 addresses to which a gateway, a relay or a tunnel may take an address.
fn carried(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(ip) = ip else { return Vec::new() };
    let bytes = ip.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = at([12, 13, 14, 15]);
    let found = match ip.segments() {
        // Unspecified and loopback carry nothing.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // NAT64 (RFC 6052), IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), ISATAP
        // (RFC 5214).
        [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [0, 0, 0, 0, 0 | 0xffff, 0, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![last],
        // NAT64 with a prefix of one's own (RFC 8215). Its length, 48, 56, 64 or 96, is known to
        // the gateway alone, so every reading counts (RFC 6052, section 2.2) unless it is zero.
        [0x64, 0xff9b, 1, ..] => {
            let readings = [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last];
            readings.into_iter().filter(|ip| !ip.is_unspecified()).collect()
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo (RFC 4380): the server, and the client with its bits turned over.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last))],
        _ => Vec::new(),
    };
    found.into_iter().map(|ip| plain(IpAddr::V4(ip))).collect()
}

#[cfg(test)]
mod tests;
