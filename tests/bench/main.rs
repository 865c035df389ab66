//! What the exporter costs, as ratios in one run: against a bare epoll loop, against
//! `blackbox_exporter`, against the kernel's own clock.
//!
//! `cargo bench --bench cost` prints the table; `cargo bench --bench cost -- NAME…` some rows of
//! it; `COST_BEFORE=FILE` names an older build to compare with. Every comparison alternates its sides and takes medians, since machines are noisy.
//! All traffic stays on loopback.

#![expect(clippy::cast_precision_loss, reason = "a benchmark's figures are no exact numbers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

use std::fmt::Write as _;

mod bare;
mod before;
mod blackbox;
mod client;
mod fleet;
mod floor;
mod on_demand;
mod process;
mod sink;

/// The exporter under test, built with the profile of a release.
const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");

/// One line of the table.
struct Row {
    what: String,
    seen: String,
    reach: &'static str,
    aim: &'static str,
    verdict: &'static str,
}

/// Measures some rows.
type Bench = fn() -> Vec<Row>;

/// Smaller is better.
fn at_most(
    what: &str,
    seen: f64,
    unit: &str,
    reach: (f64, &'static str),
    aim: (f64, &'static str),
) -> Row {
    judge(what, seen, unit, (seen <= reach.0, reach.1), (seen <= aim.0, aim.1))
}

/// Larger is better.
fn at_least(
    what: &str,
    seen: f64,
    unit: &str,
    reach: (f64, &'static str),
    aim: (f64, &'static str),
) -> Row {
    judge(what, seen, unit, (seen >= reach.0, reach.1), (seen >= aim.0, aim.1))
}

fn judge(
    what: &str,
    seen: f64,
    unit: &str,
    (reached, reach): (bool, &'static str),
    (aimed, aim): (bool, &'static str),
) -> Row {
    let verdict = if aimed {
        "aim"
    } else if reached {
        "reach"
    } else {
        "missed"
    };
    let digits = if seen >= 100.0 {
        0
    } else if seen >= 10.0 {
        1
    } else {
        2
    };
    Row { what: what.to_owned(), seen: format!("{seen:.digits$}{unit}"), reach, aim, verdict }
}

/// The middle of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    match words.first().map(String::as_str) {
        Some("bare") => return bare::main(&words[1..]),
        Some("floor") => return floor::main(&words[1..]),
        Some("sink") => return sink::main(&words[1..]),
        _ => {}
    }
    let benches: [(&str, Bench); 9] = [
        ("scheduled", fleet::scheduled_against_floor),
        ("on-demand", on_demand::against_blackbox),
        ("memory", fleet::memory_and_scrape),
        ("lateness", fleet::lateness),
        ("start", fleet::start),
        ("idle", fleet::idle),
        ("accuracy", fleet::accuracy),
        ("size", fleet::size),
        ("before", before::against_before),
    ];
    let mut rows = Vec::new();
    for (name, bench) in benches {
        if words.is_empty() || words.iter().any(|it| it == name) {
            eprintln!("== {name}");
            rows.extend(bench());
        }
    }
    let mut table = String::from("\n| what | seen | reach | aim | |\n|---|---|---|---|---|\n");
    for Row { what, seen, reach, aim, verdict } in rows {
        let _ = writeln!(table, "| {what} | {seen} | {reach} | {aim} | {verdict} |");
    }
    println!("{table}");
}
