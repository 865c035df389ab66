//! Opens one TCP connection and says exactly why if it cannot.
//!
//! The connect is made by hand, since what it returns at once is a problem of this machine, and
//! what comes later is an answer from the network; a library's connect mixes the two. The error
//! queue (`IP_RECVERR`, ip(7)) then tells which ICMP error it was and who sent it.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::outcome::{IcmpError, KernelView, Reason};
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::{ProbeError, kernel};

/// A connection that came up.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Link,
    pub(super) kernel: Option<KernelView>,
}

/// Its socket.
#[derive(Debug)]
pub(super) enum Link {
    /// One that never had to wait, so that the event queue knows nothing of it.
    Bare(Socket),
    /// One that the event queue watches.
    Watched(TcpStream),
}

/// A connect that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: ProbeError,
    pub(super) icmp: Option<IcmpError>,
    pub(super) kernel: Option<KernelView>,
}

/// Connects, from a source address if one is given.
///
/// # Errors
/// Why not, with all that the kernel knows.
pub(super) async fn connect(
    peer: SocketAddr,
    source: Option<IpAddr>,
    deadline: Deadline,
) -> Result<Connection, Failed> {
    if deadline.end <= std::time::Instant::now() {
        // Nothing waits for the network before this point, so only this machine can be late.
        return Err(stalled(None));
    }
    let socket = open(peer, source)?;
    if let Err(err) = socket.connect(&SockAddr::from(peer)) {
        match err.raw_os_error() {
            Some(libc::EINPROGRESS) => (),
            // A refusal that was quicker than the system call is still the network's answer.
            Some(errno @ (libc::ECONNREFUSED | libc::ECONNRESET | libc::ETIMEDOUT)) => {
                return Err(answered(&socket, peer, errno));
            }
            _ => return Err(local(&err)),
        }
    }
    // Over loopback the handshake takes place within the system call, though it does not say so.
    if peer.ip().is_loopback()
        && let Some(info) = kernel::tcp_info(&socket).filter(kernel::TcpInfoPrefix::is_connected)
    {
        return Ok(Connection { link: Link::Bare(socket), kernel: Some(info.view()) });
    }
    let stream = watch(socket)?;
    loop {
        let woken = deadline.cap(stream.writable()).await;
        // The kernel's word counts, not the timer's: a process stopped past the deadline finds
        // the connection that came up meanwhile.
        let info = kernel::tcp_info(&stream);
        if info.is_some_and(|it| it.is_connected()) {
            let kernel = info.map(|it| it.view());
            return Ok(Connection { link: Link::Watched(stream), kernel });
        }
        match stream.take_error() {
            Ok(Some(err)) | Err(err) => {
                return Err(answered(&stream, peer, err.raw_os_error().unwrap_or(0)));
            }
            Ok(None) => (),
        }
        let view = info.map(|it| it.view());
        match woken {
            Err(Elapsed { stalled: true }) => return Err(stalled(view)),
            Err(Elapsed { stalled: false }) => return Err(silent(view)),
            // No `TCP_INFO`, as in some sandboxes: writable and no error is connected.
            Ok(Ok(())) if info.is_none() => {
                return Ok(Connection { link: Link::Watched(stream), kernel: None });
            }
            // Woken by an entry of the error queue that did not end the connect.
            Ok(Ok(())) => {
                let _ = kernel::icmp_error(&stream, 0);
                let _ = stream
                    .try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Ok(Err(err)) => return Err(local(&err)),
        }
    }
}

/// A socket that is ready to connect.
fn open(peer: SocketAddr, source: Option<IpAddr>) -> Result<Socket, Failed> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::TCP))
        .map_err(|err| local(&err))?;
    // Without these the queue stays empty on some kernels; the connect works all the same.
    let _ = match peer {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    if let Some(source) = source {
        // Leaves the choice of the port to connect, so that each target has all ports.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        if let Err(err) = socket.bind(&SockAddr::from(SocketAddr::new(source, 0))) {
            let detail = format!("cannot bind source address {source}: {err}");
            return Err(failed(Reason::LocalConfig, err.raw_os_error(), detail));
        }
    }
    Ok(socket)
}

/// Makes a socket known to the event queue.
///
/// # Errors
/// The queue takes no more.
pub(super) fn watch(socket: Socket) -> Result<TcpStream, ProbeError> {
    TcpStream::from_std(socket.into()).map_err(|err| local(&err).error)
}

impl From<ProbeError> for Failed {
    fn from(error: ProbeError) -> Self {
        Self { error, icmp: None, kernel: None }
    }
}

fn failed(reason: Reason, errno: Option<i32>, detail: String) -> Failed {
    ProbeError { reason, errno, detail }.into()
}

/// What a system call says at once comes from this machine.
fn local(err: &io::Error) -> Failed {
    let errno = err.raw_os_error();
    let reason = match errno {
        // `unreachable` and `blackhole` routes answer with the latter two, as does a link-local
        // address without a zone, and a machine without IPv6 with the last.
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EAFNOSUPPORT) => {
            Reason::LocalNoRoute
        }
        _ => Reason::LocalResources,
    };
    failed(reason, errno, format!("{err}, at once and from this machine"))
}

fn stalled(kernel: Option<KernelView>) -> Failed {
    let detail = "this process slept past the deadline".to_owned();
    Failed { kernel, ..failed(Reason::LocalStall, None, detail) }
}

fn silent(kernel: Option<KernelView>) -> Failed {
    let syns = kernel.map_or(0, |it| it.syn_retransmits).saturating_add(1);
    let plural = if syns == 1 { "" } else { "s" };
    let detail = format!("nothing came back for {syns} SYN{plural}");
    Failed { kernel, ..failed(Reason::Timeout, None, detail) }
}

/// What the network answered.
fn answered(socket: &impl AsFd, peer: SocketAddr, errno: i32) -> Failed {
    let icmp = kernel::icmp_error(socket, errno);
    let own = icmp.and_then(|it| it.offender).is_some_and(|it| {
        // On a target of this very machine its firewall is the target's.
        it != peer.ip() && kernel::is_own(it)
    });
    let reason = icmp.map_or_else(|| by_errno(errno), |it| by_icmp(peer.is_ipv6(), it, own));
    let mut detail = io::Error::from_raw_os_error(errno).to_string();
    if let Some(IcmpError { offender, kind, code }) = icmp {
        let version = if peer.is_ipv6() { "ICMPv6" } else { "ICMP" };
        let _ = write!(detail, ", {version} type {kind} code {code}");
        if let Some(offender) = offender {
            let whose = if own { " (this machine)" } else { "" };
            let _ = write!(detail, " from {offender}{whose}");
        }
    }
    let kernel = kernel::tcp_info(socket).map(|it| it.view());
    Failed { icmp, kernel, ..failed(reason, Some(errno), detail) }
}

/// The reason where no ICMP error is at hand.
const fn by_errno(errno: i32) -> Reason {
    match errno {
        libc::ECONNREFUSED => Reason::Refused,
        libc::ECONNRESET | libc::EPIPE => Reason::Reset,
        libc::ETIMEDOUT => Reason::Timeout,
        // No router said so: the way was lost here, between two SYNs.
        libc::ENETUNREACH => Reason::LocalNoRoute,
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Reason::HostUnreachable,
        // Asynchronous, so an ICMP error: ICMPv6 1/1.
        libc::EACCES => Reason::Prohibited,
        libc::ENOPROTOOPT => Reason::Rejected,
        libc::ENOBUFS | libc::ENOMEM => Reason::LocalResources,
        _ => Reason::NetworkError,
    }
}

/// The reason by RFC 792 and RFC 1812 (version 4), RFC 4443 (version 6).
const fn by_icmp(v6: bool, icmp: IcmpError, own: bool) -> Reason {
    let reason = match (v6, icmp.kind, icmp.code) {
        // A neighbour that does not answer is told by our own kernel.
        (false, 3, 1 | 7 | 12) | (true, 1, 3) => return Reason::HostUnreachable,
        (false, 3, 0 | 6 | 11) | (true, 1, 0 | 2) => Reason::NetUnreachable,
        // Time exceeded: routers send the packet round in circles.
        (false, 11, _) | (true, 3, _) => return Reason::NetUnreachable,
        (false, 3, 2 | 3) | (true, 1, 4) => Reason::Rejected,
        (false, 3, 9 | 10 | 13 | 14 | 15) | (true, 1, 1 | 5 | 6) => Reason::Prohibited,
        _ => return Reason::NetworkError,
    };
    if own { Reason::LocalFirewall } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(v6: bool, kind: u8, code: u8, own: bool, expected: Reason) {
        assert_eq!(by_icmp(v6, IcmpError { offender: None, kind, code }, own), expected);
    }

    #[test]
    fn icmp_codes_have_their_reasons() {
        check(false, 3, 0, false, Reason::NetUnreachable);
        check(false, 3, 1, false, Reason::HostUnreachable);
        check(false, 3, 3, false, Reason::Rejected);
        check(false, 3, 13, false, Reason::Prohibited);
        check(true, 1, 0, false, Reason::NetUnreachable);
        check(true, 1, 1, false, Reason::Prohibited);
        check(true, 1, 3, false, Reason::HostUnreachable);
        check(true, 1, 4, false, Reason::Rejected);
        check(false, 12, 0, false, Reason::NetworkError);
        check(true, 4, 1, false, Reason::NetworkError);
    }

    #[test]
    fn our_own_address_means_our_own_firewall_unless_a_neighbour_is_silent() {
        check(false, 3, 3, true, Reason::LocalFirewall);
        check(false, 3, 13, true, Reason::LocalFirewall);
        check(true, 1, 1, true, Reason::LocalFirewall);
        check(true, 1, 4, true, Reason::LocalFirewall);
        check(false, 3, 1, true, Reason::HostUnreachable);
        check(true, 1, 3, true, Reason::HostUnreachable);
    }

    #[test]
    fn what_a_system_call_says_at_once_is_never_the_targets_fault() {
        for errno in 1..=133 {
            let reason = local(&io::Error::from_raw_os_error(errno)).error.reason;
            assert!(reason.as_str().starts_with("local_"), "{errno}: {reason}");
        }
    }
}
