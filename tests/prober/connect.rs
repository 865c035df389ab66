//! What becomes of the connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use tcp_probe_exporter::module::{Close, ExpectConnect, Family, Module};
use tcp_probe_exporter::outcome::{Outcome, Phase, Reason};

use crate::{TIMEOUT, failure, peer, probe, read_all, say};

/// A port on which nothing listens, and nothing will while it is held.
fn closed_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[tokio::test]
async fn an_open_port_is_a_success_with_times() {
    let (done, closed) = mpsc::channel();
    let address = peer(move |stream| done.send(read_all(&stream)).unwrap());

    let result = probe(&address.to_string(), &Module::connect("m"), TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(result.peer, Some(address));
    assert_eq!(result.phases.resolve, Some(Duration::ZERO));
    assert!(result.phases.connect.unwrap() <= result.duration);
    assert_eq!((result.phases.tls, result.phases.dialogue), (None, None));
    let kernel = result.kernel.unwrap();
    assert!(kernel.rtt.unwrap() > Duration::ZERO, "{kernel:?}");
    assert_eq!(kernel.syn_retransmits, 0);
    assert_eq!(closed.recv_timeout(TIMEOUT).unwrap().unwrap(), b"");
}

#[tokio::test]
async fn a_peer_with_an_unread_banner_sees_a_clean_end() {
    let (done, closed) = mpsc::channel();
    let address = peer(move |stream| {
        say(&stream, &[b'x'; 10_000]);
        done.send(read_all(&stream).map_err(|err| err.kind())).unwrap();
    });

    let result = probe(&address.to_string(), &Module::connect("m"), TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(closed.recv_timeout(TIMEOUT).unwrap(), Ok(Vec::new()));
}

#[tokio::test]
async fn close_reset_resets() {
    let (done, closed) = mpsc::channel();
    let address =
        peer(move |stream| done.send(read_all(&stream).map_err(|err| err.kind())).unwrap());
    let module = Module { close: Close::Reset, ..Module::connect("m") };

    let result = probe(&address.to_string(), &module, TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success);
    let seen = closed.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (_held, address) = closed_port();

    let result = probe(&address.to_string(), &Module::connect("m"), TIMEOUT).await;

    assert_eq!(result.outcome, failure(Reason::Refused, Phase::Connect));
    assert_eq!(result.errno, Some(libc::ECONNREFUSED));
    assert_eq!(result.icmp, None);
    assert_eq!(result.phases.connect, None);
    assert_eq!(result.peer, Some(address));
}

#[tokio::test]
async fn a_port_that_must_be_shut() {
    let (_held, shut) = closed_port();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let unexpected = failure(Reason::UnexpectedlyOpen, Phase::Connect);
    let refused = failure(Reason::Refused, Phase::Connect);
    for (expect_connect, if_open, if_shut) in [
        (ExpectConnect::Open, Outcome::Success, refused),
        (ExpectConnect::Refused, unexpected, Outcome::Success),
        (ExpectConnect::Closed, unexpected, Outcome::Success),
        (ExpectConnect::Timeout, unexpected, refused),
    ] {
        let module = Module { expect_connect, ..Module::connect("m") };
        let result = probe(&open.to_string(), &module, TIMEOUT).await;
        assert_eq!(result.outcome, if_open, "{expect_connect:?}");
        let result = probe(&shut.to_string(), &module, TIMEOUT).await;
        assert_eq!(result.outcome, if_shut, "{expect_connect:?}");
    }
}

#[tokio::test]
async fn a_timeout_of_zero_fails_at_once() {
    let result = probe("127.0.0.1:1", &Module::connect("m"), Duration::ZERO).await;
    assert_eq!(result.outcome, failure(Reason::Timeout, Phase::Resolve));
}

#[tokio::test]
async fn the_source_address_is_used() {
    let (done, seen) = mpsc::channel();
    let address = peer(move |stream| done.send(stream.peer_addr().unwrap().ip()).unwrap());
    let module = Module { source_address: Some("127.0.0.77".to_owned()), ..Module::connect("m") };

    let result = probe(&address.to_string(), &module, TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(seen.recv_timeout(TIMEOUT).unwrap(), IpAddr::from([127, 0, 0, 77]));
}

#[tokio::test]
async fn a_source_address_that_cannot_be_used_is_the_monitors_trouble() {
    for source in ["nonsense", "::1", "192.0.2.1"] {
        let module = Module { source_address: Some(source.to_owned()), ..Module::connect("m") };
        let result = probe("127.0.0.1:1", &module, TIMEOUT).await;
        let expected = Outcome::Inconclusive(Reason::LocalConfig, Phase::Connect);
        assert_eq!(result.outcome, expected, "{source}");
        assert!(result.detail.unwrap().contains(source));
    }
}

#[tokio::test]
async fn a_literal_obeys_the_family_rule() {
    let (_held, address) = closed_port();
    for (preferred_family, family_fallback, expected) in [
        (Family::V4, false, failure(Reason::Refused, Phase::Connect)),
        (Family::V6, true, failure(Reason::Refused, Phase::Connect)),
        (Family::V6, false, failure(Reason::DnsNoAddress, Phase::Resolve)),
    ] {
        let module = Module { preferred_family, family_fallback, ..Module::connect("m") };
        let result = probe(&address.to_string(), &module, TIMEOUT).await;
        assert_eq!(result.outcome, expected);
    }
}

#[tokio::test]
async fn an_ipv4_address_in_ipv6_dress_is_ipv4() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();

    let target = format!("[::ffff:127.0.0.1]:{}", address.port());
    let result = probe(&target, &Module::connect("m"), TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(result.peer, Some(address));
}

#[tokio::test]
async fn localhost_needs_no_name_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let module = Module { preferred_family: Family::V4, ..Module::connect("m") };

    let target = format!("localhost:{}", address.port());
    let result = probe(&target, &module, TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(result.peer, Some(address));
}

#[tokio::test]
async fn a_reset_right_after_the_handshake_has_one_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let socket = socket2::Socket::from(stream.unwrap());
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    let hold = Module { hold: Some(Duration::from_millis(200)), ..Module::connect("hold") };
    for _ in 0..50 {
        let result = probe(&target, &Module::connect("m"), TIMEOUT).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        let result = probe(&target, &hold, TIMEOUT).await;
        assert_eq!(result.outcome, failure(Reason::Reset, Phase::Dialogue), "{result:?}");
    }
}
