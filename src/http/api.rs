//! What the exporter knows, for other programs: every target with its verdict and its history,
//! and the list of monitors as Prometheus discovers them.

use std::io;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::explanation::{Change, CounterCheck, Explanation, Hint};
use crate::exposition;
use crate::http::request::Query;
use crate::maintenance::OpenWindows;
use crate::monitor::{Monitor, Shard, Target};
use crate::outcome::Outcome;
use crate::path::Path;
use crate::store::{Dated, LastProbe, Moment, Row, Snapshot, Span};

/// Which targets are asked for.
#[derive(Clone, Debug, Default)]
pub struct TargetFilter {
    monitor: Option<String>,
    verdict: Option<String>,
}

impl TargetFilter {
    /// Reads `monitor` and `verdict`.
    #[must_use]
    pub fn parse(query: &Query) -> Self {
        let value = |key| Some(query.first(key).to_owned()).filter(|it| !it.is_empty());
        Self { monitor: value("monitor"), verdict: value("verdict") }
    }

    fn includes(&self, row: &Row) -> bool {
        let named = self.monitor.as_ref().is_none_or(|it| **it == *row.target.monitor.name);
        named && self.verdict.as_ref().is_none_or(|it| it == row.state().health.verdict().as_str())
    }
}

/// Writes every target, one after the other: a large fleet never is in memory as text.
///
/// # Errors
/// Those of `out`.
pub fn targets(
    rows: &Snapshot,
    filter: &TargetFilter,
    maintenance: &OpenWindows<'_>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    out.write_all(b"{\"status\":\"success\",\"data\":{\"targets\":[")?;
    let mut separator: &[u8] = b"\n";
    for row in rows.iter().filter(|it| filter.includes(it)) {
        out.write_all(separator)?;
        serde_json::to_writer(&mut *out, &target(row, maintenance))?;
        separator = b",\n";
    }
    out.write_all(b"\n]}}\n")
}

fn target(row: &Row, maintenance: &OpenWindows<'_>) -> Value {
    let (monitor, address) = (&row.target.monitor, &row.target.address);
    let state = row.state().clone();
    let history: Vec<&str> = state.history.outcomes().map(|it| Outcome::NAMES[it]).collect();
    let addresses: Vec<Value> = state
        .addresses()
        .iter()
        .map(|it| json!({"address": it.ip.to_string(), "outcome": it.outcome.as_str()}))
        .collect();
    let [successes, failures, inconclusive] = state.outcomes;
    json!({
        "monitor": monitor.name,
        "target": address.to_string(),
        "labels": labels(&row.target),
        "verdict": state.health.verdict().as_str(),
        "last_change_timestamp_seconds": state.last_change_at.map(Moment::seconds),
        "maintenance_end_timestamp_seconds": maintenance.end(monitor).map(Timestamp::as_second),
        "consecutive_failures": state.health.consecutive_failures(),
        "consecutive_successes": state.health.consecutive_successes(),
        "last_probe": state.last.as_ref().map(last),
        "probes": {"success": successes, "failure": failures, "inconclusive": inconclusive},
        "history": history,
        "addresses": addresses,
        "rtt_seconds": state.rtt.map(Span::seconds),
        "syn_retransmits": state.syn_retransmits,
        "tls_cert_not_after_timestamp_seconds": state.certificate_not_after(),
        "interval_seconds": monitor.interval.as_secs_f64(),
        "timeout_seconds": monitor.timeout.as_secs_f64(),
        "explanation": state.explanation().map(explained),
        "usual_path": state.usual_path().map(usual_path),
    })
}

fn explained(dated: &Dated<Explanation>) -> Value {
    let mut object = explanation(&dated.found);
    object.insert("timestamp_seconds".to_owned(), json!(dated.at.seconds()));
    Value::Object(object)
}

fn usual_path(dated: &Dated<Path>) -> Value {
    json!({"timestamp_seconds": dated.at.seconds(), "path": path(&dated.found)})
}

/// What was found out about a failure.
#[must_use]
pub fn explanation(explanation: &Explanation) -> Map<String, Value> {
    let checks: Vec<Value> = explanation.checks.iter().map(counter_check).collect();
    let mut object = Map::new();
    object.insert("path".to_owned(), json!(explanation.path.as_deref().map(path)));
    object.insert("counter_checks".to_owned(), Value::Array(checks));
    object.insert("hint".to_owned(), json!(explanation.hint.map(Hint::as_str)));
    object.insert("text".to_owned(), json!(explanation.to_string()));
    object
}

fn counter_check(check: &CounterCheck) -> Value {
    let (address, port) = match check.change {
        Change::Address(ip) => (Some(ip.to_string()), None),
        Change::Port(port) => (None, Some(port)),
        Change::Nothing | Change::SourcePort | Change::SegmentSize => (None, None),
    };
    json!({
        "changed": check.change.as_str(),
        "address": address,
        "port": port,
        "asked": check.asked,
        "answered": check.answered,
        "answered_at_first_syn": check.at_first,
    })
}

/// A path, hop by hop.
#[must_use]
pub fn path(path: &Path) -> Value {
    let hops: Vec<Value> = (1..)
        .zip(&path.hops)
        .map(|(hop, router)| {
            json!({
                "hop": hop,
                "address": router.map(|router| router.address.to_string()),
                "round_trip_seconds": router.map(|router| router.round_trip.as_secs_f64()),
            })
        })
        .collect();
    json!({
        "hops": hops,
        "end": path.end.as_str(),
        "last_router": path.last_router().map(|router| router.to_string()),
        "text": path.to_string(),
    })
}

fn last(last: &LastProbe) -> Value {
    let cause = last.outcome.cause();
    json!({
        "outcome": last.outcome.as_str(),
        "reason": cause.map(|(reason, _)| reason.as_str()),
        "phase": cause.map(|(_, phase)| phase.as_str()),
        "place": cause.map(|(reason, _)| reason.place().as_str()),
        "detail": last.detail,
        "timestamp_seconds": last.at.seconds(),
        "duration_seconds": last.duration.seconds(),
        "latency_seconds": last.latency.map(Span::seconds),
        "address": last.ip.map(|it| it.to_string()),
    })
}

/// The labels of a target's info series.
fn labels(target: &Target) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert("monitor".to_owned(), json!(target.monitor.name));
    labels.insert("target".to_owned(), json!(target.address.to_string()));
    exposition::info_labels(target, |name, value| {
        labels.insert(name.to_owned(), json!(value));
    });
    labels
}

/// Writes every target of the configuration in the form of Prometheus' HTTP service discovery, so
/// that it can scrape `/probe` for what is configured here.
///
/// # Errors
/// Those of `out`.
pub fn service_discovery(config: &Config, shard: Shard, out: &mut dyn io::Write) -> io::Result<()> {
    let mut separator: &[u8] = b"[\n";
    for target in config.monitors.iter().flat_map(Monitor::targets).filter(|it| shard.holds(it)) {
        let mut labels = labels(&target);
        // Whoever scrapes `/probe` has a policy of its own.
        labels.remove("policy");
        let monitor = &target.monitor;
        for (name, duration) in [("interval", monitor.interval), ("timeout", monitor.timeout)] {
            let value = format!("{}ms", duration.as_millis());
            labels.insert(format!("__meta_tcp_monitor_{name}"), Value::String(value));
        }
        out.write_all(separator)?;
        let group = json!({"targets": [target.address.to_string()], "labels": labels});
        serde_json::to_writer(&mut *out, &group)?;
        separator = b",\n";
    }
    out.write_all(if separator == b"[\n" { b"[]\n" } else { b"\n]\n" })
}
