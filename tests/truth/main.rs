//! The truth table: a world for each situation, broken in one definite way, and whether every way
//! of asking the exporter puts the fault where it is.
//!
//! A row is a test: `tests/run --test truth -- gateway_silent`. The truth is what was broken, not
//! what the exporter can know; what nobody can know from where it stands is no row but a line of
//! the README. `TRUTH_TABLE=FILE` writes the table, `TRUTH_COMPARE=1` asks
//! `blackbox_exporter` beside.

#![expect(clippy::print_stderr, reason = "the table is what the suite is for")]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use harness::Netns;
use libtest_mimic::{Arguments, Trial};

use crate::situation::Situation;
use crate::table::{Row, Table};

mod ask;
mod compare;
mod link;
mod machine;
mod names;
mod path;
mod process;
mod scene;
mod service;
mod sight;
mod situation;
mod table;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
/// Rows at once. A row is mostly waiting: for timeouts, for neighbours, for the next run.
const AT_ONCE: usize = 16;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let table = Arc::new(Mutex::new(Table::default()));
    let available = arguments.list || Netns::available("the truth table");
    let mut trials: Vec<Trial> = Vec::new();
    for situation in situations() {
        let situation = Arc::new(situation);
        for &v6 in situation.versions() {
            let (row, table) = (Arc::clone(&situation), Arc::clone(&table));
            let name = format!("{}::{}", situation.name, if v6 { "v6" } else { "v4" });
            let trial = Trial::test(name, move || {
                let row = Row::of(&row, v6);
                let said = row.verdict();
                table.lock().expect("table").add(row);
                said.map_err(Into::into)
            });
            trials.push(trial.with_ignored_flag(!available));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let table = table.lock().expect("table");
    if !arguments.list {
        eprintln!("{table}");
        table.publish();
    }
    if conclusion.has_failed() || !table.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// All of them, in the order of the table.
fn situations() -> Vec<Situation> {
    let all = [
        service::situations(),
        path::situations(),
        sight::situations(),
        names::situations(),
        link::situations(),
        machine::situations(),
        process::situations(),
    ];
    all.into_iter().flatten().collect()
}
