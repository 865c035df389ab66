//! The exporter explains what fails: on its metrics, in its API and in its log.

use std::time::Duration;

use harness::listener::Visitor;
use harness::{Exporter, Listener, Metrics, wait_until};
use serde_json::Value;

use crate::chain::{Chain, ROUTERS};
use crate::{EXPORTER, chain};

/// An explanation that waits for everything it can wait for.
const LIMIT: Duration = Duration::from_secs(90);

const DEFAULTS: &str = "defaults:\n  interval: 1s\n  down_interval: 1s\n  timeout: 500ms\n  \
                        confirm: {failures: 2, retry_interval: 100ms}\n";

fn metrics(exporter: &Exporter) -> Metrics {
    Metrics::parse(&exporter.get("/metrics").text())
}

fn target(exporter: &Exporter, monitor: &str) -> Value {
    let answer = exporter.get(&format!("/api/v1/targets?monitor={monitor}"));
    let mut answer: Value = serde_json::from_slice(&answer.body).unwrap();
    answer["data"]["targets"][0].take()
}

const DROP_TARGET: &str = "table inet t { chain f { type filter hook forward priority 0; \
                           ip daddr 10.20.3.2 drop; ip6 daddr fd20:3::2 drop; }; }";

#[test]
fn confirmed_failure_is_explained_once_for_all_who_watch_the_peer() {
    let test = "confirmed_failure_is_explained_once_for_all_who_watch_the_peer";
    let Some(chain) = chain(test) else { return };
    let peer = Chain::target(false);
    let _listener = chain.hosts[ROUTERS + 1].within(|| Listener::serve(peer, Visitor::read_to_end));
    let config = format!(
        "{DEFAULTS}monitors:\n  - {{name: a, host: 10.20.3.2, port: 443, path: {{baseline: 1m}}}}\n  \
         - {{name: b, host: 10.20.3.2, port: 443}}\n  \
         - {{name: never, host: 10.20.3.2, port: 443, path: off}}\n"
    );
    let exporter = Exporter::new(EXPORTER).netns(&chain.hosts[0]).config(&config).start();
    wait_until(LIMIT, || {
        let usual = target(&exporter, "a")["usual_path"].clone();
        if usual["path"]["end"] == "open" { Ok(()) } else { Err(usual.to_string()) }
    });
    assert_eq!(metrics(&exporter).all("tcp_monitor_path_info").count(), 0, "all is well");

    chain.hosts[2].nft(DROP_TARGET);
    let found = wait_until(LIMIT, || {
        let found = target(&exporter, "b")["explanation"].clone();
        let whole = found["counter_checks"].as_array().is_some_and(|checks| !checks.is_empty());
        if whole { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!(found["path"]["end"], "silent", "{found}");
    assert_eq!(found["path"]["last_router"], "10.20.1.2", "{found}");
    assert_eq!(found["path"]["hops"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["hint"], Value::Null, "{found}");
    for check in found["counter_checks"].as_array().unwrap() {
        assert_eq!(check["answered"], 0, "{found}");
    }
    let page = metrics(&exporter);
    for monitor in ["a", "b"] {
        let ends = [("monitor", monitor), ("end", "silent"), ("last_hop", "10.20.1.2")];
        assert_eq!(page.value("tcp_monitor_path_info", &ends), Some(1.0), "{monitor}");
        let hops = page.value("tcp_monitor_path_hops", &[("monitor", monitor)]);
        assert_eq!(hops, Some(2.0), "{monitor}");
    }
    assert_eq!(page.find("tcp_monitor_path_info", &[("monitor", "never")]), None);
    // One for both, and the usual path before.
    assert_eq!(page.value("tcp_probe_exporter_explanations_total", &[]), Some(2.0));
    let log = exporter.log();
    let line = log
        .lines()
        .find(|line| line.contains("verdict explained") && line.contains("monitor=a"))
        .unwrap_or_else(|| panic!("no line in {log}"));
    assert!(line.contains("stops after 10.20.1.2"), "{line}");
    assert!(line.contains("went_on=10.20.2.2"), "{line}");

    chain.hosts[2].nft("delete table inet t");
    wait_until(LIMIT, || {
        let page = metrics(&exporter);
        let up = page.value("tcp_monitor_up", &[("monitor", "a")]) == Some(1.0);
        let gone = page.find("tcp_monitor_path_info", &[("monitor", "a")]).is_none();
        if up && gone { Ok(()) } else { Err(format!("up {up}, gone {gone}")) }
    });
}

#[test]
fn name_of_which_one_family_fails_is_hinted_at() {
    let Some(chain) = chain("name_of_which_one_family_fails_is_hinted_at") else { return };
    let _listeners = [false, true].map(|v6| {
        chain.hosts[ROUTERS + 1].within(|| Listener::serve(Chain::target(v6), Visitor::read_to_end))
    });
    let etc = tempfile::TempDir::with_prefix("etc-").unwrap();
    std::fs::write(etc.path().join("hosts"), "10.20.3.2 both\nfd20:3::2 both\n").unwrap();
    std::fs::write(etc.path().join("resolv.conf"), "").unwrap();
    chain.hosts[2].nft(
        "table inet t { chain f { type filter hook forward priority 0; ip6 daddr fd20:3::2 drop; }; }",
    );
    let config = format!("{DEFAULTS}monitors:\n  - {{name: a, host: both, port: 443}}\n");
    let exporter =
        Exporter::new(EXPORTER).netns(&chain.hosts[0]).etc(etc.path()).config(&config).start();
    let page = wait_until(LIMIT, || {
        let page = metrics(&exporter);
        let hint = page.label("tcp_monitor_hint_info", "hint").map(str::to_owned);
        if hint.is_some() { Ok(page) } else { Err(target(&exporter, "a").to_string()) }
    });
    assert_eq!(page.label("tcp_monitor_hint_info", "hint"), Some("one_family"));
    assert_eq!(page.label("tcp_monitor_path_info", "last_hop"), Some("fd20:1::2"));
    let found = target(&exporter, "a");
    let text = found["explanation"]["text"].as_str().unwrap();
    assert!(text.contains("over IPv4 (10.20.3.2) the probe succeeds: only IPv6 fails"), "{text}");
    // At most four series more than while it is up.
    let series = |page: &Metrics| {
        ["failure_info", "path_info", "path_hops", "hint_info", "stale", "slow", "near_timeout"]
            .iter()
            .map(|name| page.all(&format!("tcp_monitor_{name}")).count())
            .sum::<usize>()
    };
    assert_eq!(series(&page), 4);
}

#[test]
fn path_is_followed_on_demand_by_the_access_rules() {
    let Some(chain) = chain("path_is_followed_on_demand_by_the_access_rules") else { return };
    let exporter = Exporter::new(EXPORTER)
        .netns(&chain.hosts[0])
        .config("access: {deny: ['fd20::/16']}\n")
        .start();
    let probe = |target: &str| {
        exporter.get(&format!("/probe?target={target}&timeout=20&debug=true&trace=true")).text()
    };
    let followed = probe("10.20.3.2:443");
    assert!(followed.contains("hop 3: 10.20.2.2 after"), "{followed}");
    assert!(followed.contains("the path reaches 10.20.3.2 after 3 routers"), "{followed}");
    let denied = probe("%5Bfd20:3::2%5D:443");
    assert!(denied.contains("do not allow"), "{denied}");
    assert!(!denied.contains("hop 1"), "{denied}");
}

#[test]
fn terminal_says_where_it_fails_without_privileges() {
    let Some(chain) = chain("terminal_says_where_it_fails_without_privileges") else { return };
    chain.hosts[2].nft(
        "table inet t { chain f { type filter hook forward priority 0; tcp dport 443 drop; }; }",
    );
    #[rustfmt::skip]
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", chain.hosts[0].name(), "setpriv", "--reuid=65534", "--regid=65534"])
        .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .args([EXPORTER, "probe", "--diagnose", "--timeout=1s", "10.20.3.2:443,22"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in [
        "path stops after 10.20.1.2 (hop 2): nothing answers behind it",
        "from other source ports: 0 of 12 answered",
        "port 22 of the same host: 2 of 2 answered",
        "hint host_answers_elsewhere: the host answers at port 22",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in {text}");
    }
}
