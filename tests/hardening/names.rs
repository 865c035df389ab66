//! What a stranger's zone can make the exporter keep.

use std::net::IpAddr;

use harness::name_server::{A, Reply};
use harness::{Exporter, NameServer};

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
