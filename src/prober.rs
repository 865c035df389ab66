//! Opens connections. The only module that touches the network outwards.
//!
//! A probe never fails: whatever happens is a [`ProbeResult`]. Callers decide what to make of it.
//!
//! ```text
//! resolve ─▶ access ─▶ connect ─▶ TLS ─▶ dialogue ─▶ hold ─▶ close
//! └──────────────── one deadline ───────────────────────┘   not waited for
//! ```
//!
//! What happened is [`Evidence`]; whose fault it was is for [`diagnosis`] to say.
//!
//! Nothing here remembers a target: what a [`Prober`] holds are caches of files and names.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::{Access, AccessDenied};
use crate::address::{Address, Host};
use crate::circumstances::Circumstances;
use crate::diagnosis::{self, Diagnosis};
use crate::evidence::{Event, Evidence, Sleep, Transfer};
use crate::machine::Machine;
use crate::module::{ExpectConnect, Module};
use crate::outcome::{Outcome, Phase, ProbeResult};
use crate::path::Path;
use crate::prober::accepted::{Accepted, Moment};
use crate::prober::connect::{Connected, ConnectedSocket, Failed};
use crate::prober::deadline::Deadline;
use crate::prober::dialogue::{Connection, Context};
use crate::prober::journal::{Journal, Level, one_line};
use crate::prober::linger::Linger;
use crate::prober::payload::Payloads;
use crate::prober::resolve::Resolvers;
use crate::prober::tls::TlsClient;

pub mod accepted;
mod connect;
mod deadline;
mod dialogue;
pub mod journal;
mod kernel;
mod linger;
mod payload;
mod resolve;
mod route;
mod stream;
mod tls;
mod trace;

/// What to probe and how.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The target.
    pub address: &'a Address,
    /// How.
    pub module: &'a Module,
    /// Name for SNI and verification where the module sets none (`hostname` of `/probe`).
    pub hostname: Option<&'a str>,
    /// One deadline over the whole probe.
    pub timeout: Duration,
    /// What may be probed, judged on every resolved address.
    pub access: &'a Access,
}

/// How a counter-check differs from the probe that it repeats.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Variation {
    /// The port to connect from, for ever the same way.
    pub source_port: Option<u16>,
    /// The largest segment, in both directions.
    pub segment_size: Option<u32>,
}

impl Variation {
    /// Not at all.
    pub const NONE: Self = Self { source_port: None, segment_size: None };
}

/// Carries out probes. One per process: it holds resolvers, trust anchors, TLS configurations.
#[derive(Debug, Default)]
pub struct Prober {
    resolvers: Resolvers,
    tls: TlsClient,
    payloads: Payloads,
    linger: Linger,
    accepted: Arc<Accepted>,
    machine: Machine,
}

/// Why a phase did not complete.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ProbeError {
    event: Event,
    errno: Option<i32>,
    /// One line of printable text.
    detail: String,
}

impl ProbeError {
    fn new(event: Event, detail: impl Into<String>) -> Self {
        Self { event, errno: None, detail: one_line(detail.into()) }
    }
}

/// How a probe ended, if not by doing all that it should.
#[derive(Debug)]
struct Ending {
    phase: Phase,
    error: ProbeError,
    transfer: Option<Transfer>,
    reset_is_ours: bool,
}

impl Ending {
    fn new(phase: Phase, error: ProbeError) -> Self {
        Self { phase, error, transfer: None, reset_is_ours: false }
    }
}

/// When a probe began.
#[derive(Clone, Copy, Debug)]
struct Begin {
    deadline: Deadline,
    /// All sleep of this process before.
    sleep: Sleep,
    /// `None` for an ordinary probe.
    counter_check: Option<Variation>,
}

impl Prober {
    /// One that knows what this process accepts, to deny that to probes on demand, and how many
    /// sockets it may keep beyond the end of their probes.
    #[must_use]
    pub fn new(accepted: Arc<Accepted>, lingering: usize) -> Self {
        Self { accepted, linger: Linger::with_limit(lingering), ..Self::default() }
    }

    /// Does for ever what probes need beside them, on the runtime that carries them out: measures
    /// whether it runs, and closes what ended probes left half-closed for their peers to close
    /// too.
    pub async fn run_beside(&self) {
        tokio::join!(self.machine.heartbeat.run(), self.linger.run());
    }

    /// Waits, a quarter of a second at most, until every connection is closed on both sides.
    pub async fn drain(&self) {
        self.linger.drain().await;
    }

    /// Whether a connection to `peer` would come back to this process.
    fn is_listener(&self, peer: SocketAddr) -> bool {
        let same_port = self.accepted.addresses().iter().filter(|own| own.port() == peer.port());
        same_port.map(|own| own.ip().to_canonical()).any(|own| {
            own == peer.ip()
                || ((own.is_unspecified() || peer.ip().is_unspecified())
                    && (peer.ip().is_unspecified() || route::stays_here(peer.ip())))
        })
    }

    /// Judges a resolved address.
    fn judge(&self, probe: &Probe<'_>, peer: SocketAddr) -> Result<(), AccessDenied> {
        let (module, host) = (&probe.module.name, &probe.address.host);
        probe.access.judge(module, host, peer, route::is_on_link)?;
        if self.is_listener(peer) { probe.access.judge_own(module, host, peer) } else { Ok(()) }
    }

    /// Judges a connection by where it really ended: at one of our own listeners, if the one that
    /// was accepted there has the same other end.
    async fn judge_connection(
        &self,
        probe: &Probe<'_>,
        socket: &ConnectedSocket,
        peer: SocketAddr,
        begun: Moment,
    ) -> Result<(), AccessDenied> {
        // A loopback address was judged by itself: here it would be mistaken for another client
        // of this machine that uses the same port.
        if probe.access.is_unrestricted() || peer.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let Ok(own) = socket.local_address() else { return Ok(()) };
        match self.accepted.find(own, begun).await {
            Some(listener) => {
                probe.access.judge_own(&probe.module.name, &probe.address.host, listener)
            }
            None => Ok(()),
        }
    }

    /// The machine that it runs on.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    fn begin(&self, timeout: Duration) -> Begin {
        let deadline = Deadline::begin(timeout);
        let sleep = self.machine.heartbeat.until(deadline.start);
        Begin { deadline, sleep, counter_check: None }
    }

    /// Judges what can be judged before anything is looked up: a zone's existence too must tell
    /// nothing to whoever may not probe there.
    fn judge_unresolved(&self, probe: &Probe<'_>) -> Result<(), AccessDenied> {
        let Address { host, port } = probe.address;
        probe.access.judge_unresolved(&probe.module.name, host, *port)?;
        match host {
            Host::Zoned(zoned) => self.judge(probe, SocketAddr::new(zoned.0.into(), *port)),
            _ => Ok(()),
        }
    }

    /// Probes the first address of the target.
    pub async fn probe(&self, probe: Probe<'_>, journal: &mut Journal) -> ProbeResult {
        let begin = self.begin(probe.timeout);
        let mut result = ProbeResult::new(Outcome::Success, probe.timeout);
        if let Err(denial) = self.judge_unresolved(&probe) {
            let ending = denied(&mut result, denial);
            self.conclude(begin, &probe, &mut result, &ending, journal);
            return result;
        }
        match self.first_address(&probe, begin.deadline, journal).await {
            Ok(peer) => {
                let literal = probe.address.host.ip().is_some();
                let took = if literal { Duration::ZERO } else { begin.deadline.start.elapsed() };
                result.phases.resolve = Some(took);
                self.run(peer, &probe, begin, &mut result, journal).await;
            }
            Err(error) => {
                let ending = Ending::new(Phase::Resolve, error);
                self.conclude(begin, &probe, &mut result, &ending, journal);
            }
        }
        result
    }

    /// Probes one address of the target, as if resolved.
    pub async fn probe_at(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        journal: &mut Journal,
    ) -> ProbeResult {
        let begin = self.begin(probe.timeout);
        let mut result = ProbeResult::new(Outcome::Success, probe.timeout);
        result.phases.resolve = Some(Duration::ZERO);
        self.run(peer, &probe, begin, &mut result, journal).await;
        result
    }

    /// Probes one address of the target once more, with something changed. What it finds says nothing
    /// of the sight of this machine: counter-checks ask again and again where others did.
    pub async fn counter_check(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        variation: Variation,
    ) -> ProbeResult {
        let begin = Begin { counter_check: Some(variation), ..self.begin(probe.timeout) };
        let mut result = ProbeResult::new(Outcome::Success, probe.timeout);
        result.phases.resolve = Some(Duration::ZERO);
        self.run(peer, &probe, begin, &mut result, &mut Journal::off()).await;
        result
    }

    /// A port of this machine that is free at this moment.
    ///
    /// # Errors
    /// The module's source address does not fit, or there is none.
    pub fn free_port(&self, peer: SocketAddr, module: &Module) -> Result<u16, String> {
        let source = source(module, peer).map_err(|error| error.detail)?;
        trace::free_port(peer, source).map(|own| own.port()).map_err(|err| err.to_string())
    }

    /// Follows the path to one address of the target, as if resolved.
    ///
    /// # Errors
    /// The access rules deny the address, or the module's source address does not fit.
    pub async fn trace(&self, peer: SocketAddr, probe: &Probe<'_>) -> Result<Path, String> {
        self.judge(probe, peer)
            .map_err(|denied| format!("denied by the access rule `{}`", denied.rule))?;
        let peer = resolve::scoped(peer, &probe.address.host).map_err(|error| error.detail)?;
        let source = source(probe.module, peer).map_err(|error| error.detail)?;
        Ok(trace::trace(peer, source).await)
    }

    /// Every address of a probe's host that its module may use, the preferred family first.
    ///
    /// # Errors
    /// The result of the probe that ends here.
    pub async fn addresses(&self, probe: &Probe<'_>) -> Result<Vec<IpAddr>, Box<ProbeResult>> {
        let begin = self.begin(probe.timeout);
        let all = self.resolvers.all(&probe.address.host, probe.module, begin.deadline);
        all.await.map_err(|error| {
            let mut result = Box::new(ProbeResult::new(Outcome::Success, probe.timeout));
            let ending = Ending::new(Phase::Resolve, error);
            self.conclude(begin, probe, &mut result, &ending, &mut Journal::off());
            result
        })
    }

    /// The address to probe.
    async fn first_address(
        &self,
        probe: &Probe<'_>,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> Result<SocketAddr, ProbeError> {
        if probe.timeout.is_zero() {
            return Err(ProbeError::new(Event::Silence, "the timeout is zero"));
        }
        let Address { host, port } = probe.address;
        let ip = match host.literal() {
            Ok(ip) => resolve::permitted(ip, probe.module)?,
            Err(name) => {
                journal.note(Level::Debug, || format!("resolving `{name}`"));
                let first = self.resolvers.first(name, probe.module, deadline);
                // Boxed: the futures of a lookup are large, and most probes wait in connect.
                let ip = Box::pin(first).await?;
                journal.note(Level::Debug, || {
                    format!("`{name}` is {ip}, after {:?}", deadline.start.elapsed())
                });
                ip
            }
        };
        Ok(SocketAddr::new(ip, *port))
    }

    /// Everything after the name is an address.
    async fn run(
        &self,
        peer: SocketAddr,
        probe: &Probe<'_>,
        begin: Begin,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) {
        let (connection, ending) = match resolve::scoped(peer, &probe.address.host) {
            Ok(peer) => self.reach(peer, probe, begin, result, journal).await,
            Err(error) => (None, Some(Ending::new(Phase::Resolve, error))),
        };
        if let Some(ending) = ending {
            self.conclude(begin, probe, result, &ending, journal);
        } else {
            let now = Instant::now();
            result.duration = now.saturating_duration_since(begin.deadline.start);
            result.slept = self.slept(begin, now).all;
        }
        // A good probe leaves nothing to read at the usual level.
        let level = if result.outcome.is_success() { Level::Debug } else { Level::Info };
        journal.note(level, || {
            let duration = result.duration;
            match result.outcome.cause() {
                None => format!("success after {duration:?}"),
                Some((reason, phase)) => {
                    format!("{}: {reason} in {phase} after {duration:?}", result.outcome.as_str())
                }
            }
        });
        if let Some(connection) = connection {
            connection.close(probe.module.close, &self.linger).await;
        }
    }

    /// Judges, connects and talks. Returns what is still open, and how it ended unless well.
    async fn reach(
        &self,
        peer: SocketAddr,
        probe: &Probe<'_>,
        started: Begin,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) -> (Option<Connection>, Option<Ending>) {
        let (module, deadline) = (probe.module, started.deadline);
        let variation = started.counter_check.unwrap_or_default();
        result.peer = Some(peer);
        if let Err(denial) = self.judge(probe, peer) {
            return (None, Some(denied(result, denial)));
        }
        let source = match source(module, peer) {
            Ok(source) => source,
            Err(error) => return (None, Some(Ending::new(Phase::Connect, error))),
        };
        journal.note(Level::Debug, || match source {
            Some(source) => format!("connecting to {peer} from {source}"),
            None => format!("connecting to {peer}"),
        });
        let accepted_before = self.accepted.now();
        let begun = Instant::now();
        let Connected { socket, kernel, reset } =
            match connect::connect(peer, source, variation, deadline).await {
                Ok(connected) => connected,
                Err(Failed { error, kernel, transfer }) => {
                    result.kernel = kernel;
                    let reset_is_ours = error.event == Event::Errno(libc::ECONNREFUSED)
                        && connect::is_reset_ours(peer, source, begun.elapsed());
                    let phase = Phase::Connect;
                    return (None, Some(Ending { phase, error, transfer, reset_is_ours }));
                }
            };
        result.phases.connect = Some(begun.elapsed());
        result.kernel = kernel;
        journal.note(Level::Debug, || {
            let took = begun.elapsed();
            match kernel.and_then(|kernel| kernel.rtt) {
                Some(rtt) => format!("connected after {took:?}, round trip {rtt:?}"),
                None => format!("connected after {took:?}"),
            }
        });
        if let Err(denial) = self.judge_connection(probe, &socket, peer, accepted_before).await {
            return (None, Some(denied(result, denial)));
        }
        let mut connection = Connection::new(socket, !probe.access.hides_banners);
        if module.expect_connect != ExpectConnect::Open {
            let expected = module.expect_connect.as_str();
            let detail = format!("the port is open, the module expects it {expected}");
            let error = ProbeError::new(Event::Connected, detail);
            return (Some(connection), Some(Ending::new(Phase::Connect, error)));
        }
        if module.is_connect_only() {
            return (Some(connection), None);
        }
        if reset {
            // Always told the same way, whichever comes first: the reset or our look at it.
            let phase = if module.tls { Phase::Tls } else { Phase::Dialogue };
            let detail = "the peer reset the connection right after the handshake";
            let error = ProbeError::new(Event::Errno(libc::ECONNRESET), detail);
            return (Some(connection), Some(Ending::new(phase, error)));
        }
        let context = Context { probe, tls: &self.tls, payloads: &self.payloads, deadline };
        // Boxed: see above.
        let talk = Box::pin(dialogue::talk(&mut connection, context, result, journal));
        let Err((mut error, phase)) = talk.await else { return (Some(connection), None) };
        if let Some(hint) = connection.hint() {
            error.detail = format!("{}; an ICMP error came meanwhile: {hint}", error.detail);
        }
        let transfer = connection.transfer();
        (Some(connection), Some(Ending { transfer, ..Ending::new(phase, error) }))
    }

    /// How long this process slept since a probe began.
    fn slept(&self, begin: Begin, now: Instant) -> Sleep {
        let until = self.machine.heartbeat.until(now);
        Sleep {
            long: until.long.saturating_sub(begin.sleep.long),
            all: until.all.saturating_sub(begin.sleep.all),
        }
    }

    /// Has an ending judged, and writes that into the result and the journal.
    fn conclude(
        &self,
        begin: Begin,
        probe: &Probe<'_>,
        result: &mut ProbeResult,
        ending: &Ending,
        journal: &mut Journal,
    ) {
        let now = Instant::now();
        let Ending { phase, error, transfer, reset_is_ours } = ending;
        result.duration = now.saturating_duration_since(begin.deadline.start);
        let sleep = self.slept(begin, now);
        let resolve = result.phases.resolve.unwrap_or_default();
        let seen = Evidence {
            phase: *phase,
            event: error.event,
            expect: probe.module.expect_connect,
            peer: result.peer.map(|peer| peer.ip()),
            connect: result.duration.saturating_sub(resolve),
            validity: result.tls.as_ref().and_then(|tls| tls.validity),
            transfer: *transfer,
            timeout: probe.timeout,
            resolve,
            sleep,
        };
        let ours = Circumstances {
            reset_is_ours: *reset_is_ours,
            ..self.machine.circumstances(&seen, result.peer)
        };
        let Diagnosis { outcome, rests_on_sight } = diagnosis::diagnose(&seen, &ours);
        if let Some(peer) = result.peer
            && rests_on_sight
            && begin.counter_check.is_none()
        {
            self.machine.silent(peer, now);
        }
        result.slept = sleep.all;
        result.outcome = outcome;
        result.rests_on_sight = rests_on_sight;
        result.errno = error.errno;
        if let Event::Icmp(icmp) = error.event {
            result.icmp = Some(icmp);
        }
        let detail = &error.detail;
        if outcome.is_success() {
            journal.note(Level::Debug, || format!("not open, as expected: {detail}"));
        } else {
            journal.note(Level::Warn, || format!("{phase}: {detail}"));
            result.detail = Some(journal::printable(detail).into());
        }
    }
}

/// The address to bind, if the module sets one.
fn source(module: &Module, peer: SocketAddr) -> Result<Option<IpAddr>, ProbeError> {
    let Some(text) = &module.source_address else { return Ok(None) };
    let source: IpAddr = text.parse().map_err(|_| {
        let text = text.escape_debug();
        ProbeError::new(
            Event::Misconfigured,
            format!("source_ip_address `{text}` is no IP address"),
        )
    })?;
    if source.is_ipv4() != peer.is_ipv4() {
        let detail = format!("source_ip_address {source} and {peer} differ in IP version");
        return Err(ProbeError::new(Event::Misconfigured, detail));
    }
    Ok(Some(source))
}

/// A denial.
fn denied(result: &mut ProbeResult, denial: AccessDenied) -> Ending {
    let detail = format!("denied by the access rule `{}`", denial.rule);
    result.denied_by = Some(denial.rule);
    Ending::new(Phase::Resolve, ProbeError::new(Event::Denied, detail))
}
