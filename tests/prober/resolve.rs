//! What becomes of a name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Duration;

use harness::{Exporter, Listener, Netns, wait_until};
use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::{Address, Host};
use tcp_probe_exporter::module::{Family, Module, Resolver};
use tcp_probe_exporter::outcome::{Outcome, Phase, ProbeResult, Reason};
use tcp_probe_exporter::prober::journal::Journal;
use tcp_probe_exporter::prober::{Probe, Prober};
use tokio::task::JoinSet;

use crate::names::{Answer, NameServer};
use crate::{SILENCE, TIMEOUT, failure, probe};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn asking(server: &NameServer) -> Module {
    let resolver = Resolver::Servers(vec![server.address]);
    Module { resolver, ..Module::connect("m") }
}

fn open_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
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
    let server = NameServer::local(|name, _| match name {
        "missing.test" => Answer::Code(3),
        "broken.test" => Answer::Code(2),
        "secret.test" => Answer::Code(5),
        "empty.test" => Answer::Addresses(60, Vec::new()),
        "old_name.test" => Answer::Addresses(60, vec![V4]),
        _ => Answer::Silence,
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
}

#[tokio::test]
async fn the_family_rule() {
    let server = NameServer::local(|name, _| match name {
        "both.test" => Answer::Addresses(60, vec![V4, V6]),
        "four.test" => Answer::Addresses(60, vec![V4]),
        _ => Answer::Code(3),
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

#[tokio::test]
async fn a_family_that_nobody_answers_for_does_not_hide_the_other() {
    // Some name servers drop questions of a kind that they do not know.
    let server = NameServer::local(|_, family| match family {
        Family::V4 => Answer::Addresses(60, vec![V4]),
        Family::V6 => Answer::Silence,
    });
    let (_listener, port) = open_port();
    let timeout = SILENCE * 3;
    let result = probe(&format!("four.test:{port}"), &asking(&server), timeout).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_says() {
    let server = NameServer::local(|name, _| match name {
        "kept.test" => Answer::Addresses(3600, vec![V4]),
        "fleeting.test" => Answer::Addresses(0, vec![V4]),
        _ => Answer::Code(3),
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
    let server = NameServer::local(|name, _| match name {
        "alive.test" => Answer::Addresses(0, vec![V4]),
        _ => Answer::Silence,
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
    let etc = std::path::Path::new("/etc/netns").join(host.name());
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("hosts"), "127.0.0.5 InHosts # comment\n::1 six\n").unwrap();
    let conf = "search first.test second.test\noptions ndots:2\nnameserver 127.0.0.1\n";
    std::fs::write(etc.join("resolv.conf"), conf).unwrap();
    let answer = |ip: [u8; 4]| Answer::Addresses(60, vec![IpAddr::from(ip)]);
    let _server = host.within(|| {
        NameServer::new("127.0.0.1:53".parse().unwrap(), move |name, _| match name {
            "short.second.test" => answer([127, 0, 0, 6]),
            "a.dot.first.test" => answer([127, 0, 0, 7]),
            "two.dots.test" => answer([127, 0, 0, 8]),
            "inhosts.first.test" => answer([127, 0, 0, 9]),
            "late.third.test" => answer([127, 0, 0, 10]),
            _ => Answer::Code(3),
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
        let connecting = text
            .split("connecting to ")
            .nth(1)
            .map(|it| it.split('"').next().unwrap().split_whitespace().next().unwrap().to_owned());
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
            (Some(it), _) if it == format!("{ip}:{}", peer.port()) => Ok(()),
            (_, text) => Err(text),
        });
    }
    std::fs::remove_dir_all(etc).unwrap();
}
