//! What `probe` prints, as text and as JSON. Pure: no terminal, no clock.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::explanation::Explanation;
use crate::http::api;
use crate::outcome::{Outcome, Phase, ProbeResult, Reason};
use crate::path::{Path, Router};

/// Whether text may carry colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Colour {
    /// A person looks at it on a terminal.
    On,
    /// Anything else.
    Off,
}

impl Colour {
    fn paint(self, outcome: Outcome, text: &str) -> String {
        let code = match (self, outcome) {
            (Self::Off, _) => return text.to_owned(),
            (Self::On, Outcome::Success) => "32",
            (Self::On, Outcome::Failure(..)) => "31",
            (Self::On, Outcome::Inconclusive(..)) => "33",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// A number of things: `1 probe`, `2 probes`.
#[must_use]
pub fn counted<N: Copy + fmt::Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{ending}")
}

/// One probe in a few lines: what, its times, and on anything but a success why and, with
/// `advise`, what to do.
#[must_use]
pub fn lines(
    target: &str,
    width: usize,
    result: &ProbeResult,
    advise: bool,
    colour: Colour,
) -> String {
    let word = match result.outcome.cause() {
        None => "open".to_owned(),
        Some((reason, _)) => reason.to_string(),
    };
    let word = colour.paint(result.outcome, &format!("{word:<17}"));
    let mut text = format!("{target:<width$}  {word} {:>10}", Millis(result.duration).to_string());
    for phase in Phase::ALL {
        if let Some(time) = result.phases.of(phase) {
            let _ = write!(text, "  {phase} {}", Millis(time));
        }
    }
    if let Some(kernel) = result.kernel {
        if let Some(rtt) = kernel.rtt {
            let _ = write!(text, "  rtt {}", Millis(rtt));
        }
        if kernel.syn_retransmits > 0 {
            let again = counted(kernel.syn_retransmits, "SYN");
            let _ = write!(text, "  {again} sent again");
        }
    }
    if let Some(peer) = result.peer
        && target != peer.to_string()
    {
        let _ = write!(text, "  at {}", peer.ip());
    }
    text.push('\n');
    if let Some(version) = result.tls.as_ref().and_then(|details| details.version) {
        let _ = write!(text, "{:width$}  {version}", "");
        if let Some(leaf) = result.tls.as_ref().and_then(|details| details.leaf.as_ref()) {
            let until = jiff::Timestamp::from_second(leaf.not_after)
                .map_or_else(|_| leaf.not_after.to_string(), |date| date.to_string());
            let _ = write!(text, ", {} until {until}", leaf.subject);
        }
        text.push('\n');
    }
    if let Some((reason, phase)) = result.outcome.cause() {
        let _ = write!(text, "{:width$}  {} in {phase}", "", result.outcome.as_str());
        if let Some(detail) = &result.detail {
            let _ = write!(text, ": {detail}");
        }
        if let Some(offender) = result.icmp.and_then(|icmp| icmp.offender) {
            let _ = write!(text, " (said {offender})");
        }
        let _ = write!(text, "\n{:width$}  {}", "", reason.place());
        if advise {
            let _ = write!(text, ": {}", reason.advice());
        }
        text.push('\n');
    }
    text
}

/// The routers on the way to a target, a line each, and where the path ends.
#[must_use]
pub fn path(path: &Path) -> String {
    let mut text = String::new();
    for (index, hop) in path.hops.iter().enumerate() {
        let _ = match hop {
            Some(Router { address, round_trip }) => {
                let round_trip = Millis(*round_trip).to_string();
                writeln!(text, "{:>4}  {:<39} {round_trip:>10}", index + 1, address.to_string())
            }
            None => writeln!(text, "{:>4}  *", index + 1),
        };
    }
    let _ = writeln!(text, "      path {path}");
    text
}

/// The path, each counter-check on a line, and what they point at; nothing where nothing was asked.
#[must_use]
pub fn explanation(explanation: &Explanation) -> String {
    let mut text = explanation.path.as_deref().map(path).unwrap_or_default();
    for check in &explanation.checks {
        let _ = writeln!(text, "      {check}");
    }
    match &explanation.hint {
        Some(hint) => {
            let _ = writeln!(text, "      hint {}: {hint}", hint.as_str());
        }
        None if !explanation.checks.is_empty() => text.push_str("      no hint\n"),
        None => {}
    }
    text
}

/// One probe as a JSON object.
#[must_use]
pub fn object(
    target: &str,
    module: &str,
    result: &ProbeResult,
    explanation: &Explanation,
) -> Value {
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| {
        if !value.is_null() {
            object.insert(key.to_owned(), value);
        }
    };
    add("target", json!(target));
    add("module", json!(module));
    add("outcome", json!(result.outcome.as_str()));
    if let Some((reason, phase)) = result.outcome.cause() {
        add("reason", json!(reason.as_str()));
        add("phase", json!(phase.as_str()));
        add("place", json!(reason.place().as_str()));
        add("advice", json!(reason.advice()));
    }
    add("detail", json!(result.detail));
    add("address", json!(result.peer.map(|peer| peer.ip().to_string())));
    add("duration_seconds", json!(result.duration.as_secs_f64()));
    add("timeout_seconds", json!(result.timeout.as_secs_f64()));
    let phases: Map<String, Value> = Phase::ALL
        .into_iter()
        .filter_map(|phase| {
            Some((phase.to_string(), json!(result.phases.of(phase)?.as_secs_f64())))
        })
        .collect();
    add("phase_seconds", Value::Object(phases));
    if let Some(kernel) = result.kernel {
        add("rtt_seconds", json!(kernel.rtt.map(|rtt| rtt.as_secs_f64())));
        add("syn_retransmits", json!(kernel.syn_retransmits));
    }
    add("errno", json!(result.errno));
    if let Some(icmp) = result.icmp {
        let offender = icmp.offender.map(|offender| offender.to_string());
        add("icmp", json!({"type": icmp.kind, "code": icmp.code, "offender": offender}));
    }
    if let Some(tls) = &result.tls {
        let not_after = tls.leaf.as_ref().map(|leaf| leaf.not_after);
        let subject = tls.leaf.as_ref().map(|leaf| &leaf.subject);
        add("tls", json!({"version": tls.version, "subject": subject, "not_after": not_after}));
    }
    add("path", explanation.path.as_deref().map_or(Value::Null, api::path));
    if !explanation.checks.is_empty() {
        let mut found = api::explanation(explanation);
        add("counter_checks", found.remove("counter_checks").unwrap_or_default());
        add("hint", found.remove("hint").unwrap_or_default());
    }
    Value::Object(object)
}

/// What all probes of one target came to.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    outcomes: [u64; 3],
    reasons: BTreeMap<Reason, u64>,
    latencies: Latencies,
    syn_retransmits: u64,
}

#[derive(Clone, Debug, Default)]
struct Latencies {
    count: u32,
    sum: Duration,
    least: Duration,
    most: Duration,
}

impl Statistics {
    /// Takes one probe into account.
    pub fn add(&mut self, result: &ProbeResult) {
        self.outcomes[result.outcome.index()] += 1;
        if let Some((reason, _)) = result.outcome.cause() {
            *self.reasons.entry(reason).or_default() += 1;
        }
        self.syn_retransmits += result.kernel.map_or(0, |kernel| u64::from(kernel.syn_retransmits));
        if let Some(latency) = result.latency() {
            let all = &mut self.latencies;
            all.least = if all.count == 0 { latency } else { all.least.min(latency) };
            all.most = all.most.max(latency);
            all.sum += latency;
            all.count += 1;
        }
    }

    /// Takes the probes of another target into account.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        for (&reason, count) in &other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }

    /// Probes by reason, the most frequent first.
    #[must_use]
    pub fn reasons(&self) -> Vec<(Reason, u64)> {
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(&reason, &count)| (reason, count)).collect();
        reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        reasons
    }

    /// Probes by [`Outcome::index`].
    #[must_use]
    pub const fn outcomes(&self) -> [u64; 3] {
        self.outcomes
    }

    /// In the manner of ping.
    #[must_use]
    pub fn lines(&self, target: &str) -> String {
        let [open, failed, inconclusive] = self.outcomes;
        let total = open + failed + inconclusive;
        let conclusive = open + failed;
        let mut text =
            format!("--- {target}: {}, {open} open, {failed} failed", counted(total, "probe"));
        if inconclusive > 0 {
            let _ = write!(text, ", {inconclusive} inconclusive");
        }
        if let Some(percent) = (failed * 100).checked_div(conclusive) {
            let _ = write!(text, ", {percent}% failure");
        }
        for (reason, count) in self.reasons() {
            let _ = write!(text, ", {count} {reason}");
        }
        text.push('\n');
        let Latencies { count, sum, least, most } = self.latencies;
        if let Some(mean) = sum.checked_div(count) {
            let _ = write!(
                text,
                "    latency min/mean/max {}/{}/{}",
                Millis(least),
                Millis(mean),
                Millis(most)
            );
            if self.syn_retransmits > 0 {
                let _ = write!(text, ", {} sent again", counted(self.syn_retransmits, "SYN"));
            }
            text.push('\n');
        }
        text
    }
}

/// A duration in milliseconds, with digits enough to tell networks apart.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        // Three digits, wherever the point is.
        let digits = usize::from(millis < 10.0) + usize::from(millis < 100.0);
        write!(f, "{millis:.digits$} ms")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::explanation::{Change, CounterCheck, Hint};
    use crate::outcome::KernelView;
    use crate::path::PathEnd;

    fn success() -> ProbeResult {
        let mut result = ProbeResult::new(Outcome::Success, Duration::from_secs(5));
        result.duration = Duration::from_micros(1234);
        result.phases.resolve = Some(Duration::ZERO);
        result.phases.connect = Some(Duration::from_micros(1100));
        let rtt = Some(Duration::from_micros(930));
        result.kernel = Some(KernelView { rtt, syn_retransmits: 0 });
        result.peer = Some("192.0.2.1:22".parse().unwrap());
        result
    }

    fn refusal() -> ProbeResult {
        let outcome = Outcome::because(Reason::Refused, Phase::Connect);
        let mut result = ProbeResult::new(outcome, Duration::from_secs(5));
        result.duration = Duration::from_millis(12);
        result.detail = Some("connection refused".into());
        result
    }

    fn explained(path: Option<Path>) -> Explanation {
        Explanation { path: path.map(Arc::new), ..Explanation::default() }
    }

    #[test]
    fn an_explanation_says_what_was_tried_and_what_that_points_at() {
        let mut same = CounterCheck::new(Change::Nothing);
        same.note(None);
        let mut found = Explanation { checks: [same].into(), ..Explanation::default() };
        assert_eq!(explanation(&found), "      the same again: 0 of 1 answered\n      no hint\n");
        found.hint = Some(Hint::HostAnswersElsewhere(22));
        assert!(
            explanation(&found)
                .contains("hint host_answers_elsewhere: the host answers at port 22")
        );
        let object = object("192.0.2.1:443", "tcp_connect", &refusal(), &found);
        assert_eq!(object["hint"], "host_answers_elsewhere");
        assert_eq!(object["counter_checks"][0]["changed"], "nothing");
        assert_eq!(explanation(&Explanation::default()), "");
    }

    #[test]
    fn a_path_is_a_line_per_hop_and_where_it_ends() {
        let router = |last| Router {
            address: [10, 0, 0, last].into(),
            round_trip: Duration::from_micros(340),
        };
        let hops = vec![Some(router(1)), None, Some(router(3))];
        let found = Path::new("192.0.2.1:443".parse().unwrap(), hops, PathEnd::Silent);
        assert_eq!(
            path(&found),
            "   1  10.0.0.1                                   0.34 ms\n   2  *\n   \
             3  10.0.0.3                                   0.34 ms\n      \
             path stops after 10.0.0.3 (hop 3): nothing answers behind it\n"
        );
        let object = object("192.0.2.1:443", "tcp_connect", &refusal(), &explained(Some(found)));
        assert_eq!(
            object["path"],
            json!({
                "hops": [
                    {"hop": 1, "address": "10.0.0.1", "round_trip_seconds": 0.000_34},
                    {"hop": 2, "address": null, "round_trip_seconds": null},
                    {"hop": 3, "address": "10.0.0.3", "round_trip_seconds": 0.000_34},
                ],
                "end": "silent",
                "last_router": "10.0.0.3",
                "text": "stops after 10.0.0.3 (hop 3): nothing answers behind it",
            })
        );
    }

    #[test]
    fn a_success_is_one_line() {
        let expected = "db:22  open                 1.23 ms  resolve 0.00 ms  connect 1.10 ms  \
                        rtt 0.93 ms  at 192.0.2.1\n";
        assert_eq!(lines("db:22", 5, &success(), true, Colour::Off), expected);
    }

    #[test]
    fn a_failure_says_why_and_what_to_do() {
        let expected = format!(
            "db:22  refused              12.0 ms\n       failure in connect: connection refused\n       \
             host: {}\n",
            Reason::Refused.advice()
        );
        assert_eq!(lines("db:22", 5, &refusal(), true, Colour::Off), expected);
        let again = expected.replace(&format!(": {}", Reason::Refused.advice()), "");
        assert_eq!(lines("db:22", 5, &refusal(), false, Colour::Off), again);
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(lines("db:22", 5, &refusal(), true, Colour::On).contains("\u{1b}[31mrefused"));
    }

    #[test]
    fn json_has_everything_there_is_and_nothing_else() {
        let object = object("db:22", "tcp_connect", &refusal(), &explained(None));
        assert_eq!(object["reason"], "refused");
        assert_eq!(object["phase"], "connect");
        assert!(object.get("address").is_none());
        assert_eq!(object["duration_seconds"], 0.012);
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(
            [0_u64, 1, 2].map(|count| counted(count, "probe")),
            ["0 probes", "1 probe", "2 probes"]
        );
    }

    #[test]
    fn statistics_add_up() {
        let mut statistics = Statistics::default();
        for result in [success(), success(), refusal()] {
            statistics.add(&result);
        }
        let expected = "--- db:22: 3 probes, 2 open, 1 failed, 33% failure, 1 refused\n    \
                        latency min/mean/max 0.93 ms/0.93 ms/0.93 ms\n";
        assert_eq!(statistics.lines("db:22"), expected);
    }
}
