//! Whether somebody set the wall clock since this process began.
//!
//! Compared with `CLOCK_BOOTTIME`, which nobody can set and which goes on while the machine is
//! suspended. A clock that was wrong before the start looks right from here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::circumstances::Clock;

/// The two clocks as they were at the start.
#[derive(Debug)]
pub(super) struct WallClock {
    wall: Duration,
    since_boot: Duration,
}

impl Default for WallClock {
    fn default() -> Self {
        Self { wall: wall(), since_boot: since_boot() }
    }
}

impl WallClock {
    /// How far the wall clock was set.
    pub(super) fn step(&self) -> Clock {
        self.step_at(wall(), since_boot())
    }

    fn step_at(&self, wall: Duration, since_boot: Duration) -> Clock {
        let unset = self.wall + since_boot.saturating_sub(self.since_boot);
        Clock {
            step: wall.abs_diff(unset),
            unset_now: i64::try_from(unset.as_secs()).unwrap_or(i64::MAX),
        }
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_difference_of_the_clocks_in_either_direction() {
        let seconds = Duration::from_secs;
        let clock = WallClock { wall: seconds(1000), since_boot: seconds(10) };
        let step = |wall, since_boot| clock.step_at(seconds(wall), seconds(since_boot));
        assert_eq!(step(1100, 110), Clock { step: seconds(0), unset_now: 1100 });
        assert_eq!(step(2100, 110), Clock { step: seconds(1000), unset_now: 1100 });
        assert_eq!(step(600, 110), Clock { step: seconds(500), unset_now: 1100 });
    }

    #[test]
    fn the_clock_of_this_machine_was_not_set_just_now() {
        assert!(WallClock::default().step().step < Duration::from_secs(60));
    }
}
