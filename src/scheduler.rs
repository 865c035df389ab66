//! Starts every scheduled probe at its time and writes what it found into the store.
//!
//! One task owns everything here: the entries, the heap of what is due, the probes in flight.
//! It runs on a thread and a runtime of its own, so that a scrape never delays a probe. Dropping
//! [`run`] ends all probes.
//!
//! When it is time is for [`jobs`] to decide; here is what it must not do: wait, probe, write
//! to the store, log. Whatever is late is late by our own fault: it is measured, and never charged
//! to the target.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info};

use crate::address::Address;
use crate::limits::LAST_PROBES_WITHIN;
use crate::monitor::{SeriesOptions, Target};
use crate::outcome::ProbeResult;
use crate::scheduler::jobs::{Clock, Jobs, Started, Tick};
use crate::store::{AddressResult, Moment, Row, Store};
use crate::telemetry::{ModuleCounters, Telemetry};
use crate::verdict::{HealthState, Verdict};

mod jobs;
pub mod probing;

/// Starts between two looks at the sockets: many would make the first of them wait for the last.
const BATCH: usize = 32;

/// What one run of a target found.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The result that stands for the target.
    pub result: ProbeResult,
    /// Every address behind the name, where they are all probed; else empty.
    pub addresses: Box<[AddressResult]>,
}

/// Whatever can look at a target: the network, or a story in a test.
pub trait Probing {
    /// Looks once. Never fails and ends within the monitor's timeout.
    fn probe(&self, target: &Target) -> impl Future<Output = Observation>;

    /// Hears that a target was found to be down just now. Returns at once.
    fn confirmed(&self, _row: &Arc<Row>, _result: &ProbeResult) {}
}

/// What shall be watched from now on.
#[derive(Debug)]
pub struct Plan {
    /// A row for every target, of which nothing is known yet. Identities, monitor name and
    /// address, are unique.
    pub rows: Vec<Arc<Row>>,
    /// What is exposed of every target.
    pub options: SeriesOptions,
    /// Told once every target's first probe is scheduled.
    pub scheduled: Option<oneshot::Sender<()>>,
}

/// Watches the targets of the plans that arrive with the eyes of `probing`, until their channel is
/// closed.
///
/// `limit` bounds the probes in flight. Targets that last timed out may take three quarters of
/// it, so that a fleet of black holes never delays a healthy target.
pub async fn run<P: Probing>(
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    probing: Arc<P>,
    limit: usize,
    mut plans: mpsc::Receiver<Plan>,
) {
    let Some(first) = plans.recv().await else { return };
    let mut scheduler = Scheduler::new(store, telemetry, limit);
    let mut in_flight = FuturesUnordered::new();
    scheduler.load(first);

    let alarm = sleep_until(Instant::now());
    tokio::pin!(alarm);
    loop {
        let next = scheduler.next();
        if let Some(due) = next
            && alarm.deadline() != due
        {
            alarm.as_mut().reset(due);
        }
        tokio::select! {
            biased;
            plan = plans.recv() => match plan {
                Some(plan) => scheduler.load(plan),
                None => break,
            },
            Some((running, observation)) = in_flight.next() => {
                scheduler.finish(&running, observation, &*probing);
            }
            () = &mut alarm, if next.is_some() => scheduler.wake(),
            // Runs were left over by the last batch: let the sockets have their turn first.
            () = tokio::task::yield_now(), if scheduler.jobs.can_start() => {}
        }
        for _ in 0..BATCH {
            let Some((running, row)) = scheduler.start() else { break };
            let probing = Arc::clone(&probing);
            in_flight.push(async move { (running, probing.probe(&row.target).await) });
        }
    }

    let bound = Instant::now() + LAST_PROBES_WITHIN;
    while let Ok(Some((running, observation))) = timeout_at(bound, in_flight.next()).await {
        scheduler.finish(&running, observation, &*probing);
    }
}

/// A target with a job.
#[derive(Debug)]
struct Watched {
    row: Arc<Row>,
    counters: Arc<ModuleCounters>,
}

/// A probe in flight.
struct Running {
    started: Started,
    counters: Arc<ModuleCounters>,
}

/// Carries out what the jobs decide.
struct Scheduler {
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    jobs: Jobs,
    /// By [`JobId`].
    watched: Vec<Option<Watched>>,
    /// The zero of every [`Tick`].
    origin: Instant,
}

impl Scheduler {
    fn new(store: Arc<Store>, telemetry: Arc<Telemetry>, limit: usize) -> Self {
        let (jobs, watched) = (Jobs::new(limit), Vec::new());
        Self { store, telemetry, jobs, watched, origin: Instant::now() }
    }

    /// Takes over a plan: what is probed as before keeps its state, its streaks and its phase.
    fn load(&mut self, plan: Plan) {
        let old: Vec<Option<Arc<Row>>> =
            self.watched.iter().map(|it| it.as_ref().map(|it| Arc::clone(&it.row))).collect();
        let places: HashMap<(&str, &Address), (usize, &Arc<Row>)> = old
            .iter()
            .enumerate()
            .filter_map(|(place, row)| row.as_ref().map(|row| (place, row)))
            .map(|(place, row)| ((&*row.target.monitor.name, &row.target.address), (place, row)))
            .collect();

        let mut kept = vec![false; self.watched.len()];
        let mut rows = Vec::with_capacity(plan.rows.len());
        let mut added = Vec::new();
        for new in plan.rows {
            let target = &new.target;
            match places.get(&(&*target.monitor.name, &target.address)) {
                Some(&(place, row)) if row.target.probes_like(target) => {
                    kept[place] = true;
                    rows.push(self.keep(place, row, target));
                }
                Some(_) | None => added.push(new),
            }
        }
        for (watched, kept) in self.watched.iter_mut().zip(kept) {
            watched.take_if(|_| !kept);
        }
        let clock = Clock { now: self.tick(Instant::now()), wall: wall_clock() };
        let watched = &self.watched;
        self.jobs.update(|job| Some(&watched[job.index()].as_ref()?.row.target), clock);
        for row in added {
            self.add(&row, clock);
            rows.push(row);
        }
        self.store.replace(rows, &plan.options);
        if let Some(scheduled) = plan.scheduled {
            // Nobody may be waiting for it.
            let _ = scheduled.send(());
        }
    }

    fn keep(&mut self, place: usize, row: &Arc<Row>, target: &Target) -> Arc<Row> {
        if row.target.monitor == target.monitor && row.target.service == target.service {
            return Arc::clone(row);
        }
        let row = Store::redefine(row, target.clone());
        if let Some(watched) = &mut self.watched[place] {
            watched.row = Arc::clone(&row);
        }
        row
    }

    fn add(&mut self, row: &Arc<Row>, clock: Clock) {
        let counters = self.telemetry.module(&row.target.monitor.module.name);
        let place = self.jobs.add(&row.target, clock).index();
        if place >= self.watched.len() {
            self.watched.resize_with(place + 1, || None);
        }
        self.watched[place] = Some(Watched { row: Arc::clone(row), counters });
    }

    fn tick(&self, at: Instant) -> Tick {
        let elapsed = at.saturating_duration_since(self.origin).as_nanos();
        // 2^64 nanoseconds are five centuries.
        Tick(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn next(&self) -> Option<Instant> {
        self.jobs.next().map(|Tick(nanos)| self.origin + Duration::from_nanos(nanos))
    }

    fn wake(&mut self) {
        let missed = self.jobs.wake(self.tick(Instant::now()));
        self.count_skipped(missed);
    }

    /// The next probe that may start, if there is a free place for it.
    fn start(&mut self) -> Option<(Running, Arc<Row>)> {
        let now = self.tick(Instant::now());
        let started = self.jobs.start(now)?;
        let Watched { row, counters } = self.watched.get(started.job.index())?.as_ref()?;
        let (row, counters) = (Arc::clone(row), Arc::clone(counters));
        self.telemetry.in_flight.inc();
        self.telemetry.lateness.observe(now.since(started.due).as_secs_f64());
        Some((Running { started, counters }, row))
    }

    fn finish<P: Probing>(&mut self, running: &Running, observation: Observation, probing: &P) {
        let Running { started, counters } = running;
        let outcome = observation.result.outcome;
        let in_vain = observation.result.waited_in_vain();
        self.telemetry.in_flight.dec();
        counters.count(outcome);
        // A target that was removed meanwhile has no row to write to.
        let health = match &self.watched[started.job.index()] {
            Some(watched) => self.apply(&watched.row, observation, probing),
            None => HealthState::default(),
        };
        let now = self.tick(Instant::now());
        let skipped = self.jobs.finished(started, now, in_vain, health);
        self.count_skipped(skipped);
    }

    fn apply<P: Probing>(
        &self,
        row: &Arc<Row>,
        observation: Observation,
        probing: &P,
    ) -> HealthState {
        let Observation { result, addresses } = observation;
        let now = Moment::since_epoch(wall_clock());
        let transition = self.store.apply(row, &result, addresses, now);
        let (monitor, target) = (&row.target.monitor.name, &row.target.address);
        let (reason, detail) = (
            result.outcome.cause().map_or("", |(reason, _)| reason.as_str()),
            result.detail.as_deref().unwrap_or_default(),
        );
        // That a target is well when it is first seen is no news.
        if let Some(transition) = transition.filter(|it| it.is_news()) {
            let (from, to) = (transition.from.as_str(), transition.to.as_str());
            info!(%monitor, %target, from, to, reason, detail, "verdict changed");
            if transition.to == Verdict::Down {
                probing.confirmed(row, &result);
            }
        } else {
            let outcome = result.outcome.as_str();
            debug!(%monitor, %target, outcome, reason, detail, "probed");
        }
        row.state().health
    }

    fn count_skipped(&self, runs: u64) {
        if runs > 0 {
            self.telemetry.runs_skipped.inc_by(runs);
        }
    }
}

/// Time since the Unix epoch; zero on a machine that believes to live before it.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
