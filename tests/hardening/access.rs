//! Who may probe what: every way to write a forbidden target, and what a refusal tells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::name_server::Reply;
use harness::{Exporter, Listener, Metrics, NameServer, Netns, wait_until};

use crate::{EXPORTER, LIMIT, assert_well};

const REFUSAL: &str = "the access rules of this exporter do not allow this target\n";

/// Counts connections by the address they came to.
struct Trap {
    listener: Listener,
    sprung: Arc<AtomicUsize>,
}

impl Trap {
    /// A port of every local address; connections to 127.0.0.2 spring it.
    fn start() -> Self {
        let sprung = Arc::new(AtomicUsize::new(0));
        let listener = Listener::serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), {
            let sprung = Arc::clone(&sprung);
            move |visitor| {
                let local = visitor.stream.local_addr().expect("connected").ip();
                if local == IpAddr::from([127, 0, 0, 2]) {
                    sprung.fetch_add(1, Ordering::Relaxed);
                }
                visitor.read_to_end();
            }
        });
        Self { listener, sprung }
    }
}

#[test]
fn a_name_that_changes_its_mind_reaches_nothing_forbidden() {
    let trap = Trap::start();
    let port = trap.listener.port();
    // Every answer is valid for no time and differs from the one before.
    let dns = NameServer::local(|question| {
        let good = IpAddr::from([127, 0, 0, 1]);
        let bad = IpAddr::from([127, 0, 0, 2]);
        let ips = match question.name.as_str() {
            "both.test" => vec![good, bad],
            "bad.test" => vec![bad],
            _ if question.number % 2 == 0 => vec![good],
            _ => vec![bad],
        };
        Reply::Addresses(0, ips)
    });
    let exporter = Exporter::new(EXPORTER)
        .config(&format!(
            "modules: {{m: {{prober: tcp, timeout: 3s, tcp: {{preferred_ip_protocol: ip4, ip_protocol_fallback: false, resolver: ['{}']}}}}}}\n\
             access: {{deny: [127.0.0.2]}}\n",
            dns.address()
        ))
        .start();
    let (mut granted, mut denied) = (0, 0);
    for round in 0..100 {
        for name in ["flip.test", "both.test", "bad.test"] {
            let response = exporter.get(&format!("/probe?module=m&target={name}:{port}"));
            match response.status {
                200 => granted += 1,
                403 => {
                    assert_eq!(response.text(), REFUSAL);
                    denied += 1;
                }
                status => panic!("{name}, round {round}: {status} {}", response.text()),
            }
        }
    }
    eprintln!("rebinding: {granted} probes granted, {denied} denied, 0 reached what is forbidden");
    assert!(granted >= 20 && denied >= 100, "{granted} granted, {denied} denied");
    assert_eq!(trap.sprung.load(Ordering::Relaxed), 0);
    let page = Metrics::parse(&exporter.get("/metrics").text());
    let counted = page.value("tcp_probe_exporter_targets_refused_total", &[("rule", "127.0.0.2")]);
    assert_eq!(counted, Some(f64::from(denied)));
}

#[test]
fn a_forbidden_target_is_forbidden_however_it_is_written() {
    let trap = Trap::start();
    let port = trap.listener.port();
    let exporter = Exporter::new(EXPORTER)
        .config("access: {deny: ['127.0.0.0/8', '::1', '10.0.0.0/8', '*.internal', 'xn--bcher-kva.example']}\n")
        .start();
    let denied = |page: &str| page == REFUSAL;
    for host in [
        "127.0.0.1",
        "127.0.0.2",
        "127.1.2.3",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::FFFF:127.0.0.2]",
        "[::ffff:0.0.0.0]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "10.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1%25lo]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd00:ec2::123]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd20:ce::254]",
        "[fd00:42::42]",
        "[::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b:1:7f00:0:100::]",
        "[2002:7f00:1::1]",
        "[2001:0:7f00:1::1]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "db.internal",
        "DB.INTERNAL",
        "db.internal.",
        "b%C3%BCcher.example",
        "B%C3%9CCHER.example",
        "xn--bcher-kva.example.",
        "db%EF%BC%8Einternal",
        "127%E3%80%820%E3%80%820%E3%80%821",
    ] {
        let response = exporter.get(&format!("/probe?target={host}:{port}"));
        let refused = response.status == 403 && denied(&response.text());
        // What is no address at all is a failed probe, and reaches nothing either.
        let invalid = response.status == 200 && response.text().contains("\"invalid_target\"");
        assert!(refused || invalid, "{host}: {} {}", response.status, response.text());
        eprintln!("{host}: {}", if refused { "denied" } else { "no address" });
    }
    // Forms that some resolvers read as 127.0.0.1 or 10.0.0.1 are no addresses here.
    for host in [
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "10.1",
        "127.0.0.01",
        "127.0.0.1.",
        "0",
        "00000000",
        "127.0.0.1%00",
        "127.0.0.1%250",
        "%5B::1%5D%5D",
    ] {
        let response = exporter.get(&format!("/probe?target={host}:{port}"));
        let text = response.text();
        let harmless = response.status == 403 || text.contains("probe_success 0");
        assert!(harmless, "{host}: {} {text}", response.status);
    }
    assert_eq!(trap.listener.accepted(), 0, "somebody got through");
    assert_well(&exporter);
}

#[test]
fn a_refusal_says_nothing_about_its_target() {
    let open = Listener::silent();
    let closed = harness::ClosedPort::new();
    let dns = NameServer::local(|question| match question.name.as_str() {
        "real.internal" => Reply::Addresses(60, vec![IpAddr::from([127, 0, 0, 1])]),
        _ => Reply::Code(3),
    });
    let exporter = Exporter::new(EXPORTER)
        .config(&format!(
            "modules: {{m: {{prober: tcp, timeout: 3s, tcp: {{resolver: ['{}'], query_response: [{{expect: x}}]}}}}}}\n\
             access: {{deny: ['127.0.0.0/8', '*.internal']}}\n",
            dns.address()
        ))
        .start();
    let mut answers = Vec::new();
    let mut worst = Duration::ZERO;
    for target in [
        open.target(),
        closed.target(),
        "127.9.9.9:1".to_owned(),
        "169.254.169.254:80".to_owned(),
        format!("real.internal:{}", open.port()),
        "missing.internal:1".to_owned(),
    ] {
        for extra in ["", "&debug=true"] {
            let begin = Instant::now();
            let response = exporter.get(&format!("/probe?module=m&target={target}{extra}"));
            worst = worst.max(begin.elapsed());
            let mut headers = response.headers.clone();
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
            answers.push((response.status, headers, response.text()));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((answers[0].0, answers[0].2.as_str()), (403, REFUSAL));
    // Nobody was asked about the forbidden names, so their time tells nothing either.
    assert_eq!(dns.asked(), 0);
    assert_eq!(open.accepted(), 0);
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    // Nor do the pages that tell of recent probes.
    for path in ["/", "/logs", "/api/v1/targets"] {
        let text = exporter.get(path).text();
        assert!(!text.contains("internal") && !text.contains(&open.target()), "{path}: {text}");
    }
}

#[test]
fn the_exporters_own_port_is_denied_unless_named() {
    for (listen, hosts) in [
        ("127.0.0.1:0", &["127.0.0.1", "0.0.0.0", "localhost", "[::ffff:127.0.0.1]"][..]),
        ("0.0.0.0:0", &["127.0.0.1", "127.3.4.5", "0.0.0.0"]),
        ("[::]:0", &["127.0.0.1", "[::1]", "[::]", "0.0.0.0", "[::ffff:127.0.0.1]"]),
    ] {
        let flag = format!("--web.listen-address={listen}");
        let exporter = Exporter::new(EXPORTER)
            .config("modules: {v4: {prober: tcp, timeout: 2s, tcp: {preferred_ip_protocol: ip4}}}")
            .flag(&flag)
            .start();
        let port = exporter.address().port();
        for host in hosts {
            let response = exporter.get(&format!("/probe?module=v4&target={host}:{port}"));
            assert_eq!(
                (response.status, response.text().as_str()),
                (403, REFUSAL),
                "{listen} {host}"
            );
        }
        let page = Metrics::parse(&exporter.get("/metrics").text());
        let counted =
            page.value("tcp_probe_exporter_targets_refused_total", &[("rule", "own_listener")]);
        assert_eq!(counted.map(|it| it.to_string()), Some(hosts.len().to_string()), "{listen}");
    }
    // Another port of the same host is nobody's secret; a monitor may watch what it likes.
    let exporter = Exporter::new(EXPORTER)
        .flag("--web.listen-address=127.0.0.1:0")
        .config("monitors: []\n")
        .start();
    let other = Listener::silent();
    assert!(exporter.probe(&other.target(), "tcp_connect").is_success());
    let port = exporter.address().port();
    exporter.rewrite_config(&format!(
        "access: {{allow: ['127.0.0.1:{port}']}}\n\
         monitors: [{{name: self, host: 127.0.0.1, port: {port}, interval: 1s, timeout: 500ms}}]\n"
    ));
    assert_eq!(exporter.post("/-/reload").status, 200);
    assert!(exporter.probe(&format!("127.0.0.1:{port}"), "tcp_connect").is_success());
    wait_until(LIMIT, || {
        let text = exporter.get("/metrics").text();
        match Metrics::parse(&text).value("tcp_monitor_up", &[("monitor", "self")]) {
            Some(up) if up > 0.5 => Ok(()),
            up => Err(format!("{up:?}")),
        }
    });
}

#[test]
fn a_name_pattern_leads_nowhere_inside() {
    let inside = Listener::silent();
    let dns = NameServer::local(|question| match question.name.as_str() {
        "www.example.com" => Reply::address(IpAddr::from([127, 0, 0, 1])),
        _ => Reply::Code(3),
    });
    let target = format!("www.example.com:{}", inside.port());
    for (allow, status) in [("'*.example.com'", 403), ("'*.example.com', '127.0.0.0/8'", 200)] {
        let exporter = Exporter::new(EXPORTER)
            .config(&format!(
                "modules: {{m: {{prober: tcp, timeout: 3s, tcp: {{preferred_ip_protocol: ip4, resolver: ['{}']}}}}}}\n\
                 access: {{allow: [{allow}]}}\n",
                dns.address()
            ))
            .start();
        let response = exporter.get(&format!("/probe?module=m&target={target}"));
        assert_eq!(response.status, status, "{allow}: {}", response.text());
        let page = Metrics::parse(&exporter.get("/metrics").text());
        let labels = [("rule", "inner_address")];
        let denied = page.value("tcp_probe_exporter_targets_refused_total", &labels);
        assert_eq!(denied, Some(f64::from(u8::from(status == 403))), "{allow}");
    }
    assert_eq!(inside.accepted(), 1);
}

#[test]
fn the_exporters_own_port_is_denied_through_a_route_of_its_own() {
    if !Netns::available("the_exporters_own_port_is_denied_through_a_route_of_its_own") {
        return;
    }
    let host = Netns::new("own-route");
    host.ip("route add local 203.0.113.0/24 dev lo src 127.0.0.1\nroute add local 198.51.100.0/24 dev lo");
    host.run(&["ip", "-6", "route", "add", "local", "2001:db8:77::/64", "dev", "lo"]);
    let exporter = Exporter::new(EXPORTER)
        .config("modules: {m: {prober: tcp, timeout: 3s}}")
        .flag("--web.listen-address=[::]:0")
        .netns(&host)
        .start();
    let port = exporter.address().port();
    for host in ["203.0.113.9", "198.51.100.9", "[2001:db8:77::9]", "127.0.0.1", "[::1]"] {
        let response = exporter.get(&format!("/probe?module=m&target={host}:{port}"));
        assert_eq!((response.status, &*response.text()), (403, REFUSAL), "{host}");
    }
}

/// A firewall that translates the destination: the address says nothing, the connection does.
#[test]
fn the_exporters_own_port_is_denied_behind_a_translated_address() {
    if !Netns::available("the_exporters_own_port_is_denied_behind_a_translated_address") {
        return;
    }
    let (host, router) = (Netns::new("own-dnat"), Netns::new("own-dnat-router"));
    host.link(&router, &[("10.97.0.1/24", "10.97.0.2/24")]);
    host.ip("route add default via 10.97.0.2");
    let exporter = Exporter::new(EXPORTER)
        .config(
            "modules:
  connect: {prober: tcp, timeout: 3s}
  talk: {prober: tcp, timeout: 3s, tcp: {query_response: [{send: \"GET /config HTTP/1.0\\r\\n\\r\"}, {expect: HTTP}]}}
",
        )
        .flag("--web.listen-address=[::]:0")
        .netns(&host)
        .start();
    let other = host.within(|| {
        Listener::serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |visitor| {
            visitor.write(b"HTTP\r\n");
            visitor.read_to_end();
        })
    });
    let (own, other) = (exporter.address().port(), other.port());
    let far = "ip daddr 198.51.100.9 tcp dport";
    host.nft(&format!(
        "table ip nat {{ chain output {{ type nat hook output priority -100;\n\
         {far} 80 dnat to 10.97.0.1:{own};\n{far} 81 dnat to 10.97.0.1:{other};\n}}; }}"
    ));
    for module in ["connect", "talk"] {
        for _ in 0..20 {
            let answer = exporter.get(&format!("/probe?module={module}&target=198.51.100.9:80"));
            assert_eq!((answer.status, &*answer.text()), (403, REFUSAL), "{module}");
        }
        // Elsewhere the same way leads to where it may.
        assert!(exporter.probe("198.51.100.9:81", module).is_success());
    }
    let page = Metrics::parse(&exporter.get("/metrics").text());
    let labels = [("rule", "own_listener")];
    let denied = page.value("tcp_probe_exporter_targets_refused_total", &labels);
    assert_eq!(denied, Some(40.0));
    assert_well(&exporter);
}

/// A module that expects a line reads the first line of any port; that can be kept from strangers.
#[test]
fn banners_are_kept_from_strangers_where_access_says_so() {
    let peer = Listener::banner(b"220 private.example ready, version 1.2.3\r\n");
    let probed = |access: &str| {
        let exporter = Exporter::new(EXPORTER)
            .config(&format!(
                "{access}
modules:
  imap: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect: '^OK', reject: '^5'}}]}}}}
  stream: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect_stream: 'OK'}}]}}}}
  bytes: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect_bytes: '220 OK'}}]}}}}
  good: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect: '^220'}}]}}}}
  rejected: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect: '^OK', reject: '^2'}}]}}}}
"
            ))
            .flag("--log.prober=debug")
            .start();
        let modules = ["imap", "stream", "bytes", "good", "rejected"];
        let mut pages: Vec<String> = modules
            .map(|module| {
                let path = format!("/probe?module={module}&target={}&debug=true", peer.target());
                exporter.get(&path).text()
            })
            .into();
        pages.extend((0..5).map(|id| exporter.get(&format!("/logs?id={id}")).text()));
        pages.extend([exporter.get("/").text(), exporter.get("/logs").text(), exporter.log()]);
        assert_well(&exporter);
        pages
    };
    let quotes = |page: &String| page.contains("220 pr") || page.contains("1.2.3");
    let shown = probed("");
    assert!(shown[..5].iter().all(quotes), "{shown:#?}");
    let hidden = probed("access: {banners: false}");
    assert!(!hidden.iter().any(quotes), "{hidden:#?}");
    // How much came is said.
    assert!(hidden[0].contains("its last was `40 bytes`"), "{}", hidden[0]);
}

#[test]
fn a_probe_that_is_open_to_the_world_is_told_loudly() {
    let told = |listen: &str, config: &str| {
        let exporter = Exporter::new(EXPORTER)
            .config(config)
            .flag(&format!("--web.listen-address={listen}"))
            .start();
        let log = exporter.log();
        log.lines().any(|it| it.contains("WARN") && it.contains("/probe is open to everybody"))
    };
    assert!(told("0.0.0.0:0", "{}"));
    assert!(told("[::]:0", "access: {deny: [':25']}"));
    assert!(told("0.0.0.0:0", "access: {allow: ['*']}"));
    assert!(told("0.0.0.0:0", "access: {allow: ['10.0.0.0/8', '0.0.0.0/0']}"));
    assert!(!told("127.0.0.1:0", "{}"));
    assert!(!told("0.0.0.0:0", "access: {allow: ['10.0.0.0/8']}"));
}
