//! Connections that this process accepted, by both ends. A probe whose own end is among them has
//! reached one of our listeners, whatever address it was sent to: a firewall that translates the
//! destination cannot hide that. One that translates the source as well can.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::limits::ACCEPTED_WITHIN;
use crate::prober::kernel;

/// Looks without a pause between them.
const QUICK_LOOKS: usize = 16;
/// How often it looks after those.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The open connections of this process's listeners.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Where connections come in, as long as they do.
    listeners: Box<[Weak<TcpListener>]>,
    addresses: Box<[SocketAddr]>,
    /// Client's end and ours. Held while one is accepted, so that none is between the kernel and
    /// here for whoever looks.
    open: Mutex<Open>,
}

/// Open connections, by the client's end and ours.
#[derive(Debug, Default)]
struct Open {
    /// How many were ever accepted.
    count: u64,
    /// Both ends, and which one it was.
    ends: BTreeSet<(SocketAddr, SocketAddr, u64)>,
}

/// A moment in the order in which connections were accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// One of them, until dropped.
#[derive(Debug)]
pub struct OpenConnection {
    accepted: Arc<Accepted>,
    ends: (SocketAddr, SocketAddr, u64),
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.accepted.open().ends.remove(&self.ends);
    }
}

/// What is known of a connection by its client's end.
enum Known {
    /// Our end of it.
    Ours(SocketAddr),
    NotOurs,
    /// Some connections are not accepted yet.
    Pending,
}

impl Accepted {
    /// For these listeners.
    ///
    /// # Errors
    /// One of them has no address.
    pub fn new(listeners: &[Arc<TcpListener>]) -> io::Result<Self> {
        let addresses = listeners.iter().map(|listener| listener.local_addr());
        Ok(Self {
            listeners: listeners.iter().map(Arc::downgrade).collect(),
            addresses: addresses.collect::<io::Result<_>>()?,
            open: Mutex::default(),
        })
    }

    /// Where the listeners are.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a connection, and remembers it while its entry lives.
    ///
    /// # Errors
    /// As `accept` of the listener.
    pub fn poll_accept(
        self: &Arc<Self>,
        listener: &TcpListener,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr, OpenConnection)>> {
        let mut open = self.open();
        let (stream, client) = ready!(listener.poll_accept(context))?;
        let own = stream.local_addr().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
        let ends = (plain(client), plain(own), open.count);
        open.count += 1;
        open.ends.insert(ends);
        drop(open);
        let entry = OpenConnection { accepted: Arc::clone(self), ends };
        Poll::Ready(Ok((stream, client, entry)))
    }

    /// Now: what is accepted from here on may be a connection that begins now.
    pub(super) fn now(&self) -> Moment {
        Moment(self.open().count)
    }

    /// The listener's end of a connection of this process with one of its own listeners, by the
    /// end that connected and when it began to. Another client of this machine may use the same port
    /// towards us, so older ones do not count. Takes some milliseconds while connections wait to be
    /// accepted.
    pub(super) async fn find(&self, client: SocketAddr, begun: Moment) -> Option<SocketAddr> {
        let end = Instant::now() + ACCEPTED_WITHIN;
        for looks in 0.. {
            match self.look(client, begun) {
                Known::Ours(own) => return Some(own),
                Known::NotOurs => return None,
                Known::Pending if Instant::now() >= end => return None,
                // Mostly the task that accepts is about to run.
                Known::Pending if looks < QUICK_LOOKS => yield_now().await,
                Known::Pending => sleep(LOOK_INTERVAL).await,
            }
        }
        None
    }

    fn look(&self, client: SocketAddr, begun: Moment) -> Known {
        let client = plain(client);
        let open = self.open();
        let least = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut found = open.ends.range((client, least, 0)..).take_while(|ends| ends.0 == client);
        if let Some((_, own, _)) = found.find(|ends| ends.2 >= begun.0) {
            return Known::Ours(*own);
        }
        let waits = |listener: &Weak<TcpListener>| {
            let listener = listener.upgrade();
            listener
                .and_then(|listener| kernel::tcp_info(&*listener))
                .is_some_and(|info| info.has_pending())
        };
        if self.listeners.iter().any(waits) { Known::Pending } else { Known::NotOurs }
    }
}

/// An address as the other side of the connection calls it.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
