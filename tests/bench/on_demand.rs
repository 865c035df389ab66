//! `/probe`, side by side with `blackbox_exporter`.

use std::time::Instant;

use harness::Exporter;

use crate::client::{load, p99};
use crate::process::{Process, cpu};
use crate::{EXPORTER, Row, at_least, at_most, blackbox, median};

const ROUNDS: usize = 5;
const REQUESTS: u64 = 6_000;
const CONNECTIONS: usize = 16;

pub(crate) fn against_blackbox() -> Vec<Row> {
    let (_sink, port) = Process::own(&["sink"]);
    let path = format!("/probe?target=127.0.0.1:{port}&module=tcp_connect");
    let ours = Exporter::new(EXPORTER).start();
    let directory = tempfile::tempdir().expect("a directory");
    let Some((theirs, their_address)) = blackbox::start(directory.path()) else {
        eprintln!("blackbox_exporter is not installed: no comparison");
        return Vec::new();
    };
    let bytes = ours.get(&path).text().len();
    let (bare, bare_address) =
        Process::own(&["bare", &format!("127.0.0.1:{port}"), &bytes.to_string()]);
    let bare_address = bare_address.parse().expect("an address");
    let sides =
        [(ours.id(), ours.address()), (theirs.id(), their_address), (bare.id(), bare_address)];
    let mut figures = [const { (Vec::new(), Vec::new()) }; 3];
    for side in sides {
        load(side.1, &path, CONNECTIONS, 500, None);
    }
    for _ in 0..ROUNDS {
        for ((id, address), (costs, rates)) in sides.into_iter().zip(&mut figures) {
            let (begin, before) = (Instant::now(), cpu(id));
            load(address, &path, CONNECTIONS, REQUESTS, None);
            costs.push((cpu(id) - before) / REQUESTS as f64);
            rates.push(REQUESTS as f64 / begin.elapsed().as_secs_f64());
        }
    }
    let [(our_cost, our_rate), (their_cost, their_rate), (bare_cost, _)] =
        figures.map(|(costs, rates)| (median(costs), median(rates)));
    eprintln!(
        "CPU per request: {:.1} µs against {:.1} µs, a bare handler {:.1} µs; rate {our_rate:.0}/s \
         against {their_rate:.0}/s",
        our_cost * 1e6,
        their_cost * 1e6,
        bare_cost * 1e6
    );

    let mut tails = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for ((_, address), tails) in sides.into_iter().take(2).zip(&mut tails) {
            tails.push(p99(&load(address, &path, 64, 4 * REQUESTS, Some(their_rate))));
        }
    }
    let [ours, theirs] = tails.map(median);
    eprintln!("p99 at {their_rate:.0}/s: {:.2} ms against {:.2} ms", ours * 1e3, theirs * 1e3);
    vec![
        at_least(
            "CPU per `/probe` request, blackbox_exporter / ours",
            their_cost / our_cost,
            "",
            (5.0, "≥ 5"),
            (7.0, "≥ 7"),
        ),
        at_most(
            "the same, ours / a bare handler that connects and answers as much",
            our_cost / bare_cost,
            "",
            (1.5, ""),
            (1.0, ""),
        ),
        at_least(
            "`/probe` rate, 16 connections, ours / blackbox_exporter",
            our_rate / their_rate,
            "",
            (3.0, "≥ 3"),
            (4.0, "≥ 4"),
        ),
        at_least(
            "p99 of `/probe` where blackbox_exporter saturates, blackbox_exporter / ours",
            theirs / ours,
            "",
            (5.0, "≥ 5"),
            (10.0, "≥ 10"),
        ),
    ]
}
