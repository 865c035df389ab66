//! Every secret of every configuration, looked for in everything that the exporter shows; and what
//! modules send from files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::listener::Visitor;
use harness::{ClosedPort, Exporter, HangingMount, Listener, wait_until};

use crate::{EXPORTER, LIMIT, assert_well, assert_well_with};

/// In every secret below.
const MARK: &str = "hunter2";
/// The same in hexadecimal.
const MARK_HEX: &str = "68756e74657232";

#[track_caller]
fn assert_hidden(what: &str, text: &str) {
    let base64 = STANDARD.encode(format!("user:{MARK}"));
    for secret in [MARK, MARK_HEX, &base64, "$2b$"] {
        assert!(!text.contains(secret), "{what} shows `{secret}`: {text}");
    }
}

/// Greets, and takes what comes without a word about it.
fn greeter() -> Listener {
    Listener::serve(([127, 0, 0, 1], 0).into(), |visitor: &mut Visitor| {
        visitor.write(b"220 ready\r\n");
        visitor.read_to_end();
    })
}

const CONFIG: &str = "
modules:
  key: {prober: tcp, timeout: 2s, tcp: {tls: true, tls_config: {cert: public, key: hunter2}}}
  text: {prober: tcp, timeout: 2s, tcp: {query_response: [{expect: '220', send: PASS hunter2}]}}
  hex: {prober: tcp, timeout: 2s, tcp: {query_response: [{send: {hex: 68756e74657232}}]}}
  bytes: {prober: tcp, timeout: 2s, tcp: {query_response: [{send_bytes: 'hunter2\\r\\n'}]}}
  raw: {prober: tcp, timeout: 2s, tcp: {query_response: [{send_bytes: {hex: 68756e74657232}}]}}
  file: {prober: tcp, timeout: 2s, tcp: {query_response: [{send_file: login}]}}
  lost: {prober: tcp, timeout: 300ms, tcp: {query_response: [{send_bytes_file: login}, {expect: x}]}}
monitors:
- {name: m, host: 127.0.0.1, port: PORT, module: text, interval: 1s, timeout: 500ms}
";

#[test]
fn no_output_shows_a_secret() {
    let (peer, closed) = (greeter(), ClosedPort::new());
    let hash = bcrypt::hash(MARK, 4).expect("a hash");
    let exporter = Exporter::new(EXPORTER)
        .config(&CONFIG.replace("PORT", &peer.port().to_string()))
        .file("login", "PASS hunter2\n")
        .file("web.yml", &format!("basic_auth_users: {{user: '{hash}'}}\n"))
        .flags(&["--web.config.file=web.yml", "--log.level=debug", "--log.prober=debug"])
        .start();
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("user:{password}")));
    let (good, bad) = (basic(MARK), basic("hunter2, but wrong"));
    let (good, bad) = ([("Authorization", &*good)], [("Authorization", &*bad)]);
    for module in ["key", "text", "hex", "bytes", "raw", "file", "lost"] {
        for target in [peer.target(), closed.target()] {
            let path = format!("/probe?module={module}&target={target}&debug=true");
            let answer = exporter.get_with(&path, &good);
            assert!(answer.text().contains("Module configuration"), "{}", answer.text());
            assert_hidden(&path, &answer.text());
        }
        assert_eq!(exporter.get_with("/metrics", &bad).status, 401);
    }
    let shown = exporter.get_with("/config", &good).text();
    for key in ["key", "send", "send_bytes"] {
        assert!(shown.contains(&format!("{key}: <secret>")), "{key}: {shown}");
    }
    assert!(shown.contains("send_file: login"), "{shown}");
    // A configuration that is refused is quoted in the log.
    exporter
        .rewrite_config("modules: {m: {prober: tcp, tcp: {query_response: [{send: [hunter2]}]}}}");
    let request = exporter.request("POST", "/-/reload", &good, b"");
    assert_eq!(request.status, 500);
    assert_hidden("/-/reload", &request.text());
    let pages = ["/", "/config", "/metrics", "/api/v1/targets", "/sd", "/logs"];
    let stories = (0..20).map(|id| format!("/logs?id={id}"));
    for path in pages.into_iter().map(str::to_owned).chain(stories) {
        assert_hidden(&path, &exporter.get_with(&path, &good).text());
    }
    assert_hidden("the log", &exporter.log());
    // Nothing was hidden by not happening.
    let sent = |visit: &harness::listener::Visit| {
        visit.bytes.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes())
    };
    assert!(peer.visits().iter().filter(|visit| sent(visit)).count() >= 6);
    assert_well_with(&exporter, &good);
}

#[test]
fn errors_quote_no_secret() {
    let module = |step: &str| {
        format!("modules: {{m: {{prober: tcp, tcp: {{query_response: [{step}]}}}}}}\n")
    };
    let tls = |keys: &str| {
        format!("modules: {{m: {{prober: tcp, tcp: {{tls: true, tls_config: {keys}}}}}}}\n")
    };
    for config in [
        module("{send: [hunter2]}"),
        module("{send: {hex: hunter2}}"),
        module("{send: {hex: {hunter2: 1}}}"),
        module("{send_bytes: 'hunter2\\q'}"),
        module("{send_bytes: {hex: 68756e746572320}}"),
        module("{send: hunter2, send_bytes: hunter2}"),
        module("{send: hunter2, nonsense: 1}"),
        tls("{key: [hunter2]}"),
        tls("{key: hunter2}"),
        tls("{cert: a, key: hunter2, key_file: b}"),
    ] {
        let (status, log) =
            Exporter::new(EXPORTER).config(&config).flag("--config.check").run(LIMIT);
        assert_eq!(status.code(), Some(1), "{config}: {log}");
        assert_hidden(&config, &log);
    }
    for web in [
        "basic_auth_users: hunter2",
        "basic_auth_users: [hunter2]",
        "basic_auth_users: {user: hunter2}",
        "basic_auth_users: {user: [hunter2]}",
        "tls_server_config: {cert: a, key: [hunter2]}",
        "tls_server_config: {cert: a, key: hunter2}",
        "tls_server_config: {cert: a, key: hunter2, key_file: b}",
    ] {
        let flag = "--web.config.file=web.yml";
        let (status, log) = Exporter::new(EXPORTER).file("web.yml", web).flag(flag).run(LIMIT);
        assert_eq!(status.code(), Some(1), "{web}: {log}");
        assert_hidden(web, &log);
    }
}

/// What the last visitor said, when it is gone.
#[track_caller]
fn last_said(peer: &Listener, visits: usize) -> String {
    wait_until(LIMIT, || match peer.visits().get(visits - 1) {
        Some(visit) if visit.end.is_some() => Ok(String::from_utf8_lossy(&visit.bytes).into()),
        visit => Err(format!("{visit:?}")),
    })
}

#[test]
fn what_is_sent_may_come_from_a_file_that_changes() {
    let peer = greeter();
    let exporter = Exporter::new(EXPORTER)
        .config(
            "modules:
  line: {prober: tcp, timeout: 5s, tcp: {query_response: [{expect: '(220)', send_file: login}]}}
  bytes: {prober: tcp, timeout: 5s, tcp: {query_response: [{expect: '(220)', send_bytes_file: login}]}}
",
        )
        .file("login", "PASS $1")
        .start();
    let login = exporter.directory().join("login");
    let mut visits = 0;
    let mut check = |module: &str, expected: &str| {
        assert!(exporter.probe(&peer.target(), module).is_success());
        visits += 1;
        assert_eq!(last_said(&peer, visits), expected, "{module}");
    };
    // No captures: a password may hold a `$`.
    check("line", "PASS $1\n");
    check("bytes", "PASS $1");
    fs::write(&login, "PASS other\r\n").expect("a file");
    std::thread::sleep(Duration::from_millis(1200));
    check("line", "PASS other\r\n");
    check("bytes", "PASS other\r\n");
    // What was good stays while there is nothing better.
    fs::remove_file(&login).expect("a file");
    std::thread::sleep(Duration::from_millis(1200));
    check("line", "PASS other\r\n");
    assert_well(&exporter);
}

#[test]
fn a_file_to_send_may_be_anything() {
    let Some(mount) = HangingMount::new("a_file_to_send_may_be_anything") else { return };
    let (peer, home) = (greeter(), tempfile::tempdir().expect("a directory"));
    let path = |name: &str| home.path().join(name);
    harness::process::run(&["mkfifo", &path("pipe").display().to_string()]);
    fs::write(path("empty"), "").expect("a file");
    fs::write(path("large"), vec![b'x'; 64 * 1024 + 1]).expect("a file");
    let cases = [
        (path("pipe"), "it is a pipe or a device: name a file"),
        ("/dev/zero".into(), "it is a pipe or a device: name a file"),
        (home.path().to_owned(), "it is a directory: name a file"),
        (path("absent"), "No such file or directory"),
        (path("empty"), "it is empty"),
        (path("large"), "it is larger than 64 KiB"),
        (mount.path(), "the file system hangs"),
    ];
    let module = |index: usize, path: &Path| {
        let path = path.display();
        format!(
            "  m{index}: {{prober: tcp, timeout: 20s, tcp: {{query_response: [{{send_file: '{path}'}}]}}}}\n"
        )
    };
    let modules: String =
        cases.iter().enumerate().map(|(index, (path, _))| module(index, path)).collect();
    let exporter = Exporter::new(EXPORTER).config(&format!("modules:\n{modules}")).start();
    for (index, (path, expected)) in cases.iter().enumerate() {
        let answer = exporter.get(&format!("/probe?module=m{index}&target={}", peer.target()));
        let text = answer.text();
        // A fault of ours: the target is not to blame.
        assert_eq!(answer.status, 503, "{}: {text}", path.display());
        assert!(text.contains("local_config") && text.contains(expected), "{text}");
        assert!(text.contains("file to send `") || text.contains("hangs"), "{text}");
    }
    assert_well(&exporter);
}
