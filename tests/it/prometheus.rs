//! A real Prometheus beside the exporter: what it scrapes, and what it makes of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use harness::{ClosedPort, Exporter, Listener, Process, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::{EXPORTER, LIMIT, exporter};

/// Asks promtool whether it likes what the exporter exposes.
#[track_caller]
fn lint(exposition: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    promtool.stdin.take().expect("a pipe").write_all(exposition.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{exposition}");
}

#[test]
fn promtool_has_nothing_to_say() {
    if !harness::installed("promtool_has_nothing_to_say", &["promtool"]) {
        return;
    }
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let config = format!(
        "monitors:\n  - {{name: m, host: 127.0.0.1, ports: [{}, {}], interval: 200ms, \
         timeout: 100ms, slow: 10ms, slo: 99%, confirm: {{retry_interval: 100ms}}}}\n",
        open.port(),
        closed.address().port()
    );
    let exporter = Exporter::new(EXPORTER).config(&config).start();
    wait_until(LIMIT, || match exporter.get("/metrics").text() {
        text if text.contains("tcp_monitor_up") && text.contains("reason=\"refused\"") => Ok(()),
        text => Err(text),
    });

    lint(&exporter.get("/metrics").text());
    for target in [open.target(), closed.target(), "nonsense".to_owned()] {
        lint(&exporter.get(&format!("/probe?target={target}")).text());
    }
}

struct Prometheus {
    _process: Process,
    _directory: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    fn start(config: &str) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        // Taken by somebody else in between, it would not start, and the test would say so.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let words = [
            "prometheus".to_owned(),
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address={address}"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::start(directory.path(), &words);
        Self { _process: process, _directory: directory, address }
    }

    /// The value of every series of a query, by its label `target`.
    fn ask(&self, query: &str) -> Result<BTreeMap<String, String>, String> {
        let path = format!("/api/v1/query?query={query}");
        let answer = harness::http::request(self.address, "GET", &path, &[], b"")
            .map_err(|err| err.to_string())?;
        let answer: Value = serde_json::from_slice(&answer.body).map_err(|err| err.to_string())?;
        let series = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let word = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        Ok(series.iter().map(|it| (word(&it["metric"]["target"]), word(&it["value"][1]))).collect())
    }

    /// Errors of the last scrapes.
    fn errors(&self) -> Vec<String> {
        let path = "/api/v1/targets?state=active";
        match harness::http::request(self.address, "GET", path, &[], b"") {
            Err(err) => vec![err.to_string()],
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let targets = answer["data"]["activeTargets"].as_array().cloned();
                let targets = targets.unwrap_or_default();
                let errors = targets.iter().filter_map(|it| it["lastError"].as_str());
                errors.filter(|it| !it.is_empty()).map(str::to_owned).collect()
            }
        }
    }
}

/// The multi-target pattern, as `blackbox_exporter` users have it.
fn multi_target(exporter: SocketAddr, discovery: &str) -> String {
    format!(
        "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\nscrape_configs:\n  \
         - job_name: self\n    static_configs: [{{targets: ['{exporter}']}}]\n  \
         - job_name: probe\n    metrics_path: /probe\n    {discovery}\n    relabel_configs:\n      \
         - {{source_labels: [__address__], target_label: __param_target}}\n      \
         - {{source_labels: [__address__], target_label: target}}\n      \
         - {{source_labels: [module], regex: (.+), target_label: __param_module}}\n      \
         - {{target_label: __address__, replacement: '{exporter}'}}\n"
    )
}

#[track_caller]
fn check(exporter: &Exporter, discovery: &str, expected: &BTreeMap<String, String>) {
    let prometheus = Prometheus::start(&multi_target(exporter.address(), discovery));

    wait_until(LIMIT * 2, || {
        let (found, up) = (prometheus.ask("probe_success")?, prometheus.ask("up")?);
        let errors = prometheus.errors();
        if found == *expected && up.values().all(|it| it == "1") && errors.is_empty() {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {expected:?}; {up:?}, {errors:?}"))
        }
    });
}

#[test]
fn prometheus_scrapes_ten_targets_without_an_error() {
    if !harness::installed("prometheus_scrapes_ten_targets_without_an_error", &["prometheus"]) {
        return;
    }
    let open: Vec<Listener> = (0..5).map(|_| Listener::silent()).collect();
    let closed: Vec<ClosedPort> = (0..4).map(|_| ClosedPort::new()).collect();
    let mut expected: BTreeMap<String, String> =
        open.iter().map(|it| (it.target(), "1".to_owned())).collect();
    expected.extend(closed.iter().map(|it| (it.target(), "0".to_owned())));
    expected.insert("nonsense".to_owned(), "0".to_owned());
    let targets: Vec<&str> = expected.keys().map(String::as_str).collect();
    let discovery = format!("static_configs: [{{targets: ['{}']}}]", targets.join("', '"));

    check(&exporter(), &discovery, &expected);
}

#[test]
fn prometheus_probes_what_it_discovers_here() {
    if !harness::installed("prometheus_probes_what_it_discovers_here", &["prometheus"]) {
        return;
    }
    let (open, closed) = (Listener::silent(), ClosedPort::new());
    let config = format!(
        "monitors:\n  - {{name: m, host: 127.0.0.1, ports: [{}, {}], interval: 1d}}\n",
        open.port(),
        closed.address().port()
    );
    let exporter = Exporter::new(EXPORTER).config(&config).start();
    let discovery = format!("http_sd_configs: [{{url: 'http://{}/sd'}}]", exporter.address());
    let expected =
        BTreeMap::from([(open.target(), "1".to_owned()), (closed.target(), "0".to_owned())]);

    check(&exporter, &discovery, &expected);
}
