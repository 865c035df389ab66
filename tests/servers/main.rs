//! The embedded presets against the real servers of their protocols: the port up, down, and
//! something else behind it; and what the servers themselves say about the probes.

mod fakes;
mod presets;
mod upstream;

use std::path::Path;

use harness::servers::Server;
use harness::{Exporter, Listener, Metrics};

const BINARY: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");

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
fn assert_failure(metrics: &Metrics, module: &str, phases: &[&str], reasons: &[&str]) {
    assert!(!metrics.is_success(), "`{module}` takes it for a success");
    let (phase, reason) = metrics.failure().expect("a failure has a reason");
    assert!(
        phases.contains(&phase) && reasons.contains(&reason),
        "`{module}`: expected {phases:?} {reasons:?}, found {phase} {reason}"
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
        assert_failure(&metrics, module, &["connect"], &["refused"]);
    }
}

/// What is behind the port is something else: a talker, one who sends garbage, one who listens in
/// silence, one who hangs up, one who cuts the line. All are failures, each with its reason.
#[track_caller]
fn assert_strangers_fail(exporter: &Exporter, module: &str) {
    let (phase, wrong, late) = match module {
        _ if is_tls(module) => ("tls", "tls_not_tls", "tls_timeout"),
        // Their servers may say anything before the line that counts.
        "ssh" | "ftp" => ("dialogue", "expect_timeout", "expect_timeout"),
        _ => ("dialogue", "expect_rejected", "expect_timeout"),
    };
    let check = |stranger: &Listener, phases: &[&str], reasons: &[&str]| {
        let metrics = probe_briefly(exporter, &stranger.target(), module);
        assert_failure(&metrics, module, phases, reasons);
    };
    check(&Listener::banner(b"hello, what can I do for you?\r\n"), &[phase], &[wrong]);
    let garbage: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    check(&Listener::banner(&garbage), &[phase], &[wrong]);
    check(&Listener::silent(), &[phase], &[late]);
    // The one who speaks first may be reset for it.
    check(&Listener::closing(), &[phase], &["closed_early", "reset"]);
    // The reset may be faster than the connect's own end.
    check(&Listener::resetting(), &[phase, "connect"], &["reset"]);
}

/// Whether a preset begins with TLS.
fn is_tls(module: &str) -> bool {
    ["tls_connect", "smtps", "imaps", "pop3s"].contains(&module)
}
