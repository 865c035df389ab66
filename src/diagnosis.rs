//! Whose fault it is, and where: the only page that names a reason. Pure.
//!
//! The first rule that holds decides. What a call of our own said comes first, then what a peer
//! proved by answering, then what excuses silence (we slept, our link, our firewall, no sight of
//! anybody), then whom the network names, and silence itself last. A rule that speaks against the
//! monitor makes the outcome inconclusive.

use std::net::IpAddr;
use std::time::Duration;

use crate::circumstances::{Circumstances, Neighbour, Route, Sight};
use crate::evidence::{Event, Evidence, Lookup, TlsFault};
use crate::module::ExpectConnect;
use crate::outcome::{IcmpError, Outcome, Phase, Reason};

/// One rule.
struct Rule {
    reason: Reason,
    holds: fn(&Evidence, &Circumstances) -> bool,
}

/// A rule: its reason, and when it holds.
const fn rule(reason: Reason, holds: fn(&Evidence, &Circumstances) -> bool) -> Rule {
    Rule { reason, holds }
}

/// The rules, in order.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    // What we did, or could not do, before anybody could answer.
    rule(Reason::InvalidTarget, |seen, _| seen.event == Event::InvalidTarget),
    rule(Reason::LocalDenied, |seen, _| seen.event == Event::Denied),
    rule(Reason::LocalConfig, |seen, _| seen.event == Event::Misconfigured),
    rule(Reason::LocalStall, |seen, _| matches!(seen.event, Event::NoTime | Event::Overslept)),
    // connect(2) fails at once where no route leads: ENETUNREACH without one, EHOSTUNREACH and
    // EINVAL for `unreachable` and `blackhole`, EACCES for `prohibit` (ip-route(8)).
    rule(Reason::LocalNoRoute, |seen, ours| match seen.event {
        Event::CallFailed(libc::EACCES) => leads(ours, Route::Nowhere),
        Event::CallFailed(errno) => NO_ROUTE.contains(&errno),
        _ => false,
    }),
    // Descriptors, ports, memory, permission.
    rule(Reason::LocalResources, |seen, _| matches!(seen.event, Event::CallFailed(_) | Event::Exhausted
        | Event::Errno(libc::ENOBUFS | libc::ENOMEM))),

    // The peer answered: that proves contact, and nothing that is wrong here takes it back.
    rule(Reason::UnexpectedlyOpen, |seen, _| seen.event == Event::Connected && seen.expect != ExpectConnect::Open),
    // A date that is wrong by the clock as it was set, and right by the clock as it was before.
    rule(Reason::LocalClock, clock_decides),
    rule(Reason::TlsExpired, |seen, _| seen.event == Event::Tls(TlsFault::Expired)),
    rule(Reason::TlsNotYetValid, |seen, _| seen.event == Event::Tls(TlsFault::NotYetValid)),
    rule(Reason::TlsUntrusted, |seen, _| seen.event == Event::Tls(TlsFault::Untrusted)),
    rule(Reason::TlsWrongName, |seen, _| seen.event == Event::Tls(TlsFault::WrongName)),
    rule(Reason::TlsClientCertificate, |seen, _| seen.event == Event::Tls(TlsFault::ClientCertificate)),
    rule(Reason::TlsNotTls, |seen, _| seen.event == Event::Tls(TlsFault::NotTls)),
    rule(Reason::ExpectMismatch, |seen, _| seen.event == Event::Mismatch),
    rule(Reason::ExpectRejected, |seen, _| seen.event == Event::Rejection),

    // We slept: silence proves nothing, and a peer may have lost its patience with us.
    rule(Reason::LocalStall, |seen, _| is_impatience(seen) && overslept(seen)),

    // A peer that ends the connection is there. After the handshake a reset is always told.
    rule(Reason::TlsHandshake, |seen, _| seen.event == Event::Tls(TlsFault::Handshake)),
    rule(Reason::ExpectMismatch, |seen, _| seen.event == Event::ClosedAfterWords),
    rule(Reason::ClosedEarly, |seen, _| seen.event == Event::Closed),

    // Our own name servers.
    rule(Reason::LocalResolver, |seen, _| seen.event == Event::Lookup(Lookup::NoResolver)),

    // Our link: no carrier, no route, or a gateway that does not even answer ARP or NDP. The
    // kernel then says host unreachable in our own name (`arp_error_report`), after three seconds.
    rule(Reason::LocalGateway, |seen, ours| is_unheard(seen, ours) && ours.way.is_some_and(|way| !way.link_is_up)),
    rule(Reason::LocalNoRoute, |seen, ours| (is_unheard(seen, ours) || ours.icmp_is_ours) && leads(ours, Route::Nowhere)),
    // A router passes on nothing from a link-local address (RFC 4443, 3.1, code 2): we have no other.
    rule(Reason::LocalNoRoute, |seen, ours| matches!(icmp(seen), Some((true, 1, 2))) && leaves_link_local(ours)),
    rule(Reason::LocalGateway, |seen, ours| is_unheard(seen, ours) && is_neighbour_silent(seen, ours)
        && ours.way.is_some_and(|way| way.gateway.is_some())),
    // An error of the route that no ICMP message brought was found in our own tables.
    rule(Reason::LocalNoRoute, |seen, ours| seen.phase == Phase::Connect && !is_neighbour_silent(seen, ours)
        && matches!(seen.event, Event::Errno(errno) if NO_ROUTE.contains(&errno) || errno == libc::EACCES)),
    // A neighbour on our own network: its host is off.
    rule(Reason::HostUnreachable, |seen, ours| is_unheard(seen, ours) && is_neighbour_silent(seen, ours)
        && seen.phase == Phase::Connect),

    // Our firewall: it answered in our name, or nothing that we sent again went out
    // (`__tcp_retransmit_skb` counts `tcpi_retrans` only for what the output chain let pass).
    rule(Reason::LocalFirewall, |seen, ours| matches!(seen.event, Event::Icmp(_)) && ours.icmp_is_ours),
    rule(Reason::LocalFirewall, |seen, ours| is_reset(seen) && ours.reset_is_ours),
    rule(Reason::LocalFirewall, |seen, _| is_silence(seen) && seen.transfer.is_some_and(|sent| sent.unacked > 0
        && sent.resent > 0 && sent.resent_out == 0 && (sent.backoff > 0 || seen.phase == Phase::Connect))),

    // Data that the output chain drops at once stays unsent, though the peer would take it.
    rule(Reason::LocalFirewall, |seen, _| is_silence(seen) && seen.transfer.is_some_and(|sent| sent.unacked == 0
        && sent.unsent > 0 && sent.window >= sent.unsent)),

    // We see nobody who should answer: whatever the target itself has not said is no finding.
    rule(Reason::LocalIsolated, |seen, ours| ours.sight == Sight::CutOff && !is_contact(seen)),

    // Names. A name server is not the target: what it says is believed where somebody is seen.
    rule(Reason::DnsNxdomain, |seen, _| seen.event == Event::Lookup(Lookup::NoSuchName)),
    rule(Reason::DnsNoAddress, |seen, _| seen.event == Event::Lookup(Lookup::NoAddress)),
    rule(Reason::DnsFailure, |seen, _| seen.event == Event::Lookup(Lookup::Failed)),
    rule(Reason::DnsTimeout, |seen, _| seen.event == Event::Lookup(Lookup::Unanswered)),
    // The name took most of the time, and one SYN is all that was left.
    rule(Reason::DnsTimeout, |seen, _| seen.phase == Phase::Connect && is_silence(seen) && seen.resolve > seen.timeout / 2
        && seen.transfer.is_none_or(|sent| sent.resent == 0)),

    // What the network says: RFC 792 and RFC 1812 (version 4), RFC 4443 (version 6).
    rule(Reason::HostUnreachable, |seen, _| matches!(icmp(seen), Some((false, 3, 1 | 7 | 12) | (true, 1, 3)))),
    // Time exceeded too: routers send the packet round in circles.
    rule(Reason::NetUnreachable, |seen, _| matches!(icmp(seen), Some((false, 3, 0 | 6 | 11) | (true, 1, 0 | 2) | (false, 11, _) | (true, 3, _)))),
    rule(Reason::Rejected, |seen, _| matches!(icmp(seen), Some((false, 3, 2 | 3) | (true, 1, 4)))),
    rule(Reason::Prohibited, |seen, _| matches!(icmp(seen), Some((false, 3, 9 | 10 | 13 | 14 | 15) | (true, 1, 1 | 5 | 6)))),
    // RST for a SYN: nothing listens (RFC 9293, 3.10.7.1).
    rule(Reason::Refused, |seen, _| seen.event == Event::Errno(libc::ECONNREFUSED)),
    rule(Reason::Reset, |seen, _| is_reset(seen)),

    // Silence. After the handshake the kernel tells a path that swallows from a service that hangs:
    // what we sent is sent again and again, or what came has gaps that nobody fills.
    rule(Reason::Timeout, |seen, _| is_silence(seen) && matches!(seen.phase, Phase::Resolve | Phase::Connect)),
    rule(Reason::Unacknowledged, |seen, _| seen.event == Event::Errno(libc::ETIMEDOUT)),
    rule(Reason::Unacknowledged, |seen, _| is_silence(seen) && seen.transfer.is_some_and(|sent| sent.unacked > 0 && sent.backoff > 0)),
    rule(Reason::Unacknowledged, |seen, _| is_silence(seen) && seen.transfer.is_some_and(|sent| sent.out_of_order > 0)),
    rule(Reason::TlsTimeout, |seen, _| is_silence(seen) && seen.phase == Phase::Tls),
    rule(Reason::ExpectTimeout, |seen, _| is_silence(seen)),
    rule(Reason::NetworkError, |seen, _| matches!(seen.event, Event::Icmp(_) | Event::Errno(_))),
];

/// What connect(2) and the routing tables say where no route leads; a machine without IPv6 says
/// the last.
const NO_ROUTE: [i32; 5] =
    [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::ENODEV, libc::EAFNOSUPPORT];
/// A clock that moved less was corrected, not set.
const MIN_STEP: Duration = Duration::from_secs(300);
/// A neighbour is asked for three times, a second apart; a firewall answers at once.
const NEIGHBOUR_TAKES: Duration = Duration::from_millis(500);

/// What was made of a probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Diagnosis {
    /// The answer.
    pub outcome: Outcome,
    /// Whether it would be another one if this machine saw nobody: then it is worth asking.
    pub rests_on_sight: bool,
}

/// Judges a probe by what it saw and by what was wrong on this machine.
#[must_use]
pub fn diagnose(seen: &Evidence, ours: &Circumstances) -> Diagnosis {
    diagnose_by(&RULES.iter(), seen, ours)
}

/// Judges what never came to a probe.
#[must_use]
pub fn outcome_of(event: Event, phase: Phase) -> Outcome {
    diagnose(&Evidence::of(event, phase), &Circumstances::default()).outcome
}

/// What an outcome that rests on sight becomes where this machine turns out to see nobody.
#[must_use]
pub fn cut_off(outcome: Outcome) -> Outcome {
    // A success rests on sight only where a port is shut by silence.
    let phase = outcome.cause().map_or(Phase::Connect, |(_, phase)| phase);
    Outcome::because(Reason::LocalIsolated, phase)
}

fn diagnose_by<'a>(
    rules: &(impl Iterator<Item = &'a Rule> + Clone),
    seen: &Evidence,
    ours: &Circumstances,
) -> Diagnosis {
    let blind = Circumstances { sight: Sight::CutOff, ..*ours };
    let first = |ours: &Circumstances| {
        rules.clone().find(|rule| (rule.holds)(seen, ours)).map(|rule| rule.reason)
    };
    let outcome = match first(ours) {
        Some(Reason::DnsTimeout) => Outcome::because(Reason::DnsTimeout, Phase::Resolve),
        Some(reason) if !is_wanted(seen, reason) => Outcome::because(reason, seen.phase),
        Some(_) | None => Outcome::Success,
    };
    Diagnosis { outcome, rests_on_sight: first(&blind) == Some(Reason::LocalIsolated) }
}

/// Whether a handshake that failed did what the module wants. What speaks against the monitor
/// certifies nothing.
fn is_wanted(seen: &Evidence, reason: Reason) -> bool {
    let is_refusal = matches!(reason, Reason::Refused | Reason::Rejected | Reason::Prohibited);
    seen.phase == Phase::Connect
        && match seen.expect {
            ExpectConnect::Open => false,
            ExpectConnect::Refused => is_refusal,
            ExpectConnect::Timeout => {
                is_silence(seen) && matches!(reason, Reason::Timeout | Reason::HostUnreachable)
            }
            ExpectConnect::Closed => {
                reason != Reason::UnexpectedlyOpen
                    && !Outcome::because(reason, Phase::Connect).is_inconclusive()
            }
        }
}

/// Nothing came, or the kernel gave up asking.
fn is_silence(seen: &Evidence) -> bool {
    matches!(seen.event, Event::Silence | Event::Errno(libc::ETIMEDOUT))
}

fn is_reset(seen: &Evidence) -> bool {
    matches!(
        seen.event,
        Event::Errno(libc::ECONNREFUSED | libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED)
    )
}

/// What a delay of ours may bring about: silence, and a peer that hangs up on who is slow.
fn is_impatience(seen: &Evidence) -> bool {
    let ended = matches!(
        seen.event,
        Event::Closed
            | Event::ClosedAfterWords
            | Event::Tls(TlsFault::Handshake)
            | Event::Lookup(Lookup::Unanswered | Lookup::Failed | Lookup::NoResolver)
    );
    is_silence(seen) || ended || (seen.phase != Phase::Connect && is_reset(seen))
}

/// Whether this process slept too long for silence to prove anything. While it waits for a SYN the
/// kernel does the work, so that many short pauses take nothing from the peer's time.
fn overslept(seen: &Evidence) -> bool {
    seen.sleep.long > seen.timeout / 10
        || (seen.phase != Phase::Connect && seen.sleep.all > seen.timeout / 2)
}

/// Nobody but this machine said anything since the last packet was sent.
fn is_unheard(seen: &Evidence, ours: &Circumstances) -> bool {
    let by_us = matches!(icmp(seen), Some((false, 3, 1) | (true, 1, 3))) && ours.icmp_is_ours;
    let by_kernel = matches!(seen.event, Event::Errno(libc::EHOSTUNREACH | libc::ENETUNREACH));
    is_silence(seen) && seen.phase != Phase::Resolve || by_us || by_kernel
}

fn is_neighbour_silent(seen: &Evidence, ours: &Circumstances) -> bool {
    match ours.way.map(|way| way.neighbour) {
        Some(Neighbour::Silent) => true,
        Some(Neighbour::Known) => false,
        // The entry is gone already, or nobody can tell.
        Some(Neighbour::Unknown) | None => ours.icmp_is_ours && seen.connect >= NEIGHBOUR_TAKES,
    }
}

fn leads(ours: &Circumstances, route: Route) -> bool {
    ours.way.is_some_and(|way| way.route == route)
}

/// Whether packets leave from an address that counts on its own link only.
fn leaves_link_local(ours: &Circumstances) -> bool {
    let source = ours.way.and_then(|way| way.source);
    source.is_some_and(|ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
}

/// Whether the target itself was heard, or took what we sent.
fn is_contact(seen: &Evidence) -> bool {
    match seen.event {
        Event::Icmp(IcmpError { offender, .. }) => {
            offender.is_some() && offender.map(|sender: IpAddr| sender.to_canonical()) == seen.peer
        }
        Event::Lookup(_) => false,
        _ if is_silence(seen) => {
            // The SYN is the first byte that is acknowledged.
            seen.transfer.is_some_and(|transfer| transfer.unacked == 0 && transfer.acknowledged > 1)
        }
        Event::Errno(_) => is_reset(seen),
        _ => true,
    }
}

/// The version, type and code of the ICMP error.
fn icmp(seen: &Evidence) -> Option<(bool, u8, u8)> {
    let Event::Icmp(IcmpError { kind, code, .. }) = seen.event else { return None };
    Some((seen.peer.is_some_and(|peer| peer.is_ipv6()), kind, code))
}

/// Whether the dates that the certificate breaks hold by the clock as it was before it was set.
fn clock_decides(seen: &Evidence, ours: &Circumstances) -> bool {
    let about_dates = matches!(seen.event, Event::Tls(TlsFault::Expired | TlsFault::NotYetValid));
    let (Some(clock), Some((from, until))) = (ours.clock, seen.validity) else { return false };
    about_dates && clock.step >= MIN_STEP && (from..=until).contains(&clock.unset_now)
}

#[cfg(test)]
mod tests;
