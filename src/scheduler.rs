//! Starts every scheduled probe at its time and writes what it found into the store.
//!
//! One task owns everything here: the entries, the heap of what is due, the probes in flight.
//! It runs on a thread and a runtime of its own, so that a scrape never delays a probe. Dropping
//! [`run`] ends all probes.
//!
//! A target is due at the moments whose wall-clock time leaves the remainder `hash(target)` when
//! divided by its interval: spread evenly, the same after a restart, free of drift. Between two
//! such moments it is probed again while its verdict is in doubt, and once soon after it was
//! added, so that a long interval does not leave it unknown for long. A run may be started together
//! with one that is due, up to a 250th of its interval early, and from then on keeps that lead: two
//! starts are never further apart than the interval.
//!
//! Whatever is late is late by our own fault: it is measured, and never charged to the target.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info};

use crate::address::Address;
use crate::monitor::{SeriesOptions, Target};
use crate::outcome::{Outcome, ProbeResult, Reason};
use crate::store::{AddressResult, Moment, Row, Store};
use crate::telemetry::{ModuleCounters, Telemetry};

pub mod probing;

/// Within this time after it was added, a target is probed for the first time.
const FIRST_PROBE_WITHIN: Duration = Duration::from_secs(30);
/// Starts between two looks at the sockets: many would make the first of them wait for the last.
const BATCH: usize = 32;
/// Runs that one waking may start before they are due: a processor that was asleep is slow for the
/// first of them and not for the next.
const EARLY: usize = 7;
/// How early at most, in milliseconds; and no more than a 250th of the interval.
const MAX_LEAD: u8 = 250;
/// How long running probes may go on after the end was asked for.
const LAST_PROBES_WITHIN: Duration = Duration::from_secs(10);

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
        if let Some(due) = scheduler.next_due()
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
            Some((started, observation)) = in_flight.next() => {
                scheduler.finish(&started, observation);
            }
            () = &mut alarm, if scheduler.next_due().is_some() => {
                scheduler.collect_due(Instant::now());
            }
            // Runs were left over by the last batch: let the sockets have their turn first.
            () = tokio::task::yield_now(), if scheduler.can_start() => {}
        }
        for _ in 0..BATCH {
            let Some((started, row)) = scheduler.start_next() else { break };
            let probing = Arc::clone(&probing);
            in_flight.push(async move { (started, probing.probe(&row.target).await) });
        }
    }

    let bound = Instant::now() + LAST_PROBES_WITHIN;
    while let Ok(Some((started, observation))) = timeout_at(bound, in_flight.next()).await {
        scheduler.finish(&started, observation);
    }
}

/// A place in the table of entries, and which of its tenants is meant.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Slot {
    index: u32,
    tenant: u32,
}

/// Why a target is probed at this moment.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Run {
    /// Its interval came round.
    Regular,
    /// It is new; the first regular run follows.
    First,
    /// Its verdict is in doubt.
    Retry,
}

/// A moment in nanoseconds since the scheduler began: half the size of what the clock gives.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Tick(u64);

impl Tick {
    /// Whole milliseconds since `earlier`; 0 if it was later.
    const fn millis_after(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

#[derive(Debug)]
struct Entry {
    row: Arc<Row>,
    counters: Arc<ModuleCounters>,
    /// Tells the tenants of a place apart, so that what was meant for one that is gone is noticed.
    tenant: u32,
    /// When its next regular run is due; only one due at it is meant.
    next_regular: Tick,
    /// Milliseconds by which that is before its moment, for it once was started together with
    /// another: two starts are never further apart than the interval.
    lead: u8,
    /// The run that was started or waits for a free place.
    current: Option<Run>,
}

impl Entry {
    /// Whether the last probe waited for an answer in vain, so that the next one may again hold
    /// its place for long.
    fn is_suspect(&self) -> bool {
        let last = self.row.state().last.as_ref().map(|it| it.outcome);
        matches!(
            last.and_then(Outcome::cause),
            Some((Reason::Timeout | Reason::TlsTimeout | Reason::ExpectTimeout, _))
        )
    }
}

/// A run that waits for a free place among the probes in flight.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: Slot,
    due: Instant,
}

/// A run that was started.
#[derive(Debug)]
struct Started {
    slot: Slot,
    suspect: bool,
    counters: Arc<ModuleCounters>,
}

struct Scheduler {
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    tenants: u32,
    /// The zero of every [`Tick`].
    origin: Instant,
    due: BinaryHeap<Reverse<(Tick, Slot, Run)>>,
    /// Runs whose time has come: of targets that answer, and of those that last timed out.
    ready: VecDeque<Waiting>,
    ready_suspects: VecDeque<Waiting>,
    /// Most probes in flight; the suspects may take three quarters of it.
    limit: usize,
    in_flight: usize,
    suspects_in_flight: usize,
}

impl Scheduler {
    fn new(store: Arc<Store>, telemetry: Arc<Telemetry>, limit: usize) -> Self {
        Self {
            store,
            telemetry,
            entries: Vec::new(),
            free: Vec::new(),
            tenants: 0,
            origin: Instant::now(),
            due: BinaryHeap::new(),
            ready: VecDeque::new(),
            ready_suspects: VecDeque::new(),
            limit: limit.max(1),
            in_flight: 0,
            suspects_in_flight: 0,
        }
    }

    /// Takes over a plan: what is probed as before keeps its state, its streaks and its phase.
    fn load(&mut self, plan: Plan) {
        let old: Vec<Option<Arc<Row>>> =
            self.entries.iter().map(|it| it.as_ref().map(|it| Arc::clone(&it.row))).collect();
        let places: HashMap<(&str, &Address), (usize, &Arc<Row>)> = old
            .iter()
            .enumerate()
            .filter_map(|(place, row)| row.as_ref().map(|row| (place, row)))
            .map(|(place, row)| ((&*row.target.monitor.name, &row.target.address), (place, row)))
            .collect();

        let clock = Clock::read();
        let mut kept = vec![false; self.entries.len()];
        let mut rows = Vec::with_capacity(plan.rows.len());
        let mut added = Vec::new();
        for new in plan.rows {
            let target = &new.target;
            match places.get(&(&*target.monitor.name, &target.address)) {
                Some(&(place, row)) if row.target.probes_like(target) => {
                    kept[place] = true;
                    rows.push(self.keep(place, row, target, clock));
                }
                Some(_) | None => added.push(new),
            }
        }
        for (place, kept) in kept.into_iter().enumerate() {
            if !kept && self.entries[place].take().is_some() {
                self.free.extend(u32::try_from(place));
            }
        }
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

    fn keep(&mut self, place: usize, row: &Arc<Row>, target: &Target, clock: Clock) -> Arc<Row> {
        if row.target.monitor == target.monitor && row.target.service == target.service {
            return Arc::clone(row);
        }
        let rescheduled = row.target.monitor.interval != target.monitor.interval;
        let next_regular = self.tick(clock.next_regular(target));
        let row = Store::redefine(row, target.clone());
        if let (Some(Some(entry)), Ok(index)) = (self.entries.get_mut(place), u32::try_from(place))
        {
            entry.row = Arc::clone(&row);
            if rescheduled {
                (entry.next_regular, entry.lead) = (next_regular, 0);
                let slot = Slot { index, tenant: entry.tenant };
                self.due.push(Reverse((entry.next_regular, slot, Run::Regular)));
            }
        }
        row
    }

    fn add(&mut self, row: &Arc<Row>, clock: Clock) {
        let target = &row.target;
        let counters = self.telemetry.module(&target.monitor.module.name);
        let next_regular = self.tick(clock.next_regular(target));
        let first = self.tick(clock.now + remainder(target.hash(), FIRST_PROBE_WITHIN));
        self.tenants = self.tenants.wrapping_add(1);
        let tenant = self.tenants;
        let row = Arc::clone(row);
        let entry = Entry { row, counters, tenant, next_regular, lead: 0, current: None };
        let index = if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some(entry);
            index
        } else {
            self.entries.push(Some(entry));
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        let slot = Slot { index, tenant };
        self.due.push(Reverse(if first < next_regular {
            (first, slot, Run::First)
        } else {
            (next_regular, slot, Run::Regular)
        }));
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(slot.index as usize)?.as_mut()?;
        (entry.tenant == slot.tenant).then_some(entry)
    }

    fn tick(&self, at: Instant) -> Tick {
        let elapsed = at.saturating_duration_since(self.origin).as_nanos();
        // 2^64 nanoseconds are five centuries.
        Tick(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn instant(&self, Tick(nanos): Tick) -> Instant {
        self.origin + Duration::from_nanos(nanos)
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| self.instant(*at))
    }

    /// Moves what is due at `now` to the queues of what may start, and a few that soon will be.
    fn collect_due(&mut self, now: Instant) {
        let now = self.tick(now);
        let mut early = 0;
        while let Some(&Reverse((at, slot, run))) = self.due.peek() {
            if at > now {
                if early == EARLY || !self.may_start_early(at, slot, run, now) {
                    break;
                }
                early += 1;
            }
            self.due.pop();
            self.collect(at, slot, run, now);
        }
    }

    /// Whether a run that is due at `at` may start `now`, unless the target's last run may use that
    /// time.
    fn may_start_early(&mut self, at: Tick, slot: Slot, run: Run, now: Tick) -> bool {
        let Some(entry) = self.entry(slot).filter(|it| it.current.is_none()) else { return false };
        let bound = entry.row.target.monitor.interval.as_millis() / 250;
        let lead = u128::from(entry.lead) + u128::from(at.millis_after(now));
        run == Run::Regular && lead <= bound.min(MAX_LEAD.into())
    }

    fn collect(&mut self, at: Tick, slot: Slot, run: Run, now: Tick) {
        let due = self.instant(at);
        let Some(entry) = self.entry(slot) else { return };
        let mut skipped = 0;
        let mut next = None;
        match run {
            // Left over from an interval that was changed.
            Run::Regular if at != entry.next_regular => return,
            Run::Regular => {
                // A process that was stopped resumes its cadence: what it missed is counted, not
                // made up for.
                let interval = entry.row.target.monitor.interval.as_nanos();
                let interval = u64::try_from(interval).unwrap_or(u64::MAX).max(1);
                let missed = now.0.saturating_sub(at.0) / interval;
                let early = at.millis_after(now);
                entry.lead = entry.lead.saturating_add(u8::try_from(early).unwrap_or(0));
                entry.next_regular = Tick(at.0 + interval * (missed + 1) - early * 1_000_000);
                skipped += missed;
                next = Some(entry.next_regular);
            }
            Run::First => next = Some(entry.next_regular),
            Run::Retry => {}
        }
        match entry.current {
            None => {
                entry.current = Some(run);
                let suspect = entry.is_suspect();
                let queue = if suspect { &mut self.ready_suspects } else { &mut self.ready };
                queue.push_back(Waiting { slot, due });
            }
            // Any other run that is under way serves for the regular one.
            Some(Run::First | Run::Retry) => {}
            Some(Run::Regular) => skipped += u64::from(run == Run::Regular),
        }
        if let Some(next) = next {
            self.due.push(Reverse((next, slot, Run::Regular)));
        }
        if skipped > 0 {
            self.telemetry.runs_skipped.inc_by(skipped);
        }
    }

    fn can_start_suspects(&self) -> bool {
        self.suspects_in_flight < (self.limit * 3 / 4).max(1)
    }

    fn can_start(&self) -> bool {
        self.in_flight < self.limit
            && (!self.ready.is_empty()
                || (!self.ready_suspects.is_empty() && self.can_start_suspects()))
    }

    /// The next run that may start, if there is a free place for it.
    fn start_next(&mut self) -> Option<(Started, Arc<Row>)> {
        while self.can_start() {
            let suspect = self.ready.is_empty();
            let queue = if suspect { &mut self.ready_suspects } else { &mut self.ready };
            let waiting = queue.pop_front()?;
            let Some(entry) = self.entry(waiting.slot) else { continue };
            let row = Arc::clone(&entry.row);
            let counters = Arc::clone(&entry.counters);
            self.in_flight += 1;
            self.suspects_in_flight += usize::from(suspect);
            self.telemetry.in_flight.inc();
            self.telemetry.lateness.observe(waiting.due.elapsed().as_secs_f64());
            return Some((Started { slot: waiting.slot, suspect, counters }, row));
        }
        None
    }

    fn finish(&mut self, started: &Started, observation: Observation) {
        let Observation { result, addresses } = observation;
        self.in_flight -= 1;
        self.suspects_in_flight -= usize::from(started.suspect);
        self.telemetry.in_flight.dec();
        started.counters.count(result.outcome);
        let store = Arc::clone(&self.store);
        // A target that was removed meanwhile has no row to write to.
        let Some(entry) = self.entry(started.slot) else { return };
        entry.current = None;
        let row = Arc::clone(&entry.row);
        let transition = store.apply(&row, &result, addresses, Moment::since_epoch(wall_clock()));

        let (monitor, target) = (&row.target.monitor.name, &row.target.address);
        let (reason, detail) = (
            result.outcome.cause().map_or("", |(reason, _)| reason.as_str()),
            result.detail.as_deref().unwrap_or_default(),
        );
        // That a target is well when it is first seen is no news.
        if let Some(transition) = transition.filter(|it| it.is_news()) {
            let (from, to) = (transition.from.as_str(), transition.to.as_str());
            info!(%monitor, %target, from, to, reason, detail, "verdict changed");
        } else {
            let outcome = result.outcome.as_str();
            debug!(%monitor, %target, outcome, reason, detail, "probed");
        }

        if row.state().health.is_in_doubt() {
            let retry = self.tick(Instant::now() + row.target.monitor.confirm.retry_interval);
            self.due.push(Reverse((retry, started.slot, Run::Retry)));
        }
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Clock {
    now: Instant,
    wall: Duration,
}

impl Clock {
    fn read() -> Self {
        Self { now: Instant::now(), wall: wall_clock() }
    }

    /// The first moment from here on at which the target is due.
    fn next_regular(self, target: &Target) -> Instant {
        let interval = target.monitor.interval;
        let phase = remainder(target.hash(), interval);
        let position = remainder_of(self.wall.as_nanos(), interval);
        let wait = phase.checked_sub(position);
        self.now + wait.unwrap_or_else(|| (interval + phase).saturating_sub(position))
    }
}

fn remainder(hash: u64, interval: Duration) -> Duration {
    remainder_of(u128::from(hash), interval)
}

fn remainder_of(value: u128, interval: Duration) -> Duration {
    let nanos = value % interval.as_nanos().max(1);
    // An interval of a day has fewer than 2^47 nanoseconds.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Time since the Unix epoch; zero on a machine that believes to live before it.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
