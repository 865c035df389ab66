//! The history of results, `/logs` and the debug output.

use harness::{ClosedPort, Exporter, Listener};

use crate::{EXPORTER, exporter, exporter_with};

#[test]
fn the_debug_output_has_three_parts() {
    let closed = ClosedPort::new();
    let path = format!("/probe?target={}&debug=true", closed.target());

    let answer = exporter().get(&path);

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let body = answer.text();
    let (logs, rest) =
        body.split_once("\n\n\nMetrics that would have been returned:\n").expect("metrics");
    let (metrics, module) = rest.split_once("\n\n\nModule configuration:\n").expect("module");
    assert!(logs.starts_with("Logs for the probe:\n"), "{logs}");
    assert!(logs.contains("refused"), "{logs}");
    let result = format!("Result for {}: failure, refused in connect after ", closed.target());
    assert!(logs.contains(&result), "{logs}");
    assert!(metrics.contains("\nprobe_success 0\n"), "{metrics}");
    assert!(module.starts_with("prober: tcp\n"), "{module}");
}

#[test]
fn only_the_exact_word_asks_for_the_debug_output() {
    let closed = ClosedPort::new();
    let exporter = exporter();
    for word in ["True", "1", "yes", ""] {
        let answer = exporter.get(&format!("/probe?target={}&debug={word}", closed.target()));
        assert!(answer.text().starts_with("# HELP"), "{word}");
    }
}

#[test]
fn a_good_probe_leaves_its_result_and_more_where_details_are_asked_for() {
    let listener = Listener::silent();
    let path = format!("/probe?target={}&debug=true", listener.target());

    let quiet = exporter().get(&path).text();
    let detailed = exporter_with(&["--log.prober=debug"]).get(&path).text();

    let (story, _) = quiet.split_once("\n\n\n\nMetrics").unwrap();
    let result = format!("Logs for the probe:\nResult for {}: success after ", listener.target());
    assert!(story.starts_with(&result) && story.contains(" ms, connect "), "{story}");
    assert_eq!(story.lines().count(), 2, "{story}");
    assert!(detailed.contains("DEBUG"), "{detailed}");
}

#[test]
fn secrets_are_never_shown() {
    let config = "modules:\n  m:\n    prober: tcp\n    tcp:\n      tls: true\n      tls_config:\n        \
                  cert: CERTIFICATE\n        key: TOPSECRET\n";
    let exporter = Exporter::new(EXPORTER).config(config).flag("--log.prober=debug").start();
    let closed = ClosedPort::new();

    let debug = exporter.get(&format!("/probe?module=m&target={}&debug=true", closed.target()));

    for text in [
        debug.text(),
        exporter.get("/config").text(),
        exporter.get("/logs?id=0").text(),
        exporter.get("/").text(),
        exporter.log(),
    ] {
        assert!(!text.contains("TOPSECRET"), "{text}");
    }
    assert!(debug.text().contains("<secret>"), "{}", debug.text());
}

#[test]
fn what_a_module_sends_is_never_shown() {
    let config = "modules:\n  m:\n    prober: tcp\n    tcp:\n      query_response:\n        \
                  - send: PASS TOPSECRET\n        - send_bytes: 'TOPSECRET\\r\\n'\n";
    let exporter = Exporter::new(EXPORTER).config(config).flag("--log.prober=debug").start();
    let listener = Listener::silent();

    let debug = exporter.get(&format!("/probe?module=m&target={}&debug=true", listener.target()));

    for text in [
        debug.text(),
        exporter.get("/config").text(),
        exporter.get("/logs?id=0").text(),
        exporter.get("/").text(),
        exporter.log(),
    ] {
        assert!(!text.contains("TOPSECRET"), "{text}");
    }
    assert!(debug.text().contains("sending 15 bytes"), "{}", debug.text());
    assert!(debug.text().contains("send: <secret>"), "{}", debug.text());
}

#[test]
fn results_are_found_by_id_and_by_target() {
    let listener = Listener::silent();
    let closed = ClosedPort::new();
    let exporter = exporter();
    let _ = exporter.probe(&listener.target(), "tcp_connect");
    let _ = exporter.probe(&closed.target(), "tcp_connect");
    let (open, shut) = (listener.target(), closed.target());

    for (query, part) in [
        ("id=0".to_owned(), "probe_success 1"),
        ("id=1".to_owned(), "probe_success 0"),
        (format!("target={open}"), "probe_success 1"),
        (format!("target={shut}&module=tcp_connect"), "probe_success 0"),
    ] {
        let answer = exporter.get(&format!("/logs?{query}"));
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.text().contains(part), "{query}: {}", answer.text());
    }
}

#[test]
fn what_is_not_found_or_not_asked_well_is_told_apart() {
    let exporter = exporter();
    for (query, status, body) in [
        ("id=7", 404, "Probe id not found\n"),
        ("target=a:1", 404, "Probe target not found\n"),
        ("target=a:1&module=m", 404, "Probe target not found\n"),
        ("id=7&target=a:1", 400, "Give either the id of a probe or its target, not both\n"),
        ("", 400, "Give the id of a probe or its target\n"),
        ("id=x", 400, "Give the id of a probe or its target\n"),
        ("module=m", 400, "Give the target along with the module\n"),
    ] {
        let answer = exporter.get(&format!("/logs?{query}"));
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{query}");
    }
}

#[test]
fn failures_outlive_successes() {
    let listener = Listener::silent();
    let closed = ClosedPort::new();
    let exporter = exporter_with(&["--history.limit=3"]);
    let _ = exporter.probe(&closed.target(), "tcp_connect");

    for _ in 0..10 {
        let _ = exporter.probe(&listener.target(), "tcp_connect");
    }

    assert_eq!(exporter.get("/logs?id=0").status, 200, "the failure stays");
    assert_eq!(exporter.get("/logs?id=1").status, 404, "an old success goes");
    assert_eq!(exporter.get("/logs?id=10").status, 200, "the newest is there");
}

#[test]
fn what_a_client_sends_is_escaped_on_the_page() {
    let exporter = exporter();
    let _ = exporter.get("/probe?target=%3Cscript%3Ealert(1)%3C/script%3E");
    let page = exporter.get("/").text();
    assert!(!page.contains("<script>alert"), "{page}");
    assert!(page.contains("&lt;script&gt;alert"), "{page}");
}
