//! Three regions, the centre and the targets, each in a network namespace of its own.
//!
//! ```text
//!   core ── ap, eu, us ── targets        core: Prometheus, Alertmanager, inboxes
//!                                        ap, eu, us: an exporter each
//!                                        targets: 10.10.0.0/16, port 5001 open
//! ```

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::inbox::Message;
use harness::prometheus::Sample;
use harness::{Alertmanager, Exporter, Inbox, Netns, Prometheus, wait_until};

use crate::compress;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
pub(crate) const REGIONS: [&str; 3] = ["ap", "eu", "us"];
/// How much faster than life: the shipped 15 s become 1 s. With `ALERTS_REAL_TIME=1` in the
/// environment the shipped files run as they are, which takes about an hour.
const FACTOR: u64 = 15;
/// Longest wait for something that must happen; windows of the rules are minutes at most.
const LIMIT: Duration = Duration::from_secs(120);

/// What a world is made of.
#[derive(Default)]
pub(crate) struct Plan {
    /// Text of the exporters' configuration, after `monitors:`.
    pub(crate) monitors: String,
    /// Scrape jobs beside that of the exporters, if there are any monitors.
    pub(crate) jobs: String,
    /// An agent in each region that writes to the centre, which scrapes nothing.
    pub(crate) agents: bool,
    /// Ports that are open beside 5001, from 5002 on.
    pub(crate) more_ports: u16,
}

/// A region and its exporter.
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) netns: Netns,
    pub(crate) exporter: Option<Exporter>,
}

/// Everything together.
pub(crate) struct World {
    pub(crate) prometheus: Prometheus,
    pub(crate) alertmanager: Alertmanager,
    /// Its configuration.
    pub(crate) routes: String,
    pub(crate) http: Inbox,
    pub(crate) mail: Inbox,
    pub(crate) regions: Vec<Region>,
    /// Of the agents, if there are any.
    _agents: Vec<Prometheus>,
    pub(crate) targets: Netns,
    pub(crate) core: Netns,
    config: String,
    factor: u64,
}

/// Whether this machine can hold a world; if not, `test` is to be skipped, loudly.
pub(crate) fn available(test: &str) -> bool {
    harness::installed(test, &["prometheus", "prometheus-alertmanager"]) && Netns::available(test)
}

fn shipped(path: &str) -> String {
    let path = format!("{}/config/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// The rule files as shipped, faster.
pub(crate) fn rule_files(factor: u64) -> Vec<(String, String)> {
    ["state.yml", "regions.yml", "quality.yml"]
        .map(|it| {
            let text = shipped(&format!("prometheus/rules/{it}"));
            (format!("rules/{it}"), compress::rules(&text, factor))
        })
        .to_vec()
}

impl World {
    #[track_caller]
    pub(crate) fn new(plan: &Plan) -> Self {
        let factor = if std::env::var_os("ALERTS_REAL_TIME").is_some() { 1 } else { FACTOR };
        let (core, targets) = (Netns::new("core"), Netns::new("targets"));
        // Any address of the network is the targets' own.
        targets.run(&["ip", "route", "add", "local", "10.10.0.0/16", "dev", "lo"]);
        targets.nft(
            "table inet cut {\n\
             set refused { type ipv4_addr . ipv4_addr . inet_service; flags interval; }\n\
             set dropped { type ipv4_addr . ipv4_addr . inet_service; flags interval; }\n\
             chain input { type filter hook input priority 0;\n\
             ip saddr . ip daddr . tcp dport @refused reject with tcp reset;\n\
             ip saddr . ip daddr . tcp dport @dropped drop; }\n\
             }",
        );
        for port in 5001..=5001 + plan.more_ports {
            serve(&targets, port);
        }
        let config = if plan.monitors.is_empty() {
            "modules: {quick: {prober: tcp, timeout: 1s}}\n".to_owned()
        } else {
            format!("defaults: {{buckets: []}}\nmonitors:\n{}", plan.monitors)
        };
        let mut regions: Vec<Region> = REGIONS
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let netns = Netns::new(name);
                let (here, there) = (format!("10.8.{index}.1/24"), format!("10.8.{index}.2/24"));
                core.link(&netns, &[(&here, &there)]);
                let (here, there) = (format!("10.9.{index}.1/24"), format!("10.9.{index}.2/24"));
                netns.link(&targets, &[(&here, &there)]);
                let region = Region { name, netns, exporter: None };
                region.route();
                region
            })
            .collect();
        for region in &mut regions {
            region.start(&config);
        }
        let (http, mail) = (Inbox::http(&core), Inbox::smtp(&core));
        let routes = routes(&http, &mail, factor);
        let alertmanager = alertmanager(&core, &http, &routes);
        let prometheus = prometheus(&core, plan, factor);
        let agents =
            if plan.agents { regions.iter().map(|it| agent(it, factor)).collect() } else { vec![] };
        Self {
            _agents: agents,
            prometheus,
            alertmanager,
            routes,
            http,
            mail,
            regions,
            targets,
            core,
            config,
            factor,
        }
    }

    /// Waits until every region has voted on every target for so long that a quorum is taken at
    /// its word (`offset 5m` in the rules).
    #[track_caller]
    pub(crate) fn settle(&self, targets: usize) {
        let minutes = 5 * 60 / self.factor + 1;
        let expr = format!("count(target:tcp_monitor_regions_fresh:count offset {minutes}s == 3)");
        self.wait_value(&expr, |it| it >= count(targets));
    }

    /// Waits until nothing but the watchdog fires, and that has been told.
    #[track_caller]
    pub(crate) fn quiet(&self) {
        let others = "count(ALERTS{alertname!=\"TcpMonitorWatchdog\"}) or vector(0)";
        self.wait_value(others, |it| it == 0.0);
        self.pass(420);
    }

    /// Waits until an expression has one value that `holds`.
    #[track_caller]
    pub(crate) fn wait_value(&self, expr: &str, holds: impl Fn(f64) -> bool) {
        self.wait_samples(expr, |samples| samples.iter().any(|(_, value)| holds(*value)));
    }

    /// Waits until the series of an expression `hold`.
    #[track_caller]
    pub(crate) fn wait_samples(&self, expr: &str, holds: impl Fn(&[Sample]) -> bool) {
        wait_until(self.limit(), || {
            let samples = self.prometheus.query(expr)?;
            if holds(&samples) {
                Ok(())
            } else {
                Err(format!("{expr}: {samples:?}\n{}", self.story()))
            }
        });
    }

    /// Waits until `seconds` of the shipped rules' time have passed on the clock of Prometheus.
    #[track_caller]
    pub(crate) fn pass(&self, seconds: u64) {
        let now = || self.prometheus.query("vector(time())").map(|it| it[0].1);
        let start = wait_until(LIMIT, now);
        let seconds = count(usize::try_from(seconds / self.factor).expect("seconds"));
        wait_until(self.limit(), || {
            let now = now()?;
            if now >= start + seconds {
                Ok(())
            } else {
                Err(format!("{now} of {start} + {seconds}"))
            }
        });
    }

    fn limit(&self) -> Duration {
        LIMIT.max(Duration::from_secs(900 / self.factor) * 2)
    }

    /// Waits for a Slack message to this channel with all `words`, sent after `since`.
    #[track_caller]
    pub(crate) fn wait_slack(&self, channel: &str, words: &[&str], since: Instant) -> Message {
        wait_until(self.limit(), || {
            self.slack(channel, words, since).first().cloned().ok_or_else(|| self.story())
        })
    }

    /// The Slack messages to this channel with all `words` in title or text, sent after `since`.
    pub(crate) fn slack(&self, channel: &str, words: &[&str], since: Instant) -> Vec<Message> {
        let mut messages = self.http.messages();
        messages.retain(|it| {
            let (title, text) = (it.text("/attachments/0/title"), it.text("/attachments/0/text"));
            it.at >= since
                && it.text("/channel") == channel
                && words.iter().all(|word| title.contains(word) || text.contains(word))
        });
        messages
    }

    /// What has been sent so far, for people.
    pub(crate) fn story(&self) -> String {
        let lines = self.http.messages().into_iter().filter(|it| !it.text("/channel").is_empty());
        let lines: Vec<String> = lines
            .map(|it| format!("{} {}", it.text("/channel"), it.text("/attachments/0/title")))
            .collect();
        let alerts =
            self.prometheus.query("count by (alertname, monitor, region, alertstate) (ALERTS)");
        format!("sent: {lines:#?}\nalerts: {alerts:#?}")
    }

    /// Shuts ports of targets to a region: `("10.10.0.1", "5001")`, ranges allowed. `refused`
    /// answers with a reset, `dropped` not at all.
    #[track_caller]
    pub(crate) fn cut(&self, how: &str, region: &str, host: &str, ports: &str) {
        let source = self.source(region);
        self.targets.nft(&format!("add element inet cut {how} {{ {source} . {host} . {ports} }}"));
    }

    /// Opens them again.
    #[track_caller]
    pub(crate) fn heal(&self, how: &str, region: &str, host: &str, ports: &str) {
        let source = self.source(region);
        self.targets
            .nft(&format!("delete element inet cut {how} {{ {source} . {host} . {ports} }}"));
    }

    fn source(&self, region: &str) -> String {
        format!("10.9.{}.1", self.index(region))
    }

    pub(crate) fn index(&self, region: &str) -> usize {
        self.regions.iter().position(|it| it.name == region).expect("a region")
    }

    /// Ends the exporter of a region.
    pub(crate) fn stop(&mut self, region: &str) {
        let index = self.index(region);
        self.regions[index].exporter = None;
    }

    /// Starts the exporter of a region, with nothing remembered.
    #[track_caller]
    pub(crate) fn start(&mut self, region: &str) {
        let index = self.index(region);
        self.regions[index].start(&self.config);
    }

    /// Cuts a region from the centre, or heals that.
    #[track_caller]
    pub(crate) fn partition(&self, region: &str, cut: bool) {
        let address = format!("10.8.{}.2", self.index(region));
        if cut {
            self.core.nft(&format!(
                "table inet part {{ chain in {{ type filter hook input priority 0; \
                 ip saddr {address} drop; }}; }}"
            ));
        } else {
            self.core.nft("delete table inet part");
        }
    }
}

impl Region {
    fn index(&self) -> usize {
        REGIONS.iter().position(|&it| it == self.name).expect("a region")
    }

    /// The way to the targets.
    #[track_caller]
    pub(crate) fn route(&self) {
        let via = format!("10.9.{}.2", self.index());
        self.netns.run(&["ip", "route", "add", "10.10.0.0/16", "via", &via]);
    }

    #[track_caller]
    pub(crate) fn unroute(&self) {
        self.netns.run(&["ip", "route", "del", "10.10.0.0/16"]);
    }

    #[track_caller]
    fn start(&mut self, config: &str) {
        let exporter = Exporter::new(EXPORTER)
            .config(config)
            .flag("--web.listen-address=0.0.0.0:10115")
            .netns(&self.netns)
            .start();
        self.exporter = Some(exporter);
    }
}

/// An HTTP server at port 8080 of the targets, well or not as `well` says.
pub(crate) fn application(targets: &Netns, well: &Arc<AtomicBool>) {
    let listener = targets.within(|| TcpListener::bind("0.0.0.0:8080")).expect("listen");
    let well = Arc::clone(well);
    // It ends with the test's process: what it waits for is the kernel.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let status = if well.load(Ordering::Relaxed) { "200 OK" } else { "500 Unwell" };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

/// Accepts every connection to this port and closes it.
fn serve(targets: &Netns, port: u16) {
    let listener = targets.within(|| TcpListener::bind(("0.0.0.0", port))).expect("listen");
    // It ends with the test's process: what it waits for is the kernel.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.flush();
        }
    });
}

/// Alertmanager's configuration as shipped, its channels leading to the inboxes.
fn routes(http: &Inbox, mail: &Inbox, factor: u64) -> String {
    let text = compress::alertmanager(&shipped("alertmanager/alertmanager.yml"), factor);
    let smarthost = format!("smtp_smarthost: {}\n  smtp_require_tls: false", mail.address());
    text.replace("smtp_smarthost: mail.company.com:587", &smarthost)
        .replace("  smtp_auth_username: alertmanager@company.com\n", "")
        .replace("  smtp_auth_password_file: secrets/smtp_password\n", "")
        .replace(
            "global:\n",
            &format!("global:\n  pagerduty_url: http://{}/pagerduty\n", http.address()),
        )
        .replace("https://deadman.example.com", &format!("http://{}", http.address()))
}

fn alertmanager(core: &Netns, http: &Inbox, routes: &str) -> Alertmanager {
    let slack = format!("http://{}/slack", http.address());
    let template = shipped("alertmanager/templates/tcp_monitor.tmpl");
    let address = SocketAddr::from(([127, 0, 0, 1], 9093));
    Alertmanager::start(
        core,
        address,
        &[
            ("alertmanager.yml", routes),
            ("templates/tcp_monitor.tmpl", &template),
            ("secrets/slack_url", &slack),
            ("secrets/pagerduty_monitoring", "monitoring"),
            ("secrets/pagerduty_database_on_call", "database"),
        ],
    )
}

fn prometheus(core: &Netns, plan: &Plan, factor: u64) -> Prometheus {
    let step = Duration::from_secs(15) / u32::try_from(factor).expect("small");
    let step = format!("{}ms", step.as_millis());
    let mut text = format!(
        "global: {{scrape_interval: {step}, scrape_timeout: {step}, evaluation_interval: {step}}}\n\
         rule_files: [rules/*.yml]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:9093']}}]}}]}}\n\
         scrape_configs:\n"
    );
    if !plan.monitors.is_empty() && !plan.agents {
        text.push_str("  - job_name: tcp-monitor\n    honor_labels: true\n    static_configs:\n");
        for (index, region) in REGIONS.iter().enumerate() {
            // Writing to memory cannot fail.
            let _ = write!(
                text,
                "      - targets: ['10.8.{index}.2:10115']\n        labels: {{region: {region}}}\n"
            );
        }
    }
    text.push_str(&plan.jobs);
    let rules = rule_files(factor);
    let mut files: Vec<(&str, &str)> =
        rules.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("prometheus.yml", &text));
    let lookback = format!("--query.lookback-delta={}s", 300 / factor);
    let resend = format!("--rules.alert.resend-delay={}s", 60 / factor);
    let mut flags = vec![lookback.as_str(), &resend, "--storage.tsdb.path=data"];
    if plan.agents {
        flags.push("--web.enable-remote-write-receiver");
    }
    Prometheus::start(core, SocketAddr::from(([0, 0, 0, 0], 9090)), &files, &flags)
}

/// An agent as shipped, but for the addresses and the speed.
fn agent(region: &Region, factor: u64) -> Prometheus {
    let step = format!("{}ms", 15_000 / factor);
    let centre = format!("http://10.8.{}.1:9090/api/v1/write", region.index());
    let text = shipped("prometheus/agent.yml")
        .replace(
            "scrape_interval: 15s",
            &format!("scrape_interval: {step}\n  scrape_timeout: {step}"),
        )
        .replace("region: home", &format!("region: {}", region.name))
        .replace(
            "url: https://central.example.com/api/v1/write",
            &format!("url: {centre}\n    queue_config: {{batch_send_deadline: 200ms}}"),
        );
    let address = SocketAddr::from(([127, 0, 0, 1], 9091));
    let flags = ["--enable-feature=agent", "--storage.agent.path=data"];
    Prometheus::start(&region.netns, address, &[("prometheus.yml", &text)], &flags)
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
pub(crate) fn count(it: usize) -> f64 {
    it as f64
}
