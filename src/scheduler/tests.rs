//! The scheduler against targets that are stories, in simulated time.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Mutex;

use tokio::time::{advance, sleep};

use super::*;
use crate::monitor::tests::{change, monitor};
use crate::monitor::{Monitor, Policy, SeriesOptions};
use crate::outcome::{Outcome, Phase, Reason};
use crate::verdict::Verdict;

/// What a target does, by the time since the start of the test.
type Script = Box<dyn Fn(&Target, Duration) -> (Outcome, Duration) + Send + Sync>;

struct Story {
    origin: Instant,
    script: Script,
    starts: Mutex<HashMap<String, Vec<Duration>>>,
}

/// What lies between two moments of a story.
fn between(early: Duration, late: Duration) -> Duration {
    late.checked_sub(early).expect("time goes forward")
}

impl Probing for Story {
    async fn probe(&self, target: &Target) -> Observation {
        let at = self.origin.elapsed();
        let name = target.monitor.name.to_string();
        self.starts.lock().unwrap().entry(name).or_default().push(at);
        let (outcome, takes) = (self.script)(target, at);
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let duration = takes;
        let result = ProbeResult { duration, ..ProbeResult::new(outcome, target.monitor.timeout) };
        Observation { result, addresses: Box::default() }
    }
}

struct Simulation {
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    story: Arc<Story>,
    plans: mpsc::Sender<Plan>,
    limit: usize,
}

const REFUSED: Outcome = Outcome::because(Reason::Refused, Phase::Connect);
const TIMED_OUT: Outcome = Outcome::because(Reason::Timeout, Phase::Connect);

impl Simulation {
    fn new(limit: usize, script: Script) -> (Self, mpsc::Receiver<Plan>) {
        let (plans, receiver) = mpsc::channel(4);
        let story = Arc::new(Story { origin: Instant::now(), script, starts: Mutex::default() });
        (Self { store: Arc::default(), telemetry: Arc::default(), story, plans, limit }, receiver)
    }

    async fn watch(&self, monitors: &[Arc<Monitor>]) {
        let (scheduled, was_scheduled) = oneshot::channel();
        let plan = Plan {
            rows: monitors.iter().flat_map(Monitor::targets).map(Store::row).collect(),
            options: SeriesOptions::default(),
            scheduled: Some(scheduled),
        };
        self.plans.send(plan).await.unwrap();
        was_scheduled.await.unwrap();
    }

    /// Runs the scheduler until `test` is done.
    async fn run(&self, receiver: mpsc::Receiver<Plan>, test: impl Future<Output = ()>) {
        let (store, telemetry) = (Arc::clone(&self.store), Arc::clone(&self.telemetry));
        let probing = Arc::clone(&self.story);
        tokio::select! {
            () = run(store, telemetry, probing, self.limit, receiver) => panic!("the scheduler ended"),
            () = test => {}
        }
    }

    fn starts(&self, name: &str) -> Vec<Duration> {
        self.story.starts.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.store.snapshot().iter().map(|it| it.state().health.verdict()).collect()
    }
}

fn with(name: &str, policy: impl FnOnce(&mut Policy)) -> Arc<Monitor> {
    change(monitor(name, "192.0.2.1", &[5432]), policy)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Interval 60 s, three failures, retries after 1 s: whenever a target begins to refuse, it is
/// down within 60 s + 2 s, and up again within 60 s + 1 s when two successes are asked for.
#[tokio::test(start_paused = true)]
async fn ten_thousand_outages_are_confirmed_in_time() {
    const COUNT: usize = 10_000;
    // Begins and ends of outages, spread over two minutes by a multiplicative sequence.
    let spread = |it: usize, salt: u64| {
        Duration::from_micros((it as u64 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 120_000_000)
    };
    let begin = move |it: usize| seconds(120) + spread(it, 1);
    let end = move |it: usize| begin(it) + seconds(90) + spread(it, 7);
    let number = |target: &Target| target.monitor.name[1..].parse::<usize>().unwrap();
    let script = move |target: &Target, at| {
        let it = number(target);
        let outcome = if at >= begin(it) && at < end(it) { REFUSED } else { Outcome::Success };
        (outcome, Duration::ZERO)
    };
    let (simulation, receiver) = Simulation::new(20_000, Box::new(script));
    let monitors: Vec<_> = (0..COUNT)
        .map(|it| {
            with(&format!("m{it}"), |monitor| {
                monitor.confirm.retry_interval = seconds(1);
                monitor.confirm.thresholds.successes = 2.try_into().unwrap();
            })
        })
        .collect();

    simulation
        .run(receiver, async {
            simulation.watch(&monitors).await;
            let tick = Duration::from_millis(250);
            let (mut down, mut up) = (vec![None; COUNT], vec![None; COUNT]);
            while simulation.story.origin.elapsed() < seconds(480) {
                sleep(tick).await;
                let now = simulation.story.origin.elapsed();
                for (it, verdict) in simulation.verdicts().into_iter().enumerate() {
                    match verdict {
                        Verdict::Down => down[it] = down[it].or(Some(now)),
                        Verdict::Up if down[it].is_some() => up[it] = up[it].or(Some(now)),
                        Verdict::Up | Verdict::Unknown => {}
                    }
                }
            }
            let order: Vec<_> =
                simulation.store.snapshot().iter().map(|row| number(&row.target)).collect();
            let mut worst = (Duration::ZERO, Duration::ZERO);
            for (position, &it) in order.iter().enumerate() {
                let detected = between(begin(it), down[position].expect("went down"));
                let recovered = between(end(it), up[position].expect("came back"));
                assert!(detected <= seconds(62) + tick, "m{it} down after {detected:?}");
                assert!(recovered <= seconds(61) + tick, "m{it} up after {recovered:?}");
                worst = (worst.0.max(detected), worst.1.max(recovered));
            }
            println!("worst detection {:?}, worst recovery {:?}", worst.0, worst.1);
            assert_eq!(simulation.telemetry.runs_skipped.get(), 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_cadence_is_fixed_and_does_not_depend_on_how_long_probes_take() {
    let script = |_: &Target, at: Duration| (Outcome::Success, seconds(at.as_secs() % 7));
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    simulation
        .run(receiver, async {
            simulation.watch(&[with("m", |it| it.interval = seconds(10))]).await;
            sleep(seconds(1000)).await;
            let starts = simulation.starts("m");
            let regular: Vec<_> = starts.iter().skip(1).collect();
            for pair in regular.windows(2) {
                let step = between(*pair[0], *pair[1]).as_secs_f64();
                assert!((step - 10.0).abs() < 0.005, "{step}");
            }
            assert!((99..=101).contains(&starts.len()), "{} starts", starts.len());
        })
        .await;
}

/// A timeout may be all but as long as the interval: the time to which a run has a right is not
/// taken from it by starting the next one early.
#[tokio::test(start_paused = true)]
async fn a_run_that_ends_just_in_time_is_never_in_the_way_of_the_next() {
    let takes = Duration::from_millis(9_980);
    let script = move |target: &Target, _| {
        let long = target.monitor.interval == seconds(10);
        if long { (TIMED_OUT, takes) } else { (Outcome::Success, Duration::ZERO) }
    };
    let (simulation, receiver) = Simulation::new(500, Box::new(script));
    // Those of seven seconds wake the others at ever different times.
    let monitors: Vec<_> = (0..200)
        .map(|it| {
            with(&format!("m{it}"), |monitor| {
                monitor.interval = seconds(if it % 2 == 0 { 10 } else { 7 });
                monitor.confirm.thresholds.failures = NonZeroU32::MIN;
            })
        })
        .collect();
    simulation
        .run(receiver, async {
            simulation.watch(&monitors).await;
            // Until the first probes, which are at no fixed time, are over.
            sleep(seconds(60)).await;
            let before = simulation.telemetry.runs_skipped.get();
            sleep(seconds(300)).await;
            assert_eq!(simulation.telemetry.runs_skipped.get() - before, 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_would_overlap_its_predecessor_is_skipped_and_counted() {
    let script = |_: &Target, _| (Outcome::Success, seconds(25));
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    simulation
        .run(receiver, async {
            simulation.watch(&[with("m", |it| it.interval = seconds(10))]).await;
            sleep(seconds(310)).await;
            let skipped = simulation.telemetry.runs_skipped.get();
            assert!((18..=22).contains(&skipped), "{skipped} skipped");
            assert!((10..=12).contains(&simulation.starts("m").len()));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn black_holes_never_delay_a_healthy_target() {
    // Whatever the reason is that is found at last.
    let reasons =
        [Reason::Timeout, Reason::DnsTimeout, Reason::Unacknowledged, Reason::LocalGateway];
    let script = move |target: &Target, at: Duration| {
        if target.monitor.name.starts_with("hole") {
            let reason = reasons[at.subsec_nanos() as usize % reasons.len()];
            (Outcome::because(reason, Phase::Connect), seconds(5))
        } else {
            (Outcome::Success, Duration::from_millis(1))
        }
    };
    // 200 black holes want 100 places, of which there are 40.
    let (simulation, receiver) = Simulation::new(40, Box::new(script));
    let holes = (0..200).map(|it| with(&format!("hole{it}"), |it| it.interval = seconds(10)));
    let healthy = (0..100).map(|it| with(&format!("well{it}"), |it| it.interval = seconds(1)));
    let monitors: Vec<_> = holes.chain(healthy).collect();
    simulation
        .run(receiver, async {
            simulation.watch(&monitors).await;
            sleep(seconds(100)).await;
            let before: Vec<_> =
                (0..100).map(|it| simulation.starts(&format!("well{it}")).len()).collect();
            sleep(seconds(100)).await;
            for (it, before) in before.into_iter().enumerate() {
                let starts = simulation.starts(&format!("well{it}"));
                assert!(
                    (99..=101).contains(&(starts.len() - before)),
                    "well{it}: {}",
                    starts.len()
                );
                let late =
                    starts[before..].windows(2).map(|it| between(it[0], it[1])).max().unwrap();
                assert!(late < Duration::from_millis(1_010), "well{it}: {late:?}");
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_monitor_cannot_see_changes_no_verdict_and_is_counted() {
    let local = Outcome::because(Reason::LocalResources, Phase::Connect);
    let script = move |_: &Target, at| {
        (if at > seconds(120) { local } else { Outcome::Success }, Duration::ZERO)
    };
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    simulation
        .run(receiver, async {
            simulation.watch(&[with("m", |it| it.interval = seconds(10))]).await;
            sleep(seconds(600)).await;
            assert_eq!(simulation.verdicts(), [Verdict::Up]);
            let snapshot = simulation.store.snapshot();
            let state = snapshot[0].state();
            assert_eq!(state.last_success, Some(true));
            assert_eq!(state.health.consecutive_failures(), 0);
            assert!((47..=49).contains(&state.outcomes[2]), "{:?}", state.outcomes);
        })
        .await;
}

/// A waking starts a few runs that would soon be due: each up to a 250th of its interval early in
/// all, never late, and never further from the one before than the interval.
#[tokio::test(start_paused = true)]
async fn few_wakings_serve_many_targets_without_drift() {
    const COUNT: usize = 400;
    let (simulation, receiver) =
        Simulation::new(COUNT, Box::new(|_: &Target, _| (Outcome::Success, Duration::ZERO)));
    let monitors: Vec<_> =
        (0..COUNT).map(|it| with(&format!("m{it}"), |it| it.interval = seconds(10))).collect();
    simulation
        .run(receiver, async {
            simulation.watch(&monitors).await;
            sleep(seconds(40)).await;
            let before: Vec<_> =
                (0..COUNT).map(|it| simulation.starts(&format!("m{it}")).len()).collect();
            sleep(seconds(200)).await;
            let mut wakings = std::collections::BTreeMap::<_, usize>::new();
            // The simulated clock rounds to a millisecond.
            let (slack, tick) = (Duration::from_millis(40 + 2), Duration::from_millis(2));
            for (it, before) in before.into_iter().enumerate() {
                let starts = simulation.starts(&format!("m{it}")).split_off(before);
                assert!((19..=21).contains(&starts.len()), "m{it}: {}", starts.len());
                for pair in starts.windows(2) {
                    let gap = between(pair[0], pair[1]);
                    assert!(gap <= seconds(10) + tick, "m{it}: {gap:?}");
                }
                for (run, &start) in starts.iter().enumerate() {
                    let regular = starts[0] + seconds(10) * u32::try_from(run).unwrap();
                    assert!(start.abs_diff(regular) <= slack, "m{it}: {run}: {start:?}");
                    *wakings.entry(start).or_default() += 1;
                }
            }
            let starts: usize = wakings.values().sum();
            assert!(wakings.len() * 3 < starts * 2, "{} for {starts}", wakings.len());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_did_not_change_and_drops_what_is_gone() {
    let script = |target: &Target, _| {
        let down = &*target.monitor.name == "streak";
        (if down { REFUSED } else { Outcome::Success }, Duration::ZERO)
    };
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    let streak = || {
        with("streak", |it| {
            it.interval = seconds(10);
            it.confirm.thresholds.failures = 1000.try_into().unwrap();
            it.confirm.retry_interval = seconds(10);
        })
    };
    simulation
        .run(receiver, async {
            simulation.watch(&[streak(), with("gone", |_| {}), with("moved", |_| {})]).await;
            sleep(seconds(100)).await;
            let failures = |it: &Row| it.state().health.consecutive_failures();
            let before = failures(&simulation.store.snapshot()[0]);
            let beat = simulation.starts("streak");
            assert!(before >= 9, "{before}");

            // Another team, and another port.
            let relabelled = |it: &mut Policy| {
                Arc::make_mut(&mut it.labels).insert("team".into(), "dba".into());
            };
            let moved = monitor("moved", "192.0.2.1", &[3306]);
            let monitors = [moved, change(streak(), relabelled)];
            simulation.watch(&monitors).await;

            let rows = simulation.store.snapshot();
            assert_eq!(rows.len(), 2);
            let kept = rows.iter().find(|it| &*it.target.monitor.name == "streak").unwrap();
            assert_eq!(failures(kept), before);
            assert_eq!(kept.target.monitor.labels.len(), 1);
            let moved = rows.iter().find(|it| &*it.target.monitor.name == "moved").unwrap();
            assert_eq!(moved.state().outcomes, [0; 3]);

            let gone = simulation.starts("gone").len();
            sleep(seconds(100)).await;
            assert_eq!(simulation.starts("gone").len(), gone);
            assert!(failures(kept) >= before + 9);
            let after = simulation.starts("streak");
            let gap = between(beat[beat.len() - 1], after[beat.len()]);
            assert!(gap <= seconds(10) + Duration::from_millis(5), "missed a beat: {gap:?}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn many_reloads_leave_nothing_behind() {
    // Long enough to be in flight when a reload comes, and over at once when all is counted.
    let script = |_: &Target, at| {
        (Outcome::Success, if at < seconds(360) { seconds(1) } else { Duration::ZERO })
    };
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    simulation
        .run(receiver, async {
            for round in 0..50 {
                let monitors: Vec<_> =
                    (0..20).map(|it| with(&format!("m{}", it + round), |_| {})).collect();
                simulation.watch(&monitors).await;
                advance(seconds(7)).await;
            }
            sleep(seconds(60)).await;
            assert_eq!(simulation.store.snapshot().len(), 20);
            // When they are probed depends on the time of day: at some moment nobody is.
            let mut moments = 0;
            while simulation.telemetry.in_flight.get() > 0 {
                moments += 1;
                assert!(moments < 10_000, "probes of removed targets never end");
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
}

/// Two looks at a target are never nearer than its re-checks ask for, whatever falls due.
#[track_caller]
fn check_distances(starts: &[Duration], min: Duration) {
    for pair in starts.windows(2) {
        let distance = between(pair[0], pair[1]);
        assert!(distance >= min, "{distance:?} between {:?} and {:?}", pair[0], pair[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_has_one_recheck_and_a_regular_run_takes_its_place() {
    let fails_from = seconds(30);
    let script = move |_: &Target, at| {
        let outcome = if at < fails_from { Outcome::Success } else { REFUSED };
        (outcome, Duration::from_millis(1))
    };
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    simulation
        .run(receiver, async {
            simulation.watch(&[with("m", |policy| policy.interval = seconds(5))]).await;
            sleep(seconds(120)).await;
            let starts = simulation.starts("m");
            check_distances(&starts, Duration::from_millis(4_980));
            let failures: Vec<_> = starts.into_iter().filter(|&at| at >= fails_from).collect();
            assert!((17..=19).contains(&failures.len()), "{} failures", failures.len());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn rechecks_do_not_multiply_while_a_target_stays_unconfirmed() {
    let local = Outcome::because(Reason::LocalResources, Phase::Connect);
    let fails_until = seconds(30);
    let script = move |_: &Target, at| {
        (if at < fails_until { REFUSED } else { local }, Duration::from_millis(50))
    };
    let (simulation, receiver) = Simulation::new(10, Box::new(script));
    let monitor = with("m", |policy| {
        policy.interval = seconds(1);
        policy.confirm.retry_interval = Duration::from_millis(500);
        policy.confirm.thresholds.failures = 1000.try_into().unwrap();
    });
    simulation
        .run(receiver, async {
            simulation.watch(&[monitor]).await;
            sleep(seconds(120)).await;
            let starts = simulation.starts("m");
            check_distances(&starts, Duration::from_millis(500));
            let after = starts.iter().filter(|&&at| at >= seconds(60)).count();
            assert!((60..=120).contains(&after), "{after} probes in a minute");
        })
        .await;
}
