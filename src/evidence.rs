//! What one probe saw, phase by phase. Nothing is concluded here: that is the work of
//! [`diagnosis`](crate::diagnosis).

use std::net::IpAddr;
use std::time::Duration;

use crate::module::ExpectConnect;
use crate::outcome::{IcmpError, Phase};

/// The last thing that happened in a probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The target's text names no host and port.
    InvalidTarget,
    /// The access rules refuse the target.
    Denied,
    /// The module cannot be carried out here: a certificate file or a source address is wrong.
    Misconfigured,
    /// A bound of the exporter's own was reached.
    Exhausted,
    /// The deadline had passed before the first packet could be sent.
    NoTime,
    /// This process slept through the end of a wait.
    Overslept,
    /// A system call failed at once, before any packet could have been answered.
    CallFailed(i32),
    /// The lookup of the name ended so.
    Lookup(Lookup),
    /// The handshake completed and nothing more was wanted.
    Connected,
    /// An ICMP error ended the handshake; the error queue has it.
    Icmp(IcmpError),
    /// The kernel ended the connection with this errno, and the error queue has no ICMP error.
    Errno(i32),
    /// Nothing came, or nothing more, until the deadline.
    Silence,
    /// The peer closed the connection without a word.
    Closed,
    /// The peer closed the connection after words that were not the expected ones.
    ClosedAfterWords,
    /// TLS failed.
    Tls(TlsFault),
    /// The peer said something else than expected.
    Mismatch,
    /// The peer said what the module rejects.
    Rejection,
}

/// How the lookup of a name ended without an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lookup {
    /// A name server answered: no such name.
    NoSuchName,
    /// A name server answered: no address of a family that the module may use.
    NoAddress,
    /// The name servers answered this question with an error.
    Failed,
    /// Nobody answered this question in time.
    Unanswered,
    /// Our name servers are absent, refuse everything, or answer no question at all.
    NoResolver,
}

/// What was wrong with TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsFault {
    /// The peer's bytes are not TLS.
    NotTls,
    /// The issuer is not trusted, or the chain is incomplete.
    Untrusted,
    /// A certificate has expired.
    Expired,
    /// A certificate is not valid yet.
    NotYetValid,
    /// The certificate is for another name.
    WrongName,
    /// The server wants a client certificate, or does not accept ours.
    ClientCertificate,
    /// No common ground, or an alert.
    Handshake,
}

/// Everything that a diagnosis looks at of one probe.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// The phase in which it ended.
    pub phase: Phase,
    /// How it ended.
    pub event: Event,
    /// What the module wants of the handshake.
    pub expect: ExpectConnect,
    /// The address that was tried.
    pub peer: Option<IpAddr>,
    /// From the start of the connect to the end.
    pub connect: Duration,
    /// `notBefore` and `notAfter` between which every certificate is valid, Unix seconds.
    pub validity: Option<(i64, i64)>,
    /// The kernel's counters of the connection at the end.
    pub transfer: Option<Transfer>,
    /// The timeout in force.
    pub timeout: Duration,
    /// Time spent on the name.
    pub resolve: Duration,
    /// When this process did not run.
    pub sleep: Sleep,
}

impl Evidence {
    /// An event alone.
    #[must_use]
    pub const fn of(event: Event, phase: Phase) -> Self {
        Self {
            phase,
            event,
            expect: ExpectConnect::Open,
            peer: None,
            connect: Duration::ZERO,
            validity: None,
            transfer: None,
            timeout: Duration::MAX,
            resolve: Duration::ZERO,
            sleep: Sleep { long: Duration::ZERO, all: Duration::ZERO },
        }
    }
}

/// What `TCP_INFO` says of the segments of one connection (tcp(7), `linux/tcp.h`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Transfer {
    /// Segments sent and not acknowledged (`tcpi_unacked`).
    pub unacked: u32,
    /// Of these, segments sent again that went out (`tcpi_retrans`).
    pub resent_out: u32,
    /// Segments sent again, whether or not they went out (`tcpi_total_retrans`).
    pub resent: u32,
    /// Times the retransmission timer doubled (`tcpi_backoff`).
    pub backoff: u32,
    /// Bytes acknowledged; the SYN counts as one (`tcpi_bytes_acked`).
    pub acknowledged: u64,
    /// Bytes that were not sent yet (`tcpi_notsent_bytes`).
    pub unsent: u32,
    /// Bytes that the peer would take (`tcpi_snd_wnd`).
    pub window: u32,
    /// Segments that came with a gap before them (`tcpi_rcv_ooopack`).
    pub out_of_order: u32,
}

/// When this process did not run during a probe, by its heartbeat.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sleep {
    /// In long pauses: stopped, suspended.
    pub long: Duration,
    /// In pauses of any length: starved too.
    pub all: Duration,
}
