//! The tests of the rules are tested: every operator of every rule, broken, turns a story red.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::promtool::Run;
use crate::rules::{self, RuleFile};
use crate::story::Story;
use crate::{stories, truth_table};

/// Operators and what they are replaced by.
const REPLACEMENTS: [(&str, &str); 12] = [
    (" unless ", " and "),
    (" and ", " unless "),
    (" or ", " and "),
    (" == ", " != "),
    (" != ", " == "),
    (" >= ", " < "),
    (" <= ", " > "),
    (" > ", " <= "),
    (" < ", " >= "),
    ("=~\"", "!~\""),
    ("!~\"", "=~\""),
    ("!=\"", "=\""),
];

/// Mutants that change nothing that can be seen, each with the reason.
const EQUIVALENT: &[(&str, &str, &str)] = &[];

/// A rule with one operator broken.
struct Mutant {
    rule: String,
    change: String,
    files: Vec<RuleFile>,
}

/// Every mutant of the alerts, or of the recording rules.
fn mutants(alerts: bool) -> Vec<Mutant> {
    let shipped = rules::shipped();
    let mut mutants = Vec::new();
    for (file, groups) in shipped.iter().enumerate() {
        for (group, rules) in groups.groups.iter().enumerate() {
            for (index, rule) in rules.rules.iter().enumerate() {
                if rule.alert.is_some() != alerts {
                    continue;
                }
                let expr = flatten(&rule.expr);
                for (from, to) in REPLACEMENTS {
                    for (nth, (at, _)) in expr.match_indices(from).enumerate() {
                        let mut broken = expr.clone();
                        broken.replace_range(at..at + from.len(), to);
                        let mut files = shipped.clone();
                        files[file].groups[group].rules[index].expr = broken;
                        mutants.push(Mutant {
                            rule: rule.name().to_owned(),
                            change: format!("{}#{nth}", from.trim()),
                            files,
                        });
                    }
                }
            }
        }
    }
    mutants
}

/// One line, single spaces: so that operators at line ends are found.
fn flatten(expr: &str) -> String {
    expr.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs the mutants on both cores; returns those that no story noticed.
fn survivors(mutants: &[Mutant], stories: &[Story]) -> Vec<String> {
    let runs: Vec<(String, Run)> = stories
        .iter()
        .map(|it| (it.document().to_string(), Run::new(std::slice::from_ref(it))))
        .collect();
    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            // The stories that name the alert are the quickest to notice.
            let (named, others): (Vec<_>, Vec<_>) =
                runs.iter().partition(|(text, _)| text.contains(&mutant.rule));
            let noticed = named
                .iter()
                .chain(&others)
                .any(|(_, run)| run.copy_with(&mutant.files).run().is_err());
            if !noticed {
                let survivor = format!("{} {}", mutant.rule, mutant.change);
                survivors.lock().unwrap_or_else(PoisonError::into_inner).push(survivor);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    survivors.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line past the test runner's capture, which would hide it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[track_caller]
fn check(alerts: bool) {
    let start = Instant::now();
    let mutants = mutants(alerts);
    let mut stories = stories::all();
    stories.push(truth_table::scheduled_table());
    let mut survivors = survivors(&mutants, &stories);
    survivors.sort();
    say(&format!("{} mutants in {:?}", mutants.len(), start.elapsed()));
    let known: Vec<String> =
        EQUIVALENT.iter().map(|(rule, change, _)| format!("{rule} {change}")).collect();
    survivors.retain(|it| !known.contains(it));
    assert!(survivors.is_empty(), "no test notices these: {survivors:#?}");
}

#[test]
fn every_broken_alert_is_noticed() {
    if harness::installed("every_broken_alert_is_noticed", &["promtool"]) {
        check(true);
    }
}

#[test]
fn every_broken_recording_rule_is_noticed() {
    if harness::installed("every_broken_recording_rule_is_noticed", &["promtool"]) {
        check(false);
    }
}
