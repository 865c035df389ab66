use std::net::Ipv6Addr;

use super::*;
use crate::circumstances::{Clock, Way};
use crate::evidence::{Sleep, Transfer};

const TIMEOUT: Duration = Duration::from_secs(3);
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

/// A situation, what a probe saw in it, and what is to be said.
struct Row {
    name: String,
    seen: Evidence,
    ours: Circumstances,
    expected: String,
    rests_on_sight: bool,
}

fn seen(phase: Phase, event: Event) -> Evidence {
    Evidence { peer: Some(PEER), timeout: TIMEOUT, ..Evidence::of(event, phase) }
}

fn connect(event: Event) -> Evidence {
    seen(Phase::Connect, event)
}

fn icmp(kind: u8, code: u8) -> Event {
    Event::Icmp(IcmpError { offender: Some(ROUTER), kind, code })
}

fn ours() -> Circumstances {
    Circumstances::default()
}

fn way(neighbour: Neighbour) -> Way {
    Way {
        route: Route::Out,
        link_is_up: true,
        interface: 2,
        gateway: Some(ROUTER),
        source: None,
        neighbour,
    }
}

fn over(way: Way) -> Circumstances {
    Circumstances { way: Some(way), ..ours() }
}

fn on_link(neighbour: Neighbour) -> Circumstances {
    over(Way { gateway: None, ..way(neighbour) })
}

fn nowhere() -> Circumstances {
    over(Way { route: Route::Nowhere, gateway: None, ..way(Neighbour::Unknown) })
}

fn no_carrier() -> Circumstances {
    over(Way { link_is_up: false, ..way(Neighbour::Known) })
}

fn cut_off() -> Circumstances {
    Circumstances { sight: Sight::CutOff, ..ours() }
}

fn ours_by_icmp(base: Circumstances) -> Circumstances {
    Circumstances { icmp_is_ours: true, ..base }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn slept(seen: Evidence, long: u64, all: u64) -> Evidence {
    Evidence { sleep: Sleep { long: millis(long), all: millis(all) }, ..seen }
}

fn expecting(expect: ExpectConnect, seen: Evidence) -> Evidence {
    Evidence { expect, ..seen }
}

/// Bytes of ours were taken, and nothing is under way.
const TAKEN: Transfer = Transfer {
    unacked: 0,
    resent_out: 0,
    resent: 0,
    backoff: 0,
    acknowledged: 6,
    unsent: 0,
    window: 1000,
    out_of_order: 0,
};
/// Bytes of ours are sent again and again.
const SWALLOWED: Transfer =
    Transfer { unacked: 1, resent_out: 1, resent: 3, backoff: 2, acknowledged: 1, ..TAKEN };
/// SYNs that were sent again.
const SYNS: Transfer =
    Transfer { unacked: 1, resent_out: 1, resent: 2, backoff: 0, acknowledged: 0, ..TAKEN };

fn moving(transfer: Transfer, seen: Evidence) -> Evidence {
    Evidence { transfer: Some(transfer), ..seen }
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn row(&mut self, name: &str, seen: Evidence, ours: Circumstances, expected: &str) {
        let blind = expected.strip_prefix('~');
        self.0.push(Row {
            name: name.to_owned(),
            seen,
            ours,
            expected: blind.unwrap_or(expected).to_owned(),
            rests_on_sight: blind.is_some(),
        });
    }
}

/// `~` before what is said: it would be another if this machine saw nobody.
fn table() -> Vec<Row> {
    let mut table = Table::default();
    before_the_network(&mut table);
    names(&mut table);
    handshake(&mut table);
    link(&mut table);
    firewall(&mut table);
    expectations(&mut table);
    after_the_handshake(&mut table);
    certificates(&mut table);
    sleep(&mut table);
    sight(&mut table);
    table.0
}

fn before_the_network(table: &mut Table) {
    for (name, event, expected) in [
        ("no target", Event::InvalidTarget, "invalid_target/resolve"),
        ("access rules", Event::Denied, "local_denied/resolve"),
        ("a missing file", Event::Misconfigured, "local_config/resolve"),
        ("a bound of ours", Event::Exhausted, "local_resources/resolve"),
    ] {
        table.row(name, seen(Phase::Resolve, event), ours(), expected);
    }
    for (name, errno, expected) in [
        ("no route", libc::ENETUNREACH, "local_no_route/connect"),
        ("route of type unreachable", libc::EHOSTUNREACH, "local_no_route/connect"),
        ("route of type blackhole", libc::EINVAL, "local_no_route/connect"),
        ("no such interface", libc::ENODEV, "local_no_route/connect"),
        ("no IPv6 here", libc::EAFNOSUPPORT, "local_no_route/connect"),
        ("no permission", libc::EACCES, "local_resources/connect"),
        ("no descriptors", libc::EMFILE, "local_resources/connect"),
        ("no ports", libc::EADDRNOTAVAIL, "local_resources/connect"),
    ] {
        table.row(name, connect(Event::CallFailed(errno)), ours(), expected);
    }
    let prohibit = connect(Event::CallFailed(libc::EACCES));
    table.row("route of type prohibit", prohibit, nowhere(), "local_no_route/connect");
    let memory = connect(Event::Errno(libc::ENOMEM));
    table.row("no memory in the kernel", memory, ours(), "local_resources/connect");
    let memory = connect(Event::Errno(libc::ENOBUFS));
    table.row("no buffers in the kernel", memory, ours(), "local_resources/connect");
}

fn names(table: &mut Table) {
    for (name, lookup, expected) in [
        ("no such name", Lookup::NoSuchName, "~dns_nxdomain/resolve"),
        ("no address", Lookup::NoAddress, "~dns_no_address/resolve"),
        ("servers fail", Lookup::Failed, "~dns_failure/resolve"),
        ("servers silent", Lookup::Unanswered, "~dns_timeout/resolve"),
        ("no servers", Lookup::NoResolver, "local_resolver/resolve"),
    ] {
        table.row(name, seen(Phase::Resolve, Event::Lookup(lookup)), ours(), expected);
    }
    let late = Evidence { resolve: millis(1600), ..connect(Event::Silence) };
    table.row("the name ate the time", late, ours(), "~dns_timeout/resolve");
    let late = moving(Transfer { resent: 0, ..SYNS }, late);
    table.row("the name ate the time, one SYN", late, ours(), "~dns_timeout/resolve");
    let enough = moving(SYNS, late);
    table.row("slow name, and several SYNs", enough, ours(), "~timeout/connect");
    let quick = Evidence { resolve: TIMEOUT / 2, ..connect(Event::Silence) };
    table.row("the name took half of the time", quick, ours(), "~timeout/connect");
    let refused = Evidence { resolve: millis(1600), ..connect(Event::Errno(libc::ECONNREFUSED)) };
    table.row("slow name, then refused", refused, ours(), "refused/connect");
    let hung = Evidence { resolve: millis(1600), ..seen(Phase::Dialogue, Event::Silence) };
    table.row("slow name, then a service that hangs", hung, ours(), "~expect_timeout/dialogue");
}

fn handshake(table: &mut Table) {
    table.row(
        "no timeout at all",
        seen(Phase::Resolve, Event::Silence),
        ours(),
        "~timeout/resolve",
    );
    table.row("silence", moving(SYNS, connect(Event::Silence)), ours(), "~timeout/connect");
    table.row(
        "the kernel gave up",
        connect(Event::Errno(libc::ETIMEDOUT)),
        ours(),
        "~timeout/connect",
    );
    table.row("reset", connect(Event::Errno(libc::ECONNREFUSED)), ours(), "refused/connect");
    for errno in [libc::ECONNRESET, libc::EPIPE, libc::ECONNABORTED] {
        table.row("another reset", connect(Event::Errno(errno)), ours(), "reset/connect");
    }
    table.row(
        "an odd error",
        connect(Event::Errno(libc::EPROTO)),
        ours(),
        "~network_error/connect",
    );
    let by_peer = Event::Icmp(IcmpError { offender: Some(PEER), kind: 3, code: 3 });
    table.row("rejected by the host itself", connect(by_peer), ours(), "rejected/connect");
    let by_nobody = Event::Icmp(IcmpError { offender: None, kind: 3, code: 3 });
    table.row("rejected by nobody known", connect(by_nobody), ours(), "~rejected/connect");
    for (codes, expected) in [
        (&[0, 6, 11][..], "~net_unreachable/connect"),
        (&[1, 7, 12], "~host_unreachable/connect"),
        (&[2, 3], "~rejected/connect"),
        (&[9, 10, 13, 14, 15], "~prohibited/connect"),
        (&[4, 5, 8, 99], "~network_error/connect"),
    ] {
        for &code in codes {
            table.row(&format!("ICMP 3/{code}"), connect(icmp(3, code)), ours(), expected);
        }
    }
    table.row("ICMP 11/0", connect(icmp(11, 0)), ours(), "~net_unreachable/connect");
    table.row("ICMP 12/0", connect(icmp(12, 0)), ours(), "~network_error/connect");
    let v6 = |event| Evidence { peer: Some(Ipv6Addr::LOCALHOST.into()), ..connect(event) };
    for (kind, code, expected) in [
        (1, 0, "~net_unreachable/connect"),
        (1, 1, "~prohibited/connect"),
        (1, 2, "~net_unreachable/connect"),
        (1, 3, "~host_unreachable/connect"),
        (1, 4, "~rejected/connect"),
        (1, 5, "~prohibited/connect"),
        (1, 6, "~prohibited/connect"),
        (3, 0, "~net_unreachable/connect"),
        (4, 1, "~network_error/connect"),
    ] {
        table.row(&format!("ICMPv6 {kind}/{code}"), v6(icmp(kind, code)), ours(), expected);
    }
    // Type 1 means nothing in version 4, type 11 nothing in version 6.
    table.row("ICMP 1/1", connect(icmp(1, 1)), ours(), "~network_error/connect");
    table.row("ICMPv6 11/0", v6(icmp(11, 0)), ours(), "~network_error/connect");
    let from = |text: &str| over(Way { source: text.parse().ok(), ..way(Neighbour::Known) });
    let beyond = v6(icmp(1, 2));
    table.row("beyond scope, link-local source", beyond, from("fe80::1"), "local_no_route/connect");
    table.row(
        "beyond scope, global source",
        beyond,
        from("2001:db8::1"),
        "~net_unreachable/connect",
    );
    let no_route = v6(icmp(1, 0));
    table.row("no route, link-local source", no_route, from("fe80::1"), "~net_unreachable/connect");
}

fn link(table: &mut Table) {
    let silence = connect(Event::Silence);
    let unreachable = connect(icmp(3, 1));
    let v6 = Evidence { peer: Some(Ipv6Addr::LOCALHOST.into()), ..connect(icmp(1, 3)) };
    for (name, seen) in [
        ("silence", silence),
        ("host unreachable by us", unreachable),
        ("the same, version 6", v6),
        ("EHOSTUNREACH without ICMP", connect(Event::Errno(libc::EHOSTUNREACH))),
        ("ENETUNREACH without ICMP", connect(Event::Errno(libc::ENETUNREACH))),
    ] {
        let by_us =
            |base| if matches!(seen.event, Event::Icmp(_)) { ours_by_icmp(base) } else { base };
        let gateway = by_us(over(way(Neighbour::Silent)));
        table.row(&format!("{name}, silent gateway"), seen, gateway, "local_gateway/connect");
        table.row(
            &format!("{name}, no carrier"),
            seen,
            by_us(no_carrier()),
            "local_gateway/connect",
        );
        table.row(&format!("{name}, no route"), seen, by_us(nowhere()), "local_no_route/connect");
        let host = by_us(on_link(Neighbour::Silent));
        table.row(&format!("{name}, silent neighbour"), seen, host, "host_unreachable/connect");
    }
    table.row("silence, known gateway", silence, over(way(Neighbour::Known)), "~timeout/connect");
    table.row(
        "silence, unknown gateway",
        silence,
        over(way(Neighbour::Unknown)),
        "~timeout/connect",
    );
    // The entry of a neighbour that is gone was there for three seconds.
    let slow = Evidence { connect: millis(500), ..unreachable };
    let gone = ours_by_icmp(over(way(Neighbour::Unknown)));
    table.row("unreachable by us, slowly", slow, gone, "local_gateway/connect");
    let gone = ours_by_icmp(on_link(Neighbour::Unknown));
    table.row("unreachable by us, slowly, on link", slow, gone, "host_unreachable/connect");
    table.row(
        "unreachable by us, slowly, nothing known",
        slow,
        ours_by_icmp(ours()),
        "host_unreachable/connect",
    );
    let by_router = over(way(Neighbour::Silent));
    table.row("unreachable by a router", unreachable, by_router, "~host_unreachable/connect");
    table.row(
        "no carrier, a router said no",
        connect(icmp(3, 13)),
        no_carrier(),
        "~prohibited/connect",
    );
    let refused = connect(Event::Errno(libc::ECONNREFUSED));
    table.row("refused just before the cable went", refused, no_carrier(), "refused/connect");
    // Routes that went while the SYN was sent again.
    for errno in [libc::EACCES, libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH] {
        let seen = connect(Event::Errno(errno));
        table.row("a route that went", seen, ours(), "local_no_route/connect");
        table.row(
            "a route that went and came back",
            seen,
            over(way(Neighbour::Known)),
            "local_no_route/connect",
        );
    }
    let broken = seen(Phase::Dialogue, Event::Errno(libc::EACCES));
    table.row("an odd end of a dialogue", broken, ours(), "~network_error/dialogue");
    for (kind, code) in [(1, 0), (1, 1)] {
        let seen = Evidence { peer: Some(Ipv6Addr::LOCALHOST.into()), ..connect(icmp(kind, code)) };
        table.row("our route by ICMPv6", seen, ours_by_icmp(nowhere()), "local_no_route/connect");
    }
    for phase in [Phase::Tls, Phase::Dialogue] {
        let seen = seen(phase, Event::Silence);
        table.row("no carrier meanwhile", seen, no_carrier(), &format!("local_gateway/{phase}"));
        table.row("route gone meanwhile", seen, nowhere(), &format!("local_no_route/{phase}"));
        let gateway = over(way(Neighbour::Silent));
        table.row("gateway gone meanwhile", seen, gateway, &format!("local_gateway/{phase}"));
    }
    let hung = seen(Phase::Dialogue, Event::Silence);
    table.row(
        "neighbour gone meanwhile",
        hung,
        on_link(Neighbour::Silent),
        "~expect_timeout/dialogue",
    );
    let name = seen(Phase::Resolve, Event::Silence);
    table.row("no time, no carrier", name, no_carrier(), "~timeout/resolve");
}

fn firewall(table: &mut Table) {
    let quick = over(way(Neighbour::Known));
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 13)] {
        let name = format!("ICMP {kind}/{code} by us");
        table.row(&name, connect(icmp(kind, code)), ours_by_icmp(quick), "local_firewall/connect");
    }
    let at_once = Evidence { connect: millis(499), ..connect(icmp(3, 1)) };
    let unknown = ours_by_icmp(over(way(Neighbour::Unknown)));
    table.row("unreachable by us, at once", at_once, unknown, "local_firewall/connect");
    let known = Evidence { connect: millis(3000), ..connect(icmp(3, 1)) };
    table.row(
        "unreachable by us, known gateway",
        known,
        ours_by_icmp(quick),
        "local_firewall/connect",
    );
    let reset = Circumstances { reset_is_ours: true, ..quick };
    let refused = connect(Event::Errno(libc::ECONNREFUSED));
    table.row("reset by us", refused, reset, "local_firewall/connect");
    table.row("reset by us, silence", connect(Event::Silence), reset, "~timeout/connect");
    let dropped = Transfer { resent_out: 0, ..SYNS };
    table.row(
        "SYNs never went out",
        moving(dropped, connect(Event::Silence)),
        quick,
        "local_firewall/connect",
    );
    let first = Transfer { resent: 0, resent_out: 0, ..SYNS };
    table.row("one SYN", moving(first, connect(Event::Silence)), quick, "~timeout/connect");
    let talk = seen(Phase::Dialogue, Event::Silence);
    let dropped = Transfer { resent_out: 0, ..SWALLOWED };
    table.row("data never went out", moving(dropped, talk), quick, "local_firewall/dialogue");
    let again = Transfer { resent: 1, resent_out: 0, ..SYNS };
    let again = moving(again, connect(Event::Silence));
    table.row("one SYN sent again in vain", again, quick, "local_firewall/connect");
    let once = Transfer { resent: 2, resent_out: 0, backoff: 1, ..SWALLOWED };
    table.row("data sent again once in vain", moving(once, talk), quick, "local_firewall/dialogue");
    let shut = Transfer { unacked: 0, resent_out: 0, ..SWALLOWED };
    table.row("a window shut after loss", moving(shut, talk), quick, "~expect_timeout/dialogue");
    let kept = Transfer { unsent: 1000, ..TAKEN };
    table.row("data that cannot be sent", moving(kept, talk), quick, "local_firewall/dialogue");
    let byte = Transfer { unsent: 1, ..TAKEN };
    table.row("a byte that cannot be sent", moving(byte, talk), quick, "local_firewall/dialogue");
    let full = Transfer { unsent: 1001, ..TAKEN };
    table.row("more than the peer takes", moving(full, talk), quick, "expect_timeout/dialogue");
    let waiting = Transfer { unsent: 10, ..SWALLOWED };
    table.row(
        "more waits behind what is lost",
        moving(waiting, talk),
        quick,
        "~unacknowledged/dialogue",
    );
    // A tail loss probe is counted as sent again, and not as out.
    let probe = Transfer { resent: 1, resent_out: 0, backoff: 0, ..SWALLOWED };
    table.row("a tail loss probe", moving(probe, talk), quick, "~expect_timeout/dialogue");
    let earlier = Transfer { resent: 1, ..TAKEN };
    table.row("lost earlier, taken now", moving(earlier, talk), quick, "expect_timeout/dialogue");
}

fn expectations(table: &mut Table) {
    use ExpectConnect::{Closed, Refused, Timeout};
    let refused = connect(Event::Errno(libc::ECONNREFUSED));
    let silence = connect(Event::Silence);
    let host = on_link(Neighbour::Silent);
    for (name, expect, seen, ours, expected) in [
        ("open", Closed, connect(Event::Connected), ours(), "unexpectedly_open/connect"),
        ("open", Refused, connect(Event::Connected), ours(), "unexpectedly_open/connect"),
        ("open", Timeout, connect(Event::Connected), ours(), "unexpectedly_open/connect"),
        ("refused", Closed, refused, ours(), "success"),
        ("refused", Refused, refused, ours(), "success"),
        ("refused", Timeout, refused, ours(), "refused/connect"),
        ("rejected", Refused, connect(icmp(3, 3)), ours(), "~success"),
        ("prohibited", Refused, connect(icmp(3, 13)), ours(), "~success"),
        ("prohibited", Closed, connect(icmp(3, 13)), ours(), "~success"),
        ("silence", Closed, silence, ours(), "~success"),
        ("silence", Timeout, silence, ours(), "~success"),
        ("silence", Refused, silence, ours(), "~timeout/connect"),
        ("host off", Closed, silence, host, "success"),
        ("host off", Timeout, silence, host, "success"),
        ("host off by ICMP", Timeout, connect(icmp(3, 1)), ours(), "~host_unreachable/connect"),
        ("cut off", Closed, silence, cut_off(), "~local_isolated/connect"),
        ("cut off", Timeout, silence, cut_off(), "~local_isolated/connect"),
        ("no carrier", Closed, silence, no_carrier(), "local_gateway/connect"),
        ("no carrier", Timeout, silence, no_carrier(), "local_gateway/connect"),
        (
            "no descriptors",
            Closed,
            connect(Event::CallFailed(libc::EMFILE)),
            ours(),
            "local_resources/connect",
        ),
        ("asleep", Timeout, slept(silence, 301, 301), ours(), "local_stall/connect"),
        (
            "no such name",
            Closed,
            seen(Phase::Resolve, Event::Lookup(Lookup::NoSuchName)),
            ours(),
            "~dns_nxdomain/resolve",
        ),
    ] {
        table.row(&format!("{expect:?} expected: {name}"), expecting(expect, seen), ours, expected);
    }
    let reset = Circumstances { reset_is_ours: true, ..ours() };
    table.row(
        "Refused expected: by us",
        expecting(Refused, refused),
        reset,
        "local_firewall/connect",
    );
    table.row("open as expected", connect(Event::Connected), ours(), "success");
}

fn after_the_handshake(table: &mut Table) {
    let talk = |event| seen(Phase::Dialogue, event);
    let tls = |event| seen(Phase::Tls, event);
    table.row("closed", talk(Event::Closed), ours(), "closed_early/dialogue");
    table.row(
        "closed after words",
        talk(Event::ClosedAfterWords),
        ours(),
        "expect_mismatch/dialogue",
    );
    table.row("other words", talk(Event::Mismatch), ours(), "expect_mismatch/dialogue");
    table.row("words of refusal", talk(Event::Rejection), ours(), "expect_rejected/dialogue");
    table.row("reset", talk(Event::Errno(libc::ECONNRESET)), ours(), "reset/dialogue");
    table.row("reset in TLS", tls(Event::Errno(libc::ECONNRESET)), ours(), "reset/tls");
    table.row(
        "a service that hangs",
        moving(TAKEN, talk(Event::Silence)),
        ours(),
        "expect_timeout/dialogue",
    );
    table.row("TLS that hangs", moving(TAKEN, tls(Event::Silence)), ours(), "tls_timeout/tls");
    table.row(
        "swallowed",
        moving(SWALLOWED, talk(Event::Silence)),
        ours(),
        "~unacknowledged/dialogue",
    );
    table.row(
        "swallowed in TLS",
        moving(SWALLOWED, tls(Event::Silence)),
        ours(),
        "~unacknowledged/tls",
    );
    let once = Transfer { resent: 1, backoff: 1, ..SWALLOWED };
    let once = moving(once, talk(Event::Silence));
    table.row("swallowed since a moment", once, ours(), "~unacknowledged/dialogue");
    let byte = moving(Transfer { acknowledged: 2, ..TAKEN }, talk(Event::Silence));
    table.row("one byte was taken", byte, ours(), "expect_timeout/dialogue");
    let not_yet = Transfer { backoff: 0, resent: 0, resent_out: 0, ..SWALLOWED };
    table.row(
        "sent just now",
        moving(not_yet, talk(Event::Silence)),
        ours(),
        "~expect_timeout/dialogue",
    );
    let window = Transfer { unacked: 0, ..SWALLOWED };
    table.row(
        "a peer whose window is shut",
        moving(window, talk(Event::Silence)),
        ours(),
        "~expect_timeout/dialogue",
    );
    let holes = Transfer { out_of_order: 1, ..TAKEN };
    table.row(
        "holes in what came",
        moving(holes, talk(Event::Silence)),
        ours(),
        "unacknowledged/dialogue",
    );
    let given_up = talk(Event::Errno(libc::ETIMEDOUT));
    table.row("the kernel gave up", given_up, ours(), "~unacknowledged/dialogue");
    table.row(
        "nothing was said",
        moving(Transfer { acknowledged: 1, ..TAKEN }, talk(Event::Silence)),
        ours(),
        "~expect_timeout/dialogue",
    );
}

fn certificates(table: &mut Table) {
    use TlsFault::{
        ClientCertificate, Expired, Handshake, NotTls, NotYetValid, Untrusted, WrongName,
    };
    let tls =
        |fault| Evidence { validity: Some((1000, 2000)), ..seen(Phase::Tls, Event::Tls(fault)) };
    for (fault, expected) in [
        (NotTls, "tls_not_tls/tls"),
        (Untrusted, "tls_untrusted/tls"),
        (Expired, "tls_expired/tls"),
        (NotYetValid, "tls_not_yet_valid/tls"),
        (WrongName, "tls_wrong_name/tls"),
        (ClientCertificate, "tls_client_certificate/tls"),
        (Handshake, "tls_handshake/tls"),
    ] {
        table.row(&format!("{fault:?}"), tls(fault), ours(), expected);
    }
    let clock = |step, unset_now| Circumstances {
        clock: Some(Clock { step: Duration::from_secs(step), unset_now }),
        ..ours()
    };
    for fault in [Expired, NotYetValid] {
        for now in [1000, 1500, 2000] {
            table.row("valid by the clock before", tls(fault), clock(300, now), "local_clock/tls");
        }
    }
    table.row("a small step", tls(Expired), clock(299, 1500), "tls_expired/tls");
    table.row("expired by either clock", tls(Expired), clock(300, 2001), "tls_expired/tls");
    table.row("early by either clock", tls(NotYetValid), clock(300, 999), "tls_not_yet_valid/tls");
    table.row("untrusted by any clock", tls(Untrusted), clock(300, 1500), "tls_untrusted/tls");
    let undated = Evidence { validity: None, ..tls(Expired) };
    table.row("no dates at hand", undated, clock(300, 1500), "tls_expired/tls");
}

fn sleep(table: &mut Table) {
    let talk = |event| seen(Phase::Dialogue, event);
    table.row("no time to begin", connect(Event::NoTime), ours(), "local_stall/connect");
    table.row("slept through the end", connect(Event::Overslept), ours(), "local_stall/connect");
    for (name, seen, otherwise) in [
        ("silence", connect(Event::Silence), "~timeout/connect"),
        ("the kernel gave up", connect(Event::Errno(libc::ETIMEDOUT)), "~timeout/connect"),
        ("no answer", talk(Event::Silence), "~expect_timeout/dialogue"),
        ("closed", talk(Event::Closed), "closed_early/dialogue"),
        ("closed after words", talk(Event::ClosedAfterWords), "expect_mismatch/dialogue"),
        ("reset", talk(Event::Errno(libc::ECONNRESET)), "reset/dialogue"),
        ("alert", seen(Phase::Tls, Event::Tls(TlsFault::Handshake)), "tls_handshake/tls"),
        (
            "silent servers",
            seen(Phase::Resolve, Event::Lookup(Lookup::Unanswered)),
            "~dns_timeout/resolve",
        ),
        (
            "failing servers",
            seen(Phase::Resolve, Event::Lookup(Lookup::Failed)),
            "~dns_failure/resolve",
        ),
        (
            "no servers",
            seen(Phase::Resolve, Event::Lookup(Lookup::NoResolver)),
            "local_resolver/resolve",
        ),
    ] {
        let stalled = format!("local_stall/{}", seen.phase);
        table.row(&format!("{name}, stopped"), slept(seen, 301, 301), ours(), &stalled);
        table.row(&format!("{name}, a nap"), slept(seen, 300, 300), ours(), otherwise);
        // The kernel sends SYNs also while we starve.
        let starved = if seen.phase == Phase::Connect { otherwise } else { &stalled };
        table.row(&format!("{name}, starved"), slept(seen, 0, 1501), ours(), starved);
        table.row(&format!("{name}, half starved"), slept(seen, 0, 1500), ours(), otherwise);
    }
    for (name, seen, expected) in [
        ("refused", connect(Event::Errno(libc::ECONNREFUSED)), "refused/connect"),
        ("unreachable", connect(icmp(3, 1)), "~host_unreachable/connect"),
        ("other words", talk(Event::Mismatch), "expect_mismatch/dialogue"),
        (
            "no such name",
            seen(Phase::Resolve, Event::Lookup(Lookup::NoSuchName)),
            "~dns_nxdomain/resolve",
        ),
        ("untrusted", seen(Phase::Tls, Event::Tls(TlsFault::Untrusted)), "tls_untrusted/tls"),
        ("no permission", connect(Event::CallFailed(libc::EMFILE)), "local_resources/connect"),
    ] {
        table.row(&format!("{name}, stopped"), slept(seen, 2000, 2000), ours(), expected);
    }
}

fn sight(table: &mut Table) {
    let tls = |fault| seen(Phase::Tls, Event::Tls(fault));
    let talk = |event| seen(Phase::Dialogue, event);
    let by_peer = Event::Icmp(IcmpError { offender: Some(PEER), kind: 3, code: 13 });
    let mapped = Event::Icmp(IcmpError {
        offender: Some(std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into()),
        kind: 3,
        code: 13,
    });
    for (name, seen, expected) in [
        ("silence", connect(Event::Silence), "~local_isolated/connect"),
        ("a router says no", connect(icmp(3, 13)), "~local_isolated/connect"),
        ("no answer to nothing", talk(Event::Silence), "~local_isolated/dialogue"),
        ("swallowed", moving(SWALLOWED, talk(Event::Silence)), "~local_isolated/dialogue"),
        (
            "silent servers",
            seen(Phase::Resolve, Event::Lookup(Lookup::Unanswered)),
            "~local_isolated/resolve",
        ),
        // What proves contact is never isolation.
        ("the host says no", connect(by_peer), "prohibited/connect"),
        ("the host says no, mapped", connect(mapped), "prohibited/connect"),
        ("refused", connect(Event::Errno(libc::ECONNREFUSED)), "refused/connect"),
        (
            "open",
            expecting(ExpectConnect::Closed, connect(Event::Connected)),
            "unexpectedly_open/connect",
        ),
        ("expired", tls(TlsFault::Expired), "tls_expired/tls"),
        ("closed", talk(Event::Closed), "closed_early/dialogue"),
        ("taken and not answered", moving(TAKEN, talk(Event::Silence)), "expect_timeout/dialogue"),
        (
            "no such name",
            seen(Phase::Resolve, Event::Lookup(Lookup::NoSuchName)),
            "~local_isolated/resolve",
        ),
        (
            "no servers",
            seen(Phase::Resolve, Event::Lookup(Lookup::NoResolver)),
            "local_resolver/resolve",
        ),
    ] {
        table.row(&format!("cut off: {name}"), seen, cut_off(), expected);
    }
    let sees = Circumstances { sight: Sight::Sees, ..ours() };
    table.row("others answer: silence", connect(Event::Silence), sees, "~timeout/connect");
    let odd = connect(Event::Errno(libc::EPROTO));
    table.row("cut off: an odd error", odd, cut_off(), "~local_isolated/connect");
}

fn said(diagnosis: Diagnosis) -> (String, bool) {
    let outcome = match diagnosis.outcome.cause() {
        Some((reason, phase)) => format!("{reason}/{phase}"),
        None => "success".to_owned(),
    };
    (outcome, diagnosis.rests_on_sight)
}

#[test]
fn every_situation_has_its_diagnosis() {
    let wrong: Vec<String> = table()
        .into_iter()
        .filter_map(|row| {
            let said = said(diagnose(&row.seen, &row.ours));
            let expected = (row.expected, row.rests_on_sight);
            (said != expected).then(|| format!("{}: {said:?}, not {expected:?}", row.name))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_rule_can_be_taken_away_unnoticed() {
    let table = table();
    let needless: Vec<usize> = (0..RULES.len())
        .filter(|&left_out| {
            let rules = RULES.iter().enumerate().filter(|(index, _)| *index != left_out);
            let rules = rules.map(|(_, rule)| rule);
            table.iter().all(|row| {
                let found = said(diagnose_by(&rules.clone(), &row.seen, &row.ours));
                found == (row.expected.clone(), row.rests_on_sight)
            })
        })
        .collect();
    let needless: Vec<_> = needless.iter().map(|&index| (index, RULES[index].reason)).collect();
    assert!(needless.is_empty(), "{needless:?}");
    println!("{} rules, {} situations", RULES.len(), table.len());
}

#[test]
fn every_reason_has_a_rule() {
    for reason in Reason::ALL {
        assert!(RULES.iter().any(|rule| rule.reason == *reason), "{reason}");
    }
}

#[test]
fn being_cut_off_takes_the_place_of_what_was_found() {
    let isolated = |phase| Outcome::because(Reason::LocalIsolated, phase);
    assert_eq!(super::cut_off(Outcome::Success), isolated(Phase::Connect));
    let timeout = Outcome::because(Reason::DnsTimeout, Phase::Resolve);
    assert_eq!(super::cut_off(timeout), isolated(Phase::Resolve));
}

#[test]
fn what_never_came_to_a_probe_has_an_outcome() {
    let invalid = Outcome::because(Reason::InvalidTarget, Phase::Resolve);
    assert_eq!(outcome_of(Event::InvalidTarget, Phase::Resolve), invalid);
}

#[test]
fn what_a_system_call_says_at_once_is_never_the_targets_fault() {
    for errno in 1..=133 {
        let outcome = outcome_of(Event::CallFailed(errno), Phase::Connect);
        assert!(outcome.is_inconclusive(), "{errno}: {outcome:?}");
    }
}
