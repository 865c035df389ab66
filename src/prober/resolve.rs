//! Host to address: as the system would do it, but with the reason why not, and without a thread
//! per name.
//!
//! Literals skip everything. Names go through the hosts file, then DNS with the search list of
//! `resolv.conf`; both files are read again when they change. Answers are kept by their TTL.
//! Every lookup is a future of its own, so one silent name server delays only who asked it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::{Semaphore, oneshot};

use crate::address::Host;
use crate::evidence::{Event, Lookup};
use crate::module::{Family, Module, Resolver};
use crate::prober::ProbeError;
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::sockets::Sockets;
use crate::prober::stamp::Stamp;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the two files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the preferred family may take before the other one is asked too.
const HEAD_START: Duration = Duration::from_millis(50);
/// Names that are kept. More than a large fleet has, so that it is never asked twice per TTL.
const CACHE_SIZE: u64 = 131_072;
/// Longest that a missing name is believed to be missing: people create names and then look.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Most threads inside `getaddrinfo`, which cannot be interrupted.
const MAX_THREADS: usize = 64;

/// All ways to an address. Built when first used.
#[derive(Debug)]
pub(super) struct Resolvers {
    /// Guards the files and the resolver made from them; held only to look at them.
    system: Mutex<Option<Watched>>,
    /// Guards the resolvers of modules with name servers of their own.
    servers: Mutex<HashMap<Vec<SocketAddr>, Dns>>,
    threads: Arc<Semaphore>,
}

type DnsResolver = hickory_resolver::Resolver<Sockets>;

/// What the two files said, and when they were looked at.
#[derive(Debug)]
struct Watched {
    looked: Instant,
    hosts_stamp: Option<Stamp>,
    conf_stamp: Option<Stamp>,
    system: Arc<System>,
}

/// What the two files say.
#[derive(Debug)]
struct System {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    dns: Result<Dns, String>,
}

/// A resolver and how it completes names.
#[derive(Clone, Debug)]
struct Dns {
    resolver: DnsResolver,
    sockets: Sockets,
    search: Vec<Name>,
    ndots: usize,
}

impl Default for Resolvers {
    fn default() -> Self {
        Self {
            system: Mutex::default(),
            servers: Mutex::default(),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
        }
    }
}

/// The literal in its plain form, if the module may use it.
pub(super) fn permitted(ip: IpAddr, module: &Module) -> Result<IpAddr, ProbeError> {
    let ip = ip.to_canonical();
    let family = Family::of(ip);
    if family == module.preferred_family || module.family_fallback {
        return Ok(ip);
    }
    Err(no_address(&ip.to_string(), module))
}

/// The peer with the zone of its host, and an IPv4 address never dressed up as IPv6, so that
/// what is judged is what is probed.
pub(super) fn scoped(peer: SocketAddr, host: &Host) -> Result<SocketAddr, ProbeError> {
    let mut peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if let (SocketAddr::V6(peer), Host::Zoned(zoned)) = (&mut peer, host) {
        let zone = &zoned.1;
        let index =
            zone.parse().or_else(|_| nix::net::if_::if_nametoindex(&**zone)).map_err(|_| {
                ProbeError::new(
                    Event::CallFailed(libc::ENETUNREACH),
                    format!("no interface `{zone}`"),
                )
            })?;
        peer.set_scope_id(index);
    }
    Ok(peer)
}

impl Resolvers {
    /// The address to probe: the first of the preferred family, or of the other one.
    pub(super) async fn first(
        &self,
        name: &str,
        module: &Module,
        deadline: Deadline,
    ) -> Result<IpAddr, ProbeError> {
        let found = self.lookup(name, module, deadline, false).await?;
        found.first().copied().ok_or_else(|| no_address(name, module))
    }

    /// Every address that the module may use, the preferred family first.
    pub(super) async fn all(
        &self,
        host: &Host,
        module: &Module,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        match host.literal() {
            Ok(ip) => Ok(vec![permitted(ip, module)?]),
            Err(name) => self.lookup(name, module, deadline, true).await,
        }
    }

    async fn lookup(
        &self,
        name: &str,
        module: &Module,
        deadline: Deadline,
        all: bool,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        // Part of the time is kept for the connect: a name server that takes everything is told
        // as such.
        let whole = deadline.end.saturating_duration_since(deadline.start);
        let deadline = deadline.sooner(whole / 5 * 4);
        let found = match &module.resolver {
            Resolver::Builtin => {
                let system = self.system();
                let bare = name.strip_suffix('.').unwrap_or(name);
                let known = usable(system.hosts.get(bare).map_or(&[], Vec::as_slice), module);
                if !known.is_empty() {
                    return Ok(known);
                }
                if bare == "localhost" || bare.ends_with(".localhost") {
                    let own = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
                    return Ok(usable(&own, module));
                }
                let dns = system
                    .dns
                    .as_ref()
                    .map_err(|err| ProbeError::new(Event::Misconfigured, err.clone()))?;
                dns.lookup(name, module, deadline, all).await?
            }
            Resolver::Servers(servers) => {
                let dns = self.with_servers(servers)?;
                dns.lookup(name, module, deadline, all).await?
            }
            Resolver::System => usable(&self.getaddrinfo(name, deadline).await?, module),
        };
        if found.is_empty() {
            return Err(no_address(name, module));
        }
        Ok(found)
    }

    /// What the files say, read again if they changed.
    fn system(&self) -> Arc<System> {
        let mut watched = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(watched) = &*watched
            && now.saturating_duration_since(watched.looked) < LOOK_INTERVAL
        {
            return watched.system.clone();
        }
        let hosts_stamp = Stamp::of(Path::new(HOSTS));
        let conf_stamp = Stamp::of(Path::new(RESOLV_CONF));
        let old = watched.take();
        let same_hosts = old.as_ref().filter(|it| it.hosts_stamp == hosts_stamp);
        let same_conf = old.as_ref().filter(|it| it.conf_stamp == conf_stamp);
        let fresh = if let (Some(_), Some(same)) = (same_hosts, same_conf) {
            Watched { looked: now, hosts_stamp, conf_stamp, system: same.system.clone() }
        } else {
            let hosts = match same_hosts {
                Some(same) => Ok(same.system.hosts.clone()),
                None => read_hosts(Path::new(HOSTS)).map(Arc::new),
            };
            let dns = match same_conf {
                Some(same) => same.system.dns.clone(),
                None => read_resolv_conf(Path::new(RESOLV_CONF)),
            };
            // What could not be read, perhaps for want of a descriptor, stays as it was and is
            // read again at the next look.
            let before = old.as_ref().map(|it| &it.system);
            Watched {
                looked: now,
                hosts_stamp: hosts_stamp.filter(|_| hosts.is_ok()),
                conf_stamp: conf_stamp.filter(|_| dns.is_ok()),
                system: Arc::new(System {
                    hosts: hosts
                        .unwrap_or_else(|_| before.map(|it| it.hosts.clone()).unwrap_or_default()),
                    dns: dns.or_else(|err| before.map_or(Err(err), |it| it.dns.clone())),
                }),
            }
        };
        watched.insert(fresh).system.clone()
    }

    fn with_servers(&self, servers: &[SocketAddr]) -> Result<Dns, ProbeError> {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dns) = known.get(servers) {
            return Ok(dns.clone());
        }
        let name_servers = servers
            .iter()
            .map(|server| {
                let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections.into())
            })
            .collect();
        let config = ResolverConfig::from_name_servers(name_servers);
        let dns = Dns::build(config, ResolverOpts::default())
            .map_err(|err| ProbeError::new(Event::Misconfigured, err))?;
        known.insert(servers.to_vec(), dns.clone());
        Ok(dns)
    }

    /// The system's resolver on a thread of its own. It cannot be interrupted, so the thread
    /// keeps its permit until it comes back.
    async fn getaddrinfo(&self, name: &str, deadline: Deadline) -> Result<Vec<IpAddr>, ProbeError> {
        let busy = |_| {
            let detail = format!("{MAX_THREADS} lookups of the system's resolver are hanging");
            ProbeError::new(Event::Exhausted, detail)
        };
        let Ok(permit) = deadline.cap(self.threads.clone().acquire_owned()).await.map_err(busy)?
        else {
            return Err(ProbeError::new(Event::Exhausted, "the resolver was closed"));
        };
        let (answer, answered) = oneshot::channel();
        let owned = name.to_owned();
        std::thread::Builder::new()
            .name("getaddrinfo".to_owned())
            .spawn(move || {
                let found = std::net::ToSocketAddrs::to_socket_addrs(&(owned.as_str(), 0))
                    .map(|it| it.map(|it| it.ip()).collect());
                let _ = answer.send(found);
                drop(permit);
            })
            .map_err(|err| ProbeError {
                errno: err.raw_os_error(),
                ..ProbeError::new(Event::Exhausted, format!("no thread: {err}"))
            })?;
        match deadline.cap(answered).await {
            Ok(Ok(Ok(found))) => Ok(distinct(found)),
            Ok(Ok(Err(err))) => Err(from_getaddrinfo(name, &err)),
            Ok(Err(_)) => Err(ProbeError::new(Event::Exhausted, "the resolver's thread died")),
            Err(Elapsed { stalled }) => Err(too_late(name, stalled)),
        }
    }
}

impl Dns {
    fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, String> {
        let (domain, mut search, servers) = config.into_parts();
        if search.is_empty() {
            search.extend(domain);
        }
        let ndots = options.ndots;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = CACHE_SIZE;
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        let sockets = Sockets::default();
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder = DnsResolver::builder_with_config(config, sockets.clone());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|err| err.to_string())?;
        Ok(Self { resolver, sockets, search, ndots })
    }

    /// Tries the completions of a name in turn, until one has an address.
    async fn lookup(
        &self,
        name: &str,
        module: &Module,
        deadline: Deadline,
        all: bool,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        let mut worst: Option<ProbeError> = None;
        for full in self.completions(name)? {
            match self.by_families(&full, module, deadline, all).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    let is_last = matches!(
                        error.event,
                        Event::Lookup(Lookup::Unanswered) | Event::Overslept | Event::Exhausted
                    );
                    worst = Some(worse(worst, error));
                    if is_last {
                        break;
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| no_address(name, module)))
    }

    /// What a name may stand for, as `resolv.conf` (5) has it.
    fn completions(&self, name: &str) -> Result<Vec<Name>, ProbeError> {
        // `from_ascii`, since names of containers have underscores.
        let mut bare = Name::from_ascii(name).map_err(|err| {
            ProbeError::new(
                Event::Lookup(Lookup::NoSuchName),
                format!("`{name}` cannot be a name: {err}"),
            )
        })?;
        if bare.is_fqdn() {
            return Ok(vec![bare]);
        }
        let dots = name.bytes().filter(|it| *it == b'.').count();
        let mut names: Vec<_> =
            self.search.iter().filter_map(|it| bare.clone().append_domain(it).ok()).collect();
        for it in &mut names {
            it.set_fqdn(true);
        }
        bare.set_fqdn(true);
        names.insert(if dots >= self.ndots { 0 } else { names.len() }, bare);
        Ok(names)
    }

    /// Asks for the preferred family, and for the other one if it may be used and is needed.
    async fn by_families(
        &self,
        name: &Name,
        module: &Module,
        deadline: Deadline,
        all: bool,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        let mut preferred = pin!(self.ask(name, module.preferred_family, deadline));
        if !module.family_fallback {
            return preferred.await;
        }
        let head_start = if all { Duration::ZERO } else { HEAD_START };
        let mut ahead = deadline.sooner(head_start).cap(&mut preferred).await.ok();
        let mut other = pin!(self.ask(name, module.preferred_family.other(), deadline));
        let mut behind = None;
        loop {
            match (ahead.take(), behind.take()) {
                (Some(Ok(found)), _) if !all => return Ok(found),
                (Some(first), Some(second)) => return both(first, second),
                (first, second) => (ahead, behind) = (first, second),
            }
            // Both are polled again after the other one finished: cancel safe.
            tokio::select! {
                it = &mut preferred, if ahead.is_none() => ahead = Some(it),
                it = &mut other, if behind.is_none() => behind = Some(it),
            }
        }
    }

    /// One question.
    async fn ask(
        &self,
        name: &Name,
        family: Family,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let failures = self.sockets.failures();
        let result = deadline.cap(self.resolver.lookup(name.clone(), kind)).await;
        if let Some(errno) = self.sockets.failed_since(failures)
            && let Some(error) = own_trouble(errno, &result)
        {
            return Err(error);
        }
        let lookup = match result {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(NetError::Timeout)) => {
                return Err(too_late(&name.to_string(), deadline.is_stalled()));
            }
            Err(Elapsed { stalled }) => return Err(too_late(&name.to_string(), stalled)),
            Ok(Err(err)) => return Err(from_dns(name, kind, &err)),
        };
        let found: Vec<IpAddr> = lookup
            .answers()
            .iter()
            .filter_map(|it| match &it.data {
                RData::A(it) => Some(IpAddr::V4(it.0)),
                RData::AAAA(it) => Some(IpAddr::V6(it.0)),
                _ => None,
            })
            .collect();
        if found.is_empty() {
            let detail = format!("`{name}` has no {kind} record");
            return Err(ProbeError::new(Event::Lookup(Lookup::NoAddress), detail));
        }
        Ok(found)
    }
}

/// The answers of both families together; one suffices.
fn both(
    first: Result<Vec<IpAddr>, ProbeError>,
    second: Result<Vec<IpAddr>, ProbeError>,
) -> Result<Vec<IpAddr>, ProbeError> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.extend(second);
            Ok(first)
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(first), Err(second)) => Err(worse(Some(first), second)),
    }
}

/// Of two troubles the one that says more: our own first, since then nothing is known; then
/// silence and errors, since the name may yet exist; then a name without addresses.
fn worse(old: Option<ProbeError>, new: ProbeError) -> ProbeError {
    let weight = |it: &ProbeError| match it.event {
        Event::Lookup(Lookup::NoSuchName) => 0,
        Event::Lookup(Lookup::NoAddress) => 1,
        Event::Lookup(Lookup::Failed) => 2,
        Event::Lookup(Lookup::Unanswered) => 3,
        _ => 4,
    };
    match old {
        Some(old) if weight(&old) >= weight(&new) => old,
        _ => new,
    }
}

/// The addresses that a module may use, the preferred family first, otherwise as they came.
fn usable(found: &[IpAddr], module: &Module) -> Vec<IpAddr> {
    let of = |family| found.iter().copied().filter(move |it| Family::of(*it) == family);
    let preferred = of(module.preferred_family);
    if module.family_fallback {
        preferred.chain(of(module.preferred_family.other())).collect()
    } else {
        preferred.collect()
    }
}

/// Without repetitions: `getaddrinfo` gives an address per socket type.
fn distinct(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut distinct = Vec::with_capacity(found.len());
    for ip in found {
        if !distinct.contains(&ip) {
            distinct.push(ip);
        }
    }
    distinct
}

fn no_address(name: &str, module: &Module) -> ProbeError {
    let wanted = match (module.family_fallback, module.preferred_family) {
        (true, _) => "IP",
        (false, Family::V4) => "IPv4",
        (false, Family::V6) => "IPv6",
    };
    ProbeError::new(Event::Lookup(Lookup::NoAddress), format!("`{name}` has no {wanted} address"))
}

fn too_late(name: &str, stalled: bool) -> ProbeError {
    if stalled {
        return ProbeError::new(Event::Overslept, "this process slept past the deadline");
    }
    ProbeError::new(Event::Lookup(Lookup::Unanswered), format!("no answer about `{name}` in time"))
}

/// What a lookup that had an error of this machine on its way says against this machine, unless
/// it was answered all the same.
fn own_trouble<T, E>(errno: i32, result: &Result<Result<T, NetError>, E>) -> Option<ProbeError> {
    let event = match (errno, result) {
        (_, Ok(Ok(_) | Err(NetError::Dns(_)))) => return None,
        // One server of several may be out of reach; that the others are silent is their part.
        (libc::ENETUNREACH | libc::EHOSTUNREACH, Ok(Err(NetError::Timeout)) | Err(_)) => {
            return None;
        }
        (libc::ENETUNREACH | libc::EHOSTUNREACH, _) => Event::CallFailed(libc::ENETUNREACH),
        _ => Event::Exhausted,
    };
    let detail = format!("cannot ask a name server: {}", io::Error::from_raw_os_error(errno));
    Some(ProbeError { errno: Some(errno), ..ProbeError::new(event, detail) })
}

fn from_dns(name: &Name, kind: RecordType, err: &NetError) -> ProbeError {
    let about = |what: &str| format!("`{name}` {kind}: {what}");
    match err {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => {
                ProbeError::new(Event::Lookup(Lookup::NoSuchName), about("no such name"))
            }
            ResponseCode::NoError => {
                ProbeError::new(Event::Lookup(Lookup::NoAddress), about("no such record"))
            }
            code => ProbeError::new(Event::Lookup(Lookup::Failed), about(&code.to_string())),
        },
        NetError::Busy => ProbeError::new(Event::Exhausted, about("too many lookups at once")),
        // No question was even sent: what keeps a socket from being made is hidden behind this.
        NetError::NoConnections => {
            ProbeError::new(Event::Exhausted, about("no socket for a question"))
        }
        _ => ProbeError::new(Event::Lookup(Lookup::Failed), about(&err.to_string())),
    }
}

/// The standard library hands on only the text of `gai_strerror` (3); the first of each pair is
/// glibc's, the second musl's.
fn from_getaddrinfo(name: &str, err: &io::Error) -> ProbeError {
    let text = err.to_string();
    let says = |words: &[&str]| words.iter().any(|it| text.contains(it));
    let event = if err.raw_os_error().is_some() {
        Event::Exhausted
    } else if says(&["Name or service not known", "Name does not resolve"]) {
        Event::Lookup(Lookup::NoSuchName)
    } else if says(&["No address associated", "Name has no usable address"]) {
        Event::Lookup(Lookup::NoAddress)
    } else {
        Event::Lookup(Lookup::Failed)
    };
    ProbeError { errno: err.raw_os_error(), ..ProbeError::new(event, format!("`{name}`: {text}")) }
}

/// A resolver by a file like `/etc/resolv.conf`; without name servers, that of this machine.
fn read_resolv_conf(path: &Path) -> Result<Dns, String> {
    let mut text = content(path).map_err(|err| format!("{}: {err}", path.display()))?;
    let parsed = parse_resolv_conf(&text).or_else(|_| {
        text.extend_from_slice(b"\nnameserver 127.0.0.1\n");
        parse_resolv_conf(&text)
    });
    let (config, options) = parsed.map_err(|err| format!("{}: {err}", path.display()))?;
    Dns::build(config, options)
}

/// A file; one that does not exist is empty, one that cannot be read is unknown.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// A file like `/etc/hosts`, by name in lower case; without it, nothing.
fn read_hosts(path: &Path) -> io::Result<HashMap<String, Vec<IpAddr>>> {
    let text = content(path)?;
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let known = hosts.entry(name.to_ascii_lowercase()).or_default();
            if !known.contains(&ip) {
                known.push(ip);
            }
        }
    }
    Ok(hosts)
}
