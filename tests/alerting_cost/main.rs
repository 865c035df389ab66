//! What the rules cost: one evaluation of all of them, on a real Prometheus whose windows are full.
//!
//! Apart from the other tests, because a busy machine would be measured instead of the rules; for
//! the same reason Prometheus runs ahead of other processes, where that is allowed. The figures are
//! its own: how long the last evaluation of each group took, storing what was recorded included.
//!
//! Time runs fifteen times as fast: a second stands for the 15 s between two scrapes, and every
//! window, the five minutes for which a sample is remembered too, holds as many samples as in life.
//! `ALERTING_COST_TARGETS=10000` measures another size, at a pace that fits it;
//! `ALERTING_COST_MODE=on-scrape` a fleet that is probed on scrape, and `ALERTING_COST_MODE=outage`
//! one of which a region can reach nothing.

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

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    /// Monitors on schedule, of which one in a hundred is down.
    Scheduled,
    /// The same, and from one region all of them.
    Outage,
    /// The same as `Scheduled`, probed on scrape.
    OnScrape,
}

/// The page of a region's exporter with this many targets.
fn page(mode: Mode, region: &str, targets: usize) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let mut page = format!("tcp_probe_exporter_targets {targets}\n");
    if mode != Mode::OnScrape {
        page.push_str(
            "tcp_monitor_policy_interval_seconds{policy=\"0\"} 60\n\
             tcp_monitor_policy_timeout_seconds{policy=\"0\"} 10\n\
             tcp_monitor_policy_slow_seconds{policy=\"0\"} 0.5\n\
             tcp_monitor_policy_confirm_failures{policy=\"0\"} 3\n\
             tcp_monitor_policy_required_regions{policy=\"0\"} 2\n\
             tcp_monitor_policy_slo_objective_ratio{policy=\"0\"} 0.999\n",
        );
    }
    for index in 0..targets {
        let key = format!("monitor=\"monitor-{index}\",target=\"10.0.0.1:{index}\"");
        let up = u8::from(index % 100 != 0 && (mode, region) != (Mode::Outage, "ap"));
        let now = now.as_secs_f64();
        let (count, sum) = ((now / 60.0).floor(), (now / 60.0).floor() / 100.0);
        let service = index / 4;
        if mode == Mode::OnScrape {
            let key = format!(
                "{key},host=\"host-{service}\",port=\"{index}\",service=\"service-{service}\",\
                 team=\"dba\",env=\"production\""
            );
            // As a scrape of each target would leave them behind, but for the time it takes.
            let _ = write!(
                page,
                "up{{{key}}} 1\nprobe_success{{{key}}} {up}\n\
                 probe_duration_seconds{{{key}}} 0.01\nprobe_timeout_seconds{{{key}}} 10\n"
            );
            continue;
        }
        // Writing to memory cannot fail.
        let _ = write!(
            page,
            "tcp_monitor_up{{{key}}} {up}\n\
             tcp_monitor_probe_success{{{key}}} {up}\n\
             tcp_monitor_last_probe_timestamp_seconds{{{key}}} {now}\n\
             tcp_monitor_probe_duration_seconds_sum{{{key}}} {sum}\n\
             tcp_monitor_probe_duration_seconds_count{{{key}}} {count}\n\
             tcp_monitor_info{{{key},module=\"tcp_connect\",host=\"host-{service}\",port=\"{index}\",\
             service=\"service-{service}\",team=\"dba\",env=\"production\",policy=\"0\"}} 1\n"
        );
        if index % 100 == 1 {
            let _ = writeln!(page, "tcp_monitor_slow{{{key}}} 1");
        }
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
fn serve(netns: &Netns, mode: Mode, region: &'static str, targets: usize) -> SocketAddr {
    let listener = netns.within(|| TcpListener::bind("127.0.0.1:0")).expect("listen");
    let address = listener.local_addr().expect("bound");
    // It ends with the test's process: what it waits for is the kernel.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("stream")).lines();
            while lines.next().and_then(Result::ok).is_some_and(|it| !it.is_empty()) {}
            let page = page(mode, region, targets);
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

/// The quickest evaluations seen, in seconds: of each group, and of each rule.
#[derive(Debug, Default)]
struct Quickest {
    groups: BTreeMap<String, f64>,
    rules: BTreeMap<String, f64>,
}

impl Quickest {
    /// Asks how long the last evaluation of everything took.
    fn look(&mut self, prometheus: &Prometheus) -> Result<(), String> {
        let answer = prometheus.rules()?;
        let groups = answer.pointer("/data/groups").and_then(Value::as_array).ok_or("no groups")?;
        for group in groups {
            let name = group["name"].as_str().unwrap_or_default();
            for (index, rule) in group["rules"].as_array().into_iter().flatten().enumerate() {
                if rule["health"] != "ok" {
                    return Err(format!("{}: {}", rule["name"], rule["lastError"]));
                }
                // Two rules may share a name.
                let rule_name = rule["name"].as_str().unwrap_or_default();
                note(&mut self.rules, format!("{rule_name} #{index} of {name}"), rule);
            }
            note(&mut self.groups, name.to_owned(), group);
        }
        Ok(())
    }
}

fn note(quickest: &mut BTreeMap<String, f64>, name: String, evaluated: &Value) {
    let seconds = evaluated["evaluationTime"].as_f64().unwrap_or_default();
    let known = quickest.entry(name).or_insert(f64::INFINITY);
    *known = known.min(seconds);
}

/// The dearest first.
fn sorted(costs: BTreeMap<String, f64>) -> Vec<(String, f64)> {
    let mut costs: Vec<_> = costs.into_iter().collect();
    costs.sort_by(|a, b| b.1.total_cmp(&a.1));
    costs
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
    let targets =
        std::env::var("ALERTING_COST_TARGETS").map_or(TARGETS, |it| it.parse().expect("a number"));
    let mode = match std::env::var("ALERTING_COST_MODE").as_deref() {
        Ok("on-scrape") => Mode::OnScrape,
        Ok("outage") => Mode::Outage,
        Ok(other) => panic!("`{other}`: `on-scrape` or `outage`"),
        Err(_) => Mode::Scheduled,
    };
    // 15 s of life are one second for a thousand targets, 7 s for ten thousand.
    let step = if targets <= TARGETS { 1 } else { 7 };
    let factor = 15 / step;
    let netns = Netns::new("cost");
    let exporters = REGIONS.map(|region| (region, serve(&netns, mode, region, targets)));
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
    let shipped = ["state.yml", "regions.yml", "quality.yml"].map(|it| {
        let path = format!("{}/config/prometheus/rules/{it}", env!("CARGO_MANIFEST_DIR"));
        let rules = std::fs::read_to_string(path).expect("rules");
        (format!("rules/{it}"), drifting(&compress::rules(&rules, factor), step))
    });
    let mut files: Vec<(&str, &str)> =
        shipped.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("prometheus.yml", &config));
    let lookback = format!("--query.lookback-delta={}s", 300 / factor);
    let flags = ["--storage.tsdb.path=data", &lookback];
    let start = Instant::now();
    let prometheus =
        Prometheus::start(&netns, SocketAddr::from(([127, 0, 0, 1], 9090)), &files, &flags);
    let ahead = run_ahead(prometheus.id().expect("it runs"));

    // Windows of an hour are the longest that hold much: wait until most of one has passed. The
    // quickest of many evaluations is what a rule costs; the rest is what else the machine does.
    let full = Duration::from_secs(20 * 60 / factor);
    let enough = full + Duration::from_secs(20 * 60 / factor);
    let mut quickest = Quickest::default();
    wait_until(enough * 3, || {
        let warm = start.elapsed() > full;
        if warm {
            quickest.look(&prometheus)?;
        }
        if start.elapsed() > enough { Ok(()) } else { Err(format!("{quickest:?}")) }
    });
    let rules: f64 = quickest.rules.values().sum();
    let (groups, dearest) = (sorted(quickest.groups), sorted(quickest.rules));
    let sum: f64 = groups.iter().map(|it| it.1).sum();

    say(&format!(
        "{targets} targets × 3 regions, {mode:?}: {sum:.3} s per evaluation of everything, \
         {rules:.3} s as the sum of its rules, {} other processes",
        if ahead { "ahead of" } else { "among" }
    ));
    for (name, seconds) in groups.iter().chain(dearest.iter().take(12)) {
        say(&format!("  {seconds:.4} {name}"));
    }
    let down = prometheus.query("count(target:tcp_monitor_down:held == 1)").expect("query");
    let expected = f64::from(u32::try_from(targets.div_ceil(100)).expect("few"));
    assert!((down[0].1 - expected).abs() < 1.0, "{down:?}");
    let promised = mode == Mode::Scheduled && targets <= TARGETS;
    let limit = if promised { LIMIT } else { Duration::from_secs(15) };
    assert!(sum <= limit.as_secs_f64(), "{sum} s: {dearest:#?}");
}

/// The groups at intervals that drift against each other by a few hundredths: at equal ones, those
/// that happen to begin together would be measured together each time.
fn drifting(rules: &str, step: u64) -> String {
    let mut drift = 1.0;
    let mut drifting = String::new();
    for line in rules.lines().filter(|it| !it.starts_with("    interval: ")) {
        let _ = writeln!(drifting, "{line}");
        let Some(name) = line.strip_prefix("  - name: ") else { continue };
        let mut lines = rules.lines().skip_while(|it| *it != line).skip(1);
        let own = lines.next().and_then(|it| it.strip_prefix("    interval: ")?.strip_suffix("ms"));
        let millis = own.map_or(1000 * step, |it| it.parse().expect("milliseconds"));
        drift += 0.013;
        #[expect(clippy::cast_precision_loss, reason = "some seconds")]
        let millis = millis as f64 * drift;
        let _ = writeln!(drifting, "    interval: {millis:.0}ms # {name}");
    }
    drifting
}

/// Lets this process run before all ordinary ones; whether that is allowed.
fn run_ahead(id: u32) -> bool {
    let id = id.to_string();
    let chrt = std::process::Command::new("chrt").args(["-a", "-r", "-p", "1", &id]).output();
    chrt.is_ok_and(|it| it.status.success())
}
