//! The bytes of an open connection, plain or in TLS.
//!
//! An ICMP error for an established connection is a hint (RFC 1122, 4.2.3.9; RFC 5927): it may be
//! forged, and TCP goes on. With `IP_RECVERR` the kernel hands it out once, from the next read or
//! write, and forgets it; so it is noted here and the call repeated. Only its errno is known: the
//! error queue of a socket has the sender of those errors alone that ended a handshake.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::evidence::Transfer;
use crate::prober::kernel;

/// A connection at whichever stage.
#[derive(Debug)]
pub(super) enum Stream {
    /// Not watched by the event queue yet.
    Bare(Socket),
    Plain(TcpBytes),
    Tls(Box<TlsStream<TcpBytes>>),
    /// Given away for good: a TLS handshake did not come to an end.
    Gone,
}

/// A TCP connection that outlives ICMP errors.
#[derive(Debug)]
pub(super) struct TcpBytes {
    socket: TcpStream,
    /// The errno of the last hint.
    hint: Option<i32>,
    /// Once true, every call fails: so a handshake gives its connection back.
    revoked: Arc<AtomicBool>,
}

impl TcpBytes {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, hint: None, revoked: Arc::default() }
    }

    /// The flag that revokes it.
    pub(super) fn revoked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.revoked)
    }

    /// Takes it from the event queue.
    pub(super) fn into_socket(self) -> io::Result<Socket> {
        self.socket.into_std().map(Socket::from)
    }

    fn check(&self) -> io::Result<()> {
        if self.revoked.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Repeats a call as long as it says nothing but hints.
    fn beyond_hints<T>(
        &mut self,
        mut call: impl FnMut(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check()?;
        loop {
            match call(Pin::new(&mut self.socket)) {
                Poll::Ready(Err(err)) if is_hint(&err) => self.hint = err.raw_os_error(),
                polled => return polled,
            }
        }
    }
}

/// Whether an error was brought by ICMP: those that end a connection are few.
fn is_hint(err: &io::Error) -> bool {
    matches!(
        err.raw_os_error(),
        Some(
            libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ECONNREFUSED
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO
                | libc::EACCES
                | libc::EMSGSIZE
        )
    )
}

impl AsyncRead for TcpBytes {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().beyond_hints(|socket| socket.poll_read(task, buffer))
    }
}

impl AsyncWrite for TcpBytes {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().beyond_hints(|socket| socket.poll_write(task, bytes))
    }

    // TLS sends a flight in one piece, before the peer can close in the middle of it.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().beyond_hints(|socket| socket.poll_write_vectored(task, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().beyond_hints(|socket| socket.poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().beyond_hints(|socket| socket.poll_shutdown(task))
    }
}

// === impl Stream ===

impl Stream {
    fn tcp(&self) -> Option<&TcpBytes> {
        match self {
            Self::Plain(bytes) => Some(bytes),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Bare(_) | Self::Gone => None,
        }
    }

    /// What became of the data, by the kernel.
    pub(super) fn transfer(&self) -> Option<Transfer> {
        self.tcp().and_then(|bytes| kernel::transfer(&bytes.socket))
    }

    /// The last ICMP error that came for the data.
    pub(super) fn hint(&self) -> Option<io::Error> {
        self.tcp()?.hint.map(io::Error::from_raw_os_error)
    }

    fn gone<T>() -> Poll<io::Result<T>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(task, buffer),
            Self::Bare(_) | Self::Gone => Self::gone(),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(task, bytes),
            Self::Bare(_) | Self::Gone => Self::gone(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(task),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(task),
            Self::Bare(_) | Self::Gone => Self::gone(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(task),
            Self::Bare(_) | Self::Gone => Self::gone(),
        }
    }
}
