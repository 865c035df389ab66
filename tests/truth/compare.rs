//! `blackbox_exporter` in the same world, asked the same question: what a success or failure of
//! its TCP prober says, against the truth. Only with `TRUTH_COMPARE=1`.

use std::net::SocketAddr;
use std::process::Command;

use harness::{Metrics, Netns, Process, http, wait_until};
use tempfile::TempDir;

use crate::ask::LIMIT;
use crate::scene::Scene;
use crate::situation::Truth;

const PROGRAM: &str = "prometheus-blackbox-exporter";
/// Keys of a module that it does not know.
const UNKNOWN: [&str; 8] = [
    "expect_connect",
    "hold",
    "send_bytes",
    "expect_bytes",
    "expect_stream",
    "reject",
    "close:",
    "resolver",
];

/// It, in the namespace of the monitor.
pub(crate) struct Blackbox {
    address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Blackbox {
    /// Where it is wanted, and can be asked the same: it knows the module, and what is broken is
    /// not the exporter's own process.
    pub(crate) fn beside(scene: &Scene) -> Option<Self> {
        let wanted = std::env::var_os("TRUTH_COMPARE").is_some();
        let is_known = UNKNOWN.iter().all(|key| !scene.module.contains(key));
        if !wanted || !is_known || !scene.environment.is_empty() || scene.limit.is_some() {
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("blackbox.yml");
        let text = format!(
            "modules:\n  m: {{prober: tcp, timeout: {}ms, tcp: {{{}}}}}\n",
            scene.timeout.as_millis(),
            scene.module
        );
        std::fs::write(&file, text).expect("a file");
        let address: SocketAddr = "127.0.0.1:9115".parse().expect("an address");
        let mut command = Command::new("ip");
        let script = "mount --bind \"$0\" /etc && exec \"$@\"";
        command.args(["netns", "exec", scene.near.name(), "sh", "-c", script]);
        command.arg(scene.etc()).arg(PROGRAM).arg(format!("--config.file={}", file.display()));
        command.args([format!("--web.listen-address={address}"), "--log.level=error".to_owned()]);
        let process = Process::start_command(directory.path(), command);
        let this = Self { address, _process: process, _directory: directory };
        wait_until(LIMIT, || match this.get(&scene.near, "/-/healthy") {
            Some(answer) if answer.status == 200 => Ok(()),
            _ => Err("not there".to_owned()),
        });
        Some(this)
    }

    fn get(&self, near: &Netns, path: &str) -> Option<http::Response> {
        near.within(|| http::request(self.address, "GET", path, &[], b"").ok())
    }

    /// Whether its probe succeeds.
    pub(crate) fn succeeds(&self, scene: &Scene) -> Option<bool> {
        let path = format!("/probe?module=m&target={}", scene.target());
        let answer = self.get(&scene.near, &path)?;
        (answer.status == 200).then(|| Metrics::parse(&answer.text()).is_success())
    }
}

/// What a success or failure amounts to: it has no third word.
pub(crate) const fn judged(truth: Truth, succeeds: bool) -> &'static str {
    match (truth, succeeds) {
        (Truth::Nobody, true) | (Truth::Target, false) => "right",
        (Truth::Nobody | Truth::Monitor, false) => "blamed",
        (Truth::Monitor, true) => "certified",
        (Truth::Target, true) => "missed",
    }
}
