//! Where paths end, over routers of our own.

use std::net::IpAddr;

use tcp_probe_exporter::outcome::IcmpError;
use tcp_probe_exporter::path::{Path, PathEnd};

use crate::chain::{Chain, ROUTERS};
use crate::{chain, runs};

/// The near ends of the routers, as a trace sees them.
fn routers(v6: bool, count: usize) -> Vec<Option<IpAddr>> {
    let address = |link| if v6 { format!("fd20:{link}::2") } else { format!("10.20.{link}.2") };
    (0..count).map(|link| Some(address(link).parse().unwrap())).collect()
}

fn addresses(path: &Path) -> Vec<Option<IpAddr>> {
    path.hops.iter().map(|hop| hop.map(|router| router.address)).collect()
}

/// Traces over IPv4 and IPv6 and compares routers and end.
#[track_caller]
fn check(chain: &Chain, count: usize, end: impl Fn(bool) -> PathEnd) {
    for v6 in [false, true] {
        let path = chain.trace(Chain::target(v6));
        assert_eq!(addresses(&path), routers(v6, count), "IPv6 {v6}: {path} {path:?}");
        assert_eq!(path.end, end(v6), "IPv6 {v6}: {path}");
    }
}

/// The ICMP error of a router, by its place in the chain.
fn icmp(v6: bool, router: usize, v4_kind: (u8, u8), v6_kind: (u8, u8)) -> PathEnd {
    let (kind, code) = if v6 { v6_kind } else { v4_kind };
    let offender = routers(v6, router + 1)[router];
    PathEnd::Rejected(IcmpError { offender, kind, code })
}

#[test]
fn path_names_every_router_each_time() {
    let Some(chain) = chain("path_names_every_router_each_time") else { return };
    for _ in 0..runs(5) {
        check(&chain, ROUTERS, |_| PathEnd::Refused);
    }
}

#[test]
fn path_needs_no_privileges() {
    let Some(chain) = chain("path_needs_no_privileges") else { return };
    for v6 in [false, true] {
        let (target, binary) =
            (Chain::target(v6).to_string(), env!("CARGO_BIN_EXE_tcp_probe_exporter"));
        #[rustfmt::skip]
        let output = std::process::Command::new("ip")
            .args(["netns", "exec", chain.hosts[0].name(), "setpriv", "--reuid=65534", "--regid=65534"])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
            .args([binary, "probe", "--trace", "--json", &target])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["reason"], "refused", "{found}");
        let seen: Vec<_> = found["path"]["hops"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hop| hop["address"].as_str().map(|text| text.parse().unwrap()))
            .collect();
        assert_eq!(seen, routers(v6, ROUTERS), "{found}");
        assert_eq!(found["path"]["end"], "refused", "{found}");
    }
}

#[test]
fn path_ends_at_the_router_that_drops() {
    let Some(chain) = chain("path_ends_at_the_router_that_drops") else { return };
    chain.hosts[2].nft(
        "table inet t { chain forward { type filter hook forward priority 0; \
         meta l4proto tcp drop; }; }",
    );
    // The router still answers for itself, before it would forward.
    check(&chain, 2, |_| PathEnd::Silent);
}

#[test]
fn path_names_the_router_that_rejects() {
    let Some(chain) = chain("path_names_the_router_that_rejects") else { return };
    chain.hosts[2].nft(
        "table inet t { chain forward { type filter hook forward priority 0; \
         meta l4proto tcp reject with icmpx type admin-prohibited; }; }",
    );
    check(&chain, 2, |v6| icmp(v6, 1, (3, 13), (1, 1)));
}

#[test]
fn path_names_the_router_without_a_route() {
    let Some(chain) = chain("path_names_the_router_without_a_route") else { return };
    let last = &chain.hosts[2];
    last.run(&["ip", "route", "del", "10.20.3.0/24"]);
    last.run(&["ip", "-6", "route", "del", "fd20:3::/64"]);
    // It looks for a route before it counts the hop.
    check(&chain, 1, |v6| icmp(v6, 1, (3, 0), (1, 0)));
}

#[test]
fn path_says_where_packets_go_round() {
    let Some(chain) = chain("path_says_where_packets_go_round") else { return };
    let router = &chain.hosts[3];
    // The last router sends back what is for the target.
    router.run(&["ip", "route", "add", "10.20.3.2/32", "via", "10.20.2.1"]);
    router.run(&["ip", "route", "add", "fd20:3::2/128", "via", "fd20:2::1"]);
    for host in &chain.hosts {
        host.run(&["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0"]);
    }
    for v6 in [false, true] {
        let path = chain.trace(Chain::target(v6));
        assert_eq!(path.end, PathEnd::Loop, "{path} {path:?}");
        assert_eq!(addresses(&path)[..3], routers(v6, 3)[..], "{path:?}");
        assert!(path.hops.len() <= 9, "{path:?}");
    }
}

#[test]
fn path_goes_through_address_translation() {
    let Some(chain) = chain("path_goes_through_address_translation") else { return };
    chain.hosts[1].nft(&format!(
        "table inet t {{ chain post {{ type nat hook postrouting priority 100; \
         oifname \"{}\" masquerade; }}; }}",
        chain.devices[1]
    ));
    check(&chain, ROUTERS, |_| PathEnd::Refused);
}

#[test]
fn silent_router_is_a_gap_and_not_the_end() {
    let Some(chain) = chain("silent_router_is_a_gap_and_not_the_end") else { return };
    chain.hosts[2].nft(
        "table inet t { chain output { type filter hook output priority 0; \
         icmp type time-exceeded drop; icmpv6 type time-exceeded drop; }; }",
    );
    for v6 in [false, true] {
        let path = chain.trace(Chain::target(v6));
        let mut expected = routers(v6, ROUTERS);
        expected[1] = None;
        assert_eq!(addresses(&path), expected, "{path:?}");
        assert_eq!(path.end, PathEnd::Refused, "{path:?}");
    }
}

#[test]
fn open_port_ends_the_path_as_open() {
    let Some(chain) = chain("open_port_ends_the_path_as_open") else { return };
    let target = &chain.hosts[ROUTERS + 1];
    let listeners: Vec<_> = [false, true]
        .map(|v6| target.within(|| std::net::TcpListener::bind(Chain::target(v6)).unwrap()))
        .into();
    check(&chain, ROUTERS, |_| PathEnd::Open);
    drop(listeners);
}

#[test]
fn path_without_a_route_here_is_unknown() {
    let Some(chain) = chain("path_without_a_route_here_is_unknown") else { return };
    let path = chain.trace("198.51.100.1:443".parse().unwrap());
    assert_eq!(path.end, PathEnd::Local(libc::ENETUNREACH), "{path}");
    assert!(path.hops.is_empty(), "{path:?}");
}
