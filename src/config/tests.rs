use std::fmt::Write as _;

use super::*;

/// Loads one file; errors and warnings become lines without the name of the directory.
fn load(text: &str) -> (Option<Config>, String) {
    load_with(text, &[])
}

fn load_with(text: &str, others: &[(&str, &str)]) -> (Option<Config>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    std::fs::write(&path, text).unwrap();
    for (name, text) in others {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let (config, diagnostics) = match Config::load(Some(&path)) {
        Ok(loaded) => (Some(loaded.config), loaded.warnings),
        Err(errors) => (None, errors),
    };
    let mut lines = String::new();
    for it in diagnostics {
        writeln!(lines, "{it}").unwrap();
    }
    let prefix = format!("{}/", directory.path().display());
    (config, lines.replace(&prefix, ""))
}

#[track_caller]
fn accept(text: &str) -> Config {
    let (config, lines) = load(text);
    assert_eq!(lines, "", "{text}");
    config.unwrap()
}

#[track_caller]
fn refuse(text: &str, expected: &str) {
    let (config, lines) = load(text);
    assert!(config.is_none(), "accepted: {text}\n{lines}");
    assert_eq!(lines.trim_end(), expected, "{text}");
}

#[track_caller]
fn warn(text: &str, expected: &str) -> Config {
    let (config, lines) = load(text);
    assert_eq!(lines.trim_end(), expected, "{text}");
    config.unwrap()
}

#[test]
fn embedded_modules_load_without_a_word() {
    let text = include_str!("embedded.yml");
    let config = accept(text);
    assert!(config.modules.contains_key("tcp_connect"));
    assert_eq!(config.modules.len(), Config::embedded().modules.len());
}

#[test]
fn the_example_of_a_monitor() {
    let config = accept(
        "defaults: {interval: 1m, timeout: 10s, confirm: {failures: 3, successes: 1, \
         retry_interval: 5s, regions: 2}}
monitors:
  - name: orders-db
    host: db.example.com
    port: 5432
    module: tcp_connect
    interval: 5m
    timeout: 10s
    confirm: {failures: 3, regions: 2}
    slow: 500ms
    slo: 99.9%
    addresses: first
    labels: {team: dba, service: orders, severity: critical}
",
    );
    let monitor = &config.monitors[0];
    assert_eq!(monitor.interval.as_secs(), 300);
    assert_eq!(monitor.confirm.regions.get(), 2);
    assert!(monitor.slo.is_some_and(|it| (it - 0.999).abs() < 1e-9));
    assert_eq!(monitor.labels.len(), 3);
}

#[test]
fn every_problem_at_once_with_its_line() {
    refuse("", "c.yml: the file has no content (EOF): write at least `{}` or `[]`");
    refuse(
        "monitors:\n- {host: a, prt: 1}\n- {host: b, port: 0}\n- {host: c:1, port: ssh}\n",
        "c.yml:2: monitors[0]: `port` is missing: write a number from 1 to 65535
c.yml:2: monitors[0].prt: unknown key: did you mean `port`?
c.yml:3: monitors[1].port: `0` is no port: write a number from 1 to 65535
c.yml:4: monitors[2].host: `c:1` has a port: write `host: c` and `port: 1`
c.yml:4: monitors[2].port: `ssh` is a name: write its number, `22`",
    );
}
