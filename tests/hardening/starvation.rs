//! An exporter that is stopped, starved, or given another time, while four hundred targets are
//! well: nobody may be blamed for it.
//!
//! `STARVATION_SECONDS=120` is how long each fault lasts; by default it is short.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{Exporter, Listener, Metrics, wait_until};
use nix::sys::signal::Signal;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::faults::Starved;
use crate::{EXPORTER, assert_well};

const PLAIN: usize = 280;
const GREETING: usize = 80;
const SECURE: usize = 40;
const TARGETS: usize = PLAIN + GREETING + SECURE;
/// After a fault, how long every target may take to be seen well again.
const RECOVERY: Duration = Duration::from_secs(90);

fn lasts() -> Duration {
    let seconds = std::env::var_os("STARVATION_SECONDS")
        .and_then(|text| text.into_string().ok())
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// Services of three kinds, each on a port of all loopback addresses.
struct Services {
    listeners: [Listener; 3],
    authority: String,
}

impl Services {
    fn start() -> Self {
        let (authority, config) = certified();
        let any = || "0.0.0.0:0".parse().expect("an address");
        let plain = Listener::serve(any(), harness::listener::Visitor::read_to_end);
        let greeting = Listener::serve(any(), |visitor| {
            visitor.write(b"hello\n");
            visitor.read_to_end();
        });
        let secure = Listener::serve(any(), move |visitor| {
            let mut server = ServerConnection::new(Arc::clone(&config)).expect("a server");
            let mut stream = Stream::new(&mut server, &mut visitor.stream);
            let _ = stream.flush();
            let _ = stream.read(&mut [0; 64]);
        });
        Self { listeners: [plain, greeting, secure], authority }
    }

    fn config(&self, authority: &Path) -> String {
        let mut text = format!(
            "modules:\n  plain: {{prober: tcp}}\n  \
             greeting: {{prober: tcp, tcp: {{query_response: [{{expect: '^hello'}}]}}}}\n  \
             secure: {{prober: tcp, tcp: {{tls: true, tls_config: {{ca_file: {}, server_name: target.example}}}}}}\n\
             defaults: {{interval: 5s, timeout: 2s, confirm: {{failures: 1}}}}\nmonitors:\n",
            authority.display()
        );
        let kinds = [("plain", PLAIN), ("greeting", GREETING), ("secure", SECURE)];
        let mut number = 0;
        for ((module, count), listener) in kinds.into_iter().zip(&self.listeners) {
            for _ in 0..count {
                let host = format!("127.5.{}.{}", number / 250, number % 250 + 1);
                let port = listener.port();
                let _ = writeln!(
                    text,
                    "  - {{name: t{number}, host: {host}, port: {port}, module: {module}}}"
                );
                number += 1;
            }
        }
        text
    }
}

/// A certificate that was valid five days ago and will be in five days, as PEM and in a server.
fn certified() -> (String, Arc<ServerConfig>) {
    let day = |offset: i64| {
        let at = jiff::Timestamp::now().as_second() + offset * 86_400;
        let date = jiff::Timestamp::from_second(at).expect("a time").to_string();
        let part = |range: std::ops::Range<usize>| date[range].parse::<u8>().expect("a number");
        rcgen::date_time_ymd(date[0..4].parse().expect("a year"), part(5..7), part(8..10))
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params =
        rcgen::CertificateParams::new(vec!["target.example".to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (day(-5), day(5));
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a pair");
    (certificate.pem(), Arc::new(config))
}

fn sum(page: &Metrics, name: &str, outcome: &str) -> f64 {
    let all = page.all(name);
    all.filter(|sample| outcome.is_empty() || sample.labels["outcome"] == outcome)
        .map(|sample| sample.value)
        .sum()
}

/// Waits until every target is up and was probed successfully once more, and asserts that nobody
/// was blamed so far.
#[track_caller]
fn recovered(exporter: &Exporter, what: &str) {
    let page = |exporter: &Exporter| Metrics::parse(&exporter.get("/metrics").text());
    let successes = |page: &Metrics| {
        let all = page.all("tcp_monitor_probes_total");
        all.filter(|sample| sample.labels["outcome"] == "success")
            .map(|sample| (sample.labels["monitor"].clone(), sample.value))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = successes(&page(exporter));
    let page = wait_until(RECOVERY, || {
        let page = page(exporter);
        let now = successes(&page);
        let again = now
            .iter()
            .filter(|(name, count)| **count > before.get(*name).copied().unwrap_or_default());
        let again = again.count();
        let up = sum(&page, "tcp_monitor_up", "");
        if again == TARGETS { Ok(page) } else { Err(format!("{again} again, {up} up")) }
    });
    let [failures, inconclusive] =
        ["failure", "inconclusive"].map(|outcome| sum(&page, "tcp_monitor_probes_total", outcome));
    let near = sum(&page, "tcp_monitor_near_timeout", "");
    let up = sum(&page, "tcp_monitor_up", "");
    eprintln!(
        "{what}: {} probes of {TARGETS} targets succeeded, {inconclusive} were inconclusive, \
         {failures} failed, {near} near their timeout",
        sum(&page, "tcp_monitor_probes_total", "success")
    );
    let reasons: Vec<_> = page
        .all("tcp_probe_exporter_probe_failures_total")
        .filter(|sample| sample.value > 0.0)
        .map(|sample| (sample.labels["reason"].clone(), sample.value))
        .collect();
    assert!(failures < 0.5, "{what}: {failures} failures: {reasons:?}");
    assert!(near < 0.5, "{what}: {near} near their timeout");
    assert!((up - 400.0).abs() < 0.5, "{what}: {up} up");
    assert_well(exporter);
}

#[test]
fn stops_and_starvation_blame_nobody() {
    let services = Services::start();
    let home = tempfile::tempdir().expect("a directory");
    let authority = home.path().join("authority.pem");
    std::fs::write(&authority, &services.authority).expect("a file");
    let exporter = Exporter::new(EXPORTER).config(&services.config(&authority)).start();
    recovered(&exporter, "at peace");

    let begin = Instant::now();
    let mut seed = u64::from(std::process::id()) | 1;
    let mut random = move |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        Duration::from_millis(200 + seed % (most - 200))
    };
    while begin.elapsed() < lasts() {
        exporter.signal(Signal::SIGSTOP);
        sleep(random(5000));
        exporter.signal(Signal::SIGCONT);
        sleep(random(2000));
    }
    recovered(&exporter, "stopped again and again");

    if let Some(starved) = Starved::new("starvation") {
        starved.add(exporter.id());
        sleep(lasts());
        Starved::release(exporter.id());
    } else {
        // No control groups of version 1 here: the same by hand, 5 ms of 500.
        let begin = Instant::now();
        while begin.elapsed() < lasts() {
            exporter.signal(Signal::SIGSTOP);
            sleep(Duration::from_millis(495));
            exporter.signal(Signal::SIGCONT);
            sleep(Duration::from_millis(5));
        }
    }
    recovered(&exporter, "with a hundredth of a processor");
}

#[test]
fn a_clock_that_is_set_by_weeks_blames_no_certificate() {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|file| Path::new(file).exists());
    let Some(library) = library else {
        assert!(std::env::var_os("CI").is_none_or(|word| word != "true"), "libfaketime is missing");
        eprintln!("SKIPPED a_clock_that_is_set_by_weeks_blames_no_certificate: no libfaketime");
        return;
    };
    let services = Services::start();
    let home = tempfile::tempdir().expect("a directory");
    let authority = home.path().join("authority.pem");
    std::fs::write(&authority, &services.authority).expect("a file");
    let clock = home.path().join("clock");
    std::fs::write(&clock, "+0").expect("a file");
    let exporter = Exporter::new(EXPORTER)
        .config(&services.config(&authority))
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        // Only the wall clock is set, as it is in nature.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start();
    recovered(&exporter, "at the right time");
    for set in ["+20d", "+0", "-20d", "+0"] {
        std::fs::write(&clock, set).expect("a file");
        sleep(lasts() / 2);
        let page = Metrics::parse(&exporter.get("/metrics").text());
        let inconclusive = sum(&page, "tcp_monitor_probes_total", "inconclusive");
        let failures = sum(&page, "tcp_monitor_probes_total", "failure");
        eprintln!("clock set to {set}: {inconclusive} inconclusive, {failures} failed so far");
        assert!(failures < 0.5, "{set}: {failures} failures");
        // What is not about dates goes on.
        let up = sum(&page, "tcp_monitor_up", "");
        assert!((up - 400.0).abs() < 0.5, "{set}: {up} up");
    }
    recovered(&exporter, "after the clock was set back");
    let page = Metrics::parse(&exporter.get("/metrics").text());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs_f64() + 5.0;
    for name in
        ["tcp_monitor_last_change_timestamp_seconds", "tcp_monitor_last_probe_timestamp_seconds"]
    {
        let future = page.all(name).filter(|sample| sample.value > now).count();
        assert_eq!(future, 0, "{name} lies in the future");
    }
}
