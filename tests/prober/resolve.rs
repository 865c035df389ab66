//! What becomes of a name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use harness::name_server::{A, AAAA, Reply};
use harness::{Exporter, Listener, NameServer, Netns, wait_until};
use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::{Address, Host};
use tcp_probe_exporter::module::{Family, Module, Resolver};
use tcp_probe_exporter::outcome::{Outcome, Phase, ProbeResult, Reason};
use tcp_probe_exporter::prober::journal::Journal;
use tcp_probe_exporter::prober::{Probe, Prober};
use tokio::task::JoinSet;

use crate::{SILENCE, TIMEOUT, failure, probe};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const BOTH: [IpAddr; 2] = [V4, V6];

fn asking(server: &NameServer) -> Module {
    asking_all(&[server.address()])
}

fn asking_all(servers: &[SocketAddr]) -> Module {
    Module { resolver: Resolver::Servers(servers.to_vec()), ..Module::connect("m") }
}

/// The question that any resolver answers.
fn is_control(name: &str) -> bool {
    name.is_empty()
}

/// Where nothing listens.
fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

fn open_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn inconclusive(reason: Reason) -> Outcome {
    Outcome::Inconclusive(reason, Phase::Resolve)
}

/// All addresses that a module may use.
async fn all_addresses(
    prober: &Prober,
    name: &str,
    module: &Module,
    timeout: Duration,
) -> Result<Vec<IpAddr>, Reason> {
    let address = Address { host: Host::parse(name).unwrap(), port: 1 };
    let access = Access::default();
    let probe = Probe { address: &address, module, hostname: None, timeout, access: &access };
    let found = prober.addresses(&probe).await;
    found.map_err(|result| result.outcome.cause().unwrap().0)
}

async fn probe_with(
    prober: &Prober,
    target: &str,
    module: &Module,
    timeout: Duration,
) -> ProbeResult {
    let address = Address::parse(target).unwrap();
    let access = Access::default();
    let probe = Probe { address: &address, module, hostname: None, timeout, access: &access };
    prober.probe(probe, &mut Journal::off()).await
}

#[tokio::test]
async fn why_a_name_has_no_address() {
    let server = NameServer::local(|question| match &*question.name {
        "missing.test" => Reply::Code(3),
        "broken.test" => Reply::Code(2),
        "secret.test" => Reply::Code(5),
        "empty.test" => Reply::Addresses(60, Vec::new()),
        "old_name.test" => Reply::Addresses(60, vec![V4]),
        name if is_control(name) => Reply::Addresses(60, Vec::new()),
        _ => Reply::Silence,
    });
    let module = asking(&server);
    let (_listener, port) = open_port();
    for (name, expected) in [
        ("missing.test", failure(Reason::DnsNxdomain, Phase::Resolve)),
        ("broken.test", failure(Reason::DnsFailure, Phase::Resolve)),
        ("secret.test", failure(Reason::DnsFailure, Phase::Resolve)),
        ("empty.test", failure(Reason::DnsNoAddress, Phase::Resolve)),
        ("old_name.test", Outcome::Success),
        ("OLD_name.test.", Outcome::Success),
    ] {
        let result = probe(&format!("{name}:{port}"), &module, TIMEOUT).await;
        assert_eq!(result.outcome, expected, "{name}: {result:?}");
        assert_eq!(result.phases.resolve.is_some(), expected == Outcome::Success);
    }
    let result = probe(&format!("silent.test:{port}"), &module, SILENCE).await;
    assert_eq!(result.outcome, failure(Reason::DnsTimeout, Phase::Resolve), "{result:?}");
    assert_eq!(result.peer, None);
    let detail = result.detail.unwrap();
    assert!(detail.contains("though it answers other questions"), "{detail}");
}

#[tokio::test]
async fn a_server_that_answers_nobody_is_our_own_trouble() {
    let (_listener, port) = open_port();
    let target = format!("any.test:{port}");
    // What it says to everybody, and what follows if it says so about this name only.
    let dns_failure = failure(Reason::DnsFailure, Phase::Resolve);
    let dns_timeout = failure(Reason::DnsTimeout, Phase::Resolve);
    let shut = Reply::Truncated(Box::new(Reply::Silence));
    for (reply, about_this_name) in [
        (Reply::Silence, dns_timeout),
        (Reply::Code(5), dns_failure),
        (Reply::Code(2), dns_failure),
        (Reply::Bytes(vec![0xff; 600]), dns_timeout),
        (Reply::WrongId(Box::new(Reply::address(V4))), dns_timeout),
        (shut, inconclusive(Reason::LocalResolver)),
    ] {
        let everybody = reply.clone();
        let server = NameServer::local(move |_| everybody.clone());
        let result = probe(&target, &asking(&server), SILENCE).await;
        assert_eq!(result.outcome, inconclusive(Reason::LocalResolver), "{reply:?}: {result:?}");
        let this_name = reply.clone();
        server.turn(move |question| {
            if is_control(&question.name) {
                Reply::Addresses(0, Vec::new())
            } else {
                this_name.clone()
            }
        });
        let result = probe(&target, &asking(&server), SILENCE).await;
        assert_eq!(result.outcome, about_this_name, "{reply:?}: {result:?}");
    }
}

#[tokio::test]
async fn one_control_question_serves_all_who_wait() {
    let server = NameServer::local(|question| {
        if is_control(&question.name) { Reply::Addresses(0, Vec::new()) } else { Reply::Silence }
    });
    let prober = std::sync::Arc::new(Prober::default());
    let module = asking(&server);
    let mut dead = JoinSet::new();
    for index in 0..50 {
        let (prober, module) = (prober.clone(), module.clone());
        dead.spawn(async move {
            probe_with(&prober, &format!("dead-{index}.test:1"), &module, SILENCE).await
        });
    }
    while let Some(result) = dead.join_next().await {
        let result = result.unwrap();
        assert_eq!(result.outcome, failure(Reason::DnsTimeout, Phase::Resolve), "{result:?}");
    }
    let controls = server.questions().iter().filter(|asked| is_control(&asked.name)).count();
    assert!((1..=25).contains(&controls), "{controls} control questions for 100 lookups");
}

#[tokio::test]
async fn a_refused_question_costs_no_time() {
    let (_listener, port) = open_port();
    let target = format!("any.test:{port}");
    let result = probe(&target, &asking_all(&[nobody(), nobody()]), TIMEOUT).await;
    assert_eq!(result.outcome, inconclusive(Reason::LocalResolver), "{result:?}");
    assert!(result.duration < TIMEOUT / 4, "{result:?}");
    let detail = result.detail.unwrap();
    assert_eq!(detail.matches("nothing listens").count(), 2, "{detail}");

    // Nor does one that cannot be reached; the next one is asked at once.
    let server = NameServer::local(|_| Reply::Addresses(0, BOTH.to_vec()));
    let module = asking_all(&[nobody(), server.address()]);
    let module = Module { preferred_family: Family::V4, ..module };
    let result = probe(&target, &module, TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.phases.resolve.unwrap() < Duration::from_secs(2), "{result:?}");
}

#[tokio::test]
async fn a_silent_server_delays_little_and_is_then_asked_last() {
    let silent = NameServer::local(|_| Reply::Silence);
    let server = NameServer::local(|_| Reply::Addresses(0, vec![V4]));
    let module = asking_all(&[silent.address(), server.address()]);
    let module = Module { preferred_family: Family::V4, ..module };
    let prober = Prober::default();
    let (_listener, port) = open_port();
    for _ in 0..3 {
        let result = probe_with(&prober, &format!("any.test:{port}"), &module, TIMEOUT).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        assert!(result.phases.resolve.unwrap() < Duration::from_secs(3), "{result:?}");
    }
}

/// One truncated answer, a TCP port that swallows, one datagram of garbage: nothing of it may
/// outlive its question.
#[tokio::test]
async fn a_dead_tcp_connection_hurts_only_the_answer_it_was_for() {
    let endless = Reply::Late(Duration::from_secs(600), Box::new(Reply::Silence));
    let server = NameServer::local(move |question| match &*question.name {
        "long.test" => Reply::Truncated(Box::new(endless.clone())),
        "garbage.test" => Reply::Bytes(vec![0xff; 600]),
        _ => Reply::Addresses(0, vec![V4]),
    });
    let module = Module { preferred_family: Family::V4, ..asking(&server) };
    let prober = Prober::default();
    let (_listener, port) = open_port();
    for (name, expected) in [
        ("long.test", inconclusive(Reason::LocalResolver)),
        ("garbage.test", failure(Reason::DnsTimeout, Phase::Resolve)),
    ] {
        let result = probe_with(&prober, &format!("{name}:{port}"), &module, SILENCE).await;
        assert_eq!(result.outcome, expected, "{name}: {result:?}");
    }
    for round in 0..20 {
        let begun = Instant::now();
        let target = format!("well-{round}.test:{port}");
        let result = probe_with(&prober, &target, &module, TIMEOUT).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{result:?}");
    }
    let by_tcp = server.questions().iter().filter(|question| question.tcp).count();
    assert!(by_tcp >= 1, "TCP was not tried");
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_by_tcp() {
    let server = NameServer::local(|_| Reply::Truncated(Box::new(Reply::Addresses(60, vec![V4]))));
    let module = Module { preferred_family: Family::V4, ..asking(&server) };
    let (_listener, port) = open_port();
    let result = probe(&format!("long.test:{port}"), &module, TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    let transports: Vec<_> = server.questions().iter().map(|question| question.tcp).collect();
    assert_eq!(transports, [false, true]);
}

#[tokio::test]
async fn of_a_name_with_thousands_of_addresses_a_few_are_kept() {
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([127, 1, high, low])
    };
    let many: Vec<_> = (0..4000).map(address).collect();
    let server =
        NameServer::local(move |_| Reply::Truncated(Box::new(Reply::Addresses(60, many.clone()))));
    let module = Module { preferred_family: Family::V4, family_fallback: false, ..asking(&server) };
    let found = all_addresses(&Prober::default(), "many.test", &module, TIMEOUT).await.unwrap();
    assert_eq!(found.len(), 64);
    assert_eq!(found[63], IpAddr::from([127, 1, 0, 63]));
}

#[tokio::test]
async fn the_family_rule() {
    let server = NameServer::local(|question| match &*question.name {
        "both.test" => Reply::Addresses(60, BOTH.to_vec()),
        "four.test" => Reply::Addresses(60, vec![V4]),
        _ => Reply::Code(3),
    });
    let prober = Prober::default();
    let none = Err(Reason::DnsNoAddress);
    for (name, preferred_family, family_fallback, expected) in [
        ("both.test", Family::V6, true, Ok(vec![V6, V4])),
        ("both.test", Family::V4, true, Ok(vec![V4, V6])),
        ("both.test", Family::V6, false, Ok(vec![V6])),
        ("four.test", Family::V6, true, Ok(vec![V4])),
        ("four.test", Family::V6, false, none.clone()),
        ("four.test", Family::V4, false, Ok(vec![V4])),
        ("::1", Family::V4, false, none.clone()),
        ("127.0.0.1", Family::V6, true, Ok(vec![V4])),
    ] {
        let module = Module { preferred_family, family_fallback, ..asking(&server) };
        let address = Address { host: Host::parse(name).unwrap(), port: 1 };
        let access = Access::default();
        let probe = Probe {
            address: &address,
            module: &module,
            hostname: None,
            timeout: TIMEOUT,
            access: &access,
        };
        let found = prober.addresses(&probe).await;
        let found = found.map_err(|result| result.outcome.cause().unwrap().0);
        assert_eq!(found, expected, "{name} {preferred_family:?} {family_fallback}");
    }
}

/// Some name servers drop questions of a kind that they do not know.
#[tokio::test]
async fn a_family_that_nobody_answers_for_costs_a_part_of_the_time() {
    let server = NameServer::local(|question| match question.kind {
        A => Reply::Addresses(60, vec![V4]),
        _ => Reply::Silence,
    });
    let (_listener, port) = open_port();
    let timeout = SILENCE * 3;
    let result = probe(&format!("four.test:{port}"), &asking(&server), timeout).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    let resolve = result.phases.resolve.unwrap();
    assert!(resolve >= timeout / 8 && resolve < timeout / 3, "{resolve:?} of {timeout:?}");

    // One that is late but comes is preferred all the same.
    let server = NameServer::local(|question| match question.kind {
        AAAA => {
            let late = Reply::Addresses(60, vec![V6]);
            Reply::Late(Duration::from_millis(400), Box::new(late))
        }
        _ => Reply::Addresses(60, vec![V4]),
    });
    let found = all_addresses(&Prober::default(), "late.test", &asking(&server), timeout).await;
    assert_eq!(found, Ok(vec![V6, V4]));
}

/// Runs a future on a machine of its own.
fn on_host<T: Send>(host: &Netns, future: impl Future<Output = T> + Send) -> T {
    host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    })
}

#[test]
fn the_address_of_a_family_without_a_route_gives_way() {
    if !Netns::available("the_address_of_a_family_without_a_route_gives_way") {
        return;
    }
    let host = Netns::new("one-family");
    let (far, nowhere): (IpAddr, _) =
        ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let server = host.within(|| {
        NameServer::local(move |question| match &*question.name {
            "both.test" => Reply::Addresses(0, vec![far, V4]),
            "several.test" => Reply::Addresses(0, vec![far, V6]),
            _ => Reply::Addresses(0, vec![far, nowhere]),
        })
    });
    let open = host.within(Listener::silent);
    for (name, family_fallback, expected) in [
        ("both.test", true, Outcome::Success),
        ("both.test", false, Outcome::Inconclusive(Reason::LocalNoRoute, Phase::Connect)),
        ("far.test", true, Outcome::Inconclusive(Reason::LocalNoRoute, Phase::Connect)),
        // The first address of the preferred family that has a route; nothing listens there.
        ("several.test", false, failure(Reason::Refused, Phase::Connect)),
    ] {
        let module = Module { family_fallback, ..asking(&server) };
        let target = format!("{name}:{}", open.port());
        let result = on_host(&host, async { probe(&target, &module, TIMEOUT).await });
        assert_eq!(result.outcome, expected, "{name} {family_fallback}: {result:?}");
    }
}

#[test]
fn without_name_servers_that_answer_no_target_is_blamed() {
    if !Netns::available("without_name_servers_that_answer_no_target_is_blamed") {
        return;
    }
    let host = Netns::new("no-resolver");
    let dropping = "table inet f { chain input { type filter hook input priority 0; \
                    udp sport 53 drop; }; }";
    for (what, conf, rules) in [
        ("nothing listens", Some("nameserver 127.0.0.53\n"), None),
        ("empty", Some(""), None),
        ("missing", None, None),
        ("no route", Some("nameserver 192.0.2.53\n"), None),
        ("answers dropped", Some("nameserver 127.0.0.1\n"), Some(dropping)),
    ] {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("hosts"), "").unwrap();
        if let Some(conf) = conf {
            std::fs::write(etc.path().join("resolv.conf"), conf).unwrap();
        }
        let local = "127.0.0.1:53".parse().unwrap();
        let _server = rules.map(|rules| {
            host.nft(rules);
            host.within(|| NameServer::at(local, |_| Reply::address(V4)))
        });
        let config = "modules: {b: {prober: tcp, timeout: 4s}, \
                      s: {prober: tcp, timeout: 20s, tcp: {resolver: system}}}\n";
        let exporter = Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter"))
            .netns(&host)
            .etc(etc.path())
            .config(config)
            .start();
        let modules = if rules.is_some() { &["b"][..] } else { &["b", "s"] };
        for module in modules {
            let begun = Instant::now();
            let response = exporter.get(&format!("/probe?module={module}&target=any.test:1"));
            let text = response.text();
            assert_eq!(response.status, 503, "{what}, {module}: {text}");
            assert!(text.contains("local_resolver"), "{what}, {module}: {text}");
            if rules.is_none() {
                assert!(begun.elapsed() < Duration::from_secs(3), "{what}, {module}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_says() {
    let server = NameServer::local(|question| match &*question.name {
        "kept.test" => Reply::Addresses(3600, vec![V4]),
        "fleeting.test" => Reply::Addresses(0, vec![V4]),
        _ => Reply::Missing(60),
    });
    let module = Module { preferred_family: Family::V4, ..asking(&server) };
    let (_listener, port) = open_port();
    let prober = Prober::default();
    for (name, questions) in [("kept.test", 1), ("fleeting.test", 5), ("missing.test", 2)] {
        let before = server.asked();
        for _ in 0..5 {
            probe_with(&prober, &format!("{name}:{port}"), &module, TIMEOUT).await;
        }
        assert_eq!(server.asked() - before, questions, "{name}");
    }
}

#[tokio::test]
async fn names_that_nobody_answers_for_delay_nobody_else() {
    let server = NameServer::local(|question| match &*question.name {
        "alive.test" => Reply::Addresses(0, vec![V4]),
        _ => Reply::Silence,
    });
    let prober = std::sync::Arc::new(Prober::default());
    let module = asking(&server);
    let (_listener, port) = open_port();
    let mut dead = JoinSet::new();
    for index in 0..300 {
        let (prober, module) = (prober.clone(), module.clone());
        dead.spawn(async move {
            probe_with(&prober, &format!("dead-{index}.test:{port}"), &module, TIMEOUT).await
        });
    }
    while server.asked() < 300 {
        tokio::task::yield_now().await;
    }

    for target in [format!("alive.test:{port}"), format!("127.0.0.1:{port}")] {
        let result = probe_with(&prober, &target, &module, TIMEOUT).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    }
    let local = Module { preferred_family: Family::V4, ..Module::connect("m") };
    let result = probe_with(&prober, &format!("localhost:{port}"), &local, TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");

    assert!(dead.try_join_next().is_none(), "the dead ones were to wait still");
}

#[tokio::test]
async fn the_systems_resolver_has_its_reasons_too() {
    let module =
        Module { resolver: Resolver::System, preferred_family: Family::V4, ..Module::connect("m") };
    let (_listener, port) = open_port();
    let result = probe(&format!("localhost:{port}"), &module, TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
}

#[test]
fn names_are_completed_as_the_system_does() {
    if !Netns::available("names_are_completed_as_the_system_does") {
        return;
    }
    let host = Netns::new("names");
    // `ip netns exec` puts these files over those of /etc.
    let etc = host.etc();
    std::fs::write(etc.join("hosts"), "127.0.0.5 InHosts # comment\n::1 six\n").unwrap();
    let conf = "search first.test second.test\noptions ndots:2\nnameserver 127.0.0.1\n";
    std::fs::write(etc.join("resolv.conf"), conf).unwrap();
    let answer = |ip: [u8; 4]| Reply::Addresses(60, vec![IpAddr::from(ip)]);
    let _server = host.within(|| {
        NameServer::at("127.0.0.1:53".parse().unwrap(), move |question| match &*question.name {
            "short.second.test" => answer([127, 0, 0, 6]),
            "a.dot.first.test" => answer([127, 0, 0, 7]),
            "two.dots.test" => answer([127, 0, 0, 8]),
            "inhosts.first.test" => answer([127, 0, 0, 9]),
            "late.third.test" => answer([127, 0, 0, 10]),
            _ => Reply::Code(3),
        })
    });
    let peer = host.within(|| {
        Listener::serve("[::]:0".parse().unwrap(), harness::listener::Visitor::read_to_end)
    });
    let exporter = Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter"))
        .netns(&host)
        .flag("--log.prober=debug")
        .start();
    let reached = |name: &str| {
        let target = format!("{name}:{}", peer.port());
        let text = exporter.get(&format!("/probe?debug=true&target={target}")).text();
        let connecting = text.split("connecting to ").nth(1).map(|rest| {
            rest.split('"').next().unwrap().split_whitespace().next().unwrap().to_owned()
        });
        (connecting, text)
    };
    for (name, ip) in [
        ("inhosts", "127.0.0.5"),
        ("INHOSTS", "127.0.0.5"),
        ("six", "[::1]"),
        ("short", "127.0.0.6"),
        ("a.dot", "127.0.0.7"),
        ("two.dots.test", "127.0.0.8"),
        ("two.dots.test.", "127.0.0.8"),
    ] {
        let (connecting, text) = reached(name);
        assert_eq!(connecting, Some(format!("{ip}:{}", peer.port())), "{name}: {text}");
    }
    let (connecting, text) = reached("short.");
    assert_eq!(connecting, None, "{text}");
    assert!(text.contains("dns_nxdomain"), "{text}");

    // Both files are looked at again.
    std::fs::write(etc.join("hosts"), "127.0.0.11 inhosts\n").unwrap();
    std::fs::write(etc.join("resolv.conf"), "search third.test\nnameserver 127.0.0.1\n").unwrap();
    for (name, ip) in [("inhosts", "127.0.0.11"), ("late", "127.0.0.10")] {
        wait_until(TIMEOUT, || match reached(name) {
            (Some(reached_at), _) if reached_at == format!("{ip}:{}", peer.port()) => Ok(()),
            (_, text) => Err(text),
        });
    }
}
