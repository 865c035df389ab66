//! Jobs in simulated time: histories of an hour take milliseconds.

use std::cell::Cell;
use std::num::NonZeroU32;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::monitor::tests::{change, monitor};
use crate::outcome::{Outcome, Phase, Reason};
use crate::verdict::Thresholds;

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

/// What shall happen to one target.
#[derive(Clone, Debug)]
struct History {
    interval: Duration,
    retry_interval: Duration,
    down_interval: Duration,
    timeout: Duration,
    failures: u32,
    successes: u32,
    /// Where in the day the hour begins.
    begin: Duration,
    /// Outcome and length of each probe, in thousandths of the timeout, again and again.
    probes: Vec<(char, u64)>,
    /// From here on every probe fails, and takes all of its timeout.
    outage: Option<Duration>,
}

/// What was seen of it within an hour.
#[derive(Debug, Default)]
struct Seen {
    /// Starts and the verdict before each.
    starts: Vec<(Tick, Verdict)>,
    most_pending: usize,
    /// When the verdict became down for the last time.
    down: Option<Tick>,
}

const HOUR: Tick = Tick(3_600_000_000_000);

fn outcome_of(letter: char) -> Outcome {
    match letter {
        'o' => Outcome::Success,
        'x' => Outcome::because(Reason::Refused, Phase::Connect),
        _ => Outcome::because(Reason::LocalStall, Phase::Connect),
    }
}

fn run(history: &History) -> Seen {
    let policy = change(monitor("m", "192.0.2.1", &[22]), |policy| {
        policy.interval = history.interval;
        policy.down_interval = history.down_interval;
        policy.timeout = history.timeout;
        policy.confirm.retry_interval = history.retry_interval;
    });
    let target = policy.targets().next().unwrap();
    let thresholds = Thresholds {
        failures: NonZeroU32::new(history.failures).unwrap(),
        successes: NonZeroU32::new(history.successes).unwrap(),
    };
    let mut jobs = Jobs::new(8);
    jobs.add(&target, Clock { now: Tick(0), wall: history.begin });
    let (mut seen, mut health) = (Seen::default(), HealthState::default());
    let mut in_flight: Option<(Started, Tick, Outcome)> = None;
    loop {
        let pending = jobs.due.len() + jobs.ready.len() + jobs.ready_suspects.len();
        seen.most_pending = seen.most_pending.max(pending + usize::from(in_flight.is_some()));
        let now = match &in_flight {
            Some((_, end, _)) => *end,
            None => jobs.next().expect("a target is never forgotten"),
        };
        if now > HOUR {
            return seen;
        }
        if let Some((started, _, outcome)) = in_flight.take() {
            let change = health.apply(outcome, thresholds);
            if change.is_some_and(|change| change.to == Verdict::Down) {
                seen.down = Some(now);
            }
            jobs.finished(&started, now, outcome != Outcome::Success, health);
        } else {
            jobs.wake(now);
            let Some(started) = jobs.start(now) else { continue };
            let (mut letter, mut part) = history.probes[seen.starts.len() % history.probes.len()];
            if history.outage.is_some_and(|outage| now.since(Tick(0)) >= outage) {
                (letter, part) = ('x', 1000);
            }
            let length = Duration::from_nanos(nanos(history.timeout) / 1000 * part);
            seen.starts.push((now, health.verdict()));
            in_flight = Some((started, now.after(length), outcome_of(letter)));
        }
    }
}

/// Histories of an hour: intervals of a second to an hour, probes of nothing to the timeout.
fn histories() -> impl Strategy<Value = History> {
    let probe = (prop_oneof![4 => Just('o'), 3 => Just('x'), 1 => Just('?')], 0..=1000_u64);
    let times = (1_000..=3_600_000_u64, 0..=1000_u64, 0..=1000_u64, 0..=1000_u64);
    (times, 1..=5_u32, 1..=3_u32, 0..86_400_000_u64, prop::collection::vec(probe, 1..40)).prop_map(
        |((interval, retry, down, timeout), failures, successes, begin, probes)| {
            let part = |whole: u64, part: u64| Duration::from_millis((whole * part / 1000).max(1));
            // Short intervals are as likely as long ones.
            let interval = 1_000 + (interval - 1_000) / (1 + interval % 7 * 500);
            let timeout = part(interval * 4 / 5, timeout.min(250));
            History {
                interval: Duration::from_millis(interval),
                retry_interval: part(interval, retry),
                down_interval: part(interval, down).max(timeout * 2),
                timeout,
                failures,
                successes,
                begin: Duration::from_millis(begin),
                probes,
                outage: None,
            }
        },
    )
}

fn least(history: &History) -> Duration {
    history.retry_interval.min(history.interval.saturating_sub(slack(history.interval)))
}

#[test]
fn starts_are_never_nearer_than_the_retry_interval_and_one_run_is_pending() {
    let (nearest, most_pending) = (Cell::new(f64::INFINITY), Cell::new(0));
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let result = runner.run(&histories(), |history| {
        let seen = run(&history);
        for pair in seen.starts.windows(2) {
            let distance = pair[1].0.since(pair[0].0);
            prop_assert!(distance >= least(&history), "{distance:?} at {:?}", pair[0].0);
            // Nor is a target ever left alone: not beyond its interval, nor, in a hurry, beyond
            // the pace of that and the length of a probe.
            let pace = match pair[1].1 {
                Verdict::Down => history.down_interval.max(history.retry_interval),
                Verdict::Unknown | Verdict::Up => history.interval,
            };
            let longest = pace.min(history.interval) + history.timeout + least(&history);
            prop_assert!(distance <= longest, "{distance:?} at {:?}", pair[0].0);
            let ratio = distance.as_secs_f64() / least(&history).as_secs_f64();
            nearest.set(nearest.get().min(ratio));
        }
        prop_assert!(seen.most_pending <= 1, "{}", seen.most_pending);
        most_pending.set(most_pending.get().max(seen.most_pending));
        Ok(())
    });
    println!(
        "an hour of 400 targets: least distance {:.3} of the least allowed, most pending {}",
        nearest.get(),
        most_pending.get()
    );
    result.unwrap();
}

#[test]
fn an_outage_is_confirmed_within_the_documented_time() {
    let worst = Cell::new(0.0_f64);
    let cases = (histories(), 0..1000_u64).prop_map(|(mut history, begin)| {
        history.interval = history.interval.min(Duration::from_secs(300));
        history.retry_interval = history.retry_interval.min(history.interval);
        history.down_interval = history.down_interval.min(history.interval);
        history.timeout = history.timeout.min(history.interval / 4);
        history.probes = vec![('o', 100)];
        // After the first regular runs, somewhere within an interval.
        let offset = history.interval * 3 + history.interval * u32::try_from(begin).unwrap() / 1000;
        history.outage = Some(offset);
        history
    });
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let result = runner.run(&cases, |history| {
        let outage = history.outage.unwrap();
        let documented = history.interval
            + history.retry_interval * (history.failures - 1)
            + history.timeout * history.failures
            + slack(history.interval);
        let down = run(&history).down.map(|at| at.since(Tick(0)).saturating_sub(outage));
        let took = down.ok_or_else(|| TestCaseError::fail("never down"))?;
        prop_assert!(took <= documented, "{took:?}, documented {documented:?}");
        // Nor sooner than so many probes can fail.
        let least = least(&history) * (history.failures - 1);
        prop_assert!(took >= least, "{took:?} for {} failures", history.failures);
        worst.set(worst.get().max(took.as_secs_f64() / documented.as_secs_f64()));
        Ok(())
    });
    println!("worst detection of 400 outages: {:.3} of the documented time", worst.get());
    result.unwrap();
}

#[test]
fn a_target_that_is_down_is_probed_at_its_own_pace() {
    let history = History {
        interval: Duration::from_secs(300),
        retry_interval: Duration::from_secs(5),
        down_interval: Duration::from_secs(60),
        timeout: Duration::from_secs(10),
        failures: 3,
        successes: 1,
        begin: Duration::ZERO,
        probes: vec![('o', 10)],
        outage: Some(Duration::from_secs(600)),
    };
    let seen = run(&history);
    let down: Vec<Tick> = seen
        .starts
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Down)
        .map(|(at, _)| *at)
        .collect();
    assert!(down.len() > 40, "{}", down.len());
    for pair in down.windows(2) {
        let distance = pair[1].since(pair[0]);
        assert!(distance <= Duration::from_secs(60), "{distance:?}");
        assert!(distance >= Duration::from_secs(5), "{distance:?}");
    }
    let minutes: Vec<_> =
        down.windows(2).filter(|pair| pair[1].since(pair[0]) == Duration::from_secs(60)).collect();
    assert!(minutes.len() > down.len() / 2, "a minute apart as a rule");
    let up: Vec<Tick> = seen
        .starts
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Up)
        .map(|(at, _)| *at)
        .collect();
    // In peace its interval.
    assert_eq!(up[1].since(up[0]), Duration::from_secs(300));
}
