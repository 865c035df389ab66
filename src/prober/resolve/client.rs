//! Asks name servers for addresses, as `resolv.conf` (5) has it, and keeps the answers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use resolv_conf::ScopedIp;

use crate::evidence::{Event, Lookup};
use crate::limits::{NAME_ADDRESSES, NAME_ALIASES, NAME_ROUNDS, NAME_SERVERS};
use crate::module::Family;
use crate::prober::ProbeError;
use crate::prober::deadline::Deadline;
use crate::prober::resolve::cache::Cache;
use crate::prober::resolve::evidence::{Answer, Inquiry};
use crate::prober::resolve::server::{Question, Server, code_of};

/// How long the first round of questions may take before the second one; the next ones take twice
/// as long each.
const FIRST_ROUND: Duration = Duration::from_millis(500);

/// A list of name servers, and how names are completed.
#[derive(Debug)]
pub(super) struct Client {
    /// The owner of its entries in the cache.
    owner: u64,
    servers: Box<[Server]>,
    cache: Arc<Cache>,
    search: Vec<Name>,
    ndots: usize,
    /// How long an answer is waited for after the question was sent for the last time.
    timeout: Duration,
    /// How often each server is asked.
    rounds: usize,
    /// Whether the questions begin with each server in turn.
    rotate: bool,
    edns: bool,
    turn: AtomicUsize,
}

/// What a response says.
enum Reading {
    Answer(Answer, Duration),
    Alias(Name),
}

impl Client {
    /// These servers and nothing else.
    pub(super) fn of_servers(servers: &[SocketAddr], cache: &Arc<Cache>) -> Self {
        Self::new(servers, &resolv_conf::Config::new(), cache)
    }

    /// What a file like `/etc/resolv.conf` says; without name servers, that of this machine.
    pub(super) fn of_resolv_conf(text: &[u8], cache: &Arc<Cache>) -> Self {
        // Lines that nobody understands are ignored, as by the C library.
        let (config, _) = resolv_conf::Config::parse_with_errors(text);
        let servers: Vec<_> =
            config.get_nameservers_or_local().iter().map(socket_address).collect();
        let search = config.get_last_search_or_domain().filter(|domain| *domain != "--");
        let mut search: Vec<Name> =
            search.filter_map(|domain| Name::from_str_relaxed(domain).ok()).collect();
        if search.is_empty() {
            let domain = config.get_system_domain();
            search.extend(domain.and_then(|domain| Name::from_str_relaxed(domain).ok()));
        }
        Self { search, ..Self::new(&servers, &config, cache) }
    }

    fn new(servers: &[SocketAddr], config: &resolv_conf::Config, cache: &Arc<Cache>) -> Self {
        Self {
            owner: cache.new_owner(),
            servers: servers.iter().take(NAME_SERVERS).copied().map(Server::new).collect(),
            cache: Arc::clone(cache),
            search: Vec::new(),
            ndots: config.ndots as usize,
            timeout: Duration::from_secs(config.timeout.max(1).into()),
            rounds: (config.attempts as usize).saturating_add(1).clamp(2, NAME_ROUNDS),
            rotate: config.rotate,
            edns: config.edns0,
            turn: AtomicUsize::new(0),
        }
    }

    /// What a name may stand for.
    pub(super) fn completions(&self, name: &str) -> Result<Vec<Name>, ProbeError> {
        // `from_ascii`, since names of containers have underscores.
        let mut bare = Name::from_ascii(name).map_err(|err| {
            let detail = format!("`{name}` cannot be a name: {err}");
            ProbeError::new(Event::Lookup(Lookup::NoSuchName), detail)
        })?;
        if bare.is_fqdn() {
            return Ok(vec![bare]);
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let completed = self.search.iter().filter_map(|domain| {
            let mut full = bare.clone().append_domain(domain).ok()?;
            full.set_fqdn(true);
            Some(full)
        });
        let mut names: Vec<_> = completed.collect();
        bare.set_fqdn(true);
        names.insert(if dots >= self.ndots { 0 } else { names.len() }, bare);
        Ok(names)
    }

    /// The addresses of a name, from the cache or from a server.
    pub(super) async fn ask(&self, name: &Name, family: Family, deadline: Deadline) -> Inquiry {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let name = name.to_lowercase();
        let question = format!("{name} {kind}");
        let key = format!("{} {question}", self.owner);
        if let Some(answer) = self.cache.get(&key, Instant::now()) {
            return Inquiry { question, answer: Some(answer), ..Inquiry::default() };
        }
        let mut target = name;
        let mut ttl = Duration::MAX;
        for _ in 0..NAME_ALIASES {
            let inquiry = Inquiry { question: question.clone(), ..Inquiry::default() };
            let message = match self.ask_servers(&target, kind, deadline, inquiry).await {
                Ok(message) => message,
                Err(inquiry) => return inquiry,
            };
            match read(&message, &target, kind) {
                Reading::Answer(answer, records) => {
                    self.cache.insert(&key, &answer, ttl.min(records), Instant::now());
                    return Inquiry { question, answer: Some(answer), ..Inquiry::default() };
                }
                Reading::Alias(alias) => {
                    ttl = ttl.min(shortest_ttl(&message));
                    target = alias;
                }
            }
        }
        Inquiry { question, answer: Some(Answer::NoRecord), ..Inquiry::default() }
    }

    /// Whether a server answers anybody.
    pub(super) async fn has_living_server(&self, deadline: Deadline) -> bool {
        let now = Instant::now();
        let mut asking: FuturesUnordered<_> = self
            .servers
            .iter()
            .map(async |server: &Server| {
                server.control(now, deadline).await;
                server.has_answered_since(now)
            })
            .collect();
        while let Some(is_alive) = asking.next().await {
            if is_alive {
                return true;
            }
        }
        false
    }

    /// Asks one server after the other: the next one as soon as one fails, or has not answered
    /// within its part of a round. All go on listening.
    async fn ask_servers(
        &self,
        name: &Name,
        kind: RecordType,
        deadline: Deadline,
        mut inquiry: Inquiry,
    ) -> Result<Message, Inquiry> {
        let query = Query::query(name.clone(), kind);
        let rounds = self.rounds(deadline);
        let question = Question { query: &query, edns: self.edns, waits: &rounds, deadline };
        let order = self.order();
        let step = rounds.first().copied().unwrap_or_default()
            / u32::try_from(order.len()).unwrap_or(1).max(1);
        let mut waiting = order.into_iter();
        let mut asking = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            if (asking.is_empty() || next <= Instant::now())
                && let Some(server) = waiting.next()
            {
                asking.push(server.ask(question));
                next = Instant::now() + step;
            }
            if asking.is_empty() {
                return Err(inquiry);
            }
            tokio::select! {
                Some(result) = asking.next() => match result {
                    Ok(message) => return Ok(message),
                    Err(unanswered) => {
                        inquiry.stalled |= unanswered.stalled;
                        inquiry.servers.push(unanswered.asked);
                        next = Instant::now();
                    }
                },
                () = tokio::time::sleep_until(next.into()), if waiting.len() > 0 => (),
            }
        }
    }

    /// How long each round may take: half of the time at most goes before the last one.
    fn rounds(&self, deadline: Deadline) -> Vec<Duration> {
        let left = deadline.end.saturating_duration_since(Instant::now());
        let doublings = (1_u32 << (self.rounds - 1)) - 1;
        let first = self.timeout.min(FIRST_ROUND).min(left / 2 / doublings);
        let mut rounds: Vec<_> = (0..self.rounds - 1).map(|round| first * (1 << round)).collect();
        rounds.push(self.timeout);
        rounds
    }

    /// The servers that are well, then the others.
    fn order(&self) -> Vec<&Server> {
        let now = Instant::now();
        let mut order: Vec<_> = self.servers.iter().collect();
        if self.rotate && !order.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let length = order.len();
            order.rotate_left(turn % length);
        }
        order.sort_by_key(|server| server.is_unwell(now));
        order
    }
}

fn socket_address(ip: &ScopedIp) -> SocketAddr {
    const PORT: u16 = 53;
    let index = |zone: &String| {
        zone.parse().or_else(|_| nix::net::if_::if_nametoindex(&**zone)).unwrap_or(0)
    };
    match ip {
        ScopedIp::V6(ip, Some(zone)) => SocketAddrV6::new(*ip, PORT, 0, index(zone)).into(),
        ScopedIp::V6(ip, None) if *ip == Ipv6Addr::UNSPECIFIED => {
            (Ipv6Addr::LOCALHOST, PORT).into()
        }
        ip => (IpAddr::from(ip), PORT).into(),
    }
}

/// Reads a response to a question about a name.
fn read(message: &Message, name: &Name, kind: RecordType) -> Reading {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let of_kind = message.answers.iter().filter(|record| record.record_type() == kind);
    for record in of_kind {
        let ip = match &record.data {
            RData::A(ip) => IpAddr::V4(ip.0),
            RData::AAAA(ip) => IpAddr::V6(ip.0),
            _ => continue,
        };
        if addresses.len() < NAME_ADDRESSES && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    if !addresses.is_empty() {
        return Reading::Answer(Answer::Addresses(addresses.into()), shortest_ttl(message));
    }
    // The smaller of the record's own time and the one in it (RFC 2308, section 5).
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(Duration::from_secs(record.ttl.min(soa.minimum).into())),
        _ => None,
    });
    if code_of(message) != 0 {
        return Reading::Answer(Answer::NoName, negative.unwrap_or_default());
    }
    let mut end = name;
    for _ in 0..NAME_ALIASES {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *end => Some(&alias.0),
            _ => None,
        });
        match alias {
            Some(alias) => end = alias,
            None => break,
        }
    }
    if end != name && negative.is_none() {
        return Reading::Alias(end.to_lowercase());
    }
    Reading::Answer(Answer::NoRecord, negative.unwrap_or_default())
}

fn shortest_ttl(message: &Message) -> Duration {
    let ttls = message.answers.iter().map(|record| record.ttl);
    Duration::from_secs(ttls.min().unwrap_or(0).into())
}
