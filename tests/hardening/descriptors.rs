//! With few descriptors there are few places for probes: services that hang may fill most of them,
//! and never all.

use std::fmt::Write as _;
use std::thread::scope;
use std::time::Duration;

use harness::listener::Visitor;
use harness::{Exporter, Listener, Metrics, wait_until};

use crate::{EXPORTER, assert_well};

const MODULES: &str = "modules:\n  greeting: {prober: tcp, timeout: 2s, \
                       tcp: {query_response: [{expect: '^hello'}]}}\n";
/// More than there are places with 80 descriptors, on demand as on schedule.
const HANGING: usize = 120;
const HEALTHY: usize = 10;

/// A service that says nothing, and one that greets; each on all loopback addresses.
fn services() -> [Listener; 2] {
    let any = || "0.0.0.0:0".parse().expect("an address");
    let hanging = Listener::serve(any(), Visitor::read_to_end);
    let healthy = Listener::serve(any(), |visitor| {
        visitor.write(b"hello\n");
        visitor.read_to_end();
    });
    [hanging, healthy]
}

#[test]
fn services_that_hang_leave_scheduled_places_to_others() {
    let [hanging, healthy] = services();
    let mut config = format!(
        "{MODULES}defaults: {{interval: 2s, timeout: 900ms, module: greeting}}\nmonitors:\n"
    );
    for number in 0..HANGING {
        let _ = writeln!(
            config,
            "  - {{name: h{number}, host: 127.6.0.{}, port: {}}}",
            number + 1,
            hanging.port()
        );
    }
    for number in 0..HEALTHY {
        let _ = writeln!(
            config,
            "  - {{name: w{number}, host: 127.6.1.{}, port: {}}}",
            number + 1,
            healthy.port()
        );
    }
    let exporter = Exporter::new(EXPORTER).config(&config).limit("--nofile=80").start();
    let successes = || {
        let page = Metrics::parse(&exporter.get("/metrics").text());
        let count = |name: String| {
            page.value("tcp_monitor_probes_total", &[("monitor", &name), ("outcome", "success")])
        };
        (0..HEALTHY)
            .map(|number| count(format!("w{number}")).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let down = || {
        let page = Metrics::parse(&exporter.get("/metrics").text());
        page.all("tcp_monitor_up").filter(|sample| sample.value < 0.5).count()
    };
    wait_until(Duration::from_secs(60), || match down() {
        HANGING => Ok(()),
        count => Err(format!("{count} of {HANGING} are down")),
    });
    let before = successes();
    std::thread::sleep(Duration::from_secs(10));
    let after = successes();
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(after - before >= 4.0, "w{number}: {} probes in 10 s", after - before);
    }
    assert_eq!(down(), HANGING, "a healthy target is down");
    assert_well(&exporter);
}

#[test]
fn services_that_hang_leave_places_on_demand_to_others() {
    let [hanging, healthy] = services();
    let exporter = Exporter::new(EXPORTER).config(MODULES).limit("--nofile=80").start();
    let probe = |target: &str| exporter.get(&format!("/probe?module=greeting&target={target}"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut good, mut turned_away) = (0, 0);
    scope(|scope| {
        for number in 0..HANGING / 12 {
            let target = format!("127.6.0.{}:{}", number + 1, hanging.port());
            let (probe, stop) = (&probe, &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if probe(&target).status != 200 {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            });
        }
        // Each was asked for once, and hung.
        std::thread::sleep(Duration::from_secs(8));
        for number in 0..100 {
            let target = format!("127.6.1.{}:{}", number % HEALTHY + 1, healthy.port());
            match probe(&target) {
                answer if answer.status == 200 && Metrics::parse(&answer.text()).is_success() => {
                    good += 1;
                }
                answer => {
                    eprintln!("{} {}", answer.status, answer.text());
                    turned_away += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!((good, turned_away), (100, 0), "of 100 probes of healthy targets");
    assert_well(&exporter);
}
