//! A name server that answers as it is told, or does not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server says to a question.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These addresses, of which those of the family asked for are told, with this TTL.
    Addresses(Vec<IpAddr>, u32),
    /// This response code: 2 server failure, 3 no such name, 5 refused.
    Code(u8),
    /// These bytes, whatever the question.
    Bytes(Vec<u8>),
    /// The right answer under a wrong id.
    WrongId(Vec<IpAddr>),
    /// These addresses, after this pause.
    Late(Vec<IpAddr>, Duration),
    Silence,
}

/// The number of the question and the name that is asked for.
type Behaviour = dyn Fn(usize, &str) -> Answer + Send;

pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    pub(crate) questions: Arc<AtomicUsize>,
    behaviour: Arc<Mutex<Box<Behaviour>>>,
    stop: Arc<AtomicBool>,
}

impl Dns {
    pub(crate) fn start(behaviour: impl Fn(usize, &str) -> Answer + Send + 'static) -> Self {
        Self::start_on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"), behaviour)
    }

    pub(crate) fn start_on(
        socket: UdpSocket,
        behaviour: impl Fn(usize, &str) -> Answer + Send + 'static,
    ) -> Self {
        let address = socket.local_addr().expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let behaviour: Box<Behaviour> = Box::new(behaviour);
        let this = Self {
            address,
            questions: Arc::default(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            stop: Arc::default(),
        };
        let (questions, stop) = (Arc::clone(&this.questions), Arc::clone(&this.stop));
        let behaviour = Arc::clone(&this.behaviour);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let Some((name, end)) = question(&buffer[..length]) else { continue };
                let count = questions.fetch_add(1, Ordering::Relaxed);
                let answer = behaviour.lock().expect("behaviour")(count, &name);
                let Some(bytes) = encode(&buffer[..end], &answer) else { continue };
                if let Answer::Late(_, pause) = answer {
                    let socket = socket.try_clone().expect("descriptors");
                    std::thread::spawn(move || {
                        std::thread::sleep(pause);
                        let _ = socket.send_to(&bytes, peer);
                    });
                } else {
                    let _ = socket.send_to(&bytes, peer);
                }
            }
        });
        this
    }

    /// From here on it behaves differently.
    pub(crate) fn turn(&self, behaviour: impl Fn(usize, &str) -> Answer + Send + 'static) {
        *self.behaviour.lock().expect("behaviour") = Box::new(behaviour);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The name in lower case, and where the question ends.
fn question(bytes: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = bytes.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    (bytes.len() >= at + 4).then(|| (labels.join("."), at + 4))
}

fn encode(question: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let (ips, code, ttl) = match answer {
        Answer::Addresses(ips, ttl) => (ips.as_slice(), 0, *ttl),
        Answer::WrongId(ips) | Answer::Late(ips, _) => (ips.as_slice(), 0, 0),
        Answer::Code(code) => (&[][..], *code, 0),
        Answer::Bytes(bytes) => return Some(bytes.clone()),
        Answer::Silence => return None,
    };
    let wanted_v6 = question[question.len() - 3] == 28;
    let ips: Vec<IpAddr> = ips.iter().copied().filter(|it| it.is_ipv6() == wanted_v6).collect();
    let mut bytes = question.to_vec();
    if matches!(answer, Answer::WrongId(_)) {
        bytes[1] ^= 0x55;
    }
    bytes[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    bytes[4..12].copy_from_slice(&[0, 1, 0, u8::try_from(ips.len()).ok()?, 0, 0, 0, 0]);
    for ip in ips {
        bytes.extend([0xc0, 12, 0, if wanted_v6 { 28 } else { 1 }, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        match ip {
            IpAddr::V4(ip) => {
                bytes.extend([0, 4]);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.extend([0, 16]);
                bytes.extend(ip.octets());
            }
        }
    }
    Some(bytes)
}
