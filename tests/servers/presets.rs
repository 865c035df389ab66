//! Each preset against its server. The servers' own words decide whether a visit was polite.

use harness::servers::{
    self, dovecot, mariadb, nginx, openssh, postfix, postgres, rabbitmq, redis, slapd, unbound,
    vsftpd,
};
use harness::{Exporter, Netns};

use crate::{
    BINARY, assert_failure, assert_refused_when_down, assert_strangers_fail, assert_success,
    exporter, probe_briefly,
};

/// How often a server is visited before its log is read.
const VISITS: usize = 20;
/// More than the default of `max_connect_errors`, which is 100.
const MANY_VISITS: usize = 200;

#[track_caller]
fn visit(exporter: &Exporter, target: &str, module: &str, visits: usize) {
    for _ in 0..visits {
        assert_success(exporter, target, module);
    }
}

/// The lines with any of `words`, which say that a server is not content.
fn complaints<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    let is_complaint = |line: &&str| {
        let line = line.to_lowercase();
        words.iter().any(|it| line.contains(it))
    };
    log.lines().filter(is_complaint).collect()
}

#[test]
fn mysql_never_counts_towards_blocking_the_host() {
    let name = "mysql_never_counts_towards_blocking_the_host";
    if !servers::available(name, mariadb::PROGRAMS) || !Netns::available(name) {
        return;
    }
    let (near, far) = (Netns::new("near"), Netns::new("far"));
    near.link(&far, &[("10.98.0.1/24", "10.98.0.2/24")]);
    let mariadb = mariadb::Mariadb::start(&far, "10.98.0.2", "10.98.0.1");
    let exporter = Exporter::new(BINARY).netns(&near).start();
    let target = mariadb.server.target();

    // No account at all may come from there: the server says so instead of a greeting.
    let metrics = exporter.probe(&target, "mysql");
    assert_failure(&metrics, "mysql", &["dialogue"], &["expect_rejected"]);

    // Somebody may, but not the exporter: the server works, and never blocks for that.
    let _ = mariadb.query("create user app@'%' identified by 'secret'; flush hosts");
    visit(&exporter, &target, "mysql", MANY_VISITS);
    assert_eq!(mariadb.host_errors(), (0, 0));

    // With the account that the configuration asks for, nothing counts up at all.
    let _ = mariadb.query("create user monitor@'10.98.0.1'; flush hosts; flush status");
    let mark = mariadb.server.log().len();
    visit(&exporter, &target, "mysql", MANY_VISITS);
    assert_eq!(mariadb.host_errors(), (0, 0));
    for counter in ["Aborted_connects", "Aborted_connects_preauth", "Aborted_clients"] {
        assert_eq!(mariadb.status(counter), 0, "{counter}");
    }
    let log = mariadb.server.log_since(mark);
    assert_eq!(complaints(&log, &["warning", "error"]), [""; 0]);

    // What the preset spares the user: bare connects count, and in the end the host is blocked.
    for _ in 0..=100 {
        let _ = exporter.probe(&target, "tcp_connect");
    }
    harness::wait_until(harness::PATIENCE, || match mariadb.host_errors() {
        (100.., 100..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let metrics = exporter.probe(&target, "mysql");
    assert_failure(&metrics, "mysql", &["dialogue"], &["expect_rejected"]);

    drop(mariadb);
    let metrics = exporter.probe(&target, "mysql");
    assert_failure(&metrics, "mysql", &["connect"], &["refused"]);
}

#[test]
fn postgresql_leaves_no_line_beyond_the_connection() {
    if !postgres::available("postgresql_leaves_no_line_beyond_the_connection") {
        return;
    }
    let server = postgres::start();
    let exporter = exporter(None);
    let mark = server.log().len();

    visit(&exporter, &server.target(), "postgresql", MANY_VISITS);

    let log = server.wait_log(mark, "connection received", MANY_VISITS);
    let others: Vec<_> = log.lines().filter(|it| !it.contains("connection received")).collect();
    assert_eq!(others, [""; 0]);
    assert_refused_when_down(&exporter, server, &[("postgresql", 0)]);
}

#[test]
fn redis_is_up_with_and_without_a_password() {
    if !servers::available("redis_is_up_with_and_without_a_password", redis::PROGRAMS) {
        return;
    }
    let exporter = exporter(None);
    for password in [None, Some("secret")] {
        let server = redis::start(password);
        let mark = server.log().len();

        visit(&exporter, &server.target(), "redis", VISITS);

        let log = server.wait_log(mark, "Accepted", VISITS);
        assert_eq!(complaints(&log, &["error", "protocol", "warning", "#"]), [""; 0]);
        assert_refused_when_down(&exporter, server, &[("redis", 0)]);
    }
}

#[test]
fn ssh_parts_by_the_book() {
    if !servers::available("ssh_parts_by_the_book", openssh::PROGRAMS) {
        return;
    }
    let server = openssh::start();
    let exporter = exporter(None);
    // The first connection is ours, to see it listen.
    let mark = server.wait_log(0, "onnection closed", 1).len();

    visit(&exporter, &server.target(), "ssh", VISITS);

    let log = server.wait_log(mark, "Disconnected from", VISITS);
    let expected = |it: &&str| {
        it.contains(":11: probe [preauth]") || it.starts_with("Disconnected from 127.0.0.1")
    };
    let others: Vec<_> = log.lines().filter(|it| !expected(it)).collect();
    assert!(
        others.iter().all(|it| it.contains("Connection closed by 127.0.0.1")),
        "sshd complains: {others:?}"
    );
    assert_eq!(others, [""; 0]);
    assert_refused_when_down(&exporter, server, &[("ssh", 0)]);
}

#[test]
fn smtp_quits_properly() {
    if !servers::available("smtp_quits_properly", postfix::PROGRAMS) {
        return;
    }
    let server = postfix::start(None);
    let exporter = exporter(Some(&server.ca_file()));
    // The first connections are ours, to see both ports listen.
    let mark = server.wait_log(0, "disconnect from", 2).len();
    let modules = [("smtp", 0), ("smtp_starttls", 0), ("smtps", 1)];

    for (module, port) in modules {
        visit(&exporter, &server.target_of(port), module, VISITS);
    }

    let log = server.wait_log(mark, " quit=1 ", VISITS * modules.len());
    assert_eq!(complaints(&log, &["lost connection", "error", "warning"]), [""; 0]);
    assert_refused_when_down(&exporter, server, &modules);
}

#[test]
fn imap_and_pop3_log_out() {
    if !servers::available("imap_and_pop3_log_out", dovecot::PROGRAMS) {
        return;
    }
    let server = dovecot::start();
    let exporter = exporter(Some(&server.ca_file()));
    let mark = server.wait_log(0, "isconnected", 4).len();
    let modules = [
        ("imap", 0),
        ("imap_starttls", 0),
        ("imaps", 1),
        ("pop3", 2),
        ("pop3_starttls", 2),
        ("pop3s", 3),
    ];

    for (module, port) in modules {
        visit(&exporter, &server.target_of(port), module, VISITS);
    }

    let log = server.wait_log(mark, "logging out", VISITS * modules.len());
    let others: Vec<_> = log.lines().filter(|it| !it.contains("logging out")).collect();
    assert_eq!(others, [""; 0]);
    assert_refused_when_down(&exporter, server, &modules);
}

#[test]
fn ftp_quits_properly() {
    if !servers::available("ftp_quits_properly", vsftpd::PROGRAMS) {
        return;
    }
    let server = vsftpd::start();
    let exporter = exporter(None);
    let mark = server.wait_log(0, "CONNECT", 1).len();

    visit(&exporter, &server.target(), "ftp", VISITS);

    let log = server.wait_log(mark, "221 Goodbye", VISITS);
    assert_eq!(complaints(&log, &["500 ", "530 ", "421 ", "oops"]), [""; 0]);
    assert_refused_when_down(&exporter, server, &[("ftp", 0)]);
}

/// The broker's price for an answer is one warning; whoever connects and says nothing is not even
/// mentioned, and a login is information. The comment of the preset says so.
#[test]
fn amqp_costs_one_warning_and_a_login_none() {
    let name = "amqp_costs_one_warning_and_a_login_none";
    if !servers::available(name, rabbitmq::PROGRAMS) {
        return;
    }
    let server = rabbitmq::start();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/rabbitmq.yml");
    let example = std::fs::read_to_string(example).expect("the example");
    let (modules, _) = example.split_once("\nmonitors:").expect("modules, then monitors");
    let exporter = Exporter::new(BINARY).config(modules).start();
    let mark = server.log().len();

    visit(&exporter, &server.target(), "amqp_login", VISITS);
    let log = server.wait_log(mark, "closing AMQP", VISITS);
    let others: Vec<_> = log.lines().filter(|it| !it.contains(" [info] ")).collect();
    assert_eq!(others, [""; 0]);
    let mark = server.log().len();

    visit(&exporter, &server.target(), "tcp_connect", VISITS);
    visit(&exporter, &server.target(), "amqp", VISITS);

    let warning = "client unexpectedly closed TCP connection";
    let log = server.wait_log(mark, warning, VISITS);
    let expected = |it: &&str| {
        let begins = it.contains("accepting AMQP connection") || it.contains("closing AMQP");
        begins || it.contains(warning)
    };
    let others: Vec<_> = log.lines().filter(|it| !expected(it)).collect();
    assert_eq!(others, [""; 0]);
    assert_eq!(log.matches(warning).count(), VISITS);
    assert_refused_when_down(&exporter, server, &[("amqp", 0), ("amqp_login", 0)]);
}

#[test]
fn dns_query_is_answered() {
    if !servers::available("dns_query_is_answered", unbound::PROGRAMS) {
        return;
    }
    let server = unbound::start();
    let exporter = exporter(None);
    let mark = server.log().len();

    visit(&exporter, &server.target(), "dns_tcp", VISITS);

    let log = server.wait_log(mark, ". NS IN", VISITS);
    assert_eq!(complaints(&log, &["error", "warn", "read (in tcp)"]), [""; 0]);
    assert_refused_when_down(&exporter, server, &[("dns_tcp", 0)]);
}

#[test]
fn ldap_binds_and_unbinds() {
    if !servers::available("ldap_binds_and_unbinds", slapd::PROGRAMS) {
        return;
    }
    let server = slapd::start();
    let exporter = exporter(None);
    let mark = server.wait_log(0, "closed", 1).len();

    visit(&exporter, &server.target(), "ldap", VISITS);

    let log = server.wait_log(mark, "closed", VISITS);
    // A visitor who just leaves is noted as `closed (connection lost)`.
    assert_eq!(complaints(&log, &["connection lost", "error", "deferring"]), [""; 0]);
    assert_eq!(log.matches("UNBIND").count(), VISITS);
    assert_refused_when_down(&exporter, server, &[("ldap", 0)]);
}

#[test]
fn tls_server_sees_a_handshake_and_a_goodbye() {
    if !servers::available("tls_server_sees_a_handshake_and_a_goodbye", nginx::PROGRAMS) {
        return;
    }
    let server = nginx::start();
    let trusting = exporter(Some(&server.ca_file()));
    // The first connections are ours, to see both ports listen.
    let mark = server.wait_log(0, "client closed", 2).len();

    visit(&trusting, &server.target(), "tls_connect", VISITS);
    visit(&trusting, &server.target_of(1), "tcp_connect", VISITS);

    let log = server.wait_log(mark, "client closed connection", VISITS);
    assert_eq!(complaints(&log, &["[warn]", "[error]", "[crit]", "handshak"]), [""; 0]);
    // Plain http answers a TLS hello with words.
    let metrics = trusting.probe(&server.target_of(1), "tls_connect");
    assert_failure(&metrics, "tls_connect", &["tls"], &["tls_not_tls"]);
    // Another exporter does not know the authority.
    let metrics = exporter(None).probe(&server.target(), "tls_connect");
    assert_failure(&metrics, "tls_connect", &["tls"], &["tls_untrusted"]);
    assert_refused_when_down(&trusting, server, &[("tls_connect", 0), ("tcp_connect", 1)]);
}

/// Every preset that has a dialogue, against what speaks another protocol.
#[test]
fn something_else_behind_the_port_is_a_failure() {
    let exporter = exporter(None);
    std::thread::scope(|scope| {
        for module in [
            "mysql",
            "postgresql",
            "redis",
            "mongodb",
            "mssql",
            "ssh",
            "smtp",
            "smtp_starttls",
            "smtps",
            "imap",
            "imap_starttls",
            "imaps",
            "pop3",
            "pop3_starttls",
            "pop3s",
            "ftp",
            "amqp",
            "dns_tcp",
            "ldap",
            "tls_connect",
        ] {
            let exporter = &exporter;
            scope.spawn(move || assert_strangers_fail(exporter, module));
        }
    });
}

/// The banner-first protocols must not take each other for themselves.
#[test]
fn presets_are_not_mistaken_for_each_other() {
    let exporter = exporter(None);
    let banners: [(&str, &[u8]); 5] = [
        ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("smtp", b"220 mail.test ESMTP\r\n"),
        ("imap", b"* OK ready\r\n"),
        ("pop3", b"+OK ready\r\n"),
        ("mysql", b"\x04\x00\x00\x00\xff\x10\x04#08004Too many connections"),
    ];
    let modules = ["mysql", "redis", "ssh", "smtp", "imap", "pop3", "ftp", "amqp", "ldap"];
    std::thread::scope(|scope| {
        for (speaker, banner) in banners {
            for module in modules {
                // SMTP and FTP both begin with 220, and the exchange is the same.
                let is_its_own = module == speaker && module != "mysql";
                if is_its_own || (speaker, module) == ("smtp", "ftp") {
                    continue;
                }
                let exporter = &exporter;
                scope.spawn(move || {
                    let peer = harness::Listener::banner(banner);
                    let metrics = probe_briefly(exporter, &peer.target(), module);
                    let reasons = ["expect_rejected", "expect_mismatch", "expect_timeout"];
                    assert_failure(&metrics, module, &["dialogue"], &reasons);
                });
            }
        }
    });
}
