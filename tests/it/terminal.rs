//! `tcp_probe_exporter probe`, as a person or a script at a terminal uses it.

use harness::{ClosedPort, Listener};

use crate::{run, text};

#[test]
fn an_open_port_is_one_line_and_0() {
    let listener = Listener::silent();

    let output = run(&["probe", &listener.target()]);

    let line = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with(&listener.target()) && line.contains("  open  "), "{line}");
    assert!(line.contains("  connect ") && line.contains("  rtt "), "{line}");
    assert!(!line.contains('\u{1b}'), "colours are for terminals: {line:?}");
}

#[test]
fn a_closed_port_says_why_and_what_to_do_and_is_1() {
    let listener = Listener::silent();
    let closed = ClosedPort::new();

    let output = run(&["probe", &listener.target(), &closed.target()]);

    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    assert!(lines.contains("  refused  "), "{lines}");
    assert!(lines.contains("failure in connect: "), "{lines}");
    assert!(lines.contains("nothing listens on this port"), "{lines}");
}

#[test]
fn monitors_are_probed_as_they_are_configured() {
    let (listener, closed) = (Listener::silent(), ClosedPort::new());
    let (open, shut) = (listener.port(), closed.address().port());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("exporter.yml");
    let config = format!(
        "modules: {{must_be_closed: {{prober: tcp, tcp: {{expect_connect: closed}}}}}}\nmonitors:\n\
         - {{name: good, host: 127.0.0.1, port: {open}}}\n\
         - {{name: closed, host: 127.0.0.1, port: {shut}, module: must_be_closed, timeout: 3s}}\n\
         - {{name: bad, host: 127.0.0.1, ports: [{shut}]}}\n\
         - {{name: worse, host: 127.0.0.1, ports: {{again: {shut}}}}}\n"
    );
    std::fs::write(&path, config).unwrap();
    let file = format!("--config.file={}", path.display());
    let probe = |words: &[&str]| {
        let output = run(&[&["probe", &file][..], words].concat());
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };

    let (code, lines) = probe(&["--monitor=good", "--monitor=closed"]);
    assert_eq!(code, Some(0), "{lines}");
    assert!(lines.starts_with(&format!("good 127.0.0.1:{open} ")), "{lines}");
    assert_eq!(lines.lines().count(), 2, "{lines}");

    let (code, lines) = probe(&["--all"]);
    assert_eq!(code, Some(1), "{lines}");
    assert_eq!(lines.matches("  refused  ").count(), 2, "{lines}");
    assert_eq!(lines.matches("nothing listens on this port").count(), 1, "advice once: {lines}");

    let (_, object) = probe(&["--monitor=closed", "--json"]);
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(
        (&object["module"], &object["timeout_seconds"]),
        (&"must_be_closed".into(), &3.0.into())
    );

    for (words, expected) in [
        (&["--monitor=goood"][..], "no monitor is called `goood`: did you mean `good`?"),
        (&["--all", "127.0.0.1:1"], "cannot be used with"),
    ] {
        let (code, lines) = probe(words);
        assert_eq!(code, Some(2), "{lines}");
        assert!(lines.contains(expected), "{lines}");
    }
    let without = run(&["probe", "--all"]);
    assert!(text(&without.stderr).contains("--config.file"), "{}", text(&without.stderr));
}

#[test]
fn ports_are_lists_and_ranges() {
    let listener = Listener::silent();
    let port = listener.port();
    let closed = ClosedPort::new().address().port();

    let list = run(&["probe", &format!("127.0.0.1:{port},{closed}")]);
    let range = run(&["probe", &format!("127.0.0.1:{}-{port}", port.saturating_sub(30).max(1))]);

    assert_eq!(text(&list.stdout).matches("127.0.0.1:").count(), 2);
    let range = text(&range.stdout);
    assert!(range.contains(&format!("127.0.0.1:{port} ")), "{range}");
    assert!(range.contains("probes: "), "many targets are summed up: {range}");
}

#[test]
fn several_rounds_end_with_statistics() {
    let listener = Listener::silent();
    let target = listener.target();

    let output = run(&["probe", &target, "--count=3", "--interval=10ms"]);

    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{lines}");
    assert!(
        lines.contains(&format!("--- {target}: 3 probes, 3 open, 0 failed, 0% failure\n")),
        "{lines}"
    );
    assert!(lines.contains("latency min/mean/max "), "{lines}");
}

#[test]
fn scripts_read_json() {
    let closed = ClosedPort::new();

    let output = run(&["probe", "--json", &closed.target()]);

    assert_eq!(output.status.code(), Some(1));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["target"], closed.target());
    assert_eq!(object["outcome"], "failure");
    assert_eq!(object["reason"], "refused");
    assert_eq!(object["phase"], "connect");
    assert_eq!(object["errno"], 111);
}

#[test]
fn what_cannot_be_followed_is_2() {
    for (words, part) in [
        (&["probe"][..], "required arguments were not provided"),
        (&["probe", "nonsense"], "has no port"),
        (&["probe", "127.0.0.1:9-8"], "is no range of ports"),
        (&["probe", "127.0.0.1:1", "--module=nope"], "no module `nope`, there are "),
        (&["probe", "127.0.0.1:1", "--timeout=x"], "is no duration"),
        (&["probe", "127.0.0.1:1", "--config.file=/nonexistent"], "/nonexistent"),
    ] {
        let output = run(words);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(error.starts_with("tcp_probe_exporter: error: "), "{error}");
        assert!(error.contains(part), "{words:?}: {error}");
    }
}

#[test]
fn what_this_machine_could_not_see_is_2() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("config.yml");
    let config = "modules: {bad: {prober: tcp, tcp: {source_ip_address: nonsense}}}\n";
    std::fs::write(&file, config).unwrap();
    let flag = format!("--config.file={}", file.display());

    let output = run(&["probe", "--module=bad", &flag, "127.0.0.1:1"]);

    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).contains("inconclusive in connect"), "{output:?}");
}

#[test]
fn a_reader_that_leaves_early_is_no_crash() {
    let script =
        format!("'{}' probe 127.0.0.1:1-400 | head -n 0; echo ${{PIPESTATUS[0]}}", crate::EXPORTER);
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert!(["1\n", "0\n"].contains(&text(&output.stdout).as_str()), "{output:?}");
}
