//! Every way in which a connect can fail, made for real between hosts of our own: near, where the
//! probe runs; a router with a firewall; far, where the services are. IPv4 and IPv6 alike.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::listener::Visitor;
use harness::{Listener, Netns};
use tcp_probe_exporter::module::{Module, Resolver};
use tcp_probe_exporter::outcome::{IcmpError, Outcome, Phase, ProbeResult, Reason};

use crate::{SILENCE, TIMEOUT, failure, probe};

/// Three hosts in a row. The network 10.97.0.0/24 (`fd00:97::/64`) is known to near only, through
/// the router.
struct World {
    near: Netns,
    router: Netns,
    far: Netns,
}

/// One IP version of the world.
#[derive(Clone, Copy, Debug)]
struct Plan {
    near: IpAddr,
    router: IpAddr,
    far: IpAddr,
    /// Beside near, without anybody who has it.
    dead_neighbour: IpAddr,
    /// Behind the router, which does not know the way.
    unknown: IpAddr,
    /// What `nft` calls the version's ICMP.
    icmp: &'static str,
    /// Type and code of port unreachable, administratively prohibited, no route, no neighbour.
    codes: [(u8, u8); 4],
    prohibited_errno: i32,
}

fn plans() -> [Plan; 2] {
    let ip = |it: &str| it.parse().unwrap();
    [
        Plan {
            near: ip("10.99.0.1"),
            router: ip("10.99.0.2"),
            far: ip("10.98.0.2"),
            dead_neighbour: ip("10.99.0.9"),
            unknown: ip("10.97.0.1"),
            icmp: "icmp",
            codes: [(3, 3), (3, 13), (3, 0), (3, 1)],
            prohibited_errno: libc::EHOSTUNREACH,
        },
        Plan {
            near: ip("fd00:99::1"),
            router: ip("fd00:99::2"),
            far: ip("fd00:98::2"),
            dead_neighbour: ip("fd00:99::9"),
            unknown: ip("fd00:97::1"),
            icmp: "icmpv6",
            codes: [(1, 4), (1, 1), (1, 0), (1, 3)],
            prohibited_errno: libc::EACCES,
        },
    ]
}

impl World {
    /// `None` where namespaces cannot be made; said loudly.
    fn new(test: &str) -> Option<Self> {
        if !Netns::available(test) {
            return None;
        }
        let world =
            Self { near: Netns::new("near"), router: Netns::new("router"), far: Netns::new("far") };
        let Self { near, router, far } = &world;
        near.link(router, &[("10.99.0.1/24", "10.99.0.2/24"), ("fd00:99::1/64", "fd00:99::2/64")]);
        far.link(router, &[("10.98.0.2/24", "10.98.0.1/24"), ("fd00:98::2/64", "fd00:98::1/64")]);
        near.run(&["ip", "route", "add", "default", "via", "10.99.0.2"]);
        near.run(&["ip", "-6", "route", "add", "default", "via", "fd00:99::2"]);
        far.run(&["ip", "route", "add", "default", "via", "10.98.0.1"]);
        far.run(&["ip", "-6", "route", "add", "default", "via", "fd00:98::1"]);
        for switch in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            router.run(&["sysctl", "-q", "-w", switch]);
        }
        // Routers limit how many errors they send; a test asks for more in a second than a host.
        router.run(&["sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0"]);
        router.run(&["sysctl", "-q", "-w", "net.ipv6.icmp.ratelimit=0"]);
        Some(world)
    }
}

/// Probes from inside a host.
fn probe_from(netns: &Netns, peer: SocketAddr, module: &Module, timeout: Duration) -> ProbeResult {
    netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(probe(&peer.to_string(), module, timeout))
    })
}

fn connect() -> Module {
    Module::connect("m")
}

#[track_caller]
fn check(
    result: &ProbeResult,
    reason: Reason,
    errno: Option<i32>,
    icmp: Option<((u8, u8), IpAddr)>,
) {
    assert_eq!(result.outcome, Outcome::because(reason, Phase::Connect), "{result:?}");
    assert_eq!(result.errno, errno, "{result:?}");
    let icmp = icmp.map(|((kind, code), ip)| IcmpError { offender: Some(ip), kind, code });
    assert_eq!(result.icmp, icmp, "{result:?}");
    assert_eq!(result.phases.connect, None);
}

#[test]
fn what_the_network_answers() {
    let Some(world) = World::new("what_the_network_answers") else { return };
    let World { near, router, far } = &world;
    for plan in plans() {
        let service = far.within(|| Listener::serve((plan.far, 0).into(), Visitor::read_to_end));
        let open = service.address();
        let module = connect();

        let result = probe_from(near, open, &module, TIMEOUT);
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        assert!(result.kernel.unwrap().rtt.is_some());

        let result = probe_from(near, (plan.far, 1).into(), &module, TIMEOUT);
        check(&result, Reason::Refused, Some(libc::ECONNREFUSED), None);

        let [port, prohibited, no_route, _] = plan.codes;
        for (answer, reason, errno, code) in [
            ("port-unreachable", Reason::Rejected, libc::ECONNREFUSED, port),
            ("admin-prohibited", Reason::Prohibited, plan.prohibited_errno, prohibited),
        ] {
            router.nft(&format!(
                "table inet t {{ chain c {{ type filter hook forward priority 0; \
                 tcp dport {} reject with {} type {answer}; }}; }}",
                open.port(),
                plan.icmp
            ));
            let result = probe_from(near, open, &module, TIMEOUT);
            check(&result, reason, Some(errno), Some((code, plan.router)));
            router.nft("delete table inet t");
        }

        let result = probe_from(near, (plan.unknown, 1).into(), &module, TIMEOUT);
        let expected = Some((no_route, plan.router));
        check(&result, Reason::NetUnreachable, Some(libc::ENETUNREACH), expected);

        router.nft(
            "table inet t { chain c { type filter hook forward priority 0; \
             meta l4proto tcp drop; }; }",
        );
        let result = probe_from(near, open, &module, SILENCE);
        check(&result, Reason::Timeout, None, None);
        assert!(result.kernel.unwrap().syn_retransmits >= 1, "{result:?}");
        assert!(result.duration >= SILENCE);
        router.nft("delete table inet t");
    }
}

#[test]
fn a_neighbour_that_is_not_there() {
    let Some(world) = World::new("a_neighbour_that_is_not_there") else { return };
    let World { near, .. } = &world;
    for plan in plans() {
        let result = probe_from(near, (plan.dead_neighbour, 1).into(), &connect(), TIMEOUT);
        let expected = Some((plan.codes[3], plan.near));
        check(&result, Reason::HostUnreachable, Some(libc::EHOSTUNREACH), expected);
    }
}

#[test]
fn our_own_firewall_is_not_the_targets_fault() {
    let Some(world) = World::new("our_own_firewall_is_not_the_targets_fault") else { return };
    let World { near, far, .. } = &world;
    for plan in plans() {
        let service = far.within(|| Listener::serve((plan.far, 0).into(), Visitor::read_to_end));
        for (answer, errno, code) in [
            ("port-unreachable", libc::ECONNREFUSED, plan.codes[0]),
            ("admin-prohibited", plan.prohibited_errno, plan.codes[1]),
        ] {
            near.nft(&format!(
                "table inet t {{ chain c {{ type filter hook output priority 0; \
                 meta l4proto tcp reject with {} type {answer}; }}; }}",
                plan.icmp
            ));
            let result = probe_from(near, service.address(), &connect(), TIMEOUT);
            check(&result, Reason::LocalFirewall, Some(errno), Some((code, plan.near)));
            near.nft("delete table inet t");
        }
    }
}

#[test]
fn no_way_out_of_here_is_not_the_targets_fault() {
    if !Netns::available("no_way_out_of_here_is_not_the_targets_fault") {
        return;
    }
    let island = Netns::new("island");
    for (kind, errno, reason) in [
        ("", libc::ENETUNREACH, Reason::LocalNoRoute),
        ("unreachable", libc::EHOSTUNREACH, Reason::LocalNoRoute),
        ("blackhole", libc::EINVAL, Reason::LocalNoRoute),
        ("prohibit", libc::EACCES, Reason::LocalNoRoute),
    ] {
        for (version, network, peer) in
            [("-4", "192.0.2.0/24", "192.0.2.1:1"), ("-6", "2001:db8::/32", "[2001:db8::1]:1")]
        {
            if !kind.is_empty() {
                island.run(&["ip", version, "route", "replace", kind, network]);
            }
            let result = probe_from(&island, peer.parse().unwrap(), &connect(), TIMEOUT);
            check(&result, reason, Some(errno), None);
        }
    }
}

#[test]
fn ports_that_ran_out_are_not_the_targets_fault() {
    let Some(world) = World::new("ports_that_ran_out_are_not_the_targets_fault") else { return };
    let World { near, far, .. } = &world;
    near.run(&["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40003"]);
    for plan in plans() {
        let service = far.within(|| Listener::serve((plan.far, 0).into(), Visitor::read_to_end));
        let other = far.within(|| Listener::serve((plan.far, 0).into(), Visitor::read_to_end));
        let taken: Vec<_> = near.within(|| {
            std::iter::from_fn(|| std::net::TcpStream::connect(service.address()).ok()).collect()
        });
        assert!(!taken.is_empty());

        let result = probe_from(near, service.address(), &connect(), TIMEOUT);
        check(&result, Reason::LocalResources, Some(libc::EADDRNOTAVAIL), None);

        // Each target has all ports, also when a source address is bound.
        let module = Module { source_address: Some(plan.near.to_string()), ..connect() };
        let result = probe_from(near, other.address(), &module, TIMEOUT);
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    }
}

#[test]
fn a_service_that_is_slow_to_accept_costs_syns() {
    let Some(world) = World::new("a_service_that_is_slow_to_accept_costs_syns") else { return };
    let World { near, far, .. } = &world;
    for plan in plans() {
        let listener = far.within(|| {
            let domain = socket2::Domain::for_address((plan.far, 0).into());
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((plan.far, 0)).into()).unwrap();
            socket.listen(0).unwrap();
            std::net::TcpListener::from(socket)
        });
        let peer = listener.local_addr().unwrap();
        // Counted for IPv4 and IPv6 together.
        let overflows = || {
            let counters = far.run(&["nstat", "-asz", "TcpExtListenOverflows"]);
            let count = counters.lines().last().and_then(|it| it.split_whitespace().nth(1));
            count.and_then(|it| it.parse::<u64>().ok()).unwrap_or_else(|| panic!("{counters}"))
        };
        let before = overflows();
        // A backlog of 0 has room for one.
        let _queued = near.within(|| std::net::TcpStream::connect(peer).unwrap());
        let probed = std::thread::scope(|scope| {
            let probe = scope.spawn(|| probe_from(near, peer, &connect(), TIMEOUT));
            // The first SYN is dropped at once; once that is counted, room is made.
            harness::wait_until(TIMEOUT, || match overflows() {
                now if now > before => Ok(()),
                now => Err(format!("{now} overflows")),
            });
            drop(listener.accept().unwrap());
            probe.join().unwrap()
        });
        assert_eq!(probed.outcome, Outcome::Success, "{probed:?}");
        let kernel = probed.kernel.unwrap();
        assert!(kernel.syn_retransmits >= 1, "{kernel:?}");
        assert!(probed.phases.connect.unwrap() >= Duration::from_millis(900), "{probed:?}");
        assert_eq!(probed.latency(), probed.phases.connect);
    }
}

#[test]
fn a_service_that_accepts_and_hangs_up() {
    let Some(world) = World::new("a_service_that_accepts_and_hangs_up") else { return };
    let World { near, far, .. } = &world;
    let module = Module { hold: Some(TIMEOUT), ..connect() };
    for plan in plans() {
        let closing = far.within(|| Listener::serve((plan.far, 0).into(), |_| ()));
        let result = probe_from(near, closing.address(), &module, TIMEOUT);
        assert_eq!(result.outcome, failure(Reason::ClosedEarly, Phase::Dialogue), "{result:?}");
        let resetting = far.within(|| Listener::serve((plan.far, 0).into(), Visitor::reset));
        let result = probe_from(near, resetting.address(), &module, TIMEOUT);
        let reason = result.outcome.cause().map(|(reason, _)| reason);
        assert_eq!(reason, Some(Reason::Reset), "{result:?}");
    }
}

#[test]
fn no_way_to_a_name_server_is_not_the_names_fault() {
    if !Netns::available("no_way_to_a_name_server_is_not_the_names_fault") {
        return;
    }
    let island = Netns::new("island");
    for server in ["192.0.2.53:53", "[2001:db8::53]:53"] {
        let resolver = Resolver::Servers(vec![server.parse().unwrap()]);
        let module = Module { resolver, ..connect() };
        let result = island.within(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(probe("any.test:1", &module, TIMEOUT))
        });
        let expected = Outcome::Inconclusive(Reason::LocalResolver, Phase::Resolve);
        assert_eq!(result.outcome, expected, "{result:?}");
        assert_eq!(result.errno, Some(libc::ENETUNREACH));
    }
}
