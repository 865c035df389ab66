//! Those that read the exporter, old and new, take every format without an error or a warning, and
//! a large page in a small part of a scrape interval.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use harness::{ClosedPort, Exporter, Listener, Process, http, peers, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// Twice a scrape interval, and a slow start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that scrapes.
struct Peer {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Peer {
    /// Starts Prometheus with this configuration and further flags.
    fn prometheus(program: &str, config: &str, flags: &[&str]) -> Self {
        Self::start(config, |directory, address| {
            let mut words = vec![
                program.to_owned(),
                format!("--config.file={directory}/prometheus.yml"),
                format!("--storage.tsdb.path={directory}/data"),
                format!("--web.listen-address={address}"),
            ];
            words.extend(flags.iter().map(ToString::to_string));
            words
        })
    }

    /// Starts `VictoriaMetrics` with this configuration.
    fn victoria(program: &str, config: &str) -> Self {
        Self::start(config, |directory, address| {
            vec![
                program.to_owned(),
                format!("-promscrape.config={directory}/prometheus.yml"),
                format!("-storageDataPath={directory}/data"),
                format!("-httpListenAddr={address}"),
                // Samples are there when they are asked for.
                "-search.latencyOffset=0s".to_owned(),
            ]
        })
    }

    fn start(config: &str, words: impl Fn(&str, SocketAddr) -> Vec<String>) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let words = words(&directory.path().display().to_string(), address);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::start(directory.path(), &words);
        Self { process, address, _directory: directory }
    }

    /// The value of an expression that has one.
    fn value(&self, expr: &str) -> Result<f64, String> {
        let query: String = form_urlencoded::byte_serialize(expr.as_bytes()).collect();
        let path = format!("/api/v1/query?query={query}");
        let answer = http::request(self.address, "GET", &path, &[], b"")
            .map_err(|err| format!("{err}: {}", self.process.output()))?;
        let answer: Value = serde_json::from_slice(&answer.body)
            .map_err(|err| format!("{err}: {}", String::from_utf8_lossy(&answer.body)))?;
        let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
        value.and_then(|text| text.parse().ok()).ok_or_else(|| format!("{expr}: {answer}"))
    }

    /// Waits until an expression has this value.
    #[track_caller]
    fn wait(&self, expr: &str, expected: f64) {
        wait_until(PATIENCE, || {
            let value = self.value(expr)?;
            if (value - expected).abs() < 1e-9 { Ok(()) } else { Err(format!("{expr} is {value}")) }
        });
    }

    /// What it complains of.
    fn complaints(&self) -> Vec<String> {
        let output = self.process.output();
        // Both of Prometheus's ways to write a level, and the one of VictoriaMetrics.
        let levels =
            ["level=warn", "level=error", "level=WARN", "level=ERROR", "\twarn\t", "\terror\t"];
        let about_us = |line: &&str| levels.iter().any(|level| line.contains(level));
        // The first is about its own limits, the second about our files in /tmp.
        let own = ["GOMAXPROCS", "GOMEMLIMIT", "fsync", "lock"];
        let lines = output.lines().filter(about_us);
        lines
            .filter(|line| !own.iter().any(|word| line.contains(word)))
            .map(str::to_owned)
            .collect()
    }
}

/// An exporter of a target that answers and one that does not.
fn exporter(histogram: &str, open: &Listener, closed: &ClosedPort) -> Exporter {
    let config = format!(
        "defaults: {{histogram: {histogram}, interval: 300ms, timeout: 200ms, \
         confirm: {{failures: 2, retry_interval: 100ms}}}}\nmonitors:\n  \
         - {{name: m, host: 127.0.0.1, ports: [{}, {}], slow: 100ms, slo: 99%}}\n",
        open.port(),
        closed.address().port()
    );
    Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter")).config(&config).start()
}

/// A job named after its format, of the exporter with native histograms and the one with classic.
fn job(name: &str, more: &str, exporters: [&Exporter; 2]) -> String {
    let [native, classic] = exporters.map(Exporter::address);
    format!(
        "  - job_name: {name}\n{more}    static_configs:\n      \
         - {{targets: ['{native}'], labels: {{histogram: native}}}}\n      \
         - {{targets: ['{classic}'], labels: {{histogram: classic}}}}\n"
    )
}

const GLOBAL: &str = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n";
const DURATION: &str = "tcp_monitor_probe_duration_seconds";

/// What both exporters say in every format.
#[track_caller]
fn takes_everything(peer: &Peer, job: &str) {
    for histogram in ["native", "classic"] {
        let labels = format!("job=\"{job}\",histogram=\"{histogram}\"");
        peer.wait(&format!("sum(tcp_monitor_up{{{labels}}})"), 1.0);
        peer.wait(&format!("count(tcp_monitor_info{{{labels}}})"), 2.0);
        peer.wait(&format!("count(tcp_monitor_failure_info{{{labels},reason=\"refused\"}})"), 1.0);
        let joined = format!(
            "sum(tcp_monitor_info{{{labels}}} * on (policy) group_left () \
             max by (policy) (tcp_monitor_policy_slow_seconds{{{labels}}}))"
        );
        peer.wait(&joined, 0.2);
        peer.wait(&format!("min(up{{{labels}}})"), 1.0);
    }
}

/// Buckets of the exporter with classic ones, and sum and count of both.
#[track_caller]
fn has_classic(peer: &Peer, job: &str) {
    let labels = format!("job=\"{job}\",histogram=\"classic\"");
    peer.wait(&format!("count({DURATION}_bucket{{{labels}}})"), 24.0);
    peer.wait(&format!("count({DURATION}_sum{{job=\"{job}\"}})"), 4.0);
    peer.wait(&format!("count({DURATION}_count{{job=\"{job}\"}})"), 4.0);
}

/// One native histogram for each target.
#[track_caller]
fn has_native(peer: &Peer, job: &str, histogram: &str) {
    let labels = format!("job=\"{job}\",histogram=\"{histogram}\"");
    peer.wait(&format!("count(histogram_count({DURATION}{{{labels}}}))"), 2.0);
    peer.wait(
        &format!("count(histogram_quantile(0.9, rate({DURATION}{{{labels}}}[5s])) > 0)"),
        1.0,
    );
}

#[test]
fn prometheus_of_debian_12_takes_every_format() {
    if !harness::installed("prometheus_of_debian_12_takes_every_format", &["prometheus"]) {
        return;
    }
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let (native, classic) =
        (exporter("native", &open, &closed), exporter("classic", &open, &closed));
    let config = format!("{GLOBAL}{}", job("any", "", [&native, &classic]));
    for flags in [&[][..], &["--enable-feature=native-histograms"]] {
        let peer = Peer::prometheus("prometheus", &config, flags);
        takes_everything(&peer, "any");
        has_classic(&peer, "any");
        if !flags.is_empty() {
            has_native(&peer, "any", "native");
        }
        assert_eq!(peer.complaints(), [""; 0]);
    }
}

#[test]
fn prometheus_3_takes_every_format_and_converts_them() {
    let test = "prometheus_3_takes_every_format_and_converts_them";
    let Some(programs) = peers::fetch(test, &["prometheus"]) else { return };
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let (native, classic) =
        (exporter("native", &open, &closed), exporter("classic", &open, &closed));
    let both = [&native, &classic];
    let protocol = |name: &str| format!("    scrape_protocols: [{name}]\n");
    let converting = "    convert_classic_histograms_to_nhcb: true\n";
    let mut config = GLOBAL.to_owned();
    for (name, protocol) in [
        ("text", protocol("PrometheusText0.0.4")),
        ("openmetrics", protocol("OpenMetricsText1.0.0")),
        ("protobuf", protocol("PrometheusProto")),
    ] {
        config += &job(name, &protocol, both);
        config += &job(&format!("{name}-converted"), &format!("{protocol}{converting}"), both);
    }
    config += &job("any", "", both);
    let both_shapes = "    always_scrape_classic_histograms: true\n";
    config += &job("both-shapes", both_shapes, both);
    let program = programs.join("prometheus").display().to_string();
    let peer = Peer::prometheus(&program, &config, &["--enable-feature=native-histograms"]);
    for job in ["text", "openmetrics", "protobuf", "any", "both-shapes"] {
        takes_everything(&peer, job);
        has_classic(&peer, job);
    }
    for job in ["protobuf", "protobuf-converted", "any", "both-shapes"] {
        has_native(&peer, job, "native");
    }
    for job in ["text-converted", "openmetrics-converted", "protobuf-converted"] {
        takes_everything(&peer, job);
        has_native(&peer, job, "classic");
    }
    assert_eq!(peer.complaints(), [""; 0]);
}

#[test]
fn victoria_metrics_takes_the_text() {
    let test = "victoria_metrics_takes_the_text";
    let Some(programs) = peers::fetch(test, &["victoria-metrics"]) else { return };
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let (native, classic) =
        (exporter("native", &open, &closed), exporter("classic", &open, &closed));
    let config = format!("{GLOBAL}{}", job("any", "", [&native, &classic]));
    let program = programs.join("victoria-metrics").display().to_string();
    let peer = Peer::victoria(&program, &config);
    takes_everything(&peer, "any");
    has_classic(&peer, "any");
    assert_eq!(peer.complaints(), [""; 0]);
}

/// Monitors of addresses where nothing listens, probed once.
fn fleet(count: u32, histogram: &str) -> Exporter {
    let mut config = format!(
        "defaults: {{histogram: {histogram}, interval: 1d, timeout: 1s, confirm: {{failures: 1}}}}\n\
         monitors:\n"
    );
    for number in 0..count {
        let address = std::net::Ipv4Addr::from(0x7f01_0001 + number);
        let _ = writeln!(config, "  - {{name: m{number}, host: {address}, port: 1}}");
    }
    Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter")).config(&config).start()
}

/// Without its `_created` lines Prometheus 3.5 does not finish the converted page in half a minute.
#[test]
fn converting_a_large_page_takes_no_longer_than_from_text() {
    let test = "converting_a_large_page_takes_no_longer_than_from_text";
    let Some(programs) = peers::fetch(test, &["prometheus"]) else { return };
    let (native, classic) = (fleet(2_049, "native"), fleet(2_049, "classic"));
    let both = [&native, &classic];
    let converting = "    convert_classic_histograms_to_nhcb: true\n";
    let mut config =
        "global: {scrape_interval: 10s, scrape_timeout: 10s}\nscrape_configs:\n".to_owned();
    for protocol in ["PrometheusText0.0.4", "OpenMetricsText1.0.0", "PrometheusProto"] {
        let more = format!("    scrape_protocols: [{protocol}]\n{converting}");
        config += &job(protocol, &more, both);
    }
    let program = programs.join("prometheus").display().to_string();
    let peer = Peer::prometheus(&program, &config, &["--enable-feature=native-histograms"]);
    for histogram in ["native", "classic"] {
        let took = |protocol: &str| {
            let labels = format!("job=\"{protocol}\",histogram=\"{histogram}\"");
            peer.wait(&format!("count(tcp_monitor_info{{{labels}}})"), 2_049.0);
            peer.value(&format!("min_over_time(scrape_duration_seconds{{{labels}}}[1m])")).unwrap()
        };
        let [classic_text, open, protobuf] =
            ["PrometheusText0.0.4", "OpenMetricsText1.0.0", "PrometheusProto"].map(took);
        eprintln!(
            "{histogram}: text {classic_text:.3} s, OpenMetrics {open:.3} s, protobuf {protobuf:.3} s"
        );
        assert!(open < 3.0 * classic_text + 0.5, "{open} {classic_text}");
        assert!(protobuf < 3.0 * classic_text + 0.5, "{protobuf} {classic_text}");
    }
    assert_eq!(peer.complaints(), [""; 0]);
}
