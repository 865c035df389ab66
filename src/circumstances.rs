//! What this machine knew of itself while a probe ran. Plain values; what finds them out is
//! [`machine`](crate::machine).

use std::net::IpAddr;
use std::time::Duration;

/// Everything that a diagnosis looks at beside the probe itself. The default knows nothing and
/// finds nothing wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Circumstances {
    /// The way to the peer, where the kernel told it.
    pub way: Option<Way>,
    /// The sender of the ICMP error is this machine, and the peer is another one.
    pub icmp_is_ours: bool,
    /// The reset never came over the link: this machine made it.
    pub reset_is_ours: bool,
    /// Whether this machine sees anybody.
    pub sight: Sight,
    /// By how much the wall clock was set since this process began, and what it would show.
    pub clock: Option<Clock>,
}

/// The way to a peer, by the kernel's tables at the end of the probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// Whether a route leads there.
    pub route: Route,
    /// Whether the interface is up and has a carrier.
    pub link_is_up: bool,
    /// Index of the interface.
    pub interface: u32,
    /// The router that the packets go to; none on the peer's own network.
    pub gateway: Option<IpAddr>,
    /// The address that packets leave from.
    pub source: Option<IpAddr>,
    /// What the kernel knows of the gateway, or of the peer where there is none.
    pub neighbour: Neighbour,
}

impl Way {
    /// What two ways have in common if they begin alike.
    #[must_use]
    pub const fn first_hop(self) -> (u32, Option<IpAddr>) {
        (self.interface, self.gateway)
    }
}

/// What a route says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// It leads out of this machine.
    Out,
    /// The address is on this machine.
    Here,
    /// There is none, or one of type prohibit, blackhole or unreachable.
    Nowhere,
}

/// The entry of the neighbour table (ARP, NDP).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Neighbour {
    /// It has a link-layer address.
    Known,
    /// It was asked for one and does not answer (`NUD_INCOMPLETE`, `NUD_FAILED`).
    Silent,
    /// There is no entry, or the interface needs none.
    Unknown,
}

/// Whether this machine sees anybody at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sight {
    /// Nobody was asked: nothing speaks against it.
    #[default]
    Unasked,
    /// A canary or another target over the same way answers.
    Sees,
    /// Nobody answers who should.
    CutOff,
}

/// A wall clock that was set while this process ran.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    /// How far it was set, in either direction.
    pub step: Duration,
    /// Unix seconds by the clock as it was before, carried on by the monotonic one.
    pub unset_now: i64,
}
