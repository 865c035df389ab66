//! Looks at targets through the real network: one address or all of them, and at others at the
//! moment of a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::access::Access;
use crate::diagnosis::outcome_of;
use crate::evidence::{Event, Lookup};
use crate::explainer::Explainer;
use crate::limits::PROBED_ADDRESSES;
use crate::monitor::{Addresses, Target};
use crate::observer::Observer;
use crate::outcome::{Phase, ProbeResult};
use crate::prober::journal::Journal;
use crate::prober::{Probe, Prober};
use crate::scheduler::{Observation, Probing};
use crate::store::{AddressResult, Row};

/// The real network.
#[derive(Debug)]
pub struct Network {
    prober: Arc<Prober>,
    observer: Arc<Observer>,
    explainer: Arc<Explainer>,
    /// The configuration itself names the targets.
    access: Access,
}

impl Network {
    /// Looks through `prober`, asks `observer` when a target fails, and `explainer` why.
    #[must_use]
    pub fn new(prober: Arc<Prober>, observer: Arc<Observer>, explainer: Arc<Explainer>) -> Self {
        Self { prober, observer, explainer, access: Access::unrestricted() }
    }

    /// Does for ever what probes need beside them.
    pub async fn run_beside(&self) {
        self.prober.run_beside().await;
    }

    fn probe_of<'a>(&'a self, target: &'a Target) -> Probe<'a> {
        Probe {
            address: &target.address,
            module: &target.monitor.module,
            hostname: None,
            timeout: target.monitor.timeout,
            access: &self.access,
        }
    }

    async fn probe_all(&self, target: &Target) -> Observation {
        let probe = self.probe_of(target);
        let begin = Instant::now();
        let mut ips = match self.prober.addresses(&probe).await {
            Ok(ips) => ips,
            Err(result) => return Observation { result: *result, addresses: Box::default() },
        };
        let resolve = begin.elapsed();
        ips.truncate(PROBED_ADDRESSES);
        let rest = Probe { timeout: probe.timeout.saturating_sub(resolve), ..probe };
        let results = join_all(ips.iter().map(|&ip| async move {
            let peer = SocketAddr::new(ip, target.address.port);
            self.prober.probe_at(peer, rest, &mut Journal::off()).await
        }))
        .await;
        let addresses = ips
            .iter()
            .zip(&results)
            .map(|(&ip, result)| AddressResult { ip, outcome: result.outcome })
            .collect();
        let mut result = representative(target.monitor.addresses, results, probe.timeout);
        result.timeout = probe.timeout;
        result.duration += resolve;
        result.phases.resolve = Some(resolve);
        Observation { result, addresses }
    }
}

impl Probing for Network {
    async fn probe(&self, target: &Target) -> Observation {
        let did_fail = self.observer.all_fail();
        let mut observation = match target.monitor.addresses {
            Addresses::First => Observation {
                result: self.prober.probe(self.probe_of(target), &mut Journal::off()).await,
                addresses: Box::default(),
            },
            Addresses::Any | Addresses::All | Addresses::Quorum => {
                Box::pin(self.probe_all(target)).await
            }
        };
        self.observer.judge(did_fail, &mut observation.result).await;
        observation
    }

    fn confirmed(&self, row: &Arc<Row>, result: &ProbeResult) {
        self.explainer.confirmed(row, result);
    }
}

/// The result that stands for a name, from those of its addresses. What could not be seen
/// decides only where it might have.
fn representative(mode: Addresses, results: Vec<ProbeResult>, timeout: Duration) -> ProbeResult {
    let total = results.len();
    let of = |index| results.iter().filter(|it| it.outcome.index() == index).count();
    let (up, down) = (of(0), of(1));
    let (success, failure) = match mode {
        Addresses::First | Addresses::Any => (up > 0, down == total),
        Addresses::All => (up == total, down > 0),
        Addresses::Quorum => (up * 2 > total, down * 2 >= total),
    };
    let index = if success {
        0
    } else if failure {
        1
    } else {
        2
    };
    results.into_iter().find(|it| it.outcome.index() == index).unwrap_or_else(|| {
        ProbeResult::new(outcome_of(Event::Lookup(Lookup::NoAddress), Phase::Resolve), timeout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Outcome, Reason};

    #[track_caller]
    fn check(mode: Addresses, outcomes: &str, expected: char) {
        let outcome = |letter| match letter {
            'o' => Outcome::Success,
            'x' => Outcome::because(Reason::Refused, Phase::Connect),
            '?' => Outcome::because(Reason::LocalResources, Phase::Connect),
            other => panic!("{other:?} is no outcome"),
        };
        let timeout = Duration::from_secs(1);
        let results = outcomes.chars().map(|it| ProbeResult::new(outcome(it), timeout)).collect();
        let found = representative(mode, results, timeout).outcome;
        assert_eq!(found, outcome(expected), "{mode:?} {outcomes}");
    }

    #[test]
    fn any_all_and_quorum_decide_for_a_name() {
        check(Addresses::Any, "oxxx", 'o');
        check(Addresses::Any, "xxxx", 'x');
        check(Addresses::Any, "xx?x", '?');
        check(Addresses::All, "oooo", 'o');
        check(Addresses::All, "ooxo", 'x');
        check(Addresses::All, "oo?o", '?');
        check(Addresses::All, "o?xo", 'x');
        check(Addresses::Quorum, "ooox", 'o');
        check(Addresses::Quorum, "ooxx", 'x');
        check(Addresses::Quorum, "oo?x", '?');
        check(Addresses::Quorum, "ooo", 'o');
    }
}
