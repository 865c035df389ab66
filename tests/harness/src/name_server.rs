//! A name server that answers as it is told, over UDP and TCP, or does not.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// How long a thread waits for a packet or a connection before it looks whether the server ended.
const LOOK: Duration = Duration::from_millis(100);
/// The type of a question: an IPv4 address.
pub const A: u16 = 1;
/// The type of a question: an IPv6 address.
pub const AAAA: u16 = 28;

/// One question, as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// In lower case, without the last dot.
    pub name: String,
    /// [`A`], [`AAAA`], or any other type.
    pub kind: u16,
    /// Whether it came over TCP.
    pub tcp: bool,
    /// Its number, from 0.
    pub number: usize,
}

/// What the server says to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These addresses, of which those of the type asked for are told, and how many seconds they
    /// may be kept. Without one of that type: no data.
    Addresses(u32, Vec<IpAddr>),
    /// This response code: 2 server failure, 3 no such name, 5 refused. Not to be kept.
    Code(u8),
    /// No such name, and how many seconds that may be kept.
    Missing(u32),
    /// Over UDP nothing but the request to ask over TCP; over TCP the reply inside.
    Truncated(Box<Reply>),
    /// The reply inside, after a pause.
    Late(Duration, Box<Reply>),
    /// The reply inside, under a wrong id.
    WrongId(Box<Reply>),
    /// These bytes, whatever the question.
    Bytes(Vec<u8>),
    /// Nothing; over TCP the connection is closed.
    Silence,
}

impl Reply {
    /// One address that must not be kept.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self::Addresses(0, vec![ip])
    }
}

type Behaviour = dyn Fn(&Question) -> Reply + Send;

struct Shared {
    behaviour: Mutex<Box<Behaviour>>,
    questions: Mutex<Vec<Question>>,
    stopped: AtomicBool,
}

/// The server. Dropping it frees its port within a moment.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl NameServer {
    /// On a port of the kernel's choice.
    #[must_use]
    pub fn local(behaviour: impl Fn(&Question) -> Reply + Send + 'static) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), behaviour)
    }

    /// At this address, in the namespace of the caller.
    #[track_caller]
    #[must_use]
    pub fn at(
        address: SocketAddr,
        behaviour: impl Fn(&Question) -> Reply + Send + 'static,
    ) -> Self {
        let (udp, tcp) = bind(address);
        let address = udp.local_addr().expect("bound");
        let behaviour: Box<Behaviour> = Box::new(behaviour);
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            questions: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let over_udp = Arc::clone(&shared);
        spawn(move || over_udp.serve_udp(&udp));
        let over_tcp = Arc::clone(&shared);
        spawn(move || over_tcp.serve_tcp(&tcp));
        Self { address, shared }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on it behaves differently.
    pub fn turn(&self, behaviour: impl Fn(&Question) -> Reply + Send + 'static) {
        *self.shared.behaviour.lock().expect("behaviour") = Box::new(behaviour);
    }

    /// All questions so far, oldest first.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions().clone()
    }

    /// How many questions came.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.questions().len()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

/// The same port for both, which the kernel does not promise for one of its own choice.
#[track_caller]
fn bind(address: SocketAddr) -> (UdpSocket, TcpListener) {
    for _ in 0..50 {
        let udp = UdpSocket::bind(address).expect("bind");
        let port = udp.local_addr().expect("bound").port();
        if let Ok(tcp) = TcpListener::bind((address.ip(), port)) {
            udp.set_read_timeout(Some(LOOK)).expect("a timeout");
            tcp.set_nonblocking(true).expect("a socket");
            return (udp, tcp);
        }
        assert_eq!(address.port(), 0, "{address} is taken");
    }
    panic!("no port is free for both UDP and TCP")
}

impl Shared {
    fn questions(&self) -> MutexGuard<'_, Vec<Question>> {
        self.questions.lock().expect("questions")
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        while !self.is_stopped() {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            let Some((pause, bytes)) = self.answer(&buffer[..length], false) else { continue };
            let socket = socket.try_clone().expect("descriptors");
            after(pause, move || drop(socket.send_to(&bytes, client)));
        }
    }

    fn serve_tcp(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_stopped() {
            let Ok((stream, _)) = listener.accept() else {
                sleep(LOOK / 10);
                continue;
            };
            let this = Arc::clone(self);
            spawn(move || this.talk(stream));
        }
    }

    /// Answers the questions of one connection, each behind its length.
    fn talk(&self, mut stream: TcpStream) {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_err() {
                return;
            }
            let Some((pause, bytes)) = self.answer(&query, true) else { return };
            sleep(pause);
            let length = u16::try_from(bytes.len()).expect("a short reply");
            let _ = stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat());
        }
    }

    /// Notes a question; returns what to say, and after which pause.
    fn answer(&self, query: &[u8], tcp: bool) -> Option<(Duration, Vec<u8>)> {
        let (name, kind, end) = parse(query)?;
        let question = {
            let mut questions = self.questions();
            let question = Question { name, kind, tcp, number: questions.len() };
            questions.push(question.clone());
            question
        };
        let reply = self.behaviour.lock().expect("behaviour")(&question);
        let mut pause = Duration::ZERO;
        let bytes = encode(&query[..end], &question, &reply, &mut pause)?;
        Some((pause, bytes))
    }
}

/// Runs `action` after a pause, elsewhere if there is one.
fn after(pause: Duration, action: impl FnOnce() + Send + 'static) {
    if pause.is_zero() {
        return action();
    }
    spawn(move || {
        sleep(pause);
        action();
    });
}

/// Name and type of the first question, and where it ends (RFC 1035, section 4.1.2).
fn parse(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    (query.len() >= at + 4).then(|| (labels.join("."), kind, at + 4))
}

/// The message for a reply; `None` for silence. `pause` grows by what the reply is late.
fn encode(
    query: &[u8],
    question: &Question,
    reply: &Reply,
    pause: &mut Duration,
) -> Option<Vec<u8>> {
    match reply {
        Reply::Silence => None,
        Reply::Bytes(bytes) => Some(bytes.clone()),
        Reply::Code(code) => Some(message(query, question.kind, *code, 0, &[])),
        Reply::Missing(ttl) => Some(message(query, question.kind, 3, *ttl, &[])),
        Reply::Addresses(ttl, ips) => {
            let records: Vec<Vec<u8>> = ips
                .iter()
                .filter_map(|ip| match (question.kind, ip) {
                    (A, IpAddr::V4(ip)) => Some(ip.octets().to_vec()),
                    (AAAA, IpAddr::V6(ip)) => Some(ip.octets().to_vec()),
                    _ => None,
                })
                .collect();
            Some(message(query, question.kind, 0, *ttl, &records))
        }
        Reply::Truncated(_) if !question.tcp => {
            let mut bytes = message(query, question.kind, 0, 0, &[]);
            bytes[2] |= 0x02;
            Some(bytes)
        }
        Reply::Truncated(inner) => encode(query, question, inner, pause),
        Reply::Late(by, inner) => {
            *pause += *by;
            encode(query, question, inner, pause)
        }
        Reply::WrongId(inner) => {
            let mut bytes = encode(query, question, inner, pause)?;
            bytes[1] ^= 0x55;
            Some(bytes)
        }
    }
}

/// A response (RFC 1035, section 4.1). One without records has a SOA, which says for how long that
/// may be kept.
fn message(query: &[u8], kind: u16, code: u8, ttl: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let [high, low] = u16::try_from(records.len()).expect("fewer records").to_be_bytes();
    let negative = u8::from(records.is_empty());
    let mut bytes = vec![query[0], query[1], 0x81, 0x80 | code];
    bytes.extend([0, 1, high, low, 0, negative, 0, 0]);
    bytes.extend(&query[12..]);
    for record in records {
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, u8::try_from(record.len()).expect("an address")]);
        bytes.extend(record);
    }
    if negative == 1 {
        // SOA of the root: two empty names and five numbers, the last of them the negative TTL.
        bytes.extend([0, 0, 6, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, 22, 0, 0]);
        bytes.extend([0, 0, 0, 0, ttl].map(u32::to_be_bytes).concat());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The query for a name of one label, and a socket to ask with.
    fn query(label: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    fn ask(server: &NameServer, label: &str, kind: u16) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send_to(&query(label, kind), server.address()).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn answers_as_told_and_counts() {
        let server = NameServer::local(|question| match question.name.as_str() {
            "four" => Reply::address([192, 0, 2, 7].into()),
            "gone" => Reply::Code(3),
            "long" => Reply::Truncated(Box::new(Reply::address([192, 0, 2, 8].into()))),
            _ => Reply::Silence,
        });

        let four = ask(&server, "FOUR", A).unwrap();
        assert_eq!((&four[..4], &four[6..8]), (&[0xab, 0xcd, 0x81, 0x80][..], &[0, 1][..]));
        assert!(four.ends_with(&[192, 0, 2, 7]));
        assert_eq!(ask(&server, "four", AAAA).unwrap()[6..10], [0, 0, 0, 1]);
        assert_eq!(ask(&server, "gone", A).unwrap()[3], 0x83);
        assert_eq!(ask(&server, "quiet", A), None);
        assert_eq!(ask(&server, "long", A).unwrap()[2], 0x83);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let long = query("long", A);
        stream.write_all(&[&[0, u8::try_from(long.len()).unwrap()][..], &long].concat()).unwrap();
        let mut reply = [0; 2];
        stream.read_exact(&mut reply).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(reply))];
        stream.read_exact(&mut reply).unwrap();
        assert!(reply.ends_with(&[192, 0, 2, 8]));

        let names: Vec<_> = server.questions().into_iter().map(|asked| asked.name).collect();
        assert_eq!(names, ["four", "four", "gone", "quiet", "long", "long"]);
        server.turn(|_| Reply::Code(5));
        assert_eq!(ask(&server, "four", A).unwrap()[3], 0x85);
        assert_eq!(server.asked(), 7);
    }
}
