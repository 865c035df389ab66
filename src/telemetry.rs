//! What the exporter counts about its own work. Counters only: what they mean to Prometheus is
//! said in `exposition`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::outcome::{Outcome, Reason};

/// Upper bounds of the histogram of late starts, in seconds.
pub const LATENESS_BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Probes of one module by outcome and reason.
#[derive(Debug)]
pub struct ModuleCounters {
    successes: AtomicU64,
    /// In the order of [`Reason::ALL`].
    reasons: Box<[AtomicU64]>,
}

impl Default for ModuleCounters {
    fn default() -> Self {
        Self {
            successes: AtomicU64::new(0),
            reasons: Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl ModuleCounters {
    /// Counts one finished probe.
    pub fn count(&self, outcome: Outcome) {
        match outcome.cause() {
            None => self.successes.fetch_add(1, Relaxed),
            Some((reason, _)) => self.reasons[reason as usize].fetch_add(1, Relaxed),
        };
    }

    /// Probes that succeeded.
    pub fn successes(&self) -> u64 {
        self.successes.load(Relaxed)
    }

    /// Probes that ended for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize].load(Relaxed)
    }
}

/// A histogram with fixed bounds.
#[derive(Debug, Default)]
pub struct Lateness {
    counts: [AtomicU64; LATENESS_BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Lateness {
    /// Counts one start that was this late.
    pub fn observe(&self, late: Duration) {
        let seconds = late.as_secs_f64();
        let bucket = LATENESS_BOUNDS.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Starts within each bound of [`LATENESS_BOUNDS`], not cumulative, and beyond the last.
    pub fn counts(&self) -> [u64; LATENESS_BOUNDS.len() + 1] {
        std::array::from_fn(|it| self.counts[it].load(Relaxed))
    }

    /// All lateness together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.load(Relaxed))
    }
}

/// What the exporter counts about its own work.
#[derive(Debug, Default)]
pub struct Telemetry {
    modules: RwLock<BTreeMap<Arc<str>, Arc<ModuleCounters>>>,
    /// Probes that run at this moment, both modes.
    pub in_flight: AtomicU64,
    /// How late scheduled probes started.
    pub lateness: Lateness,
    /// Scheduled runs that were left out because their predecessor was still running.
    pub runs_skipped: AtomicU64,
    /// Requests to `/probe` for a module that does not exist.
    pub modules_unknown: AtomicU64,
    /// Requests to `/probe` that came while too many probes were in flight.
    pub probes_shed: AtomicU64,
    refused: RwLock<BTreeMap<Arc<str>, u64>>,
    /// Whether every canary failed when they were last asked.
    pub isolated: AtomicBool,
    /// Whether the last reload was good.
    pub reload_successful: AtomicBool,
    /// When the configuration in force was loaded, Unix milliseconds.
    pub reload_success_millis: AtomicU64,
    /// Probes that may be in flight, from the descriptor limit.
    pub in_flight_limit: AtomicU64,
}

impl Telemetry {
    /// The counters of a module; they exist, at zero, from the first time anybody asks.
    pub fn module(&self, name: &Arc<str>) -> Arc<ModuleCounters> {
        let known = self.modules.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.unwrap_or_else(|| {
            let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(modules.entry(Arc::clone(name)).or_default())
        })
    }

    /// The counters of every module, by name.
    pub fn modules(&self) -> Vec<(Arc<str>, Arc<ModuleCounters>)> {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        modules.iter().map(|(name, it)| (Arc::clone(name), Arc::clone(it))).collect()
    }

    /// Counts a probe from here until the guard is dropped.
    pub fn start(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self)
    }

    /// Begins to count what these access rules refuse.
    pub fn may_refuse(&self, rules: Vec<Arc<str>>) {
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        for rule in rules {
            refused.entry(rule).or_default();
        }
    }

    /// Counts a target that an access rule refused.
    pub fn refused(&self, rule: &Arc<str>) {
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(Arc::clone(rule)).or_default() += 1;
    }

    /// Refusals by rule.
    pub fn refusals(&self) -> BTreeMap<Arc<str>, u64> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the end of a load of the configuration, at `now` since the Unix epoch.
    pub fn reloaded(&self, successful: bool, now: Duration) {
        self.reload_successful.store(successful, Relaxed);
        if successful {
            let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            self.reload_success_millis.store(millis, Relaxed);
        }
    }
}

/// A probe that is running.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Telemetry);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
