//! What other programs read: every target as JSON, and the monitors as service discovery.

use harness::{ClosedPort, Exporter, Listener, wait_until};
use serde_json::{Value, json};

use crate::{EXPORTER, LIMIT, exporter};

fn read(exporter: &Exporter, path: &str) -> Value {
    let answer = exporter.get(path);
    assert_eq!(answer.status, 200, "{path}");
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn without_monitors_both_are_empty() {
    let exporter = exporter();
    assert_eq!(read(&exporter, "/sd"), json!([]));
    let expected = json!({"status": "success", "data": {"targets": []}});
    assert_eq!(read(&exporter, "/api/v1/targets"), expected);
}

#[test]
fn every_target_is_told_with_its_verdict_and_its_history() {
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let (up, down) = (open.port(), closed.address().port());
    let config = format!(
        "monitors:\n  - name: db\n    host: 127.0.0.1\n    ports: {{good: {up}, bad: {down}}}\n    \
         interval: 200ms\n    timeout: 100ms\n    confirm: {{failures: 2, retry_interval: 100ms}}\n    \
         labels: {{team: dba}}\n    group: {{name: orders, role: primary}}\n"
    );
    let exporter = Exporter::new(EXPORTER).config(&config).start();

    let targets = wait_until(LIMIT, || {
        let answer = read(&exporter, "/api/v1/targets?monitor=db");
        let targets = answer["data"]["targets"].as_array().unwrap().clone();
        let verdicts: Vec<_> = targets.iter().map(|it| it["verdict"].clone()).collect();
        if verdicts == ["up", "down"] { Ok(targets) } else { Err(format!("{verdicts:?}")) }
    });

    let bad = &targets[1];
    assert_eq!(bad["target"], format!("127.0.0.1:{down}"));
    assert_eq!(bad["last_probe"]["outcome"], "failure");
    assert_eq!(bad["last_probe"]["reason"], "refused");
    assert_eq!(bad["last_probe"]["address"], "127.0.0.1");
    assert_eq!(bad["labels"]["team"], "dba");
    assert_eq!(bad["labels"]["group"], "orders");
    assert_eq!(bad["labels"]["service"], "bad");
    assert_eq!(bad["labels"]["target"], bad["target"]);
    assert_eq!(bad["labels"]["policy"].as_str().unwrap().len(), 8);
    assert!(bad["consecutive_failures"].as_u64() >= Some(2), "{bad}");
    assert!(bad["history"].as_array().unwrap().iter().all(|it| it == "failure"), "{bad}");
    assert!(targets[0]["rtt_seconds"].as_f64() > Some(0.0), "{}", targets[0]);

    let only = read(&exporter, "/api/v1/targets?verdict=down");
    assert_eq!(only["data"]["targets"].as_array().unwrap().len(), 1);
    let none = read(&exporter, "/api/v1/targets?monitor=other");
    assert_eq!(none["data"]["targets"], json!([]));
}

/// In the configuration, on every page, after a reload and not for others.
#[test]
fn a_maintenance_window_is_shown_with_its_end() {
    let monitors = "monitors:\n  - {name: db, host: 127.0.0.1, port: 9}\n  \
                    - {name: web, host: 127.0.0.1, port: 19}\n";
    let window = "maintenance:\n  - {monitors: db, start: 2020-01-01T00:00:00Z, \
                  end: 2099-01-01T00:00:00Z}\n";
    let exporter = Exporter::new(EXPORTER).config(monitors).start();
    let ends = || {
        let answer = read(&exporter, "/api/v1/targets");
        let targets = answer["data"]["targets"].as_array().unwrap().clone();
        let end = |target: &Value| target["maintenance_end_timestamp_seconds"].clone();
        targets.iter().map(end).collect::<Vec<_>>()
    };
    let series = || {
        let metrics = exporter.get("/metrics").text();
        let series = |line: &&str| line.starts_with("tcp_monitor_maintenance{");
        metrics.lines().filter(series).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((ends(), series()), (vec![Value::Null, Value::Null], vec![]));

    for (config, expected, in_maintenance) in [
        (
            format!("{monitors}{window}"),
            json!([4_070_908_800_i64, null]),
            &["tcp_monitor_maintenance{monitor=\"db\",target=\"127.0.0.1:9\"} 1"][..],
        ),
        (monitors.to_owned(), json!([null, null]), &[]),
    ] {
        exporter.rewrite_config(&config);
        assert_eq!(exporter.post("/-/reload").status, 200, "{}", exporter.log());
        assert_eq!(json!(ends()), expected);
        assert_eq!(series(), in_maintenance);
        let page = exporter.get("/").text();
        assert_eq!(page.matches("maintenance until").count(), in_maintenance.len(), "{page}");
    }
}

#[test]
fn prometheus_discovers_the_monitors() {
    let config = "monitors:\n  - {name: db, host: db.example.com, ports: [22, 3306], \
                  interval: 5m, timeout: 10s, labels: {team: dba}}\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();

    let labels = |port: &str| {
        json!({
            "monitor": "db", "target": format!("db.example.com:{port}"),
            "module": "tcp_connect", "host": "db.example.com", "port": port,
            "team": "dba",
            "__meta_tcp_monitor_interval": "300000ms", "__meta_tcp_monitor_timeout": "10000ms",
        })
    };
    let expected = json!([
        {"targets": ["db.example.com:22"], "labels": labels("22")},
        {"targets": ["db.example.com:3306"], "labels": labels("3306")},
    ]);
    assert_eq!(read(&exporter, "/sd"), expected);
}

#[test]
fn shards_share_the_monitors() {
    let ports: Vec<String> = (1..=50).map(|it| it.to_string()).collect();
    let config = format!(
        "monitors:\n  - {{name: db, host: db.example.com, ports: [{}], interval: 1d}}\n",
        ports.join(", ")
    );
    let mut all = Vec::new();
    for shard in ["--shard=0", "--shard=1"] {
        let builder = Exporter::new(EXPORTER).config(&config).flags(&[shard, "--total-shards=2"]);
        let exporter = builder.start();
        let mine = read(&exporter, "/sd").as_array().unwrap().clone();
        assert!(mine.len() > 5, "{}", mine.len());
        all.extend(mine.iter().map(|it| it["targets"][0].to_string()));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 50);
}
