//! Paths and counter-checks over routers of our own, in network namespaces.
//!
//! Each situation is looked at a few times. `PATH_RUNS=200` asks for as many, which takes hours
//! for all of them: name the test, too.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "shown only if a test fails")]

use std::time::Duration;

use harness::Netns;

use crate::chain::Chain;

mod chain;
mod explain;
mod hints;
mod trace;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");

/// Long enough that no machine is too busy for it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often to look, where nothing else is asked for.
#[expect(clippy::disallowed_methods, reason = "a run by name")]
fn runs(few: usize) -> usize {
    std::env::var("PATH_RUNS").ok().and_then(|count| count.parse().ok()).unwrap_or(few)
}

fn chain(test: &str) -> Option<Chain> {
    Netns::available(test).then(Chain::new)
}
