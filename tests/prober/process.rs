//! The monitor's own trouble, with the exporter as a process: it lacks descriptors or ports, or
//! is stopped. None of it may look like the target's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Exporter, Listener, Metrics, Netns, wait_until};
use nix::sys::signal::Signal;

use crate::TIMEOUT;

const BINARY: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
const PROBES: usize = 500;
/// Clients that ask at once. Fewer than probes, as the test's own descriptors are limited too.
const CLIENTS: usize = 100;

/// Probes an open port many times at once. Returns how many succeeded and how many could not be
/// carried out; panics if any said that the port is closed.
fn storm(exporter: &Exporter, target: &str) -> (usize, usize) {
    let (succeeded, inconclusive) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..PROBES / CLIENTS {
                    let response = exporter.get(&format!("/probe?target={target}"));
                    let text = response.text();
                    if response.status == 503 {
                        inconclusive.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    assert_eq!(response.status, 200, "{text}");
                    assert!(Metrics::parse(&text).is_success(), "{text}");
                    succeeded.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (succeeded.into_inner(), inconclusive.into_inner())
}

#[test]
fn a_lack_of_descriptors_is_never_the_targets_fault() {
    let peer = Listener::silent();
    let exporter = Exporter::new(BINARY).limit("--nofile=64").start();

    let (succeeded, inconclusive) = storm(&exporter, &peer.target());

    println!("{succeeded} succeeded, {inconclusive} inconclusive");
    assert_eq!(succeeded + inconclusive, PROBES);
    assert!(succeeded > 0, "nothing succeeded: {}", exporter.log());
}

#[test]
fn a_lack_of_ports_is_never_the_targets_fault() {
    if !Netns::available("a_lack_of_ports_is_never_the_targets_fault") {
        return;
    }
    let host = Netns::new("ports");
    let peer = host.within(|| {
        let any = "127.0.0.1:0".parse().unwrap();
        Listener::serve(any, harness::listener::Visitor::read_to_end)
    });
    let exporter = Exporter::new(BINARY).netns(&host).start();
    // Cut once both have their ports. The clients of the test need some as well.
    host.run(&["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40099"]);

    let target = peer.target();
    let mut succeeded = 0;
    let mut inconclusive = 0;
    for _ in 0..PROBES {
        // One after the other, since the requests take ports of the same range.
        let response = host.within(|| {
            harness::http::request(
                exporter.address(),
                "GET",
                &format!("/probe?target={target}"),
                &[],
                b"",
            )
        });
        let Ok(response) = response else { continue };
        match response.status {
            503 => inconclusive += 1,
            _ => {
                let text = response.text();
                assert!(Metrics::parse(&text).is_success(), "{text}");
                succeeded += 1;
            }
        }
    }
    println!("{succeeded} succeeded, {inconclusive} inconclusive");
    assert!(succeeded > 0, "nothing succeeded");
}

#[test]
fn a_process_that_was_stopped_finds_what_came_meanwhile() {
    let slow = Listener::serve("127.0.0.1:0".parse().unwrap(), |visitor| {
        // Speaks once it is told to, that is, never: the client leaves first.
        visitor.read_to_end();
    });
    let peer = Listener::silent();
    let config = "modules: {open: {prober: tcp, timeout: 1s}, \
                  talk: {prober: tcp, timeout: 1s, tcp: {query_response: [{expect: hello}]}}}";
    let exporter = Exporter::new(BINARY).config(config).start();
    let talk = format!("/probe?module=talk&target={}", slow.target());
    let open = format!("/probe?module=open&target={}", peer.target());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| exporter.get(&talk));
        wait_until(TIMEOUT, || if slow.accepted() > 0 { Ok(()) } else { Err("none".to_owned()) });

        exporter.signal(Signal::SIGSTOP);
        let probes: Vec<_> = (0..50).map(|_| scope.spawn(|| exporter.get(&open))).collect();
        // The point of the test is that time passes: twice the timeout and the slack.
        std::thread::sleep(Duration::from_secs(3));
        exporter.signal(Signal::SIGCONT);

        let response = waiting.join().unwrap();
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.text().contains("local_stall"), "{}", response.text());
        for probe in probes {
            let response = probe.join().unwrap();
            if response.status != 503 {
                assert!(Metrics::parse(&response.text()).is_success(), "{}", response.text());
            }
        }
    });
}
