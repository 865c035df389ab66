//! Whether this process ran: a beat that comes late says that it did not.
//!
//! The beat is a task of the runtime that carries out the probes, so that it stands still whenever
//! they do: while the process is stopped, while the machine is suspended or gives it no processor,
//! and while the runtime is busy with something else. Totals only, so that a probe pays for two
//! looks at a few counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::evidence::Sleep;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(25);
/// A pause: so long after the beat before that one is missing.
const PAUSE: Duration = Duration::from_millis(40);
/// A long pause. Starvation by a quota of the scheduler comes in pieces of at most its period,
/// usually 100 ms.
const LONG_PAUSE: Duration = Duration::from_millis(150);

/// Measures when this process did not run.
#[derive(Debug)]
pub struct Heartbeat {
    origin: Instant,
    /// The last beat, in nanoseconds since the origin; 0 before the first.
    last: AtomicU64,
    /// Nanoseconds in long pauses and in all.
    long: AtomicU64,
    all: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            last: AtomicU64::new(0),
            long: AtomicU64::new(0),
            all: AtomicU64::new(0),
        }
    }
}

impl Heartbeat {
    /// Beats for ever. Where nobody calls this, or no longer, no pause is known.
    pub async fn run(&self) {
        /// At the end of the process probes on demand go on without the schedule's runtime.
        struct End<'a>(&'a AtomicU64);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(0, Relaxed);
            }
        }
        let _end = End(&self.last);
        loop {
            self.beat(Instant::now());
            tokio::time::sleep(BEAT).await;
        }
    }

    fn beat(&self, now: Instant) {
        let Sleep { long, all } = self.open_pause(now);
        // At least 1, since 0 means never.
        self.last.store(nanos(now.saturating_duration_since(self.origin)).max(1), Relaxed);
        self.long.fetch_add(nanos(long), Relaxed);
        self.all.fetch_add(nanos(all), Relaxed);
    }

    /// All sleep up to `now` since the first beat, the pause that is not over included.
    #[must_use]
    pub fn until(&self, now: Instant) -> Sleep {
        let Sleep { long, all } = self.open_pause(now);
        Sleep {
            long: long + Duration::from_nanos(self.long.load(Relaxed)),
            all: all + Duration::from_nanos(self.all.load(Relaxed)),
        }
    }

    /// The pause since the last beat, if it is one.
    fn open_pause(&self, now: Instant) -> Sleep {
        let last = self.last.load(Relaxed);
        let elapsed = now.saturating_duration_since(self.origin);
        let pause = elapsed.saturating_sub(Duration::from_nanos(last));
        let longer_than = |least| if last > 0 && pause > least { pause } else { Duration::ZERO };
        Sleep { long: longer_than(LONG_PAUSE), all: longer_than(PAUSE) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(heartbeat: &Heartbeat, millis: u64) -> Instant {
        heartbeat.origin + Duration::from_millis(millis)
    }

    #[track_caller]
    fn check(heartbeat: &Heartbeat, at: u64, long: u64, all: u64) {
        let sleep = heartbeat.until(after(heartbeat, at));
        let expected = Sleep { long: Duration::from_millis(long), all: Duration::from_millis(all) };
        assert_eq!(sleep, expected, "at {at} ms");
    }

    #[test]
    fn pauses_between_beats_are_added_up() {
        let heartbeat = Heartbeat::default();
        check(&heartbeat, 5000, 0, 0);
        for beat in [1000, 1026, 1060, 1100, 1200] {
            heartbeat.beat(after(&heartbeat, beat));
        }
        // Of the pauses 26, 34, 40 and 100 ms one is longer than 40.
        check(&heartbeat, 1210, 0, 100);
        // One that is not over counts already.
        check(&heartbeat, 1400, 200, 300);
        heartbeat.beat(after(&heartbeat, 1450));
        check(&heartbeat, 1450, 250, 350);
    }

    #[tokio::test(start_paused = true)]
    async fn it_beats_often_enough_not_to_report_itself() {
        let heartbeat = Heartbeat::default();
        tokio::select! {
            () = heartbeat.run() => unreachable!("it goes on for ever"),
            () = async {
                tokio::time::sleep(BEAT * 4).await;
                assert!(heartbeat.last.load(Relaxed) > 0);
            } => {}
        }
        // Nobody beats any longer, which is no sleep.
        assert_eq!(heartbeat.last.load(Relaxed), 0);
    }
}
