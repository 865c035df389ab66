//! Prometheus and Alertmanager as users run them, inside a network namespace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::netns::{self, Netns};
use crate::process::Process;
use crate::{PATIENCE, wait_until};

/// Labels and value of one series.
pub type Sample = (BTreeMap<String, String>, f64);

/// A server of the family, with its files in a directory of its own. Dropping it kills it.
struct Server {
    directory: TempDir,
    netns: String,
    address: SocketAddr,
    words: Vec<String>,
    process: Option<Process>,
}

impl Server {
    #[track_caller]
    fn start(netns: &Netns, address: SocketAddr, files: &[(&str, &str)], words: &[&str]) -> Self {
        let directory = TempDir::with_prefix("server-").expect("temporary directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
            std::fs::write(path, text).expect("file");
        }
        let mut all: Vec<String> =
            ["ip", "netns", "exec", netns.name()].map(str::to_owned).to_vec();
        all.extend(words.iter().map(|&it| it.to_owned()));
        let mut this =
            Self { directory, netns: netns.name().to_owned(), address, words: all, process: None };
        this.resume();
        this
    }

    /// Starts it (again) on the same files and waits until it is ready.
    #[track_caller]
    fn resume(&mut self) {
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).current_dir(self.directory.path());
        let mut process = Process::start_command(self.directory.path(), command);
        wait_until(PATIENCE * 2, || {
            if let Some(status) = process.ended() {
                panic!("`{}` ended with {status}: {}", self.words[4], process.output());
            }
            match self.request("GET", "/-/ready") {
                Ok((200, _)) => Ok(()),
                Ok((status, text)) => Err(format!("{status} {text}")),
                Err(err) => Err(format!("{err}: {}", process.output())),
            }
        });
        self.process = Some(process);
    }

    #[track_caller]
    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.wait(PATIENCE);
        }
    }

    fn request(&self, method: &str, path: &str) -> std::io::Result<(u16, String)> {
        let answer = netns::within(Some(&self.netns), || {
            http::request(self.address, method, path, &[], b"")
        })?;
        Ok((answer.status, answer.text()))
    }
}

/// A running Prometheus.
pub struct Prometheus(Server);

impl Prometheus {
    /// Starts it with `files`, of which `prometheus.yml` is the configuration.
    #[track_caller]
    #[must_use]
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        files: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        let listen = format!("--web.listen-address={address}");
        let mut words = vec!["prometheus", "--config.file=prometheus.yml", &listen];
        words.extend(flags);
        Self(Server::start(netns, address, files, &words))
    }

    /// Stops it in good order and starts it on the same data.
    #[track_caller]
    pub fn restart(&mut self) {
        self.0.stop();
        self.0.resume();
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.0.process.as_ref().map(Process::id)
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.0.directory.path()
    }

    /// The value of an expression now, or what is wrong.
    pub fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let json = self.api(&format!("/api/v1/query?query={}", escape(expr)))?;
        let result = json.pointer("/data/result").and_then(Value::as_array);
        let samples = result.into_iter().flatten().map(|it| {
            let labels = it["metric"].as_object().into_iter().flatten();
            let labels = labels
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            let value = it.pointer("/value/1").and_then(Value::as_str).unwrap_or_default();
            (labels, value.parse().unwrap_or(f64::NAN))
        });
        Ok(samples.collect())
    }

    /// The groups of rules with their health and how long they took.
    pub fn rules(&self) -> Result<Value, String> {
        self.api("/api/v1/rules")
    }

    fn api(&self, path: &str) -> Result<Value, String> {
        let (status, text) = self.0.request("GET", path).map_err(|err| err.to_string())?;
        let json: Value = serde_json::from_str(&text).map_err(|err| format!("{err}: {text}"))?;
        if status == 200 { Ok(json) } else { Err(text) }
    }
}

/// A running Alertmanager.
pub struct Alertmanager(Server);

impl Alertmanager {
    /// Starts it with `files`, of which `alertmanager.yml` is the configuration.
    #[track_caller]
    #[must_use]
    pub fn start(netns: &Netns, address: SocketAddr, files: &[(&str, &str)]) -> Self {
        let listen = format!("--web.listen-address={address}");
        let words = [
            "prometheus-alertmanager",
            "--config.file=alertmanager.yml",
            "--cluster.listen-address=",
            "--log.level=debug",
            &listen,
        ];
        Self(Server::start(netns, address, files, &words))
    }

    /// Replaces its configuration while it runs.
    #[track_caller]
    pub fn configure(&self, text: &str) {
        std::fs::write(self.0.directory.path().join("alertmanager.yml"), text).expect("file");
        let (status, answer) = self.0.request("POST", "/-/reload").expect("an answer");
        assert_eq!(status, 200, "{answer}");
    }

    /// The names and states of the alerts it holds.
    pub fn alerts(&self) -> Result<Value, String> {
        let (_, text) = self.0.request("GET", "/api/v2/alerts").map_err(|err| err.to_string())?;
        serde_json::from_str(&text).map_err(|err| format!("{err}: {text}"))
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.process.as_ref().map(Process::output).unwrap_or_default()
    }
}

/// Percent-encodes everything that is not plainly a letter or a digit.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|it| {
            if it.is_ascii_alphanumeric() {
                char::from(it).to_string()
            } else {
                format!("%{it:02X}")
            }
        })
        .collect()
}
