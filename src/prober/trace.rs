//! Asks the routers on the way to a target, without privileges.
//!
//! Each hop gets one SYN of an ordinary connect with a small TTL. The router at which it runs out
//! answers with ICMP "time exceeded", and the kernel puts that answer, with its sender, into the
//! error queue of the connecting socket (Linux commit 45af29ca761c; `IP_RECVERR`, ip(7)).
//!
//! All SYNs of a trace leave from the same port, so that routers with several equal ways send them
//! the same way. The kernel's own sequence numbers tell a late answer to an earlier hop apart: it
//! is dropped (`tcp_v4_err`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::outcome::IcmpError;
use crate::path::{MAX_HOPS, MAX_SILENT_HOPS, Path, PathEnd, Router, is_loop};
use crate::prober::kernel;

/// How long a hop may take to answer.
const WAIT: Duration = Duration::from_millis(700);
/// How long a silent hop is given the second time, in which the kernel sends its SYN twice (after
/// one second, RFC 6298): routers limit their answers to one a second (`icmp_ratelimit`, icmp(7)).
const SECOND_WAIT: Duration = Duration::from_millis(1900);
/// Ports tried until one stays free.
const PORT_ATTEMPTS: usize = 8;

sockopt_impl!(
    /// `TCP_SYNCNT`, tcp(7): SYNs sent again before a connect gives up.
    SynRetries,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_SYNCNT,
    libc::c_int
);
sockopt_impl!(
    /// `IPV6_AUTOFLOWLABEL` (`linux/in6.h`): without it each socket has a flow label of its own,
    /// and routers that look at it send each hop another way.
    AutoFlowLabel,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_AUTOFLOWLABEL,
    libc::c_int
);

/// What one SYN brought.
enum Answer {
    Router(Router),
    End(PathEnd),
    Nothing,
}

/// Follows the path to `peer`, from `source` if it is given.
///
/// Takes a few round trips where every router answers, and at most
/// `(MAX_HOPS + 1) * (WAIT + SECOND_WAIT)`.
pub(super) async fn trace(peer: SocketAddr, source: Option<IpAddr>) -> Path {
    let mut path = Path::new(peer, Vec::new(), PathEnd::Local(libc::EADDRINUSE));
    for _ in 0..PORT_ATTEMPTS {
        // The port is free when it is chosen, and may be taken by another before a hop binds it.
        if path.end != PathEnd::Local(libc::EADDRINUSE) {
            break;
        }
        path = match free_port(peer, source) {
            Ok(local) => trace_from(peer, local).await,
            Err(err) => Path::new(peer, Vec::new(), local_error(&err)),
        };
    }
    path
}

async fn trace_from(peer: SocketAddr, local: SocketAddr) -> Path {
    let mut hops = Vec::new();
    let mut end = walk(peer, local, &mut hops).await;
    // Behind three silent hops may be more, and a silent hop may have reached its limit of answers
    // a second.
    let silent: Vec<usize> = (0..hops.len()).filter(|&index| hops[index].is_none()).collect();
    for index in silent {
        match ask(peer, local, distance(index), SECOND_WAIT).await {
            Answer::Router(router) => hops[index] = Some(router),
            Answer::End(found) if found.is_reached() || !end.is_reached() => {
                hops.truncate(index);
                end = found;
                break;
            }
            Answer::End(_) | Answer::Nothing => (),
        }
    }
    if end == PathEnd::Silent && hops.last().is_some_and(Option::is_some) {
        end = walk(peer, local, &mut hops).await;
    }
    Path::new(peer, hops, end)
}

/// Asks one hop after the other, beyond those that are known.
async fn walk(peer: SocketAddr, local: SocketAddr, hops: &mut Vec<Option<Router>>) -> PathEnd {
    let known = hops.len();
    while hops.len() < usize::from(MAX_HOPS) {
        match ask(peer, local, distance(hops.len()), WAIT).await {
            Answer::Router(router) => hops.push(Some(router)),
            Answer::End(end) => return end,
            Answer::Nothing => hops.push(None),
        }
        if is_loop(hops) {
            return PathEnd::Loop;
        }
        let silent = hops[known..].iter().rev().take_while(|hop| hop.is_none()).count();
        if silent == MAX_SILENT_HOPS {
            return PathEnd::Silent;
        }
    }
    PathEnd::TooLong
}

/// The TTL that runs out at the hop of this index.
fn distance(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(MAX_HOPS)
}

/// Sends one SYN that travels `ttl` hops, and waits for its answer.
async fn ask(peer: SocketAddr, local: SocketAddr, ttl: u8, wait: Duration) -> Answer {
    match send(peer, local, ttl) {
        Ok(socket) => answer(socket, peer, wait).await,
        Err(err) => Answer::End(local_error(&err)),
    }
}

/// A socket that has sent its SYN.
fn send(peer: SocketAddr, local: SocketAddr, ttl: u8) -> io::Result<(Socket, Instant)> {
    let socket =
        Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match peer {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Ttl, &ttl.into())?;
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6Ttl, &ttl.into())?;
        }
    }
    keep_flow(&socket, peer)?;
    setsockopt(&socket, SynRetries, &1)?;
    socket.bind(&SockAddr::from(local))?;
    let begun = Instant::now();
    match socket.connect(&SockAddr::from(peer)) {
        Err(err) if err.raw_os_error() != Some(libc::EINPROGRESS) => Err(err),
        Ok(()) | Err(_) => Ok((socket, begun)),
    }
}

/// Waits for what a SYN brings.
async fn answer((socket, begun): (Socket, Instant), peer: SocketAddr, wait: Duration) -> Answer {
    let stream = match tokio::net::TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        Err(err) => return Answer::End(local_error(&err)),
    };
    if tokio::time::timeout(wait, stream.writable()).await.is_err() {
        return Answer::Nothing;
    }
    let round_trip = begun.elapsed();
    if kernel::tcp_info(&stream).is_some_and(|info| info.is_connected()) {
        // Closed with a reset: the port stays free for the hops that are asked again.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Answer::End(PathEnd::Open);
    }
    let errno = match stream.take_error() {
        Ok(None) => 0,
        Ok(Some(err)) | Err(err) => err.raw_os_error().unwrap_or_default(),
    };
    match kernel::icmp_error(&stream, errno) {
        Some(IcmpError { offender: Some(address), kind, .. }) if kind == time_exceeded(peer) => {
            Answer::Router(Router { address, round_trip })
        }
        Some(icmp) => Answer::End(PathEnd::Rejected(icmp)),
        None if errno == libc::ECONNREFUSED => Answer::End(PathEnd::Refused),
        // The handshake was complete before the reset came.
        None if errno == libc::ECONNRESET => Answer::End(PathEnd::Open),
        None if matches!(errno, 0 | libc::ETIMEDOUT) => Answer::Nothing,
        None => Answer::End(PathEnd::Local(errno)),
    }
}

/// Sends all packets of a socket the same way, those of other sockets with the same ports too.
pub(super) fn keep_flow(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    if peer.is_ipv6() {
        setsockopt(socket, AutoFlowLabel, &0)?;
    }
    Ok(())
}

/// The type of "time exceeded" (RFC 792, RFC 4443 3.3).
const fn time_exceeded(peer: SocketAddr) -> u8 {
    if peer.is_ipv4() { 11 } else { 3 }
}

/// An address of this machine with a free port. The sockets of a trace ask for it by number: a
/// port that the kernel chose is given back with the first failed connect.
pub(super) fn free_port(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket
        .bind(&SockAddr::from(SocketAddr::new(source.unwrap_or_else(|| any_address(peer)), 0)))?;
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Whichever address of this machine routes choose.
pub(super) const fn any_address(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn local_error(err: &io::Error) -> PathEnd {
    PathEnd::Local(err.raw_os_error().unwrap_or_default())
}
