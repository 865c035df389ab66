//! A name server of our own, which answers as told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tcp_probe_exporter::module::Family;

/// What a name server says to a question.
pub(crate) enum Answer {
    /// Nothing.
    Silence,
    /// A response code, with a SOA record so that it may be kept.
    Code(u8),
    /// Addresses, those of the asked kind, for this many seconds.
    Addresses(u32, Vec<IpAddr>),
}

/// The server. Its thread ends with the test's process.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Answers questions about names in lower case, without the last dot.
    pub(crate) fn new(
        address: SocketAddr,
        answer: impl Fn(&str, Family) -> Answer + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut packet = [0; 1024];
            while let Ok((length, client)) = socket.recv_from(&mut packet) {
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(reply) = reply(&packet[..length], &answer) {
                    let _ = socket.send_to(&reply, client);
                }
            }
        });
        Self { address, asked }
    }

    /// On a port of the kernel's choice.
    pub(crate) fn local(answer: impl Fn(&str, Family) -> Answer + Send + 'static) -> Self {
        Self::new((Ipv4Addr::LOCALHOST, 0).into(), answer)
    }

    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The reply to a query, by RFC 1035, section 4.
fn reply(query: &[u8], answer: impl Fn(&str, Family) -> Answer) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let kind = query[at + 2];
    let question = &query[12..at + 5];
    let family = if kind == 28 { Family::V6 } else { Family::V4 };
    let (code, ttl, addresses) = match answer(&labels.join("."), family) {
        Answer::Silence => return None,
        Answer::Code(code) => (code, 0, Vec::new()),
        Answer::Addresses(ttl, addresses) => (0, ttl, addresses),
    };
    let records: Vec<Vec<u8>> = addresses
        .into_iter()
        .filter_map(|ip| match (kind, ip) {
            (1, IpAddr::V4(ip)) => Some(ip.octets().to_vec()),
            (28, IpAddr::V6(ip)) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let count = u8::try_from(records.len()).unwrap();
    let is_negative = u8::from(count == 0);
    let mut reply = vec![query[0], query[1], 0x81, 0x80 | code];
    reply.extend([0, 1, 0, count, 0, is_negative, 0, 0]);
    reply.extend(question);
    for record in records {
        reply.extend([0xc0, 12, 0, kind, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, u8::try_from(record.len()).unwrap()]);
        reply.extend(record);
    }
    if is_negative == 1 {
        // SOA of the root with two empty names and five numbers, the last being the negative TTL.
        reply.extend([0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
        for number in [1_u32, 60, 60, 60, 60] {
            reply.extend(number.to_be_bytes());
        }
    }
    Some(reply)
}
