//! Stories of targets, one letter a minute, told in the series that exporters would expose.
//!
//! `u` up, `f` failed once and still held up, `d` down, `i` inconclusive, `s` stale (its scheduler hangs), `r` restarted (the
//! exporter reports the target and knows nothing of it yet), `.` silent, `c` cut off (silent, and Prometheus
//! does not learn that it is: no stale markers).

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Seconds between two samples, and between two evaluations.
pub(crate) const STEP: u64 = 30;

/// Samples a letter stands for.
const PER_MINUTE: usize = 2;

/// One test: series in, the value of expressions out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) name: String,
    series: Vec<Value>,
    checks: Vec<Value>,
    /// Series that targets share, by name and labels: their value, and in which minutes the
    /// exporter reports any of those targets.
    shared: BTreeMap<String, (f64, String)>,
}

/// A target and its policy. The labels are those of its info series.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) monitor: &'a str,
    pub(crate) labels: &'a str,
    pub(crate) interval: u32,
    pub(crate) timeout: u32,
    pub(crate) confirm: u32,
    pub(crate) required: usize,
    /// Objective of availability; `None` sets none.
    pub(crate) objective: Option<f64>,
    pub(crate) reason: &'a str,
}

impl Default for Target<'_> {
    fn default() -> Self {
        Self {
            monitor: "orders-db",
            labels: "team=\"dba\"",
            interval: 30,
            timeout: 5,
            confirm: 3,
            required: 2,
            objective: None,
            reason: "timeout",
        }
    }
}

impl Story {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds a series in promtool's notation, one value every step.
    pub(crate) fn series(&mut self, series: &str, values: &str) {
        self.series.push(json!({"series": series, "values": values}));
    }

    /// Adds a series whose value at each step comes from the letter of its minute; `None` is no
    /// sample, which a real Prometheus marks as stale.
    pub(crate) fn tell(
        &mut self,
        series: &str,
        letters: &str,
        mut value: impl FnMut(char, u64) -> Option<f64>,
    ) {
        let mut values = Vec::new();
        let mut present = false;
        for (minute, letter) in letters.chars().enumerate() {
            for part in 0..PER_MINUTE {
                let step = (minute * PER_MINUTE + part) as u64;
                if letter == 'c' {
                    values.push("_".to_owned());
                    continue;
                }
                let sample = value(letter, step * STEP);
                values.push(match sample {
                    Some(it) => it.to_string(),
                    None if present => "stale".to_owned(),
                    None => "_".to_owned(),
                });
                present = sample.is_some();
            }
        }
        self.series(series, &values.join(" "));
    }

    /// A target that the exporter of each region probes on schedule.
    pub(crate) fn scheduled(&mut self, target: &Target, regions: &[(&str, &str)]) {
        for (region, letters) in regions {
            self.scheduled_in(target, region, region, letters);
        }
    }

    /// The same in one region, by one of its exporters.
    #[expect(clippy::cast_precision_loss, reason = "a few regions")]
    pub(crate) fn scheduled_in(
        &mut self,
        target: &Target,
        region: &str,
        exporter: &str,
        letters: &str,
    ) {
        let Target { monitor, labels, interval, timeout, confirm, required, objective, reason } =
            target;
        let key = format!(
            "monitor=\"{monitor}\", target=\"{monitor}:1\", region=\"{region}\", \
             job=\"tcp-monitor\", instance=\"{exporter}:10115\""
        );
        self.share(
            &format!(
                "tcp_probe_exporter_targets{{region=\"{region}\", job=\"tcp-monitor\", \
                 instance=\"{exporter}:10115\"}}"
            ),
            letters,
            1.0,
        );
        let mut verdict = None;
        self.tell(&format!("tcp_monitor_up{{{key}}}"), letters, |letter, _| {
            match letter {
                'u' => verdict = Some(1.0),
                'd' => verdict = Some(0.0),
                'r' => verdict = None,
                _ => {}
            }
            verdict.filter(|_| letter != '.')
        });
        let (mut known, mut probed) = (false, 0);
        self.tell(&format!("tcp_monitor_stale{{{key}}}"), letters, |letter, now| {
            match letter {
                'u' | 'd' => (known, probed) = (true, now),
                'f' => probed = now,
                'r' => known = false,
                _ => {}
            }
            let old = now > probed + u64::from(3 * interval) + 60;
            (letter != '.' && (letter == 'i' || old || !known)).then_some(1.0)
        });
        let policy = format!("{interval}-{timeout}-{confirm}-{required}-{objective:?}");
        let policy = policy.replace(['(', ')'], "");
        let of_policy = format!(
            "policy=\"{policy}\", region=\"{region}\", job=\"tcp-monitor\", \
             instance=\"{exporter}:10115\""
        );
        for (name, value) in [
            ("interval_seconds", Some(f64::from(*interval))),
            ("timeout_seconds", Some(f64::from(*timeout))),
            ("confirm_failures", Some(f64::from(*confirm))),
            ("required_regions", Some(*required as f64)),
            ("slo_objective_ratio", *objective),
        ] {
            if let Some(value) = value {
                self.share(&format!("tcp_monitor_policy_{name}{{{of_policy}}}"), letters, value);
            }
        }
        let info = format!("tcp_monitor_info{{{key}, {labels}, policy=\"{policy}\"}}");
        self.constant(&info, letters, 1.0);
        for (wanted, reason) in [(['d', 'f'], *reason), (['i', 'i'], "local_stall")] {
            if letters.contains(wanted) {
                let series = format!(
                    "tcp_monitor_failure_info{{{key}, phase=\"connect\", reason=\"{reason}\"}}"
                );
                self.tell(&series, letters, |it, _| wanted.contains(&it).then_some(1.0));
            }
        }
    }

    /// A series of one value that is there in the minutes in which any of its targets is.
    fn share(&mut self, series: &str, letters: &str, value: f64) {
        let (_, known) = self.shared.remove(series).unwrap_or_default();
        let silent = std::iter::repeat('.');
        let length = known.len().max(letters.len());
        let both = known.chars().chain(silent.clone()).zip(letters.chars().chain(silent));
        let union = both.take(length).map(|(a, b)| if a == '.' { b } else { a }).collect();
        self.shared.insert(series.to_owned(), (value, union));
    }

    /// A target that Prometheus probes on scrape in each region; `i` and `.` are failed scrapes.
    pub(crate) fn on_scrape(&mut self, target: &Target, regions: &[(&str, &str)]) {
        let Target { monitor, labels, confirm, required, reason, .. } = target;
        for (region, letters) in regions {
            let key = format!(
                "monitor=\"{monitor}\", target=\"{monitor}:1\", region=\"{region}\", \
                 job=\"tcp-probe\", instance=\"{monitor}:1\", confirm_failures=\"{confirm}\", \
                 required_regions=\"{required}\", {labels}"
            );
            self.tell(&format!("up{{{key}}}"), letters, |letter, _| {
                Some(f64::from(u8::from(letter == 'u' || letter == 'd')))
            });
            self.tell(&format!("probe_success{{{key}}}"), letters, |letter, _| match letter {
                'u' => Some(1.0),
                'd' => Some(0.0),
                _ => None,
            });
            if letters.contains('d') {
                let series =
                    format!("probe_failure_info{{{key}, phase=\"connect\", reason=\"{reason}\"}}");
                self.tell(&series, letters, |letter, _| (letter == 'd').then_some(1.0));
            }
        }
    }

    /// A series of one value, absent while its exporter is silent.
    pub(crate) fn constant(&mut self, series: &str, letters: &str, value: f64) {
        self.tell(series, letters, |letter, _| (letter != '.').then_some(value));
    }

    /// At `minute`, `expr` must have exactly these series, in any order.
    pub(crate) fn expect(&mut self, expr: &str, minute: f64, expected: &[(String, f64)]) {
        let samples: Vec<Value> = expected
            .iter()
            .map(|(labels, value)| json!({"labels": labels, "value": value}))
            .collect();
        let seconds = (minute * 60.0).round();
        self.checks.push(
            json!({"expr": expr, "eval_time": format!("{seconds}s"), "exp_samples": samples}),
        );
    }

    /// At `minute`, of the alerts whose name matches `names`, exactly these of these monitors fire.
    pub(crate) fn firing(&mut self, minute: f64, names: &str, expected: &[(&str, &str)]) {
        self.firing_by("monitor", minute, names, expected);
    }

    /// The same for alerts that are told apart by another label: `region`, `group`, `host`.
    pub(crate) fn firing_by(
        &mut self,
        label: &str,
        minute: f64,
        names: &str,
        expected: &[(&str, &str)],
    ) {
        let mut expected: Vec<(String, f64)> = expected
            .iter()
            .map(|(alert, value)| match *value {
                "" => (format!("{{alertname=\"{alert}\"}}"), 1.0),
                value => (format!("{{alertname=\"{alert}\", {label}=\"{value}\"}}"), 1.0),
            })
            .collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        expected.dedup();
        let expr = format!(
            "group by (alertname, {label}) (ALERTS{{alertstate=\"firing\", alertname=~\"{names}\"}})"
        );
        self.expect(&expr, minute, &expected);
    }

    /// The test as promtool reads it.
    pub(crate) fn document(&self) -> Value {
        let mut whole = self.clone();
        for (series, (value, letters)) in &self.shared {
            whole.constant(series, letters, *value);
        }
        json!({
            "name": self.name,
            "interval": format!("{STEP}s"),
            "input_series": whole.series,
            "promql_expr_test": self.checks,
        })
    }
}
