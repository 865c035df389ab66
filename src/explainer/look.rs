//! Follows the path to a target that fails, and probes it again with one thing changed at a time.
//!
//! Every connection is an ordinary probe of the target's own module, closed as it asks for, so
//! that a service that lives sees no stranger. The access rules of the probe hold for each of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::explanation::{Change, CounterCheck, Explanation, FLOWS, Hint, Question};
use crate::limits::EXPLANATION_SOCKETS;
use crate::outcome::{Outcome, ProbeResult};
use crate::path::Path;
use crate::prober::{Probe, Prober, Variation};

/// A connect that is repeated: two SYNs.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A whole probe that is repeated.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// The first try of a flow: one SYN.
const ONE_SYN: Duration = Duration::from_millis(900);
/// The second try of a flow that did not answer while others did: four SYNs or more.
const MANY_SYNS: Duration = Duration::from_secs(8);
/// Between the starts of two flows, so that we are not ourselves what fills a listen queue.
const BETWEEN_FLOWS: Duration = Duration::from_millis(30);
/// Other addresses of the name, and other ports of the host, that are asked.
const MAX_ADDRESSES: usize = 4;
const MAX_PORTS: usize = 2;
/// Connections to another port whose only question is whether the host answers.
const FEW: u32 = 2;
/// Largest segment that every path lets pass (RFC 9293 3.7.1).
const SMALL_SEGMENT: u32 = 536;

/// What failed, and what else there is to ask.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// What it leaves open.
    pub question: Question,
    /// The address that failed.
    pub peer: SocketAddr,
    /// How it was probed.
    pub probe: Probe<'a>,
    /// Targets at other ports of the same host.
    pub others: &'a [Probe<'a>],
}

/// Follows the path, where that is in question.
pub async fn path(prober: &Prober, failure: &Failure<'_>) -> Option<Path> {
    match failure.question {
        Question::Where => prober.trace(failure.peer, &failure.probe).await.ok(),
        Question::WhichAddress | Question::WhichSize => None,
    }
}

/// Carries out the counter-checks and adds what they found.
pub async fn counter_check(prober: &Prober, failure: &Failure<'_>, explanation: &mut Explanation) {
    let mut checks = Checks { prober, failure, found: Vec::new() };
    checks.run().await;
    explanation.hint = Hint::of(failure.peer.ip(), &checks.found);
    explanation.checks = checks.found.into();
}

struct Checks<'a> {
    prober: &'a Prober,
    failure: &'a Failure<'a>,
    found: Vec<CounterCheck>,
}

impl Checks<'_> {
    async fn run(&mut self) {
        let mut same = CounterCheck::new(Change::Nothing);
        self.again(&mut same).await;
        let failed = same.asked > 0 && same.answered == 0;
        let mut flows = CounterCheck::new(Change::SourcePort);
        if self.failure.question == Question::Where {
            self.flows(self.failure.peer, self.failure.probe, FLOWS, &mut flows).await;
        }
        let mixed = flows.answered > 0 && flows.at_first < flows.asked;
        let all = flows.asked > 0 && flows.at_first == flows.asked;
        if flows.asked > 0 {
            self.found.push(flows);
        }
        if !all && (mixed || failed) {
            self.one_change(if mixed { FLOWS } else { FEW }).await;
            self.again(&mut same).await;
        }
        self.found.insert(0, same);
    }

    /// What the question asks for, apart from the source port.
    async fn one_change(&mut self, connections: u32) {
        match self.failure.question {
            Question::WhichSize => {
                let variation = Variation { segment_size: Some(SMALL_SEGMENT), ..Variation::NONE };
                let mut small = CounterCheck::new(Change::SegmentSize);
                let result = self.ask(self.failure.peer, self.failure.probe, variation).await;
                note(&mut small, &result, result.outcome.is_success());
                self.found.push(small);
            }
            Question::WhichAddress => self.addresses().await,
            Question::Where => {
                self.addresses().await;
                self.ports(connections).await;
            }
        }
    }

    async fn ask(&self, peer: SocketAddr, probe: Probe<'_>, variation: Variation) -> ProbeResult {
        let within = match self.failure.question {
            Question::Where | Question::WhichAddress => CONNECT_WITHIN,
            Question::WhichSize => PROBE_WITHIN,
        };
        let probe = Probe { timeout: probe.timeout.min(within), ..probe };
        self.prober.counter_check(peer, probe, variation).await
    }

    /// The probe itself once more.
    async fn again(&self, same: &mut CounterCheck) {
        let result = self.ask(self.failure.peer, self.failure.probe, Variation::NONE).await;
        note(same, &result, result.outcome.is_success());
    }

    /// From as many source ports: one SYN each, and where some answer and some do not, several more
    /// from those that did not.
    async fn flows(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        count: u32,
        check: &mut CounterCheck,
    ) {
        let ports: Vec<u16> =
            (0..count).filter_map(|_| self.prober.free_port(peer, probe.module).ok()).collect();
        let first = self.from(peer, probe, &ports, ONE_SYN).await;
        let silent: Vec<u16> = first
            .iter()
            .filter(|(_, found)| *found == Found::Silence)
            .map(|(port, _)| *port)
            .collect();
        for (_, found) in &first {
            if let Found::Contact(resent) = found {
                check.note(Some(*resent));
            }
        }
        if check.answered == 0 || silent.is_empty() {
            for _ in silent {
                check.note(None);
            }
            return;
        }
        for (_, found) in self.from(peer, probe, &silent, MANY_SYNS).await {
            match found {
                // It took more than the first SYN of the first try.
                Found::Contact(resent) => check.note(Some(resent + 1)),
                Found::Silence => check.note(None),
                Found::NothingToTell => {}
            }
        }
    }

    async fn from(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        ports: &[u16],
        within: Duration,
    ) -> Vec<(u16, Found)> {
        let mut found = Vec::with_capacity(ports.len());
        for ports in ports.chunks(EXPLANATION_SOCKETS) {
            let mut flows = Vec::with_capacity(ports.len());
            for (&port, index) in ports.iter().zip(0..) {
                flows.push(self.flow(peer, Probe { timeout: within, ..probe }, port, index));
            }
            found.extend(join_all(flows).await);
        }
        found
    }

    async fn flow(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        port: u16,
        index: u32,
    ) -> (u16, Found) {
        sleep(BETWEEN_FLOWS * index).await;
        let variation = Variation { source_port: Some(port), ..Variation::NONE };
        (port, Found::of(&self.prober.counter_check(peer, probe, variation).await))
    }

    /// The other addresses of the name.
    async fn addresses(&mut self) {
        let Failure { peer, probe, .. } = *self.failure;
        if probe.address.host.ip().is_some() {
            return;
        }
        let short = Probe { timeout: probe.timeout.min(CONNECT_WITHIN), ..probe };
        let Ok(ips) = self.prober.addresses(&short).await else { return };
        let others: Vec<IpAddr> =
            ips.into_iter().filter(|ip| *ip != peer.ip()).take(MAX_ADDRESSES).collect();
        let mut asked = Vec::with_capacity(others.len());
        for &ip in &others {
            asked.push(self.ask(SocketAddr::new(ip, peer.port()), probe, Variation::NONE));
        }
        let found = join_all(asked).await;
        for (ip, result) in others.into_iter().zip(found) {
            let mut check = CounterCheck::new(Change::Address(ip));
            note(&mut check, &result, result.outcome.is_success());
            self.found.push(check);
        }
    }

    /// Other ports of the host that are watched: does it answer there?
    async fn ports(&mut self, connections: u32) {
        for other in self.failure.others.iter().take(MAX_PORTS) {
            let peer = SocketAddr::new(self.failure.peer.ip(), other.address.port);
            let mut check = CounterCheck::new(Change::Port(peer.port()));
            self.flows(peer, *other, connections, &mut check).await;
            self.found.push(check);
        }
    }
}

/// What one flow brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    /// The host answered, after so many further SYNs.
    Contact(u32),
    /// It did not, or a router did in its place.
    Silence,
    /// This machine could not look.
    NothingToTell,
}

impl Found {
    fn of(result: &ProbeResult) -> Self {
        let resent = result.kernel.map_or(0, |kernel| kernel.syn_retransmits);
        let refused = result.errno == Some(libc::ECONNREFUSED) && result.icmp.is_none();
        if result.phases.connect.is_some() || refused {
            Self::Contact(resent)
        } else if result.outcome.is_inconclusive() {
            Self::NothingToTell
        } else {
            Self::Silence
        }
    }
}

fn note(check: &mut CounterCheck, result: &ProbeResult, answered: bool) {
    let resent = result.kernel.map_or(0, |kernel| kernel.syn_retransmits);
    match result.outcome {
        Outcome::Inconclusive(..) => {}
        Outcome::Success | Outcome::Failure(..) => check.note(answered.then_some(resent)),
    }
}
