//! What a stranger's zone can make the exporter keep.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use harness::listener::Visitor;
use harness::name_server::{A, Reply};
use harness::{Exporter, Listener, NameServer, Netns};

use crate::{EXPORTER, MIB, memory};

const NAMES: usize = 400;
const ADDRESSES: u16 = 4000;

#[test]
fn names_with_thousands_of_addresses_leave_little_behind() {
    let many = |number: u16| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([127, 9, high, low])
    };
    let many: Vec<_> = (0..ADDRESSES).map(many).collect();
    let dns = NameServer::local(move |question| match question.kind {
        A => Reply::Truncated(Box::new(Reply::Addresses(3600, many.clone()))),
        _ => Reply::Missing(3600),
    });
    let exporter = Exporter::new(EXPORTER)
        .config(&format!(
            "modules: {{m: {{prober: tcp, timeout: 5s, tcp: {{preferred_ip_protocol: ip4, resolver: ['{}']}}}}}}\n\
             access: {{allow: ['192.0.2.0/24']}}\n",
            dns.address()
        ))
        .start();
    let ask = |name: usize| {
        let response = exporter.get(&format!("/probe?module=m&target={name}.flood.test:1"));
        assert_eq!(response.status, 403, "{}", response.text());
    };
    (0..20).for_each(ask);
    let before = memory(&exporter);
    (20..NAMES).for_each(ask);
    let grown = memory(&exporter).saturating_sub(before);
    eprintln!("{NAMES} names of {ADDRESSES} addresses: {} KiB more resident", grown / 1024);
    assert!(dns.asked() >= NAMES, "{} questions", dns.asked());
    assert!(grown < 16 * MIB, "{} MiB", grown / MIB);
}

/// One truncated answer, TCP cut in the middle, one datagram of garbage. UDP is well throughout.
#[test]
fn one_dead_connection_to_a_name_server_hides_no_target() {
    const TEST: &str = "one_dead_connection_to_a_name_server_hides_no_target";
    const ROUNDS: usize = 20;
    if !Netns::available(TEST) {
        return;
    }
    let (near, far) = (Netns::new("cut-near"), Netns::new("cut-far"));
    near.link(&far, &[("10.96.0.1/24", "10.96.0.2/24")]);
    let here = IpAddr::from([10, 96, 0, 2]);
    let dns = far.within(|| {
        NameServer::at("10.96.0.2:53".parse().expect("an address"), move |question| {
            match (&*question.name, question.kind) {
                ("long.test", _) => Reply::Truncated(Box::new(Reply::address(here))),
                ("garbage.test", _) => Reply::Bytes(vec![0xff; 600]),
                (_, A) => Reply::address(here),
                _ => Reply::Addresses(0, Vec::new()),
            }
        })
    });
    let target = far.within(|| {
        Listener::serve("10.96.0.2:0".parse().expect("an address"), Visitor::read_to_end)
    });
    let exporter = Exporter::new(EXPORTER)
        .config(
            "modules: {m: {prober: tcp, timeout: 2s, tcp: {preferred_ip_protocol: ip4, \
             resolver: ['10.96.0.2:53']}}}\n",
        )
        .netns(&near)
        .start();
    let probe = |name: &str| {
        exporter.get(&format!("/probe?module=m&target={name}:{}", target.port())).text()
    };
    let well = |name: &str| probe(name).contains("probe_success 1");
    assert!(well("long.test"), "over TCP, while it is well");
    far.nft(
        "table inet cut { chain input { type filter hook input priority 0;\n\
         tcp dport 53 drop;\n}; }",
    );
    for name in ["long.test", "garbage.test", "long.test"] {
        let _ = probe(name);
    }
    let begin = Instant::now();
    let seen = (0..ROUNDS).filter(|round| well(&format!("well{round}.test"))).count();
    let took = begin.elapsed();
    eprintln!("TCP to the name server cut: {seen} of {ROUNDS} names seen, {took:.1?} in all");
    assert_eq!(seen, ROUNDS, "{}", probe("well.test"));
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(dns.asked() > ROUNDS);
}
