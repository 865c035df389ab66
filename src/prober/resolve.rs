//! Host to address: as the system would do it, but with the reason why not, and without a thread
//! per name.
//!
//! Literals skip everything. Names go through the hosts file, then DNS with the search list of
//! `resolv.conf`; both files are followed as they change. Answers are kept by their TTL. Every
//! lookup is a future of its own, so one silent name server delays only who asked it.
//!
//! What each name server did is evidence: a server that answers nobody is a fault of this
//! machine's resolver, and never of the name that was asked for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use tokio::sync::{Semaphore, oneshot};

use crate::address::Host;
use crate::evidence::{Event, Lookup};
use crate::files::{LoadThreads, Sources, Watched};
use crate::limits::{HOSTS_BYTES, RESOLV_CONF_BYTES, SYSTEM_LOOKUPS};
use crate::module::{Family, Module, Resolver};
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::resolve::cache::Cache;
use crate::prober::resolve::client::Client;
use crate::prober::resolve::evidence::{Answer, Inquiry};
use crate::prober::{ProbeError, route};

mod cache;
mod client;
mod evidence;
mod server;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long the preferred family may take before the other one is asked too.
const HEAD_START: Duration = Duration::from_millis(50);
/// The part of a probe's time that the preferred family may take once the other one has answered.
const PATIENCE: u32 = 5;

/// All ways to an address. Built when first used.
#[derive(Debug)]
pub(super) struct Resolvers {
    system: Watched<System>,
    /// Guards the clients of modules with name servers of their own.
    servers: Mutex<HashMap<Vec<SocketAddr>, Arc<Client>>>,
    cache: Arc<Cache>,
    threads: Arc<Semaphore>,
}

/// What the two files say.
#[derive(Debug)]
struct System {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    conf: Vec<u8>,
    client: Arc<Client>,
}

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wanted {
    /// One to connect to.
    First,
    All,
}

impl Default for Resolvers {
    fn default() -> Self {
        let cache = Arc::new(Cache::default());
        let shared = Arc::clone(&cache);
        let system = Watched::new("hosts and name servers", &LoadThreads::default(), {
            move |sources, before| System::load(sources, before, &shared)
        });
        Self {
            system,
            servers: Mutex::default(),
            cache,
            threads: Arc::new(Semaphore::new(SYSTEM_LOOKUPS)),
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
        let index = zone.parse().or_else(|_| nix::net::if_::if_nametoindex(&**zone));
        let index = index.map_err(|_| {
            let detail = format!("no interface `{zone}`");
            ProbeError::new(Event::CallFailed(libc::ENETUNREACH), detail)
        })?;
        peer.set_scope_id(index);
    }
    Ok(peer)
}

impl Resolvers {
    /// The address to probe: the first of the preferred family that this machine has a route to,
    /// or of the other one.
    pub(super) async fn first(
        &self,
        name: &str,
        module: &Module,
        deadline: Deadline,
    ) -> Result<IpAddr, ProbeError> {
        let found = self.lookup(name, module, deadline, Wanted::First).await?;
        // The only one needs no choice, and if there is no route at all, connect will say so.
        let reached = (found.len() > 1)
            .then(|| found.iter().copied().find(|ip| route::is_routable(*ip)))
            .flatten();
        reached.or(found.first().copied()).ok_or_else(|| no_address(name, module))
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
            Err(name) => self.lookup(name, module, deadline, Wanted::All).await,
        }
    }

    async fn lookup(
        &self,
        name: &str,
        module: &Module,
        deadline: Deadline,
        wanted: Wanted,
    ) -> Result<Vec<IpAddr>, ProbeError> {
        // Part of the time is kept for the connect.
        let whole = deadline.end.saturating_duration_since(deadline.start);
        let deadline = deadline.sooner(whole / 5 * 4);
        let found = match &module.resolver {
            Resolver::Builtin => {
                let system = self.system().await?;
                let bare = name.strip_suffix('.').unwrap_or(name);
                let known = usable(system.hosts.get(bare).map_or(&[], Vec::as_slice), module);
                if !known.is_empty() {
                    return Ok(known);
                }
                if bare == "localhost" || bare.ends_with(".localhost") {
                    let own = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
                    return Ok(usable(&own, module));
                }
                by_dns(&system.client, name, module, deadline, wanted).await?
            }
            Resolver::Servers(servers) => {
                by_dns(&self.with_servers(servers), name, module, deadline, wanted).await?
            }
            Resolver::System => usable(&self.getaddrinfo(name, deadline).await?, module),
        };
        if found.is_empty() {
            return Err(no_address(name, module));
        }
        Ok(found)
    }

    /// What the files say.
    async fn system(&self) -> Result<Arc<System>, ProbeError> {
        self.system.get().await.map_err(|err| ProbeError::new(Event::Misconfigured, &*err))
    }

    fn with_servers(&self, servers: &[SocketAddr]) -> Arc<Client> {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(servers) {
            return Arc::clone(client);
        }
        let client = Arc::new(Client::of_servers(servers, &self.cache));
        known.insert(servers.to_vec(), Arc::clone(&client));
        client
    }

    /// The system's resolver on a thread of its own. It cannot be interrupted, so the thread
    /// keeps its permit until it comes back.
    async fn getaddrinfo(&self, name: &str, deadline: Deadline) -> Result<Vec<IpAddr>, ProbeError> {
        let busy = |_| {
            let detail = format!("{SYSTEM_LOOKUPS} lookups of the system's resolver are hanging");
            ProbeError::new(Event::Exhausted, detail)
        };
        let Ok(permit) = deadline.cap(self.threads.clone().acquire_owned()).await.map_err(busy)?
        else {
            return Err(ProbeError::new(Event::Exhausted, "the resolver was closed"));
        };
        let (answer, mut answered) = oneshot::channel();
        let owned = name.to_owned();
        std::thread::Builder::new()
            .name("getaddrinfo".to_owned())
            .spawn(move || {
                let found = std::net::ToSocketAddrs::to_socket_addrs(&(owned.as_str(), 0))
                    .map(|addresses| addresses.map(|address| address.ip()).collect());
                let _ = answer.send(found);
                drop(permit);
            })
            .map_err(|err| ProbeError {
                errno: err.raw_os_error(),
                ..ProbeError::new(Event::Exhausted, format!("no thread: {err}"))
            })?;
        // It does not say who was silent, so the name servers of `resolv.conf` are asked whether
        // they answer anybody: when it has said so, or in time to know at the end.
        let left = deadline.end.saturating_duration_since(Instant::now());
        let mut is_resolver_alive = None;
        let mut found = deadline.sooner(left / 2).cap(&mut answered).await;
        if found.is_err() {
            let (late, is_alive) =
                tokio::join!(deadline.cap(&mut answered), self.is_resolver_alive(deadline));
            (found, is_resolver_alive) = (late, Some(is_alive));
        }
        let (how, detail) = match found {
            Ok(Ok(Ok(found))) => return Ok(distinct(found)),
            Ok(Ok(Err(err))) => match err.raw_os_error() {
                Some(_) => return Err(from_system(name, &err)),
                None => (how_of(&err.to_string()), format!("`{name}`: {err}")),
            },
            Ok(Err(_)) => {
                return Err(ProbeError::new(Event::Exhausted, "the resolver's thread died"));
            }
            Err(Elapsed { stalled: true }) => {
                let detail = "this process slept past the deadline";
                return Err(ProbeError::new(Event::Overslept, detail));
            }
            Err(Elapsed { stalled: false }) => {
                (Lookup::Unanswered, format!("no answer about `{name}` in time"))
            }
        };
        let is_about_servers = matches!(how, Lookup::Unanswered | Lookup::Failed);
        if is_about_servers && is_resolver_alive.is_none() {
            is_resolver_alive = Some(self.is_resolver_alive(deadline).await);
        }
        if is_resolver_alive == Some(false) && is_about_servers {
            let detail = format!("{detail}, and no name server of {RESOLV_CONF} answers anything");
            return Err(ProbeError::new(Event::Lookup(Lookup::NoResolver), detail));
        }
        Err(ProbeError::new(Event::Lookup(how), detail))
    }

    /// Whether a name server of `resolv.conf` answers at all.
    async fn is_resolver_alive(&self, deadline: Deadline) -> bool {
        match self.system().await {
            Ok(system) => system.client.has_living_server(deadline).await,
            Err(_) => false,
        }
    }
}

impl System {
    /// Reads both files. One that does not exist is empty; hosts that cannot be read stay as they
    /// were.
    fn load(
        sources: &mut Sources,
        before: Option<&Self>,
        cache: &Arc<Cache>,
    ) -> Result<Self, String> {
        let hosts = match content(sources, HOSTS, HOSTS_BYTES) {
            Ok(text) => Arc::new(parse_hosts(&text)),
            Err(_) => before.map(|before| Arc::clone(&before.hosts)).unwrap_or_default(),
        };
        let conf = content(sources, RESOLV_CONF, RESOLV_CONF_BYTES)
            .map_err(|err| format!("{RESOLV_CONF}: {err}"))?;
        // What is known of the servers and of names outlives a change of the other file.
        let client = match before.filter(|before| before.conf == conf) {
            Some(before) => Arc::clone(&before.client),
            None => Arc::new(Client::of_resolv_conf(&conf, cache)),
        };
        Ok(Self { hosts, conf, client })
    }
}

/// Tries the completions of a name in turn, until one has an address.
async fn by_dns(
    client: &Client,
    name: &str,
    module: &Module,
    deadline: Deadline,
    wanted: Wanted,
) -> Result<Vec<IpAddr>, ProbeError> {
    let mut worst: Option<Inquiry> = None;
    for full in client.completions(name)? {
        match by_families(client, &full, module, deadline, wanted).await {
            Ok(found) => return Ok(found),
            Err(inquiry) => {
                // Where nobody answers, other forms of the name get no answer either.
                let is_last =
                    inquiry.answer.is_none() && inquiry.event() != Event::Lookup(Lookup::Failed);
                worst = Some(worse(worst, inquiry));
                if is_last {
                    break;
                }
            }
        }
    }
    Err(worst.as_ref().map_or_else(|| no_address(name, module), error_of))
}

/// Asks for the preferred family, and for the other one if it may be used and is needed.
async fn by_families(
    client: &Client,
    name: &Name,
    module: &Module,
    deadline: Deadline,
    wanted: Wanted,
) -> Result<Vec<IpAddr>, Inquiry> {
    let mut preferred = pin!(client.ask(name, module.preferred_family, deadline));
    if !module.family_fallback {
        return addresses(preferred.await);
    }
    let head_start = if wanted == Wanted::All { Duration::ZERO } else { HEAD_START };
    let ahead = deadline.sooner(head_start).cap(&mut preferred).await.ok();
    let mut ahead = ahead.map(addresses);
    if let Some(Ok(found)) = &ahead
        && wanted == Wanted::First
        && found.iter().any(|ip| route::is_routable(*ip))
    {
        return Ok(found.clone());
    }
    let mut other = pin!(client.ask(name, module.preferred_family.other(), deadline));
    let mut behind = None;
    // The preferred one is waited for in vain only for a part of the time that connect needs too.
    let whole = deadline.end.saturating_duration_since(deadline.start);
    let mut patience = deadline;
    loop {
        match (&ahead, &behind) {
            (Some(Ok(found)), _)
                if wanted == Wanted::First && found.iter().any(|ip| route::is_routable(*ip)) =>
            {
                return Ok(found.clone());
            }
            (Some(_), Some(_)) => break,
            _ => (),
        }
        // Both are polled again after the other one finished: cancel safe.
        tokio::select! {
            asked = &mut preferred, if ahead.is_none() => ahead = Some(addresses(asked)),
            asked = &mut other, if behind.is_none() => {
                behind = Some(addresses(asked));
                patience = deadline.sooner(whole / PATIENCE);
            }
            () = tokio::time::sleep_until(patience.end.into()),
                if ahead.is_none() && matches!(behind, Some(Ok(_))) => break,
        }
    }
    match (ahead, behind) {
        (Some(Ok(first)), Some(Ok(second))) => Ok(first.into_iter().chain(second).collect()),
        (Some(Ok(found)), _) | (_, Some(Ok(found))) => Ok(found),
        (Some(Err(first)), Some(Err(second))) => Err(worse(Some(first), second)),
        (Some(Err(inquiry)), None) | (None, Some(Err(inquiry))) => Err(inquiry),
        (None, None) => Err(Inquiry::default()),
    }
}

fn addresses(inquiry: Inquiry) -> Result<Vec<IpAddr>, Inquiry> {
    match inquiry.answer {
        Some(Answer::Addresses(found)) => Ok(found.into_vec()),
        Some(Answer::NoName | Answer::NoRecord) | None => Err(inquiry),
    }
}

fn error_of(inquiry: &Inquiry) -> ProbeError {
    ProbeError { errno: inquiry.errno(), ..ProbeError::new(inquiry.event(), inquiry.detail()) }
}

/// Of two the one that says more: where this machine could not see, since then nothing is known;
/// then silence and errors, since the name may yet exist; then a name without addresses.
fn worse(old: Option<Inquiry>, new: Inquiry) -> Inquiry {
    let weight = |inquiry: &Inquiry| match inquiry.event() {
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
    let of = |family| found.iter().copied().filter(move |ip| Family::of(*ip) == family);
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

/// The standard library hands on only the text of `gai_strerror` (3); the first of each pair is
/// glibc's, the second musl's.
fn how_of(text: &str) -> Lookup {
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["Name or service not known", "Name does not resolve"]) {
        Lookup::NoSuchName
    } else if says(&["No address associated", "Name has no usable address"]) {
        Lookup::NoAddress
    } else {
        Lookup::Failed
    }
}

fn from_system(name: &str, err: &io::Error) -> ProbeError {
    let detail = format!("`{name}`: {err}");
    ProbeError { errno: err.raw_os_error(), ..ProbeError::new(Event::Exhausted, detail) }
}

/// A file; one that does not exist is empty.
fn content(sources: &mut Sources, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    match sources.read(Path::new(path), limit) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// A file like `/etc/hosts`, by name in lower case.
fn parse_hosts(text: &[u8]) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in String::from_utf8_lossy(text).lines() {
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
    hosts
}
