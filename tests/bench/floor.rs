//! The floor: what a connect check costs in a bare epoll loop. Socket, connect, epoll, the
//! socket's error, close; nothing is measured, judged or written down.
//!
//! The polite floor makes the system calls of an honest check too: it asks for the error queue,
//! half-closes, and waits for the peer's end before it closes.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, connect, getsockopt, recv,
    setsockopt, shutdown, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// `floor RATE SECONDS PORT TARGETS POLITE`: prints CPU seconds per probe.
pub(crate) fn main(words: &[String]) {
    let number = |at: usize| words[at].parse::<u32>().expect("a number");
    let (rate, seconds, port, targets) = (number(0), number(1), number(2), number(3));
    let port = u16::try_from(port).expect("a port");
    let polite = number(4) == 1;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).expect("a timer");
    let tick = Duration::from_millis(1).max(Duration::from_secs(1) / rate);
    let every = Expiration::Interval(TimeSpec::from_duration(tick));
    timer.set(every, TimerSetTimeFlags::empty()).expect("it ticks");
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX)).expect("it watches");

    let wanted_events = EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    println!("started");
    let cpu = || super::process::cpu(std::process::id());
    let (begin, before) = (Instant::now(), cpu());
    // Whether it is half-closed, too.
    let mut sockets: Vec<Option<(OwnedFd, bool)>> = (0..4096).map(|_| None).collect();
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = [0; 2048];
    let (mut started, mut finished) = (0_u64, 0_u64);
    while begin.elapsed() < Duration::from_secs(seconds.into()) {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            let key = event.data();
            if key == u64::MAX {
                timer.wait().ok();
                continue;
            }
            let place = &mut sockets[usize::try_from(key).expect("small")];
            let ended = event.events().contains(EpollFlags::EPOLLRDHUP);
            match place {
                Some((socket, true)) if ended => {
                    let _ = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty());
                    *place = None;
                    finished += 1;
                }
                // Closed already, or told of its own half-close.
                None | Some((_, true)) => {}
                Some((socket, half_closed)) => {
                    assert_eq!(getsockopt(socket, sockopt::SocketError), Ok(0));
                    if polite {
                        shutdown(socket.as_raw_fd(), Shutdown::Write).expect("it is connected");
                        *half_closed = true;
                    } else {
                        *place = None;
                        finished += 1;
                    }
                }
            }
        }
        let elapsed = u64::try_from(begin.elapsed().as_micros()).expect("short");
        let wanted = elapsed * u64::from(rate) / 1_000_000;
        while started < wanted && started - finished < 4096 {
            let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("one");
            let Some(place) = sockets.get(usize::try_from(started % 4096).expect("small")) else {
                break;
            };
            if place.is_some() {
                break;
            }
            if polite {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("an option");
            }
            let address =
                super::fleet::address(u32::try_from(started % u64::from(targets)).expect("small"));
            let [a, b, c, d] = Ipv4Addr::octets(&address);
            match connect(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port)) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(errno) => panic!("connect: {errno}"),
            }
            let key = started % 4096;
            epoll.add(&socket, EpollEvent::new(wanted_events, key)).expect("it watches");
            sockets[usize::try_from(key).expect("small")] = Some((socket, false));
            started += 1;
        }
    }
    println!("{}", (cpu() - before) / finished as f64);
}
