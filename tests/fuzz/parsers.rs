//! What people and files say: configurations, addresses, queries, expressions, passwords.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tcp_probe_exporter::access::Rule;
use tcp_probe_exporter::address::{Address, Host};
use tcp_probe_exporter::config::Config;
use tcp_probe_exporter::http::request::{ProbeRequest, Query, unescape};
use tcp_probe_exporter::http::web::Web;
use tcp_probe_exporter::module::pattern::Pattern;

use crate::fuzz;
use crate::mutation::damaged;

/// Every YAML file that ships, and some of another kind.
fn configurations() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = vec![
        "{}".to_owned(),
        "modules: {m: {prober: tcp, timeout: 5s, tcp: {query_response: [{expect: \"^220 (.*)$\", send: \"EHLO ${1}\"}, {starttls: true}]}}}\n".to_owned(),
        "a: &a {interval: 1m}\nmonitors:\n- {<<: *a, name: m, host: h, port: 1}\n".to_owned(),
    ];
    for directory in ["config/examples", "config"] {
        let Ok(entries) = std::fs::read_dir(root.join(directory)) else { continue };
        for entry in
            entries.flatten().filter(|it| it.path().extension().is_some_and(|it| it == "yml"))
        {
            seeds.extend(std::fs::read_to_string(entry.path()));
        }
    }
    seeds.extend(std::fs::read_to_string(root.join("src/config/embedded.yml")));
    seeds
}

#[test]
fn configurations_are_read_or_refused() {
    let home = tempfile::tempdir().expect("a directory");
    let (file, again) = (home.path().join("c.yml"), home.path().join("again.yml"));
    fuzz("configuration", &damaged(configurations()), |bytes| {
        std::fs::write(&file, &bytes).expect("a file");
        match Config::load(Some(&file)) {
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|it| !it.message.is_empty()));
            }
            Ok(loaded) => {
                // What it shows of itself is a configuration too, and shows the same.
                let text = loaded.config.text();
                let whole = !text.contains("<secret>") && !text.contains("prober: http");
                std::fs::write(&again, &text).expect("a file");
                if let (true, Ok(back)) = (whole, Config::load(Some(&again))) {
                    prop_assert_eq!(back.config.text(), text);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn web_configurations_are_read_or_refused() {
    let hash = "$2y$04$8UR0.aYmIVeUqjkJOJAjROJFQLyUSSbTjXsHJmX4jzQ6nhDSjoqDy";
    let seeds = vec![
        format!("basic_auth_users:\n  alice: {hash}\n  bob: {hash}\n"),
        "http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    Strict-Transport-Security: max-age=1\n".to_owned(),
        "tls_server_config:\n  cert_file: c.pem\n  key_file: k.pem\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  min_version: TLS12\n  max_version: TLS13\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  curve_preferences: [CurveP256]\n".to_owned(),
        "rate_limit: {burst: 5, interval: 1s}\n".to_owned(),
    ];
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("web.yml");
    fuzz("web configuration", &damaged(seeds), |bytes| {
        std::fs::write(&file, &bytes).expect("a file");
        if let Err(error) = Web::load(Some(&file)) {
            prop_assert!(!error.is_empty());
        }
        Ok(())
    });
}

/// Text that resembles addresses.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[a-z0-9.\\-_:\\[\\]%/é]{0,30}",
        "[0-9.]{1,16}:[0-9]{0,6}",
        "\\[[0-9a-f:.]{2,40}(%[a-z0-9]{0,4})?\\]:[0-9]{0,6}",
        "(xn--)?[a-z0-9-]{1,70}(\\.[a-z0-9-]{1,20}){0,3}\\.?:(http|https|smtp|[0-9]{1,5})",
    ]
}

#[test]
fn addresses_are_read_or_refused() {
    fuzz("address", &address(), |text| {
        if let Ok(address) = Address::parse(&text) {
            let shown = address.to_string();
            prop_assert_eq!(Address::parse(&shown), Ok(address), "{}", shown);
        }
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
        let _ = Rule::parse(&text);
        Ok(())
    });
}

#[test]
fn queries_are_read_or_refused() {
    let config = Config::embedded();
    let seeds = vec![
        "target=db.example.com%3A5432&module=tcp_connect&debug=true".to_owned(),
        "target=[2001:db8::1]:443&module=tls_connect&hostname=a.example".to_owned(),
        "module=&target=%2531&x=y;z".to_owned(),
    ];
    let strategy = (damaged(seeds), proptest::option::of("[0-9.eE+naif-]{0,12}|\\PC{0,8}"));
    fuzz("query", &strategy, |(bytes, header)| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let query = Query::parse(&text);
        let _ = unescape(&text);
        if let Ok(request) = ProbeRequest::parse(&query, header.as_deref(), 0.5, &config) {
            prop_assert!(request.timeout <= Duration::from_secs(24 * 60 * 60));
            prop_assert!(!request.target.is_empty());
        }
        Ok(())
    });
}

/// Pieces of expressions as people write them for Go, and as nobody should.
fn expression() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "a",
        "220",
        ".",
        ".*",
        ".+",
        "\\d+",
        "\\s",
        "\\w",
        "\\b",
        "\\B",
        "\\.",
        "^",
        "$",
        "(",
        ")",
        "(?:",
        "(?i)",
        "(?s)",
        "(?m)",
        "(?U)",
        "(?-i:",
        "(?P<n>",
        "(?<n>",
        "|",
        "*",
        "+?",
        "??",
        "{2}",
        "{2,}",
        "{1000}",
        "{1001}",
        "{",
        "}",
        "[a-z]",
        "[^a]",
        "[[:digit:]]",
        "[[a]",
        "[]a]",
        "[a&&b]",
        "[^",
        "]",
        "\\pL",
        "\\p{Greek}",
        "\\P{^Lu}",
        "\\Q",
        "\\E",
        "\\x41",
        "\\x{1F600}",
        "\\C",
        "\\z",
        "\\A",
        "\\Z",
        "\\1",
        "\\07",
        "\\_",
        "é",
        "\u{ff}",
        "(?x)",
        "(?=a)",
        "~",
        "--",
        "#",
        " ",
        "\\n",
    ]);
    prop_oneof![
        4 => proptest::collection::vec(piece, 0..12).prop_map(|it| it.concat()),
        1 => "\\PC{0,30}",
    ]
}

#[test]
fn expressions_are_read_or_refused_and_matching_ends() {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    fuzz("expression", &(expression(), bytes), |(text, bytes)| {
        match Pattern::parse(&text) {
            Ok(pattern) => {
                prop_assert_eq!(pattern.as_str(), text.as_str());
                let found = pattern.for_line(&bytes).captures(&bytes).is_some();
                prop_assert_eq!(found, pattern.for_line(&bytes).is_match(&bytes));
            }
            Err(error) => prop_assert!(!error.is_empty()),
        }
        Ok(())
    });
}
