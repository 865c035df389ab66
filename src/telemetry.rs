//! What the exporter counts about its own work, for as long as the process lives, in the metrics
//! of `prometheus-client`. The names they are exposed under are in `exposition`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::outcome::{Outcome, Reason};

/// Upper bounds of the histogram of late starts, in seconds.
pub const LATENESS_BOUNDS: [f64; 7] = [0.001, 0.005, 0.02, 0.1, 0.25, 1.0, 5.0];

/// A module and the outcome of its probes.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ProbeLabels {
    module: Arc<str>,
    outcome: &'static str,
}

/// Why probes of any module did not succeed.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabels {
    reason: &'static str,
}

/// The access rule that refused a target.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct RuleLabels {
    rule: Arc<str>,
}

/// Probes of one module by outcome, and of all modules by reason.
#[derive(Debug)]
pub struct ModuleCounters {
    /// In the order of [`Outcome::NAMES`].
    outcomes: [Counter; 3],
    reasons: Arc<[Counter]>,
}

impl ModuleCounters {
    /// Counts one finished probe.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome.index()].inc();
        if let Some((reason, _)) = outcome.cause() {
            self.reasons[reason as usize].inc();
        }
    }
}

/// What the exporter counts about its own work.
#[derive(Debug)]
pub struct Telemetry {
    modules: RwLock<BTreeMap<Arc<str>, Arc<ModuleCounters>>>,
    /// Finished probes of both modes by module and outcome.
    pub probes: Family<ProbeLabels, Counter>,
    /// Probes that did not succeed, by reason.
    pub failures: Family<ReasonLabels, Counter>,
    /// The same counters, in the order of [`Reason::ALL`].
    reasons: Arc<[Counter]>,
    /// Probes that run at this moment, both modes.
    pub in_flight: Gauge,
    /// Probes that may be in flight, from the descriptor limit.
    pub in_flight_limit: Gauge,
    /// How late scheduled probes started, in seconds.
    pub lateness: Histogram,
    /// Scheduled runs that were left out because their predecessor was still running.
    pub runs_skipped: Counter,
    /// Requests to `/probe` for a module that does not exist.
    pub modules_unknown: Counter,
    /// Requests to `/probe` that came while too many probes were in flight.
    pub probes_shed: Counter,
    /// Targets refused, by access rule.
    pub refused: Family<RuleLabels, Counter>,
    /// Explanations that are over: of failures, and usual paths.
    pub explanations: Counter,
    /// Confirmed failures that were not explained, since too many waited.
    pub unexplained: Counter,
    /// 1 while every canary failed when they were last asked.
    pub isolated: Gauge,
    /// 1 if the last loads of the configuration and of the web configuration were good.
    pub reload_successful: Gauge,
    loads: Mutex<Loads>,
    /// When the configuration in force was loaded, Unix seconds.
    pub reload_success: Gauge<f64, AtomicU64>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let failures = Family::<ReasonLabels, Counter>::default();
        let reasons = Reason::ALL.iter().map(|reason| {
            let labels = ReasonLabels { reason: reason.as_str() };
            failures.get_or_create_owned(&labels)
        });
        let reasons = reasons.collect();
        Self {
            modules: RwLock::default(),
            probes: Family::default(),
            failures,
            reasons,
            in_flight: Gauge::default(),
            in_flight_limit: Gauge::default(),
            lateness: Histogram::new(LATENESS_BOUNDS),
            runs_skipped: Counter::default(),
            modules_unknown: Counter::default(),
            probes_shed: Counter::default(),
            refused: Family::default(),
            explanations: Counter::default(),
            unexplained: Counter::default(),
            isolated: Gauge::default(),
            reload_successful: Gauge::default(),
            loads: Mutex::default(),
            reload_success: Gauge::default(),
        }
    }
}

impl Telemetry {
    /// The counters of a module; they exist, at zero, from the first time anybody asks.
    pub fn module(&self, name: &Arc<str>) -> Arc<ModuleCounters> {
        let known = self.modules.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.unwrap_or_else(|| {
            let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
            let counters = modules.entry(Arc::clone(name)).or_insert_with(|| {
                let outcomes = Outcome::NAMES.map(|outcome| {
                    let labels = ProbeLabels { module: Arc::clone(name), outcome };
                    self.probes.get_or_create_owned(&labels)
                });
                Arc::new(ModuleCounters { outcomes, reasons: Arc::clone(&self.reasons) })
            });
            Arc::clone(counters)
        })
    }

    /// Counts a probe from here until the guard is dropped.
    pub fn start(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(self)
    }

    /// Begins to count what these access rules refuse.
    pub fn may_refuse(&self, rules: Vec<Arc<str>>) {
        for rule in rules {
            drop(self.refused.get_or_create(&RuleLabels { rule }));
        }
    }

    /// Counts a target that an access rule refused.
    pub fn refused(&self, rule: &Arc<str>) {
        self.refused.get_or_create(&RuleLabels { rule: Arc::clone(rule) }).inc();
    }

    /// Notes the end of a load of the web configuration.
    pub fn web_reloaded(&self, successful: bool) {
        self.note_load(|loads| loads.is_web_config_bad = !successful);
    }

    fn note_load(&self, note: impl FnOnce(&mut Loads)) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut loads);
        let is_good = !loads.is_config_bad && !loads.is_web_config_bad;
        self.reload_successful.set(is_good.into());
    }

    /// Notes the end of a load of the configuration, at `now` since the Unix epoch.
    pub fn reloaded(&self, successful: bool, now: Duration) {
        self.note_load(|loads| loads.is_config_bad = !successful);
        if successful {
            self.reload_success.set(now.as_secs_f64());
        }
    }
}

/// Which of the last loads failed.
#[derive(Debug, Default)]
struct Loads {
    is_config_bad: bool,
    is_web_config_bad: bool,
}

/// A probe that is running.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Telemetry);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
