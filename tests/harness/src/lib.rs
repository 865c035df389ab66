//! Real peers for the tests: the exporter as a process, hosts in network namespaces, servers.
//!
//! Nothing is mocked and nothing sleeps to let things happen: [`wait_until`] waits for a condition
//! and shows the last state if it never comes. Every process started here ends with its handle,
//! and at the latest with the test's own process ([`process`]).
//!
//! ```no_run
//! # const BINARY: &str = "exporter";
//! use harness::{Exporter, Listener};
//!
//! let peer = Listener::banner(b"220 ready\r\n");
//! let exporter = Exporter::new(BINARY).start();
//!
//! let metrics = exporter.probe(&peer.target(), "tcp_connect");
//!
//! assert_eq!(metrics.value("probe_success", &[]), Some(1.0));
//! ```

pub mod exporter;
pub mod forger;
pub mod hanging;
pub mod http;
pub mod inbox;
pub mod listener;
pub mod metrics;
pub mod name_server;
pub mod netns;
pub mod peers;
pub mod process;
pub mod prometheus;
pub mod servers;

pub use exporter::Exporter;
pub use forger::{Forger, Forgery};
pub use hanging::HangingMount;
pub use http::Response;
pub use inbox::Inbox;
pub use listener::{ClosedPort, Listener};
pub use metrics::Metrics;
pub use name_server::NameServer;
pub use netns::Netns;
pub use process::Process;
pub use prometheus::{Alertmanager, Prometheus};

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a test waits for something that normally takes milliseconds: generous, because the
/// machine may be busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `condition` until it answers `Ok`; panics with the last `Err` once `limit` has passed.
#[track_caller]
pub fn wait_until<T>(limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match condition() {
            Ok(value) => return value,
            Err(state) if start.elapsed() > limit => panic!("not within {limit:?}: {state}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Whether all `programs` are installed. If not, the test named `test` is to be skipped, which is
/// said loudly; where `CI=true` it is a failure, so that nothing is skipped unnoticed.
#[must_use]
pub fn installed(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> =
        programs.iter().filter(|it| process::find(it).is_none()).copied().collect();
    missing.is_empty() || skip(test, &format!("not installed: {}", missing.join(", ")))
}

/// Says that `test` is skipped and returns false; panics where `CI=true`.
pub fn skip(test: &str, why: &str) -> bool {
    let strict = std::env::var_os("CI").is_some_and(|it| it == "true");
    assert!(!strict, "`{test}` cannot run: {why}");
    // Written past the test runner's capture, which would hide it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    false
}
