//! Reloads: by request, by signal, by change; and what stays when they fail.

use harness::{Exporter, Metrics, Response, wait_until};
use nix::sys::signal::Signal;

use crate::{EXPORTER, LIMIT};

const BEFORE: &str = "modules: {before: {prober: tcp}}\n";
const AFTER: &str = "modules: {after: {prober: tcp}}\n";

fn knows(exporter: &Exporter, module: &str) -> bool {
    let answer = exporter.get(&format!("/probe?module={module}&target=127.0.0.1:0"));
    answer.status == 200
}

#[track_caller]
fn wait_until_known(exporter: &Exporter, module: &str) {
    wait_until(LIMIT, || {
        if knows(exporter, module) {
            Ok(())
        } else {
            Err(format!("no {module}: {}", exporter.log()))
        }
    });
}

fn success(exporter: &Exporter) -> Option<f64> {
    let metrics = Metrics::parse(&exporter.get("/metrics").text());
    metrics.value("tcp_probe_exporter_config_last_reload_successful", &[])
}

fn reload(exporter: &Exporter) -> Response {
    exporter.post("/-/reload")
}

#[test]
fn a_request_reloads() {
    let exporter = Exporter::new(EXPORTER).config(BEFORE).start();
    assert!(knows(&exporter, "before"));
    exporter.rewrite_config(AFTER);

    let answer = reload(&exporter);

    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert!(knows(&exporter, "after"));
    assert!(!knows(&exporter, "before"));
}

#[test]
fn only_a_post_reloads() {
    let exporter = Exporter::new(EXPORTER).config(BEFORE).start();
    exporter.rewrite_config(AFTER);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = exporter.request(method, "/-/reload", &[], b"");
        let expected = (405, "This endpoint requires a POST request.\n");
        assert_eq!((answer.status, answer.text().as_str()), expected, "{method}");
    }
    let other_site =
        exporter.request("POST", "/-/reload", &[("Sec-Fetch-Site", "cross-site")], b"");
    assert_eq!(other_site.status, 403);
    assert!(knows(&exporter, "before"));
}

#[test]
fn a_signal_reloads() {
    let exporter = Exporter::new(EXPORTER).config(BEFORE).start();
    exporter.rewrite_config(AFTER);
    exporter.signal(Signal::SIGHUP);
    wait_until_known(&exporter, "after");
}

#[test]
fn a_change_reloads_where_it_is_enabled() {
    let flags = ["--config.enable-auto-reload", "--config.auto-reload-interval=1s"];
    let exporter = Exporter::new(EXPORTER).config(BEFORE).flags(&flags).start();
    exporter.rewrite_config(AFTER);
    wait_until_known(&exporter, "after");
}

#[test]
fn a_bad_file_leaves_the_old_one_in_force() {
    let exporter = Exporter::new(EXPORTER).config(BEFORE).start();
    let file = exporter.directory().join("config.yml");
    let loaded = |exporter: &Exporter| {
        let metrics = Metrics::parse(&exporter.get("/metrics").text());
        metrics.value("tcp_probe_exporter_config_last_reload_success_timestamp_seconds", &[])
    };
    let since = loaded(&exporter);
    let spoils: [&dyn Fn(); 4] = [
        &|| exporter.rewrite_config("modules: {m: {prober: tcp, nonsense: 1}}\n"),
        &|| exporter.rewrite_config(""),
        &|| std::fs::remove_file(&file).unwrap(),
        &|| std::fs::create_dir(&file).unwrap(),
    ];
    for spoil in spoils {
        spoil();
        let answer = reload(&exporter);
        assert_eq!(answer.status, 500);
        assert!(answer.text().starts_with("failed to reload config: "), "{}", answer.text());
        assert!(answer.text().contains("config.yml"), "{}", answer.text());
        assert_eq!(success(&exporter), Some(0.0));
        assert_eq!(loaded(&exporter), since);
        assert!(knows(&exporter, "before"));
    }
    assert!(exporter.log().contains("error reloading config"), "{}", exporter.log());
    std::fs::remove_dir(&file).unwrap();

    exporter.rewrite_config(BEFORE);

    assert_eq!(reload(&exporter).status, 200);
    assert_eq!(success(&exporter), Some(1.0));
}

#[test]
fn all_errors_are_told_at_once() {
    let exporter = Exporter::new(EXPORTER).config(BEFORE).start();
    exporter.rewrite_config("modules:\n  a: {prober: tcp, x: 1}\n  b: {prober: tcp, y: 1}\n");
    let body = reload(&exporter).text();
    assert!(body.contains(":2: modules.a") && body.contains(":3: modules.b"), "{body}");
}
