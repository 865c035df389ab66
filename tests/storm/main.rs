//! All attacks at once against one exporter with the limits of `config/kubernetes`, 256 MiB, and
//! 1,024 descriptors, while it watches 500 targets and serves a client that behaves well.
//!
//! Twenty seconds by default. `STORM_SECONDS=600 STORM_EXPORTER=target/release/tcp_probe_exporter`
//! makes it ten minutes of another build. All traffic stays on loopback.

#![expect(clippy::print_stderr, reason = "the figures are what it is for")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::listener::Visitor;
use harness::{Exporter, Listener, Metrics, NameServer, wait_until};

use crate::attacks::{Arena, PASSWORD, basic};

mod attacks;

/// Targets by address, and by name.
const LITERALS: usize = 450;
const NAMES: usize = 50;
const MEMORY: u64 = 256 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(60);

/// A control group for memory, where version 1 is mounted.
struct Cell(PathBuf);

impl Cell {
    fn new() -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/storm-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let this = Self(path);
        std::fs::write(this.0.join("memory.limit_in_bytes"), MEMORY.to_string()).ok()?;
        Some(this)
    }

    fn add(&self, id: u32) {
        std::fs::write(self.0.join("cgroup.procs"), id.to_string()).expect("a control group");
    }

    fn number(&self, file: &str) -> u64 {
        let text = std::fs::read_to_string(self.0.join(file)).expect("a control group");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Only an empty one can be removed: its process has been killed just now.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The modules for attacks and the 500 monitors.
fn config(arena: &Arena) -> String {
    let dns = arena.dns.address();
    let mut text = format!(
        "modules:
  plain: {{prober: tcp, timeout: 5s, tcp: {{preferred_ip_protocol: ip4, resolver: ['{dns}']}}}}
  wait: {{prober: tcp, tcp: {{query_response: [{{expect: never}}]}}}}
  scan: {{prober: tcp, timeout: 5s, tcp: {{query_response: [{{expect_stream: '(a+)+never'}}]}}}}
  zero: {{prober: tcp, timeout: 5s, tcp: {{tls: true, tls_config: {{ca_file: /dev/zero}}}}}}
  pipe: {{prober: tcp, timeout: 5s, tcp: {{tls: true, tls_config: {{ca_file: pipe}}}}}}
access: {{deny: ['127.66.0.0/16']}}
defaults: {{module: plain, interval: 5s, timeout: 3s, confirm: {{failures: 3, retry_interval: 1s}}}}
monitors:
"
    );
    let port = arena.target.port();
    for index in 0..LITERALS {
        let (high, low) = (index / 250, index % 250 + 1);
        let _ = writeln!(text, "- {{name: m{index}, host: 127.1.{high}.{low}, port: {port}}}");
    }
    for index in 0..NAMES {
        let _ = writeln!(text, "- {{name: n{index}, host: n{index}.well.test, port: {port}}}");
    }
    text
}

/// How long the answers of one path took.
#[derive(Default)]
struct Latencies {
    times: Vec<Duration>,
    refused: u64,
}

impl Latencies {
    fn quantile(&mut self, of_hundred: usize) -> Duration {
        self.times.sort_unstable();
        let index = (self.times.len() * of_hundred / 100).min(self.times.len() - 1);
        self.times[index]
    }

    fn report(&mut self, path: &str) {
        let (middle, late) = (self.quantile(50), self.quantile(99));
        let (count, worst) = (self.times.len(), self.quantile(100));
        let refused = self.refused;
        eprintln!(
            "{path}: {count} answers, median {middle:.1?}, p99 {late:.1?}, worst {worst:.1?}, {refused} refused"
        );
    }
}

/// A client that knows the password and asks as Prometheus and a load balancer do.
fn behave(
    address: SocketAddr,
    path: &str,
    pause: Duration,
    stop: &AtomicBool,
    found: &Mutex<Latencies>,
) {
    let authorization = basic(PASSWORD);
    while !stop.load(Relaxed) {
        let begin = Instant::now();
        let answer =
            harness::http::request(address, "GET", path, &[("Authorization", &authorization)], b"");
        let took = begin.elapsed();
        let mut found = found.lock().expect("no panic");
        match answer {
            Ok(answer) if answer.status == 200 => found.times.push(took),
            _ => found.refused += 1,
        }
        drop(found);
        std::thread::sleep(pause);
    }
}

/// The upper bound of the bucket in which the quantile of late starts is.
fn lateness(page: &Metrics, quantile: f64) -> String {
    let name = "tcp_probe_exporter_start_lateness_seconds";
    let all = page.value(&format!("{name}_count"), &[]).expect("a count");
    let bucket = format!("{name}_bucket");
    let mut buckets = page.all(&bucket);
    let found = buckets.find(|bucket| bucket.value >= all * quantile);
    found.map_or_else(|| "+Inf".to_owned(), |bucket| bucket.labels["le"].clone())
}

/// Verdicts and when they changed, by monitor.
fn verdicts(page: &Metrics) -> Vec<(String, String)> {
    let last = page.all("tcp_monitor_last_change_timestamp_seconds");
    let mut verdicts: Vec<_> =
        last.map(|sample| (sample.labels["monitor"].clone(), sample.value.to_string())).collect();
    verdicts.sort();
    verdicts
}

fn outcomes(page: &Metrics, outcome: &str) -> f64 {
    let all = page.all("tcp_monitor_probes_total");
    all.filter(|sample| sample.labels["outcome"] == outcome).map(|sample| sample.value).sum()
}

fn metrics(address: SocketAddr) -> Metrics {
    let authorization = [("Authorization", &*basic(PASSWORD))];
    let answer = harness::http::request(address, "GET", "/metrics", &authorization, b"");
    Metrics::parse(&answer.expect("an answer").text())
}

/// Peers and a name server: the good ones and the bad ones.
fn arena() -> Arena {
    let target = Listener::serve((Ipv4Addr::UNSPECIFIED, 0).into(), Visitor::read_to_end);
    let silent = Listener::silent();
    let endless = Listener::serve((Ipv4Addr::LOCALHOST, 0).into(), |visitor| {
        // Byte by byte, as costly for a pattern as can be.
        while std::io::Write::write_all(&mut visitor.stream, b"a").is_ok() {}
    });
    let dns = NameServer::local(attacks::answer);
    Arena { target, silent, endless, dns, counts: AtomicU64::new(0) }
}

#[test]
fn all_attacks_at_once_harm_nobody_else() {
    let Some(cell) = Cell::new() else {
        let why = "no control groups of version 1";
        harness::skip("all_attacks_at_once_harm_nobody_else", why);
        return;
    };
    let given = |name| std::env::var_os(name).and_then(|text| text.into_string().ok());
    let seconds = given("STORM_SECONDS").and_then(|text| text.parse().ok());
    let lasts = Duration::from_secs(seconds.unwrap_or(20));
    let other = given("STORM_EXPORTER");
    let binary = other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_tcp_probe_exporter"));
    let arena = arena();
    let hash = bcrypt::hash(PASSWORD, 8).expect("a hash");
    let exporter = Exporter::new(binary)
        .config(&config(&arena))
        .file("web.yml", &format!("basic_auth_users: {{user: '{hash}'}}\n"))
        .flag("--web.config.file=web.yml")
        .limit("--nofile=1024")
        .start();
    harness::process::run(&["mkfifo", &exporter.directory().join("pipe").display().to_string()]);
    cell.add(exporter.id());
    let address = exporter.address();
    wait_until(LIMIT, || {
        match metrics(address).all("tcp_monitor_up").filter(|up| up.value > 0.5).count() {
            500 => Ok(()),
            up => Err(format!("{up} up")),
        }
    });
    let before = metrics(address);
    let stop = AtomicBool::new(false);
    let (scrapes, checks) = (Mutex::default(), Mutex::default());
    std::thread::scope(|scope| {
        scope.spawn(|| behave(address, "/metrics", Duration::from_secs(1), &stop, &scrapes));
        scope.spawn(|| behave(address, "/-/healthy", Duration::from_millis(200), &stop, &checks));
        attacks::begin(scope, &arena, &exporter, &stop);
        std::thread::sleep(lasts);
        stop.store(true, Relaxed);
    });
    let after = wait_until(LIMIT, || {
        let answer = harness::http::request(
            address,
            "GET",
            "/metrics",
            &[("Authorization", &basic(PASSWORD))],
            b"",
        );
        let answer = answer.map_err(|err| err.to_string())?;
        if answer.status == 200 { Ok(Metrics::parse(&answer.text())) } else { Err(answer.text()) }
    });
    let changed = verdicts(&before) != verdicts(&after);
    let peak = cell.number("memory.max_usage_in_bytes");
    let hits = cell.number("memory.failcnt");
    eprintln!("{lasts:?} of all attacks at once, {} attempts", arena.counts.load(Relaxed));
    eprintln!("peak memory {} MiB of 256, limit reached {hits} times", peak >> 20);
    scrapes.lock().expect("no panic").report("/metrics");
    checks.lock().expect("no panic").report("/-/healthy");
    let failures = outcomes(&after, "failure") - outcomes(&before, "failure");
    let inconclusive = outcomes(&after, "inconclusive") - outcomes(&before, "inconclusive");
    let probes = outcomes(&after, "success") - outcomes(&before, "success");
    eprintln!(
        "scheduled: {probes} successes, {failures} failures, {inconclusive} inconclusive; \
         verdicts changed: {changed}; lateness p99 at most {} s",
        lateness(&after, 0.99)
    );
    let log = exporter.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(peak < MEMORY && hits == 0, "{peak} bytes, {hits}");
    assert!(!changed, "a verdict changed");
    let mut scrapes = scrapes.into_inner().expect("no panic");
    assert!(scrapes.refused == 0, "{} scrapes refused", scrapes.refused);
    assert!(scrapes.quantile(50) < Duration::from_secs(5), "{:?}", scrapes.quantile(50));
}
