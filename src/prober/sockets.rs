//! The sockets of the resolver, which remember what went wrong on this machine.
//!
//! The resolver tries other servers and other ways when it gets no socket or has no way to a
//! server, and says in the end only that nobody answered. That would blame a name for our own
//! lack of descriptors or routes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider};
use tokio::net::UdpSocket;

type Making<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Makes sockets and counts the errors of this machine.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    inner: TokioRuntimeProvider,
    lack: Arc<Lack>,
}

#[derive(Debug, Default)]
struct Lack {
    count: AtomicUsize,
    errno: AtomicI32,
}

impl Sockets {
    /// How many errors there were so far.
    pub(super) fn failures(&self) -> usize {
        self.lack.count.load(Ordering::Acquire)
    }

    /// The last error, if there were more than that many.
    pub(super) fn failed_since(&self, failures: usize) -> Option<i32> {
        (self.failures() != failures).then(|| self.lack.errno.load(Ordering::Relaxed))
    }
}

impl Lack {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(err) = &result
            && let Some(
                errno @ (libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EPERM),
            ) = err.raw_os_error()
        {
            self.errno.store(errno, Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Release);
        }
        result
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lack.fmt(f)
    }
}

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = Asking;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.inner.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Making<Self::Tcp> {
        let making = self.inner.connect_tcp(server, bind, timeout);
        let lack = self.lack.clone();
        Box::pin(async move { lack.note(making.await) })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Making<Self::Udp> {
        let making = self.inner.bind_udp(local, server);
        let lack = self.lack.clone();
        Box::pin(async move {
            let socket = lack.note(making.await)?;
            Ok(Asking { socket, lack })
        })
    }
}

/// A socket over which questions are sent.
pub(super) struct Asking {
    socket: UdpSocket,
    lack: Arc<Lack>,
}

impl DnsUdpSocket for Asking {
    type Time = <UdpSocket as DnsUdpSocket>::Time;

    fn poll_recv_from(
        &self,
        task: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.socket, task, bytes)
    }

    fn poll_send_to(
        &self,
        task: &mut Context<'_>,
        bytes: &[u8],
        server: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(task, bytes, server).map(|it| self.lack.note(it))
    }
}
