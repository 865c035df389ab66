//! Explains confirmed failures: where the path ends, and what answers when one thing is changed.
//!
//! Within a budget, beside the schedule and never in its way: it runs on another thread, holds
//! sockets of its own share, and what it finds changes no verdict. One explanation of a peer is for
//! all targets that watch it.
//!
//! What is next is for [`queue`] to decide, and [`look`] asks the network; here is what they must
//! not do: wait, read the store, write to it, log.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::info;

use crate::access::Access;
use crate::explainer::look::Failure;
use crate::explainer::queue::{Asked, Budget, Queue};
use crate::explanation::{Explanation, Question};
use crate::limits::{EXPLANATIONS_A_MINUTE, MAX_UNEXPLAINED};
use crate::monitor::{PathPolicy, Target};
use crate::outcome::ProbeResult;
use crate::path::Path;
use crate::prober::{Probe, Prober};
use crate::store::{Dated, Moment, Row, Store};
use crate::telemetry::Telemetry;
use crate::verdict::Verdict;

pub mod look;
mod queue;

/// Between two looks at which usual paths are old.
const BASELINE_TICK: Duration = Duration::from_secs(15);
/// How long an explanation is good for others who watch the same peer.
const FRESH: Duration = Duration::from_secs(60);
/// Other targets at the same host that are asked whether it answers there.
const MAX_NEIGHBOURS: usize = 2;

/// Explains failures. One per process: its budget is that of the whole network around it.
#[derive(Debug)]
pub struct Explainer {
    prober: Arc<Prober>,
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    /// The configuration itself names the targets.
    access: Access,
    origin: Instant,
    /// Held for a few comparisons, never across an await.
    work: Mutex<Work>,
    wake: Notify,
}

#[derive(Debug)]
struct Work {
    queue: Queue<Wish>,
    /// The last explanations and when they were found.
    recent: VecDeque<(SocketAddr, Duration, Dated<Explanation>)>,
}

/// What shall be found out.
#[derive(Debug)]
enum Wish {
    /// Why this target fails.
    Explanation(Question, Arc<Row>),
    /// The path to it while it is up.
    UsualPath(Arc<Row>),
}

impl Explainer {
    /// `at_once` is how many failures may be explained at one time.
    #[must_use]
    pub fn new(
        prober: Arc<Prober>,
        store: Arc<Store>,
        telemetry: Arc<Telemetry>,
        at_once: usize,
    ) -> Self {
        let budget = Budget { at_once, a_minute: EXPLANATIONS_A_MINUTE, waiting: MAX_UNEXPLAINED };
        Self {
            prober,
            store,
            telemetry,
            access: Access::unrestricted(),
            origin: Instant::now(),
            work: Mutex::new(Work { queue: Queue::new(budget), recent: VecDeque::new() }),
            wake: Notify::new(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure was confirmed just now. Returns at once.
    pub fn confirmed(&self, row: &Arc<Row>, result: &ProbeResult) {
        let (Some(question), Some(peer)) = (Question::about(result.outcome), result.peer) else {
            return;
        };
        if row.target.monitor.path == PathPolicy::Off {
            return;
        }
        let now = self.origin.elapsed();
        let mut work = self.work();
        work.recent.retain(|(_, at, _)| *at + FRESH > now);
        let known = work.recent.iter().find(|(known, ..)| *known == peer);
        if let Some((.., explanation)) = known {
            Store::explain(row, explanation.clone());
            return;
        }
        let wish = Wish::Explanation(question, Arc::clone(row));
        match work.queue.ask(peer, true, wish) {
            Asked::Queued => self.wake.notify_one(),
            Asked::Shared => {}
            Asked::Dropped => {
                self.telemetry.unexplained.inc();
            }
        }
    }

    /// A place in the budget for a look on demand; `None` if it is used up or somebody else looks at
    /// the same peer.
    #[must_use]
    pub fn place(&self, peer: SocketAddr) -> Option<ExplainerPlace<'_>> {
        let now = self.origin.elapsed();
        self.work().queue.start_at_once(peer, now).then_some(ExplainerPlace(self, peer))
    }

    /// Follows a path on demand, for whoever holds an [`ExplainerPlace`].
    ///
    /// # Errors
    /// The access rules deny the address, or the module's source address does not fit.
    pub async fn trace(&self, peer: SocketAddr, probe: &Probe<'_>) -> Result<Path, String> {
        self.prober.trace(peer, probe).await
    }

    /// Explains what is asked for. Never returns.
    pub async fn run(self: Arc<Self>) {
        let mut in_flight = FuturesUnordered::new();
        let mut tick = interval(BASELINE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some((peer, wish)) = self.start() {
                in_flight.push(self.carry_out(peer, wish));
            }
            let next = self.work().queue.next(self.origin.elapsed());
            let at = self.origin + next.unwrap_or_default();
            tokio::select! {
                Some(peer) = in_flight.next() => {
                    self.work().queue.finished(peer);
                    self.telemetry.explanations.inc();
                }
                () = self.wake.notified() => {}
                () = sleep_until(at), if next.is_some() => {}
                _ = tick.tick() => self.ask_for_usual_paths(),
            }
        }
    }

    /// The next one that is still of interest: whoever has recovered while waiting needs none.
    fn start(&self) -> Option<(SocketAddr, Wish)> {
        self.work().queue.start(self.origin.elapsed(), |peer, wish| match wish {
            Wish::Explanation(_, row) => fails_at(row, peer),
            Wish::UsualPath(_) => true,
        })
    }

    async fn carry_out(&self, peer: SocketAddr, wish: Wish) -> SocketAddr {
        match wish {
            Wish::Explanation(question, row) => self.explain(question, peer, &row.target).await,
            Wish::UsualPath(row) => {
                let target = &row.target;
                if let Ok(path) = self.prober.trace(peer, &self.probe_of(target)).await
                    && path.end.is_reached()
                {
                    let path = Dated { at: now(), found: Arc::new(path) };
                    if let Some(row) = self.row_of(target) {
                        Store::note_usual_path(&row, path);
                    }
                }
            }
        }
        peer
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

    async fn explain(&self, question: Question, peer: SocketAddr, target: &Target) {
        let neighbours = self.neighbours(target);
        let others: Vec<Probe<'_>> = neighbours.iter().map(|other| self.probe_of(other)).collect();
        let probe = self.probe_of(target);
        let failure = Failure { question, peer, probe, others: &others };
        let path = look::path(&self.prober, &failure).await.map(Arc::new);
        let mut explanation = Explanation { path, ..Explanation::default() };
        if explanation.path.is_some() {
            // Where it ends is known before all else is.
            self.publish(peer, &explanation, false);
        }
        look::counter_check(&self.prober, &failure, &mut explanation).await;
        self.publish(peer, &explanation, true);
    }

    /// Tells all targets that fail at this peer.
    fn publish(&self, peer: SocketAddr, explanation: &Explanation, whole: bool) {
        let dated = Dated { at: now(), found: Arc::new(explanation.clone()) };
        let rows = self.store.snapshot();
        for row in rows.iter().filter(|row| fails_at(row, peer)) {
            Store::explain(row, dated.clone());
            if whole {
                tell(row, explanation);
            }
        }
        if whole {
            let mut work = self.work();
            if work.recent.len() >= EXPLANATIONS_A_MINUTE {
                work.recent.pop_front();
            }
            let now = self.origin.elapsed();
            work.recent.push_back((peer, now, dated));
        }
    }

    /// Targets at the same host that are up, so that it can be seen whether the host is.
    fn neighbours(&self, target: &Target) -> Vec<Target> {
        let rows = self.store.snapshot();
        let others = rows.iter().filter(|row| {
            let (own, other) = (&target.address, &row.target.address);
            own.host == other.host
                && own.port != other.port
                && row.state().health.verdict() == Verdict::Up
        });
        others.take(MAX_NEIGHBOURS).map(|row| row.target.clone()).collect()
    }

    /// The row of a target: after a reload it may be another one.
    fn row_of(&self, target: &Target) -> Option<Arc<Row>> {
        let (name, address) = (&target.monitor.name, &target.address);
        let rows = self.store.snapshot();
        let mut rows = rows.iter().map(|row| (row, &row.target));
        let found = rows.find(|(_, row)| row.monitor.name == *name && row.address == *address);
        found.map(|(row, _)| Arc::clone(row))
    }

    /// Asks for the paths of targets that are up and whose last one is old.
    fn ask_for_usual_paths(&self) {
        let (rows, now) = (self.store.snapshot(), now());
        let mut due = Vec::new();
        for row in rows.iter() {
            let PathPolicy::Baseline(every) = row.target.monitor.path else { continue };
            let state = row.state();
            let age =
                state.usual_path().map(|usual| now.elapsed().saturating_sub(usual.at.elapsed()));
            let ip = state.last.as_ref().and_then(|last| last.ip);
            if let (Verdict::Up, Some(ip), true) =
                (state.health.verdict(), ip, age.is_none_or(|age| age >= every))
            {
                let peer = SocketAddr::new(ip, row.target.address.port);
                due.push((peer, row));
            }
        }
        // Those beyond what may wait have their turn at one of the next ticks.
        let mut work = self.work();
        for (peer, row) in due {
            if work.queue.ask(peer, false, Wish::UsualPath(Arc::clone(row))) == Asked::Dropped {
                break;
            }
        }
    }
}

/// The right to look at a peer on demand. Dropping it gives it back.
#[derive(Debug)]
pub struct ExplainerPlace<'a>(&'a Explainer, SocketAddr);

impl Drop for ExplainerPlace<'_> {
    fn drop(&mut self) {
        self.0.work().queue.finished(self.1);
        self.0.wake.notify_one();
    }
}

/// Whether a target is down at this peer and wants to know why.
fn fails_at(row: &Row, peer: SocketAddr) -> bool {
    if row.target.address.port != peer.port() || row.target.monitor.path == PathPolicy::Off {
        return false;
    }
    let state = row.state();
    let fails = state
        .last
        .as_ref()
        .is_some_and(|last| last.ip == Some(peer.ip()) && Question::about(last.outcome).is_some());
    fails && state.health.verdict() == Verdict::Down
}

/// One line beside that of the change of verdict.
fn tell(row: &Row, explanation: &Explanation) {
    let (monitor, target) = (&row.target.monitor.name, &row.target.address);
    let path = explanation.path.as_deref().map(Path::to_string).unwrap_or_default();
    let hint = explanation.hint.map_or("", |hint| hint.as_str());
    let detail = explanation.hint.map(|hint| hint.to_string()).unwrap_or_default();
    let state = row.state();
    let usual =
        state.usual_path().and_then(|usual| explanation.path.as_ref()?.went_on(&usual.found));
    let went_on = usual.map(|next| next.to_string()).unwrap_or_default();
    drop(state);
    info!(%monitor, %target, path, went_on, hint, detail, "verdict explained");
}

/// Zero on a machine that believes to live before the Unix epoch.
fn now() -> Moment {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::since_epoch(elapsed)
}
