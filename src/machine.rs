//! What this machine knows of itself: whether it ran, whether its clock was set, how it reaches a
//! peer, whether others answered. Needs no privilege, sends no packet, and is asked only after
//! something went wrong, so that a probe that succeeds costs nothing more.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::circumstances::{Circumstances, Way};
use crate::evidence::{Event, Evidence, TlsFault};
use crate::machine::clock::WallClock;
use crate::machine::heartbeat::Heartbeat;
use crate::machine::link::Links;
use crate::machine::others::Others;

mod clock;
pub mod heartbeat;
mod link;
mod others;

/// The machine that the exporter runs on. One per process.
#[derive(Debug, Default)]
pub struct Machine {
    /// When this process ran.
    pub heartbeat: Heartbeat,
    clock: WallClock,
    links: Links,
    others: Others,
}

impl Machine {
    /// What was the matter with this machine as far as it may have to do with how a probe ended.
    #[must_use]
    pub fn circumstances(&self, seen: &Evidence, peer: Option<SocketAddr>) -> Circumstances {
        let mut ours = Circumstances::default();
        match seen.event {
            Event::Tls(TlsFault::Expired | TlsFault::NotYetValid) => {
                ours.clock = Some(self.clock.step());
            }
            Event::Silence | Event::Icmp(_) | Event::Errno(_) | Event::CallFailed(_) => {
                ours.way = peer.and_then(|peer| self.links.way(peer));
            }
            _ => {}
        }
        if let Event::Icmp(icmp) = seen.event {
            // On a target of this very machine its firewall is the target's.
            ours.icmp_is_ours =
                icmp.offender.is_some_and(|sender| Some(sender) != seen.peer && is_own(sender));
        }
        ours
    }
}

impl Machine {
    /// Whether what `call` does with a peer leaves no trace on the interface that leads there, so
    /// that whatever answers it is this machine. Other traffic makes it undecided: false.
    #[must_use]
    pub fn stays_inside(peer: SocketAddr, call: impl FnOnce()) -> bool {
        let before = link::packets(peer).ok().flatten();
        call();
        before.is_some() && before == link::packets(peer).ok().flatten()
    }

    /// Notes a peer that answered as it should.
    pub fn answered(&self, peer: SocketAddr, now: Instant) {
        self.others.answered(peer, now);
    }

    /// Notes a peer of which nothing was heard.
    pub fn silent(&self, peer: SocketAddr, now: Instant) {
        self.others.silent(peer, now);
    }

    /// Whether another target over the same way has answered since then.
    #[must_use]
    pub fn sees_others(&self, peer: Option<SocketAddr>, since: Instant) -> bool {
        let Some(peer) = peer else { return false };
        let way = self.links.way(peer);
        self.others.answered_since(peer, since).into_iter().any(|other| {
            let other = self.links.way(other);
            other.map(Way::first_hop) == way.map(Way::first_hop)
        })
    }

    /// Whether several other targets were silent lately and none answered.
    #[must_use]
    pub fn sees_nobody(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.others.all_silent(peer, Instant::now()))
    }
}

/// Whether an interface of this machine has the address.
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|address| match ip {
        IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|own| own.ip() == ip),
        IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|own| own.ip() == ip),
    })
}
