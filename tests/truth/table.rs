//! The table: what was true, what was said.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ask::{self, Answer, Scheduled};
use crate::compare::{self, Blackbox};
use crate::process;
use crate::scene::Scene;
use crate::situation::{Situation, Truth};

/// What a wrong answer amounts to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Wrong {
    /// A target is blamed that is not at fault.
    Blamed,
    /// Success is reported by a monitor that could not see.
    Certified,
    /// A fault of the target is not reported.
    Missed,
    /// A target that is well is not called so.
    Unseen,
    /// The right side is named for the wrong reason, phase or place, or too late.
    Misnamed,
}

/// What is wrong with an answer, and the evidence.
type Fault = (Wrong, String);

/// One situation with one version of IP, in all ways of asking.
pub(crate) struct Row {
    name: &'static str,
    story: String,
    v6: bool,
    truth: Truth,
    expected: String,
    /// The way, what was said, what is wrong with it.
    said: Vec<(&'static str, String, Option<Fault>)>,
    place: Option<String>,
    /// What `blackbox_exporter` made of it, where it was asked.
    theirs: Option<&'static str>,
}

impl Row {
    /// Makes a world, breaks it, asks.
    pub(crate) fn of(situation: &Situation, v6: bool) -> Self {
        let mut scene = Scene::new(v6);
        (situation.prepare)(&mut scene);
        scene.start();
        // What happens to the exporter's own process, or only while it is asked, spares another.
        let is_shared = situation.weather.is_none() && !process::is_about(situation.name);
        let blackbox = is_shared.then(|| Blackbox::beside(&scene)).flatten();
        if situation.begins_well {
            ask::wait_well(&scene);
        }
        let before = ask::counted(&scene);
        if let Some(breaks) = &situation.breaks {
            breaks(&scene);
        }
        let (demand, terminal, schedule) = Self::answers(situation, &scene, before);
        let theirs = blackbox.and_then(|blackbox| blackbox.succeeds(&scene));
        let mut row = Self {
            name: situation.name,
            story: situation.story.clone(),
            v6,
            truth: situation.truth,
            expected: situation.expected.join(" or "),
            said: Vec::new(),
            place: None,
            theirs: theirs.map(|succeeds| compare::judged(situation.truth, succeeds)),
        };
        row.add(situation, &scene, "on demand", &demand);
        if let Some(answer) = &terminal {
            row.add(situation, &scene, "terminal", answer);
        }
        if let Some(scheduled) = &schedule {
            row.add(situation, &scene, "schedule", &scheduled.last);
            row.count(scheduled);
        }
        row
    }

    /// Asks in all ways at once, while the weather lasts.
    fn answers(
        situation: &Situation,
        scene: &Scene,
        before: [u64; 3],
    ) -> (Answer, Option<Answer>, Option<Scheduled>) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let weather = situation.weather.as_ref().map(|act| {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        act(scene);
                    }
                })
            });
            let demand = scope.spawn(|| ask::on_demand(situation, scene));
            let ways = situation.ways;
            let terminal = ways.terminal.then(|| scope.spawn(|| ask::terminal(situation, scene)));
            let schedule =
                ways.schedule.then(|| scope.spawn(|| ask::on_schedule(situation, scene, before)));
            let answers = (
                demand.join(),
                terminal.map(std::thread::ScopedJoinHandle::join).transpose(),
                schedule.map(std::thread::ScopedJoinHandle::join).transpose(),
            );
            done.store(true, Ordering::Relaxed);
            drop(weather.map(std::thread::ScopedJoinHandle::join));
            match answers {
                (Ok(demand), Ok(terminal), Ok(schedule)) => (demand, terminal, schedule),
                (Err(panic), ..) | (_, Err(panic), _) | (.., Err(panic)) => {
                    std::panic::resume_unwind(panic)
                }
            }
        })
    }

    /// Judges one answer.
    fn add(&mut self, situation: &Situation, scene: &Scene, way: &'static str, answer: &Answer) {
        let short = answer.short();
        let is_expected = situation.expected.contains(&short.as_str());
        let wrong = match (situation.truth, answer.outcome.as_str()) {
            _ if is_expected => None,
            (Truth::Nobody | Truth::Monitor, "failure") => Some(Wrong::Blamed),
            (Truth::Monitor, "success") => Some(Wrong::Certified),
            (Truth::Target, "success" | "inconclusive") => Some(Wrong::Missed),
            (Truth::Nobody, "inconclusive") => Some(Wrong::Unseen),
            _ => Some(Wrong::Misnamed),
        };
        let mut wrong = wrong.map(|wrong| (wrong, format!("said {short}: {}", answer.text)));
        if answer.place.is_some() {
            self.place.clone_from(&answer.place);
        }
        if wrong.is_none()
            && let (Some(place), Some(said)) = (situation.place, &answer.place)
            && place != said
        {
            wrong = Some((Wrong::Misnamed, format!("place {said}, not {place}")));
        }
        if wrong.is_none()
            && let Some(check) = &situation.check
            && let Err(error) = check(scene, answer)
        {
            wrong = Some((Wrong::Misnamed, format!("{error}: {}", answer.text)));
        }
        self.said.push((way, short, wrong));
    }

    /// Judges what the schedule counted on the way.
    fn count(&mut self, scheduled: &Scheduled) {
        let Some((_, _, wrong @ None)) = self.said.last_mut() else { return };
        let Scheduled { failures, successes, .. } = *scheduled;
        if self.truth != Truth::Target && failures > 0 {
            *wrong = Some((Wrong::Blamed, format!("{failures} failures counted on the way")));
        }
        // One probe may have ended before the world broke.
        if self.truth == Truth::Monitor && successes > 1 && !self.expected.contains("success") {
            *wrong = Some((Wrong::Certified, format!("{successes} successes on the way")));
        }
    }

    /// Whether every way said what is true.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let wrong: Vec<String> = self
            .said
            .iter()
            .filter_map(|(way, _, wrong)| {
                let (wrong, why) = wrong.as_ref()?;
                Some(format!("{way}: {wrong:?}, expected {}: {why}", self.expected))
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn said(&self, way: &str) -> String {
        match self.said.iter().find(|(said, ..)| *said == way) {
            None => "–".to_owned(),
            Some((_, short, None)) => short.clone(),
            Some((_, short, Some((wrong, _)))) => format!("**{short}** ({wrong:?})"),
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
        self.rows.sort_by_key(|row| (row.name, row.v6));
    }

    fn count(&self, wanted: Wrong) -> usize {
        let all = self.rows.iter().flat_map(|row| &row.said);
        all.filter(|(.., wrong)| wrong.as_ref().is_some_and(|(wrong, _)| *wrong == wanted)).count()
    }

    /// No target blamed wrongly, none certified while cut off, no outage missed.
    pub(crate) fn holds(&self) -> bool {
        [Wrong::Blamed, Wrong::Certified, Wrong::Missed]
            .into_iter()
            .all(|wrong| self.count(wrong) == 0)
    }

    /// Writes it where the environment wants it.
    pub(crate) fn publish(&self) {
        if let Some(file) = std::env::var_os("TRUTH_TABLE") {
            std::fs::write(file, self.to_string()).expect("a file");
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from(
            "\n| situation | IP | at fault | expected | on demand | terminal | on schedule | place | blackbox_exporter |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let version = if row.v6 { 6 } else { 4 };
            let place = row.place.as_deref().unwrap_or("–");
            let theirs = row.theirs.unwrap_or("–");
            let [demand, terminal, schedule] =
                ["on demand", "terminal", "schedule"].map(|way| row.said(way));
            writeln!(
                text,
                "| {} ({}) | {version} | {} | {} | {demand} | {terminal} | {schedule} | {place} | {theirs} |",
                row.name,
                row.story,
                row.truth.as_str(),
                row.expected,
            )?;
        }
        let answers: usize = self.rows.iter().map(|row| row.said.len()).sum();
        let mut situations: Vec<_> = self.rows.iter().map(|row| row.name).collect();
        situations.dedup();
        f.write_str(&text)?;
        writeln!(
            f,
            "\n{} situations, {} rows, {answers} answers. Targets wrongly blamed: {}. \
             Certified while cut off: {}. Outages missed: {}. Healthy and not seen so: {}. \
             Right side, wrong name: {}.",
            situations.len(),
            self.rows.len(),
            self.count(Wrong::Blamed),
            self.count(Wrong::Certified),
            self.count(Wrong::Missed),
            self.count(Wrong::Unseen),
            self.count(Wrong::Misnamed),
        )?;
        let asked = self.rows.iter().filter_map(|row| row.theirs).count();
        if asked > 0 {
            let [right, blamed, certified, missed] = ["right", "blamed", "certified", "missed"]
                .map(|word| self.rows.iter().filter(|row| row.theirs == Some(word)).count());
            writeln!(
                f,
                "blackbox_exporter in {asked} of the rows: right {right}, targets wrongly blamed \
                 {blamed}, certified {certified}, missed {missed}."
            )?;
        }
        Ok(())
    }
}
