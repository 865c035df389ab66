use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use crate::module::{
    Close, Expect, ExpectConnect, Family, PemSource, Resolver, Send, Step, TlsVersion,
};
use crate::monitor::{Histogram, PathPolicy};

/// Compiled once: its expressions take longer than everything else here.
static EMBEDDED: LazyLock<Config> = LazyLock::new(Config::embedded);

/// Loads one file; errors and warnings become lines without the name of the directory.
fn load(text: &str) -> (Option<Config>, String) {
    load_with(text, &[])
}

fn load_with(text: &str, others: &[(&str, &str)]) -> (Option<Config>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    std::fs::write(&path, text).unwrap();
    for (name, text) in others {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let (config, diagnostics) = match load::load(&path, EMBEDDED.clone()) {
        Ok(loaded) => (Some(loaded.config), loaded.warnings),
        Err(errors) => (None, errors),
    };
    let mut lines = String::new();
    for it in diagnostics {
        writeln!(lines, "{it}").unwrap();
    }
    let prefix = format!("{}/", directory.path().display());
    (config, lines.replace(&prefix, ""))
}

#[track_caller]
fn accept(text: &str) -> Config {
    let (config, lines) = load(text);
    assert_eq!(lines, "", "{text}");
    config.unwrap()
}

#[track_caller]
fn refuse(text: &str, expected: &str) {
    let (config, lines) = load(text);
    assert!(config.is_none(), "accepted: {text}\n{lines}");
    assert_eq!(lines.trim_end(), expected, "{text}");
}

/// Name, file and messages of each case of a table.
fn cases(table: &str) -> impl Iterator<Item = (&str, String, &str)> {
    table.split("\n=== ").skip(1).map(|case| {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, messages) = rest.split_once(">>>\n").unwrap();
        (name, text.to_owned(), messages.trim_end())
    })
}

#[test]
fn one_bad_file_for_each_rule() {
    for (name, text, expected) in cases(include_str!("tests/refused.txt")) {
        let (config, lines) = load(&text);
        assert_eq!(lines.trim_end(), expected, "{name}");
        assert!(config.is_none(), "{name} is accepted");
    }
}

#[test]
fn path_is_followed_on_failure_never_or_as_often_as_asked() {
    let text = "defaults: {path: off}\nmonitors:\n- {host: a, port: 1}\n- {host: b, port: 1, path: on}\n\
                - {host: c, port: 1, path: {baseline: 1h}}\n";
    let (config, lines) = load(text);
    assert_eq!(lines, "");
    let config = config.unwrap();
    let hour = PathPolicy::Baseline(Duration::from_secs(3600));
    let paths: Vec<_> = config.monitors.iter().map(|monitor| monitor.path).collect();
    assert_eq!(paths, [PathPolicy::Off, PathPolicy::OnFailure, hour]);
    let (again, lines) = load(&config.text());
    assert_eq!(lines, "");
    let again: Vec<_> = again.unwrap().monitors.iter().map(|monitor| monitor.path).collect();
    assert_eq!(again, paths, "{}", config.text());
}

#[test]
fn one_dubious_file_for_each_warning() {
    for (name, text, expected) in cases(include_str!("tests/warned.txt")) {
        let (config, lines) = load(&text);
        assert_eq!(lines.trim_end(), expected, "{name}");
        assert!(config.is_some(), "{name} is refused");
    }
}

#[test]
fn bad_expressions_are_named() {
    for expression in ["(a", "(?!a)", "a{1001}{1001}", "[z-a]"] {
        let (config, lines) = load(&step(&format!("{{expect: '{expression}'}}")));
        assert!(config.is_none(), "{expression}");
        let place = "c.yml:5: modules.m.tcp.query_response[0].expect: ";
        assert!(lines.starts_with(place) && lines.contains(expression), "{lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
    }
}

/// A module `m` with this single step.
fn step(step: &str) -> String {
    format!("modules:\n  m:\n    prober: tcp\n    tcp: {{query_response: [\n{step}\n]}}\n")
}

#[test]
fn embedded_modules_load_without_a_word() {
    let text = include_str!("embedded.yml");
    let config = accept(text);
    assert!(config.modules.contains_key("tcp_connect"));
    assert_eq!(config.modules.len(), Config::embedded().modules.len());
}

#[test]
fn the_example_of_a_monitor() {
    let config = accept(
        "defaults: {interval: 1m, timeout: 10s, confirm: {failures: 3, successes: 1, \
         retry_interval: 5s, regions: 2}}
monitors:
  - name: orders-db
    host: db.example.com
    port: 5432
    module: tcp_connect
    interval: 5m
    timeout: 10s
    confirm: {failures: 3, regions: 2}
    slow: 500ms
    slo: 99.9%
    addresses: first
    labels: {team: dba, service: orders, severity: critical}
",
    );
    let monitor = &config.monitors[0];
    assert_eq!(monitor.interval.as_secs(), 300);
    assert_eq!(monitor.confirm.regions.get(), 2);
    assert!(monitor.slo.is_some_and(|it| (it - 0.999).abs() < 1e-9));
    assert_eq!(monitor.labels.len(), 3);
}

#[test]
fn every_problem_at_once_with_its_line() {
    refuse("", "c.yml: the file has no content (EOF): write at least `{}` or `[]`");
    refuse(
        "monitors:\n- {host: a, prt: 1}\n- {host: b, port: 0}\n- {host: c:1, port: ssh}\n",
        "c.yml:2: monitors[0]: `port` is missing: write a number from 1 to 65535
c.yml:2: monitors[0].prt: unknown key: did you mean `port`?
c.yml:3: monitors[1].port: invalid port `0`: must be 1 to 65535
c.yml:4: monitors[2].host: `c:1` has a port: write `host: c` and `port: 1`
c.yml:4: monitors[2].port: `ssh` is a name: write its number, `22`",
    );
}

#[test]
fn the_text_of_a_configuration_reads_back_as_itself() {
    let text = include_str!("embedded.yml");
    let more = "
defaults: {buckets: [10ms, 0.5, 1m]}
monitors:
- {name: a, host: 192.0.2.1, port: 22, slo: 99.9%, slow: 1.5s, interval: 1h, addresses: all}
- {name: b, host: db, ports: {ssh: 22, web: 8000-8010}, depends_on: a, labels: {team: 'on'}}
- {name: c, host: db, ports: [1, 3-5, 7], group: {name: g, role: 'yes', min_up: 2}}
canaries: ['192.0.2.9:53', {target: '[::1]:1', module: tls_connect}]
access: {allow: [10.0.0.0/8, '*'], deny: ['*.example.com:22'], modules: {tcp_connect: {deny: ':25'}}}
maintenance:
- {monitors: [a, c], groups: g, start: 2099-11-29T02:00:00+01:00, end: 2099-11-29T02:30:00Z}
- {monitors: '*', labels: {team: 'on'}, weekly: {days: [sat, sun], start: 22:00, end: 06:30, time_zone: Europe/Berlin}}
";
    let first = accept(&format!("{text}{more}")).text();
    let second = accept(&first).text();
    assert_eq!(first, second);
    for defaults in ["{histogram: off, series: full}", "{}", "{histogram: classic}"] {
        let first = accept(&format!("{text}\ndefaults: {defaults}\n")).text();
        assert_eq!(first, accept(&first).text(), "{defaults}");
    }
}

#[test]
fn whoever_lists_buckets_wants_a_classic_histogram() {
    let read = |defaults: &str| accept(&format!("defaults: {defaults}\n")).options;
    let classic = |bounds: &[f64]| Histogram::Classic(bounds.into());
    assert_eq!(read("{}"), SeriesOptions::default());
    assert_eq!(read("{buckets: [10ms, 0.5]}").histogram, classic(&[0.01, 0.5]));
    assert_eq!(read("{histogram: classic, buckets: [1]}").histogram, classic(&[1.0]));
    assert_eq!(read("{buckets: off}").histogram, Histogram::Off);
    assert_eq!(read("{histogram: off}").histogram, Histogram::Off);
    let Histogram::Classic(bounds) = read("{histogram: classic}").histogram else { panic!() };
    assert_eq!(bounds.len(), 11);
    assert!(!read("{series: lean}").full && read("{series: full}").full);
}

fn module(config: &Config, name: &str) -> Arc<Module> {
    match &config.modules[name] {
        ModuleEntry::Tcp(module) => module.clone(),
        ModuleEntry::Other { prober } => panic!("{name} is one of {prober}"),
    }
}

/// What a step sends, as bytes.
fn sent(step: &Step) -> Vec<u8> {
    match &step.send {
        Some(Send::Line(line)) => line.expose().as_str().as_bytes().to_vec(),
        Some(Send::Bytes(bytes)) => bytes.expose().clone(),
        Some(Send::File { path, .. }) => path.as_os_str().as_encoded_bytes().to_vec(),
        None => Vec::new(),
    }
}

fn expected(step: &Step) -> String {
    match &step.expect {
        Some(Expect::Line(pattern)) => pattern.as_str().to_owned(),
        Some(Expect::Stream(pattern)) => format!("stream {}", pattern.as_str()),
        Some(Expect::Bytes(bytes)) => format!("bytes {bytes:?}"),
        None => "nothing".to_owned(),
    }
}

#[test]
fn scalars_for_text_fields_are_taken_literally() {
    for (written, meant) in [
        ("123", "123"),
        ("1.50", "1.50"),
        ("007", "007"),
        ("yes", "yes"),
        ("true", "true"),
        ("0x1F", "0x1F"),
        ("1e3", "1e3"),
        ("2001-01-01", "2001-01-01"),
        ("12:30:45", "12:30:45"),
        ("'null'", "null"),
        ("!!str null", "null"),
        ("!!binary aGVsbG8=", "hello"),
        (r#""QUIT\r""#, "QUIT\r"),
        ("|\n          two\n          lines\n", "two\nlines\n"),
        ("null", ""),
        ("~", ""),
        ("''", ""),
    ] {
        let config = accept(&format!(
            "modules:\n  m:\n    prober: tcp\n    tcp:\n      query_response:\n      - send: \
             {written}\n"
        ));
        let module = module(&config, "m");
        assert_eq!(sent(&module.query_response[0]), meant.as_bytes(), "{written}");
    }
    let config = accept(&step("{expect: 220, starttls: on}"));
    let module = module(&config, "m");
    assert_eq!(expected(&module.query_response[0]), "220");
    assert!(module.query_response[0].starttls);
}

#[test]
fn words_for_booleans_of_yaml_1_1() {
    for (word, meant) in [
        ("true", true),
        ("yes", true),
        ("On", true),
        ("Y", true),
        ("false", false),
        ("NO", false),
        ("off", false),
        ("n", false),
    ] {
        let text = format!("modules: {{m: {{prober: tcp, tcp: {{tls: {word}}}}}}}");
        assert_eq!(module(&accept(&text), "m").tls, meant, "{word}");
    }
}

#[test]
fn anchors_merges_and_odd_names() {
    let config = accept(
        "modules:
  220: &base
    prober: tcp
    timeout: 5s
    tcp: &tcp {tls: true, preferred_ip_protocol: ip4}
  merged:
    <<: *base
    timeout: 1.5s
  both:
    <<: [{prober: tcp, timeout: 3s}, *base]
  alias: *base
  inner: {prober: tcp, tcp: {<<: *tcp, ip_protocol_fallback: no}}
  yes: {prober: tcp}
",
    );
    let merged = module(&config, "merged");
    assert_eq!(merged.timeout, Some(Duration::from_millis(1500)));
    assert!(merged.tls);
    let both = module(&config, "both");
    assert_eq!(both.timeout, Some(Duration::from_secs(3)));
    assert!(both.tls);
    assert!(module(&config, "alias").tls);
    let inner = module(&config, "inner");
    assert!(inner.tls && !inner.family_fallback && inner.preferred_family == Family::V4);
    assert_eq!(&*module(&config, "220").name, "220");
    assert!(!module(&config, "yes").tls);
}

#[test]
fn only_the_first_document_counts_and_windows_may_have_written_it() {
    let config = accept(
        "\u{feff}modules:\r\n  m:\r\n    prober: tcp\r\n    tcp:\r\n      query_response:\r\n      \
         - expect: '^SSH'\r\n---\r\nnonsense: [\r\n",
    );
    assert_eq!(expected(&module(&config, "m").query_response[0]), "^SSH");
    for text in ["{}", "modules:", "modules: {}", "---\n{}\n...\n"] {
        accept(text);
    }
}

#[test]
fn the_text_of_a_file_must_be_utf_8() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    std::fs::write(&path, b"modules:\n  m\xff: {}\n").unwrap();
    let errors = Config::load(Some(&path)).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].line, Some(2));
    assert_eq!(errors[0].message, "the text is not UTF-8 from here on: save the file as UTF-8");
    for (path, message) in [
        (directory.path().to_owned(), "cannot read the file: it is a directory: name a file"),
        (
            directory.path().join("x"),
            "cannot read the file: No such file or directory (os error 2)",
        ),
    ] {
        let errors = Config::load(Some(&path)).unwrap_err();
        assert_eq!(errors[0].message, message);
        assert_eq!(errors[0].to_string(), format!("{}: {message}", path.display()));
    }
}

/// The kinds of modules that people have in the files of `blackbox_exporter`, in its schema.
const BLACKBOX: &str = r#"
modules:
  http_2xx:
    prober: http
    http: {preferred_ip_protocol: ip4, valid_status_codes: [], typo: 1}
  grpc_plain:
    prober: grpc
    grpc: {tls: false, service: service1}
  icmp_ttl5:
    prober: icmp
    timeout: 5s
    icmp: {ttl: 5}
  dns_udp:
    prober: dns
    dns: {query_name: www.example.com, query_type: A}
  tcp_plain:
    prober: tcp
  tcp_tls:
    prober: tcp
    timeout: 5s
    tcp:
      tls: true
      tls_config: {insecure_skip_verify: false, min_version: TLS12}
  pop3s_banner_like:
    prober: tcp
    tcp:
      query_response:
      - expect: "^+OK"
      tls: true
      tls_config:
        insecure_skip_verify: false
  ssh_greeting:
    prober: tcp
    timeout: 10s
    tcp:
      query_response:
      - expect: "^SSH-2.0-([^ -]+)(?: (.*))?$"
        labels:
        - {name: ssh_version, value: "${1}"}
        - {name: ssh_comments, value: "${2}"}
      - send: "SSH-2.0-probe"
  mail_starttls:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - expect: "^220 ([^ ]+) ESMTP (.+)$"
      - send: "EHLO prober\r"
      - expect: "^250-STARTTLS"
      - send: "STARTTLS\r"
      - expect: "^220"
      - starttls: true
      - send: "EHLO prober\r"
      - expect: "^250-AUTH"
      - send: "QUIT\r"
  chat_greeting:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - send: "NICK prober"
      - send: "USER prober prober prober :prober"
      - expect: "PING :([^ ]+)"
        send: "PONG ${1}"
      - expect: "^:[^ ]+ 001"
"#;

#[test]
fn files_of_blackbox_exporter_load_unchanged() {
    let (config, lines) = load(BLACKBOX);
    let config = config.unwrap();
    for name in ["http_2xx", "grpc_plain", "icmp_ttl5", "dns_udp"] {
        assert!(
            lines.contains(&format!("modules.{name}: this exporter has no prober ")),
            "{lines}"
        );
        assert!(matches!(config.modules[name], ModuleEntry::Other { .. }));
    }
    assert_eq!(lines.lines().count(), 4, "{lines}");
    let ssh = module(&config, "ssh_greeting");
    assert_eq!(ssh.query_response[0].labels.as_ref().map(Vec::len), Some(2));
    assert_eq!(module(&config, "mail_starttls").query_response.len(), 9);
    assert!(module(&config, "mail_starttls").query_response[5].starttls);
    assert_eq!(expected(&module(&config, "pop3s_banner_like").query_response[0]), "^+OK");
}

#[test]
fn steps_in_all_their_forms() {
    for (text, expect, send) in [
        ("", "nothing", &b""[..]),
        ("{}", "nothing", b""),
        ("{expect: ''}", "", b""),
        ("{expect: }", "nothing", b""),
        ("{expect_stream: 'a'}", "stream a", b""),
        ("{expect_bytes: abc}", "bytes [97, 98, 99]", b""),
        ("{expect_bytes: 12}", "bytes [49, 50]", b""),
        ("{expect_bytes: !!binary /w==}", "bytes [255]", b""),
        ("{expect_bytes: {hex: 'ff 00'}}", "bytes [255, 0]", b""),
        ("{send_bytes: {hex: 00ff1A}}", "nothing", b"\x00\xff\x1a"),
        ("{send_bytes: !!binary /w==}", "nothing", b"\xff"),
        (r"{send_bytes: 'a\x00\xfF\r\n\t\0\\'}", "nothing", b"a\x00\xff\r\n\t\0\\"),
        ("{send: !!binary /w==}", "nothing", b"\xff\n"),
        ("{send_file: /run/login}", "nothing", b"/run/login"),
        ("{send_bytes_file: /run/login}", "nothing", b"/run/login"),
    ] {
        let config = accept(&step(text));
        let module = module(&config, "m");
        assert_eq!(module.query_response.len(), usize::from(!text.is_empty()), "{text}");
        let empty = Step::default();
        let step = module.query_response.first().unwrap_or(&empty);
        assert_eq!(expected(step), expect, "{text}");
        assert_eq!(sent(step), send, "{text}");
    }
    let config = accept(&step("{expect: a, labels: []}, null"));
    let module = module(&config, "m");
    assert_eq!(module.query_response[0].labels.as_ref().map(Vec::len), Some(0));
    assert_eq!(module.query_response.len(), 2);
}

#[test]
fn settings_of_a_module() {
    let config = accept(
        "modules:
  m:
    prober: tcp
    timeout: -1s
    tcp:
      source_ip_address: 192.0.2.1
      resolver: [192.0.2.53, '[2001:db8::53]:5353']
      close: reset
      hold: 300ms
      tls_config: {ca_file: /a, cert: b, key: c, server_name: d, min_version: TLS10}
  shut: {prober: tcp, tcp: {expect_connect: closed, resolver: system}}
",
    );
    let m = module(&config, "m");
    assert_eq!(m.timeout, None);
    assert_eq!(m.source_address.as_deref(), Some("192.0.2.1"));
    let servers = ["192.0.2.53:53", "[2001:db8::53]:5353"].map(|it| it.parse().unwrap());
    assert_eq!(m.resolver, Resolver::Servers(servers.to_vec()));
    assert_eq!(m.close, Close::Reset);
    assert_eq!(m.hold, Some(Duration::from_millis(300)));
    assert_eq!(m.tls_settings.ca, Some(PemSource::File("/a".into())));
    assert_eq!(m.tls_settings.key, Some(PemSource::Inline("c".to_owned().into())));
    assert_eq!(m.tls_settings.server_name.as_deref(), Some("d"));
    assert_eq!(m.tls_settings.min_version, Some(TlsVersion::Tls10));
    let shut = module(&config, "shut");
    assert_eq!(shut.expect_connect, ExpectConnect::Closed);
    assert_eq!(shut.resolver, Resolver::System);
}

#[test]
fn secrets_stay_in_the_file() {
    let config = accept(
        "modules:
  m: {prober: tcp, tcp: {ip_protocol_fallback: false, tls_config: {cert: public, key: s3cret}}}
",
    );
    let text = config.text();
    assert!(!text.contains("s3cret") && text.contains("key: <secret>"), "{text}");
    assert!(text.contains("ip_protocol_fallback: false"), "{text}");
    let shown = module_text(&module(&config, "m"), Some("name.example.com"));
    assert!(shown.contains("server_name: name.example.com"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

/// Files that people start from.
fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files = ["exporter.yml", "compose/exporter.yml", "try/exporter.yml"]
        .map(|it| root.join(it))
        .to_vec();
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "yml") {
            files.push(path);
        }
    }
    assert!(files.len() > 15, "{files:?}");
    files
}

#[test]
fn every_example_loads_without_a_word() {
    for path in shipped() {
        let loaded = match load::load(&path, EMBEDDED.clone()) {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{}", errors[0]),
        };
        let mut warnings: Vec<String> =
            loaded.warnings.iter().map(|it| it.message.clone()).collect();
        if path.ends_with("exporter.yml") {
            // Its globs show the form only.
            warnings.retain(|it| !it.ends_with("finds no file"));
        }
        assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
        let text = loaded.config.text();
        assert_eq!(accept(&text).text(), text, "{}", path.display());
        // A reader that is not ours agrees that it is YAML.
        let value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        assert!(value.get("modules").is_some_and(serde_yaml::Value::is_mapping), "{text}");
    }
}

#[test]
fn the_configuration_for_kubernetes_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes/configmap.yml");
    let map: serde_yaml::Value =
        serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let config = accept(map["data"]["exporter.yml"].as_str().unwrap());
    assert!(!config.monitors.is_empty());
}

#[test]
fn the_list_of_examples_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let list = std::fs::read_to_string(root.join("README.md")).unwrap();
    for path in shipped().iter().filter(|it| it.starts_with(&root)) {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(list.contains(&format!("]({name})")), "{name} is not listed");
    }
}

#[test]
fn the_reference_names_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/exporter.yml");
    let reference = std::fs::read_to_string(root).unwrap();
    let mut keys: Vec<String> = Vec::new();
    // An unknown key makes the readers list what they know.
    for text in [
        "qqqqqqqq: 1",
        "defaults: {qqqqqqqq: 1, confirm: {qqqqqqqq: 1}}",
        "monitors: [{qqqqqqqq: 1, group: {name: a, qqqqqqqq: 1}}]",
        "modules: {m: {prober: tcp, qqqqqqqq: 1, tcp: {qqqqqqqq: 1, tls_config: {qqqqqqqq: 1}}}}",
        "modules: {m: {prober: tcp, tcp: {query_response: [{qqqqqqqq: 1}]}}}",
        "access: {qqqqqqqq: 1}",
        "canaries: [{qqqqqqqq: 1}]",
    ] {
        let (_, lines) = load(text);
        for line in lines.lines().filter_map(|it| it.split_once("write one of ")) {
            keys.extend(line.1.split(", ").map(|it| it.trim_matches('`').to_owned()));
        }
    }
    assert!(keys.len() > 50, "{keys:?}");
    let others = ["http", "icmp", "dns", "grpc", "unix", "websocket"];
    let inline = ["ca", "cert", "key", "ca_ref", "cert_ref", "key_ref"];
    for key in keys.iter().filter(|it| !others.contains(&&***it) && !inline.contains(&&***it)) {
        assert!(reference.contains(&format!("{key}:")), "`{key}` is missing from the reference");
    }
}

#[test]
fn targets_of_prometheus_become_monitors() {
    let (config, lines) = load_with(
        "defaults: {labels: {env: prod}}\nmonitor_files: ['*.json', 'sd/../more.yml', list.yml]\n",
        &[
            (
                "a.json",
                r#"[{"targets": ["a.example.com:8443", "[2001:db8::1]:443"],
                 "labels": {"__meta_x": "y", "__address__": "z", "__param_module": "tls_connect",
                 "__scrape_interval__": "30s", "__scrape_timeout__": "5s", "team": "dba",
                 "__tcp_failures": "5", "__tcp_group": "g", "__tcp_min_up": "2",
                 "__tcp_role": "node", "env": "test"}}]"#,
            ),
            (
                "more.yml",
                "- targets: [shown.example.com]\n  labels: {__param_target: 'real.example.com:1', \
                 __tcp_interval: 2m, __scrape_interval__: 1h}\n- {host: own.example.com, port: 7}\n",
            ),
            ("list.yml", "monitors:\n- {name: x, host: h, port: 1}\n"),
        ],
    );
    // The directory `sd` does not exist, so that glob finds nothing.
    assert_eq!(lines, "c.yml:2: monitor_files[1]: `sd/../more.yml` finds no file\n");
    let config = config.unwrap();
    let names: Vec<&str> = config.monitors.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["a.example.com:8443", "[2001:db8::1]:443", "x"]);
    let first = &config.monitors[0];
    assert_eq!(&*first.module.name, "tls_connect");
    assert_eq!(first.interval, Duration::from_secs(30));
    assert_eq!(first.timeout, Duration::from_secs(5));
    assert_eq!(first.confirm.thresholds.failures.get(), 5);
    let group = first.group.as_ref().unwrap();
    assert_eq!((&*group.name, group.role.as_deref(), group.min_up.get()), ("g", Some("node"), 2));
    let labels: Vec<(&str, &str)> = first.labels.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(labels, [("env", "test"), ("team", "dba")]);
    assert_eq!(config.files.len(), 3);

    let (config, lines) = load_with(
        "monitor_files: more.yml\n",
        &[(
            "more.yml",
            "- targets: [shown]\n  labels: {__param_target: 'real.example.com:1', \
             __tcp_interval: 2m, __scrape_interval__: 1h}\n- {host: own.example.com, port: 7}\n",
        )],
    );
    assert_eq!(lines, "");
    let monitors = config.unwrap().monitors;
    assert_eq!(monitors[0].endpoints[0].address.host.to_string(), "real.example.com");
    assert_eq!(&*monitors[0].name, "shown");
    assert_eq!(monitors[0].interval, Duration::from_secs(120));
    assert_eq!(&*monitors[1].name, "own.example.com:7");
}

#[test]
fn what_is_wrong_with_a_monitor_file_names_it() {
    let (config, lines) = load_with(
        "monitors: [{name: 'a:1', host: a, port: 1}]\nmonitor_files: '?.yml'\n",
        &[
            ("1.yml", "- targets: ['b:1', 'b:2']\n  labels: {__scrape_interval__: 5}\n"),
            ("2.yml", "- targets: [b, 'http://b:1', 'b:0']\n  lables: {}\n"),
            ("3.yml", "- targets: ['a:1']\n  labels: {__tcp_intervall: 5s, group: x}\n"),
            ("4.yml", ""),
            ("5.yml", "- targets: ['z:1', 'z:1']\n- targets: ['a:1']\n"),
            ("6.yml", "defaults: {}\nmonitors: [{host: a, port: 99999}]\n"),
            ("7.yml", "[\n"),
        ],
    );
    assert!(config.is_none());
    assert_eq!(
        lines,
        "1.yml:2: [0].labels.__scrape_interval__: `5` has no unit: write `5s` for seconds
2.yml:1: [0].targets[0]: `b` has no port: write host:port
2.yml:1: [0].targets[1]: `http://b:1` is a URL: write host:port
2.yml:1: [0].targets[2]: `b:0` has no port: write host:port
2.yml:2: [0].lables: unknown key: did you mean `labels`?
3.yml:1: [0].targets[0]: name `a:1` is taken by c.yml:1: rename one
3.yml:2: [0].labels.__tcp_intervall: unknown key: did you mean `__tcp_interval`?
3.yml:2: [0].labels.group: label `group` is set by the exporter itself: rename it
4.yml: the file has no content (EOF): write at least `{}` or `[]`
6.yml:1: defaults: unknown key: write one of `monitors`
6.yml:2: monitors[0].port: invalid port `99999`: must be 1 to 65535
7.yml:1: invalid YAML: unclosed bracket '[' (column 1)
"
    );
}

#[test]
fn a_target_that_is_discovered_twice_is_probed_once() {
    let (config, lines) = load_with(
        "monitor_files: a.yml\n",
        &[("a.yml", "- targets: ['z:1', 'z:1', 'z:2']\n- targets: ['z:1']\n")],
    );
    assert_eq!(
        lines,
        "a.yml:1: [0].targets[1]: this target is listed before: it is probed once
a.yml:2: [1].targets[0]: this target is listed before: it is probed once
"
    );
    assert_eq!(config.unwrap().monitors.len(), 2);
}

#[test]
fn the_fingerprint_covers_every_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("c.yml", "monitor_files: '*.json'\n");
    write("a.json", "[]");
    let config = Config::load(Some(&path)).unwrap().config;
    let before = config.fingerprint.clone();
    assert_eq!(before.len(), 64);
    assert_eq!(config.fingerprint_now().unwrap(), before);
    write("a.json", "[{\"targets\": []}]");
    assert_ne!(config.fingerprint_now().unwrap(), before);
    write("a.json", "[]");
    assert_eq!(config.fingerprint_now().unwrap(), before);
    write("b.json", "[]");
    assert_ne!(config.fingerprint_now().unwrap(), before);
    std::fs::remove_file(directory.path().join("b.json")).unwrap();
    write("c.yml", "monitor_files: '*.json' # the same\n");
    assert_ne!(config.fingerprint_now().unwrap(), before);
    assert_eq!(
        Config::load(Some(&path)).unwrap().config.fingerprint,
        config.fingerprint_now().unwrap()
    );
    std::fs::remove_file(&path).unwrap();
    assert!(config.fingerprint_now().is_err());
    assert!(Config::embedded().fingerprint_now().is_ok());
}

#[test]
fn hostile_yaml_is_bounded() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = level - 1;
            let alias = format!("*a{below}, ").repeat(10);
            writeln!(text, "a{level}: &a{level} [{alias}]").unwrap();
        }
        text
    };
    let merges = {
        let mut text = "a0: &a0 {x: 1}\n".to_owned();
        for level in 1..30 {
            let below = level - 1;
            writeln!(text, "a{level}: &a{level} {{a: *a{below}, b: *a{below}}}").unwrap();
        }
        text
    };
    for (text, expected) in [
        ("[".repeat(400_000), "recursion limit exceeded"),
        ("a: ".repeat(400_000), "invalid YAML"),
        ("- ".repeat(400_000), "nested deeper than 64 levels"),
        ("? ".repeat(400_000), "nested deeper than 64 levels"),
        ("{a: ".repeat(400_000), "recursion limit exceeded"),
        (bomb, "more than 5000000 values"),
        (merges, "more than 5000000 values"),
    ] {
        let (config, lines) = load(&text);
        assert!(config.is_none());
        assert!(lines.contains(expected), "{lines}");
    }
}

#[test]
fn at_most_a_screenful_of_problems_is_told() {
    let mut text = "monitors:\n".to_owned();
    for _ in 0..1000 {
        text.push_str("- {host: a, port: 0}\n");
    }
    let (config, lines) = load(&text);
    assert!(config.is_none());
    assert_eq!(lines.lines().count(), 201);
    assert_eq!(lines.lines().last(), Some("c.yml: and 800 more errors"));
}

#[test]
fn timeouts_where_nobody_says_anything() {
    for (text, timeout) in [
        ("monitors: [{host: a, port: 1}]", 10_000),
        ("monitors: [{host: a, port: 1, interval: 5s}]", 4_000),
        ("monitors: [{host: a, port: 1, interval: 100ms}]", 80),
        ("defaults: {timeout: 3s}\nmonitors: [{host: a, port: 1, interval: 5s}]", 3_000),
        ("defaults: {timeout: 3s}\nmonitors: [{host: a, port: 1, timeout: 2s}]", 2_000),
        (
            "modules: {m: {prober: tcp, timeout: 1s}}\nmonitors: [{host: a, port: 1, module: m}]",
            1_000,
        ),
    ] {
        let config = accept(text);
        assert_eq!(config.monitors[0].timeout, Duration::from_millis(timeout), "{text}");
    }
}

#[test]
fn ports_in_all_their_forms() {
    for (text, numbers) in [
        ("port: 22", vec![22]),
        ("port: '443'", vec![443]),
        ("ports: 8000-8002", vec![8000, 8001, 8002]),
        ("ports: [22, '80-81', 443]", vec![22, 80, 81, 443]),
        ("ports: {a: 1, b: 2-3}", vec![1, 2, 3]),
        ("ports: [65535]", vec![65535]),
    ] {
        let config = accept(&format!("monitors: [{{host: a, {text}}}]"));
        let ports: Vec<u16> =
            config.monitors[0].endpoints.iter().map(|it| it.address.port).collect();
        assert_eq!(ports, numbers, "{text}");
    }
    let config = accept("monitors: [{host: a, ports: [1-1024]}]");
    assert_eq!(config.monitors[0].endpoints.len(), 1024);
}

/// Reads a text as [`Config::load`] would, without a file; whatever it is, nothing may panic.
fn read(text: &str, base: &Config) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let mut config = base.clone();
    let mut report = read::Report::new(Path::new("c.yml"));
    let path = Path::new("/nonexistent/c.yml");
    load::configuration(text, path, &mut config, &mut report, &mut files::Fingerprint::new());
    let closed = report.close();
    if closed.is_ok() {
        let _ = config.text();
    }
    for it in closed.as_ref().err().into_iter().flatten() {
        let line = it.to_string();
        assert!(!line.contains('\n') && !line.contains('\r'), "{line:?}");
    }
    closed
}

/// Pieces of configurations, right and wrong, to be put together in any order.
const PIECES: &[&str] = &[
    "modules:",
    "monitors:",
    "defaults:",
    "access:",
    "canaries:",
    "monitor_files:",
    "m:",
    "prober: tcp",
    "prober: http",
    "tcp:",
    "timeout: 5s",
    "timeout:",
    "tls: true",
    "tls_config:",
    "query_response:",
    "expect:",
    "send:",
    "send_bytes: '\\x'",
    "labels:",
    "name: a",
    "value: $1",
    "host: h",
    "port: 1",
    "ports:",
    "[1-3, 4]",
    "{a: 1}",
    "interval: 1m",
    "confirm:",
    "failures: 0",
    "group:",
    "min_up: 3",
    "depends_on: a",
    "slo: 9%",
    "addresses: all",
    "allow:",
    "deny:",
    "':22'",
    "10.0.0.0/8",
    "buckets:",
    "off",
    "<<: *x",
    "&x",
    "*x",
    "!!binary",
    "!!str",
    "- ",
    "-",
    "? ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|",
    ">",
    "'",
    "\"",
    "~",
    "null",
    "\n",
    "\n  ",
    "\n    ",
    "\n      ",
    "\t",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "\u{feff}",
    "é",
    "\u{0}",
    "\r\n",
    "targets:",
    "5s",
    "-1",
    "99999999999999999999",
    "1e999",
    "hex: 0",
];

proptest::proptest! {
    // What was found once becomes a test of its own, not a file beside the sources.
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = read(&text, &empty());
    }

    #[test]
    fn any_mixture_of_pieces_is_read_or_refused(
        picks in proptest::collection::vec(0..PIECES.len(), 0..60),
    ) {
        let text: Vec<&str> = picks.into_iter().map(|it| PIECES[it]).collect();
        let _ = read(&text.join(" "), &empty());
        let _ = read(&text.concat(), &empty());
    }

    #[test]
    fn a_good_file_with_any_damage_is_read_or_refused(
        start in 0..6_000_usize, length in 0..40_usize, put in ".{0,3}",
    ) {
        let mut text: Vec<char> = include_str!("../../config/exporter.yml").chars().collect();
        let start = start.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, put.chars());
        let _ = read(&text.into_iter().collect::<String>(), &empty());
    }

    #[test]
    fn any_duration_reads_back(nanoseconds in 0..3_000_000_000_000_000_000_u64, cut in 0..10_u32) {
        let grain = 10_u64.pow(cut);
        let written = Duration::from_nanos(nanoseconds / grain * grain);
        for text in [duration::go(written), duration::prometheus(written)] {
            let read = duration::parse(&text).unwrap();
            // Go's form shows seconds as a float, which has its own grain.
            let read = read.positive().unwrap_or_default();
            assert!(read.abs_diff(written) < Duration::from_nanos(2), "{text}: {written:?}");
        }
    }
}

/// No modules, no monitors.
fn empty() -> Config {
    Config {
        modules: BTreeMap::new(),
        monitors: Vec::new(),
        access: Arc::default(),
        canaries: Vec::new(),
        maintenance: Maintenance::default(),
        options: SeriesOptions::default(),
        monitor_files: Vec::new(),
        files: Vec::new(),
        fingerprint: String::new(),
    }
}

#[test]
fn durations_as_go_and_prometheus_write_them() {
    for (text, milliseconds) in [
        ("300ms", 300),
        ("1.5s", 1_500),
        (".5s", 500),
        ("1.s", 1_000),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("2h0m0s", 7_200_000),
        ("+5s", 5_000),
        ("1d", 86_400_000),
        ("1w", 604_800_000),
        ("1d12h", 129_600_000),
        ("0.1h", 360_000),
        ("1000000us", 1_000),
        ("1000000µs", 1_000),
        ("1s1s", 2_000),
    ] {
        let expected = Some(Duration::from_millis(milliseconds));
        assert_eq!(duration::parse(text).unwrap().positive(), expected, "{text}");
    }
    for text in ["0", "0s", "-1s", "-0", "+0", "0d", "-1.5h"] {
        assert_eq!(duration::parse(text).unwrap().positive(), None, "{text}");
    }
    for text in ["", "5", "s", "5 s", "5S", "1M", ".s", "1..5s", "5s ", "--5s", "5s-", "١s"] {
        assert!(duration::parse(text).is_err(), "{text}");
    }
    for (milliseconds, go, prometheus) in [
        (0, "0s", "0s"),
        (300, "300ms", "300ms"),
        (1_500, "1.5s", "1s500ms"),
        (90_000, "1m30s", "1m30s"),
        (7_200_000, "2h0m0s", "2h"),
        (86_400_000, "24h0m0s", "1d"),
    ] {
        let duration = Duration::from_millis(milliseconds);
        assert_eq!(duration::go(duration), go);
        assert_eq!(duration::prometheus(duration), prometheus);
    }
}

#[test]
fn the_file_that_debian_ships_with_blackbox_exporter_loads() {
    // Installed where the whole suite runs.
    let path = Path::new("/etc/prometheus/blackbox.yml");
    if !path.exists() {
        return;
    }
    let loaded = Config::load(Some(path)).unwrap();
    for it in &loaded.warnings {
        assert!(it.message.starts_with("this exporter has no prober"), "{it}");
    }
    assert!(module(&loaded.config, "tcp_connect").query_response.is_empty());
    assert!(!module(&loaded.config, "ssh_banner").query_response.is_empty());
}

#[test]
fn no_free_label_can_collide_with_one_of_the_exporter() {
    for name in crate::exposition::BUILT_IN_LABELS {
        let (config, lines) =
            load(&format!("monitors: [{{host: a, port: 1, labels: {{{name}: x}}}}]"));
        assert!(config.is_none() && lines.contains("is set by the exporter itself"), "{lines}");
    }
    accept("monitors: [{host: a, port: 1, labels: {service: x}}]");
}

#[test]
fn there_are_not_more_targets_than_a_machine_can_watch() {
    let mut text = "monitors:\n- &m\n  host: a\n  ports: &p [".to_owned();
    for start in (1..=60_000).step_by(1_000) {
        write!(text, "{start}-{}, ", start + 999).unwrap();
    }
    text.push_str("]\n");
    for index in 1..40 {
        writeln!(text, "- {{<<: *m, host: a{index}, ports: *p}}").unwrap();
    }
    let (config, lines) = load(&text);
    assert!(config.is_none());
    assert_eq!(
        lines,
        "c.yml:20: monitors[16]: more than 1000000 targets: share them between exporters\n"
    );
}

#[test]
fn a_large_file_of_mistakes_is_refused_without_delay() {
    let mut text = "monitors:\n".to_owned();
    for index in 0..20_000 {
        writeln!(text, "- {{name: monitor-{index}, host: a, port: 1, depends_on: mnitor}}")
            .unwrap();
    }
    let begin = std::time::Instant::now();
    let (config, lines) = load(&text);
    assert!(config.is_none());
    assert_eq!(lines.lines().count(), 201);
    // Suggestions among 20,000 names for each of 20,000 mistakes would take hours.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn the_schema_for_editors_is_fresh_and_named_in_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let path = root.join("config.schema.json");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        json_schema(),
        "write it again: cargo run -- schema >config/config.schema.json"
    );
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        let up = "../".repeat(path.strip_prefix(&root).unwrap().components().count() - 1);
        let line = format!("# yaml-language-server: $schema={up}config.schema.json\n");
        assert!(text.starts_with(&line), "{} begins without {line}", path.display());
    }
}
