//! Opens connections. The only module that touches the network outwards.
//!
//! A probe never fails: whatever happens is a [`ProbeResult`]. Callers decide what to make of it.
//!
//! ```text
//! resolve ─▶ access ─▶ connect ─▶ TLS ─▶ dialogue ─▶ hold ─▶ close
//! └──────────────── one deadline ───────────────────────┘   not waited for
//! ```
//!
//! Nothing here remembers a target: what a [`Prober`] holds are caches of files and names.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::access::{Access, AccessDenied};
use crate::address::{Address, Host};
use crate::module::{ExpectConnect, Module};
use crate::outcome::{Outcome, Phase, ProbeResult, Reason};
use crate::prober::connect::Connection;
use crate::prober::deadline::Deadline;
use crate::prober::dialogue::{Context, Wire};
use crate::prober::journal::{Journal, Level};
use crate::prober::linger::Linger;
use crate::prober::resolve::Resolvers;
use crate::prober::tls::TlsClient;

mod connect;
mod deadline;
mod dialogue;
pub mod journal;
mod kernel;
mod linger;
mod resolve;
mod route;
mod sockets;
mod stamp;
mod tls;

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

/// Carries out probes. One per process: it holds resolvers, trust anchors, TLS configurations.
#[derive(Debug, Default)]
pub struct Prober {
    resolvers: Resolvers,
    tls: TlsClient,
    linger: Linger,
    listeners: Box<[SocketAddr]>,
}

/// Why a phase did not complete.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ProbeError {
    reason: Reason,
    errno: Option<i32>,
    /// One line of printable text.
    detail: String,
}

impl ProbeError {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, errno: None, detail: detail.into() }
    }
}

impl Prober {
    /// One that knows where this process listens, to deny that to probes on demand, and how many
    /// sockets it may keep beyond the end of their probes.
    #[must_use]
    pub fn new(listeners: Box<[SocketAddr]>, lingering: usize) -> Self {
        Self { listeners, linger: Linger::with_limit(lingering), ..Self::default() }
    }

    /// Closes in the background, for ever, what ended probes left half-closed for their peers to
    /// close too. Where nobody calls this, the next probes do it.
    pub async fn run_linger(&self) {
        self.linger.run().await;
    }

    /// Waits, a quarter of a second at most, until every connection is closed on both sides.
    pub async fn drain(&self) {
        self.linger.drain().await;
    }

    /// Whether a connection to `peer` would come back to this process.
    fn is_listener(&self, peer: SocketAddr) -> bool {
        let same_port = self.listeners.iter().filter(|it| it.port() == peer.port());
        same_port.map(|it| it.ip().to_canonical()).any(|own| {
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

    /// Probes the first address of the target.
    pub async fn probe(&self, probe: Probe<'_>, journal: &mut Journal) -> ProbeResult {
        let deadline = Deadline::begin(probe.timeout);
        let mut result = ProbeResult::new(Outcome::Success, probe.timeout);
        let Address { host, port } = probe.address;
        if let Err(denial) = probe.access.judge_unresolved(&probe.module.name, host, *port) {
            deny(&mut result, denial, journal);
            result.duration = deadline.start.elapsed();
            return result;
        }
        match self.first_address(&probe, deadline, journal).await {
            Ok(peer) => {
                let literal = probe.address.host.ip().is_some();
                result.phases.resolve =
                    Some(if literal { Duration::ZERO } else { deadline.start.elapsed() });
                self.run(peer, &probe, deadline, &mut result, journal).await;
            }
            Err(error) => {
                conclude(&mut result, &error, Phase::Resolve, journal);
                result.duration = deadline.start.elapsed();
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
        let deadline = Deadline::begin(probe.timeout);
        let mut result = ProbeResult::new(Outcome::Success, probe.timeout);
        result.phases.resolve = Some(Duration::ZERO);
        self.run(peer, &probe, deadline, &mut result, journal).await;
        result
    }

    /// Every address of a host that the module may use, the preferred family first.
    ///
    /// # Errors
    /// The reason, and the cause in one line.
    pub async fn addresses(
        &self,
        host: &Host,
        module: &Module,
        timeout: Duration,
    ) -> Result<Vec<IpAddr>, (Reason, String)> {
        let deadline = Deadline::begin(timeout);
        self.resolvers
            .all(host, module, deadline)
            .await
            .map_err(|error| (error.reason, error.detail))
    }

    /// The address to probe.
    async fn first_address(
        &self,
        probe: &Probe<'_>,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> Result<SocketAddr, ProbeError> {
        if probe.timeout.is_zero() {
            return Err(ProbeError::new(Reason::Timeout, "the timeout is zero"));
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
        deadline: Deadline,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) {
        let wire = match resolve::scoped(peer, &probe.address.host) {
            Ok(peer) => self.reach(peer, probe, deadline, result, journal).await,
            Err(error) => {
                conclude(result, &error, Phase::Resolve, journal);
                None
            }
        };
        result.duration = deadline.start.elapsed();
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
        if let Some(wire) = wire {
            wire.close(probe.module.close, &self.linger).await;
        }
    }

    /// Judges, connects and talks. Returns what is still open.
    async fn reach(
        &self,
        peer: SocketAddr,
        probe: &Probe<'_>,
        deadline: Deadline,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) -> Option<Wire> {
        let module = probe.module;
        result.peer = Some(peer);
        if let Err(denial) = self.judge(probe, peer) {
            deny(result, denial, journal);
            return None;
        }
        let source = match source(module, peer) {
            Ok(source) => source,
            Err(error) => {
                conclude(result, &error, Phase::Connect, journal);
                return None;
            }
        };
        journal.note(Level::Debug, || match source {
            Some(source) => format!("connecting to {peer} from {source}"),
            None => format!("connecting to {peer}"),
        });
        let begun = Instant::now();
        match connect::connect(peer, source, deadline).await {
            Ok(Connection { link, kernel }) => {
                result.phases.connect = Some(begun.elapsed());
                result.kernel = kernel;
                journal.note(Level::Debug, || {
                    let took = begun.elapsed();
                    match kernel.and_then(|it| it.rtt) {
                        Some(rtt) => format!("connected after {took:?}, round trip {rtt:?}"),
                        None => format!("connected after {took:?}"),
                    }
                });
                let mut wire = Wire::new(link);
                if module.expect_connect != ExpectConnect::Open {
                    let detail = format!(
                        "the port is open, the module expects it {}",
                        module.expect_connect.as_str()
                    );
                    let error = ProbeError::new(Reason::UnexpectedlyOpen, detail);
                    conclude(result, &error, Phase::Connect, journal);
                } else if !module.is_connect_only() {
                    let context = Context { probe, tls: &self.tls, deadline };
                    // Boxed: see above.
                    let talk = Box::pin(dialogue::talk(&mut wire, context, result, journal));
                    if let Err((error, phase)) = talk.await {
                        conclude(result, &error, phase, journal);
                    }
                }
                Some(wire)
            }
            Err(failed) => {
                result.kernel = failed.kernel;
                result.icmp = failed.icmp;
                result.errno = failed.error.errno;
                if is_expected(module.expect_connect, failed.error.reason) {
                    let detail = failed.error.detail;
                    journal.note(Level::Debug, || format!("not open, as expected: {detail}"));
                } else {
                    conclude(result, &failed.error, Phase::Connect, journal);
                }
                None
            }
        }
    }
}

/// Whether a connect that failed did what the module wants.
fn is_expected(expected: ExpectConnect, reason: Reason) -> bool {
    let refused = matches!(reason, Reason::Refused | Reason::Rejected | Reason::Prohibited);
    match expected {
        ExpectConnect::Open => false,
        ExpectConnect::Refused => refused,
        ExpectConnect::Timeout => reason == Reason::Timeout,
        // What the monitor could not see is not known to be closed.
        ExpectConnect::Closed => !Outcome::because(reason, Phase::Connect).is_inconclusive(),
    }
}

/// The address to bind, if the module sets one.
fn source(module: &Module, peer: SocketAddr) -> Result<Option<IpAddr>, ProbeError> {
    let Some(text) = &module.source_address else { return Ok(None) };
    let source: IpAddr = text.parse().map_err(|_| {
        let text = text.escape_debug();
        ProbeError::new(Reason::LocalConfig, format!("source_ip_address `{text}` is no IP address"))
    })?;
    if source.is_ipv4() != peer.is_ipv4() {
        let detail = format!("source_ip_address {source} and {peer} differ in IP version");
        return Err(ProbeError::new(Reason::LocalConfig, detail));
    }
    Ok(Some(source))
}

/// Writes a denial into the result and the journal.
fn deny(result: &mut ProbeResult, denial: AccessDenied, journal: &mut Journal) {
    let detail = format!("denied by the access rule `{}`", denial.rule);
    result.denied_by = Some(denial.rule);
    conclude(result, &ProbeError::new(Reason::LocalDenied, detail), Phase::Resolve, journal);
}

/// Writes an error into the result and the journal.
fn conclude(result: &mut ProbeResult, error: &ProbeError, phase: Phase, journal: &mut Journal) {
    result.outcome = Outcome::because(error.reason, phase);
    result.errno = error.errno;
    journal.note(Level::Warn, || format!("{phase}: {}", error.detail));
    result.detail = Some(journal::printable(&error.detail).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_monitor_could_not_see_is_not_known_to_be_closed() {
        assert!(is_expected(ExpectConnect::Closed, Reason::Timeout));
        assert!(is_expected(ExpectConnect::Closed, Reason::Refused));
        assert!(!is_expected(ExpectConnect::Closed, Reason::LocalResources));
        assert!(!is_expected(ExpectConnect::Refused, Reason::Timeout));
        assert!(is_expected(ExpectConnect::Refused, Reason::Rejected));
        assert!(!is_expected(ExpectConnect::Timeout, Reason::LocalStall));
        assert!(is_expected(ExpectConnect::Timeout, Reason::Timeout));
        assert!(!is_expected(ExpectConnect::Open, Reason::Refused));
    }
}
