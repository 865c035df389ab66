//! The way to a peer by the kernel's own tables, asked over rtnetlink(7).
//!
//! The kernel answers within the system call that asks, so nothing here waits. Answers are kept
//! for a moment: when thousands of targets fail at once, the gateway is looked at once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::circumstances::{Neighbour, Route, Way};
use crate::limits::WAYS_KEPT;

/// How long an answer is believed.
const FRESH: Duration = Duration::from_millis(200);
/// Room for an answer; that about an interface takes one or two kilobytes.
const ANSWER: usize = 32 * 1024;

/// What the kernel said lately.
#[derive(Debug, Default)]
pub(super) struct Links {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    ways: HashMap<SocketAddr, (Instant, Option<Way>)>,
    hops: HashMap<Hop, (Instant, State)>,
}

/// Where packets go first: out of an interface, to a neighbour.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Hop {
    interface: u32,
    neighbour: IpAddr,
}

#[derive(Clone, Copy, Debug)]
struct State {
    link_is_up: bool,
    neighbour: Neighbour,
}

impl Links {
    /// The way to a peer; `None` where the kernel does not tell.
    pub(super) fn way(&self, peer: SocketAddr) -> Option<Way> {
        let now = Instant::now();
        // Questions take microseconds: whoever waits for them would have asked the same.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = SocketAddr::new(peer.ip(), 0);
        if let Some((at, way)) = kept.ways.get(&key)
            && now.saturating_duration_since(*at) < FRESH
        {
            return *way;
        }
        if kept.ways.len().max(kept.hops.len()) >= WAYS_KEPT {
            *kept = Kept::default();
        }
        let way = kept.ask(peer, now).ok();
        kept.ways.insert(key, (now, way));
        way
    }
}

/// The packets that passed the interface on the way to a peer, in both directions; `None` if that
/// is not known or the peer is on this machine.
pub(super) fn packets(peer: SocketAddr) -> io::Result<Option<u64>> {
    let kernel = Kernel::open()?;
    let Some(Path { route: RouteType::Unicast, interface, .. }) = kernel.route(peer)? else {
        return Ok(None);
    };
    let link = kernel.link(interface)?;
    Ok(link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(stats.rx_packets.wrapping_add(stats.tx_packets)),
        _ => None,
    }))
}

impl Kept {
    fn ask(&mut self, peer: SocketAddr, now: Instant) -> io::Result<Way> {
        let kernel = Kernel::open()?;
        let Some(Path { route, gateway, source, interface }) = kernel.route(peer)? else {
            return Ok(NOWHERE);
        };
        let route = match route {
            RouteType::Local => Route::Here,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
                return Ok(NOWHERE);
            }
            _ => Route::Out,
        };
        let hop = Hop { interface, neighbour: gateway.unwrap_or(peer.ip()) };
        let state = match self.hops.get(&hop) {
            Some((at, state)) if now.saturating_duration_since(*at) < FRESH => *state,
            _ => {
                let state = kernel.state(hop)?;
                self.hops.insert(hop, (now, state));
                state
            }
        };
        let State { link_is_up, neighbour } = state;
        Ok(Way { route, link_is_up, interface, gateway, source, neighbour })
    }
}

/// No route. The link is not known then, and not to blame.
const NOWHERE: Way = Way {
    route: Route::Nowhere,
    link_is_up: true,
    interface: 0,
    gateway: None,
    source: None,
    neighbour: Neighbour::Unknown,
};

/// What the routing tables say of a peer.
struct Path {
    route: RouteType,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    interface: u32,
}

/// A conversation with the kernel.
struct Kernel(Socket);

impl Kernel {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// What the routing tables say; `None` if there is no route.
    fn route(&self, peer: SocketAddr) -> io::Result<Option<Path>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(peer.ip());
        question.header.destination_prefix_length = if peer.is_ipv4() { 32 } else { 128 };
        let address = match peer.ip() {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        };
        question.attributes.push(RouteAttribute::Destination(address));
        if let SocketAddr::V6(peer) = peer
            && peer.scope_id() != 0
        {
            question.attributes.push(RouteAttribute::Oif(peer.scope_id()));
        }
        let answer = match self.ask(RouteNetlinkMessage::GetRoute(question)) {
            Ok(RouteNetlinkMessage::NewRoute(answer)) => answer,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            // As connect(2) would fail.
            Err(err) => match err.raw_os_error() {
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::ENODEV,
                ) => return Ok(None),
                _ => return Err(err),
            },
        };
        let (mut gateway, mut source, mut interface) = (None, None, 0);
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
                RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
                // A gateway of the other version (RFC 8950).
                RouteAttribute::Via(via) => gateway = address_of_via(via).or(gateway),
                RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some((*ip).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some((*ip).into()),
                RouteAttribute::Oif(index) => interface = *index,
                _ => {}
            }
        }
        Ok(Some(Path { route: answer.header.kind, gateway, source, interface }))
    }

    fn link(&self, interface: u32) -> io::Result<LinkMessage> {
        let mut question = LinkMessage::default();
        question.header.index = interface;
        match self.ask(RouteNetlinkMessage::GetLink(question))? {
            RouteNetlinkMessage::NewLink(link) => Ok(link),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn state(&self, hop: Hop) -> io::Result<State> {
        let link = self.link(hop.interface)?;
        let flags = link.header.flags;
        let carrier = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Carrier(carrier) => Some(*carrier != 0),
            _ => None,
        });
        let link_is_up = flags.contains(LinkFlags::Up)
            && carrier.unwrap_or_else(|| flags.contains(LinkFlags::LowerUp));
        Ok(State { link_is_up, neighbour: self.neighbour(hop) })
    }

    fn neighbour(&self, hop: Hop) -> Neighbour {
        let mut question = NeighbourMessage::default();
        question.header.family = family(hop.neighbour);
        question.header.ifindex = hop.interface;
        let address = match hop.neighbour {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        question.attributes.push(NeighbourAttribute::Destination(address));
        // No entry, or a kernel before 5.0 that tells only all of them.
        let Ok(RouteNetlinkMessage::NewNeighbour(entry)) =
            self.ask(RouteNetlinkMessage::GetNeighbour(question))
        else {
            return Neighbour::Unknown;
        };
        match entry.header.state {
            NeighbourState::Incomplete | NeighbourState::Failed => Neighbour::Silent,
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent => Neighbour::Known,
            _ => Neighbour::Unknown,
        }
    }

    /// One question, one answer.
    fn ask(&self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER);
        self.0.recv(&mut answer, 0)?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err.to_string()))?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => Ok(answer),
            NetlinkPayload::Error(err) => Err(err.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn address_of_via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteVia::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
