//! The running exporter, as its users meet it: text in, text compared with text out.

#![expect(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::process::{Command, Output};
use std::time::Duration;

use harness::Exporter;

mod api;
mod blackbox;
mod command_line;
mod endpoints;
mod probe;
mod prometheus;
mod reload;
mod results;
mod terminal;
mod web;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
/// Long enough for a machine that is busy with everything else.
const LIMIT: Duration = Duration::from_secs(60);

/// An exporter on the embedded configuration.
#[track_caller]
fn exporter() -> Exporter {
    Exporter::new(EXPORTER).start()
}

/// An exporter with flags.
#[track_caller]
fn exporter_with(flags: &[&str]) -> Exporter {
    Exporter::new(EXPORTER).flags(flags).start()
}

/// Runs the program to its end.
#[track_caller]
fn run(words: &[&str]) -> Output {
    Command::new(EXPORTER).args(words).output().expect("it starts")
}

/// What it wrote.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
