//! What attackers do, each from an address of its own: some know the password, some guess.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Scope, sleep};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::name_server::{A, Question, Reply};
use harness::{Exporter, Listener, NameServer};
use socket2::{Domain, Socket, Type};

pub(crate) const PASSWORD: &str = "the right one";
const SHORT: Duration = Duration::from_millis(20);

/// Whom the exporter talks to.
pub(crate) struct Arena {
    /// What is watched: accepts and is silent.
    pub(crate) target: Listener,
    /// Accepts, and pins whoever waits for a word.
    pub(crate) silent: Listener,
    /// Sends without end.
    pub(crate) endless: Listener,
    pub(crate) dns: NameServer,
    /// Requests and connections of attackers.
    pub(crate) counts: AtomicU64,
}

pub(crate) fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("user:{password}")))
}

/// Names of watched targets are fine, the others are as bad as they can be.
pub(crate) fn answer(question: &Question) -> Reply {
    if question.name.ends_with(".well.test") {
        return Reply::Addresses(1, vec![IpAddr::from([127, 0, 0, 1])]);
    }
    match (question.number % 4, question.kind) {
        (0, _) => Reply::Bytes(vec![0xff; 600]),
        (1, _) => Reply::Truncated(Box::new(Reply::Silence)),
        (_, A) => {
            let many = (0..4000_u16).map(|number| {
                let [high, low] = number.to_be_bytes();
                IpAddr::from([127, 66, high, low])
            });
            Reply::Truncated(Box::new(Reply::Addresses(3600, many.collect())))
        }
        _ => Reply::Missing(3600),
    }
}

/// A connection from `127.0.0.last`, with a small window if it is not to take much.
fn connect(last: u8, to: SocketAddr, window: Option<usize>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes)?;
    }
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn get(stream: &mut TcpStream, path: &str, password: &str, more: &str) -> std::io::Result<()> {
    let basic = basic(password);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {basic}\r\n{more}\r\n")
}

/// Asks and reads what comes.
fn ask(last: u8, to: SocketAddr, path: &str, password: &str, more: &str) -> std::io::Result<()> {
    let mut stream = connect(last, to, None)?;
    get(&mut stream, path, password, &format!("Connection: close\r\n{more}"))?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Begins every attack; each goes on until it is told to stop.
pub(crate) fn begin<'scope>(
    scope: &'scope Scope<'scope, '_>,
    arena: &'scope Arena,
    exporter: &'scope Exporter,
    stop: &'scope AtomicBool,
) {
    let to = exporter.address();
    let repeat = |attack: Box<dyn Fn(u64) + Send + 'scope>| {
        scope.spawn(move || {
            for round in 0.. {
                if stop.load(Relaxed) {
                    return;
                }
                attack(round);
                arena.counts.fetch_add(1, Relaxed);
                sleep(SHORT);
            }
        });
    };
    // Names with thousands of addresses, garbage and truncated answers.
    for number in 0..4_u64 {
        repeat(Box::new(move |round| {
            let name = format!("{}.flood.test", (round * 4 + number) % 400);
            let _ = ask(11, to, &format!("/probe?module=plain&target={name}:1"), PASSWORD, "");
        }));
    }
    // Readers who do not read, many at once.
    repeat(Box::new(move |_| {
        let readers: Vec<_> = (0..100)
            .filter_map(|_| {
                let mut stream = connect(12, to, Some(2048)).ok()?;
                get(&mut stream, "/metrics", PASSWORD, "").ok()?;
                Some(stream)
            })
            .collect();
        sleep(Duration::from_secs(2));
        drop(readers);
    }));
    // Probes that never end, with the wish for a day.
    repeat(Box::new(move |round| {
        let more = "X-Prometheus-Scrape-Timeout-Seconds: 86400\r\n";
        let last = if round % 2 == 0 { 13 } else { 14 };
        let path = format!("/probe?module=wait&target={}", arena.silent.target());
        let pinned: Vec<_> = (0..150)
            .filter_map(|_| {
                let mut stream = connect(last, to, None).ok()?;
                get(&mut stream, &path, PASSWORD, more).ok()?;
                Some(stream)
            })
            .collect();
        sleep(Duration::from_secs(2));
        drop(pinned);
    }));
    // Peers that send without end, for a pattern that never matches.
    for _ in 0..2 {
        repeat(Box::new(move |_| {
            let path = format!("/probe?module=scan&target={}", arena.endless.target());
            let _ = ask(15, to, &path, PASSWORD, "");
        }));
    }
    // Files that are none.
    repeat(Box::new(move |round| {
        let module = if round % 2 == 0 { "zero" } else { "pipe" };
        let path = format!("/probe?module={module}&target={}", arena.target.target());
        let _ = ask(16, to, &path, PASSWORD, "");
    }));
    // Guessed passwords.
    for number in 0..8_u8 {
        repeat(Box::new(move |round| {
            let _ = ask(20 + number, to, "/metrics", &format!("{number} {round}"), "");
        }));
    }
    // Heads that come byte by byte.
    repeat(Box::new(move |_| {
        let mut slow: Vec<_> = (0..150).filter_map(|_| connect(17, to, None).ok()).collect();
        for byte in *b"GET / HTTP" {
            slow.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
            sleep(Duration::from_millis(300));
        }
    }));
    // Forbidden targets, forged zones, other sites' pages.
    repeat(Box::new(move |round| {
        let paths = [
            "/probe?target=169.254.169.254:80",
            "/probe?target=127.66.0.1:80",
            "/probe?target=[fe80::1%25x%0aERROR]:1",
            "/probe?target=[64:ff9b:1::a9fe:a9fe]:80",
            "/-/reload",
        ];
        let path = paths[usize::try_from(round % 5).unwrap_or_default()];
        let _ = ask(18, to, path, PASSWORD, "Origin: http://evil.test\r\n");
    }));
    // A web configuration that is emptied, and comes back.
    repeat(Box::new(move |round| {
        let file = exporter.directory().join("web.yml");
        let kept = exporter.directory().join("web.kept");
        if round == 0 {
            let _ = std::fs::copy(&file, &kept);
        }
        let _ = std::fs::write(&file, "");
        sleep(Duration::from_millis(1500));
        let _ = std::fs::copy(&kept, &file);
        sleep(Duration::from_millis(1500));
    }));
}
