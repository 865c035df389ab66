//! The prober against real sockets: what each peer's behaviour is called.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "shown only if a test fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::Address;
use tcp_probe_exporter::module::Module;
use tcp_probe_exporter::outcome::{Outcome, Phase, ProbeResult, Reason};
use tcp_probe_exporter::prober::journal::{Journal, Level};
use tcp_probe_exporter::prober::{Probe, Prober};

mod connect;
mod dialogue;
mod matrix;
mod process;
mod resolve;
mod tls;

/// Long enough that no machine is too busy for it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// For what never comes: so long that this machine is late by a small part of it only, since a
/// wait that ends very late is our own fault.
const SILENCE: Duration = Duration::from_secs(3);

/// Probes a target once.
async fn probe(target: &str, module: &Module, timeout: Duration) -> ProbeResult {
    let address = Address::parse(target).unwrap();
    let access = Access::default();
    let probe = Probe { address: &address, module, hostname: None, timeout, access: &access };
    let mut journal = Journal::bounded(Level::Debug, 64 * 1024);
    let prober = Prober::default();
    let result = prober.probe(probe, &mut journal).await;
    prober.drain().await;
    for line in journal.lines() {
        println!("{:?} {:?} {}", line.at, line.level, line.message);
    }
    result
}

/// A peer on a port of its own that treats one connection as told.
fn peer(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        serve(stream);
    });
    address
}

/// Reads until the other side closes.
fn read_all(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failure(reason: Reason, phase: Phase) -> Outcome {
    Outcome::Failure(reason, phase)
}

/// Sends bytes; a peer that is gone is no matter.
fn say(mut stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
