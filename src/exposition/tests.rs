//! Text compared with text; other formats in [`formats`].

mod formats;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::maintenance::{Maintenance, Selector, Times, Window};
use crate::monitor::tests::{change, monitor};
use crate::monitor::{Histogram, Monitor, Policy, SeriesOptions};
use crate::outcome::{DialogueDetails, KernelView, Outcome, Phase, Reason};
use crate::telemetry::Telemetry;

#[test]
fn open_metrics_only_for_those_who_prefer_it() {
    use Format::{Classic, OpenMetrics, Protobuf};
    for (accept, expected) in [
        ("", Classic),
        ("*/*", Classic),
        ("application/json", Classic),
        ("text/plain;version=0.0.4", Classic),
        ("application/openmetrics-text", OpenMetrics),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OpenMetrics),
        ("application/openmetrics-text;version=2.0.0", Classic),
        ("application/openmetrics-text;q=0,text/plain;q=0.1", Classic),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Classic),
        // Native histograms: the feature flag of Prometheus 2.42, and `scrape_native_histograms`.
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
             application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
             */*;q=0.1",
            Protobuf,
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;\
             escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,\
             */*;q=0.1",
            Protobuf,
        ),
        ("application/vnd.google.protobuf", Classic),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=text,*/*;q=0.1",
            Classic,
        ),
        // Prometheus 2.42, 3.14 and vmagent.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        ),
        ("text/plain;version=1.0.0;q=0.9,application/openmetrics-text;q=0.5", OpenMetrics),
    ] {
        assert_eq!(Format::negotiate(accept), expected, "{accept}");
    }
}

fn text(page: &[u8]) -> &str {
    std::str::from_utf8(page).unwrap()
}

fn result(outcome: Outcome) -> ProbeResult {
    let mut result = ProbeResult::new(outcome, Duration::from_millis(9_500));
    result.duration = Duration::from_micros(250);
    result
}

#[test]
fn a_refused_probe_says_why() {
    let mut refused = result(Outcome::because(Reason::Refused, Phase::Connect));
    refused.peer = Some("127.0.0.1:5432".parse().unwrap());
    refused.phases.resolve = Some(Duration::ZERO);
    refused.kernel = Some(KernelView { rtt: None, syn_retransmits: 0 });
    let expected = "\
# HELP probe_success Displays whether or not the probe was a success
# TYPE probe_success gauge
probe_success 0
# HELP probe_duration_seconds Returns how long the probe took to complete in seconds
# TYPE probe_duration_seconds gauge
probe_duration_seconds 0.00025
# HELP probe_timeout_seconds Returns the probe timeout in seconds
# TYPE probe_timeout_seconds gauge
probe_timeout_seconds 9.5
# HELP probe_dns_lookup_time_seconds Returns the time taken for probe dns lookup in seconds
# TYPE probe_dns_lookup_time_seconds gauge
probe_dns_lookup_time_seconds 0
# HELP probe_ip_protocol Specifies whether probe ip protocol is IP4 or IP6
# TYPE probe_ip_protocol gauge
probe_ip_protocol 4
# HELP probe_ip_addr_hash Specifies the hash of IP address. It's useful to detect if the IP address changes.
# TYPE probe_ip_addr_hash gauge
probe_ip_addr_hash 3668918509
# HELP probe_failure_info Why, in which phase and where on the way the probe failed
# TYPE probe_failure_info gauge
probe_failure_info{phase=\"connect\",reason=\"refused\",place=\"host\"} 1
# HELP probe_phase_duration_seconds Duration of each phase that completed
# TYPE probe_phase_duration_seconds gauge
probe_phase_duration_seconds{phase=\"resolve\"} 0
# HELP probe_tcp_syn_retransmits SYNs that had to be sent again
# TYPE probe_tcp_syn_retransmits gauge
probe_tcp_syn_retransmits 0
# HELP probe_failed_due_to_regex Indicates if probe failed due to regex
# TYPE probe_failed_due_to_regex gauge
probe_failed_due_to_regex 0
# HELP probe_failed_due_to_bytes Indicates if probe failed due to bytes
# TYPE probe_failed_due_to_bytes gauge
probe_failed_due_to_bytes 0
";
    assert_eq!(text(&probe(&refused, Format::Classic)), expected);
    assert_eq!(text(&probe(&refused, Format::OpenMetrics)), format!("{expected}# EOF\n"));
}

#[test]
fn captured_labels_are_escaped() {
    let mut success = result(Outcome::Success);
    let labels = Some(vec![("banner".to_owned(), "a \"b\"\\\n\u{fffd}".to_owned())]);
    success.dialogue = Some(Box::new(DialogueDetails { labels, ..DialogueDetails::default() }));
    let page = probe(&success, Format::Classic);
    let text = text(&page);
    assert!(
        text.contains("probe_expect_info{banner=\"a \\\"b\\\"\\\\\\n\u{fffd}\"} 1\n"),
        "{text}"
    );
}

#[test]
fn an_unparsable_target_was_never_looked_up() {
    let invalid = result(Outcome::because(Reason::InvalidTarget, Phase::Resolve));
    let page = probe(&invalid, Format::Classic);
    let text = text(&page);
    assert!(!text.contains("probe_ip_protocol") && !text.contains("dns_lookup"), "{text}");
}

/// So many seconds after the results of these tests.
fn moment(seconds: u64) -> Moment {
    Moment::since_epoch(Duration::from_secs(1_000_000_000 + seconds))
}

fn options(histogram: Histogram) -> SeriesOptions {
    SeriesOptions { histogram, full: false }
}

const EPOCH: Timestamp = Timestamp::UNIX_EPOCH;

/// No window.
static NONE: Maintenance = Maintenance { windows: Vec::new() };

fn exporter() -> ExporterMetrics {
    ExporterMetrics::new(&Telemetry::default())
}

/// The names and labels of all series of a page, without those that come and go.
fn series(store: &Store) -> Vec<String> {
    let comes_and_goes = |line: &str| line.contains("failure_info") || line.contains("_stale");
    all_series(store).into_iter().filter(|it| !comes_and_goes(it)).collect()
}

/// The names and labels of all series of a page.
fn all_series(store: &Store) -> Vec<String> {
    let mut page = Vec::new();
    metrics(store, &exporter(), &NONE.at(EPOCH), moment(0), Format::Classic, &mut page).unwrap();
    let text = String::from_utf8(page).unwrap();
    text.lines()
        .filter(|line| line.starts_with("tcp_monitor"))
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

#[test]
fn the_series_of_a_target_are_the_same_whatever_happens() {
    let store = Store::default();
    let target = monitor("db", "db.example.com", &[5432]).targets().next().unwrap();
    let row = Store::row(target);
    store.replace(vec![Arc::clone(&row)], &options(Histogram::Native));
    let apply = |result: &ProbeResult| store.apply(&row, result, Box::default(), moment(0));

    let before = series(&store);
    assert!(before.iter().any(|it| it.contains("probes_total{monitor=\"db\"")), "{before:?}");
    assert!(!before.iter().any(|it| it.starts_with("tcp_monitor_up")), "{before:?}");

    let mut success = result(Outcome::Success);
    success.peer = Some("192.0.2.1:5432".parse().unwrap());
    success.kernel = Some(KernelView { rtt: Some(Duration::from_micros(30)), syn_retransmits: 0 });
    apply(&success);
    let up = series(&store);
    assert!(
        up.contains(&"tcp_monitor_up{monitor=\"db\",target=\"db.example.com:5432\"}".to_owned())
    );

    for reason in [Reason::Refused, Reason::DnsNxdomain, Reason::LocalResources, Reason::Timeout] {
        for _ in 0..4 {
            apply(&result(Outcome::because(reason, Phase::Connect)));
            assert_eq!(series(&store), up, "{reason}");
        }
    }
    success.peer = Some("[2001:db8::1]:5432".parse().unwrap());
    apply(&success);
    assert_eq!(series(&store), up);
}

#[test]
fn a_verdict_is_stale_until_probed_after_inconclusive_probes_and_when_old() {
    let store = Store::default();
    let target = monitor("db", "192.0.2.1", &[1]).targets().next().unwrap();
    let interval = target.monitor.interval.as_secs();
    let row = Store::row(target);
    store.replace(vec![Arc::clone(&row)], &options(Histogram::Native));
    let stale = |seconds| {
        let mut page = Vec::new();
        metrics(&store, &exporter(), &NONE.at(EPOCH), moment(seconds), Format::Classic, &mut page)
            .unwrap();
        let text = String::from_utf8(page).unwrap();
        text.contains("tcp_monitor_stale{monitor=\"db\",target=\"192.0.2.1:1\"} 1\n")
    };
    let apply = |outcome| store.apply(&row, &result(outcome), Box::default(), moment(0));
    assert!(stale(0));
    apply(Outcome::because(Reason::Refused, Phase::Connect));
    assert!(stale(0), "one failure of three is no verdict");
    apply(Outcome::Success);
    assert!(!stale(0) && !stale(3 * interval + 60) && stale(3 * interval + 61));
    apply(Outcome::because(Reason::LocalResources, Phase::Connect));
    assert!(stale(0));
    apply(Outcome::because(Reason::Refused, Phase::Connect));
    assert!(!stale(0), "the verdict is known, and the probe was conclusive");
}

#[test]
fn a_target_is_slow_or_near_its_timeout_only_while_it_is_and_answers() {
    let store = Store::default();
    let slow = |policy: &mut Policy| policy.slow = Some(Duration::from_millis(500));
    let monitor = change(monitor("db", "192.0.2.1", &[1]), slow);
    let row = Store::row(monitor.targets().next().unwrap());
    store.replace(vec![Arc::clone(&row)], &options(Histogram::Native));
    let apply = |outcome, seconds, times| {
        let mut result = result(outcome);
        result.duration = Duration::from_secs(seconds);
        for _ in 0..times {
            store.apply(&row, &result, Box::default(), moment(0));
        }
    };
    let marks = || -> Vec<_> {
        let labels = "{monitor=\"db\",target=\"192.0.2.1:1\"}";
        let wanted = ["slow", "near_timeout"].map(|it| (it, format!("tcp_monitor_{it}{labels}")));
        let series = all_series(&store);
        wanted.into_iter().filter(|(_, it)| series.contains(it)).map(|(it, _)| it).collect()
    };
    apply(Outcome::Success, 0, 5);
    assert!(marks().is_empty());
    apply(Outcome::Success, 1, 3);
    assert_eq!(marks(), ["slow"]);
    apply(Outcome::Success, 9, 3);
    assert_eq!(marks(), ["slow", "near_timeout"]);
    apply(Outcome::because(Reason::Refused, Phase::Connect), 0, 2);
    assert_eq!(marks(), ["slow", "near_timeout"], "not confirmed");
    apply(Outcome::because(Reason::Refused, Phase::Connect), 0, 1);
    assert!(marks().is_empty(), "down is worse");

    apply(Outcome::Success, 9, 1);
    assert_eq!(marks(), ["slow", "near_timeout"]);
    let patient = |policy: &mut Policy| policy.timeout = Duration::from_secs(30);
    let changed = change(monitor, patient).targets().next().unwrap();
    store.replace(vec![Store::redefine(&row, changed)], &options(Histogram::Native));
    assert!(marks().is_empty(), "judged by bounds that no longer hold");
}

#[test]
fn a_monitor_says_that_it_is_in_maintenance_only_while_it_is() {
    let store = Store::default();
    let rows = ["db", "web"]
        .map(|name| Store::row(monitor(name, "192.0.2.1", &[1]).targets().next().unwrap()));
    store.replace(rows.to_vec(), &options(Histogram::Native));
    let second = |second| Timestamp::from_second(second).unwrap();
    let selector = Selector { monitors: vec!["db".into()], ..Selector::default() };
    let times = Times::Once { start: second(10), end: second(20) };
    let maintenance = Maintenance { windows: vec![Window { selector, times }] };
    for (now, expected) in [(9, vec![]), (10, vec!["db"]), (19, vec!["db"]), (20, vec![])] {
        let (mut page, windows) = (Vec::new(), maintenance.at(second(now)));
        metrics(&store, &exporter(), &windows, moment(0), Format::Classic, &mut page).unwrap();
        let series = text(&page).lines().filter_map(|line| {
            line.strip_prefix("tcp_monitor_maintenance{monitor=\"")?
                .strip_suffix("\",target=\"192.0.2.1:1\"} 1")
        });
        assert_eq!(series.collect::<Vec<_>>(), expected, "at {now}");
    }
}

/// The page of a store, in a format.
fn page(store: &Store, format: Format) -> Vec<u8> {
    let mut page = Vec::new();
    metrics(store, &exporter(), &NONE.at(EPOCH), moment(0), format, &mut page).unwrap();
    page
}

/// A store of one target that was probed with these durations.
fn store_of(histogram: Histogram, durations: &[Duration]) -> Store {
    let store = Store::default();
    let row = Store::row(monitor("db", "192.0.2.1", &[1]).targets().next().unwrap());
    store.replace(vec![Arc::clone(&row)], &options(histogram));
    for &duration in durations {
        let mut success = result(Outcome::Success);
        success.duration = duration;
        store.apply(&row, &success, Box::default(), moment(0));
    }
    store
}

const LABELS: &str = "monitor=\"db\",target=\"192.0.2.1:1\"";

#[test]
fn classic_histograms_add_up_and_say_since_when() {
    let durations = [50, 100, 500, 5_000].map(Duration::from_millis);
    let store = store_of(Histogram::Classic([0.1, 1.0].into()), &durations);
    let name = "tcp_monitor_probe_duration_seconds";
    let samples = format!(
        "# TYPE {name} histogram\n\
         {name}_bucket{{{LABELS},le=\"0.1\"}} 2\n\
         {name}_bucket{{{LABELS},le=\"1.0\"}} 3\n\
         {name}_bucket{{{LABELS},le=\"+Inf\"}} 4\n\
         {name}_sum{{{LABELS}}} 5.65\n\
         {name}_count{{{LABELS}}} 4\n"
    );
    let (classic, open) = (page(&store, Format::Classic), page(&store, Format::OpenMetrics));
    assert!(text(&classic).contains(&format!("{samples}# HELP")), "{}", text(&classic));
    assert!(text(&open).contains(&format!("{samples}{name}_created{{{LABELS}}} 1")));
}

#[test]
fn without_classic_buckets_sum_and_count_are_a_summary() {
    for histogram in [Histogram::Native, Histogram::Off] {
        let store = store_of(histogram, &[Duration::from_secs(5)]);
        let name = "tcp_monitor_probe_duration_seconds";
        let samples = format!(
            "# TYPE {name} summary\n{name}_sum{{{LABELS}}} 5\n{name}_count{{{LABELS}}} 1\n# HELP"
        );
        for format in [Format::Classic, Format::OpenMetrics] {
            let page = page(&store, format);
            assert!(text(&page).contains(&samples), "{}", text(&page));
        }
    }
}

#[test]
fn every_reason_is_counted_from_zero() {
    for (format, name) in [
        (Format::Classic, "# TYPE tcp_probe_exporter_probe_failures_total counter"),
        (Format::OpenMetrics, "# TYPE tcp_probe_exporter_probe_failures counter"),
    ] {
        let page = page(&Store::default(), format);
        assert!(text(&page).contains(name), "{}", text(&page));
        for &reason in Reason::ALL {
            let line = format!("probe_failures_total{{reason=\"{reason}\"}} 0\n");
            assert!(text(&page).contains(&line), "{line}\n{}", text(&page));
        }
    }
}
