//! Two builds of the exporter side by side: `COST_BEFORE=FILE` names the older program.

use std::time::{Duration, Instant};

use harness::Exporter;
use nix::sys::signal::Signal;

use crate::client::load;
use crate::fleet::{monitors, probes, start_to_answer, started, wait_for_probes};
use crate::process::{Process, cpu, memory};
use crate::{EXPORTER, Row, median};

/// A build may cost this much more before it counts: machines are noisy.
const NOISE: f64 = 1.05;
const RATE: u32 = 5_000;
const TARGETS: u32 = 50_000;
const REQUESTS: u64 = 6_000;

/// The older program and the one under test.
type Programs = [&'static str; 2];

pub(crate) fn against_before() -> Vec<Row> {
    let Some(before) = std::env::var_os("COST_BEFORE") else {
        eprintln!("COST_BEFORE=FILE names no older program: no comparison");
        return Vec::new();
    };
    let programs = [&*before.into_string().expect("a path").leak(), EXPORTER];
    let (_sink, port) = Process::own(&["sink"]);
    let mut rows = scheduled(programs, &port);
    rows.extend(on_demand(programs, &port));
    rows.extend(fleet(programs, &port));
    rows.push(start(programs));
    rows
}

/// A figure of both programs.
fn row(what: &str, [before, after]: [f64; 2], (factor, unit): (f64, &str)) -> Row {
    let ratio = after / before;
    let seen = format!("{:.1} → {:.1}{unit}, {ratio:.2}", before * factor, after * factor);
    let verdict = if ratio <= NOISE { "aim" } else { "missed" };
    Row { what: format!("before → after: {what}"), seen, reach: "", aim: "≤ 1.05", verdict }
}

/// CPU of a probe on schedule. Only one of the two runs at a time.
fn scheduled(programs: Programs, port: &str) -> Vec<Row> {
    let sides = programs.map(|program| {
        let exporter = started(program, &monitors(RATE, port, "1s"));
        wait_for_probes(&exporter, f64::from(RATE) * 3.0);
        exporter.signal(Signal::SIGSTOP);
        exporter
    });
    let mut figures = [const { Vec::new() }; 2];
    for _ in 0..7 {
        for (exporter, figures) in sides.iter().zip(&mut figures) {
            exporter.signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_secs(3));
            let (begin, (start, _)) = (cpu(exporter.id()), probes(exporter));
            std::thread::sleep(Duration::from_secs(5));
            let ((end, _), used) = (probes(exporter), cpu(exporter.id()) - begin);
            figures.push(used / (end - start));
            exporter.signal(Signal::SIGSTOP);
        }
    }
    for exporter in &sides {
        exporter.signal(Signal::SIGCONT);
    }
    vec![row("CPU of a scheduled probe", figures.map(median), (1e6, " µs"))]
}

fn on_demand(programs: Programs, port: &str) -> Vec<Row> {
    let sides = programs.map(|program| Exporter::new(program).start());
    let path = format!("/probe?target=127.0.0.1:{port}&module=tcp_connect");
    let mut figures = [const { Vec::new() }; 2];
    for round in 0..8 {
        for (exporter, figures) in sides.iter().zip(&mut figures) {
            let begin = cpu(exporter.id());
            load(exporter.address(), &path, 16, REQUESTS, None);
            // The first round warms up.
            if round > 0 {
                figures.push((cpu(exporter.id()) - begin) / REQUESTS as f64);
            }
        }
    }
    vec![row("CPU of a probe on demand", figures.map(median), (1e6, " µs"))]
}

/// Memory and scrapes of a large fleet.
fn fleet(programs: Programs, port: &str) -> Vec<Row> {
    let sides = programs.map(|program| {
        let empty = Exporter::new(program).start();
        let _ = empty.get("/metrics");
        let base = memory(empty.id(), "VmRSS:");
        let exporter = started(program, &monitors(TARGETS, port, "120s"));
        wait_for_probes(&exporter, f64::from(TARGETS));
        (exporter, base)
    });
    let mut scrapes = [const { Vec::new() }; 2];
    let mut series = [1.0; 2];
    for _ in 0..9 {
        for (at, (exporter, _)) in sides.iter().enumerate() {
            let (before, begin) = (cpu(exporter.id()), Instant::now());
            let page = exporter.get("/metrics").text();
            let (took, scrape) = (begin.elapsed(), cpu(exporter.id()) - before);
            let idle = cpu(exporter.id());
            std::thread::sleep(took);
            // What the probes cost meanwhile is not the scrape's.
            let probing = cpu(exporter.id()) - idle;
            series[at] = page.lines().filter(|line| !line.starts_with('#')).count() as f64;
            scrapes[at].push((scrape - probing).max(0.0));
        }
    }
    let targets = f64::from(TARGETS);
    let scrapes = scrapes.map(median);
    let resident = [0, 1].map(|at| (memory(sides[at].0.id(), "VmRSS:") - sides[at].1) / targets);
    vec![
        row("resident memory of a target", resident, (1.0, " B")),
        row("series of a target", series.map(|all| all / targets), (1.0, "")),
        row("CPU of a scrape, for each target", scrapes.map(|all| all / targets), (1e6, " µs")),
        row(
            "CPU of a scrape, for each series",
            [scrapes[0] / series[0], scrapes[1] / series[1]],
            (1e9, " ns"),
        ),
    ]
}

fn start(programs: Programs) -> Row {
    let config = monitors(100_000, "1", "1h");
    let mut figures = [const { Vec::new() }; 2];
    for _ in 0..5 {
        for (program, figures) in programs.iter().zip(&mut figures) {
            figures.push(start_to_answer(program, Some(&config)));
        }
    }
    row("start with 100,000 monitors", figures.map(median), (1e3, " ms"))
}
