//! The metrics of scheduled monitors.
//!
//! Every series carries `monitor` and `target` and nothing that changes with the outcome or the
//! address: an outage starts no new series, so that a rule's history is whole when it matters.
//! The exceptions are the reason of a failure, what is there only while it is true (a stale
//! verdict, a slow target, one near its timeout), and the addresses of a name whose monitor asks
//! for all of them.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::exposition::page::{Kind, Labels, Page, Value, label};
use crate::outcome::Outcome;
use crate::store::{Moment, Row, Snapshot, State, Store};
use crate::verdict::{SlownessWindow, Verdict};

/// Labels that the exporter sets itself, which monitors cannot.
pub const BUILT_IN_LABELS: [&str; 9] =
    ["monitor", "target", "module", "host", "port", "group", "role", "depends_on", "le"];

pub(super) fn write(store: &Store, now: Moment, page: &mut Page<'_>) -> io::Result<()> {
    let rows = store.snapshot();
    if rows.is_empty() {
        return Ok(());
    }
    // All of them first: between the pieces of the page, which come and go, they would leave
    // holes that nothing fits.
    for row in rows.iter() {
        labels(row);
    }
    results(&rows, page)?;
    while_true(&rows, now, page)?;
    kernel_and_certificates(&rows, page)?;
    durations(&rows, &store.bounds(), page)?;
    policy(&rows, page)?;
    info(&rows, page)
}

/// One family: its head, and for each row what `lines` writes. The row's lock is not held while
/// the page is written out.
fn each(
    rows: &Snapshot,
    page: &mut Page<'_>,
    (name, kind, help): (&'static str, Kind, &'static str),
    lines: impl Fn(&mut Page<'_>, &str, &State),
) -> io::Result<()> {
    page.family(name, kind, help)?;
    for row in rows.iter() {
        let labels = labels(row);
        lines(page, labels, &row.state());
        page.flush_if_full()?;
    }
    Ok(())
}

/// `monitor` and `target` of a row, rendered once.
fn labels(row: &Row) -> &str {
    row.rendered.get_or_init(|| {
        let mut text = Vec::new();
        label(&mut text, "monitor", &row.target.monitor.name);
        label(&mut text, "target", &row.target.address.to_string());
        // A copy, which is exactly as long as it must be.
        String::from_utf8_lossy(&text).into()
    })
}

fn results(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let name = "tcp_monitor_up";
    let help = "Verdict after confirmation: 1 up, 0 down, absent while unknown.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        match state.health.verdict() {
            Verdict::Unknown => {}
            Verdict::Up => page.sample(name, &labels, true),
            Verdict::Down => page.sample(name, &labels, false),
        }
    })?;
    let name = "tcp_monitor_probe_success";
    let help = "Whether the last conclusive probe was a success.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some(success) = state.last_success {
            page.sample(name, &labels, success);
        }
    })?;
    let name = "tcp_monitor_probes_total";
    let help = "Probes by outcome.";
    each(rows, page, (name, Kind::Counter, help), |page, labels, state| {
        for (outcome, count) in Outcome::NAMES.into_iter().zip(state.outcomes) {
            page.sample(name, &(labels, [("outcome", outcome)]), count);
        }
    })?;
    let name = "tcp_monitor_failure_info";
    let help = "Phase and reason of the last probe while it is not a success.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some((reason, phase)) = state.last.as_ref().and_then(|it| it.outcome.cause()) {
            let cause = [("phase", phase.as_str()), ("reason", reason.as_str())];
            page.sample(name, &(labels, cause), true);
        }
    })?;
    let name = "tcp_monitor_consecutive_failures";
    let help = "Failures since the last success; inconclusive probes neither raise nor clear it.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        page.sample(name, &labels, state.health.consecutive_failures());
    })?;
    let name = "tcp_monitor_consecutive_successes";
    let help = "Successes since the last failure; inconclusive probes neither raise nor clear it.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        page.sample(name, &labels, state.health.consecutive_successes());
    })?;
    let name = "tcp_monitor_last_probe_timestamp_seconds";
    let help = "End of the last conclusive probe.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some(at) = state.last_conclusive_at {
            page.sample(name, &labels, at.elapsed());
        }
    })?;
    let name = "tcp_monitor_last_change_timestamp_seconds";
    let help = "Last change of the verdict.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some(at) = state.last_change_at {
            page.sample(name, &labels, at.elapsed());
        }
    })?;
    if rows.iter().all(|row| row.state().addresses().is_empty()) {
        return Ok(());
    }
    let name = "tcp_monitor_address_success";
    let help = "Whether the last probe of each address was a success, where all are probed.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        for result in state.addresses() {
            match result.outcome {
                Outcome::Success | Outcome::Failure(..) => {
                    let address = result.ip.to_string();
                    let success = result.outcome.is_success();
                    page.sample(name, &(labels, [("address", &*address)]), success);
                }
                Outcome::Inconclusive(..) => {}
            }
        }
    })
}

/// Only where there is something to say: rules then need not look at every target.
fn while_true(rows: &Snapshot, now: Moment, page: &mut Page<'_>) -> io::Result<()> {
    let name = "tcp_monitor_stale";
    let help = "1 while the verdict is unknown or must not be relied on, absent otherwise.";
    gauge(rows, page, name, help, |row| {
        row.state().is_stale(row.target.monitor.interval, now).then_some(true)
    })?;
    // Down is worse than slow.
    let while_it_answers = |row: &Row, holds: fn(SlownessWindow) -> bool| {
        let state = row.state();
        (holds(state.slowness) && state.health.verdict() != Verdict::Down).then_some(true)
    };
    let name = "tcp_monitor_slow";
    let help = "1 while most of the last five successful probes took longer than slow, absent \
                otherwise and while down.";
    gauge(rows, page, name, help, |row| while_it_answers(row, SlownessWindow::is_slow))?;
    let name = "tcp_monitor_near_timeout";
    let help = "1 while most of the last five successful probes took more than half of the \
                timeout, absent otherwise and while down.";
    gauge(rows, page, name, help, |row| while_it_answers(row, SlownessWindow::is_near_timeout))
}

/// One gauge, for the rows that have a value.
fn gauge<V: Value>(
    rows: &Snapshot,
    page: &mut Page<'_>,
    name: &str,
    help: &str,
    value: impl Fn(&Row) -> Option<V>,
) -> io::Result<()> {
    page.family(name, Kind::Gauge, help)?;
    for row in rows.iter() {
        if let Some(value) = value(row) {
            page.sample(name, &labels(row), value);
            page.flush_if_full()?;
        }
    }
    Ok(())
}

fn kernel_and_certificates(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let name = "tcp_monitor_rtt_seconds";
    let help = "Round trip of the last handshake that the kernel measured.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some(rtt) = state.rtt {
            page.sample(name, &labels, Duration::from(rtt));
        }
    })?;
    let name = "tcp_monitor_syn_retransmits_total";
    let help = "SYNs that had to be sent again.";
    each(rows, page, (name, Kind::Counter, help), |page, labels, state| {
        page.sample(name, &labels, state.syn_retransmits);
    })?;
    let name = "tcp_monitor_tls_cert_not_after_timestamp_seconds";
    let help = "Earliest expiry among the certificates last sent.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some(at) = state.certificate_not_after() {
            page.sample(name, &labels, at);
        }
    })
}

fn durations(rows: &Snapshot, bounds: &[f64], page: &mut Page<'_>) -> io::Result<()> {
    if bounds.is_empty() {
        return Ok(());
    }
    let name = "tcp_monitor_probe_duration_seconds";
    let help = "Durations of the successful probes.";
    // `le` keeps its decimal point in both formats, lest negotiation change a series.
    let bounds: Vec<_> = bounds
        .iter()
        .map(|&bound| format!(",le=\"{}\"", ryu::Buffer::new().format(bound)))
        .collect();
    each(rows, page, (name, Kind::Histogram, help), |page, labels, state| {
        const BUCKET: &str = "tcp_monitor_probe_duration_seconds_bucket";
        let mut total = 0_u64;
        for (it, bound) in bounds.iter().enumerate() {
            total += u64::from(state.durations.counts.get(it).copied().unwrap_or_default());
            page.sample(BUCKET, &Joined(labels, bound), total);
        }
        let count = state.outcomes[Outcome::Success.index()];
        page.sample(BUCKET, &Joined(labels, ",le=\"+Inf\""), count);
        page.sample("tcp_monitor_probe_duration_seconds_sum", &labels, state.durations.sum);
        page.sample("tcp_monitor_probe_duration_seconds_count", &labels, count);
    })
}

/// Two pieces of rendered labels.
struct Joined<'a>(&'a str, &'a str);

impl Labels for Joined<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.0.as_bytes());
        text.extend_from_slice(self.1.as_bytes());
    }
}

fn policy(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let (name, help) = ("tcp_monitor_interval_seconds", "Time between two scheduled probes.");
    gauge(rows, page, name, help, |it| Some(it.target.monitor.interval))?;
    let (name, help) = ("tcp_monitor_timeout_seconds", "Bound of one probe.");
    gauge(rows, page, name, help, |it| Some(it.target.monitor.timeout))?;
    let (name, help) = ("tcp_monitor_slow_seconds", "Successes slower than this are slow.");
    gauge(rows, page, name, help, |it| it.target.monitor.slow)?;
    let (name, help) = ("tcp_monitor_confirm_failures", "Failures in a row that take it down.");
    gauge(rows, page, name, help, |it| Some(it.target.monitor.confirm.thresholds.failures.get()))?;
    let (name, help) = ("tcp_monitor_required_regions", "Regions that must hold it down.");
    gauge(rows, page, name, help, |it| Some(it.target.monitor.confirm.regions.get()))?;
    let (name, help) = ("tcp_monitor_slo_objective_ratio", "Objective of availability.");
    gauge(rows, page, name, help, |it| it.target.monitor.slo)?;

    let groups: BTreeMap<_, _> = rows
        .iter()
        .filter_map(|row| row.target.monitor.group.as_ref())
        .map(|group| (&*group.name, group.min_up.get()))
        .collect();
    if groups.is_empty() {
        return Ok(());
    }
    let name = "tcp_monitor_group_min_up";
    page.family(name, Kind::Gauge, "Members that must be up for the group to be.")?;
    for (group, min_up) in groups {
        page.sample(name, &[("group", group)], min_up);
        page.flush_if_full()?;
    }
    Ok(())
}

fn info(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let name = "tcp_monitor_info";
    page.family(name, Kind::Gauge, "What rules join and route by; always 1.")?;
    for row in rows.iter() {
        page.sample(name, &InfoLabels(row), true);
        page.flush_if_full()?;
    }
    Ok(())
}

struct InfoLabels<'a>(&'a Row);

impl Labels for InfoLabels<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        let target = &self.0.target;
        let monitor = &target.monitor;
        text.extend_from_slice(labels(self.0).as_bytes());
        label(text, "module", &monitor.module.name);
        label(text, "host", &target.address.host.to_string());
        label(text, "port", itoa::Buffer::new().format(target.address.port));
        if let Some(service) = &target.service
            && !monitor.labels.contains_key("service")
        {
            label(text, "service", service);
        }
        if let Some(group) = &monitor.group {
            label(text, "group", &group.name);
            if let Some(role) = &group.role {
                label(text, "role", role);
            }
        }
        if let Some(parent) = &monitor.depends_on {
            label(text, "depends_on", parent);
        }
        for (name, value) in monitor.labels.iter() {
            label(text, name, value);
        }
    }
}
