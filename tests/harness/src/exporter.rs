//! The exporter as users run it: a process with flags and a configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::metrics::Metrics;
use crate::netns::{self, Netns};
use crate::process::Process;
use crate::{PATIENCE, wait_until};

/// How an exporter is to be started. `BINARY` is `env!("CARGO_BIN_EXE_tcp_probe_exporter")`,
/// which only a test of the package itself knows.
#[derive(Default)]
pub struct Builder {
    binary: String,
    config: Option<String>,
    files: Vec<(String, String)>,
    flags: Vec<String>,
    limits: Vec<String>,
    environment: Vec<(String, String)>,
    netns: Option<String>,
    etc: Option<PathBuf>,
}

impl Builder {
    /// Text of the configuration file; without it the embedded default is used.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// A further file beside the configuration file. The exporter's working directory is theirs.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    #[must_use]
    pub fn flags(self, flags: &[&str]) -> Self {
        flags.iter().fold(self, |this, it| this.flag(it))
    }

    /// A limit as `prlimit` writes it: `--nofile=64`.
    #[must_use]
    pub fn limit(mut self, limit: &str) -> Self {
        self.limits.push(limit.to_owned());
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs inside `netns`, and so do the requests of [`Exporter::get`].
    #[must_use]
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.name().to_owned());
        self
    }

    /// Sees this directory as `/etc`. Only inside a namespace of its own.
    #[must_use]
    pub fn etc(mut self, directory: &Path) -> Self {
        self.etc = Some(directory.to_owned());
        self
    }

    /// Starts it and waits until it listens, at each address if flags give several.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Exporter {
        let given = self.flags.iter().filter(|it| it.starts_with("--web.listen-address")).count();
        let this = if given > 0 { self } else { self.flag("--web.listen-address=127.0.0.1:0") };
        let netns = this.netns.clone();
        let (directory, mut process) = this.spawn();
        let address = process.wait_output(|log| {
            let addresses = listening(log);
            if addresses.len() < given { None } else { addresses.first().copied() }
        });
        Exporter { process, address, netns, directory }
    }

    /// Starts it where it is expected to end by itself: returns how it ended and what it said.
    #[track_caller]
    #[must_use]
    pub fn run(self, limit: Duration) -> (ExitStatus, String) {
        let (_directory, mut process) = self.spawn();
        let status = process.wait(limit);
        (status, process.output())
    }

    #[track_caller]
    fn spawn(self) -> (TempDir, Process) {
        assert!(!self.binary.is_empty(), "start with `Exporter::new`");
        let directory = TempDir::with_prefix("exporter-").expect("temporary directory");
        let mut words: Vec<String> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["ip", "netns", "exec", netns].map(str::to_owned));
            if let Some(etc) = &self.etc {
                words.extend(netns::with_etc(etc));
            }
        }
        if !self.limits.is_empty() {
            words.push("prlimit".to_owned());
            words.extend(self.limits);
            words.push("--".to_owned());
        }
        words.push(self.binary);
        if let Some(config) = self.config {
            let file = directory.path().join("config.yml");
            std::fs::write(&file, config).expect("configuration file");
            words.push(format!("--config.file={}", file.display()));
        }
        for (name, text) in self.files {
            std::fs::write(directory.path().join(name), text).expect("file");
        }
        words.extend(self.flags);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(directory.path()).envs(self.environment);
        let process = Process::start_command(directory.path(), command);
        (directory, process)
    }
}

/// A running exporter. Dropping it kills it.
pub struct Exporter {
    process: Process,
    address: SocketAddr,
    netns: Option<String>,
    directory: TempDir,
}

impl Exporter {
    #[expect(clippy::new_ret_no_self, reason = "reads as a sentence where it is used")]
    #[must_use]
    pub fn new(binary: &str) -> Builder {
        Builder { binary: binary.to_owned(), ..Builder::default() }
    }

    /// The first address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its configuration file `config.yml` and its other files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces its configuration file, at once as a whole, as a careful tool would.
    pub fn rewrite_config(&self, text: &str) {
        let file = self.directory.path().join("config.yml");
        let draft = self.directory.path().join("config.yml.new");
        std::fs::write(&draft, text).expect("configuration file");
        std::fs::rename(draft, file).expect("configuration file");
    }

    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    #[must_use]
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", path, headers, b"")
    }

    #[track_caller]
    #[must_use]
    pub fn post(&self, path: &str) -> Response {
        self.request("POST", path, &[], b"")
    }

    #[track_caller]
    #[must_use]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let answer = netns::within(self.netns.as_deref(), || {
            http::request(self.address, method, path, headers, body)
        });
        answer.unwrap_or_else(|err| panic!("{method} {path}: {err}; exporter: {}", self.log()))
    }

    /// Probes `target` with `module`; the answer must be 200.
    #[track_caller]
    #[must_use]
    pub fn probe(&self, target: &str, module: &str) -> Metrics {
        let response = self.get_awake(&format!("/probe?module={module}&target={target}"));
        assert_eq!(response.status, 200, "{}", response.text());
        Metrics::parse(&response.text())
    }

    /// The answer to a request for a probe during which this machine, if it is very busy, did not
    /// put the exporter to sleep beyond the deadline. Of that the exporter accuses no target.
    #[track_caller]
    #[must_use]
    pub fn get_awake(&self, path: &str) -> Response {
        wait_until(PATIENCE, || {
            let response = self.get(path);
            let slept = response.status == 503 && response.text().contains("local_stall");
            if slept { Err(response.text()) } else { Ok(response) }
        })
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }
}

/// The addresses in the log lines `msg=listening address=…`, in logfmt or JSON, quoted or not. A
/// line that is still being written does not count.
fn listening(log: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let rest = &line[line.find("address")? + "address".len()..];
        let rest = rest.trim_start_matches(['"', ':', '=', ' ']);
        rest.split(['"', ' ', ',', '}', '\n']).next()?.parse().ok()
    };
    let lines = log.split_inclusive('\n').filter(|it| it.ends_with('\n'));
    lines.filter(|it| it.to_lowercase().contains("listening")).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_read_from_either_log_format() {
        let expected = [SocketAddr::from(([127, 0, 0, 1], 40123))];

        for line in [
            "ts=x level=info msg=listening address=127.0.0.1:40123\n",
            "level=info msg=\"listening\" address=\"127.0.0.1:40123\" tls=false\n",
            r#"{"level":"INFO","msg":"listening","address":"127.0.0.1:40123"}
"#,
        ] {
            assert_eq!(listening(line), expected, "{line}");
        }
        assert_eq!(
            listening("msg=starting address=127.0.0.1:1\nmsg=listening address=127.0.0.1:4"),
            []
        );
    }
}
