//! The machine in simulated time: histories of an hour take milliseconds.

use super::*;
use crate::monitor::tests::monitor;

#[test]
fn phases_spread_evenly_and_survive_a_restart() {
    let targets: Vec<_> = (0..6000)
        .flat_map(|index| {
            monitor(&format!("m{index}"), "192.0.2.1", &[22]).targets().collect::<Vec<_>>()
        })
        .collect();
    let midnight = Clock { now: Tick(0), wall: Duration::from_secs(60 * 1_000_000) };
    let mut seconds = [0; 60];
    for target in &targets {
        let phase = midnight.next_regular(target).since(midnight.now);
        seconds[usize::try_from(phase.as_secs()).unwrap()] += 1;
    }
    assert!(seconds.iter().all(|count| (60..=145).contains(count)), "{seconds:?}");

    let early = Clock { now: Tick(7), wall: Duration::from_secs(1_000_000) };
    let late = Clock { now: Tick(7), wall: Duration::from_millis(1_000_007_300) };
    for target in &targets {
        let wall =
            |clock: Clock| (clock.wall + clock.next_regular(target).since(clock.now)).as_nanos();
        assert_eq!((wall(late) - wall(early)) % target.monitor.interval.as_nanos(), 0);
        assert!(clock_wait(late, target) < target.monitor.interval);
    }
}

fn clock_wait(clock: Clock, target: &Target) -> Duration {
    clock.next_regular(target).since(clock.now)
}

/// The memory of a target, beside its row.
#[test]
fn a_job_is_small() {
    assert!(size_of::<Option<Job>>() <= 32, "{}", size_of::<Option<Job>>());
    assert!(size_of::<(Tick, JobId)>() <= 16);
}
