//! What the rules cost: one evaluation of all of them, on a real Prometheus whose windows are full.
//!
//! Apart from the other tests, because a busy machine would be measured instead of the rules.
//! `ALERTING_COST_TARGETS=10000` measures another size, at an interval that fits it.

#[path = "../alerts/compress.rs"]
mod compress;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant, SystemTime};

use harness::{Netns, Prometheus, wait_until};
use serde_json::Value;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];
/// Targets of the promise, and what one evaluation may take then.
const TARGETS: usize = 1000;
const LIMIT: Duration = Duration::from_millis(300);

/// The page of an exporter with this many targets, of which one in a hundred is down.
fn page(targets: usize) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let mut page = String::new();
    for index in 0..targets {
        let key = format!("monitor=\"monitor-{index}\",target=\"10.0.0.1:{index}\"");
        let up = u8::from(index % 100 != 0);
        let now = now.as_secs_f64();
        let count = (now / 60.0).floor();
        let service = index / 4;
        // Writing to memory cannot fail.
        let _ = write!(
            page,
            "tcp_monitor_up{{{key}}} {up}\n\
             tcp_monitor_probe_success{{{key}}} {up}\n\
             tcp_monitor_last_probe_timestamp_seconds{{{key}}} {now}\n\
             tcp_monitor_interval_seconds{{{key}}} 60\n\
             tcp_monitor_timeout_seconds{{{key}}} 10\n\
             tcp_monitor_slow_seconds{{{key}}} 0.5\n\
             tcp_monitor_confirm_failures{{{key}}} 3\n\
             tcp_monitor_required_regions{{{key}}} 2\n\
             tcp_monitor_slo_objective_ratio{{{key}}} 0.999\n\
             tcp_monitor_probe_duration_seconds_sum{{{key}}} {count}\n\
             tcp_monitor_probe_duration_seconds_count{{{key}}} {count}\n\
             tcp_monitor_info{{{key},module=\"tcp_connect\",host=\"host-{service}\",port=\"{index}\",\
             service=\"service-{service}\",team=\"dba\",env=\"production\"}} 1\n"
        );
        if up == 0 {
            let _ = writeln!(
                page,
                "tcp_monitor_failure_info{{{key},phase=\"connect\",reason=\"refused\"}} 1"
            );
        }
    }
    page
}

/// An exporter that only has this page.
fn serve(netns: &Netns, targets: usize) -> SocketAddr {
    let listener = netns.within(|| TcpListener::bind("127.0.0.1:0")).expect("listen");
    let address = listener.local_addr().expect("bound");
    // It ends with the test's process: what it waits for is the kernel.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("stream")).lines();
            while lines.next().and_then(Result::ok).is_some_and(|it| !it.is_empty()) {}
            let page = page(targets);
            let length = page.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(page.as_bytes());
        }
    });
    address
}

/// How long the last evaluation of each rule took.
fn durations(prometheus: &Prometheus) -> Result<Vec<(String, f64)>, String> {
    let rules = prometheus.rules()?;
    let groups = rules.pointer("/data/groups").and_then(Value::as_array).ok_or("no groups")?;
    let mut durations = Vec::new();
    for group in groups {
        for (index, rule) in group["rules"].as_array().into_iter().flatten().enumerate() {
            if rule["health"] != "ok" {
                return Err(format!("{}: {}", rule["name"], rule["lastError"]));
            }
            // Two rules may share a name.
            let name = format!("{} #{index} of {}", rule["name"], group["name"]);
            durations.push((name, rule["evaluationTime"].as_f64().unwrap_or_default()));
        }
    }
    Ok(durations)
}

/// Prints a line past the test runner's capture, which would hide it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn one_evaluation_of_all_rules_is_cheap() {
    let test = "one_evaluation_of_all_rules_is_cheap";
    if !harness::installed(test, &["prometheus"]) || !Netns::available(test) {
        return;
    }
    let wanted = std::env::var_os("ALERTING_COST_TARGETS");
    let targets = wanted.map_or(TARGETS, |it| it.to_string_lossy().parse().expect("a number"));
    // 15 s of life are one second for a thousand targets, ten seconds for ten thousand.
    let step = u64::try_from(targets.div_ceil(TARGETS)).expect("small");
    let factor = (15 / step).max(1);
    let netns = Netns::new("cost");
    let exporters = REGIONS.map(|region| (region, serve(&netns, targets)));
    let config = |step: u64| {
        let mut config = format!(
            "global: {{scrape_interval: {step}s, scrape_timeout: {step}s, \
             evaluation_interval: {step}s}}\nrule_files: [rules/*.yml]\nscrape_configs:\n  \
             - job_name: tcp-monitor\n    static_configs:\n"
        );
        for (region, address) in exporters {
            let _ = write!(
                config,
                "      - targets: ['{address}']\n        labels: {{region: {region}}}\n"
            );
        }
        config
    };
    let shipped = ["state.yml", "regions.yml", "quality.yml"].map(|it| {
        let path = format!("{}/config/prometheus/rules/{it}", env!("CARGO_MANIFEST_DIR"));
        let rules = std::fs::read_to_string(path).expect("rules");
        (format!("rules/{it}"), compress::rules(&rules, factor))
    });
    let mut files: Vec<(&str, &str)> =
        shipped.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let first = config(step);
    files.push(("prometheus.yml", &first));
    let address = SocketAddr::from(([127, 0, 0, 1], 9090));
    let start = Instant::now();
    let prometheus = Prometheus::start(&netns, address, &files, &["--storage.tsdb.path=data"]);

    // Windows of 15 minutes are the costly ones: wait until they are full.
    let full = Duration::from_secs(17 * 60 / factor);
    wait_until(full * 3 + Duration::from_secs(60), || {
        let durations = durations(&prometheus)?;
        if start.elapsed() > full { Ok(()) } else { Err(format!("{durations:?}")) }
    });
    // Then at a pace at which scrapes and groups are not in each other's way. The quickest of
    // many is what a rule costs; the rest is what else the machine does.
    prometheus.reconfigure(&config(5 * step));
    let measured = Instant::now();
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    wait_until(Duration::from_secs(300 * step), || {
        for (name, duration) in durations(&prometheus)? {
            let known = best.entry(name).or_insert(f64::INFINITY);
            *known = known.min(duration);
        }
        let enough = measured.elapsed() > Duration::from_secs(60 * step);
        if enough { Ok(()) } else { Err(format!("{best:?}")) }
    });
    let sum: f64 = best.values().sum();
    let mut slowest: Vec<_> = best.into_iter().collect();
    slowest.sort_by(|a, b| b.1.total_cmp(&a.1));

    say(&format!(
        "{targets} targets × 3 regions: {sum:.3} s per evaluation of everything; slowest:"
    ));
    for (name, seconds) in slowest.iter().take(12) {
        say(&format!("  {seconds:.4} {name}"));
    }
    let outages = prometheus.query("count(target:tcp_monitor_down:held == 1)").expect("query");
    let expected = f64::from(u32::try_from(targets / 100).expect("few"));
    assert!((outages[0].1 - expected).abs() < 1.0, "{outages:?}");
    let limit = if targets == TARGETS { LIMIT } else { Duration::from_secs(15) };
    assert!(sum <= limit.as_secs_f64(), "{sum} s: {slowest:#?}");
}
