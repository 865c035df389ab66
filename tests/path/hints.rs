//! What counter-checks point at, and that they point at nothing where nothing is to be found.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use harness::listener::{FullBacklog, Visitor};
use harness::{Listener, Netns};
use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::Address;
use tcp_probe_exporter::explainer::look::{self, Failure};
use tcp_probe_exporter::explanation::{Explanation, FLOWS, Hint, Question};
use tcp_probe_exporter::module::pattern::Pattern;
use tcp_probe_exporter::module::{Expect, Module, Step};
use tcp_probe_exporter::prober::{Probe, Prober};

use crate::chain::{Chain, ROUTERS};
use crate::{chain, runs};

/// Counter-checks of a failure at `peer`, as seen from inside `netns`.
fn explain(
    netns: &Netns,
    question: Question,
    peer: SocketAddr,
    module: &Module,
    others: &[u16],
) -> Explanation {
    netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let access = Access::default();
        let address_of =
            |port| Address::parse(&SocketAddr::new(peer.ip(), port).to_string()).unwrap();
        let (address, timeout) = (address_of(peer.port()), Duration::from_secs(4));
        let addresses: Vec<Address> = others.iter().map(|&port| address_of(port)).collect();
        let connect = Module::connect("tcp_connect");
        let probe =
            |address, module| Probe { address, module, hostname: None, timeout, access: &access };
        let others: Vec<Probe<'_>> =
            addresses.iter().map(|address| probe(address, &connect)).collect();
        let failure = Failure { question, peer, probe: probe(&address, module), others: &others };
        let prober = Prober::default();
        let mut explanation = Explanation::default();
        let look = look::counter_check(&prober, &failure, &mut explanation);
        runtime.block_on(async {
            tokio::select! { () = look => {}, () = prober.run_beside() => {} }
        });
        for check in &explanation.checks {
            println!("{check}");
        }
        explanation
    })
}

fn connect() -> Module {
    Module::connect("tcp_connect")
}

/// Two equal ways from the first router: a monitor, the router, two routers beside each other, and
/// a target that answers over the second.
struct Fork {
    monitor: Netns,
    ways: [Netns; 2],
    target: Netns,
    _router: Netns,
}

impl Fork {
    const TARGET: &str = "10.30.9.9:443";

    fn new() -> Self {
        let [monitor, router, target] = ["mon", "fork", "tgt"].map(Netns::new);
        let ways = ["way1", "way2"].map(Netns::new);
        monitor.link(&router, &[("10.30.0.1/24", "10.30.0.2/24")]);
        router.link(&ways[0], &[("10.30.1.1/24", "10.30.1.2/24")]);
        router.link(&ways[1], &[("10.30.2.1/24", "10.30.2.2/24")]);
        ways[0].link(&target, &[("10.30.3.1/24", "10.30.3.2/24")]);
        ways[1].link(&target, &[("10.30.4.1/24", "10.30.4.2/24")]);
        for host in [&router, &ways[0], &ways[1], &target] {
            host.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"]);
        }
        // By address and port, on both sides of the router.
        router.run(&["sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=3"]);
        router.run(&["sysctl", "-qw", "net.ipv4.fib_multipath_hash_fields=0x37"]);
        monitor.ip("route add default via 10.30.0.2");
        router.ip("route add 10.30.9.9/32 nexthop via 10.30.1.2 nexthop via 10.30.2.2");
        ways[0].ip("route add 10.30.9.9/32 via 10.30.3.2\nroute add 10.30.0.0/24 via 10.30.1.1");
        ways[1].ip("route add 10.30.9.9/32 via 10.30.4.2\nroute add 10.30.0.0/24 via 10.30.2.1");
        target.ip("address add 10.30.9.9/32 dev lo\nroute add 10.30.0.0/24 via 10.30.4.1");
        Self { monitor, ways, target, _router: router }
    }

    fn listener(&self) -> Listener {
        self.target.within(|| Listener::serve(Self::TARGET.parse().unwrap(), Visitor::read_to_end))
    }

    fn explain(&self) -> Explanation {
        let peer = Self::TARGET.parse().unwrap();
        explain(&self.monitor, Question::Where, peer, &connect(), &[])
    }
}

const DROP: &str =
    "table inet t { chain f { type filter hook forward priority 0; meta l4proto tcp drop; }; }";

/// One packet in ten in this direction.
fn lossy(hook: &str) -> String {
    format!(
        "table inet t {{ chain c {{ type filter hook {hook} priority 0; \
         meta l4proto tcp numgen random mod 10 0 drop; }}; }}"
    )
}

#[test]
fn one_dead_way_of_two_is_a_partial_path_with_its_share() {
    let test = "one_dead_way_of_two_is_a_partial_path_with_its_share";
    if !Netns::available(test) {
        return;
    }
    let fork = Fork::new();
    let _listener = fork.listener();
    for _ in 0..runs(2) {
        assert_eq!(fork.explain().hint, None, "both are alive");
    }
    fork.ways[0].nft(DROP);
    let (mut dead_flows, mut flows) = (0, 0);
    for _ in 0..runs(2) {
        let (explanation, dead, of) = loop {
            let explanation = fork.explain();
            match explanation.hint {
                Some(Hint::PartialPath { dead, of }) => break (explanation, dead, of),
                // A machine too busy to look has nothing to tell.
                None if explanation.checks[1].asked * 3 < FLOWS * 2 => {}
                _ => panic!("{explanation:?}"),
            }
        };
        assert!(of * 3 >= FLOWS * 2, "{explanation:?}");
        (dead_flows, flows) = (dead_flows + dead, flows + of);
    }
    let share = f64::from(dead_flows) / f64::from(flows);
    assert!((0.1..=0.9).contains(&share), "{dead_flows} of {flows}");
    fork.ways[1].nft(DROP);
    assert_eq!(fork.explain().hint, None, "nothing passes, so nothing is partial");
}

#[test]
fn loss_is_no_hint() {
    let Some(chain) = chain("loss_is_no_hint") else { return };
    let peer = Chain::target(false);
    let target = &chain.hosts[ROUTERS + 1];
    let other = SocketAddr::new(peer.ip(), 22);
    let _listeners =
        [peer, other].map(|at| target.within(|| Listener::serve(at, Visitor::read_to_end)));
    chain.hosts[2].nft(&lossy("forward"));
    for run in 0..runs(2) {
        let explanation = explain(&chain.hosts[0], Question::Where, peer, &connect(), &[22]);
        assert_eq!(explanation.hint, None, "run {run}: {:?}", explanation.checks);
    }
}

#[test]
fn tiny_backlog_that_is_emptied_is_no_hint() {
    let Some(chain) = chain("tiny_backlog_that_is_emptied_is_no_hint") else { return };
    let peer = Chain::target(false);
    let accepting = chain.hosts[ROUTERS + 1].within(|| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&peer.into()).unwrap();
        socket.listen(1).unwrap();
        TcpListener::from(socket)
    });
    std::thread::spawn(move || accepting.incoming().for_each(drop));
    for run in 0..runs(2) {
        let explanation = explain(&chain.hosts[0], Question::Where, peer, &connect(), &[]);
        assert_eq!(explanation.hint, None, "run {run}: {:?}", explanation.checks);
    }
}

#[test]
fn port_that_is_dropped_while_another_answers_is_told() {
    let Some(chain) = chain("port_that_is_dropped_while_another_answers_is_told") else { return };
    let (peer, target) = (Chain::target(false), &chain.hosts[ROUTERS + 1]);
    let other = SocketAddr::new(peer.ip(), 22);
    let _other = target.within(|| Listener::serve(other, Visitor::read_to_end));
    let full = target.within(|| FullBacklog::at(peer));
    let found = explain(&chain.hosts[0], Question::Where, peer, &connect(), &[22]);
    assert_eq!(found.hint, Some(Hint::HostAnswersElsewhere(22)), "{found:?}");
    drop(full);

    chain.hosts[2].nft(DROP);
    let found = explain(&chain.hosts[0], Question::Where, peer, &connect(), &[22]);
    assert_eq!(found.hint, None, "no port answers: {found:?}");
}

/// Expects the end of what a service sends.
fn until_the_end() -> Module {
    let expect = Expect::Stream(Pattern::parse("the end").unwrap());
    let steps = vec![Step { expect: Some(expect), ..Step::default() }];
    Module { query_response: steps, ..connect() }
}

/// A link whose far end sends packets that do not fit, and is not told so.
fn black_hole(chain: &Chain) {
    let (router, target) = (&chain.hosts[ROUTERS], &chain.hosts[ROUTERS + 1]);
    // What comes as one large piece within a machine is cut as on a wire.
    target.ip(&format!("link set {} gso_max_size 1500", chain.devices[ROUTERS]));
    router.ip(&format!("link set {} mtu 1300", chain.devices[ROUTERS - 1]));
    chain.hosts[ROUTERS - 1].ip(&format!("link set {} mtu 1300", chain.devices[ROUTERS - 1]));
    router.nft(
        "table inet t { chain o { type filter hook output priority 0; \
         icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }",
    );
}

#[test]
fn mtu_black_hole_is_told_from_a_service_that_hangs() {
    let Some(chain) = chain("mtu_black_hole_is_told_from_a_service_that_hangs") else { return };
    black_hole(&chain);
    for v6 in [false, true] {
        let peer = Chain::target(v6);
        let hanging = SocketAddr::new(peer.ip(), 8443);
        let target = &chain.hosts[ROUTERS + 1];
        let _listeners = target.within(|| {
            let talking = Listener::serve(peer, |visitor| {
                visitor.write(&[b'x'; 4500]);
                visitor.write(b"\nthe end\n");
                visitor.read_to_end();
            });
            [talking, Listener::serve(hanging, Visitor::read_to_end)]
        });
        let question = Question::WhichSize;
        let found = explain(&chain.hosts[0], question, peer, &until_the_end(), &[]);
        assert_eq!(found.hint, Some(Hint::MtuBlackHole), "IPv6 {v6}: {found:?}");
        let found = explain(&chain.hosts[0], question, hanging, &until_the_end(), &[]);
        assert_eq!(found.hint, None, "IPv6 {v6}: {found:?}");
        let found = explain(&chain.hosts[0], question, peer, &connect(), &[]);
        assert_eq!(found.hint, None, "it succeeds as it is: {found:?}");
    }
}
