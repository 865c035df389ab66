//! What the kernel tells about a socket: `TCP_INFO` and the error queue. Needs no privilege.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg};
use nix::{cmsg_space, getsockopt_impl, sockopt_impl};

use crate::evidence::Transfer;
use crate::outcome::{IcmpError, KernelView};

/// Entries of the error queue that are read; a SYN sent again may have brought several.
const MAX_ERRORS: usize = 8;
/// `ee_origin` of an ICMP error (`linux/errqueue.h`).
const ORIGIN_ICMP: u8 = 2;
/// `ee_origin` of an `ICMPv6` error.
const ORIGIN_ICMP6: u8 = 3;
/// States of `tcpi_state` (`net/tcp_states.h`) in which the handshake has not succeeded.
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;

/// The beginning of `struct tcp_info` (`linux/tcp.h`), which every kernel since 2.6 fills.
///
/// A prefix, since the option fails on a type larger than the running kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(unreachable_pub, reason = "the option's type that the macro makes is `pub`")]
pub struct TcpInfoPrefix {
    state: u8,
    before_backoff: [u8; 3],
    backoff: u8,
    small: [u8; 3],
    before_unacked: [u32; 4],
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    before_rtt: [u32; 7],
    rtt: u32,
    after_rtt: [u32; 7],
    total_retrans: u32,
}

/// As much of it as Linux 5.4 and later fill.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(unreachable_pub, reason = "the option's type that the macro makes is `pub`")]
pub struct TcpInfoLong {
    prefix: TcpInfoPrefix,
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    /// `tcpi_segs_out`, `tcpi_segs_in`, `tcpi_notsent_bytes`, `tcpi_min_rtt`.
    segments: [u32; 4],
    data_segments: [u32; 2],
    rates_and_times: [u64; 4],
    delivered: [u32; 2],
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

sockopt_impl!(
    /// `TCP_INFO`, tcp(7).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfoPrefix
);

sockopt_impl!(
    /// `TCP_INFO` of a newer kernel.
    TcpInfoOfNewKernels,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfoLong
);

impl TcpInfoPrefix {
    /// Whether the handshake succeeded and nothing has torn the connection down since.
    pub(super) const fn is_connected(&self) -> bool {
        !matches!(self.state, SYN_SENT | SYN_RECV | CLOSE)
    }

    /// Whether it is over.
    pub(super) const fn is_closed(&self) -> bool {
        self.state == CLOSE
    }

    /// Of a listener: whether connections wait to be accepted.
    pub(super) const fn has_pending(&self) -> bool {
        self.unacked > 0
    }

    /// The part that a result keeps.
    pub(super) fn view(&self) -> KernelView {
        // After a segment was sent again the kernel has timed something else than a round trip.
        let measured = self.is_connected() && self.rtt > 0 && self.total_retrans == 0;
        KernelView {
            rtt: measured.then(|| Duration::from_micros(self.rtt.into())),
            syn_retransmits: self.total_retrans,
        }
    }

    /// The part that a diagnosis looks at.
    pub(super) fn transfer(&self) -> Transfer {
        Transfer {
            unacked: self.unacked,
            resent_out: self.retrans,
            resent: self.total_retrans,
            backoff: self.backoff.into(),
            ..Transfer::default()
        }
    }
}

/// What became of the data of a connection; `None` where the kernel does not tell.
pub(super) fn transfer(socket: &impl AsFd) -> Option<Transfer> {
    // A longer type than the kernel's would be refused by a panic of the library.
    if !kernel_is_at_least(5, 4) {
        return tcp_info(socket).map(|info| info.transfer());
    }
    let info = getsockopt(socket, TcpInfoOfNewKernels).ok()?;
    Some(Transfer {
        acknowledged: info.bytes_acked,
        unsent: info.segments[2],
        window: info.snd_wnd,
        out_of_order: info.rcv_ooopack,
        ..info.prefix.transfer()
    })
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(second))) => (first, second) >= (major, minor),
        _ => false,
    }
}

/// The kernel's view of a connection; `None` where the option does not exist.
pub(super) fn tcp_info(socket: &impl AsFd) -> Option<TcpInfoPrefix> {
    getsockopt(socket, TcpInfo).ok()
}

/// The ICMP error behind a failed connect, the one with this `errno` if there are several.
pub(super) fn icmp_error(socket: &impl AsFd, errno: i32) -> Option<IcmpError> {
    let mut found = None;
    for _ in 0..MAX_ERRORS {
        let Some((error, icmp)) = next_error(socket) else { break };
        if error == errno || found.is_none() {
            found = icmp.or(found);
        }
    }
    found
}

/// Takes one entry from the error queue: its errno, and the ICMP error if it is one.
fn next_error(socket: &impl AsFd) -> Option<(i32, Option<IcmpError>)> {
    let mut packet = [0; 64];
    let mut iov = [IoSliceMut::new(&mut packet)];
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, [u8; 64]);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut iov,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    )
    .ok()?;
    for control in message.cmsgs().ok()? {
        let (error, offender) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => (
                error,
                offender
                    .filter(|it| i32::from(it.sin_family) == libc::AF_INET)
                    .map(|it| IpAddr::V4(Ipv4Addr::from(u32::from_be(it.sin_addr.s_addr)))),
            ),
            ControlMessageOwned::Ipv6RecvErr(error, offender) => (
                error,
                offender
                    .filter(|it| i32::from(it.sin6_family) == libc::AF_INET6)
                    .map(|it| IpAddr::V6(Ipv6Addr::from(it.sin6_addr.s6_addr)).to_canonical()),
            ),
            _ => continue,
        };
        let from_network = matches!(error.ee_origin, ORIGIN_ICMP | ORIGIN_ICMP6);
        let icmp = IcmpError { offender, kind: error.ee_type, code: error.ee_code };
        return Some((i32::try_from(error.ee_errno).ok()?, from_network.then_some(icmp)));
    }
    None
}
