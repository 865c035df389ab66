//! `blackbox_exporter` from Debian, to compare with.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::Process;

const MODULES: &str = "modules:\n  tcp_connect:\n    prober: tcp\n    timeout: 5s\n";

/// Starts it; `None` where it is not installed.
pub(crate) fn start(directory: &std::path::Path) -> Option<(Process, SocketAddr)> {
    let config = directory.join("blackbox.yml");
    std::fs::write(&config, MODULES).expect("a directory to write to");
    let address = harness::ClosedPort::new().address();
    let child = Command::new("prometheus-blackbox-exporter")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let process = Process(child);
    harness::wait_until(Duration::from_secs(20), || {
        TcpStream::connect(address).map_err(|err| err.to_string())
    });
    Some((process, address))
}
