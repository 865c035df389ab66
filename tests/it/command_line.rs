//! Flags, exit codes, and what is said on which stream.

use harness::{Exporter, Process};
use tempfile::TempDir;

use crate::{EXPORTER, LIMIT, exporter_with, run, text};

#[track_caller]
fn check_error(words: &[&str], expected: &str) {
    let output = run(words);

    let line = format!("tcp_probe_exporter: error: {expected}, try --help\n");
    assert_eq!(text(&output.stderr), line);
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_line_that_cannot_be_followed_ends_with_one_line_and_1() {
    check_error(&["--nonsense"], "unexpected argument '--nonsense' found");
    check_error(&["stray"], "unrecognized subcommand 'stray'");
    check_error(
        &["--history.limit=x"],
        "invalid value 'x' for '--history.limit <COUNT>': invalid digit found in string",
    );
    check_error(
        &["--log.format=xml"],
        "invalid value 'xml' for '--log.format <FORMAT>': \
         `xml` is no log format, there are `logfmt`, `json`",
    );
    check_error(
        &["--config.file=a", "--config.file=b"],
        "the argument '--config.file <FILE>' cannot be used multiple times",
    );
    check_error(
        &["--web.external-url='http://host'"],
        "--web.external-url: `'http://host'` must not begin or end with a quotation mark",
    );
    check_error(&["--web.systemd-socket"], "--web.systemd-socket needs --web.external-url");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for flag in ["-h", "--help"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        for word in ["--config.file", "--web.listen-address", "--timeout-offset", "probe"] {
            assert!(text(&output.stdout).contains(word), "{word}");
        }
    }

    let output = run(&["--version"]);

    assert_eq!(output.status.code(), Some(0));
    let version = text(&output.stdout);
    assert!(version.starts_with("tcp_probe_exporter, version "), "{version}");
    assert!(version.lines().count() > 1, "{version}");
}

#[test]
fn every_flag_is_in_the_readme() {
    let readme = include_str!("../../README.md");
    let help = text(&run(&["--help"]).stdout);
    let flags: Vec<&str> =
        help.split_whitespace().filter(|it| it.starts_with("--") && it.len() > 2).collect();
    assert!(flags.len() > 15, "{flags:?}");
    for flag in flags {
        let flag = flag.trim_end_matches([',', '.']);
        assert!(readme.contains(&format!("`{flag}`")), "{flag}");
    }
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    for (words, part) in [
        (&["completions", "bash"][..], "complete"),
        (&["completions", "zsh"], "#compdef"),
        (&["man"], ".TH tcp_probe_exporter 1"),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(part), "{words:?}");
    }
}

#[test]
fn a_configuration_is_checked_without_serving() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("config.yml");
    let flag = format!("--config.file={}", file.display());

    std::fs::write(&file, "modules: {m: {prober: tcp}}\n").unwrap();
    let good = run(&["--config.check", &flag]);
    std::fs::write(&file, "modules: {m: {prober: tcp, tcp: {tsl: true}}}\n").unwrap();
    let bad = run(&["--config.check", &flag]);
    std::fs::remove_file(&file).unwrap();
    let missing = run(&["--config.check", &flag]);

    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(text(&good.stdout).contains("0 monitors"), "{good:?}");
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(text(&bad.stderr).contains(":1: modules.m.tcp"), "{bad:?}");
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}

#[test]
fn a_check_says_what_is_wrong_with_both_files() {
    let home = tempfile::tempdir().unwrap();
    let (file, web) = (home.path().join("c.yml"), home.path().join("web.yml"));
    std::fs::write(&file, "monitors:\n- host: a\n  port: 0\n").unwrap();
    std::fs::write(&web, "tls_server_config: {cert_fil: a}\n").unwrap();
    let flags = [
        "--config.check".to_owned(),
        format!("--config.file={}", file.display()),
        format!("--web.config.file={}", web.display()),
    ];
    let flags = flags.each_ref().map(String::as_str);

    let both = run(&flags);
    std::fs::write(&file, "{}\n").unwrap();
    let one = run(&flags);
    std::fs::write(&web, "{}\n").unwrap();
    let none = run(&flags);

    assert_eq!(both.status.code(), Some(1), "{both:?}");
    let said = text(&both.stderr);
    assert!(said.contains("c.yml:3: monitors[0].port: invalid port `0`"), "{said}");
    assert!(said.contains("web.yml") && said.contains("cert_fil"), "{said}");
    assert_eq!(one.status.code(), Some(1), "{one:?}");
    assert!(text(&one.stderr).contains("cert_fil"), "{one:?}");
    assert_eq!(none.status.code(), Some(0), "{none:?}");
}

#[test]
fn a_bad_configuration_ends_the_start() {
    let (status, log) = Exporter::new(EXPORTER).config("modules: 1\n").run(LIMIT);

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("error loading config"), "{log}");
    assert!(log.contains("config.yml:1: modules"), "{log}");
}

#[test]
fn an_address_in_use_ends_the_start() {
    let first = exporter_with(&[]);
    let flag = format!("--web.listen-address={}", first.address());

    let (status, log) = Exporter::new(EXPORTER).flag(&flag).run(LIMIT);

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot listen on") && log.contains("in use"), "{log}");
}

#[test]
fn several_addresses_are_listened_on() {
    let flags = ["--web.listen-address=127.0.0.1:0", "--web.listen-address=127.0.0.2:0"];
    let exporter = exporter_with(&flags);

    let log = exporter.log();
    let addresses: Vec<_> = log
        .lines()
        .filter(|it| it.contains("msg=listening"))
        .filter_map(|it| it.split("address=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();

    assert_eq!(addresses.len(), 2, "{log}");
    for address in addresses {
        let answer = harness::http::request(address, "GET", "/-/healthy", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[test]
fn without_a_host_both_families_are_listened_on() {
    let exporter = exporter_with(&["--web.listen-address=:0"]);
    let port = exporter.address().port();
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "::1"].into_iter().take(1 + usize::from(has_ipv6)) {
        let address = std::net::SocketAddr::new(host.parse().unwrap(), port);
        let answer = harness::http::request(address, "GET", "/-/healthy", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[test]
fn logs_are_logfmt_or_json() {
    let logfmt = exporter_with(&[]).log();
    let json = exporter_with(&["--log.format=json"]).log();

    let line = logfmt.lines().next().unwrap();
    assert!(line.starts_with("time=20") && line.contains(" level=INFO msg=starting "), "{line}");
    for line in json.lines() {
        assert!(line.starts_with("{\"time\":\"20") && line.ends_with('}'), "{line}");
    }
    assert!(json.contains("\"level\":\"INFO\",\"msg\":\"starting\""), "{json}");
}

#[test]
fn a_bad_level_of_the_probe_log_only_warns() {
    let log = exporter_with(&["--log.prober=loud"]).log();
    assert!(log.contains("level=WARN") && log.contains("--log.prober"), "{log}");
}

#[test]
fn a_quiet_log_says_errors_only() {
    let directory = TempDir::new().unwrap();
    let words =
        [EXPORTER, "--log.level=error", "--log.prober=error", "--web.listen-address=nohost:0:1"];
    let mut process = Process::start(directory.path(), &words);
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    assert!(!process.output().contains("starting"), "{}", process.output());
}

#[test]
fn systemd_hands_over_the_socket() {
    if !harness::installed("systemd_hands_over_the_socket", &["systemd-socket-activate"]) {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("--listen=127.0.0.1:{port}");
    let directory = TempDir::new().unwrap();
    let words = [
        "systemd-socket-activate",
        &listen,
        EXPORTER,
        "--web.systemd-socket",
        "--web.external-url=http://host/",
    ];
    let mut process = Process::start(directory.path(), &words);
    process.wait_output(|output| output.contains("Listening on").then_some(()));

    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = harness::http::request(address, "GET", "/-/healthy", &[], b"").unwrap();

    assert_eq!(answer.status, 200);
}

#[test]
fn without_sockets_from_systemd_the_start_ends() {
    let flags = ["--web.systemd-socket", "--web.external-url=http://host/"];
    let (status, log) = Exporter::new(EXPORTER).flags(&flags).run(LIMIT);
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot take sockets from systemd"), "{log}");
}

#[test]
fn a_reader_of_the_log_that_hangs_holds_up_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = std::process::Command::new(EXPORTER)
        .args(["--web.listen-address=127.0.0.1:0", "--log.prober=debug"])
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(reader);
    let address = loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut log, &mut line).unwrap();
        if let Some((_, address)) = line.split_once("msg=listening address=") {
            break address.split(' ').next().unwrap().trim().parse().unwrap();
        }
    };

    // Many times what the pipe and the queue behind it hold, read by nobody.
    let path = format!("/probe?target={}", "x".repeat(4000));
    for _ in 0..200 {
        let answer = harness::http::request(address, "GET", &path, &[], b"").unwrap();
        assert_eq!(answer.status, 200);
    }

    child.kill().unwrap();
    child.wait().unwrap();
}
