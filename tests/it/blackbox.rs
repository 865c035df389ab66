//! The program that this one replaces, side by side: the same file, the same questions, the same
//! answers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use harness::{ClosedPort, Exporter, Listener, Metrics, Process, Response, http, wait_until};
use tempfile::TempDir;

use crate::{EXPORTER, LIMIT};

const PROGRAM: &str = "prometheus-blackbox-exporter";
const SCRAPE_TIMEOUT: &str = "X-Prometheus-Scrape-Timeout-Seconds";

const CONFIG: &str = "\
modules:
  connect:
    prober: tcp
    timeout: 5s
  banner:
    prober: tcp
    timeout: 1s
    tcp:
      query_response:
        - expect: '^220 ([a-z]+)'
          send: 'HELO ${1}'
        - expect: '^HELO (friend|enemy)$'
  v6only:
    prober: tcp
    timeout: 1s
    tcp: {preferred_ip_protocol: ip6, ip_protocol_fallback: false}
";

/// Both, on the same configuration.
struct Pair {
    ours: Exporter,
    theirs: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Pair {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("blackbox.yml");
        std::fs::write(&file, CONFIG).unwrap();
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let words = [
            PROGRAM.to_owned(),
            format!("--config.file={}", file.display()),
            format!("--web.listen-address={theirs}"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::start(directory.path(), &words);
        wait_until(LIMIT, || match http::request(theirs, "GET", "/-/healthy", &[], b"") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}: {}", process.output())),
        });
        let ours = Exporter::new(EXPORTER).config(CONFIG).start();
        Self { ours, theirs, _process: process, _directory: directory }
    }

    /// The answers of both: ours, theirs.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (Response, Response) {
        let theirs = http::request(self.theirs, method, path, headers, b"").expect("an answer");
        (self.ours.request(method, path, headers, b""), theirs)
    }
}

#[test]
fn requests_that_are_refused_are_refused_in_the_same_words() {
    if !harness::installed("requests_that_are_refused", &[PROGRAM]) {
        return;
    }
    let pair = Pair::start();
    for (method, path, header) in [
        ("GET", "/probe?module=no&target=a:1", None),
        ("GET", "/probe?module=n%22%0a%5co&target=a:1", None),
        ("GET", "/probe?module=connect", None),
        ("GET", "/probe?module=connect&target=", None),
        ("GET", "/probe?module=connect&target=%zz", None),
        ("GET", "/probe?module=connect&target=a:1", Some("x")),
        ("GET", "/probe?module=connect&target=a:1", Some("1e999")),
        ("GET", "/probe?module=no&target=a:1", Some("x")),
        ("GET", "/probe?module=connect", Some("x")),
        ("GET", "/-/reload", None),
        ("POST", "/-/reload", None),
        ("GET", "/logs?id=12345", None),
    ] {
        let headers: Vec<_> = header.iter().map(|it| (SCRAPE_TIMEOUT, *it)).collect();
        let (ours, theirs) = pair.ask(method, path, &headers);
        let told = |it: &Response| (it.status, it.text());
        assert_eq!(told(&ours), told(&theirs), "{method} {path} {header:?}");
    }
}

#[test]
fn odd_paths_lead_to_the_same_places() {
    if !harness::installed("odd_paths_lead_to_the_same_places", &[PROGRAM]) {
        return;
    }
    let pair = Pair::start();
    for path in
        ["//metrics", "/a/../metrics?x=%20y", "/./probe", "//example.com/", "/nonsense", "/"]
    {
        let (ours, theirs) = pair.ask("GET", path, &[]);
        assert_eq!(ours.status, theirs.status, "{path}");
        assert_eq!(ours.header("location"), theirs.header("location"), "{path}");
    }
}

/// Metrics with equal values, whatever the machine's speed.
const EQUAL: [&str; 4] =
    ["probe_success", "probe_ip_protocol", "probe_ip_addr_hash", "probe_failed_due_to_regex"];

#[test]
fn every_metric_of_theirs_is_among_ours() {
    if !harness::installed("every_metric_of_theirs_is_among_ours", &[PROGRAM]) {
        return;
    }
    let pair = Pair::start();
    let silent = Listener::silent();
    let closed = ClosedPort::new();
    let polite = Listener::serve("127.0.0.1:0".parse().unwrap(), |visitor| {
        visitor.write(b"220 friend\r\n");
        let line = visitor.read();
        visitor.write(&line);
    });
    let wrong = Listener::banner(b"500 go away\r\n500 really\r\n");
    let hasty = Listener::serve("127.0.0.1:0".parse().unwrap(), |visitor| {
        visitor.write(b"500 bye\r\n");
    });
    for (module, target) in [
        ("connect", silent.target()),
        ("connect", closed.target()),
        ("connect", format!("localhost:{}", silent.port())),
        ("connect", "nosuchhost.invalid:1".to_owned()),
        ("connect", "noport".to_owned()),
        ("v6only", silent.target()),
        ("banner", polite.target()),
        ("banner", wrong.target()),
        ("banner", hasty.target()),
        ("banner", silent.target()),
    ] {
        let (ours, theirs) =
            pair.ask("GET", &format!("/probe?module={module}&target={target}"), &[]);
        let context = format!("{module} {target}\n{}\n{}", ours.text(), theirs.text());
        assert_eq!((ours.status, theirs.status), (200, 200), "{context}");
        let (ours, theirs) = (Metrics::parse(&ours.text()), Metrics::parse(&theirs.text()));
        let names = |it: &Metrics| -> BTreeSet<String> {
            it.samples.iter().map(|it| it.name.clone()).collect()
        };
        let missing: Vec<_> = names(&theirs).difference(&names(&ours)).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "{context}");
        for name in EQUAL {
            if let Some(value) = theirs.value(name, &[]) {
                assert_eq!(ours.value(name, &[]), Some(value), "{name}: {context}");
            }
        }
    }
}
