//! The embedded presets against the real servers of their protocols: the port up, down, and
//! something else behind it; and what the servers themselves say about the probes.

mod fakes;
mod presets;
mod upstream;

use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard};

use harness::servers::Server;
use harness::{Exporter, Listener, Metrics};

const BINARY: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");

/// At most so many tests run their servers at a time, since the machine may be small.
static SEATS: LazyLock<[Mutex<()>; 3]> = LazyLock::new(Default::default);

/// Waits for a seat. It is given back by dropping, also if the test fails.
fn seat() -> MutexGuard<'static, ()> {
    let free = SEATS.iter().find_map(|it| it.try_lock().ok());
    free.unwrap_or_else(|| {
        let index = std::process::id() as usize % SEATS.len();
        SEATS[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    })
}

/// An exporter on its embedded configuration that trusts the authority in this file.
#[track_caller]
fn exporter(ca_file: Option<&Path>) -> Exporter {
    let exporter = Exporter::new(BINARY);
    match ca_file {
        Some(file) => exporter.env("SSL_CERT_FILE", &file.display().to_string()).start(),
        None => exporter.start(),
    }
}

/// Probes with a deadline of one second, for peers that let it pass.
#[track_caller]
fn probe_briefly(exporter: &Exporter, target: &str, module: &str) -> Metrics {
    let path = format!("/probe?module={module}&target={target}");
    let header = ("X-Prometheus-Scrape-Timeout-Seconds", "1.5");
    let response = exporter.get_with(&path, &[header]);
    assert_eq!(response.status, 200, "{}", response.text());
    Metrics::parse(&response.text())
}

#[track_caller]
fn assert_success(exporter: &Exporter, target: &str, module: &str) {
    let metrics = exporter.probe(target, module);
    assert!(
        metrics.is_success(),
        "`{module}` at {target}: {:?}\n{}",
        metrics.failure(),
        exporter.get(&format!("/probe?module={module}&target={target}&debug=true")).text()
    );
}

#[track_caller]
fn assert_failure(metrics: &Metrics, module: &str, phase: &str, reasons: &[&str]) {
    assert!(!metrics.is_success(), "`{module}` takes it for a success");
    let (found_phase, found) = metrics.failure().expect("a failure has a reason");
    assert!(
        found_phase == phase && reasons.contains(&found),
        "`{module}`: expected {phase} {reasons:?}, found {found_phase} {found}"
    );
}

/// The server's end is noticed as a refusal; ends it for that.
#[track_caller]
fn assert_refused_when_down(exporter: &Exporter, server: Server, modules: &[(&str, usize)]) {
    let targets: Vec<_> =
        modules.iter().map(|(module, port)| (*module, server.target_of(*port))).collect();
    drop(server);
    for (module, target) in targets {
        let metrics = probe_briefly(exporter, &target, module);
        assert_failure(&metrics, module, "connect", &["refused"]);
    }
}

/// What is behind the port is something else: a talker, one who listens in silence, one who hangs
/// up, one who cuts the line, one who sends garbage. All are failures, each with its reason.
#[track_caller]
fn assert_strangers_fail(exporter: &Exporter, module: &str) {
    let phase = if is_tls(module) { "tls" } else { "dialogue" };
    // Speaks first, in a protocol that no preset takes for its own, then waits.
    let talker = Listener::banner(b"hello, what can I do for you?\r\n");
    let metrics = probe_briefly(exporter, &talker.target(), module);
    let wrong = ["expect_rejected", "expect_mismatch", "expect_timeout", "tls_not_tls"];
    assert_failure(&metrics, module, phase, &wrong);

    let garbage = Listener::banner(&(0..=255).cycle().take(70_000).collect::<Vec<u8>>());
    let metrics = probe_briefly(exporter, &garbage.target(), module);
    let wrong = [&wrong[..], &["tls_protocol", "tls_failure", "tls_handshake"]].concat();
    assert_failure(&metrics, module, phase, &wrong);

    let silent = Listener::silent();
    let metrics = probe_briefly(exporter, &silent.target(), module);
    assert_failure(&metrics, module, phase, &["expect_timeout", "tls_timeout"]);

    let closing = Listener::closing();
    let metrics = probe_briefly(exporter, &closing.target(), module);
    assert_failure(&metrics, module, phase, &["closed_early", "reset"]);

    let resetting = Listener::resetting();
    let metrics = probe_briefly(exporter, &resetting.target(), module);
    assert!(!metrics.is_success());
    let (_, reason) = metrics.failure().expect("a failure has a reason");
    assert!(["reset", "closed_early"].contains(&reason), "`{module}`: {reason}");
}

/// Whether a preset begins with TLS.
fn is_tls(module: &str) -> bool {
    ["tls_connect", "smtps", "imaps", "pop3s"].contains(&module)
}
