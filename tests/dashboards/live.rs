//! Every query of every dashboard, asked of a Prometheus that scrapes three exporters with the
//! shipped rules, while targets are in every state that the panels are there to show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use harness::listener::{FullBacklog, Visitor};
use harness::{ClosedPort, Exporter, Listener, Process, http, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::board::{self, Query, interpolate, legend_labels, list, shipped, text, with_all};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// A scrape and an evaluation every second; outages are confirmed within a few of them, and the
/// longest span that a query looks back over fills in half a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Listens and stops listening on one port, again and again.
struct Flapping {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flapping {
    fn new() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut listener = Some(first);
            while !stopped.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_secs(6));
                listener = match listener {
                    Some(_) => None,
                    None => TcpListener::bind(address).ok(),
                };
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// One target in each state, three exporters that look at them, and the Prometheus between.
struct Stack {
    prometheus: Process,
    address: SocketAddr,
    exporters: Vec<Exporter>,
    /// Monitors that must be down once everything has settled.
    down: BTreeSet<&'static str>,
    _directory: TempDir,
    _listeners: Vec<Listener>,
    _tls: Process,
    _blackbox: Process,
    _silent: FullBacklog,
    _closed: ClosedPort,
    _flapping: Flapping,
}

impl Stack {
    /// With histograms of this shape, scraped by this Prometheus.
    fn start(histogram: &str, prometheus: &[&str]) -> Self {
        let directory = TempDir::with_prefix("dashboards-").unwrap();
        let open = Listener::silent();
        let greeter = Listener::banner(b"220 hello\r\n");
        let slow = Listener::serve(([127, 0, 0, 1], 0).into(), |visitor: &mut Visitor| {
            thread::sleep(Duration::from_millis(150));
            visitor.write(b"220 at last\r\n");
            visitor.read_to_end();
        });
        let (tls, tls_port) = tls_server(directory.path());
        let (silent, closed, flapping) = (FullBacklog::new(), ClosedPort::new(), Flapping::new());
        let monitors = [
            ("open", open.port(), "tcp_connect", "slo: 99.9%, slow: 500ms", "orders"),
            ("refused", closed.address().port(), "tcp_connect", "slo: 99%", "orders"),
            ("silent", silent.address().port(), "tcp_connect", "", "orders"),
            ("tls", tls_port, "tls_any", "", "web"),
            ("slow", slow.port(), "greeting", "slow: 50ms, timeout: 290ms", "web"),
            ("flapping", flapping.address.port(), "tcp_connect", "", "web"),
            ("regional", greeter.port(), "regional", "", "mail"),
            ("blind", greeter.port(), "blind", "", "mail"),
            (
                "primary",
                open.port(),
                "tcp_connect",
                "group: {name: pair, role: primary, min_up: 1}",
                "db",
            ),
            (
                "standby",
                closed.address().port(),
                "tcp_connect",
                "group: {name: pair, role: standby, min_up: 1}",
                "db",
            ),
        ];
        let config = |region: &str| {
            let expect = if region == "ap" { "^554" } else { "^220" };
            let mut text = format!(
                "modules:\n\
                 \x20 tcp_connect: {{prober: tcp}}\n\
                 \x20 greeting: {{prober: tcp, tcp: {{query_response: [{{expect: '^220'}}]}}}}\n\
                 \x20 regional: {{prober: tcp, tcp: {{query_response: [{{expect: '{expect}'}}]}}}}\n\
                 \x20 tls_any: {{prober: tcp, tcp: {{tls: true, tls_config: {{insecure_skip_verify: true}}}}}}\n\
                 \x20 blind: {{prober: tcp, tcp: {{source_ip_address: 192.0.2.7}}}}\n\
                 defaults: {{interval: 1s, timeout: 500ms, histogram: {histogram}, confirm: {{failures: 2, retry_interval: 200ms, regions: 2}}}}\n\
                 monitors:\n"
            );
            for (name, port, module, more, service) in monitors {
                let more = if more.is_empty() { String::new() } else { format!(", {more}") };
                writeln!(
                    text,
                    "  - {{name: {name}, host: 127.0.0.1, port: {port}, module: {module}{more}, \
                     labels: {{service: {service}, team: dba, severity: critical}}}}"
                )
                .unwrap();
            }
            if region == "eu" {
                let port = open.port();
                writeln!(text, "  - {{name: lonely, host: localhost, addresses: all, port: {port}, labels: {{service: orders, team: dba}}}}")
                    .unwrap();
            }
            text
        };
        let exporters: Vec<Exporter> = REGIONS
            .iter()
            .map(|region| {
                Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter"))
                    .config(&config(region))
                    .flag("--log.prober=error")
                    .start()
            })
            .collect();
        let on_scrape = [
            ("tls_any", format!("127.0.0.1:{tls_port}"), "shop"),
            ("tcp_connect", closed.target(), "shop"),
        ];
        let (blackbox, blackbox_address) = blackbox(directory.path());
        let (prometheus, address) = self::prometheus(
            directory.path(),
            &exporters,
            &on_scrape,
            blackbox_address,
            prometheus,
        );
        Self {
            prometheus,
            address,
            exporters,
            down: BTreeSet::from(["on scrape tcp_connect", "refused", "silent", "standby"]),
            _directory: directory,
            _listeners: vec![open, greeter, slow],
            _tls: tls,
            _blackbox: blackbox,
            _silent: silent,
            _closed: closed,
            _flapping: flapping,
        }
    }

    /// An answer of Prometheus's API; its sentence where it refuses.
    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let query: Vec<String> = parameters
            .iter()
            .map(|(key, value)| {
                let value: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
                format!("{key}={value}")
            })
            .collect();
        let path = format!("/api/v1/{path}?{}", query.join("&"));
        let response = http::request(self.address, "GET", &path, &[], &[])
            .map_err(|err| format!("{err}\n{}", self.prometheus.output()))?;
        let mut json: Value =
            serde_json::from_slice(&response.body).map_err(|err| err.to_string())?;
        match text(&json, "/status") {
            "success" => Ok(json["data"].take()),
            _ => Err(text(&json, "/error").to_owned()),
        }
    }

    /// The label sets that a query returns, as the panel asks it.
    fn series(&self, expr: &str, instant: bool) -> Result<Vec<BTreeMap<String, String>>, String> {
        let data = if instant {
            self.api("query", &[("query", expr)])?
        } else {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let (start, end) = (now.as_secs() - 60, now.as_secs());
            let range = [("start", start.to_string()), ("end", end.to_string())];
            self.api(
                "query_range",
                &[("query", expr), ("start", &range[0].1), ("end", &range[1].1), ("step", "2")],
            )?
        };
        let labels = |it: &Value| serde_json::from_value(it["metric"].clone()).unwrap();
        Ok(list(&data, "/result").iter().map(labels).collect())
    }

    fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let data = self.api(&format!("label/{label}/values"), &[("match[]", selector)])?;
        Ok(serde_json::from_value(data).unwrap())
    }

    /// Waits until the rules hold exactly the expected monitors down, and a span of queries is full.
    fn settle(&self) {
        wait_until(PATIENCE, || {
            let down = self.series(
                "target:tcp_monitor_down:info{monitor!=\"\", monitor!=\"flapping\"}",
                true,
            )?;
            let names: BTreeSet<&str> = down.iter().map(|it| it["monitor"].as_str()).collect();
            if names != self.down {
                return Err(format!("down are {names:?}, expected {:?}", self.down));
            }
            let flapped = self.series(
                "changes(target:tcp_monitor_down:quorum{monitor=\"flapping\"}[2m]) > 0",
                true,
            )?;
            if flapped.is_empty() {
                return Err("the flapping target has not changed its mind".to_owned());
            }
            Ok(())
        });
    }
}

fn tls_server(directory: &Path) -> (Process, u16) {
    let at = |name: &str| directory.join(name).display().to_string();
    let (key, certificate) = (at("key.pem"), at("certificate.pem"));
    harness::process::run(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-days",
        "10",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]);
    let mut process = Process::start(
        directory,
        &[
            "openssl",
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-key",
            &key,
            "-cert",
            &certificate,
            "-www",
        ],
    );
    let port = process.wait_output(|output| {
        let rest = output.split("127.0.0.1:").nth(1)?;
        rest.split_whitespace().next()?.parse().ok()
    });
    (process, port)
}

/// Checks the application behind the ports.
fn blackbox(directory: &Path) -> (Process, SocketAddr) {
    let mut process = Process::start(
        directory,
        &[
            "prometheus-blackbox-exporter",
            "--web.listen-address=127.0.0.1:0",
            &format!("--config.file={}", board::path("config/compose/blackbox.yml").display()),
        ],
    );
    let address = process.wait_output(|output| {
        let line = output.lines().find(|it| it.contains("Listening on"))?;
        line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
    });
    (process, address)
}

fn prometheus(
    directory: &Path,
    exporters: &[Exporter],
    on_scrape: &[(&str, String, &str)],
    blackbox: SocketAddr,
    program: &[&str],
) -> (Process, SocketAddr) {
    // Groups keep their order and lose their own pace: a test has no minutes to wait.
    let rules = directory.join("rules");
    std::fs::create_dir(&rules).unwrap();
    for entry in std::fs::read_dir(board::path("config/prometheus/rules")).unwrap() {
        let file = entry.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let paced: Vec<&str> =
            text.lines().filter(|it| !it.trim_start().starts_with("interval:")).collect();
        std::fs::write(rules.join(file.file_name()), paced.join("\n")).unwrap();
    }
    let mut config = String::from(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
         rule_files: [rules/*.yml]\n\
         scrape_configs:\n",
    );
    config.push_str("  - job_name: tcp_probe_exporter\n    static_configs:\n");
    for (region, exporter) in REGIONS.iter().zip(exporters) {
        let address = exporter.address();
        writeln!(config, "      - {{targets: ['{address}'], labels: {{region: {region}}}}}")
            .unwrap();
    }
    for (region, exporter) in REGIONS.iter().zip(exporters) {
        let address = exporter.address();
        writeln!(
            config,
            "  - job_name: on_scrape_{region}\n    metrics_path: /probe\n    static_configs:"
        )
        .unwrap();
        for (module, target, service) in on_scrape {
            writeln!(
                config,
                "      - {{targets: ['{target}'], labels: {{region: {region}, module: {module}, \
                 __param_module: {module}, service: {service}, team: web, monitor: 'on scrape {module}', \
                 required_regions: '2', confirm_failures: '2'}}}}"
            )
            .unwrap();
        }
        write!(
            config,
            "    relabel_configs:\n\
             \x20     - {{source_labels: [__address__], target_label: __param_target}}\n\
             \x20     - {{source_labels: [__address__], target_label: target}}\n\
             \x20     - {{target_label: __address__, replacement: '{address}'}}\n"
        )
        .unwrap();
    }
    let application = exporters[0].address();
    write!(
        config,
        "  - job_name: http\n    metrics_path: /probe\n    params: {{module: [http_2xx]}}\n    static_configs:\n\
         \x20     - {{targets: ['http://{application}/-/healthy'], labels: {{region: eu, module: http_2xx, \
         service: orders, team: web, monitor: orders-http, required_regions: '1'}}}}\n    relabel_configs:\n\
         \x20     - {{source_labels: [__address__], target_label: __param_target}}\n\
         \x20     - {{source_labels: [__address__], target_label: target}}\n\
         \x20     - {{target_label: __address__, replacement: '{blackbox}'}}\n"
    )
    .unwrap();
    std::fs::write(directory.join("prometheus.yml"), config).unwrap();
    let at = |name: &str| directory.join(name).display().to_string();
    let (config, data) = (at("prometheus.yml"), at("data"));
    let own = [
        &format!("--config.file={config}"),
        &format!("--storage.tsdb.path={data}"),
        "--web.listen-address=127.0.0.1:0",
        "--log.level=info",
    ];
    let mut process = Process::start(directory, &[program, &own].concat());
    let address = process.wait_output(|output| {
        let line = output.lines().find(|it| it.contains("Listening on"))?;
        line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
    });
    (process, address)
}

/// The targets that the target dashboard is opened for, one at a time.
fn targets(stack: &Stack) -> Vec<(String, String)> {
    let all = stack.series("target:tcp_monitor_info:labels", true).unwrap();
    all.iter().map(|it| (it["monitor"].clone(), it["target"].clone())).collect()
}

/// Asks one query for every target it may be opened for; the labels of all series returned.
fn ask(
    stack: &Stack,
    query: &Query,
    targets: &[(String, String)],
) -> Result<BTreeSet<String>, String> {
    let mut labels = BTreeSet::new();
    let mut found = false;
    let by_target = query.expr.contains("$target");
    for (monitor, target) in if by_target { targets } else { &targets[..1] } {
        let expr = interpolate(&query.expr, &[("monitor", monitor), ("target", target)]);
        let series = stack
            .series(&with_all(&expr), query.instant)
            .map_err(|err| format!("{}: `{expr}` is refused: {err}", query.place))?;
        found |= !series.is_empty();
        labels.extend(series.into_iter().flat_map(BTreeMap::into_keys));
    }
    if found { Ok(labels) } else { Err(format!("{}: `{}` is empty", query.place, query.expr)) }
}

/// One stack at a time: each is busy enough for the machine.
static BUSY: Mutex<()> = Mutex::new(());

#[test]
fn every_panel_and_variable_shows_something() {
    let test = "every_panel_and_variable_shows_something";
    if harness::installed(test, &["prometheus", "prometheus-blackbox-exporter", "openssl"]) {
        every_panel_shows_something("classic", &["prometheus"]);
    }
}

#[test]
fn every_panel_shows_something_of_native_histograms() {
    let test = "every_panel_shows_something_of_native_histograms";
    if !harness::installed(test, &["prometheus-blackbox-exporter", "openssl"]) {
        return;
    }
    if let Some(programs) = harness::peers::fetch(test, &["prometheus"]) {
        let program = programs.join("prometheus").display().to_string();
        every_panel_shows_something("native", &[&program, "--enable-feature=native-histograms"]);
    }
}

fn every_panel_shows_something(histogram: &str, prometheus: &[&str]) {
    let _busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let stack = Stack::start(histogram, prometheus);
    stack.settle();
    let targets = targets(&stack);

    let (mut panels, mut queries, mut variables, mut annotations) = (0, 0, 0, 0);
    for board in shipped() {
        for variable in board.variables() {
            let selector =
                with_all(&interpolate(&variable.selector, &[("target", "127.0.0.1:.*")]))
                    .replace("target=\"", "target=~\"");
            let values = stack.label_values(&selector, &variable.label).unwrap();
            assert!(!values.is_empty(), "{}: variable `{}` is empty", board.name, variable.name);
            variables += 1;
        }
        for expr in board.annotations() {
            stack.series(&with_all(&expr), false).unwrap();
            annotations += 1;
        }
        panels += board.panels().count();
        queries += board.queries().len();
    }
    // Rates and quantiles need a few scrapes more than the verdicts did.
    let mut open: Vec<(Query, Vec<String>)> = Vec::new();
    for board in shipped() {
        for panel in board.panels() {
            let columns: Vec<String> = list(panel, "/fieldConfig/overrides")
                .iter()
                .filter(|it| text(it, "/matcher/id") == "byName")
                .map(|it| text(it, "/matcher/options").to_owned())
                .filter(|it| !it.starts_with("Value"))
                .collect();
            let mut queries = board.queries_of(panel).into_iter();
            // Columns that are labels come with the first query that has them: check that one.
            let first = queries.next().unwrap();
            open.push((first, columns));
            open.extend(queries.map(|it| (it, Vec::new())));
        }
    }
    let mut later: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    wait_until(PATIENCE, || {
        let mut errors = Vec::new();
        open.retain(|(query, _)| match ask(&stack, query, &targets) {
            Ok(labels) => {
                for label in legend_labels(&query.legend) {
                    if !labels.contains(label) {
                        errors.push(format!("{}: no series has `{label}`", query.place));
                    }
                }
                later.entry(query.place.clone()).or_default().extend(labels);
                false
            }
            Err(error) => {
                errors.push(error);
                true
            }
        });
        if errors.is_empty() { Ok(()) } else { Err(format!("\n{}", errors.join("\n"))) }
    });
    for board in shipped() {
        for panel in board.panels() {
            let place = format!("{}: {}", board.name, text(panel, "/title"));
            for column in list(panel, "/fieldConfig/overrides") {
                let name = text(column, "/matcher/options");
                if text(column, "/matcher/id") != "byName" || name.starts_with("Value") {
                    continue;
                }
                assert!(later[&place].contains(name), "{place}: no series has the column `{name}`");
            }
        }
    }
    the_heads_tell_the_truth(&stack);
    println!(
        "{panels} panels with {queries} queries, {variables} variables, {annotations} annotations: \
         none refused, none of the panels or variables empty"
    );
    names_meet(&stack);
}

/// That a panel shows something is half of it: the overview's numbers must be right.
fn the_heads_tell_the_truth(stack: &Stack) {
    let boards = shipped();
    let overview = boards.iter().find(|it| it.name == "overview").unwrap();
    let expr = |title: &str| {
        let all = overview.queries();
        let query = all.iter().find(|it| it.place.ends_with(title)).unwrap();
        with_all(&query.expr)
    };
    let value = |title| -> f64 {
        let data = stack.api("query", &[("query", &expr(title))]).unwrap();
        let value = list(&data, "/result")[0].pointer("/value/1").unwrap();
        value.as_str().unwrap().parse().unwrap()
    };
    wait_until(PATIENCE, || {
        let seen = [": Targets watched", ": Regions reporting", ": Nobody looks"]
            .map(|it| value(it).to_string());
        // Eleven monitors, two on-scrape targets, one HTTP check; `blind` is seen by nobody.
        if seen == ["14", "3", "1"] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert!(value(": Targets down") >= 4.0, "three monitors and an on-scrape target are down");
    assert!(value(": Failing somewhere") >= 1.0, "`regional` fails in one region");
}

/// Metrics that no dashboard or rule of ours needs: names of `blackbox_exporter` that other
/// people's dashboards read, and what any process says of itself.
const UNUSED: [&str; 10] = [
    "blackbox_exporter_config_last_reload_success_timestamp_seconds",
    "blackbox_exporter_config_last_reload_successful",
    "blackbox_module_unknown_total",
    "probe_dns_lookup_time_seconds",
    "probe_failed_due_to_bytes",
    "probe_failed_due_to_regex",
    "probe_ip_addr_hash",
    "probe_ip_protocol",
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "process_virtual_memory_bytes",
];

/// Series that Prometheus itself makes.
const FOREIGN: [&str; 4] = ["up", "scrape_duration_seconds", "ALERTS", "ALERTS_FOR_STATE"];

/// The two shapes of one histogram, of which an exporter has one.
const SHAPES: [&str; 2] =
    ["tcp_monitor_probe_duration_seconds", "tcp_monitor_probe_duration_seconds_bucket"];

/// Every name that a dashboard or a rule reads is exposed or recorded, and every name that is
/// exposed is read by one of them.
fn names_meet(stack: &Stack) {
    let mut exposed = BTreeSet::new();
    // Refused, so that the counter of refusals has a series.
    assert_eq!(stack.exporters[0].get("/probe?target=169.254.169.254:80").status, 403);
    for path in ["/metrics".to_owned(), format!("/probe?module=tls_any&target={}", "127.0.0.1:1")] {
        for exporter in &stack.exporters {
            let body = exporter.get(&path).text();
            exposed.extend(harness::Metrics::parse(&body).samples.into_iter().map(|it| it.name));
        }
    }
    let names = stack.label_values("{__name__=~\"probe_.*\", job!=\"http\"}", "__name__").unwrap();
    exposed.extend(names);
    let mut recorded = BTreeSet::new();
    let mut read = BTreeSet::new();
    for board in shipped() {
        for expr in board.queries().iter().map(|it| it.expr.clone()).chain(board.annotations()) {
            read.extend(board::metrics(&with_all(&expr)));
        }
        read.extend(
            board.variables().iter().flat_map(|it| board::metrics(&with_all(&it.selector))),
        );
    }
    let data = stack.api("rules", &[]).unwrap();
    for rule in list(&data, "/groups").iter().flat_map(|it| list(it, "/rules")) {
        if text(rule, "/type") == "recording" {
            recorded.insert(text(rule, "/name").to_owned());
        }
        assert_ne!(text(rule, "/health"), "err", "rule {}: {}", rule["name"], rule["lastError"]);
        read.extend(board::metrics(text(rule, "/query")));
    }
    let dangling: Vec<&String> = read
        .iter()
        .filter(|it| !exposed.contains(*it) && !recorded.contains(*it))
        .filter(|it| !FOREIGN.contains(&it.as_str()) && !SHAPES.contains(&it.as_str()))
        .collect();
    assert!(dangling.is_empty(), "read but neither exposed nor recorded: {dangling:#?}");
    let families: BTreeSet<&str> = exposed
        .iter()
        .filter(|it| !read.contains(*it))
        .map(|it| {
            it.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count")
        })
        .filter(|it| !read.iter().any(|name| name.starts_with(it)))
        .filter(|it| !UNUSED.contains(it))
        .collect();
    assert!(families.is_empty(), "exposed but shown by nothing: {families:#?}");
    println!("{} names exposed, {} recorded, {} read", exposed.len(), recorded.len(), read.len());
}
