//! The monitor's own trouble, with the exporter as a process: it lacks descriptors or ports, or
//! is stopped. None of it may look like the target's.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::name_server::{A, Reply};
use harness::{Exporter, Listener, Metrics, NameServer, Netns, wait_until};
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
fn at_no_limit_of_descriptors_an_open_port_is_closed_or_its_name_unknown() {
    let server = NameServer::local(|question| match question.kind {
        A => Reply::address(Ipv4Addr::LOCALHOST.into()),
        _ => Reply::Addresses(0, Vec::new()),
    });
    let peer = Listener::silent();
    let config =
        format!("modules: {{m: {{prober: tcp, tcp: {{resolver: ['{}']}}}}}}", server.address());
    for target in [peer.target(), format!("any.test:{}", peer.port())] {
        let mut opened = 0;
        for limit in 3..=24 {
            let (status, output) = Exporter::new(BINARY)
                .file("modules.yml", &config)
                .limit(&format!("--nofile={limit}"))
                .flags(&["probe", "--module=m", "--config.file=modules.yml", &target])
                .run(TIMEOUT);
            // 1 says that a probe failed. Below some limit the program cannot even start.
            assert_ne!(status.code(), Some(1), "{limit}: {output}");
            opened += usize::from(status.success());
        }
        assert!(opened > 0, "{target} was never open");
    }
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
    let stopped = Arc::new(AtomicBool::new(false));
    let mute = Listener::silent();
    let late = Arc::clone(&stopped);
    let late = Listener::serve("127.0.0.1:0".parse().unwrap(), move |visitor| {
        wait_until(
            TIMEOUT,
            || if late.load(Ordering::Relaxed) { Ok(()) } else { Err(String::new()) },
        );
        visitor.write(b"hello\n");
        visitor.read_to_end();
    });
    let open = Listener::silent();
    let config = "modules: {open: {prober: tcp, timeout: 1s}, \
                  talk: {prober: tcp, timeout: 1s, tcp: {query_response: [{expect: hello}]}}}";
    let exporter = Exporter::new(BINARY).config(config).start();
    let path =
        |module: &str, peer: &Listener| format!("/probe?module={module}&target={}", peer.target());
    let (to_mute, to_late, to_open) =
        (path("talk", &mute), path("talk", &late), path("open", &open));
    std::thread::scope(|scope| {
        let mute_probe = scope.spawn(|| exporter.get(&to_mute));
        let late_probe = scope.spawn(|| exporter.get(&to_late));
        for peer in [&mute, &late] {
            wait_until(TIMEOUT, || if peer.accepted() > 0 { Ok(()) } else { Err(String::new()) });
        }

        exporter.signal(Signal::SIGSTOP);
        stopped.store(true, Ordering::Relaxed);
        let open_probes: Vec<_> = (0..50).map(|_| scope.spawn(|| exporter.get(&to_open))).collect();
        // The point of the test is that time passes: twice the timeout and the slack.
        std::thread::sleep(Duration::from_secs(3));
        exporter.signal(Signal::SIGCONT);

        let response = mute_probe.join().unwrap();
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.text().contains("local_stall"), "{}", response.text());
        let response = late_probe.join().unwrap();
        assert!(Metrics::parse(&response.text()).is_success(), "{}", response.text());
        for probe in open_probes {
            let response = probe.join().unwrap();
            if response.status != 503 {
                assert!(Metrics::parse(&response.text()).is_success(), "{}", response.text());
            }
        }
    });
}
