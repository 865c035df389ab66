//! The exporter's own server against clients that are slow, malformed or hostile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use harness::{Exporter, Listener, wait_until};
use nix::sys::signal::Signal;

use crate::{EXPORTER, LIMIT, MIB, assert_well, converse, memory, statuses};

/// Clients that each send a request's head byte by byte and never finish; one that is turned
/// away comes back at once.
struct SlowClients {
    stop: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
    turned_away: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl SlowClients {
    fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let held = Arc::new(AtomicUsize::new(0));
        let turned_away = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let (stop, held, turned_away) = (stop.clone(), held.clone(), turned_away.clone());
            move || {
                let mut clients: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
                while !stop.load(Ordering::Relaxed) {
                    let mut alive = 0;
                    for client in &mut clients {
                        if client.as_mut().is_some_and(|it| !drip(it)) {
                            *client = None;
                            turned_away.fetch_add(1, Ordering::Relaxed);
                        }
                        if client.is_none() {
                            *client = begin(address);
                        }
                        alive += usize::from(client.is_some());
                    }
                    held.store(alive, Ordering::Relaxed);
                    sleep(Duration::from_millis(500));
                }
            }
        });
        Self { stop, held, turned_away, thread: Some(thread) }
    }
}

impl Drop for SlowClients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn begin(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_nonblocking(true).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow: ").ok()?;
    Some(stream)
}

/// Sends one byte more; false if the server hung up.
fn drip(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 256];
    let open = match stream.read(&mut buffer) {
        Ok(length) => length > 0,
        Err(err) => err.kind() == ErrorKind::WouldBlock,
    };
    open && stream.write_all(b"x").is_ok()
}

/// Latencies of `/metrics`, each on a new connection, while `count` slow clients hold on.
fn beside_slow_clients(exporter: &Exporter, count: usize) -> Vec<Duration> {
    let slow = SlowClients::start(exporter.address(), count);
    wait_until(LIMIT, || match slow.held.load(Ordering::Relaxed) {
        held if held == count => Ok(()),
        held => Err(format!("{held} of {count} slow clients are connected")),
    });
    let mut latencies = Vec::new();
    // Longer than the server lets anybody dawdle over a first request.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(14) {
        let start = Instant::now();
        assert_eq!(exporter.get("/metrics").status, 200);
        latencies.push(start.elapsed());
        sleep(Duration::from_millis(50));
    }
    latencies.sort_unstable();
    eprintln!(
        "{count} slow clients, {} turned away meanwhile: {} scrapes, median {:?}, worst {:?}",
        slow.turned_away.load(Ordering::Relaxed),
        latencies.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1],
    );
    latencies
}

#[test]
fn slow_clients_harm_only_themselves() {
    let exporter = Exporter::new(EXPORTER).limit("--nofile=20000").start();
    let before = memory(&exporter);
    let latencies = beside_slow_clients(&exporter, 1000);
    assert!(latencies[latencies.len() / 2] < Duration::from_millis(100), "{latencies:?}");
    assert!(latencies[latencies.len() - 1] < Duration::from_secs(5), "{latencies:?}");
    let growth = memory(&exporter).saturating_sub(before);
    eprintln!("memory grew by {} KiB for 1,000 slow clients", growth / 1024);
    assert!(growth < 96 * MIB, "{growth}");
    assert_well(&exporter);
}

/// More slow clients than places, who come back as soon as they are turned away.
#[test]
fn even_where_they_are_more_than_places_there_is_a_turn_for_everyone() {
    let exporter = Exporter::new(EXPORTER).limit("--nofile=256").start();
    let latencies = beside_slow_clients(&exporter, 200);
    assert!(latencies[latencies.len() - 1] < Duration::from_secs(20), "{latencies:?}");
    assert_well(&exporter);
}

const QUICK: Duration = Duration::from_millis(700);
const RELOAD: &str = "POST /-/reload HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends `head`, then, as if it were its body or what follows, a request for a reload and one for
/// health; returns the statuses that come back.
fn smuggled(exporter: &Exporter, head: &str) -> Vec<u16> {
    let health = "GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let bytes = format!("{head}{RELOAD}{health}");
    statuses(&converse(exporter, bytes.as_bytes(), QUICK))
}

#[test]
fn no_request_hides_in_another() {
    let exporter = Exporter::new(EXPORTER).start();
    let length = RELOAD.len();
    // What a request of two readings must give: one refusal, and nothing that follows is read.
    for head in [
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n"
        ),
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +{length}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x{length:x}\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\rX: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(),
    ] {
        let statuses = smuggled(&exporter, &head);
        assert!(statuses.len() <= 1, "{head:?}: what follows was read: {statuses:?}");
        // Two lengths: the chunks count, and the connection ends (RFC 9112, section 6.3). A body
        // that nobody wants may be malformed. All else is refused.
        let answered = head.contains("chunked\r\nContent-Length")
            || head.contains("\r\nTransfer-Encoding: chunked\r\n\r\n");
        let expected = if answered { 200..500 } else { 400..500 };
        assert!(statuses.iter().all(|it| expected.contains(it)), "{head:?}: {statuses:?}");
    }
    // A body that belongs to a request is its body, whatever it looks like.
    let head = format!("GET /-/healthy HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let seen = smuggled(&exporter, &head);
    assert!(seen == [200, 200] || seen == [200], "{seen:?}");
    let head = format!(
        "GET /-/healthy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{RELOAD}\r\n0\r\n\r\n"
    );
    let seen = smuggled(&exporter, &head);
    // The real reload that follows the body is answered, the one inside is not.
    assert!(seen == [200, 200, 200] || seen == [200], "{seen:?}");
    let reloads = exporter.log().matches("configuration reloaded").count();
    assert!(reloads <= 1, "{reloads} reloads, at most one was asked for: {}", exporter.log());
    assert_well(&exporter);
}

#[test]
fn heads_and_bodies_have_limits() {
    let exporter = Exporter::new(EXPORTER).start();
    let before = memory(&exporter);
    let request = |middle: &str| format!("GET /-/healthy HTTP/1.1\r\nHost: a\r\n{middle}\r\n");
    let many = (0..200).map(|it| format!("X-{it}: y")).collect::<Vec<_>>().join("\r\n") + "\r\n";
    for (what, bytes) in [
        ("200 headers", request(&many)),
        ("a header of 64 KiB", request(&format!("X: {}\r\n", "y".repeat(65_536)))),
        ("a name of 64 KiB", request(&format!("{}: y\r\n", "X".repeat(65_536)))),
        ("a path of 1 MiB", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(1 << 20))),
        ("a method of 64 KiB", format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(65_536))),
    ] {
        let answer = converse(&exporter, bytes.as_bytes(), QUICK);
        let seen = statuses(&answer);
        assert!(
            seen.iter().all(|it| (400..500).contains(it)) && seen.len() <= 1,
            "{what}: {seen:?}"
        );
    }
    // A body of 64 MiB at an endpoint that wants none.
    let mut stream = TcpStream::connect(exporter.address()).expect("connect");
    let head =
        format!("POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 * MIB);
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let _ = stream.write_all(head.as_bytes());
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    drop(stream);
    let growth = memory(&exporter).saturating_sub(before);
    eprintln!("memory grew by {} KiB over limits of heads and bodies", growth / 1024);
    assert!(growth < 16 * MIB, "{growth}");
    assert_well(&exporter);
}

#[test]
fn every_path_has_a_plain_answer() {
    let exporter = Exporter::new(EXPORTER).start();
    for path in [
        "/%",
        "/%zz",
        "/%00",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/../../../../etc/passwd",
        "//evil.example/",
        "/\\evil.example",
        "/%5cevil.example",
        "/%0d%0aSet-Cookie:%20a=b",
        "//%0d%0aSet-Cookie:%20a=b",
        "/metrics/",
        "/metrics%2f",
        "/./metrics",
        "/metrics%00",
        "/probe?target=%0d%0aX:%20y",
        "/probe?target=%00",
        "/probe?target=%ff:1",
        "/probe?target=a:1&module=%ff",
        "/probe?%",
        "/probe?;;;;",
        "/probe?target=a;b:1",
        "/logs?id=99999999999999999999",
        "/logs?id=-1",
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "http://evil.example/metrics",
        "*",
        "/?q=<script>alert(1)</script>",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/é",
        "/a?b#c",
    ] {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = converse(&exporter, bytes.as_bytes(), Duration::from_secs(10));
        let seen = statuses(&answer);
        assert!(matches!(seen[..], [200..500]), "{path}: {seen:?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("root:"), "{path}: {text}");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        for line in head.lines() {
            assert!(!line.to_ascii_lowercase().starts_with("set-cookie"), "{path}: {head}");
            // A redirect never leads to another site.
            if let Some(to) = line.to_ascii_lowercase().strip_prefix("location: ") {
                let local = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\");
                assert!(
                    local || to.starts_with("http://a") || to.contains("://localhost"),
                    "{path}: {to}"
                );
            }
        }
        assert!(!body.contains("<script>alert"), "{path}: {body}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        let status = exporter.request(method, "/metrics", &[], b"").status;
        assert!(status < 500, "{method}: {status}");
    }
    assert_eq!(exporter.get("/-/reload").status, 405);
    let foreign = exporter.request("POST", "/-/reload", &[("Sec-Fetch-Site", "cross-site")], b"");
    assert_eq!(foreign.status, 403);
    assert_well(&exporter);
}

#[test]
fn pages_carry_the_headers_that_protect_their_readers() {
    let exporter = Exporter::new(EXPORTER).start();
    let page = exporter.get("/");
    for (name, expected) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        let value = page.header(name).unwrap_or_default();
        assert!(value.contains(expected), "{name}: `{value}`");
    }
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(!policy.contains("unsafe-inline") || policy.contains("'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors"), "{policy}");
}

/// A connection that asked for a probe of `seconds` which is under way.
fn probe_under_way(exporter: &Exporter, silent: &Listener) -> TcpStream {
    let mut stream = TcpStream::connect(exporter.address()).expect("connect");
    let request = format!(
        "GET /probe?module=wait&target={} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        silent.target()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    wait_until(LIMIT, || if silent.accepted() > 0 { Ok(()) } else { Err("no probe yet".into()) });
    stream
}

fn waiting(seconds: u32) -> String {
    format!(
        "modules: {{wait: {{prober: tcp, timeout: {seconds}s, tcp: {{query_response: [{{expect: never}}]}}}}}}\n"
    )
}

#[test]
fn the_end_waits_for_running_requests_but_not_for_ever() {
    let silent = Listener::silent();
    let mut exporter = Exporter::new(EXPORTER).config(&waiting(3)).start();
    let slow = SlowClients::start(exporter.address(), 5);
    wait_until(LIMIT, || match slow.held.load(Ordering::Relaxed) {
        5 => Ok(()),
        held => Err(format!("{held} of 5")),
    });
    let mut stream = probe_under_way(&exporter, &silent);
    let begin = Instant::now();
    exporter.signal(Signal::SIGTERM);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(statuses(&answer), [200], "{}", String::from_utf8_lossy(&answer));
    let status = exporter.wait(Duration::from_secs(40));
    eprintln!("SIGTERM with a probe of 3 s and slow clients: ended after {:?}", begin.elapsed());
    assert!(status.success(), "{status}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let silent = Listener::silent();
    let mut exporter = Exporter::new(EXPORTER).config(&waiting(100)).start();
    let _stream = probe_under_way(&exporter, &silent);
    exporter.signal(Signal::SIGTERM);
    wait_until(LIMIT, || {
        if exporter.log().contains("shutting down") { Ok(()) } else { Err(exporter.log()) }
    });
    let begin = Instant::now();
    exporter.signal(Signal::SIGTERM);
    exporter.wait(Duration::from_secs(10));
    eprintln!("the second SIGTERM: ended after {:?}", begin.elapsed());
}
