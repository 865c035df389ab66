//! The metrics of scheduled monitors.
//!
//! Every series carries `monitor` and `target` and nothing that changes with the outcome or the
//! address: an outage starts no new series, so that a rule's history is whole when it matters.
//! The exceptions are the reason of a failure, what is there only while it is true (a stale
//! verdict, a slow target, one near its timeout, maintenance), and the addresses of a name whose monitor asks
//! for all of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::exposition::Format;
use crate::exposition::page::{Buckets, Distribution, Kind, Labels, Page, Value, label};
use crate::maintenance::OpenWindows;
use crate::monitor::{Endpoint, Histogram, Policy, Target};
use crate::outcome::Outcome;
use crate::store::{Durations, Moment, Row, Snapshot, State, Store};
use crate::verdict::{SlownessWindow, Verdict};

/// Labels that the exporter sets itself, which monitors cannot.
pub const BUILT_IN_LABELS: [&str; 10] =
    ["monitor", "target", "module", "host", "port", "group", "role", "depends_on", "policy", "le"];

/// `start` is when counting began, Unix seconds.
pub(super) fn write(
    store: &Store,
    start: f64,
    maintenance: &OpenWindows<'_>,
    now: Moment,
    page: &mut Page<'_>,
) -> io::Result<()> {
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
    while_true(&rows, maintenance, now, page)?;
    explanations(&rows, now, page)?;
    kernel_and_certificates(&rows, page)?;
    let options = store.options();
    durations(&rows, &options.histogram, start, page)?;
    policies(&rows, page)?;
    groups(&rows, page)?;
    if options.full {
        full(&rows, page)?;
    }
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
    let help = "Phase, reason and place of the last probe while it is not a success.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        if let Some((reason, phase)) = state.last.as_ref().and_then(|it| it.outcome.cause()) {
            let place = reason.place();
            let cause =
                [("phase", phase.as_str()), ("reason", reason.as_str()), ("place", place.as_str())];
            page.sample(name, &(labels, cause), true);
        }
    })?;
    let name = "tcp_monitor_consecutive_failures";
    let help = "Failures since the last success; inconclusive probes neither raise nor clear it.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        page.sample(name, &labels, state.health.consecutive_failures());
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
fn while_true(
    rows: &Snapshot,
    maintenance: &OpenWindows<'_>,
    now: Moment,
    page: &mut Page<'_>,
) -> io::Result<()> {
    let name = "tcp_monitor_maintenance";
    let help = "1 while the monitor is in a maintenance window, absent otherwise.";
    gauge(rows, page, name, help, |row| maintenance.cover(&row.target.monitor).then_some(true))?;
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

/// Where the path to a target ends and what counter-checks point at: only while it is down, and
/// while that may be relied on.
fn explanations(rows: &Snapshot, now: Moment, page: &mut Page<'_>) -> io::Result<()> {
    let explanation = |row: &Row| {
        let state = row.state();
        let down = state.health.verdict() == Verdict::Down
            && !state.is_stale(row.target.monitor.interval, now);
        down.then(|| state.explanation().map(|dated| Arc::clone(&dated.found))).flatten()
    };
    let explained: Vec<_> = rows.iter().filter_map(|row| Some((row, explanation(row)?))).collect();
    if explained.is_empty() {
        return Ok(());
    }
    let name = "tcp_monitor_path_info";
    let help = "How the path to a target that is down ends, and the last hop that answered.";
    page.family(name, Kind::Gauge, help)?;
    for (row, explanation) in &explained {
        if let Some(path) = &explanation.path {
            let last_hop = path.last_router().map(|hop| hop.to_string()).unwrap_or_default();
            let ends = [("end", path.end.as_str()), ("last_hop", &*last_hop)];
            page.sample(name, &(labels(row), ends), true);
            page.flush_if_full()?;
        }
    }
    let name = "tcp_monitor_path_hops";
    let help = "Hops up to the last that answered, on the path to a target that is down.";
    page.family(name, Kind::Gauge, help)?;
    for (row, explanation) in &explained {
        if let Some(path) = &explanation.path {
            page.sample(name, &labels(row), u32::try_from(path.hops.len()).unwrap_or(u32::MAX));
            page.flush_if_full()?;
        }
    }
    let name = "tcp_monitor_hint_info";
    let help = "What counter-checks of a target that is down point at.";
    page.family(name, Kind::Gauge, help)?;
    for (row, explanation) in &explained {
        if let Some(hint) = explanation.hint {
            page.sample(name, &(labels(row), [("hint", hint.as_str())]), true);
            page.flush_if_full()?;
        }
    }
    Ok(())
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

fn durations(
    rows: &Snapshot,
    histogram: &Histogram,
    start: f64,
    page: &mut Page<'_>,
) -> io::Result<()> {
    let name = "tcp_monitor_probe_duration_seconds";
    let help = "Durations of the successful probes.";
    let bounds = match (histogram, page.format()) {
        (Histogram::Native, Format::Protobuf) => return native_durations(rows, page),
        (Histogram::Native | Histogram::Off, _) => None,
        (Histogram::Classic(bounds), _) => Some(bounds),
    };
    let kind = if bounds.is_some() { Kind::Histogram } else { Kind::Summary };
    let mut cumulative = Vec::new();
    page.family(name, kind, help)?;
    for row in rows.iter() {
        let state = row.state();
        let (sum, count) = (state.durations.sum, state.outcomes[Outcome::Success.index()]);
        let buckets = bounds.map_or(Buckets::None, |bounds| {
            let counts = state.durations.counts.iter().copied().chain(std::iter::repeat(0));
            cumulative.clear();
            let mut total = 0;
            cumulative.extend(bounds.iter().zip(counts).map(|(&bound, count)| {
                total += u64::from(count);
                (bound, total)
            }));
            Buckets::Classic(&cumulative)
        });
        drop(state);
        let distribution = Distribution { created: Some(start), sum, count, buckets };
        page.distribution(name, &labels(row), &distribution);
        page.flush_if_full()?;
    }
    Ok(())
}

/// What is known of the durations of one target, its counts in a pool that many share.
struct NativeDurations<'a> {
    row: &'a Row,
    sum: f64,
    count: u64,
    first: i32,
    counts: std::ops::Range<usize>,
}

/// A native histogram is one series; so that sum and count are there whatever was negotiated,
/// they are families of their own beside it. All three say the same of one moment, since scrapers
/// that do not take native histograms read sum and count from both.
fn native_durations(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    const SUM: &str = "tcp_monitor_probe_duration_seconds_sum";
    const COUNT: &str = "tcp_monitor_probe_duration_seconds_count";
    const HISTOGRAM: &str = "tcp_monitor_probe_duration_seconds";
    for rows in rows.chunks(256) {
        let mut pool = Vec::new();
        let copied: Vec<_> = rows.iter().map(|row| native_durations_of(row, &mut pool)).collect();
        page.family(SUM, Kind::Counter, "Seconds of the successful probes.")?;
        for target in &copied {
            page.sample(SUM, &labels(target.row), target.sum);
        }
        page.family(COUNT, Kind::Counter, "Successful probes.")?;
        for target in &copied {
            page.sample(COUNT, &labels(target.row), target.count);
        }
        page.family(HISTOGRAM, Kind::Histogram, "Durations of the successful probes.")?;
        for target in &copied {
            let counts = &pool[target.counts.clone()];
            let distribution = Distribution {
                created: None,
                sum: target.sum,
                // Buckets begin anew when they change; Prometheus refuses a count that is not theirs.
                count: counts.iter().copied().map(u64::from).sum(),
                buckets: Buckets::Native { schema: Durations::SCHEMA, first: target.first, counts },
            };
            page.distribution(HISTOGRAM, &labels(target.row), &distribution);
        }
        page.flush_if_full()?;
    }
    Ok(())
}

fn native_durations_of<'a>(row: &'a Row, pool: &mut Vec<u32>) -> NativeDurations<'a> {
    let state = row.state();
    let begin = pool.len();
    pool.extend_from_slice(&state.durations.counts);
    NativeDurations {
        row,
        sum: state.durations.sum,
        count: state.outcomes[Outcome::Success.index()],
        first: state.durations.first.into(),
        counts: begin..pool.len(),
    }
}

/// One value of a policy; `None` where it sets none.
type PolicyValue = fn(&Policy) -> Option<f64>;

/// What a policy says, as name, help and value.
const POLICY: [(&str, &str, PolicyValue); 6] = [
    ("interval_seconds", "Time between two scheduled probes.", |policy| {
        Some(policy.interval.as_secs_f64())
    }),
    ("timeout_seconds", "Bound of one probe.", |policy| Some(policy.timeout.as_secs_f64())),
    ("slow_seconds", "Successes slower than this are slow.", |policy| {
        policy.slow.map(|slow| slow.as_secs_f64())
    }),
    ("confirm_failures", "Failures in a row that take a target down.", |policy| {
        Some(policy.confirm.thresholds.failures.get().into())
    }),
    ("required_regions", "Regions that must hold a target down.", |policy| {
        Some(policy.confirm.regions.get().into())
    }),
    ("slo_objective_ratio", "Objective of availability.", |policy| policy.slo),
];

/// The same for the same values, in every process and version: the first half of a 64-bit FNV-1a.
struct PolicyId(u32);

impl PolicyId {
    fn of(policy: &Policy) -> Self {
        let values = POLICY.iter().map(|(_, _, value)| value(policy).unwrap_or(f64::NAN));
        let bytes = values.flat_map(f64::to_le_bytes);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // The upper half fits.
        Self(u32::try_from(hash >> 32).unwrap_or_default())
    }

    fn text(&self) -> [u8; 8] {
        std::array::from_fn(|digit| {
            b"0123456789abcdef"[(self.0 >> (28 - 4 * digit) & 0xf) as usize]
        })
    }
}

/// Policies that targets share, once each: fleets have few.
fn policies(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let mut policies = BTreeMap::new();
    let mut before: Option<&Arc<Policy>> = None;
    for row in rows.iter() {
        let policy = &row.target.monitor.policy;
        if before.is_none_or(|before| !Arc::ptr_eq(before, policy)) {
            policies.insert(PolicyId::of(policy).text(), &**policy);
        }
        before = Some(policy);
    }
    for (suffix, help, value) in POLICY {
        let name = format!("tcp_monitor_policy_{suffix}");
        page.family(&name, Kind::Gauge, help)?;
        for (id, policy) in &policies {
            if let (Some(value), Ok(id)) = (value(policy), std::str::from_utf8(id)) {
                page.sample(&name, &[("policy", id)], value);
            }
        }
    }
    page.flush_if_full()
}

fn groups(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
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

/// What can be derived or joined: series that most fleets need not store for every target.
fn full(rows: &Snapshot, page: &mut Page<'_>) -> io::Result<()> {
    let name = "tcp_monitor_consecutive_successes";
    let help = "Successes since the last failure; inconclusive probes neither raise nor clear it.";
    each(rows, page, (name, Kind::Gauge, help), |page, labels, state| {
        page.sample(name, &labels, state.health.consecutive_successes());
    })?;
    for (suffix, help, value) in POLICY {
        let name = format!("tcp_monitor_{suffix}");
        gauge(rows, page, &name, help, |row| value(&row.target.monitor.policy))?;
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
        text.extend_from_slice(labels(self.0).as_bytes());
        info_labels(&self.0.target, |name, value| label(text, name, value));
    }
}

/// The labels of a target's info series beside `monitor` and `target`: what everything that lists
/// targets says of them.
pub fn info_labels(target: &Target, mut each: impl FnMut(&str, &str)) {
    let Endpoint { address, service } = &**target;
    let monitor = &target.monitor;
    each("module", &monitor.module.name);
    each("host", &address.host.to_string());
    each("port", itoa::Buffer::new().format(address.port));
    if let Some(service) = service
        && !monitor.labels.contains_key("service")
    {
        each("service", service);
    }
    if let Some(group) = &monitor.group {
        each("group", &group.name);
        if let Some(role) = &group.role {
            each("role", role);
        }
    }
    if let Some(parent) = &monitor.depends_on {
        each("depends_on", parent);
    }
    for (name, value) in monitor.labels.iter() {
        each(name, value);
    }
    let id = PolicyId::of(&monitor.policy).text();
    each("policy", std::str::from_utf8(&id).unwrap_or_default());
}
