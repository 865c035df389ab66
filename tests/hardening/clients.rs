//! Clients that take more than their part: slow readers, endless probes, guessed passwords, pages
//! of other sites. Each attack comes from other addresses than the client that must be served.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::{Exporter, Listener, wait_until};
use socket2::{Domain, Socket, Type};

use crate::tls::{Client, END_HEADERS, END_STREAM, GET, HEADERS, SETTINGS, encrypted};
use crate::{EXPORTER, LIMIT, MIB, assert_well, memory};

/// A connection from an address of this machine's own network; with a small window, if it is not
/// to take much.
pub(crate) fn connect_from(last: u8, to: SocketAddr, window: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes).expect("a window");
    }
    let from = SocketAddr::from((IpAddr::from(Ipv4Addr::new(127, 0, 0, last)), 0));
    socket.bind(&from.into()).expect("an address");
    socket.connect(&to.into()).expect("connect");
    socket.into()
}

pub(crate) fn request(stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
    write!(stream, "GET {head}\r\nHost: a\r\n\r\n")
}

/// A fleet whose page of metrics does not fit any buffer on the way.
pub(crate) fn fleet(targets: usize) -> String {
    // Nobody listens there, and nobody looks again soon.
    let monitors = (0..targets).map(|number| {
        format!("- {{name: m{number}, host: 127.0.0.1, port: {}, interval: 1h}}\n", 20_000 + number)
    });
    format!("monitors:\n{}", monitors.collect::<String>())
}

/// How long requests take; each must be answered.
fn latencies(exporter: &Exporter, path: &str, count: usize) -> Vec<Duration> {
    let mut latencies: Vec<Duration> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            let answer = exporter.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            begin.elapsed()
        })
        .collect();
    latencies.sort_unstable();
    latencies
}

/// Waits until the exporter has made as much of the answers as the clients let it.
fn wait_idle(exporter: &Exporter) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", exporter.id()));
        let stat = stat.expect("it lives");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split(' ').collect();
        let [user, system] = [12, 13].map(|field| fields[field].parse::<u64>().expect("ticks"));
        user + system
    };
    wait_until(LIMIT, || {
        let before = ticks();
        std::thread::sleep(Duration::from_millis(500));
        match ticks() - before {
            0..=5 => Ok(()),
            busy => Err(format!("busy for {busy} ticks of 50")),
        }
    });
}

#[test]
fn slow_readers_stop_no_scrape() {
    let exporter = Exporter::new(EXPORTER).config(&fleet(10_000)).start();
    let path = "/api/v1/targets";
    let whole = exporter.get(path).body.len();
    let before = memory(&exporter);
    // More than there are places for answers, each with a window of a few kilobytes.
    let mut readers: Vec<TcpStream> = (0..70)
        .map(|_| {
            let mut stream = connect_from(2, exporter.address(), Some(2048));
            request(&mut stream, "/api/v1/targets HTTP/1.1").expect("a request");
            stream
        })
        .collect();
    let mut byte = [0];
    let begun = readers
        .iter_mut()
        .map(|reader| reader.read(&mut byte))
        .filter(|read| matches!(read, Ok(1)));
    let begun = begun.count();
    wait_idle(&exporter);
    for path in [path, "/metrics", "/sd", "/config", "/"] {
        let times = latencies(&exporter, path, 5);
        eprintln!(
            "{begun} slow readers, {path}: median {:?}, worst {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
        // Not the worst: other suites keep this machine busy.
        assert!(times[times.len() / 2] < Duration::from_secs(5), "{path}: {times:?}");
    }
    let growth = memory(&exporter).saturating_sub(before);
    eprintln!("{begun} slow readers of {whole} bytes: memory grew by {} KiB", growth / 1024);
    assert!(growth < 96 * MIB, "{growth}");
    assert_well(&exporter);
}

/// The same from the address of the client itself, as behind a proxy.
#[test]
fn slow_readers_stop_no_scrape_even_of_their_own_address() {
    let exporter = Exporter::new(EXPORTER).config(&fleet(10_000)).start();
    let _readers: Vec<TcpStream> = (0..70)
        .map(|_| {
            let mut stream = connect_from(1, exporter.address(), Some(2048));
            request(&mut stream, "/api/v1/targets HTTP/1.1").expect("a request");
            stream
        })
        .collect();
    wait_idle(&exporter);
    let times = latencies(&exporter, "/metrics", 5);
    assert!(times[times.len() / 2] < Duration::from_secs(5), "{times:?}");
}

/// An answer that a client does not take ends with its connection, whatever else goes on there.
#[test]
fn other_streams_do_not_keep_an_answer_waiting() {
    if !harness::installed("other_streams_do_not_keep_an_answer_waiting", &["curl"]) {
        return;
    }
    let (exporter, certificate) = encrypted(&fleet(5_000));
    let mut client = Client::connect(&exporter, &certificate);
    // SETTINGS_INITIAL_WINDOW_SIZE: 1 byte for every stream.
    client.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]).expect("settings");
    let metrics = [b"\x82\x87\x04\x08/metrics", &GET[3..]].concat();
    client.frame(HEADERS, END_STREAM | END_HEADERS, 1, &metrics).expect("a request");
    let healthy = [b"\x82\x87\x04\x0a/-/healthy", &GET[3..]].concat();
    let begin = Instant::now();
    let mut stream = 1;
    wait_until(Duration::from_secs(90), || {
        std::thread::sleep(Duration::from_millis(200));
        stream += 2;
        let _ = client.frame(HEADERS, END_STREAM | END_HEADERS, stream, &healthy);
        let _ = client.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        if client.is_over() { Ok(()) } else { Err(format!("after {:?}", begin.elapsed())) }
    });
    eprintln!("an answer that is not taken: its connection ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
}

const RST_STREAM: u8 = 3;

/// A module without a timeout of its own, against a port that says nothing.
const PATIENT: &str = "modules: {wait: {prober: tcp, tcp: {query_response: [{expect: never}]}}}\n";

fn ask_for_ever(exporter: &Exporter, from: u8, target: &str) -> TcpStream {
    let mut stream = connect_from(from, exporter.address(), None);
    let header = "HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: 86400";
    request(&mut stream, &format!("/probe?module=wait&target={target} {header}"))
        .expect("a request");
    stream
}

fn in_flight(exporter: &Exporter) -> usize {
    let page = exporter.get("/metrics").text();
    let line = page.lines().find(|line| line.starts_with("tcp_probe_exporter_probes_in_flight "));
    let value = line.and_then(|line| line.split([' ', '.']).nth(1)?.parse().ok());
    value.expect("a number")
}

#[test]
fn endless_probes_deny_probes_to_nobody() {
    let silent = Listener::silent();
    let open = Listener::banner(b"hello\r\n");
    let exporter = Exporter::new(EXPORTER).config(PATIENT).limit("--nofile=1024").start();
    // More from each of two addresses than there are places.
    let pinned: Vec<TcpStream> = (0..260)
        .map(|number| ask_for_ever(&exporter, 2 + u8::from(number % 2 == 0), &silent.target()))
        .collect();
    wait_until(LIMIT, || match in_flight(&exporter) {
        100.. => Ok(()),
        count => Err(format!("{count} probes in flight")),
    });
    let mut times = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        let answer = exporter.get(&format!("/probe?target={}", open.target()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    eprintln!(
        "{} endless probes: of 30 probes of another client none is refused, worst {:?}",
        pinned.len(),
        times[29]
    );
    // Whoever is gone frees its place at once.
    let begin = Instant::now();
    drop(pinned);
    wait_until(LIMIT, || match in_flight(&exporter) {
        0 => Ok(()),
        count => Err(format!("{count} probes in flight")),
    });
    eprintln!("their clients gone, no probe was left after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_well(&exporter);
}

/// A client that is gone, but has left bytes that nobody reads, is gone too.
#[test]
fn bytes_left_behind_pin_no_probe() {
    let silent = Listener::silent();
    let exporter = Exporter::new(EXPORTER).config(PATIENT).start();
    let mut stream = ask_for_ever(&exporter, 2, &silent.target());
    wait_until(LIMIT, || if in_flight(&exporter) == 1 { Ok(()) } else { Err("none".into()) });
    stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n").expect("more");
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    let begin = Instant::now();
    wait_until(LIMIT, || match in_flight(&exporter) {
        0 => Ok(()),
        count => Err(format!("{count} probes in flight")),
    });
    eprintln!("bytes left behind: the probe ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Whoever knows the password gets in, for the first time too, while others guess.
#[test]
fn guessing_keeps_nobody_out() {
    let hash = bcrypt::hash("secret", 6).expect("a hash");
    let exporter = Exporter::new(EXPORTER)
        .file("web.yml", &format!("basic_auth_users: {{alice: '{hash}', bob: '{hash}'}}\n"))
        .flag("--web.config.file=web.yml")
        .start();
    let (stop, guesses, busy) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Forty from one address, one from each of forty others.
        for thread in 0..80_u8 {
            let (exporter, stop, guesses, busy) = (&exporter, &stop, &guesses, &busy);
            scope.spawn(move || {
                let from = if thread < 40 { 2 } else { thread };
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let mut stream = connect_from(from, exporter.address(), None);
                    let guess = basic("alice", &format!("{thread}-{round}"));
                    let head =
                        format!("/metrics HTTP/1.1\r\nConnection: close\r\nAuthorization: {guess}");
                    let mut answer = Vec::new();
                    if request(&mut stream, &head).is_err()
                        || stream.read_to_end(&mut answer).is_err()
                    {
                        continue;
                    }
                    let answer = String::from_utf8_lossy(&answer);
                    match answer.get(9..12) {
                        Some("401") => guesses.fetch_add(1, Ordering::Relaxed),
                        _ => busy.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        wait_until(LIMIT, || {
            match guesses.load(Ordering::Relaxed) + busy.load(Ordering::Relaxed) {
                80.. => Ok(()),
                count => Err(format!("{count} guesses")),
            }
        });
        let begin = Instant::now();
        // As after a restart: neither has been here before.
        let statuses = ["alice", "bob"].map(|user| {
            let header = basic(user, "secret");
            exporter.get_with("/metrics", &[("Authorization", &header)]).status
        });
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        eprintln!(
            "{} guesses, {} turned away: two who know the password got {statuses:?} within {took:?}",
            guesses.load(Ordering::Relaxed),
            busy.load(Ordering::Relaxed)
        );
        assert_eq!(statuses, [200, 200]);
        assert!(took < Duration::from_secs(30), "{took:?}");
    });
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let exporter = Exporter::new(EXPORTER)
        .config(PATIENT)
        .flag("--web.external-url=http://exporter.example:10115/")
        .start();
    let reload =
        |headers: &[(&str, &str)]| exporter.request("POST", "/-/reload", headers, b"").status;
    let own = format!("http://{}", exporter.address());
    // Over plain HTTP a browser sends no `Sec-Fetch-Site`.
    assert_eq!(reload(&[("Origin", "http://evil.example")]), 403);
    assert_eq!(reload(&[("Origin", "null")]), 403);
    assert_eq!(reload(&[("Origin", &own)]), 200);
    assert_eq!(
        reload(&[("Origin", "http://exporter.example:10115"), ("Host", "exporter.example:10115")]),
        200
    );
    assert_eq!(reload(&[]), 200);
    // Rebound: the page and the host have the same foreign name.
    let rebound = [("Origin", "http://evil.example"), ("Host", "evil.example")];
    assert_eq!(reload(&rebound), 421);
    let browser = ("User-Agent", "Mozilla/5.0");
    for path in ["/", "/metrics", "/config", "/probe?target=127.0.0.1:1", "/api/v1/targets"] {
        let get = |headers: &[(&str, &str)]| exporter.get_with(path, headers).status;
        assert_eq!(get(&[browser, ("Host", "evil.example")]), 421, "{path}");
        assert_eq!(get(&[browser, ("Host", "exporter.example")]), 200, "{path}");
        assert_eq!(get(&[browser]), 200, "{path}");
        // Prometheus, by the name of a service.
        assert_eq!(get(&[("Host", "exporter.monitoring.svc")]), 200, "{path}");
    }
}

/// Whoever may not probe there learns nothing of a zone, and whoever may forges no line with it.
#[test]
fn zones_tell_nothing_and_forge_no_line() {
    let exporter = Exporter::new(EXPORTER).start();
    let [there, absent] = ["lo", "nowhere"].map(|zone| {
        let answer = exporter.get(&format!("/probe?target=[fe80::1%2525{zone}]:22"));
        (answer.status, answer.text())
    });
    assert_eq!(there.0, 403, "{}", there.1);
    assert_eq!(there, absent);
    let exporter = Exporter::new(EXPORTER).config("access: {allow: ['fe80::/10']}\n").start();
    let target = "[fe80::1%2525x%0AERROR%20forged]:22";
    let debug = exporter.get(&format!("/probe?target={target}&debug=true")).text();
    let plain = exporter.get(&format!("/probe?target={target}")).text();
    let logs = exporter.get("/logs?id=0").text();
    for text in [debug, plain, logs, exporter.log()] {
        assert!(!text.lines().any(|line| line.trim_start().starts_with("ERROR")), "{text}");
    }
}
