//! `tcp_probe_exporter probe`: the prober at a terminal.

use std::process::ExitCode;

use clap::Args;

/// The words after `probe`.
#[derive(Args, Debug)]
pub struct Words {
    /// HOST:PORT, with more ports as HOST:PORT,PORT or HOST:PORT-PORT.
    #[arg(required = true, value_name = "HOST:PORT[,PORT|-PORT]")]
    targets: Vec<String>,
}

/// Probes and prints.
#[must_use]
pub fn run(words: &Words) -> ExitCode {
    let _ = &words.targets;
    ExitCode::from(2)
}
