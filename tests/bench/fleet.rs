//! Scheduled monitors: CPU, memory, scrapes, lateness, start.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use harness::servers::free_port;
use harness::{Exporter, Metrics, http, wait_until};

use crate::process::{Process, cpu, memory, reset_peak};
use crate::{EXPORTER, Row, at_most, median};

/// The loopback address of a target.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + number)
}

pub(crate) fn monitors(count: u32, port: &str, interval: &str) -> String {
    let mut text = format!("defaults: {{interval: {interval}, timeout: 90ms}}\n");
    if !interval.ends_with("ms") {
        text = text.replace("90ms", "900ms");
    }
    text.push_str("monitors:\n");
    for number in 0..count {
        let _ = writeln!(text, "  - {{name: m{number}, host: {}, port: {port}}}", address(number));
    }
    text
}

/// The program with this configuration, ready.
pub(crate) fn started(program: &str, config: &str) -> Exporter {
    let exporter = Exporter::new(program).config(config).start();
    wait_until(Duration::from_secs(60), || match exporter.get("/-/ready").status {
        200 => Ok(()),
        status => Err(format!("not ready: {status}")),
    });
    exporter
}

pub(crate) fn probes(exporter: &Exporter) -> (f64, f64) {
    let metrics = Metrics::parse(&exporter.get("/metrics").text());
    let name = "tcp_probe_exporter_probes_total";
    let of = |outcome: &str| -> f64 {
        metrics
            .all(name)
            .filter(|it| it.labels.get("outcome").is_some_and(|it| it == outcome))
            .map(|it| it.value)
            .sum()
    };
    (of("success"), of("failure") + of("inconclusive"))
}

/// Waits for so many successful probes since the start.
pub(crate) fn wait_for_probes(exporter: &Exporter, count: f64) {
    wait_until(Duration::from_secs(180), || match probes(exporter) {
        (success, _) if success >= count => Ok(()),
        state => Err(format!("{state:?}")),
    });
}

/// CPU seconds for each probe of the bare loop.
fn floor(rate: u32, seconds: u32, port: &str, targets: u32, polite: bool) -> f64 {
    let [rate, seconds, targets] = [rate, seconds, targets].map(|it| it.to_string());
    let output = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["floor", &rate, &seconds, port, &targets, if polite { "1" } else { "0" }])
        .output()
        .expect("the floor runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().and_then(|it| it.parse().ok()).expect("a figure")
}

pub(crate) fn scheduled_against_floor() -> Vec<Row> {
    const RATE: u32 = 5_000;
    let (_sink, port) = Process::own(&["sink"]);
    let exporter = started(EXPORTER, &monitors(RATE, &port, "1s"));
    wait_for_probes(&exporter, f64::from(RATE) * 3.0);
    let floor = |polite| floor(RATE, 5, &port, RATE, polite);
    let (mut ours, mut floors, mut polite) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let (before, (start, _)) = (cpu(exporter.id()), probes(&exporter));
        std::thread::sleep(Duration::from_secs(5));
        let ((end, _), after) = (probes(&exporter), cpu(exporter.id()));
        ours.push((after - before) / (end - start));
        // The others have the machine to themselves, as it had.
        exporter.signal(nix::sys::signal::Signal::SIGSTOP);
        floors.push(floor(false));
        polite.push(floor(true));
        exporter.signal(nix::sys::signal::Signal::SIGCONT);
        std::thread::sleep(Duration::from_secs(3));
    }
    let (_, bad) = probes(&exporter);
    let (ours, floor, polite) = (median(ours), median(floors), median(polite));
    eprintln!(
        "{:.1} µs; floor {:.1} µs, with a polite close {:.1} µs; {bad} not successful",
        ours * 1e6,
        floor * 1e6,
        polite * 1e6
    );
    vec![
        at_most(
            "CPU per scheduled probe / epoll floor",
            ours / floor,
            "",
            (1.5, "≤ 1.5"),
            (1.25, "≤ 1.25"),
        ),
        at_most(
            "the same / epoll floor that closes politely too",
            ours / polite,
            "",
            (1.5, ""),
            (1.25, ""),
        ),
    ]
}

pub(crate) fn memory_and_scrape() -> Vec<Row> {
    const TARGETS: u32 = 100_000;
    let empty = Exporter::new(EXPORTER).start();
    let _ = empty.get("/metrics");
    let base = memory(empty.id(), "VmRSS:");
    drop(empty);

    let (_sink, port) = Process::own(&["sink"]);
    let exporter = started(EXPORTER, &monitors(TARGETS, &port, "60s"));
    wait_for_probes(&exporter, f64::from(TARGETS));
    let settled = memory(exporter.id(), "VmRSS:");
    let (mut costs, mut lines, mut peak) = (Vec::new(), 1.0, 0.0_f64);
    for _ in 0..5 {
        reset_peak(exporter.id());
        let resident = memory(exporter.id(), "VmRSS:");
        // What the probes cost meanwhile is not the scrape's.
        let (before, begin) = (cpu(exporter.id()), Instant::now());
        let page = exporter.get("/metrics").text();
        let (took, scrape) = (begin.elapsed(), cpu(exporter.id()) - before);
        let idle = cpu(exporter.id());
        std::thread::sleep(took);
        let probing = cpu(exporter.id()) - idle;
        lines = page.lines().count() as f64;
        costs.push((scrape - probing).max(0.0) / lines);
        peak = peak.max(memory(exporter.id(), "VmHWM:") - resident);
    }
    let per_target = (memory(exporter.id(), "VmRSS:").max(settled) - base) / f64::from(TARGETS);
    eprintln!("{lines} lines a scrape; {:.0} MiB resident", settled / 1_048_576.0);
    vec![
        at_most(
            "resident memory per scheduled target, 100,000 targets",
            per_target,
            " B",
            (1228.8, "≤ 1.2 KiB"),
            (700.0, "≤ 700 B"),
        ),
        at_most(
            "scrape, CPU per line",
            median(costs) * 1e9,
            " ns",
            (200.0, "≤ 200 ns"),
            (80.0, "≤ 80 ns"),
        ),
        at_most(
            "scrape, extra peak memory, 100,000 targets",
            peak / 1_048_576.0,
            " MiB",
            (16.0, "≤ 16 MiB"),
            (4.0, "≤ 4 MiB"),
        ),
    ]
}

/// The quantile of a histogram's growth between two pages, by its bucket's bound.
fn quantile(before: &Metrics, after: &Metrics, name: &str, quantile: f64) -> f64 {
    let bucket = format!("{name}_bucket");
    let mut buckets: Vec<(f64, f64)> = after
        .all(&bucket)
        .map(|it| {
            let le = it.labels.get("le").expect("a bucket has a bound");
            let old = before.value(&bucket, &[("le", le)]).unwrap_or(0.0);
            (le.parse().unwrap_or(f64::INFINITY), it.value - old)
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let total = buckets.last().map_or(0.0, |it| it.1);
    buckets.iter().find(|it| it.1 >= total * quantile).map_or(f64::NAN, |it| it.0)
}

fn lateness_of(count: u32, interval: &str, warm: f64) -> f64 {
    let (_sink, port) = Process::own(&["sink"]);
    let exporter = started(EXPORTER, &monitors(count, &port, interval));
    wait_for_probes(&exporter, warm);
    let page = || Metrics::parse(&exporter.get("/metrics").text());
    let before = page();
    std::thread::sleep(Duration::from_secs(20));
    quantile(&before, &page(), "tcp_probe_exporter_start_lateness_seconds", 0.99) * 1e3
}

pub(crate) fn lateness() -> Vec<Row> {
    vec![
        at_most(
            "lateness p99 at 5,000 probes/s (bucket's bound)",
            lateness_of(5_000, "1s", 20_000.0),
            " ms",
            (20.0, "≤ 20 ms"),
            (5.0, "≤ 5 ms"),
        ),
        at_most(
            "lateness p99, 100,000 targets every 60 s (bucket's bound)",
            lateness_of(100_000, "60s", 100_000.0),
            " ms",
            (20.0, "≤ 20 ms"),
            (5.0, "≤ 5 ms"),
        ),
    ]
}

/// Seconds from the start of the program to its first answer.
pub(crate) fn start_to_answer(program: &str, config: Option<&str>) -> f64 {
    let builder = Exporter::new(program);
    let builder = if let Some(config) = config { builder.config(config) } else { builder };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let begin = Instant::now();
    let answered = std::thread::spawn(move || {
        let ask = || http::request(address, "GET", "/-/healthy", &[], b"");
        while !ask().is_ok_and(|answer| answer.status == 200) {
            std::thread::sleep(Duration::from_micros(200));
        }
        begin.elapsed().as_secs_f64()
    });
    let _exporter = builder.flag(&format!("--web.listen-address={address}")).start();
    answered.join().expect("no panic")
}

pub(crate) fn start() -> Vec<Row> {
    let large = monitors(100_000, "1", "1h");
    let empty = median((0..9).map(|_| start_to_answer(EXPORTER, None)).collect());
    let full = median((0..3).map(|_| start_to_answer(EXPORTER, Some(&large))).collect());
    vec![
        at_most(
            "start to first answer, no monitors",
            empty * 1e3,
            " ms",
            (20.0, "≤ 20 ms"),
            (10.0, "≤ 10 ms"),
        ),
        at_most(
            "start to first answer, 100,000 monitors",
            full,
            " s",
            (2.0, "≤ 2 s"),
            (1.0, "≤ 1 s"),
        ),
    ]
}

pub(crate) fn idle() -> Vec<Row> {
    let (_sink, port) = Process::own(&["sink"]);
    let exporter = started(EXPORTER, &monitors(1_000, &port, "60s"));
    wait_for_probes(&exporter, 1_500.0);
    let before = cpu(exporter.id());
    std::thread::sleep(Duration::from_secs(60));
    let share = (cpu(exporter.id()) - before) / 60.0;
    drop(exporter);
    // A processor that was asleep is slow, whoever wakes it.
    let floor = floor(17, 30, &port, 1_000, true) * 1_000.0 / 60.0;
    vec![
        at_most(
            "idle CPU, 1,000 targets every 60 s",
            share * 100.0,
            " % of a core",
            (0.3, "≤ 0.3 %"),
            (0.15, "≤ 0.15 %"),
        ),
        at_most(
            "the same / polite epoll floor at this pace",
            share / floor,
            "",
            (1.5, ""),
            (1.25, ""),
        ),
    ]
}

/// The time that people are shown against the kernel's own, idle and with every core busy.
pub(crate) fn accuracy() -> Vec<Row> {
    let (_sink, port) = Process::own(&["sink"]);
    let exporter = Exporter::new(EXPORTER).start();
    let path = format!("/probe?target=127.0.0.1:{port}");
    let sample = || {
        let metrics = Metrics::parse(&exporter.get(&path).text());
        let rtt = metrics.value("probe_tcp_rtt_seconds", &[]).unwrap_or(f64::NAN);
        let wall = metrics.value("probe_phase_duration_seconds", &[("phase", "connect")]);
        (rtt, wall.unwrap_or(f64::NAN))
    };
    let medians = || {
        let (rtt, wall): (Vec<_>, Vec<_>) = (0..500).map(|_| sample()).unzip();
        (median(rtt) * 1e6, median(wall) * 1e6)
    };
    let (idle_rtt, idle_wall) = medians();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (busy_rtt, busy_wall) = std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let medians = medians();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        medians
    });
    eprintln!(
        "idle: kernel {idle_rtt:.0} µs, wall {idle_wall:.0} µs; busy: kernel {busy_rtt:.0} µs, wall {busy_wall:.0} µs"
    );
    Vec::new()
}

pub(crate) fn size() -> Vec<Row> {
    let bytes = std::fs::metadata(EXPORTER).expect("it was built").len() as f64;
    vec![at_most(
        "release binary, stripped",
        bytes / 1_048_576.0,
        " MiB",
        (15.0, "≤ 15 MiB"),
        (8.0, "≤ 8 MiB"),
    )]
}
