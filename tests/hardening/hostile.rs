//! Peers that send whatever hurts: the exporter lives, its memory stays bounded, and nothing they
//! say reaches a metric, a log or a page unescaped.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::listener::Visitor;
use harness::{Exporter, Listener, Metrics, wait_until};

use crate::faults::Starved;
use crate::{EXPORTER, LIMIT, MIB, assert_well, descriptors, memory, wait_descriptors};

/// Every step of a dialogue, and of TLS, meets every peer.
const MODULES: &str = r#"
modules:
  connect: {prober: tcp, timeout: 2s}
  hold: {prober: tcp, timeout: 2s, tcp: {hold: 500ms}}
  first_line: {prober: tcp, timeout: 2s, tcp: {query_response: [{expect: "^220 (.*)$", send: "EHLO ${1}", labels: [{name: banner, value: "${1}"}]}]}}
  anything: {prober: tcp, timeout: 2s, tcp: {query_response: [{expect: "(.+)", labels: [{name: banner, value: "${1}"}, {name: again, value: "${0}${1}"}]}]}}
  never: {prober: tcp, timeout: 2s, tcp: {query_response: [{expect: "^never$"}]}}
  bytes: {prober: tcp, timeout: 2s, tcp: {query_response: [{expect_bytes: "220 ready and more"}]}}
  talk: {prober: tcp, timeout: 2s, tcp: {query_response: [{send: "HELO"}, {expect: "x"}, {send: "QUIT"}, {expect: "y"}]}}
  tls: {prober: tcp, timeout: 2s, tcp: {tls: true, tls_config: {insecure_skip_verify: true}}}
  verified: {prober: tcp, timeout: 2s, tcp: {tls: true}}
  starttls: {prober: tcp, timeout: 2s, tcp: {tls_config: {insecure_skip_verify: true}, query_response: [{expect: "^220"}, {starttls: true}, {expect: "x"}]}}
"#;

const MODULE_NAMES: [&str; 10] = [
    "connect",
    "hold",
    "first_line",
    "anything",
    "never",
    "bytes",
    "talk",
    "tls",
    "verified",
    "starttls",
];

fn peer(behaviour: impl Fn(&mut Visitor) + Send + Sync + 'static) -> Listener {
    Listener::serve(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour)
}

/// Repeats `bytes` until the client has gone.
fn endless(bytes: &'static [u8]) -> Listener {
    peer(move |visitor| {
        let piece = bytes.repeat(64 * 1024 / bytes.len());
        while visitor.stream.write_all(&piece).is_ok() {}
    })
}

fn banner(bytes: impl Into<Vec<u8>>) -> Listener {
    Listener::banner(&bytes.into())
}

/// A server that speaks TLS with a chain of certificates that nobody should be shown.
fn certified(count: usize, prepare: impl Fn(&mut rcgen::CertificateParams)) -> Listener {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    prepare(&mut params);
    let certificate = params.self_signed(&key).expect("a certificate");
    let chain = vec![certificate.der().clone(); count];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a chain");
    let config = Arc::new(config);
    peer(move |visitor| {
        let mut server = rustls::ServerConnection::new(Arc::clone(&config)).expect("a server");
        let _ = rustls::Stream::new(&mut server, &mut visitor.stream).write_all(b"220 x\r\n");
        visitor.read_to_end();
    })
}

fn peers() -> Vec<(&'static str, Listener)> {
    let injection =
        "220 a\"} 1\nprobe_success 1\nx{y=\"\\\"\\\\\n# EOF\nprobe_success{a=\"b\"} 1\n";
    let alert = |code: u8| vec![0x15, 3, 3, 0, 2, 2, code];
    let hello = [&[0x16, 3, 3, 0, 4, 2, 0xff, 0xff, 0xff][..], &[0; 512]].concat();
    let named = |name: &str| {
        let name = name.to_owned();
        move |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
            params.distinguished_name.push(rcgen::DnType::OrganizationName, name.as_str());
        }
    };
    let many = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = (0..1000)
            .map(|it| format!("{}{it}.example", "a".repeat(40)).try_into().expect("a name"))
            .map(rcgen::SanType::DnsName)
            .collect();
    };
    vec![
        (
            "a certificate with escapes",
            certified(1, named("\x1b[31mred\r\nx{a=\"b\"} 1\n<script>alert(1)</script>\u{202e}")),
        ),
        ("a certificate of 1,000 names", certified(1, many)),
        ("a subject of 30 KiB", certified(1, named(&"x".repeat(15_000)))),
        ("a chain of 100 certificates", certified(100, |_| ())),
        ("a chain of 50 large ones", certified(50, many)),
        ("endless bytes", endless(b"a")),
        ("endless lines", endless(b"220 and again\r\n")),
        ("endless zeros", endless(b"\0")),
        ("endless handshake records", endless(b"\x16\x03\x03\x00\x01\x00")),
        (
            "a line of 4 MiB",
            banner([b"220 ".to_vec(), vec![b'x'; 4 << 20], b"\r\n".to_vec()].concat()),
        ),
        ("binary", banner((0..=255).cycle().take(8192).collect::<Vec<u8>>())),
        ("ANSI escapes", banner("220 \x1b[2J\x1b[31mred\x1b]0;title\x07\x1b[6n\u{9b}31m\r\n")),
        ("HTML", banner("220 <script>alert(1)</script><img src=x onerror=alert(2)>'\"&amp;\r\n")),
        ("invalid UTF-8", banner(b"220 \xff\xfe\xc3\x28\xed\xa0\x80\xf8\x88\r\n".to_vec())),
        ("a forged exposition", banner(injection)),
        (
            "text that runs backwards",
            banner("220 \u{202e}txet\u{2066}\u{feff}\u{2028}x\u{2029}\r\n"),
        ),
        ("carriage returns", banner("220 ok\rOVERWRITTEN\r\x08\x08\x08\x7f\r\n")),
        ("nothing but line ends", banner("\r\n".repeat(100_000))),
        ("templates", banner("220 ${1}$1${{x}}%s%n{{.}}\r\n")),
        (
            "one byte at a time",
            peer(|visitor| {
                for byte in b"220 slow\r\n".iter().cycle() {
                    if visitor.stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(200));
                }
            }),
        ),
        ("never reads", peer(|_| sleep(Duration::from_secs(5)))),
        ("half a line, then the end", peer(|visitor| visitor.write(b"220 re"))),
        (
            "a banner, then a reset",
            peer(|visitor| {
                visitor.write(b"220 ready\r\n");
                visitor.reset();
            }),
        ),
        (
            "a reset after what we said",
            peer(|visitor| {
                visitor.write(b"220 ready\r\n");
                visitor.read();
                visitor.reset();
            }),
        ),
        ("a reset at once", Listener::resetting()),
        ("the end at once", Listener::closing()),
        ("TLS alert: handshake failure", banner(alert(40))),
        ("TLS alert: unrecognised name", banner(alert(112))),
        ("TLS alert: unknown code", banner(alert(250))),
        ("TLS alert: close", banner(vec![0x15, 3, 3, 0, 2, 1, 0])),
        ("a handshake message of 16 MiB", banner(hello)),
        (
            "a record longer than any",
            banner([vec![0x16, 3, 3, 0xff, 0xff], vec![0; 70_000]].concat()),
        ),
        ("an answer of SSL 2", banner(vec![0x80, 0x2e, 4, 0, 1, 0, 2])),
        ("HTTP where TLS is wanted", banner("HTTP/1.1 400 Bad Request\r\n\r\n")),
        (
            "a banner, then nonsense for TLS",
            peer(|visitor| {
                visitor.write(b"220 ready\r\n");
                visitor.read();
                visitor.write(&[0xde; 4096]);
                visitor.read_to_end();
            }),
        ),
    ]
}

/// Nothing that moves a cursor, ends a line or runs text backwards.
#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let harmful = |it: char| {
        (it.is_control() && it != '\n' && it != '\t')
            || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    let found = text.find(harmful);
    assert!(
        found.is_none(),
        "{what}: {:?}",
        &text[found.unwrap_or(0)..].chars().take(60).collect::<String>()
    );
}

#[test]
fn hostile_peers_break_and_forge_nothing() {
    let exporter = Exporter::new(EXPORTER).config(MODULES).flag("--log.prober=debug").start();
    let peers = peers();
    let _ = exporter.probe(&Listener::silent().target(), "connect");
    let (memory_before, descriptors_before) = (memory(&exporter), descriptors(&exporter));
    let probes = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (name, peer) in &peers {
            let (exporter, probes) = (&exporter, &probes);
            scope.spawn(move || {
                for module in MODULE_NAMES {
                    for debug in ["", "&debug=true"] {
                        let path =
                            format!("/probe?module={module}&target={}{debug}", peer.target());
                        let response = exporter.get_awake(&path);
                        let what = format!("{name}, {module}{debug}");
                        let text = response.text();
                        assert_eq!(response.status, 200, "{what}: {text}");
                        assert_harmless(&what, &text);
                        assert!(response.body.len() < 64 * 1024, "{what}: {}", response.body.len());
                        if debug.is_empty() {
                            let metrics = Metrics::parse(&text);
                            // What a peer says cannot add a sample: one success, without labels.
                            let seen: Vec<_> = metrics.all("probe_success").collect();
                            assert_eq!(seen.len(), 1, "{what}: {text}");
                            assert!(seen[0].labels.is_empty(), "{what}: {text}");
                        }
                        probes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let growth = memory(&exporter).saturating_sub(memory_before);
    eprintln!(
        "{} peers, {} probes in {:?}: memory grew by {} KiB",
        peers.len(),
        probes.load(Ordering::Relaxed),
        begin.elapsed(),
        growth / 1024,
    );
    assert!(growth < 64 * MIB, "{growth}");
    let page = exporter.get("/").text();
    assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{page}");
    assert_harmless("page", &page);
    assert_harmless("log", &exporter.log());
    wait_descriptors(&exporter, descriptors_before);
    assert_well(&exporter);
}

#[test]
fn hostile_peers_cannot_harm_the_schedule_either() {
    let peers = peers();
    let mut config = format!("{MODULES}defaults: {{interval: 2500ms, timeout: 2s}}\nmonitors:\n");
    for (index, (_, peer)) in peers.iter().enumerate() {
        for module in ["anything", "first_line", "tls", "starttls"] {
            let _ = writeln!(
                config,
                "  - {{name: {module}{index}, host: 127.0.0.1, port: {}, module: {module}}}",
                peer.port()
            );
        }
    }
    let exporter = Exporter::new(EXPORTER).config(&config).start();
    let count = peers.len() * 4;
    let page = wait_until(LIMIT, || {
        let text = exporter.get("/metrics").text();
        let metrics = Metrics::parse(&text);
        let probed = metrics.all("tcp_monitor_probes_total").filter(|it| it.value >= 2.0).count();
        if probed >= count { Ok(text) } else { Err(format!("{probed} of {count} probed twice")) }
    });
    assert_harmless("metrics", &page);
    let page = exporter.get("/").text();
    assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{page}");
    assert_harmless("page", &page);
    assert_harmless("log", &exporter.log());
    assert_well(&exporter);
}

/// Lines without end, as fast as they can be read, for an exporter with a twentieth of a processor:
/// there is always more to read than it can look at.
#[test]
fn no_peer_gets_more_time_than_it_may() {
    let Some(starved) = Starved::within("hostile", 20) else {
        eprintln!("SKIPPED no_peer_gets_more_time_than_it_may: no control groups of version 1");
        return;
    };
    let lines = endless(b"x\n");
    let exporter = Exporter::new(EXPORTER)
        .config(
            "modules:
  lines: {prober: tcp, timeout: 1s, tcp: {query_response: [{expect: '^(a|b|x+y)*never$'}]}}
",
        )
        .start();
    starved.add(exporter.id());
    let begin = Instant::now();
    let answer = exporter.get(&format!("/probe?module=lines&target={}", lines.target()));
    let took = begin.elapsed();
    Starved::release(exporter.id());
    let status = answer.status;
    eprintln!("lines without end, 1 s of time, 5 % of a processor: {status} after {took:.1?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_well(&exporter);
}
