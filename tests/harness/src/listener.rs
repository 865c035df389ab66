//! Peers that behave in one definite way: accept, close, reset, talk, or never accept.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What one connection has brought so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Visit {
    /// Bytes received.
    pub bytes: Vec<u8>,
    /// How it ended, once it has.
    pub end: Option<End>,
}

/// How a connection ended, seen from the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The client said goodbye.
    Fin,
    /// The client hung up on us.
    Reset,
}

#[derive(Default)]
struct Shared {
    visits: Mutex<Vec<Visit>>,
    stopped: AtomicBool,
}

impl Shared {
    fn visits(&self) -> MutexGuard<'_, Vec<Visit>> {
        self.visits.lock().expect("visits")
    }
}

/// A listening socket with a behaviour, on a port of the kernel's choice. Dropping it closes the
/// port and lets its threads end.
pub struct Listener {
    address: SocketAddr,
    socket: TcpListener,
    shared: Arc<Shared>,
}

impl Listener {
    /// Accepts, says nothing, and reads until the client leaves.
    #[must_use]
    pub fn silent() -> Self {
        Self::serve(LOOPBACK, |visitor| visitor.read_to_end())
    }

    /// Accepts, says `words`, and reads until the client leaves.
    #[must_use]
    pub fn banner(words: &[u8]) -> Self {
        let words = words.to_vec();
        Self::serve(LOOPBACK, move |visitor| {
            visitor.write(&words);
            visitor.read_to_end();
        })
    }

    /// Accepts and closes at once, politely.
    #[must_use]
    pub fn closing() -> Self {
        Self::serve(LOOPBACK, |_| ())
    }

    /// Accepts and resets at once.
    #[must_use]
    pub fn resetting() -> Self {
        Self::serve(LOOPBACK, Visitor::reset)
    }

    /// Runs `behaviour` for every connection, each in a thread of its own; the connection closes
    /// when it returns. `address` may have the port 0.
    #[must_use]
    pub fn serve(
        address: SocketAddr,
        behaviour: impl Fn(&mut Visitor) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let socket = listener.try_clone().expect("descriptors");
        let this = Self { address, socket, shared: Arc::clone(&shared) };
        let behaviour = Arc::new(behaviour);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                let behaviour = Arc::clone(&behaviour);
                let index = {
                    let mut visits = shared.visits();
                    visits.push(Visit::default());
                    visits.len() - 1
                };
                std::thread::spawn(move || {
                    behaviour(&mut Visitor { stream, index, shared });
                });
            }
        });
        this
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its address as a probe's target.
    #[must_use]
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// How many connections there were.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.visits().len()
    }

    /// All connections so far, oldest first.
    #[must_use]
    pub fn visits(&self) -> Vec<Visit> {
        self.shared.visits().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // On Linux this wakes the thread that accepts, in whichever namespace it is.
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }
}

/// One connection, as a behaviour sees it. Errors end the visit, they do not fail the test.
pub struct Visitor {
    pub stream: TcpStream,
    index: usize,
    shared: Arc<Shared>,
}

impl Visitor {
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads what comes next, notes it, and returns it: empty at the end.
    pub fn read(&mut self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer);
        let mut visits = self.shared.visits();
        let visit = &mut visits[self.index];
        match read {
            Ok(0) => visit.end = Some(End::Fin),
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => {
                visit.end = Some(End::Reset);
            }
            Err(_) => (),
            Ok(length) => {
                visit.bytes.extend_from_slice(&buffer[..length]);
                return buffer[..length].to_vec();
            }
        }
        Vec::new()
    }

    /// Reads until at least `length` bytes came since the beginning; false at an early end.
    pub fn read_until(&mut self, length: usize) -> bool {
        while self.shared.visits()[self.index].bytes.len() < length {
            if self.read().is_empty() {
                return false;
            }
        }
        true
    }

    /// All that came since the beginning.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.shared.visits()[self.index].bytes.clone()
    }

    pub fn read_to_end(&mut self) {
        while !self.read().is_empty() {}
    }

    /// Makes the close that follows a reset.
    pub fn reset(&mut self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// A port that is certainly closed, because it is bound and nobody listens on it.
pub struct ClosedPort {
    _socket: Socket,
    address: SocketAddr,
}

impl ClosedPort {
    #[must_use]
    pub fn new() -> Self {
        Self::at(LOOPBACK)
    }

    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let socket = socket(address);
        let address = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        Self { _socket: socket, address }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn target(&self) -> String {
        self.address.to_string()
    }
}

impl Default for ClosedPort {
    fn default() -> Self {
        Self::new()
    }
}

/// A port that listens and whose queue of waiting connections is full: the kernel drops what
/// comes on top, until [`FullBacklog::drain`].
pub struct FullBacklog {
    socket: Socket,
    address: SocketAddr,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    #[must_use]
    pub fn new() -> Self {
        Self::at(LOOPBACK)
    }

    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let socket = socket(address);
        socket.listen(0).expect("listen");
        let address = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        Self { socket, address, _waiting: waiting }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// Begins to accept: from here on a retransmitted SYN is answered. The backlog grows too, so
    /// that whoever was refused before finds room.
    #[must_use]
    pub fn drain(self) -> TcpListener {
        self.socket.listen(128).expect("listen");
        self.socket.into()
    }
}

impl Default for FullBacklog {
    fn default() -> Self {
        Self::new()
    }
}

fn socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    socket.bind(&address.into()).expect("bind");
    socket
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_until;

    #[test]
    fn banner_is_said_and_the_visit_noted() {
        let listener = Listener::banner(b"hello\n");
        let mut stream = TcpStream::connect(listener.address()).unwrap();
        let mut said = [0; 6];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(b"bye").unwrap();
        drop(stream);

        let visit = wait_until(crate::PATIENCE, || {
            let visits = listener.visits();
            match visits.as_slice() {
                [visit] if visit.end.is_some() => Ok(visit.clone()),
                other => Err(format!("{other:?}")),
            }
        });

        assert_eq!(visit, Visit { bytes: b"bye".to_vec(), end: Some(End::Fin) });
    }

    #[test]
    fn port_is_closed_with_the_listener() {
        let listener = Listener::silent();
        let address = listener.address();
        assert!(TcpStream::connect(address).is_ok());
        drop(listener);
        wait_until(crate::PATIENCE, || {
            match TcpStream::connect(address) {
                Ok(_) => Err("still open"),
                Err(_) => Ok(()),
            }
            .map_err(str::to_owned)
        });
    }

    #[test]
    fn closed_port_refuses_and_full_backlog_stays_silent() {
        let refused = TcpStream::connect(ClosedPort::new().address()).unwrap_err();
        let backlog = FullBacklog::new();
        let silent =
            TcpStream::connect_timeout(&backlog.address(), Duration::from_millis(200)).unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert!(TcpStream::connect(backlog.drain().local_addr().unwrap()).is_ok());
    }
}
