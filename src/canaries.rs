//! Canaries: targets that are always up from here. While all of them fail this region may be cut
//! off. Here is what they were last seen to do and how long that counts; who asks them is
//! [`observer`](crate::observer). Pure.

use std::ops::Range;

use tokio::time::Instant;

/// What is known of the canaries of the configuration in force.
#[derive(Debug, Default)]
pub struct Canaries {
    /// When the last look began, and whether all failed.
    last: Option<(Instant, bool)>,
    /// When the last look ended in which all failed.
    failed: Option<Instant>,
}

impl Canaries {
    /// Whether all failed, where that is known well enough for a probe that ran from then to then;
    /// `None` if they must be asked. That all failed counts for what ran meanwhile, that one
    /// answered only if it was asked after the probe.
    #[must_use]
    pub fn known(&self, probe: &Range<Instant>) -> Option<bool> {
        if self.failed.is_some_and(|end| end > probe.start) {
            return Some(true);
        }
        self.last.filter(|(begin, _)| *begin > probe.end).map(|(_, all_fail)| all_fail)
    }

    /// Notes a look at all of them.
    pub fn note(&mut self, look: Range<Instant>, all_fail: bool) {
        self.last = Some((look.start, all_fail));
        if all_fail {
            self.failed = Some(look.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_look_counts_for_the_probes_that_it_can_speak_of() {
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut canaries = Canaries::default();
        assert_eq!(canaries.known(&(at(1)..at(2))), None, "nobody was asked");

        canaries.note(at(3)..at(4), false);
        assert_eq!(canaries.known(&(at(1)..at(2))), Some(false), "asked after the probe");
        assert_eq!(canaries.known(&(at(1)..at(3))), None, "asked no later than its end");

        canaries.note(at(5)..at(7), true);
        assert_eq!(canaries.known(&(at(6)..at(9))), Some(true), "failed while it ran");
        assert_eq!(canaries.known(&(at(7)..at(9))), None, "failed before it began");

        canaries.note(at(10)..at(11), false);
        assert_eq!(canaries.known(&(at(6)..at(9))), Some(true), "an answer takes nothing back");
        assert_eq!(canaries.known(&(at(8)..at(9))), Some(false));
    }
}
