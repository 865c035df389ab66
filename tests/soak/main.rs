//! Hours in minutes: thousands of probes a second, targets that come and go at random, reloads,
//! scrapes that are aborted; and in the end every probe is accounted for.
//!
//! `cargo bench --bench soak -- SECONDS RATE`, 1800 and 5000 by default. All traffic stays on
//! loopback; `SOAK_EXPORTER` names another build to take. It panics if something grows or a count does not add up.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counters are far below 2^52")]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Exporter, Metrics, wait_until};

use crate::sink::Sink;

mod sink;

/// The exporter of this build.
const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
/// Ports of the target side, each of which opens and closes at random.
const PORTS: usize = 100;
const MODULES: &str =
    "modules: {greeted: {prober: tcp, timeout: 900ms, tcp: {query_response: [{expect: '^ok'}]}}}\n";

/// A configuration that watches every port from many addresses.
fn config(ports: &[u16], targets: usize, interval: &str, round: u64) -> String {
    let mut text = format!(
        "{MODULES}defaults: {{module: greeted, interval: {interval}, timeout: 900ms, buckets: [], \
         confirm: {{failures: 2, retry_interval: 500ms}}, labels: {{round: r{round}}}}}\nmonitors:\n"
    );
    for index in 0..targets {
        let (high, low) = (index / 250, index % 250 + 1);
        let port = ports[index % ports.len()];
        let _ = writeln!(text, "  - {{name: m{index}, host: 127.1.{high}.{low}, port: {port}}}");
    }
    text
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug)]
struct Size {
    memory_kib: u64,
    descriptors: usize,
    threads: u64,
}

impl Size {
    fn of(id: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it lives");
        let number = |key: &str| -> u64 {
            let line = status.lines().find(|it| it.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number")
        };
        let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).expect("it lives").count();
        Self { memory_kib: number("VmRSS:"), descriptors, threads: number("Threads:") }
    }
}

/// Asks for all metrics and leaves after so many bytes.
fn abort_scrape(address: SocketAddr, bytes: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut buffer = [0; 16 * 1024];
    let mut seen = 0;
    while seen < bytes {
        match stream.read(&mut buffer)? {
            0 => break,
            count => seen += count,
        }
    }
    Ok(())
}

fn total(page: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    let of = |it: &&harness::metrics::Sample| {
        labels.iter().all(|(key, value)| it.labels.get(*key).is_some_and(|it| it == value))
    };
    let sum: f64 = page.all(name).filter(of).map(|it| it.value).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
    let sum = sum.round() as u64;
    sum
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let seconds = numbers.first().copied().unwrap_or(1800);
    let rate = usize::try_from(numbers.get(1).copied().unwrap_or(5000)).expect("a rate");
    let sink = Sink::start(PORTS);
    let ports = sink.ports().to_vec();
    let other = std::env::var_os("SOAK_EXPORTER").and_then(|it| it.into_string().ok());
    let binary = other.as_deref().unwrap_or(EXPORTER);
    let exporter = Exporter::new(binary).config(&config(&ports, rate, "1s", 0)).start();
    let (id, address) = (exporter.id(), exporter.address());
    println!("{rate} targets every second for {seconds} s");
    wait_until(Duration::from_secs(120), || match exporter.get("/-/ready").status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    sink.flap(true);

    let stop = Arc::new(AtomicBool::new(false));
    let scraped = Arc::new(AtomicU64::new(0));
    let client = std::thread::spawn({
        let (stop, scraped) = (Arc::clone(&stop), Arc::clone(&scraped));
        move || {
            let mut random = sink::Random::new(7);
            while !stop.load(Relaxed) {
                // Most are aborted somewhere; each fourth is read to its end.
                let bytes = if random.below(4) == 0 { u64::MAX } else { random.below(4_000_000) };
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                if abort_scrape(address, bytes).is_ok() {
                    scraped.fetch_add(1, Relaxed);
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    });

    let begin = Instant::now();
    let mut sizes: Vec<Size> = Vec::new();
    let mut reloads = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(10));
        let size = Size::of(id);
        println!("{:5.0} s {size:?} accepted {}", begin.elapsed().as_secs_f64(), sink.accepted());
        sizes.push(size);
        if begin.elapsed().as_secs() / 60 > reloads {
            reloads += 1;
            exporter.rewrite_config(&config(&ports, rate, "1s", reloads));
            let answer = exporter.post("/-/reload");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    stop.store(true, Relaxed);
    client.join().expect("no panic");
    sink.flap(false);

    // From here on nothing new is begun: what is in flight ends, and everything is counted.
    exporter.rewrite_config(&config(&ports, rate, "1d", reloads + 1));
    assert_eq!(exporter.post("/-/reload").status, 200);
    let page = wait_until(Duration::from_secs(60), || {
        let page = Metrics::parse(&exporter.get("/metrics").text());
        let started = total(&page, "tcp_probe_exporter_start_lateness_seconds_count", &[]);
        std::thread::sleep(Duration::from_secs(2));
        let again = Metrics::parse(&exporter.get("/metrics").text());
        let later = total(&again, "tcp_probe_exporter_start_lateness_seconds_count", &[]);
        if started == later { Ok(again) } else { Err(format!("{started}, then {later} started")) }
    });
    report(&page, &sink, begin.elapsed(), &sizes, reloads, scraped.load(Relaxed));
}

fn report(page: &Metrics, sink: &Sink, took: Duration, sizes: &[Size], reloads: u64, scrapes: u64) {
    let own = "tcp_probe_exporter_probes_total";
    let started = total(page, "tcp_probe_exporter_start_lateness_seconds_count", &[]);
    let finished = total(page, own, &[]);
    let monitors = total(page, "tcp_monitor_probes_total", &[]);
    let of = |outcome| total(page, own, &[("outcome", outcome)]);
    let (success, failure, inconclusive) = (of("success"), of("failure"), of("inconclusive"));
    let accepted = sink.accepted();
    let reasons: Vec<String> = page
        .all(own)
        .filter(|it| it.value > 0.5)
        .map(|it| format!("{} {}", it.labels["reason"], it.value))
        .collect();
    println!("probes by reason (empty: success): {}", reasons.join(", "));
    println!(
        "started {started} = finished {finished} = sum over monitors {monitors} = {success} success \
         + {failure} failure + {inconclusive} inconclusive"
    );
    // A peer that was accepted and greeted, and whose probe ended before it heard that.
    let late = ["expect_timeout", "local_stall", "closed_early", "reset"]
        .map(|it| total(page, own, &[("reason", it)]))
        .iter()
        .sum::<u64>();
    println!("the target side accepted {accepted}, of which {success} heard its greeting");
    println!(
        "flaps {}, reloads {reloads}, scrapes {scrapes}, {:.0} probes/s over {:.0} s",
        sink.flaps(),
        finished as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    let skipped = total(page, "tcp_probe_exporter_runs_skipped_total", &[]);
    println!("runs skipped {skipped}");
    // The first minute fills caches and buffers.
    let settled = &sizes[sizes.len().min(6).min(sizes.len() - 1)..];
    let (first, last) = (settled[0], settled[settled.len() - 1]);
    println!("after the first minute {first:?}\nat the end             {last:?}");

    assert_eq!(started, finished, "a probe was lost or counted twice");
    assert_eq!(finished, success + failure + inconclusive);
    assert_eq!(finished, monitors, "a monitor's count and the module's differ");
    assert!(success <= accepted && accepted <= success + late, "{success} {accepted} {late}");
    assert!(
        last.memory_kib < first.memory_kib * 5 / 4 + 16 * 1024,
        "memory grew: {first:?} {last:?}"
    );
    // Probes in flight have descriptors: those of dead targets vary.
    assert!(last.descriptors < first.descriptors * 2 + 200, "{first:?} {last:?}");
    assert!(last.threads <= first.threads + 8, "{first:?} {last:?}");
    println!("everything adds up");
}
