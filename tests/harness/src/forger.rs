//! A router that answers what it forwards with an ICMP error, whether or not the packet passes.

use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::netns::Netns;
use crate::process::Process;

const PROGRAM: &str = include_str!("forger.py");

/// Which packets are answered, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Forgery<'a> {
    /// The device of the router on which they come in.
    pub device: &'a str,
    pub v6: bool,
    /// The port of the service they go to.
    pub port: u16,
    /// `syn`, `ack` (the end of the handshake), `data`.
    pub on: &'a str,
    /// ICMP type.
    pub kind: u8,
    pub code: u8,
    /// How many errors; afterwards it is silent.
    pub most: u32,
}

/// The running forger. Dropping it ends it.
pub struct Forger {
    process: Process,
    _directory: TempDir,
}

impl Forger {
    /// Starts it inside `router` and waits until it listens.
    #[track_caller]
    #[must_use]
    pub fn start(router: &Netns, forgery: Forgery<'_>) -> Self {
        let Forgery { device, v6, port, on, kind, code, most } = forgery;
        let family = if v6 { 6 } else { 4 };
        let rule = json!({
            "device": device, "family": family, "port": port, "on": on,
            "type": kind, "code": code, "most": most,
        });
        let directory = TempDir::with_prefix("forger-").expect("temporary directory");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", router.name(), "python3", "-c", PROGRAM]);
        command.arg(rule.to_string());
        let mut process = Process::start_command(directory.path(), command);
        process.wait_output(|output| output.contains("ready").then_some(()));
        Self { process, _directory: directory }
    }

    /// How many errors it has sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.process.output().lines().filter(|line| *line != "ready").count()
    }
}
