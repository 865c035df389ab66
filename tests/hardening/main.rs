//! Attempts to break the exporter, or to turn it against others: slow and malformed clients,
//! hostile peers, forbidden targets, faults of its machine, nonsense in every input.
//!
//! Figures are printed, since they are what people ask for; bounds are generous, since a machine
//! that runs tests is busy.

#![expect(clippy::print_stderr, reason = "the figures seen are shown")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Exporter, wait_until};

mod access;
mod clients;
mod descriptors;
mod faults;
mod files;
mod hostile;
mod machine;
mod names;
mod passwords;
mod promises;
mod secrets;
mod server;
mod starvation;
mod supply;
mod tls;

const EXPORTER: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");
/// Long enough for a machine that is busy with everything else.
const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1024 * 1024;

/// Resident memory of a process, in bytes.
fn memory(exporter: &Exporter) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.id()));
    let status = status.expect("it lives");
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).expect("a resident size");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number");
    kib * 1024
}

/// Open descriptors of a process.
fn descriptors(exporter: &Exporter) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", exporter.id())).expect("it lives").count()
}

/// Waits until no more descriptors are open than `before`, and two.
#[track_caller]
fn wait_descriptors(exporter: &Exporter, before: usize) {
    wait_until(LIMIT, || match descriptors(exporter) {
        open if open <= before + 2 => Ok(()),
        open => Err(format!("{open} descriptors, {before} before")),
    });
}

/// Sends raw bytes and reads what comes until the other side closes, or has been silent for
/// `patience`.
fn converse(exporter: &Exporter, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(exporter.address()).expect("connect");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    answer
}

/// The status of every answer on a connection.
fn statuses(answer: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(answer)
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|it| it.get(..3)?.parse().ok())
        .collect()
}

/// It still answers, and nothing in it panicked.
#[track_caller]
fn assert_well(exporter: &Exporter) {
    assert_well_with(exporter, &[]);
}

/// The same, with headers.
#[track_caller]
fn assert_well_with(exporter: &Exporter, headers: &[(&str, &str)]) {
    assert_eq!(exporter.get_with("/-/healthy", headers).status, 200);
    assert_no_panic(exporter);
}

#[track_caller]
fn assert_no_panic(exporter: &Exporter) {
    let log = exporter.log();
    assert!(!log.contains("panicked"), "{log}");
}
