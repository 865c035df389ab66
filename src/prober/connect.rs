//! Opens one TCP connection and says exactly why if it cannot.
//!
//! The connect is made by hand, since what it returns at once is a problem of this machine, and
//! what comes later is an answer from the network; a library's connect mixes the two. The error
//! queue (`IP_RECVERR`, ip(7)) then tells which ICMP error it was and who sent it.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::evidence::{Event, Transfer};
use crate::machine::Machine;
use crate::outcome::{IcmpError, KernelView};
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::kernel::TcpInfoPrefix;
use crate::prober::{ProbeError, Variation, kernel, trace};

/// A handshake that completed.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) socket: ConnectedSocket,
    pub(super) kernel: Option<KernelView>,
    /// The peer has reset the connection since.
    pub(super) reset: bool,
}

/// Its socket.
#[derive(Debug)]
pub(super) enum ConnectedSocket {
    /// One that never had to wait, so that the event queue knows nothing of it.
    Bare(Socket),
    /// One that the event queue watches.
    Watched(TcpStream),
}

impl ConnectedSocket {
    /// Our own end.
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Bare(socket) => socket
                .local_addr()?
                .as_socket()
                .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into()),
            Self::Watched(stream) => stream.local_addr(),
        }
    }
}

/// A handshake that did not complete.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: ProbeError,
    pub(super) kernel: Option<KernelView>,
    pub(super) transfer: Option<Transfer>,
}

/// Connects, from a source address if one is given.
///
/// # Errors
/// Why not, with all that the kernel knows.
pub(super) async fn connect(
    peer: SocketAddr,
    source: Option<IpAddr>,
    variation: Variation,
    deadline: Deadline,
) -> Result<Connected, Failed> {
    if deadline.end <= std::time::Instant::now() {
        return Err(failed(Event::NoTime, "no time was left to connect".to_owned()));
    }
    let socket = open(peer, source)?;
    if variation != Variation::NONE {
        vary(&socket, peer, source, variation).map_err(|err| call_failed(&err))?;
    }
    if let Err(err) = socket.connect(&SockAddr::from(peer)) {
        match err.raw_os_error() {
            Some(libc::EINPROGRESS) => (),
            // A refusal that was quicker than the system call is still the network's answer.
            Some(errno @ (libc::ECONNREFUSED | libc::ECONNRESET | libc::ETIMEDOUT)) => {
                return Err(answered(&socket, peer, errno));
            }
            _ => return Err(call_failed(&err).into()),
        }
    }
    // Over loopback the handshake takes place within the system call, though it does not say so.
    if peer.ip().is_loopback()
        && let Some(info) = kernel::tcp_info(&socket).filter(kernel::TcpInfoPrefix::is_connected)
    {
        let (socket, kernel) = (ConnectedSocket::Bare(socket), Some(info.view()));
        return Ok(Connected { socket, kernel, reset: false });
    }
    let stream = watch(socket)?;
    loop {
        let woken = deadline.cap(stream.writable()).await;
        // The kernel's word counts, not the timer's: a process stopped past the deadline finds
        // the connection that came up meanwhile.
        let info = kernel::tcp_info(&stream);
        if info.is_some_and(|info| info.is_connected()) {
            let kernel = info.map(|info| info.view());
            let socket = ConnectedSocket::Watched(stream);
            return Ok(Connected { socket, kernel, reset: false });
        }
        match stream.take_error() {
            // In SYN_SENT a reset says ECONNREFUSED, and these two in states after the handshake
            // only (`tcp_reset` in Linux): so the port was open.
            Ok(Some(err)) if matches!(err.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => {
                let kernel = info.map(|info| info.view());
                let socket = ConnectedSocket::Watched(stream);
                return Ok(Connected { socket, kernel, reset: true });
            }
            Ok(Some(err)) | Err(err) => {
                return Err(answered(&stream, peer, err.raw_os_error().unwrap_or(0)));
            }
            Ok(None) => (),
        }
        match woken {
            Err(Elapsed { stalled }) => return Err(silent(info, stalled)),
            // No `TCP_INFO`, as in some sandboxes: writable and no error is connected.
            Ok(Ok(())) if info.is_none() => {
                let socket = ConnectedSocket::Watched(stream);
                return Ok(Connected { socket, kernel: None, reset: false });
            }
            // Woken by an entry of the error queue that did not end the connect.
            Ok(Ok(())) => {
                let _ = kernel::icmp_error(&stream, 0);
                let _ = stream
                    .try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Ok(Err(err)) => return Err(call_failed(&err).into()),
        }
    }
}

/// A reset that takes longer came from elsewhere.
const RESET_HERE: Duration = Duration::from_millis(20);
/// Tries to find a moment without other traffic.
const TRIES: usize = 5;

/// Whether a reset that came so quickly was made by this machine, as its output chain does with
/// `reject with tcp reset`: the kernel hands it in within the call that connects, and nothing
/// passes the interface. Neither alone would do: a container of this machine answers within the
/// call too. Connects once more, so only for what was refused.
pub(super) fn is_reset_ours(peer: SocketAddr, source: Option<IpAddr>, took: Duration) -> bool {
    if took > RESET_HERE || peer.ip().is_loopback() {
        return false;
    }
    for _ in 0..TRIES {
        let mut refused_within = false;
        let stays_inside = Machine::stays_inside(peer, || {
            let Ok(socket) = open(peer, source) else { return };
            let _ = socket.connect(&SockAddr::from(peer));
            refused_within = kernel::tcp_info(&socket).is_some_and(|info| info.is_closed());
        });
        if stays_inside || !refused_within {
            return stays_inside && refused_within;
        }
    }
    false
}

/// A socket that is ready to connect.
fn open(peer: SocketAddr, source: Option<IpAddr>) -> Result<Socket, ProbeError> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::TCP))
        .map_err(|err| call_failed(&err))?;
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
            let errno = err.raw_os_error();
            return Err(ProbeError { errno, ..ProbeError::new(Event::Misconfigured, detail) });
        }
    }
    Ok(socket)
}

/// Changes what a counter-check changes.
fn vary(
    socket: &Socket,
    peer: SocketAddr,
    source: Option<IpAddr>,
    Variation { source_port, segment_size }: Variation,
) -> io::Result<()> {
    if let Some(size) = segment_size {
        setsockopt(socket, sockopt::TcpMaxSeg, &size)?;
    }
    if let Some(port) = source_port {
        trace::keep_flow(socket, peer)?;
        socket.bind(&SockAddr::from(SocketAddr::new(
            source.unwrap_or_else(|| trace::any_address(peer)),
            port,
        )))?;
    }
    Ok(())
}

/// Makes a socket known to the event queue.
///
/// # Errors
/// The queue takes no more.
pub(super) fn watch(socket: Socket) -> Result<TcpStream, ProbeError> {
    TcpStream::from_std(socket.into()).map_err(|err| call_failed(&err))
}

impl From<ProbeError> for Failed {
    fn from(error: ProbeError) -> Self {
        Self { error, kernel: None, transfer: None }
    }
}

fn failed(event: Event, detail: String) -> Failed {
    ProbeError::new(event, detail).into()
}

/// What a system call says at once comes from this machine.
pub(super) fn call_failed(err: &io::Error) -> ProbeError {
    let errno = err.raw_os_error();
    let detail = format!("{err}, at once and from this machine");
    ProbeError { errno, ..ProbeError::new(Event::CallFailed(errno.unwrap_or(0)), detail) }
}

/// What ended an open connection.
pub(super) fn broken(err: &io::Error) -> ProbeError {
    let errno = err.raw_os_error();
    ProbeError { errno, ..ProbeError::new(Event::Errno(errno.unwrap_or(0)), err.to_string()) }
}

fn silent(info: Option<TcpInfoPrefix>, stalled: bool) -> Failed {
    let kernel = info.map(|info| info.view());
    let syns = kernel.map_or(0, |view| view.syn_retransmits).saturating_add(1);
    let plural = if syns == 1 { "" } else { "s" };
    let (event, detail) = if stalled {
        (Event::Overslept, "this process slept past the deadline".to_owned())
    } else {
        (Event::Silence, format!("nothing came back for {syns} SYN{plural}"))
    };
    Failed { kernel, transfer: info.map(|info| info.transfer()), ..failed(event, detail) }
}

/// What the network answered.
fn answered(socket: &impl AsFd, peer: SocketAddr, errno: i32) -> Failed {
    let icmp = kernel::icmp_error(socket, errno);
    let mut detail = io::Error::from_raw_os_error(errno).to_string();
    if let Some(IcmpError { offender, kind, code }) = icmp {
        let version = if peer.is_ipv6() { "ICMPv6" } else { "ICMP" };
        let _ = write!(detail, ", {version} type {kind} code {code}");
        if let Some(offender) = offender {
            let _ = write!(detail, " from {offender}");
        }
    }
    let event = icmp.map_or(Event::Errno(errno), Event::Icmp);
    let error = ProbeError { errno: Some(errno), ..ProbeError::new(event, detail) };
    let info = kernel::tcp_info(socket);
    let kernel = info.map(|info| info.view());
    Failed { error, kernel, transfer: info.map(|info| info.transfer()) }
}
