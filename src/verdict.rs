//! What we hold to be true of a target after confirmation. Pure: no clock, no I/O, no logging.
//!
//! ```text
//!               a success                  `failures` failures in a row
//!   unknown ────────────────▶ up ─────────────────────────────────────▶ down
//!      │                      ▲                                          │ ▲
//!      │                      └──────────────────────────────────────────┘ │
//!      │                             `successes` successes in a row        │
//!      └───────────────────────────────────────────────────────────────────┘
//!                             `failures` failures in a row
//! ```
//!
//! An inconclusive outcome changes nothing, streaks included: a monitor that could not look
//! has seen nothing. One success settles an unknown target, since a port that was seen open is
//! open; bad news waits for its confirmation even after a restart.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::outcome::Outcome;

/// What is held to be true of a target.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Too little was seen so far.
    Unknown,
    /// The port accepts connections.
    Up,
    /// It does not, and that is confirmed.
    Down,
}

impl Verdict {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How many outcomes in a row change a verdict.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Thresholds {
    /// Failures in a row that take a target down.
    pub failures: NonZeroU32,
    /// Successes in a row that bring it back.
    pub successes: NonZeroU32,
}

/// A change of verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Held before.
    pub from: Verdict,
    /// Held from here on.
    pub to: Verdict,
}

impl Transition {
    /// Whether somebody should hear of it: all but a target that is well when it is first seen.
    #[must_use]
    pub const fn is_news(self) -> bool {
        !matches!((self.from, self.to), (Verdict::Unknown, Verdict::Up))
    }
}

/// The verdict on one target and the streak that argues for or against it.
///
/// Invariant: at most one of the two streaks is above zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthState {
    verdict: Verdict,
    failures: u32,
    successes: u32,
}

impl Default for HealthState {
    fn default() -> Self {
        Self { verdict: Verdict::Unknown, failures: 0, successes: 0 }
    }
}

impl HealthState {
    /// Takes one outcome into account and reports the change of verdict, if any.
    pub fn apply(&mut self, outcome: Outcome, thresholds: Thresholds) -> Option<Transition> {
        let from = self.verdict;
        match outcome {
            Outcome::Inconclusive(..) => {}
            Outcome::Success => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                self.verdict = match from {
                    Verdict::Unknown | Verdict::Up => Verdict::Up,
                    Verdict::Down if self.successes >= thresholds.successes.get() => Verdict::Up,
                    Verdict::Down => Verdict::Down,
                };
            }
            Outcome::Failure(..) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                self.verdict = match from {
                    Verdict::Down => Verdict::Down,
                    _ if self.failures >= thresholds.failures.get() => Verdict::Down,
                    Verdict::Unknown => Verdict::Unknown,
                    Verdict::Up => Verdict::Up,
                };
            }
        }
        (from != self.verdict).then_some(Transition { from, to: self.verdict })
    }

    /// What is held to be true.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Failures since the last success.
    #[must_use]
    pub const fn consecutive_failures(&self) -> u32 {
        self.failures
    }

    /// Successes since the last failure.
    #[must_use]
    pub const fn consecutive_successes(&self) -> u32 {
        self.successes
    }

    /// Whether the streak argues against the verdict, so that looking again soon would settle it.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        match self.verdict {
            Verdict::Unknown | Verdict::Up => self.failures > 0,
            Verdict::Down => self.successes > 0,
        }
    }
}

/// How quick the last successful probes were. Most of them decide: a single slow one is no news.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SlownessWindow {
    /// One bit for each of the last probes, the newest lowest.
    slow: u8,
    near_timeout: u8,
}

impl SlownessWindow {
    /// How many successful probes are judged together.
    pub const PROBES: u32 = 5;

    /// Takes the duration of one successful probe into account: slow if longer than `slow`, near
    /// its timeout if longer than half of it.
    pub fn apply(&mut self, duration: Duration, slow: Option<Duration>, timeout: Duration) {
        let push = |bits: u8, bit| (bits << 1 | u8::from(bit)) & ((1 << Self::PROBES) - 1);
        self.slow = push(self.slow, slow.is_some_and(|slow| duration > slow));
        self.near_timeout = push(self.near_timeout, duration > timeout / 2);
    }

    /// Whether most of the last probes were slow.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        Self::is_most(self.slow)
    }

    /// Whether most of the last probes took more than half of their timeout.
    #[must_use]
    pub const fn is_near_timeout(self) -> bool {
        Self::is_most(self.near_timeout)
    }

    const fn is_most(bits: u8) -> bool {
        bits.count_ones() * 2 > Self::PROBES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Phase, Reason};

    fn thresholds(failures: u32, successes: u32) -> Thresholds {
        Thresholds {
            failures: NonZeroU32::new(failures).unwrap(),
            successes: NonZeroU32::new(successes).unwrap(),
        }
    }

    fn outcome(letter: char) -> Outcome {
        match letter {
            'o' => Outcome::Success,
            'x' => Outcome::because(Reason::Refused, Phase::Connect),
            '?' => Outcome::because(Reason::LocalResources, Phase::Connect),
            other => panic!("{other:?} is no outcome"),
        }
    }

    fn letter(verdict: Verdict) -> char {
        match verdict {
            Verdict::Unknown => '-',
            Verdict::Up => 'U',
            Verdict::Down => 'D',
        }
    }

    #[track_caller]
    fn check(failures: u32, successes: u32, outcomes: &str, expected: &str) {
        let mut health = HealthState::default();
        let mut verdicts = String::new();
        for it in outcomes.chars() {
            let before = health.verdict();
            let transition = health.apply(outcome(it), thresholds(failures, successes));
            let after = health.verdict();
            let change = (before != after).then_some(Transition { from: before, to: after });
            assert_eq!(transition, change, "{outcomes}");
            assert!(health.failures == 0 || health.successes == 0, "{outcomes}");
            verdicts.push(letter(after));
        }
        assert_eq!(verdicts, expected, "failures {failures}, successes {successes}: {outcomes}");
    }

    #[test]
    fn one_success_settles_an_unknown_target() {
        check(3, 3, "o", "U");
        check(3, 3, "xxo", "--U");
        check(3, 3, "??o", "--U");
    }

    #[test]
    fn bad_news_waits_for_its_confirmation() {
        check(1, 1, "x", "D");
        check(3, 1, "xxx", "--D");
        check(3, 1, "oxxx", "UUUD");
        check(3, 1, "oxxoxx", "UUUUUU");
    }

    #[test]
    fn it_takes_successes_in_a_row_to_come_back() {
        check(1, 2, "oxoo", "UDDU");
        check(1, 2, "oxoxoo", "UDDDDU");
    }

    #[test]
    fn what_the_monitor_could_not_see_changes_nothing() {
        check(3, 1, "ox?x?x", "UUUUUD");
        check(3, 1, "oxx?", "UUUU");
        check(1, 2, "xo?o", "DDDU");
    }

    /// The definition read literally: look back over the whole history.
    fn by_definition(failures: u32, successes: u32, outcomes: &str) -> String {
        let mut verdict = '-';
        let mut verdicts = String::new();
        for end in 1..=outcomes.len() {
            let seen: String = outcomes[..end].chars().filter(|&it| it != '?').collect();
            let tail = |letter: char| {
                u32::try_from(seen.chars().rev().take_while(|&it| it == letter).count()).unwrap()
            };
            let news = outcomes[..end].ends_with(['o', 'x']);
            if news && tail('x') >= failures {
                verdict = 'D';
            } else if news && tail('o') >= if verdict == 'D' { successes } else { 1 } {
                verdict = 'U';
            }
            verdicts.push(verdict);
        }
        verdicts
    }

    #[test]
    fn agrees_with_the_definition_on_every_short_history() {
        for failures in 1..=4 {
            for successes in 1..=3 {
                for length in 0..=8_u32 {
                    for index in 0..3_u32.pow(length) {
                        let outcomes: String = (0..length)
                            .map(|it| ['o', 'x', '?'][(index / 3_u32.pow(it) % 3) as usize])
                            .collect();
                        let expected = by_definition(failures, successes, &outcomes);
                        check(failures, successes, &outcomes, &expected);
                    }
                }
            }
        }
    }

    /// Judges successes that took so many seconds, with `slow` 1 s and a timeout of 10 s.
    #[track_caller]
    fn check_pace(durations: &[u64], slow: bool, near_timeout: bool) {
        let mut slowness = SlownessWindow::default();
        for &it in durations {
            let slow = Some(Duration::from_secs(1));
            slowness.apply(Duration::from_secs(it), slow, Duration::from_secs(10));
        }
        let found = (slowness.is_slow(), slowness.is_near_timeout());
        assert_eq!(found, (slow, near_timeout), "{durations:?}");
    }

    #[test]
    fn most_of_the_last_successes_say_how_quick_a_target_is() {
        check_pace(&[], false, false);
        check_pace(&[2, 2], false, false);
        check_pace(&[2, 2, 2], true, false);
        check_pace(&[1, 1, 1, 1, 1], false, false);
        check_pace(&[9, 1, 1, 9, 1], false, false);
        check_pace(&[6, 1, 6, 1, 6], true, true);
        check_pace(&[5, 5, 5, 5, 5], true, false);
        check_pace(&[6, 6, 6, 6, 6, 1, 1], true, true);
        check_pace(&[6, 6, 6, 6, 6, 1, 1, 1], false, false);
    }

    #[test]
    fn a_target_without_a_bound_is_never_slow() {
        let mut slowness = SlownessWindow::default();
        for _ in 0..10 {
            slowness.apply(Duration::from_secs(9), None, Duration::from_secs(10));
        }
        assert_eq!((slowness.is_slow(), slowness.is_near_timeout()), (false, true));
    }
}
