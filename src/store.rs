//! What is known of every scheduled target. The scheduler writes, and the explainer what it found
//! out about failures; everybody else reads.
//!
//! Rows are shared: a snapshot is a list of them as it was at one moment, while what a row knows
//! goes on changing behind its own lock, which is held for copies of a few values and never for
//! I/O or across an await.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::explanation::Explanation;
use crate::monitor::{Histogram, SeriesOptions, Target};
use crate::outcome::{KernelView, Outcome, ProbeResult};
use crate::path::Path;
use crate::verdict::{HealthState, SlownessWindow, Transition, Verdict};

/// The last outcomes of a target, newest last, two bits each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OutcomeHistory(u64);

impl OutcomeHistory {
    /// How many outcomes are kept.
    pub const LENGTH: usize = 32;

    fn push(&mut self, outcome: Outcome) {
        self.0 = self.0 << 2 | (outcome.index() as u64 + 1);
    }

    /// Positions in [`Outcome::NAMES`], oldest first, at most [`OutcomeHistory::LENGTH`].
    pub fn outcomes(self) -> impl Iterator<Item = usize> {
        // Zero is an empty place.
        let places = (0..Self::LENGTH).rev().map(move |it| self.0 >> (2 * it) & 3);
        places.filter_map(|it| usize::try_from(it).ok()?.checked_sub(1))
    }
}

/// A moment, to the millisecond.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The moment that is so long after the Unix epoch; the epoch's first millisecond before it.
    #[must_use]
    pub fn since_epoch(elapsed: Duration) -> Self {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(millis).unwrap_or(NonZeroU64::MIN))
    }

    /// Time since the Unix epoch.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        Duration::from_millis(self.0.get())
    }

    /// Unix seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

/// A length of time, to the microsecond, up to an hour and a bit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span(NonZeroU32);

impl Span {
    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        Duration::from(self).as_secs_f64()
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_micros(span.0.get().into())
    }
}

/// Successful probes by duration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// Seconds of all successful probes.
    pub sum: f64,
    /// Probes by bucket, not cumulative, from bucket `first` up to the last that was needed.
    pub counts: Box<[u32]>,
    /// Classic histograms begin with bucket 0. Beyond their last bound probes are in the number
    /// of successes only.
    pub first: i16,
}

impl Durations {
    /// Native buckets grow by 2 to the power of 2 to the power of minus this: four for each
    /// doubling, so that a quantile is right within nine per cent.
    pub const SCHEMA: i8 = 2;
    /// Native buckets of less than a microsecond and of more than an hour and a bit: what is
    /// beyond counts as these.
    const NATIVE: std::ops::RangeInclusive<i16> = -80..=48;

    fn observe(&mut self, seconds: f64, histogram: &Histogram) {
        self.sum += seconds;
        match histogram {
            Histogram::Off => {}
            Histogram::Native => {
                let bucket = Self::native_bucket(seconds);
                if self.counts.is_empty() {
                    self.first = bucket;
                }
                self.count(bucket);
            }
            Histogram::Classic(bounds) => {
                let bucket = bounds.partition_point(|&bound| bound < seconds);
                if let Ok(bucket) = i16::try_from(bucket)
                    && seconds <= bounds.last().copied().unwrap_or_default()
                {
                    self.count(bucket);
                }
            }
        }
    }

    fn native_bucket(seconds: f64) -> i16 {
        let (min, max) = Self::NATIVE.into_inner();
        let index = (seconds.log2() * f64::from(1_u8 << Self::SCHEMA)).ceil();
        #[expect(clippy::cast_possible_truncation, reason = "the range is small")]
        let index = index.clamp(min.into(), max.into()) as i16;
        index
    }

    /// Counts one more in a bucket, and makes room for it at either end.
    fn count(&mut self, bucket: i16) {
        let distance = usize::from(bucket.abs_diff(self.first));
        if bucket < self.first {
            let mut counts = vec![0; distance];
            counts.extend_from_slice(&self.counts);
            self.counts = counts.into_boxed_slice();
            self.first = bucket;
        } else if distance >= self.counts.len() {
            let mut counts = std::mem::take(&mut self.counts).into_vec();
            counts.resize(distance + 1, 0);
            self.counts = counts.into_boxed_slice();
        }
        let place = usize::from(bucket.abs_diff(self.first));
        self.counts[place] = self.counts[place].saturating_add(1);
    }
}

/// One address behind a target's name, where the monitor probes them all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressResult {
    /// The address.
    pub ip: IpAddr,
    /// What its last probe found.
    pub outcome: Outcome,
}

/// What only people look at: the story of the last probe.
#[derive(Clone, Debug, PartialEq)]
pub struct LastProbe {
    /// What it found.
    pub outcome: Outcome,
    /// Its end.
    pub at: Moment,
    /// How long it took.
    pub duration: Span,
    /// The address that was tried.
    pub ip: Option<IpAddr>,
    /// The latency to show, on a success.
    pub latency: Option<Span>,
    /// The cause in one line, unless it was a success.
    pub detail: Option<Box<str>>,
}

/// What was found out at one moment, shared by all whom it concerns.
#[derive(Debug, PartialEq)]
pub struct Dated<T> {
    /// When.
    pub at: Moment,
    /// What.
    pub found: Arc<T>,
}

impl<T> Clone for Dated<T> {
    fn clone(&self) -> Self {
        Self { at: self.at, found: Arc::clone(&self.found) }
    }
}

/// What is known of one target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Verdict and streaks.
    pub health: HealthState,
    /// How quick the last successful probes were.
    pub slowness: SlownessWindow,
    /// Probes by outcome, in the order of [`Outcome::NAMES`].
    pub outcomes: [u64; 3],
    /// The last probe, whatever came of it.
    pub last: Option<LastProbe>,
    /// Whether the last conclusive probe was a success.
    pub last_success: Option<bool>,
    /// End of the last conclusive probe.
    pub last_conclusive_at: Option<Moment>,
    /// Last change of verdict.
    pub last_change_at: Option<Moment>,
    /// Round trip of the last handshake that the kernel measured.
    pub rtt: Option<Span>,
    /// SYNs sent again, over all probes.
    pub syn_retransmits: u64,
    /// Durations of the successful probes.
    pub durations: Durations,
    /// The last outcomes.
    pub history: OutcomeHistory,
    /// What few targets have, elsewhere, since there may be a hundred thousand others.
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Rare {
    certificate_not_after: Option<i64>,
    addresses: Box<[AddressResult]>,
    explanation: Option<Dated<Explanation>>,
    usual_path: Option<Dated<Path>>,
}

impl State {
    /// Time without a conclusive probe after which the last one says nothing any more, beside two
    /// intervals and a timeout, which is shorter than a third.
    const GRACE: Duration = Duration::from_secs(60);

    /// Whether the verdict must not be relied on at `now`: it is unknown, its last probe was
    /// inconclusive, or no conclusive one has ended for long.
    #[must_use]
    pub fn is_stale(&self, interval: Duration, now: Moment) -> bool {
        let inconclusive =
            self.last.as_ref().is_some_and(|it| matches!(it.outcome, Outcome::Inconclusive(..)));
        let old = self
            .last_conclusive_at
            .is_none_or(|at| now.elapsed() > at.elapsed() + 3 * interval + Self::GRACE);
        inconclusive || old || self.health.verdict() == Verdict::Unknown
    }

    /// Earliest expiry among the certificates last sent, Unix seconds.
    #[must_use]
    pub fn certificate_not_after(&self) -> Option<i64> {
        self.rare.as_ref()?.certificate_not_after
    }

    /// Every address behind the name, where they are all probed.
    #[must_use]
    pub fn addresses(&self) -> &[AddressResult] {
        self.rare.as_ref().map_or(&[], |it| &it.addresses)
    }

    /// What was found out about its last confirmed failure.
    #[must_use]
    pub fn explanation(&self) -> Option<&Dated<Explanation>> {
        self.rare.as_ref()?.explanation.as_ref()
    }

    /// The path to it when it was last followed while the target was up.
    #[must_use]
    pub fn usual_path(&self) -> Option<&Dated<Path>> {
        self.rare.as_ref()?.usual_path.as_ref()
    }

    fn apply(
        &mut self,
        target: &Target,
        result: &ProbeResult,
        addresses: Box<[AddressResult]>,
        histogram: &Histogram,
        now: Moment,
    ) -> Option<Transition> {
        self.outcomes[result.outcome.index()] += 1;
        self.history.push(result.outcome);
        match result.outcome {
            Outcome::Inconclusive(..) => {}
            Outcome::Success | Outcome::Failure(..) => {
                self.last_success = Some(result.outcome.is_success());
                self.last_conclusive_at = Some(now);
            }
        }
        if result.outcome.is_success() {
            // That we were late is not the target's latency.
            let duration = result.duration.saturating_sub(result.slept);
            self.slowness.apply(duration, target.monitor.slow, target.monitor.timeout);
            self.durations.observe(duration.as_secs_f64(), histogram);
        }
        if let Some(KernelView { rtt, syn_retransmits }) = result.kernel {
            self.rtt = rtt.map(Span::from).or(self.rtt);
            self.syn_retransmits += u64::from(syn_retransmits);
        }
        if let Some(expiry) = result.tls.as_ref().and_then(|it| it.earliest_expiry) {
            self.rare.get_or_insert_default().certificate_not_after = Some(expiry);
        }
        if !addresses.is_empty() {
            self.rare.get_or_insert_default().addresses = addresses;
        }
        self.last = Some(LastProbe {
            outcome: result.outcome,
            at: now,
            duration: result.duration.into(),
            ip: result.peer.map(|it| it.ip()),
            latency: result.latency().map(Span::from),
            detail: result.detail.clone(),
        });
        // After a wall clock that was ahead is set back, nothing may lie in the future.
        self.last_change_at = self.last_change_at.map(|at| at.min(now));
        let transition = self.health.apply(result.outcome, target.monitor.confirm.thresholds);
        if let Some(Transition { to, .. }) = transition {
            self.last_change_at = Some(now);
            if let (Verdict::Down, Some(rare)) = (to, &mut self.rare) {
                // That was another outage.
                rare.explanation = None;
            }
        }
        transition
    }
}

/// A target and what is known of it.
pub struct Row {
    /// What is watched.
    pub target: Target,
    /// Its labels as `exposition` first wrote them.
    pub rendered: OnceLock<Box<str>>,
    state: Mutex<State>,
}

impl Row {
    fn new(target: Target, state: State) -> Self {
        Self { target, rendered: OnceLock::new(), state: Mutex::new(state) }
    }

    /// What is known, locked: copy what is needed and let go.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("target", &self.target).finish_non_exhaustive()
    }
}

/// The rows as they were at one moment.
pub type Snapshot = Arc<Vec<Arc<Row>>>;

/// What is known of every scheduled target.
#[derive(Debug, Default)]
pub struct Store {
    rows: ArcSwap<Vec<Arc<Row>>>,
    options: ArcSwap<SeriesOptions>,
}

impl Store {
    /// The rows at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.rows.load_full()
    }

    /// What is exposed of every target.
    #[must_use]
    pub fn options(&self) -> Arc<SeriesOptions> {
        self.options.load_full()
    }

    /// Replaces the rows. Only the scheduler does.
    pub(crate) fn replace(&self, rows: Vec<Arc<Row>>, options: &SeriesOptions) {
        let before = self.options.load();
        if **before != *options {
            self.options.store(Arc::new(options.clone()));
        }
        if before.histogram != options.histogram {
            for row in &rows {
                let durations = &mut row.state().durations;
                // The sum and the number of successes go on; buckets begin anew.
                *durations = Durations { sum: durations.sum, ..Durations::default() };
            }
        }
        self.rows.store(Arc::new(rows));
    }

    /// A row of its own for a target that nothing is known of.
    pub(crate) fn row(target: Target) -> Arc<Row> {
        Arc::new(Row::new(target, State::default()))
    }

    /// A row for a target whose definition changed in ways that leave what is known true.
    pub(crate) fn redefine(row: &Row, target: Target) -> Arc<Row> {
        let mut state = row.state().clone();
        let (old, new) = (&row.target.monitor, &target.monitor);
        if (old.slow, old.timeout) != (new.slow, new.timeout) {
            state.slowness = SlownessWindow::default();
        }
        Arc::new(Row::new(target, state))
    }

    /// Notes what was found out about the failure of a row, unless it is over.
    pub(crate) fn explain(row: &Row, explanation: Dated<Explanation>) {
        let mut state = row.state();
        if state.health.verdict() == Verdict::Down {
            state.rare.get_or_insert_default().explanation = Some(explanation);
        }
    }

    /// Notes the path to a row's target while it is up.
    pub(crate) fn note_usual_path(row: &Row, path: Dated<Path>) {
        row.state().rare.get_or_insert_default().usual_path = Some(path);
    }

    /// Takes one result into account. `now` is its end.
    pub(crate) fn apply(
        &self,
        row: &Row,
        result: &ProbeResult,
        addresses: Box<[AddressResult]>,
        now: Moment,
    ) -> Option<Transition> {
        row.state().apply(&row.target, result, addresses, &self.options.load().histogram, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_target_is_small() {
        assert!(size_of::<State>() <= 184, "{}", size_of::<State>());
        assert!(size_of::<Row>() <= 232, "{}", size_of::<Row>());
        assert!(size_of::<crate::monitor::Monitor>() <= 40);
        assert!(size_of::<crate::monitor::Endpoint>() <= 48);
    }

    #[test]
    fn moments_and_spans_keep_what_is_shown() {
        let moment = Duration::from_millis(1_763_874_000_125);
        assert_eq!(Moment::since_epoch(moment).elapsed(), moment);
        assert_eq!(
            Duration::from(Span::from(Duration::from_micros(30))),
            Duration::from_micros(30)
        );
        assert_eq!(Span::from(Duration::from_nanos(1)), Span::from(Duration::from_micros(1)));
    }
}
