//! The three ways of asking: on demand, from the terminal, on schedule.

use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Metrics, wait_until};
use serde_json::Value;

use crate::EXPORTER;
use crate::scene::Scene;
use crate::situation::{Situation, Truth};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// A probe that this machine, busy with everything else, could not carry out is asked for again.
const ATTEMPTS: u32 = 4;

/// What was said about the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// `success`, `failure`, `inconclusive`.
    pub(crate) outcome: String,
    pub(crate) reason: String,
    pub(crate) phase: String,
    /// Where the fault is, where that is told.
    pub(crate) place: Option<String>,
    /// All of the answer.
    pub(crate) text: String,
    pub(crate) rtt: Option<f64>,
    pub(crate) took: Duration,
}

impl Answer {
    /// `reason/phase`, or `success`.
    pub(crate) fn short(&self) -> String {
        match self.outcome.as_str() {
            "success" => "success".to_owned(),
            _ => format!("{}/{}", self.reason, self.phase),
        }
    }

    fn is_stall(&self) -> bool {
        self.reason == "local_stall"
    }

    fn of_json(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            outcome: text("outcome"),
            reason: text("reason"),
            phase: text("phase"),
            place: value["place"].as_str().map(str::to_owned),
            text: value.to_string(),
            rtt: value["rtt_seconds"].as_f64(),
            took: Duration::default(),
        }
    }
}

/// What a schedule did since the world broke.
#[derive(Clone, Debug)]
pub(crate) struct Scheduled {
    pub(crate) last: Answer,
    pub(crate) failures: u64,
    pub(crate) successes: u64,
}

/// Asks until the answer is about the world and not about a busy machine.
fn awake(situation: &Situation, mut ask: impl FnMut() -> Answer) -> Answer {
    let mut answer = ask();
    for _ in 1..ATTEMPTS {
        if situation.truth == Truth::Monitor || !answer.is_stall() {
            break;
        }
        answer = ask();
    }
    answer
}

/// `/probe`, as often as the situation wants; the first answer that is not right, or the last.
pub(crate) fn on_demand(situation: &Situation, scene: &Scene) -> Answer {
    let mut last = Answer::default();
    for _ in 0..situation.times {
        last = awake(situation, || once(scene));
        if !situation.expected.contains(&last.short().as_str()) {
            break;
        }
    }
    last
}

pub(crate) fn once(scene: &Scene) -> Answer {
    let begun = Instant::now();
    let path = format!("/probe?module=m&target={}", scene.target());
    let response = scene.exporter().get(&path);
    let (took, text) = (begun.elapsed(), response.text());
    if response.status == 200 {
        let page = Metrics::parse(&text);
        let (phase, reason) = page.failure().unwrap_or_default();
        let outcome = if page.is_success() { "success" } else { "failure" };
        return Answer {
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            phase: phase.to_owned(),
            place: page.label("probe_failure_info", "place").map(str::to_owned),
            rtt: page.value("probe_tcp_rtt_seconds", &[]),
            text,
            took,
        };
    }
    // `inconclusive: REASON (PHASE): …`
    let mut words = text.split([' ', '(', ')', ':']).filter(|word| !word.is_empty());
    let (outcome, reason, phase) = (words.next(), words.next(), words.next());
    let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
    let (outcome, reason, phase) = (word(outcome), word(reason), word(phase));
    Answer { outcome, reason, phase, text, took, ..Answer::default() }
}

/// `tcp_probe_exporter probe --json`.
pub(crate) fn terminal(situation: &Situation, scene: &Scene) -> Answer {
    awake(situation, || {
        let begun = Instant::now();
        let script = "mount --bind \"$0\" /etc && exec \"$@\"";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", scene.near.name(), "sh", "-c", script]);
        command.arg(scene.etc()).arg(EXPORTER).args(["probe", "--json", "--module=m"]);
        command.arg(format!("--config.file={}", scene.config_file().display()));
        command.arg(format!("--timeout={}ms", scene.timeout.as_millis())).arg(scene.target());
        command.envs(scene.environment.iter().cloned());
        let output = command.output().expect("the exporter");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value: Value = serde_json::from_str(text.trim()).unwrap_or_else(|err| {
            panic!("{err}: {text} {}", String::from_utf8_lossy(&output.stderr))
        });
        Answer { took: begun.elapsed(), ..Answer::of_json(&value) }
    })
}

/// The target in `/api/v1/targets`.
pub(crate) fn target(scene: &Scene) -> Value {
    let text = scene.exporter().get("/api/v1/targets?monitor=target").text();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value["data"]["targets"][0].clone()
}

fn counts(target: &Value) -> [u64; 3] {
    ["success", "failure", "inconclusive"]
        .map(|outcome| target["probes"][outcome].as_u64().unwrap_or_default())
}

/// Waits until everything that is scheduled was well once.
pub(crate) fn wait_well(scene: &Scene) {
    wait_for_all(scene, |target| counts(target)[0] > 0);
}

/// Waits until everything that is scheduled was probed once, whatever came of it.
pub(crate) fn wait_probed(scene: &Scene) {
    wait_for_all(scene, |target| counts(target).iter().sum::<u64>() > 0);
}

fn wait_for_all(scene: &Scene, is_ready: impl Fn(&Value) -> bool) {
    wait_until(LIMIT, || {
        let text = scene.exporter().get("/api/v1/targets").text();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let all = value["data"]["targets"].as_array().expect("targets");
        if !all.is_empty() && all.iter().all(&is_ready) {
            return Ok(());
        }
        Err(format!("not ready: {text}\n{}", scene.exporter().log()))
    });
}

/// What the schedule has counted so far.
pub(crate) fn counted(scene: &Scene) -> [u64; 3] {
    counts(&target(scene))
}

/// Waits for a probe on schedule that began after `before` was taken.
pub(crate) fn on_schedule(situation: &Situation, scene: &Scene, before: [u64; 3]) -> Scheduled {
    let sum = |counts: [u64; 3]| counts.iter().sum::<u64>();
    // The first may have begun before the world broke.
    let mut wanted = sum(before) + 1 + u64::from(situation.times.min(3));
    let mut attempts = ATTEMPTS;
    wait_until(LIMIT, || {
        let target = target(scene);
        let now = counts(&target);
        if sum(now) < wanted {
            return Err(format!("{now:?}, {before:?} before"));
        }
        let last = Answer::of_json(&target["last_probe"]);
        attempts = attempts.saturating_sub(1);
        if last.is_stall() && situation.truth != Truth::Monitor && attempts > 0 {
            wanted = sum(now) + 1;
            return Err("late".to_owned());
        }
        Ok(Scheduled { last, failures: now[1] - before[1], successes: now[0] - before[0] })
    })
}
