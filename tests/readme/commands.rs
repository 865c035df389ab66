//! Every command of README, run as written, in a network of its own where the usual ports are
//! free. Only two things differ: `cargo run --release` runs the program that is being tested, and
//! what would go to `/tmp/tcp-try` goes to the test's own directory.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use harness::{Listener, Netns, Process, wait_until};
use tempfile::TempDir;

use crate::text::{blocks, path, readme};

/// Prometheus, Alertmanager and three confirmed failures, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// A shell in which README's commands work.
struct Reader {
    netns: Netns,
    directory: TempDir,
    running: Vec<Process>,
    started: usize,
}

impl Reader {
    fn new() -> Self {
        let directory = TempDir::with_prefix("readme-").expect("directory");
        let shim = directory.path().join("cargo");
        let script = format!(
            "#!/bin/sh\n[ \"$1 $2\" = 'run --release' ] || exit 64\nshift 2\n\
             [ \"$1\" = -- ] && shift\nexec '{}' \"$@\"\n",
            env!("CARGO_BIN_EXE_tcp_probe_exporter")
        );
        std::fs::write(&shim, script).expect("shim");
        std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).expect("shim");
        Self { netns: Netns::new("readme"), directory, running: Vec::new(), started: 0 }
    }

    fn command(&self, command: &str) -> Vec<String> {
        let own = self.directory.path().display().to_string();
        let command = command.trim().trim_end_matches('&').replace("/tmp/tcp-try", &own);
        let script = format!("PATH='{own}':$PATH; cd '{}'; exec {command}", path("").display());
        ["ip", "netns", "exec", self.netns.name(), "bash", "-c", &script]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a command that ends, as often as it takes until its output has all of `expected`.
    fn run(&self, command: &str, expected: &[&str]) {
        let words = self.command(command);
        wait_until(PATIENCE, || {
            let output = std::process::Command::new(&words[0])
                .args(&words[1..])
                .output()
                .map_err(|err| err.to_string())?;
            let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            let missing: Vec<_> = expected.iter().filter(|it| !said.contains(**it)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let logs = self.running.iter().fold(String::new(), |mut logs, it| {
                let _ = writeln!(logs, "--- {}", it.output());
                logs
            });
            Err(format!("`{command}` lacks {missing:?}: {said}\n{logs}"))
        });
    }

    /// Starts a command that goes on until [`Reader::stop`].
    fn start(&mut self, command: &str) {
        let words = self.command(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let directory: PathBuf = self.directory.path().join(self.started.to_string());
        self.started += 1;
        std::fs::create_dir(&directory).expect("directory");
        self.running.push(Process::start(&directory, &words));
    }

    fn stop(&mut self) {
        self.running.clear();
    }
}

#[test]
fn every_command_does_what_readme_says() {
    let test = "every_command_does_what_readme_says";
    let programs = ["prometheus", "prometheus-alertmanager", "amtool", "curl", "bash"];
    if !harness::installed(test, &programs) || !Netns::available(test) {
        return;
    }
    let blocks = blocks("sh");
    let commands: Vec<&str> =
        blocks.iter().flat_map(|it| it.lines()).filter(|it| !it.is_empty()).collect();
    let [
        serve,
        good,
        refused,
        story,
        terminal,
        tests,
        install,
        exporter,
        prometheus,
        alertmanager,
        alerts,
    ] = commands[..]
    else {
        panic!("README has commands that this test does not know: {commands:#?}");
    };
    let mut reader = Reader::new();
    let ssh = || Listener::serve(([127, 0, 0, 1], 22).into(), |it| it.write(b"SSH-2.0-test\r\n"));
    let _ssh = reader.netns.within(ssh);

    assert_eq!(serve, "cargo run --release");
    reader.start(serve);
    reader.run(good, &["probe_success 1", "probe_phase_duration_seconds{phase=\"connect\"}"]);
    reader.run(refused, &["probe_success 0", "reason=\"refused\""]);
    reader.run(story, &["refused"]);
    reader.run(terminal, &["refused", "nothing listens"]);
    reader.stop();

    // This is what runs us.
    assert_eq!(tests, "tests/run");
    let mode = std::fs::metadata(path("tests/run")).expect("tests/run").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "tests/run must be executable");

    let packages = std::fs::read_to_string(path("tests/packages.txt")).expect("packages");
    let packages: Vec<&str> =
        packages.lines().filter_map(|it| it.split_whitespace().next()).collect();
    let named = install.split_whitespace().skip(2).filter(|it| !it.starts_with('-'));
    for package in named {
        assert!(packages.contains(&package), "`{package}` is not what the tests install");
    }

    for command in [exporter, prometheus, alertmanager] {
        assert!(command.ends_with('&'), "`{command}` must go to the background");
        reader.start(command);
    }
    reader.run(alerts, &["TcpMonitorTargetDown", "orders-db", "refused"]);
    every_series_is_explained(&reader);
}

/// README names every metric of a monitor; those of the exporter itself it sums up.
fn every_series_is_explained(reader: &Reader) {
    let words = reader.command("curl -s localhost:10115/metrics");
    let output = std::process::Command::new(&words[0]).args(&words[1..]).output().expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    let named = text.lines().filter_map(|it| it.strip_prefix("# TYPE tcp_monitor_"));
    let named: Vec<&str> = named.filter_map(|it| it.split_whitespace().next()).collect();
    assert!(named.len() > 10, "{text}");
    let readme = readme();
    for name in named {
        let written = format!("`tcp_monitor_{name}");
        assert!(readme.contains(&written), "README does not explain {written}`");
    }
}
