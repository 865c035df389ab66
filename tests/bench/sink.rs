//! A server that accepts on a port of every loopback address, waits for the end of the stream
//! and closes: what a polite service does.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

pub(crate) fn main(_: &[String]) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).expect("an address");
    socket.listen(4096).expect("it listens");
    socket.set_nonblocking(true).expect("an option");
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr().expect("its name").port());

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).expect("it watches");
    let mut peers: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = [0; 256];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == 0 {
                while let Ok((peer, _)) = listener.accept() {
                    peer.set_nonblocking(true).expect("an option");
                    let key = u64::try_from(peer.as_raw_fd()).expect("a descriptor is positive");
                    let wanted = EpollEvent::new(EpollFlags::EPOLLIN, key);
                    epoll.add(&peer, wanted).expect("it watches");
                    peers.insert(key, peer);
                }
            } else if let Some(peer) = peers.get_mut(&event.data())
                && !matches!(peer.read(&mut buffer), Ok(1..))
            {
                peers.remove(&event.data());
            }
        }
    }
}
