//! What a target costs where it is stored: series and memory of Prometheus for targets that are
//! watched from three regions, with the shipped rules.
//!
//! `cargo test --test peers_cost -- --nocapture`. `PEERS_COST_TARGETS` is how many targets,
//! `PEERS_COST_REGIONS` from how many regions, `PEERS_COST_EXPORTER` another exporter to compare
//! with, `PEERS_COST_RULES` its rules, `PEERS_COST_SECONDS` how long the store fills.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use harness::{Exporter, Process, http, peers, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// What the environment says; as `tests/alerting_cost`, there are no arguments of its own.
fn word(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|text| text.into_string().ok())
}

fn number(name: &str, default: u32) -> u32 {
    word(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A port of all loopback addresses that accepts and lets go.
fn sink() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

fn exporter(targets: u32) -> Exporter {
    let port = sink();
    let mut config =
        "defaults: {interval: 1m, timeout: 5s, slow: 1s, slo: 99.9%}\nmonitors:\n".to_owned();
    for number in 0..targets {
        let address = Ipv4Addr::from(0x7f01_0001 + number);
        let labels = "{team: dba, service: orders, env: production}";
        let _ = writeln!(
            config,
            "  - {{name: monitor-{number}, host: {address}, port: {port}, labels: {labels}}}"
        );
    }
    let program = word("PEERS_COST_EXPORTER");
    let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_tcp_probe_exporter"));
    Exporter::new(program).config(&config).start()
}

#[test]
fn series_and_memory_of_prometheus_for_each_target() {
    let test = "series_and_memory_of_prometheus_for_each_target";
    let Some(programs) = peers::fetch(test, &["prometheus"]) else { return };
    let (targets, regions) = (number("PEERS_COST_TARGETS", 5_000), number("PEERS_COST_REGIONS", 3));
    let exporter = exporter(targets);
    let rules = std::env::var_os("PEERS_COST_RULES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/rules"),
        PathBuf::from,
    );
    let mut config = format!(
        "global: {{scrape_interval: 15s, scrape_timeout: 15s, evaluation_interval: 15s}}\n\
         rule_files: [{}/*.yml]\nscrape_configs:\n  \
         - job_name: tcp-monitor\n    static_configs:\n",
        rules.display()
    );
    for region in 0..regions {
        let address = exporter.address();
        let _ =
            writeln!(config, "      - {{targets: ['{address}'], labels: {{region: r{region}}}}}");
    }
    for (shape, flags) in [("native", &["--enable-feature=native-histograms"][..]), ("text", &[])] {
        if word("PEERS_COST_SHAPE").is_some_and(|wanted| wanted != shape) {
            continue;
        }
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("prometheus.yml"), &config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut words = vec![
            programs.join("prometheus").display().to_string(),
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address={address}"),
        ];
        words.extend(flags.iter().map(ToString::to_string));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let prometheus = Process::start(directory.path(), &words);
        let value = |expr: &str| -> Result<f64, String> {
            let query: String = form_urlencoded::byte_serialize(expr.as_bytes()).collect();
            let path = format!("/api/v1/query?query={query}");
            let answer =
                http::request(address, "GET", &path, &[], b"").map_err(|err| err.to_string())?;
            let answer: Value =
                serde_json::from_slice(&answer.body).map_err(|err| err.to_string())?;
            let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
            value.and_then(|text| text.parse().ok()).ok_or_else(|| answer.to_string())
        };
        let watched = f64::from(targets * regions);
        wait_until(Duration::from_secs(180), || match value("count(tcp_monitor_up)") {
            Ok(count) if count >= watched => Ok(()),
            other => Err(format!("{other:?}; {}", prometheus.output())),
        });
        std::thread::sleep(Duration::from_secs(number("PEERS_COST_SECONDS", 180).into()));
        let status = std::fs::read_to_string(format!("/proc/{}/status", prometheus.id())).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: f64 =
            kilobytes.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap();
        let ask = |expr: &str| wait_until(Duration::from_secs(60), || value(expr));
        let stored = ask("count({__name__!=\"\"})");
        let scraped = ask("sum(scrape_samples_scraped{job=\"tcp-monitor\"})");
        let took = ask("max(scrape_duration_seconds{job=\"tcp-monitor\"})");
        let http = http::request(address, "GET", "/metrics", &[], b"").unwrap();
        let page = harness::Metrics::parse(&http.text());
        let metric = |name: &str| page.value(name, &[]).unwrap_or(f64::NAN);
        let evaluation: f64 = page
            .all("prometheus_rule_group_last_duration_seconds")
            .map(|sample| sample.value)
            .sum();
        println!(
            "{shape}: {targets} targets x {regions} regions: {stored:.0} series in store, {scraped:.0} \
             scraped, {:.1} scraped for each target and region, {:.0} MB resident, {:.0} MB heap in use, \
             {:.1} KB resident for each target and region, scrape {took:.2} s, rules {evaluation:.2} s",
            scraped / watched,
            kilobytes / 1e3,
            metric("go_memstats_heap_inuse_bytes") / 1e6,
            kilobytes / watched,
        );
    }
}
