//! Connections that are over for us and wait for their peer to end too.
//!
//! Data that reaches a closed socket is answered with RST (RFC 9293, section 3.10.7.1), which
//! servers log as a fault of the client. So a socket is half-closed first, and closed once its
//! peer has closed too or has had [`PATIENCE`]. Nobody waits for that: the result is complete
//! before, and what lingers is looked at now and then, without the event queue and without a
//! timer of its own, which would cost as much as the probe.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::limits::LEFTOVER_BYTES;

/// How long a peer has to close its side.
const PATIENCE: Duration = Duration::from_millis(200);
/// Time between two looks at one socket.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time between two looks at all of them, for when no probe comes that looks at some.
const ROUND: Duration = PATIENCE;
/// Looks that each newcomer pays for: more than one, so that the queue shrinks.
const LOOKS: usize = 2;
/// Sockets that may linger where nobody gives a limit.
const DEFAULT_LIMIT: usize = 256;

/// The half-closed sockets of all probes.
#[derive(Debug)]
pub(super) struct Linger {
    /// Most sockets at once; the oldest gives way.
    limit: usize,
    /// About in the order of their next look. Guards the list, never held over a system call.
    sockets: Mutex<VecDeque<HalfClosed>>,
    /// Told when there is something to wait for.
    filled: Notify,
}

#[derive(Debug)]
struct HalfClosed {
    socket: Socket,
    since: Instant,
    next_look: Instant,
    drained: usize,
}

impl Default for Linger {
    fn default() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }
}

impl Linger {
    /// Room for so many sockets.
    pub(super) fn with_limit(limit: usize) -> Self {
        Self { limit: limit.max(1), sockets: Mutex::default(), filled: Notify::new() }
    }

    /// Half-closes a socket and keeps it until its peer closes too.
    pub(super) fn add(&self, socket: Socket) {
        if socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let now = Instant::now();
        let next_look = now + LOOK_EVERY;
        let mut sockets = self.sockets();
        let (was_empty, is_full) = (sockets.is_empty(), sockets.len() >= self.limit);
        let oldest = if is_full { sockets.pop_front() } else { None };
        sockets.push_back(HalfClosed { socket, since: now, next_look, drained: 0 });
        drop(sockets);
        if was_empty {
            self.filled.notify_one();
        }
        // What it has received is read, so that the close itself is no RST.
        let _ = oldest.map(|mut it| it.is_over(now));
        self.look(now, LOOKS);
    }

    /// Looks after what lingers, for ever.
    pub(super) async fn run(&self) {
        loop {
            while !self.sockets().is_empty() {
                sleep(ROUND).await;
                self.look(Instant::now(), self.limit);
            }
            self.filled.notified().await;
        }
    }

    /// Waits until nothing lingers any more, within [`PATIENCE`] and a little.
    pub(super) async fn drain(&self) {
        while !self.sockets().is_empty() {
            sleep(LOOK_EVERY).await;
            self.look(Instant::now(), self.limit);
        }
    }

    /// Looks at the sockets whose time it is, at most so many.
    fn look(&self, now: Instant, most: usize) {
        for _ in 0..most {
            let Some(mut socket) = self.take_due(now) else { return };
            if !socket.is_over(now) {
                socket.next_look = now + LOOK_EVERY;
                self.sockets().push_back(socket);
            }
        }
    }

    fn take_due(&self, now: Instant) -> Option<HalfClosed> {
        let mut sockets = self.sockets();
        if sockets.front()?.next_look <= now { sockets.pop_front() } else { None }
    }

    fn sockets(&self) -> MutexGuard<'_, VecDeque<HalfClosed>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HalfClosed {
    /// Reads and drops what came. True once the peer has closed, or has lost its chance to.
    fn is_over(&mut self, now: Instant) -> bool {
        let mut scratch = [MaybeUninit::uninit(); 2048];
        while self.drained < LEFTOVER_BYTES {
            match self.socket.recv(&mut scratch) {
                Ok(0) => return true,
                Ok(count) => self.drained += count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    return now.saturating_duration_since(self.since) > PATIENCE;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection: our side as a probe leaves it, and the peer's.
    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours.into(), listener.accept().unwrap().0)
    }

    fn lingering(linger: &Linger) -> usize {
        linger.sockets().len()
    }

    #[tokio::test]
    async fn a_peer_that_speaks_late_sees_an_end_and_no_reset() {
        let (ours, mut peer) = pair();
        let linger = Linger::default();
        linger.add(ours);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "it is told the end at once");
        for _ in 0..3 {
            peer.write_all(b"220 a banner that nobody waited for\r\n").unwrap();
            linger.look(Instant::now() + LOOK_EVERY, LOOKS);
            assert_eq!(lingering(&linger), 1);
        }
        peer.shutdown(Shutdown::Write).unwrap();
        linger.drain().await;
        assert_eq!(lingering(&linger), 0);
        // A reset would be an error.
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        assert!(peer.take_error().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_peer_that_never_closes_is_left_in_the_end() {
        let (ours, _peer) = pair();
        let linger = Linger::default();
        let begin = Instant::now();
        linger.add(ours);
        linger.drain().await;
        assert!(begin.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_is_left_in_the_end() {
        let (ours, mut peer) = pair();
        let linger = Linger::default();
        linger.add(ours);
        let flood = std::thread::spawn(move || while peer.write_all(&[b'x'; 4096]).is_ok() {});
        linger.drain().await;
        flood.join().unwrap();
    }

    #[test]
    fn the_oldest_gives_way() {
        let linger = Linger::with_limit(2);
        let mut peers = Vec::new();
        for _ in 0..5 {
            let (ours, peer) = pair();
            linger.add(ours);
            peers.push(peer);
            assert!(lingering(&linger) <= 2);
        }
        assert_eq!(lingering(&linger), 2);
    }

    #[tokio::test]
    async fn tending_needs_no_further_probe() {
        let linger = Linger::default();
        let (ours, peer) = pair();
        let (later, late_peer) = pair();
        drop((peer, late_peer));
        let empty = async {
            linger.add(ours);
            while lingering(&linger) > 0 {
                sleep(LOOK_EVERY).await;
            }
            linger.add(later);
            while lingering(&linger) > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = linger.run() => unreachable!("it goes on for ever"),
            () = empty => {}
        }
    }
}
