//! The files that `blackbox_exporter` ships, unchanged, against real servers: what its own program
//! finds, this one finds too.

use std::path::Path;
use std::process::Command;

use harness::process::Process;
use harness::servers::{self, dovecot, free_port, nginx, ngircd, openssh, postfix, rabbitmq};
use harness::{ClosedPort, Exporter, Metrics, PATIENCE, http, wait_until};

use crate::BINARY;

/// Its program, as Debian names it.
const UPSTREAM: &str = "prometheus-blackbox-exporter";
const EXAMPLE: &str = "/usr/share/doc/prometheus-blackbox-exporter/examples/example.yml";
const DEFAULT: &str = "/etc/prometheus/blackbox.yml";

/// Both programs on the same file.
struct Pair {
    ours: Exporter,
    theirs: std::net::SocketAddr,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Pair {
    #[track_caller]
    fn start(file: &str, ca_file: &Path) -> Self {
        let ca_file = ca_file.display().to_string();
        let flag = format!("--config.file={file}");
        let ours = Exporter::new(BINARY).flag(&flag).env("SSL_CERT_FILE", &ca_file).start();
        let directory = tempfile::tempdir().expect("temporary directory");
        let theirs = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(UPSTREAM);
        command.arg(flag).arg(format!("--web.listen-address={theirs}"));
        command.env("SSL_CERT_FILE", ca_file);
        let process = Process::start_command(directory.path(), command);
        wait_until(PATIENCE, || {
            http::request(theirs, "GET", "/-/healthy", &[], b"").map_err(|it| it.to_string())
        });
        Self { ours, theirs, _process: process, _directory: directory }
    }

    /// Both find the same, and the metrics of theirs are a part of ours.
    #[track_caller]
    fn assert_same(&self, module: &str, target: &str, expected: bool) {
        self.assert_same_at(module, target, target, expected);
    }

    /// As [`Pair::assert_same`] with a server for each, where two visitors would meet.
    #[track_caller]
    fn assert_same_at(&self, module: &str, target: &str, their_target: &str, expected: bool) {
        let path = format!("/probe?module={module}&target={their_target}");
        // A failure may take all the time there is.
        let timeout = if expected { "60" } else { "2.5" };
        let header = [("X-Prometheus-Scrape-Timeout-Seconds", timeout)];
        let theirs = http::request(self.theirs, "GET", &path, &header, b"").expect("an answer");
        let theirs = Metrics::parse(&theirs.text());
        let path = format!("/probe?module={module}&target={target}");
        let ours = Metrics::parse(&self.ours.get_with(&path, &header).text());
        let found = (ours.is_success(), theirs.is_success());
        assert_eq!(found, (expected, expected), "`{module}`, ours and theirs: {}", ours.text);
        for sample in &theirs.samples {
            // Durations differ from probe to probe.
            if sample.name.ends_with("_seconds") && !sample.name.contains("timestamp") {
                assert!(ours.value(&sample.name, &[]).is_some(), "no {} in ours", sample.name);
                continue;
            }
            let labels: Vec<_> =
                sample.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(
                ours.value(&sample.name, &labels),
                Some(sample.value),
                "`{module}`: {sample:?} of theirs, ours: {}",
                ours.text
            );
        }
    }
}

#[test]
fn examples_of_upstream_find_the_same() {
    let name = "examples_of_upstream_find_the_same";
    let programs =
        [&[UPSTREAM], dovecot::PROGRAMS, postfix::PROGRAMS, nginx::PROGRAMS, ngircd::PROGRAMS];
    if !servers::available(name, &programs.concat()) || !Path::new(EXAMPLE).exists() {
        return;
    }
    let (dovecot, nginx) = (dovecot::start(), nginx::start());
    let ngircds = [ngircd::start(), ngircd::start()];
    let postfix = postfix::start(Some(&dovecot.file("auth")));
    let closed = ClosedPort::new();
    // Each server has an authority of its own; one file may hold several.
    let authorities = tempfile::NamedTempFile::new().unwrap();
    let bundle: Vec<String> = [&dovecot, &nginx, &postfix]
        .map(|it| std::fs::read_to_string(it.ca_file()).unwrap())
        .into();
    std::fs::write(authorities.path(), bundle.concat()).unwrap();
    let pair = Pair::start(EXAMPLE, authorities.path());

    pair.assert_same("imap_starttls", &dovecot.target_of(0), true);
    pair.assert_same("smtp_starttls", &postfix.target_of(0), true);
    pair.assert_same("tls_connect", &nginx.target_of(0), true);
    pair.assert_same("tls_connect", &nginx.target_of(1), false);
    pair.assert_same("tcp_connect_example", &nginx.target_of(1), true);
    // Both would take the same nickname.
    let [target, their_target] = ngircds.each_ref().map(harness::servers::Server::target);
    pair.assert_same_at("irc_banner_example", &target, &their_target, true);
    for module in ["imap_starttls", "smtp_starttls", "tls_connect", "tcp_connect_example"] {
        pair.assert_same(module, &closed.target(), false);
    }
    // What speaks, but something else.
    pair.assert_same("smtp_starttls", &dovecot.target_of(0), false);
}

#[test]
fn default_file_of_upstream_finds_the_same() {
    let name = "default_file_of_upstream_finds_the_same";
    let programs = [&[UPSTREAM], dovecot::PROGRAMS, openssh::PROGRAMS, ngircd::PROGRAMS];
    if !servers::available(name, &programs.concat()) || !Path::new(DEFAULT).exists() {
        return;
    }
    let (dovecot, openssh) = (dovecot::start(), openssh::start());
    let ngircds = [ngircd::start(), ngircd::start()];
    let pair = Pair::start(DEFAULT, &dovecot.ca_file());

    pair.assert_same("tcp_connect", &openssh.target(), true);
    pair.assert_same("ssh_banner", &openssh.target(), true);
    // Both would take the same nickname.
    let [target, their_target] = ngircds.each_ref().map(harness::servers::Server::target);
    pair.assert_same_at("irc_banner", &target, &their_target, true);
    pair.assert_same("ssh_banner", &ClosedPort::new().target(), false);
    // Its pattern `^+OK` means `^OK` in RE2 and never matches a POP3 server: a flaw of the file
    // that a drop-in has to share. The server hears nothing until it loses patience.
    let response = pair.ours.get_with(
        &format!("/probe?module=pop3s_banner&target={}", dovecot.target_of(3)),
        &[("X-Prometheus-Scrape-Timeout-Seconds", "1.5")],
    );
    let metrics = Metrics::parse(&response.text());
    assert_eq!(metrics.failure(), Some(("dialogue", "expect_timeout")), "{}", metrics.text);
    // Modules of other probers are there and say what they are.
    let response = pair.ours.get(&format!("/probe?module=icmp&target={}", openssh.target()));
    assert_eq!(response.status, 400, "{}", response.text());
}

/// What upstream's examples have learned since Debian's version: labels from a banner, and a
/// broker that answers a greeting it does not know with the name of its protocol and hangs up.
#[test]
fn later_examples_of_upstream_work_too() {
    let name = "later_examples_of_upstream_work_too";
    if !servers::available(name, &[openssh::PROGRAMS, rabbitmq::PROGRAMS].concat()) {
        return;
    }
    let (openssh, rabbitmq) = (openssh::start(), rabbitmq::start());
    let exporter = Exporter::new(BINARY)
        .config(&format!(
            r#"
modules:
  banner:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
        - expect: "^SSH-2.0-([^ -]+)(?: (.*))?$"
          labels:
            - {{name: software, value: "${{1}}"}}
            - {{name: comments, value: "${{2}}"}}
  broker:
    prober: tcp
    timeout: 30s
    tcp:
      query_response:
        - send: "HELO\r"
        - send: "\r"
        - send: "\r"
        - send: "\r"
        - expect: "AMQP"
      tls: true
      tls_config:
        ca_file: {}
"#,
            rabbitmq.ca_file().display()
        ))
        .start();

    let banner = exporter.probe(&openssh.target(), "banner");
    let broker = exporter.probe(&rabbitmq.target_of(1), "broker");

    assert!(banner.is_success(), "{}", banner.text);
    let software = banner.label("probe_expect_info", "software").expect("a label");
    assert!(software.starts_with("OpenSSH_"), "{software}");
    let comments = banner.label("probe_expect_info", "comments").expect("a label");
    assert!(comments.starts_with("Debian"), "{comments}");
    assert!(broker.is_success(), "{}", broker.text);
}
