//! Paths, methods, prefixes, formats.

use harness::{Exporter, Metrics, Process};
use tempfile::TempDir;

use crate::{EXPORTER, exporter, exporter_with};

#[test]
fn a_container_asks_for_its_health() {
    let ask = |port: u16, words: &[&str]| {
        let listen = format!("--web.listen-address=:{port}");
        let output = crate::run(&[&["healthcheck", &listen][..], words].concat());
        (output.status.code(), crate::text(&output.stderr))
    };
    let plain = exporter();
    let port = plain.address().port();
    assert_eq!(ask(port, &[]), (Some(0), String::new()));
    let prefixed = exporter_with(&["--web.route-prefix=/pre"]);
    let port = prefixed.address().port();
    assert_eq!(ask(port, &["--web.route-prefix=/pre"]), (Some(0), String::new()));
    assert_eq!(ask(port, &[]).0, Some(1), "nothing is there without the prefix");

    let closed = harness::ClosedPort::new().address().port();
    let (code, said) = ask(closed, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("unhealthy") && said.contains("refused"), "{said}");

    let key = rcgen::generate_simple_self_signed(["exporter.example.com".to_owned()]).unwrap();
    let secure = Exporter::new(EXPORTER)
        .file("web.yml", "tls_server_config: {cert_file: cert.pem, key_file: key.pem}")
        .file("cert.pem", &key.cert.pem())
        .file("key.pem", &key.signing_key.serialize_pem())
        .flag("--web.config.file=web.yml");
    let secure = secure.start();
    let file = format!("--web.config.file={}", secure.directory().join("web.yml").display());
    assert_eq!(ask(secure.address().port(), &[&file]), (Some(0), String::new()));
    assert_eq!(ask(secure.address().port(), &[]).0, Some(1), "it speaks TLS");
}

#[test]
fn the_small_endpoints_answer() {
    let exporter = exporter();
    for (path, body) in [("/-/healthy", "Healthy\n"), ("/-/ready", "Ready\n")] {
        let answer = harness::wait_until(crate::LIMIT, || {
            let answer = exporter.get(path);
            if answer.status == 200 { Ok(answer) } else { Err(format!("{path}: {answer:?}")) }
        });
        assert_eq!(answer.text(), body);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
}

#[test]
fn every_method_reads() {
    let exporter = exporter();
    for method in ["GET", "POST", "OPTIONS", "DELETE", "PUT"] {
        for path in ["/-/healthy", "/config", "/metrics", "/"] {
            assert_eq!(exporter.request(method, path, &[], b"").status, 200, "{method} {path}");
        }
    }
    let head = exporter.request("HEAD", "/-/healthy", &[], b"");
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some("8"));
}

#[test]
fn other_paths_are_the_page() {
    let exporter = exporter();
    for path in ["/", "/nonsense", "/probe/", "/a/b/c"] {
        let answer = exporter.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    }
    assert_eq!(exporter.get("/debug/pprof/heap").status, 404);
}

#[test]
fn odd_paths_are_cleaned_and_escapes_undone() {
    let exporter = exporter();
    for (path, location) in [
        ("//metrics", "/metrics"),
        ("/a/../metrics?x=%20y", "/metrics?x=%20y"),
        ("/./probe", "/probe"),
        ("//example.com/%0d%0aX:y", "/example.com/%0D%0AX:y"),
    ] {
        let answer = exporter.get(path);
        assert_eq!((answer.status, answer.header("location")), (301, Some(location)), "{path}");
    }
    assert_eq!(exporter.get("/%2d/healthy").text(), "Healthy\n");
    assert_eq!(exporter.get("/%zz").status, 400);
}

#[test]
fn the_configuration_is_shown_and_can_be_read_back() {
    let config = exporter().get("/config");
    assert_eq!(config.status, 200);
    assert_eq!(config.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(config.text().contains("tcp_connect:"), "{}", config.text());

    let again = Exporter::new(EXPORTER).config(&config.text()).start();

    assert_eq!(again.get("/config").text(), config.text());
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let exporter = exporter();
    let classic = "text/plain; version=0.0.4; charset=utf-8";
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let prometheus = "application/openmetrics-text;version=1.0.0,\
                      application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, expected) in [
        (None, classic),
        (Some("*/*"), classic),
        (Some("nonsense"), classic),
        (Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), classic),
        (Some(prometheus), openmetrics),
    ] {
        for path in ["/metrics", "/probe?target=127.0.0.1:0"] {
            let headers: Vec<_> = accept.iter().map(|it| ("Accept", *it)).collect();
            let answer = exporter.get_with(path, &headers);
            assert_eq!(answer.header("content-type"), Some(expected), "{path} {accept:?}");
            assert_eq!(answer.text().ends_with("# EOF\n"), expected == openmetrics);
            assert_eq!(answer.header("vary"), Some("Accept, Accept-Encoding"));
        }
    }
}

#[test]
fn answers_to_scrapers_are_compressed_when_asked() {
    let exporter = exporter();
    for path in ["/metrics", "/probe?target=127.0.0.1:0"] {
        let plain = exporter.get(path);
        let packed = exporter.get_with(path, &[("Accept-Encoding", "gzip")]);
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.starts_with(&[0x1f, 0x8b]));

        let directory = TempDir::new().unwrap();
        let file = directory.path().join("body.gz");
        std::fs::write(&file, &packed.body).unwrap();
        let mut gzip = Process::start(
            directory.path(),
            &["gzip", "-dc", "body.gz"]
                .map(|it| if it == "body.gz" { file.to_str().unwrap() } else { it }),
        );
        assert!(gzip.wait(crate::LIMIT).success());
        let _ = Metrics::parse(&gzip.output());
    }
}

#[test]
fn the_exporter_tells_of_itself() {
    let exporter = exporter();
    assert_eq!(exporter.get("/probe?module=nope&target=x").status, 400);

    let metrics = Metrics::parse(&exporter.get("/metrics").text());

    for name in ["tcp_probe_exporter_build_info", "process_open_fds", "process_max_fds"] {
        assert!(metrics.find(name, &[]).is_some(), "{name} in {}", metrics.text);
    }
    let loaded = "tcp_probe_exporter_config_last_reload_successful";
    assert_eq!(metrics.value(loaded, &[]), Some(1.0));
    let unknown: Vec<_> = metrics.samples.iter().filter(|it| it.name.contains("unknown")).collect();
    assert!(unknown.iter().any(|it| it.value > 0.0), "{unknown:?}");
}

#[test]
fn nothing_of_a_probe_is_on_metrics() {
    let exporter = exporter();
    let _ = exporter.probe("127.0.0.1:0", "tcp_connect");
    let metrics = exporter.get("/metrics").text();
    assert!(!metrics.contains("probe_success "), "{metrics}");
    assert!(!metrics.contains("127.0.0.1:0"), "{metrics}");
}

#[test]
fn a_prefix_moves_every_route() {
    for flags in [
        &["--web.external-url=http://host:1/pre/fix/"][..],
        &["--web.external-url=http://host:1/pre/fix", "--web.route-prefix=pre/fix"],
        &["--web.external-url=http://host:1/pre/fix", "--web.route-prefix=/pre/fix/"],
    ] {
        let exporter = exporter_with(flags);
        let home = exporter.get("/");
        assert_eq!(home.status, 302, "{flags:?}");
        assert_eq!(home.header("location"), Some("http://host:1/pre/fix"));
        assert_eq!(exporter.get("/pre/fix/-/healthy").text(), "Healthy\n");
        let page = exporter.get("/pre/fix");
        assert_eq!((page.status, page.header("location")), (301, Some("/pre/fix/")));
        assert_eq!(exporter.get("/pre/fix/").status, 200);
        for path in ["/-/healthy", "/metrics", "/pre", "/pre/fixture"] {
            assert_eq!(exporter.get(path).status, 404, "{path}");
        }
    }
}

#[test]
fn a_prefix_alone_is_where_the_root_leads() {
    for (flag, home) in [("--web.route-prefix=pre", "/pre/"), ("--web.external-url=/pre/", "/pre")]
    {
        let exporter = exporter_with(&[flag]);
        let answer = exporter.get("/");
        assert_eq!((answer.status, answer.header("location")), (302, Some(home)), "{flag}");
        assert_eq!(exporter.get("/pre/-/healthy").status, 200, "{flag}");
    }
}

#[test]
fn a_prefix_of_its_own_leaves_the_external_url_alone() {
    let exporter = exporter_with(&["--web.external-url=http://host/out", "--web.route-prefix=/"]);
    assert_eq!(exporter.get("/-/healthy").status, 200);
    assert_eq!(exporter.get("/").status, 200);
}

/// What is answered may quote a peer, whose words must never become a page.
#[test]
fn browsers_must_not_guess_what_an_answer_is() {
    let exporter = exporter();
    let probe = "/probe?target=127.0.0.1:0";
    for path in [probe, "/logs?id=0", "/logs", "/metrics", "/config", "/", "/sd", "/%zz", "/a//b"] {
        let answer = exporter.get(path);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}
