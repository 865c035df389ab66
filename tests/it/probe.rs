//! `/probe`: parameters, the order of their checks, timeouts.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::{ClosedPort, Exporter, Listener, Metrics, wait_until};

use crate::{EXPORTER, LIMIT, exporter, exporter_with};

const SCRAPE_TIMEOUT: &str = "X-Prometheus-Scrape-Timeout-Seconds";

#[test]
fn an_open_port_is_a_success() {
    let listener = Listener::silent();
    let exporter = exporter();

    let metrics = exporter.probe(&listener.target(), "tcp_connect");

    assert!(metrics.is_success(), "{}", metrics.text);
    assert_eq!(metrics.failure(), None);
    assert_eq!(metrics.value("probe_ip_protocol", &[]), Some(4.0));
    assert_eq!(metrics.value("probe_ip_addr_hash", &[]), Some(3_668_918_509.0));
    for name in ["probe_duration_seconds", "probe_dns_lookup_time_seconds", "probe_tcp_rtt_seconds"]
    {
        assert!(metrics.value(name, &[]).is_some(), "{name} in {}", metrics.text);
    }
    wait_until(LIMIT, || match listener.accepted() {
        1 => Ok(()),
        count => Err(format!("{count} connections")),
    });
}

#[test]
fn a_closed_port_is_an_answer_not_an_error() {
    let closed = ClosedPort::new();

    let metrics = exporter().probe(&closed.target(), "tcp_connect");

    assert!(!metrics.is_success());
    assert_eq!(metrics.failure(), Some(("connect", "refused")));
}

#[test]
fn what_is_wrong_with_the_target_itself_is_an_answer_too() {
    let exporter = exporter();
    for target in ["nonsense", "http://host:80", "::1:80", "host:99999", ":80"] {
        let metrics = exporter.probe(target, "tcp_connect");
        assert!(!metrics.is_success(), "{target}");
        assert_eq!(metrics.failure(), Some(("resolve", "invalid_target")), "{target}");
        assert_eq!(metrics.value("probe_dns_lookup_time_seconds", &[]), None, "{target}");
    }
}

/// The first check that fails decides.
#[test]
fn checks_are_made_in_order() {
    let exporter = Exporter::new(EXPORTER)
        .config("modules: {web: {prober: http}, mine: {prober: tcp}}\n")
        .start();
    let bad_header = "Failed to parse timeout from Prometheus header: \
                      strconv.ParseFloat: parsing \"x\": invalid syntax\n";
    for (query, header, status, body) in [
        ("module=no", "x", 400, "Unknown module \"no\"\n"),
        ("module=n%22o", "", 400, "Unknown module \"n\\\"o\"\n"),
        ("module=mine", "x", 500, bad_header),
        ("module=web", "x", 500, bad_header),
        ("module=mine", "", 400, "Target parameter is missing\n"),
        ("module=web", "", 400, "Target parameter is missing\n"),
        ("module=mine&target=", "", 400, "Target parameter is missing\n"),
        ("module=mine&target=%zz", "", 400, "Target parameter is missing\n"),
        ("module=mine&target=a;b", "", 400, "Target parameter is missing\n"),
        (
            "module=web&target=a:1",
            "",
            400,
            "Unknown prober \"http\": this exporter probes TCP only\n",
        ),
    ] {
        let headers = if header.is_empty() { vec![] } else { vec![(SCRAPE_TIMEOUT, header)] };
        let answer = exporter.get_with(&format!("/probe?{query}"), &headers);
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{query}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert_eq!(exporter.get("/logs?id=0").status, 404, "bad requests are no results");
}

#[test]
fn the_first_value_of_a_parameter_counts() {
    let listener = Listener::silent();
    let path = format!("/probe?target={}&target=nonsense&x=1", listener.target());
    assert!(Metrics::parse(&exporter().get(&path).text()).is_success());
}

#[test]
fn a_target_is_unescaped_once_more() {
    let listener = Listener::silent();
    let exporter = exporter();
    for target in [
        format!("127.0.0.1:{}", listener.port()),
        format!("127.0.0.1%3A{}", listener.port()),
        format!("127.0.0.1%253A{}", listener.port()),
    ] {
        assert!(exporter.probe(&target, "tcp_connect").is_success(), "{target}");
    }
}

/// Module timeout, header, offset, and the timeout that follows.
const TIMEOUTS: &[(Option<f64>, Option<&str>, &str, f64)] = &[
    (None, Some("15"), "0.5", 14.5),
    (None, Some("15"), "0", 15.0),
    (Some(20.0), Some("15"), "0.5", 14.5),
    (Some(20.0), Some("15"), "0", 15.0),
    (Some(5.0), Some("15"), "0", 5.0),
    (Some(5.0), Some("15"), "0.5", 5.0),
    (Some(10.0), None, "0.5", 10.0),
    (Some(10.0), Some("10"), "0.5", 9.5),
    (Some(9.5), None, "0.5", 9.5),
    (Some(9.5), None, "1", 9.5),
    (None, None, "0.5", 119.5),
    (None, None, "0", 120.0),
    (None, Some("0"), "0.5", 119.5),
    (None, Some(""), "0.5", 119.5),
    (Some(5.0), Some("0.1"), "0.5", 5.0),
    (None, Some("1.5e1"), "-1", 16.0),
];

#[test]
fn every_row_of_the_timeout_table() {
    let listener = Listener::silent();
    let config = "modules:\n  none: {prober: tcp}\n  m20: {prober: tcp, timeout: 20s}\n  \
                  m10: {prober: tcp, timeout: 10s}\n  m9_5: {prober: tcp, timeout: 9500ms}\n  \
                  m5: {prober: tcp, timeout: 5s}\n";
    for offset in ["0", "0.5", "1", "-1"] {
        let flag = format!("--timeout-offset={offset}");
        let exporter = Exporter::new(EXPORTER).config(config).flag(&flag).start();
        for &(module, header, _, expected) in TIMEOUTS.iter().filter(|it| it.2 == offset) {
            let name = module.map_or("none".to_owned(), |it| format!("m{it}").replace('.', "_"));
            let path = format!("/probe?module={name}&target={}", listener.target());
            let headers: Vec<_> = header.iter().map(|it| (SCRAPE_TIMEOUT, *it)).collect();

            let metrics = Metrics::parse(&exporter.get_with(&path, &headers).text());

            let timeout = metrics.value("probe_timeout_seconds", &[]);
            assert_eq!(timeout, Some(expected), "{module:?} {header:?} {offset}");
            assert!(metrics.is_success());
        }
    }
}

#[test]
fn where_the_offset_eats_the_scrape_the_probe_fails_at_once() {
    let config = "modules: {none: {prober: tcp}, five: {prober: tcp, timeout: 5s}}\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();
    let listener = Listener::silent();
    for (module, header) in [("none", "0.5"), ("none", "0.1"), ("five", "0.5")] {
        let path = format!("/probe?module={module}&target={}", listener.target());
        let answer = exporter.get_with(&path, &[(SCRAPE_TIMEOUT, header)]);
        let metrics = Metrics::parse(&answer.text());
        assert!(!metrics.is_success(), "{module} {header}");
    }
}

#[test]
fn the_deadline_holds_over_the_whole_probe() {
    let listener = Listener::silent();
    let config = "modules:\n  wait:\n    prober: tcp\n    tcp:\n      query_response: \
                  [{expect: never}]\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();
    let path = format!("/probe?module=wait&target={}", listener.target());

    let answer = exporter.get_with(&path, &[(SCRAPE_TIMEOUT, "1")]);

    let metrics = Metrics::parse(&answer.text());
    assert_eq!(metrics.failure(), Some(("dialogue", "expect_timeout")), "{}", metrics.text);
    let duration = metrics.value("probe_duration_seconds", &[]).unwrap();
    assert!(duration >= 0.49, "{duration}");
}

#[test]
fn requests_run_beside_each_other() {
    let listener = Listener::silent();
    let config = "modules:\n  wait:\n    prober: tcp\n    timeout: 2s\n    tcp:\n      \
                  query_response: [{expect: never}]\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();
    let path = format!("/probe?module=wait&target={}", listener.target());
    let start = Instant::now();

    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(exporter.get(&path).status, 200));
        }
    });

    assert!(start.elapsed() < Duration::from_secs(30), "one after the other takes 40 s");
}

#[test]
fn a_client_that_hangs_up_cancels_its_probe() {
    let listener = Listener::silent();
    let config = "modules:\n  wait:\n    prober: tcp\n    tcp:\n      query_response: \
                  [{expect: never}]\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();
    let in_flight = || {
        let metrics = Metrics::parse(&exporter.get("/metrics").text());
        metrics.value("tcp_probe_exporter_probes_in_flight", &[]).unwrap()
    };
    let mut client = TcpStream::connect(exporter.address()).unwrap();
    let target = listener.target();
    write!(client, "GET /probe?module=wait&target={target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    wait_until(LIMIT, || match in_flight() {
        1.0 => Ok(()),
        count => Err(format!("{count} in flight")),
    });

    drop(client);

    wait_until(LIMIT, || match in_flight() {
        0.0 => Ok(()),
        count => Err(format!("{count} in flight")),
    });
}

#[test]
fn what_the_exporter_cannot_see_is_503_and_no_success_or_failure() {
    let config = "modules: {bad: {prober: tcp, tcp: {source_ip_address: nonsense}}}\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();

    let answer = exporter.get("/probe?module=bad&target=127.0.0.1:1");

    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let body = answer.text();
    assert!(body.starts_with("inconclusive: local_config (connect): "), "{body}");
    assert_eq!(body.lines().count(), 1, "{body}");
    assert!(!body.contains("probe_success"), "{body}");
}

#[test]
fn a_forbidden_target_is_403_in_the_same_words_for_all() {
    let listener = Listener::silent();
    let closed = ClosedPort::new();
    let config = "access: {deny: [127.0.0.1/32]}\n";
    let exporter = Exporter::new(EXPORTER).config(config).start();

    let answers: Vec<_> = [listener.target(), closed.target(), "169.254.169.254:80".to_owned()]
        .iter()
        .map(|it| exporter.get(&format!("/probe?target={it}&debug=true")))
        .map(|it| (it.status, it.text()))
        .collect();

    let expected = "the access rules of this exporter do not allow this target\n";
    assert!(answers.iter().all(|it| *it == (403, expected.to_owned())), "{answers:?}");
    assert_eq!(listener.accepted(), 0);
    let metrics = exporter.get("/metrics").text();
    let counted = |rule: &str| {
        Metrics::parse(&metrics)
            .samples
            .iter()
            .any(|it| it.labels.get("rule").is_some_and(|it| it == rule) && it.value > 0.0)
    };
    assert!(counted("127.0.0.1/32"), "{metrics}");
    assert!(counted("link_local"), "{metrics}");
}

#[test]
fn keep_alive_serves_many_probes_on_one_connection() {
    let listener = Listener::silent();
    let exporter = exporter();
    let mut client = TcpStream::connect(exporter.address()).unwrap();
    let target = listener.target();
    let mut answer = Vec::new();
    for _ in 0..5 {
        write!(client, "GET /probe?target={target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    write!(client, "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    client.read_to_end(&mut answer).unwrap();

    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("\nprobe_success 1\n").count(), 5, "{answer}");
    assert!(answer.ends_with("Healthy\n"), "{answer}");
}

#[test]
fn more_probes_than_places_get_503_naming_the_reason() {
    let listener = Listener::silent();
    let config = "modules:\n  wait:\n    prober: tcp\n    tcp:\n      query_response: \
                  [{expect: never}]\n";
    let exporter = Exporter::new(EXPORTER).config(config).limit("--nofile=64").start();
    let path = format!("/probe?module=wait&target={}", listener.target());
    // Long enough for all of them to come while the first ones wait.
    let headers = [(SCRAPE_TIMEOUT, "8")];

    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..9).map(|_| scope.spawn(|| exporter.get_with(&path, &headers))).collect();
        clients.into_iter().map(|it| it.join().unwrap()).collect()
    });

    let busy = "inconclusive: local_resources (connect): too many probes at once\n";
    let refused = answers.iter().filter(|it| it.status == 503 && it.text() == busy).count();
    let probed = answers.iter().filter(|it| it.status == 200).count();
    assert_eq!(refused + probed, answers.len(), "{answers:?}");
    assert!(refused > 0 && probed > 0, "{refused} refused, {probed} probed");
}

#[test]
fn a_hostname_is_shown_where_the_module_names_none() {
    let exporter = exporter_with(&[]);
    let path = "/probe?module=tls_connect&target=127.0.0.1:0&hostname=name.example&debug=true";
    let body = exporter.get(path).text();
    assert!(body.contains("server_name: name.example"), "{body}");
}
