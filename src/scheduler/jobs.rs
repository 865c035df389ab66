//! When each target is probed. Pure: no clock, no I/O, no tasks; the time is an argument.
//!
//! Every target has one job, and every job has one run: the next one, which is either in the heap
//! of what is due or waiting for a free place, or the one in flight. What a run finds decides when
//! the next one is due:
//!
//! ```text
//!         wake(now)            start(now)             finished(now, …)
//!   due ─────────────▶ ready ─────────────▶ in flight ─────────────────▶ due
//! ```
//!
//! A *regular* run is due when the wall-clock time, divided by the interval, leaves the remainder
//! `hash(target)`: spread evenly, the same after a restart, free of drift. An *extra* run is due
//! before that: the first one of a new target; a re-check, `retry_interval` after the end of a run
//! that left the verdict in doubt; and, while the target is down, `down_interval` after the last
//! start. Whichever is due first is the next run, so that a regular
//! run takes the place of a re-check and never more than one of them is pending.
//!
//! Two starts of a target are never nearer than `retry_interval`, or than its interval if that is
//! shorter, less [`slack`]. A regular run that is due nearer to the start before it is postponed,
//! and so is one that is due while an extra run is in flight. One that is due while another
//! regular run waits or is in flight is skipped.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::monitor::{Policy, Target};
use crate::verdict::{HealthState, Verdict};

/// Within this time after it was added, a target is probed for the first time.
const FIRST_RUN_WITHIN: Duration = Duration::from_secs(30);
/// Runs that one wake-up may start before they are due: a processor that was asleep is slow for
/// the first of them and not for the next.
const EARLY: usize = 7;

/// By how much two starts may be nearer than the interval: a 250th of it, between 2 and 250 ms.
///
/// Runs that are due together within it share a wake-up, and a run that was late does not delay
/// all that follow it.
fn slack(interval: Duration) -> Duration {
    (interval / 250).clamp(Duration::from_millis(2), Duration::from_millis(250))
}

/// A moment in nanoseconds since the scheduler began: half the size of an `Instant`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Tick(pub(super) u64);

impl Tick {
    fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// Time since `earlier`; zero if that is later.
    pub(super) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// 2^64 nanoseconds are five centuries.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// By the scheduler's clock.
    pub(super) now: Tick,
    /// Time since the Unix epoch.
    pub(super) wall: Duration,
}

impl Clock {
    /// The first moment from here on at which a regular run of the target is due.
    fn next_regular(self, target: &Target) -> Tick {
        let interval = nanos(target.monitor.interval).max(1);
        let phase = target.hash() % interval;
        let position = self.wall.as_nanos() % u128::from(interval);
        let position = u64::try_from(position).unwrap_or_default();
        let wait = if phase >= position { phase - position } else { interval - position + phase };
        Tick(self.now.0.saturating_add(wait))
    }
}

/// A job in the table. Given to another target once its own is removed and nothing of it is in
/// flight.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct JobId(u32);

impl JobId {
    /// Position in a table of all jobs.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Run {
    Regular,
    Extra,
}

#[derive(Debug)]
struct Job {
    policy: Arc<Policy>,
    /// When its next regular run is due.
    regular: Tick,
    /// Before this moment no run starts.
    earliest: Tick,
    /// Nanoseconds, at most [`slack`], by which `regular` is before its moment, since runs were
    /// started together with others.
    lead: u32,
    /// What is due, or in flight.
    run: Run,
    /// Whether its last probe waited for an answer in vain, so that the next one may again hold
    /// its place for long.
    suspect: bool,
    /// Whether its target was removed; the job ends with the run that is in flight.
    removed: bool,
}

impl Job {
    /// The least time between two starts.
    fn distance(&self) -> Duration {
        let interval = self.policy.interval;
        self.policy.confirm.retry_interval.min(interval.saturating_sub(slack(interval)))
    }

    /// Whether a run that is due at `due` may start `now`, before that.
    fn may_start_early(&self, due: Tick, now: Tick) -> bool {
        let lead = Duration::from_nanos(self.lead.into()) + due.since(now);
        self.run == Run::Regular && now >= self.earliest && lead <= slack(self.policy.interval)
    }

    /// Its run waits for a free place from now on. Returns how many regular runs were missed by a
    /// process that was stopped, which resumes its cadence without making up for them.
    fn collect(&mut self, now: Tick) -> u64 {
        if self.run == Run::Extra && self.regular > now {
            return 0;
        }
        self.run = Run::Regular;
        let interval = nanos(self.policy.interval).max(1);
        let missed = nanos(now.since(self.regular)) / interval;
        let early = nanos(self.regular.since(now));
        self.lead = self.lead.saturating_add(u32::try_from(early).unwrap_or(u32::MAX));
        self.regular = Tick(self.regular.0 + interval * (missed + 1) - early);
        missed
    }

    /// Its run is over. Returns how many regular runs were skipped meanwhile.
    fn pass(&mut self, now: Tick) -> u64 {
        if self.regular > now {
            return 0;
        }
        let interval = nanos(self.policy.interval).max(1);
        let passed = nanos(now.since(self.regular)) / interval + 1;
        let skipped = match self.run {
            Run::Regular => passed,
            Run::Extra => passed - 1,
        };
        self.regular = Tick(self.regular.0 + interval * skipped);
        skipped
    }

    /// Chooses the next run, when an extra one is wanted at `extra`, and returns when it is due.
    fn choose(&mut self, extra: Option<Tick>) -> Tick {
        let regular = self.regular.max(self.earliest);
        let extra = extra.map(|at| at.max(self.earliest)).filter(|&at| at < regular);
        self.run = if extra.is_some() { Run::Extra } else { Run::Regular };
        extra.unwrap_or(regular)
    }
}

/// A run that waits for a free place among the probes in flight.
#[derive(Clone, Copy, Debug)]
struct Ready {
    job: JobId,
    due: Tick,
}

/// A run in flight. To be given back to [`Jobs::finished`].
#[derive(Debug)]
pub(super) struct Started {
    /// Whose run it is.
    pub(super) job: JobId,
    /// When it was due.
    pub(super) due: Tick,
    at: Tick,
    suspect: bool,
}

/// All jobs, and the places for probes in flight.
#[derive(Debug)]
pub(super) struct Jobs {
    table: Vec<Option<Job>>,
    free: Vec<JobId>,
    /// Invariant: one entry for every job that is neither ready nor in flight.
    due: BinaryHeap<Reverse<(Tick, JobId)>>,
    /// Runs whose time has come: of targets that answer, and of those that let the last run wait
    /// in vain.
    ready: VecDeque<Ready>,
    ready_suspects: VecDeque<Ready>,
    limit: usize,
    in_flight: usize,
    suspects_in_flight: usize,
}

impl Jobs {
    /// No jobs. `limit` bounds the probes in flight; targets that let their last run wait in vain
    /// may take three quarters of it, so that a fleet of black holes never delays a healthy target.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            ready: VecDeque::new(),
            ready_suspects: VecDeque::new(),
            limit: limit.max(1),
            in_flight: 0,
            suspects_in_flight: 0,
        }
    }

    /// A job for a new target.
    pub(super) fn add(&mut self, target: &Target, clock: Clock) -> JobId {
        let first = target.hash() % nanos(FIRST_RUN_WITHIN);
        let first = Tick(clock.now.0.saturating_add(first));
        let mut job = Job {
            policy: Arc::clone(&target.monitor.policy),
            regular: clock.next_regular(target),
            earliest: Tick(0),
            lead: 0,
            run: Run::Extra,
            suspect: false,
            removed: false,
        };
        let due = job.choose(Some(first));
        let id = if let Some(id) = self.free.pop() {
            self.table[id.index()] = Some(job);
            id
        } else {
            self.table.push(Some(job));
            JobId(u32::try_from(self.table.len() - 1).unwrap_or(u32::MAX))
        };
        self.due.push(Reverse((due, id)));
        id
    }

    /// Removes the jobs for which `target` knows none, and gives the others the policy of theirs.
    /// With another interval a target has another cadence at once; what was due earlier stays so.
    pub(super) fn update<'t>(
        &mut self,
        target: impl Fn(JobId) -> Option<&'t Target>,
        clock: Clock,
    ) {
        for (index, job) in (0..).zip(&mut self.table) {
            let Some(job) = job else { continue };
            let Some(target) = target(JobId(index)) else {
                job.removed = true;
                continue;
            };
            if job.policy.interval != target.monitor.interval {
                (job.regular, job.lead) = (clock.next_regular(target), 0);
            }
            job.policy = Arc::clone(&target.monitor.policy);
        }
        let Self { table: jobs, free, ready, ready_suspects, .. } = self;
        let mut due = std::mem::take(&mut self.due).into_vec();
        due.retain_mut(|Reverse((at, id))| match unless_removed(jobs, free, *id) {
            Some(job) => {
                *at = job.choose((job.run == Run::Extra).then_some(*at));
                true
            }
            None => false,
        });
        self.due = due.into();
        ready.retain(|run| unless_removed(jobs, free, run.job).is_some());
        ready_suspects.retain(|run| unless_removed(jobs, free, run.job).is_some());
    }

    /// When the next run is due.
    pub(super) fn next(&self) -> Option<Tick> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Makes ready what is due, and a few regular runs that soon will be. Returns how many regular
    /// runs were missed.
    pub(super) fn wake(&mut self, now: Tick) -> u64 {
        let (mut early, mut missed) = (0, 0);
        while let Some(&Reverse((due, id))) = self.due.peek() {
            let Some(job) = self.table.get_mut(id.index()).and_then(Option::as_mut) else { break };
            if due > now {
                if early == EARLY || !job.may_start_early(due, now) {
                    break;
                }
                early += 1;
            }
            missed += job.collect(now);
            let queue = if job.suspect { &mut self.ready_suspects } else { &mut self.ready };
            queue.push_back(Ready { job: id, due });
            self.due.pop();
        }
        missed
    }

    fn can_start_suspects(&self) -> bool {
        self.suspects_in_flight < (self.limit * 3 / 4).max(1)
    }

    /// Whether a run is ready and has a free place.
    pub(super) fn can_start(&self) -> bool {
        self.in_flight < self.limit
            && (!self.ready.is_empty()
                || (!self.ready_suspects.is_empty() && self.can_start_suspects()))
    }

    /// Starts the next run that is ready, if there is a free place for it.
    pub(super) fn start(&mut self, now: Tick) -> Option<Started> {
        if !self.can_start() {
            return None;
        }
        let suspect = self.ready.is_empty();
        let queue = if suspect { &mut self.ready_suspects } else { &mut self.ready };
        let Ready { job: id, due } = queue.pop_front()?;
        let job = self.table.get_mut(id.index())?.as_mut()?;
        job.earliest = now.after(job.distance());
        self.in_flight += 1;
        self.suspects_in_flight += usize::from(suspect);
        Some(Started { job: id, due, at: now, suspect })
    }

    /// A run is over, and its outcome has been taken into account in `health`. Returns how many
    /// regular runs were skipped because of it. Of a target that was removed nothing is wanted any
    /// more.
    pub(super) fn finished(
        &mut self,
        started: &Started,
        now: Tick,
        waited_in_vain: bool,
        health: HealthState,
    ) -> u64 {
        self.in_flight -= 1;
        self.suspects_in_flight -= usize::from(started.suspect);
        let Some(job) = unless_removed(&mut self.table, &mut self.free, started.job) else {
            return 0;
        };
        job.suspect = waited_in_vain;
        let skipped = job.pass(now);
        let extra = if health.is_in_doubt() {
            Some(now.after(job.policy.confirm.retry_interval))
        } else {
            (health.verdict() == Verdict::Down).then(|| started.at.after(job.policy.down_interval))
        };
        let due = job.choose(extra);
        self.due.push(Reverse((due, started.job)));
        skipped
    }
}

/// The job, or, if its target was removed, nothing, and it is free for another.
fn unless_removed<'j>(
    jobs: &'j mut [Option<Job>],
    free: &mut Vec<JobId>,
    id: JobId,
) -> Option<&'j mut Job> {
    let job = jobs.get_mut(id.index())?;
    if job.as_ref().is_some_and(|job| job.removed) {
        *job = None;
        free.push(id);
    }
    job.as_mut()
}

#[cfg(test)]
mod tests;
