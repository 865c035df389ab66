//! The target side: ports that greet whoever comes, count them, and open and close at random.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

#[derive(Default)]
struct Shared {
    accepted: AtomicU64,
    flaps: AtomicU64,
    flapping: AtomicBool,
}

pub(crate) struct Sink {
    ports: Vec<u16>,
    shared: Arc<Shared>,
}

/// Enough of a random number generator (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Sink {
    pub(crate) fn start(ports: usize) -> Self {
        let listeners: Vec<TcpListener> = (0..ports).map(|_| listen(0)).collect();
        let ports = listeners.iter().map(|it| it.local_addr().expect("bound").port()).collect();
        let shared = Arc::new(Shared::default());
        let this = Self { ports, shared: Arc::clone(&shared) };
        let ports = this.ports.clone();
        std::thread::spawn(move || serve(listeners, &ports, &shared));
        this
    }

    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    pub(crate) fn flaps(&self) -> u64 {
        self.shared.flaps.load(Relaxed)
    }

    /// Begins or ends to open and close at random; in the end everything is open.
    pub(crate) fn flap(&self, flapping: bool) {
        self.shared.flapping.store(flapping, Relaxed);
    }
}

fn listen(port: u16) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).expect("an address");
    socket.listen(4096).expect("it listens");
    socket.set_nonblocking(true).expect("an option");
    socket.into()
}

/// Key of a peer in the event queue; listeners have the numbers below.
const PEERS: u64 = 1 << 32;

fn serve(listeners: Vec<TcpListener>, ports: &[u16], shared: &Shared) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let watch = |listener: &TcpListener, index: usize| {
        let key = u64::try_from(index).expect("small");
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, key)).expect("it watches");
    };
    let mut listeners: Vec<Option<TcpListener>> = listeners.into_iter().map(Some).collect();
    for (index, listener) in listeners.iter().enumerate() {
        watch(listener.as_ref().expect("open"), index);
    }
    let mut closed: Vec<(Instant, usize)> = Vec::new();
    let mut random = Random::new(42);
    let mut peers: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 512];
    let mut next_flap = Instant::now();
    loop {
        let patience = EpollTimeout::from(10_u8);
        let count = epoll.wait(&mut events, patience).unwrap_or(0);
        for event in &events[..count] {
            let key = event.data();
            if key < PEERS {
                let index = usize::try_from(key).expect("small");
                if let Some(listener) = &listeners[index] {
                    accept(listener, &epoll, &mut peers, shared);
                }
            } else if let Some(peer) = peers.get_mut(&key)
                && !matches!(peer.read(&mut [0; 256]), Ok(1..))
            {
                peers.remove(&key);
            }
        }
        let now = Instant::now();
        let flapping = shared.flapping.load(Relaxed);
        if flapping && now >= next_flap {
            next_flap = now + Duration::from_millis(50 + random.below(400));
            let index = usize::try_from(random.below(ports.len() as u64)).expect("small");
            if let Some(listener) = listeners[index].take() {
                // Who is in the queue is greeted; who comes between this and the end is reset.
                accept(&listener, &epoll, &mut peers, shared);
                closed.push((now + Duration::from_millis(200 + random.below(5000)), index));
                shared.flaps.fetch_add(1, Relaxed);
            }
        }
        closed.retain(|&(until, index)| {
            let wait = flapping && now < until;
            if !wait {
                let listener = listen(ports[index]);
                watch(&listener, index);
                listeners[index] = Some(listener);
            }
            wait
        });
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &Epoll,
    peers: &mut HashMap<u64, TcpStream>,
    shared: &Shared,
) {
    while let Ok((mut peer, _)) = listener.accept() {
        shared.accepted.fetch_add(1, Relaxed);
        peer.set_nonblocking(true).expect("an option");
        // Fits the empty buffer of a new connection; a peer that is gone is no matter.
        let _ = peer.write_all(b"ok\r\n");
        let key = PEERS + u64::try_from(peer.as_raw_fd()).expect("a descriptor is positive");
        epoll.add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, key)).expect("it watches");
        peers.insert(key, peer);
    }
}
