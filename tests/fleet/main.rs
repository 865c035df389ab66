//! Monitors on their own schedule, with the exporter as a process: what happens between two
//! scrapes, how soon a change is confirmed, who is disturbed by whom.
//!
//! Simulated time has its tests beside the scheduler; here everything is real, so bounds are
//! generous and intervals short.

#![expect(clippy::float_cmp, reason = "counters are whole numbers")]
#![expect(clippy::print_stderr, reason = "the figures seen are shown")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{Exporter, Listener, Metrics, Netns, wait_until};
use nix::sys::signal::Signal;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
const LIMIT: Duration = Duration::from_secs(60);
/// Held by the tests that keep a machine busy, so that neither measures the other.
static BUSY: Mutex<()> = Mutex::new(());

fn page(exporter: &Exporter) -> Metrics {
    Metrics::parse(&exporter.get("/metrics").text())
}

/// Probes of a monitor by outcome; none before it is exposed.
fn probes(page: &Metrics, monitor: &str, outcome: &str) -> f64 {
    let labels = [("monitor", monitor), ("outcome", outcome)];
    page.value("tcp_monitor_probes_total", &labels).unwrap_or(0.0)
}

fn up(page: &Metrics, monitor: &str) -> Option<f64> {
    page.value("tcp_monitor_up", &[("monitor", monitor)])
}

#[track_caller]
fn wait_for(exporter: &Exporter, mut condition: impl FnMut(&Metrics) -> bool) -> Metrics {
    wait_until(LIMIT, || {
        let page = page(exporter);
        if condition(&page) {
            return Ok(page);
        }
        let text = exporter.get("/metrics").text();
        let lines: Vec<_> = text.lines().filter(|it| it.starts_with("tcp_monitor")).collect();
        Err(lines[..lines.len().min(60)].join("\n"))
    })
}

/// A service on a fixed address that can be switched off and on.
struct Service {
    address: SocketAddr,
    listener: Option<Listener>,
}

impl Service {
    fn start() -> Self {
        let listener = Listener::silent();
        Self { address: listener.address(), listener: Some(listener) }
    }

    fn stop(&mut self) {
        self.listener = None;
        wait_until(LIMIT, || {
            match std::net::TcpStream::connect(self.address) {
                Ok(_) => Err("still open"),
                Err(_) => Ok(()),
            }
            .map_err(str::to_owned)
        });
    }

    fn resume(&mut self) {
        self.listener =
            Some(Listener::serve(self.address, harness::listener::Visitor::read_to_end));
    }
}

#[test]
fn an_outage_between_two_scrapes_is_in_the_counters_of_the_next() {
    let mut service = Service::start();
    let exporter = Exporter::new(EXPORTER)
        .config(&format!(
            "defaults: {{series: full}}\nmonitors:\n  \
             - {{name: m, host: 127.0.0.1, port: {}, interval: 500ms, timeout: 400ms}}\n",
            service.address.port()
        ))
        .start();
    let before = wait_for(&exporter, |it| probes(it, "m", "success") >= 2.0);
    assert_eq!(probes(&before, "m", "failure"), 0.0);

    service.stop();
    sleep(Duration::from_secs(3));
    service.resume();

    let after = wait_for(&exporter, |it| {
        it.value("tcp_monitor_consecutive_successes", &[("monitor", "m")])
            .is_some_and(|it| it > 0.0)
    });
    let failures = probes(&after, "m", "failure");
    assert!(failures >= 3.0, "{failures} failures in three seconds");
    eprintln!("down for 3 s between two scrapes: {failures} failures counted");
}

#[test]
fn a_change_is_confirmed_within_an_interval_and_the_retries() {
    let mut service = Service::start();
    let exporter = Exporter::new(EXPORTER)
        .config(&format!(
            "defaults: {{interval: 2s, timeout: 1s, confirm: {{failures: 3, successes: 2, retry_interval: 200ms}}}}\n\
             monitors:\n  - {{name: m, host: 127.0.0.1, port: {}}}\n",
            service.address.port()
        ))
        .start();
    wait_for(&exporter, |it| up(it, "m") == Some(1.0));
    for round in 0..3 {
        sleep(Duration::from_millis(300 * round));
        service.stop();
        let begin = Instant::now();
        wait_for(&exporter, |it| up(it, "m") == Some(0.0));
        let down = begin.elapsed();
        service.resume();
        let begin = Instant::now();
        wait_for(&exporter, |it| up(it, "m") == Some(1.0));
        let back = begin.elapsed();
        eprintln!("interval 2 s, 3 failures, retry 0.2 s: down after {down:?}, up after {back:?}");
        // 2 s and two retries make 2.4 s; the rest is for a busy machine.
        assert!(down < Duration::from_secs(6), "{down:?}");
        assert!(back < Duration::from_secs(6), "{back:?}");
    }
}

/// A port of every loopback address inside a namespace, served until the process ends.
fn sink(netns: &Netns) -> u16 {
    let listener = netns.within(|| TcpListener::bind("0.0.0.0:0").expect("bind"));
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || for _ in listener.incoming() {});
    port
}

fn fleet(first: u32, count: u32, port: u16, name: &str) -> String {
    (0..count).fold(String::new(), |mut text, it| {
        let host = Ipv4Addr::from(first + it);
        let _ = writeln!(text, "  - {{name: {name}{it}, host: {host}, port: {port}}}");
        text
    })
}

const WELL: u32 = 0x7f01_0001;
const HOLE: u32 = 0x7f02_0001;

/// How long the schedule of the big fleet is watched: two turns of every target.
const WATCHED: Duration = Duration::from_secs(20);

/// Watches 10,000 targets every 10 s of which so many swallow SYNs; returns the p99 of late
/// starts, in seconds, and the fewest and most probes of a healthy target in [`WATCHED`].
fn disturbed_by(holes: u32) -> (f64, f64, f64) {
    let netns = Netns::new("holes");
    netns.nft(
        "table ip t { chain c { type filter hook input priority 0; ip daddr 127.2.0.0/16 drop\n}\n}",
    );
    let port = sink(&netns);
    let config = format!(
        "defaults: {{interval: 10s, timeout: 5s, buckets: [], confirm: {{failures: 1}}}}\nmonitors:\n{}{}",
        fleet(WELL, 10_000 - holes, port, "well"),
        fleet(HOLE, holes, port, "hole")
    );
    let exporter = Exporter::new(EXPORTER).config(&config).netns(&netns).start();
    // Until every target was seen, and confirmed where it is a black hole.
    wait_until(Duration::from_secs(180), || {
        let page = page(&exporter);
        let known = page.all("tcp_monitor_up").count();
        if known == 10_000 { Ok(()) } else { Err(format!("{known} of 10000 known")) }
    });
    let before = page(&exporter);
    sleep(WATCHED);
    let after = page(&exporter);
    let skipped = |page: &Metrics| page.value("tcp_probe_exporter_runs_skipped_total", &[]);
    assert_eq!(skipped(&after), skipped(&before), "skipped while {holes} swallow SYNs");
    let successes = |page: &Metrics| {
        page.all("tcp_monitor_probes_total")
            .filter(|it| {
                it.labels["outcome"] == "success" && it.labels["monitor"].starts_with("well")
            })
            .map(|it| (it.labels["monitor"].clone(), it.value))
            .collect::<HashMap<_, _>>()
    };
    let (old, new) = (successes(&before), successes(&after));
    let growth: Vec<f64> = new.iter().map(|(monitor, count)| count - old[monitor]).collect();
    assert_eq!(growth.len(), (10_000 - holes) as usize);
    let bucket = "tcp_probe_exporter_start_lateness_seconds_bucket";
    let mut buckets: Vec<(f64, f64)> = after
        .all(bucket)
        .map(|it| {
            let le = it.labels["le"].as_str();
            let old = before.value(bucket, &[("le", le)]).unwrap_or(0.0);
            (le.parse().unwrap_or(f64::INFINITY), it.value - old)
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let total = buckets.last().expect("buckets").1;
    let p99 = buckets.iter().find(|it| it.1 >= total * 0.99).expect("a last bucket").0;
    let fewest = growth.iter().copied().fold(f64::INFINITY, f64::min);
    let most = growth.iter().copied().fold(0.0, f64::max);
    (p99, fewest, most)
}

#[test]
fn five_thousand_black_holes_delay_nobody() {
    if !Netns::available("five_thousand_black_holes_delay_nobody") {
        return;
    }
    let _busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let (alone, ..) = disturbed_by(0);
    let (beside, fewest, most) = disturbed_by(5_000);
    eprintln!(
        "late starts, p99: ≤ {alone} s without black holes, ≤ {beside} s beside 5,000 of them"
    );
    eprintln!("probes of a healthy target in 20 s at 10 s: {fewest} to {most}");
    assert!(fewest >= 1.0, "a healthy target had {fewest} probes in 20 s");
    // The bucket up to one second is grace for a busy machine.
    assert!(beside <= (alone * 3.0).max(1.0), "{beside} s beside black holes, {alone} s alone");
}

#[test]
fn a_reload_disturbs_only_what_it_changes() {
    if !Netns::available("a_reload_disturbs_only_what_it_changes") {
        return;
    }
    let _busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let netns = Netns::new("reload");
    let port = sink(&netns);
    let defaults = "defaults: {interval: 10s, timeout: 2s, series: full}\nmonitors:\n";
    let config = |changed: u16| {
        let kept = fleet(WELL, 9_900, port, "kept");
        format!("{defaults}{kept}{}", fleet(HOLE, 100, changed, "changed"))
    };
    let exporter = Exporter::new(EXPORTER).config(&config(port)).netns(&netns).start();
    let all = |page: &Metrics, least: f64| {
        page.all("tcp_monitor_consecutive_successes").filter(|it| it.value >= least).count()
    };
    wait_until(Duration::from_secs(120), || match all(&page(&exporter), 2.0) {
        10_000 => Ok(()),
        count => Err(format!("{count} of 10000 seen twice")),
    });
    let before = page(&exporter);
    let other = sink(&netns);
    exporter.rewrite_config(&config(other));
    let begin = Instant::now();
    let answer = exporter.post("/-/reload");
    assert_eq!(answer.status, 200, "{}", answer.text());
    eprintln!("reload of 10,000 targets with 100 changed: {:?}", begin.elapsed());
    let streak = |page: &Metrics| {
        page.all("tcp_monitor_consecutive_successes")
            .map(|it| (it.labels["monitor"].clone(), it.value))
            .collect::<HashMap<_, _>>()
    };
    let (old, new) = (streak(&before), streak(&page(&exporter)));
    for (monitor, streak) in &new {
        if monitor.starts_with("kept") {
            assert!(*streak >= old[monitor], "{monitor}: {} then {streak}", old[monitor]);
        }
    }
    // Nobody misses a beat: one more probe than before within little more than an interval.
    let begin = Instant::now();
    wait_until(LIMIT, || {
        let late = streak(&page(&exporter))
            .iter()
            .filter(|it| it.0.starts_with("kept") && *it.1 <= old[it.0])
            .count();
        if late == 0 { Ok(()) } else { Err(format!("{late} targets without a further probe")) }
    });
    eprintln!("every kept target was probed again after {:?}, interval 10 s", begin.elapsed());
    let skipped = page(&exporter).value("tcp_probe_exporter_runs_skipped_total", &[]);
    assert_eq!(skipped, before.value("tcp_probe_exporter_runs_skipped_total", &[]));
    wait_for(&exporter, |it| {
        it.all("tcp_monitor_up").filter(|it| it.labels["monitor"].starts_with("changed")).count()
            == 100
    });
}

/// After error of the monitor's own: nobody changed their verdict, somebody was not seen.
fn assert_nobody_blamed(exporter: &Exporter, what: &str, before: &Metrics) {
    let after = page(exporter);
    let verdicts = |page: &Metrics| page.all("tcp_monitor_up").map(|it| it.value).sum::<f64>();
    let count = after.all("tcp_monitor_up").count();
    let failures: f64 = after
        .all("tcp_monitor_probes_total")
        .filter(|it| it.labels["outcome"] == "failure")
        .map(|it| it.value)
        .sum();
    let inconclusive: f64 = after
        .all("tcp_monitor_probes_total")
        .filter(|it| it.labels["outcome"] == "inconclusive")
        .map(|it| it.value)
        .sum();
    assert_eq!(verdicts(&after), verdicts(before), "{what}: a verdict changed");
    assert_eq!(failures, 0.0, "{what}: a failure was counted");
    eprintln!("{what}: 0 of {count} verdicts changed, {inconclusive} inconclusive, no failure");
}

#[test]
fn our_own_trouble_changes_no_verdict() {
    if !Netns::available("our_own_trouble_changes_no_verdict") {
        return;
    }
    let netns = Netns::new("error");
    let router = Netns::new("elsewhere");
    netns.link(&router, &[("10.77.0.1/24", "10.77.0.2/24")]);
    let port = sink(&netns);
    let far = router.within(|| TcpListener::bind("10.77.0.2:0").expect("bind"));
    let far_port = far.local_addr().expect("bound").port();
    std::thread::spawn(move || for _ in far.incoming() {});
    let config = format!(
        "defaults: {{interval: 1s, timeout: 800ms, confirm: {{failures: 2, retry_interval: 200ms}}}}\nmonitors:\n{}  - {{name: far, host: 10.77.0.2, port: {far_port}}}\n",
        fleet(WELL, 100, port, "well")
    );
    let exporter =
        Exporter::new(EXPORTER).config(&config).netns(&netns).limit("--nofile=4096").start();
    let before = wait_for(&exporter, |it| {
        it.all("tcp_monitor_up").filter(|it| it.value == 1.0).count() == 101
    });
    let inconclusive = |page: &Metrics| -> f64 {
        page.all("tcp_monitor_probes_total")
            .filter(|it| it.labels["outcome"] == "inconclusive")
            .map(|it| it.value)
            .sum()
    };
    let error = |what: &str, begin: &dyn Fn(), end: &dyn Fn()| {
        let old = inconclusive(&page(&exporter));
        begin();
        wait_for(&exporter, |it| inconclusive(it) >= old + 5.0);
        sleep(Duration::from_secs(3));
        assert_nobody_blamed(&exporter, what, &before);
        end();
        let seen = probes(&page(&exporter), "far", "success");
        wait_for(&exporter, |it| probes(it, "far", "success") > seen + 1.0);
        assert_nobody_blamed(&exporter, what, &before);
    };

    let device = device(&netns);
    let route = |verb| {
        netns.run(&["ip", "route", verb, "10.77.0.0/24", "dev", &device]);
    };
    error("no route", &|| route("del"), &|| route("add"));

    // A descriptor limit that leaves none: no probe, no request.
    let id = exporter.id().to_string();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).expect("it lives").count();
    let low = format!("--nofile={open}:4096");
    let old = probes(&page(&exporter), "well0", "success");
    let _ = Command::new("prlimit").args(["--pid", &id, &low]).status();
    sleep(Duration::from_secs(4));
    let _ = Command::new("prlimit").args(["--pid", &id, "--nofile=4096:4096"]).status();
    wait_for(&exporter, |it| probes(it, "well0", "success") > old + 1.0);
    assert_nobody_blamed(&exporter, "no descriptors", &before);

    exporter.signal(Signal::SIGSTOP);
    sleep(Duration::from_secs(5));
    exporter.signal(Signal::SIGCONT);
    let old = probes(&page(&exporter), "well0", "success");
    wait_for(&exporter, |it| probes(it, "well0", "success") > old + 1.0);
    assert_nobody_blamed(&exporter, "stopped for 5 s, six times the timeout", &before);
}

/// The device that a namespace's address 10.77.0.1 is on.
fn device(netns: &Netns) -> String {
    let text = netns.run(&["ip", "-o", "-4", "address", "show", "to", "10.77.0.1"]);
    text.split_whitespace().nth(1).expect("a device").to_owned()
}

#[test]
fn exhausted_ports_change_no_verdict() {
    if !Netns::available("exhausted_ports_change_no_verdict") {
        return;
    }
    let netns = Netns::new("ports");
    let port = sink(&netns);
    let config = format!(
        "defaults: {{interval: 500ms, timeout: 400ms, confirm: {{failures: 1}}}}\nmonitors:\n{}",
        (0..50).fold(String::new(), |mut text, it| {
            let _ = writeln!(text, "  - {{name: m{it}, host: 127.0.0.1, port: {port}}}");
            text
        })
    );
    let exporter = Exporter::new(EXPORTER).config(&config).netns(&netns).start();
    let before = wait_for(&exporter, |it| {
        it.all("tcp_monitor_up").filter(|it| it.value == 1.0).count() == 50
    });
    // Closed connections hold their ports for a minute: ten do not last for a second.
    netns.run(&["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=0"]);
    netns.run(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40009"]);
    wait_for(&exporter, |it| {
        it.all("tcp_monitor_failure_info").any(|it| it.labels["reason"] == "local_resources")
    });
    sleep(Duration::from_secs(3));
    assert_nobody_blamed(&exporter, "ten ports for 100 probes a second", &before);
}

#[test]
fn every_address_of_a_name_is_probed_where_that_is_asked_for() {
    if !Netns::available("every_address_of_a_name_is_probed_where_that_is_asked_for") {
        return;
    }
    let netns = Netns::new("addresses");
    // `ip netns exec` puts the files of this directory in the place of those in /etc.
    let etc = netns.etc();
    let hosts = [1, 2, 3, 4].map(|it| format!("127.9.9.{it} four.test\n")).concat();
    std::fs::write(etc.join("hosts"), hosts).expect("a file");
    let listen = |it: u8, port| {
        netns.within(|| {
            Listener::serve(SocketAddr::new(IpAddr::from([127, 9, 9, it]), port), |it| {
                it.read_to_end();
            })
        })
    };
    let mut listeners = vec![listen(1, 0)];
    let port = listeners[0].port();
    listeners.extend((2..=4).map(|it| listen(it, port)));
    let monitors: String = ["first", "any", "all", "quorum"]
        .map(|it| format!("  - {{name: {it}, host: four.test, port: {port}, addresses: {it}}}\n"))
        .concat();
    let config = format!(
        "modules: {{tcp_connect: {{prober: tcp, tcp: {{preferred_ip_protocol: ip4}}}}}}\n\
         defaults: {{interval: 500ms, timeout: 400ms, module: tcp_connect, confirm: {{failures: 1}}}}\nmonitors:\n{monitors}"
    );
    let exporter = Exporter::new(EXPORTER).config(&config).netns(&netns).start();
    wait_for(&exporter, |it| it.all("tcp_monitor_up").filter(|it| it.value == 1.0).count() == 4);
    let verdicts = |page: &Metrics| ["any", "all", "quorum"].map(|it| up(page, it));
    let shut = |page: &Metrics, monitor| {
        let mut shut: Vec<_> = page
            .all("tcp_monitor_address_success")
            .filter(|it| it.labels["monitor"] == monitor && it.value == 0.0)
            .map(|it| it.labels["address"].clone())
            .collect();
        shut.sort();
        shut
    };

    drop(listeners.remove(2));
    let page = wait_for(&exporter, |it| verdicts(it) == [Some(1.0), Some(0.0), Some(1.0)]);
    assert_eq!(shut(&page, "all"), ["127.9.9.3"]);
    eprintln!("one of four shut: `all` shows {:?}", shut(&page, "all"));

    drop(listeners.remove(1));
    let page = wait_for(&exporter, |it| verdicts(it) == [Some(1.0), Some(0.0), Some(0.0)]);
    assert_eq!(shut(&page, "quorum"), ["127.9.9.2", "127.9.9.3"]);

    listeners.clear();
    wait_for(&exporter, |it| verdicts(it) == [Some(0.0), Some(0.0), Some(0.0)]);
}

/// A service that greets while it is well, and accepts in silence while it is not.
fn greeter() -> (Listener, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let greets = Arc::clone(&well);
    let listener = Listener::serve("127.0.0.1:0".parse().expect("an address"), move |visitor| {
        if greets.load(Ordering::Relaxed) {
            visitor.write(b"hello\n");
        }
        visitor.read_to_end();
    });
    (listener, well)
}

#[test]
fn while_every_canary_fails_silence_blames_no_target() {
    let (mut canary, (service, well)) = (Service::start(), greeter());
    let config = format!(
        "modules:\n  hello: {{prober: tcp, timeout: 400ms, tcp: {{query_response: [{{expect: hello}}]}}}}\n  \
         slow: {{prober: tcp, timeout: 2s, tcp: {{query_response: [{{expect: hello}}]}}}}\n\
         defaults: {{interval: 500ms, timeout: 400ms, confirm: {{failures: 2, retry_interval: 200ms}}}}\n\
         canaries: [\"127.0.0.1:{}\"]\n\
         monitors:\n  - {{name: m, host: 127.0.0.1, port: {}, module: hello}}\n",
        canary.address.port(),
        service.port()
    );
    let exporter = Exporter::new(EXPORTER).config(&config).start();
    let isolated = |page: &Metrics| page.value("tcp_probe_exporter_isolated", &[]);
    wait_for(&exporter, |page| up(page, "m") == Some(1.0));

    canary.stop();
    well.store(false, Ordering::Relaxed);
    let cut_off = wait_for(&exporter, |page| probes(page, "m", "inconclusive") >= 5.0);
    let reason = cut_off.label("tcp_monitor_failure_info", "reason");
    assert_eq!(reason, Some("local_isolated"));
    assert_eq!(isolated(&cut_off), Some(1.0));
    assert_eq!(up(&cut_off, "m"), Some(1.0));
    let on_demand = || exporter.get(&format!("/probe?module=hello&target={}", service.target()));
    let answer = on_demand();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().starts_with("inconclusive: local_isolated (dialogue)"), "{answer:?}");
    // Between the two stops the target alone may have been seen down, once.
    assert!(probes(&cut_off, "m", "failure") < 2.0);

    // A probe that begins while this region is cut off proves nothing, even if it ends after.
    let silent = Listener::silent();
    let path = format!("/probe?module=slow&target={}", silent.target());
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| exporter.get(&path));
        let accepted = || if silent.accepted() > 0 { Ok(()) } else { Err("nobody".into()) };
        wait_until(LIMIT, accepted);
        canary.resume();
        asked.join().expect("no panic")
    });
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("result was `expect_timeout`"), "{}", answer.text());

    let down = wait_for(&exporter, |page| up(page, "m") == Some(0.0));
    assert_eq!(down.label("tcp_monitor_failure_info", "reason"), Some("expect_timeout"));
    assert_eq!(isolated(&down), Some(0.0));
    let blamed = Metrics::parse(&on_demand().text());
    assert_eq!(blamed.label("probe_failure_info", "reason"), Some("expect_timeout"));

    // That a canary answers again is noticed without any failure.
    canary.stop();
    assert_eq!(on_demand().status, 503);
    well.store(true, Ordering::Relaxed);
    wait_for(&exporter, |page| up(page, "m") == Some(1.0) && isolated(page) == Some(1.0));
    canary.resume();
    wait_for(&exporter, |page| isolated(page) == Some(0.0));
    // A refusal proves contact: it is the target's, whatever the canaries do.
    canary.stop();
    let refusing = exporter.get(&format!("/probe?target={}", canary.address));
    let refused = Metrics::parse(&refusing.text());
    assert_eq!(refused.label("probe_failure_info", "reason"), Some("refused"));
    eprintln!("cut off: {} inconclusive, verdict kept", probes(&cut_off, "m", "inconclusive"));
}

/// Names and labels of all series of monitors, without those that come and go by design: the
/// reason of a failure, its explanation, and the word that a verdict is stale.
fn series(exporter: &Exporter) -> Vec<String> {
    let text = exporter.get("/metrics").text();
    let mut series: Vec<String> = text
        .lines()
        .filter(|it| it.starts_with("tcp_monitor"))
        .filter(|it| !it.contains("failure_info") && !it.starts_with("tcp_monitor_stale"))
        .filter(|it| !it.contains("_path_") && !it.contains("_hint_info"))
        .filter_map(|it| it.rsplit_once(' ').map(|(series, _)| series.to_owned()))
        .collect();
    series.sort();
    series
}

#[test]
fn series_stay_the_same_through_failure_dns_change_and_recovery() {
    if !Netns::available("series_stay_the_same_through_failure_dns_change_and_recovery") {
        return;
    }
    let netns = Netns::new("series");
    let etc = netns.etc();
    let hosts = |address| std::fs::write(etc.join("hosts"), format!("{address} moving.test\n"));
    hosts("127.9.9.1").expect("a file");
    let listen = |address: [u8; 4], port| {
        let address = SocketAddr::new(IpAddr::from(address), port);
        netns.within(|| Listener::serve(address, harness::listener::Visitor::read_to_end))
    };
    let first = listen([127, 9, 9, 1], 0);
    let port = first.port();
    let config = format!(
        "modules: {{tcp_connect: {{prober: tcp, tcp: {{preferred_ip_protocol: ip4}}}}}}\n\
         defaults: {{interval: 500ms, timeout: 400ms, module: tcp_connect, confirm: {{failures: 1}}}}\n\
         monitors:\n  - {{name: m, host: moving.test, port: {port}, group: g, labels: {{team: a}}}}\n"
    );
    let exporter = Exporter::new(EXPORTER).config(&config).netns(&netns).start();
    wait_for(&exporter, |it| up(it, "m") == Some(1.0));
    let before = series(&exporter);
    assert!(before.len() > 15, "{before:?}");
    let same = |when| assert_eq!(series(&exporter), before, "{when}");

    drop(first);
    wait_for(&exporter, |it| up(it, "m") == Some(0.0));
    same("while it fails");
    let second = listen([127, 9, 9, 2], port);
    hosts("127.9.9.2").expect("a file");
    wait_for(&exporter, |it| up(it, "m") == Some(1.0));
    assert!(second.accepted() > 0);
    same("after its address changed");
    // Without the name in the file a name server would be asked, to which there is no way.
    hosts("# nobody").expect("a file");
    wait_for(&exporter, |it| probes(it, "m", "inconclusive") >= 2.0);
    same("while the name cannot be looked up");
    let seen = probes(&page(&exporter), "m", "success");
    hosts("127.9.9.2").expect("a file");
    wait_for(&exporter, |it| probes(it, "m", "success") > seen);
    same("after recovery");
    eprintln!("{} series, the same before, during and after", before.len());
}
