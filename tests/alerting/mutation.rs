//! The tests of the rules are tested: an operator of every rule, broken, turns a story red.
//!
//! `ALERTING_ALL_MUTANTS=1` breaks every operator of every rule, which takes some ten minutes;
//! without it one per rule, so that no rule is without a test.

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

/// Parts of names of recording rules, and of the stories that depend on them.
const HINTS: [(&str, &str); 8] = [
    ("instance_target:", "instance_target:"),
    ("_failing:", "error budgets"),
    ("slo_objective", "error budgets"),
    ("_cert_", "certificates"),
    ("duration_seconds", "near the timeout"),
    ("group:", "group:"),
    ("host:", "all ports of a host"),
    ("region:tcp", "a region is"),
];

/// A rule with one operator broken.
struct Mutant {
    rule: String,
    change: String,
    files: Vec<RuleFile>,
}

/// The mutants of the alerts, or of the recording rules.
fn mutants(alerts: bool) -> Vec<Mutant> {
    let all = std::env::var_os("ALERTING_ALL_MUTANTS").is_some();
    let shipped = rules::shipped();
    let mut mutants = Vec::new();
    for (file, groups) in shipped.iter().enumerate() {
        for (group, rules) in groups.groups.iter().enumerate() {
            for (index, rule) in rules.rules.iter().enumerate() {
                if rule.alert.is_some() != alerts {
                    continue;
                }
                let mut broken = broken(&flatten(&rule.expr));
                if !all {
                    broken.truncate(1);
                }
                for (change, expr) in broken {
                    let mut files = shipped.clone();
                    files[file].groups[group].rules[index].expr = expr;
                    mutants.push(Mutant { rule: rule.name().to_owned(), change, files });
                }
            }
        }
    }
    mutants
}

/// An expression with each of its operators broken; one that has none is emptied.
fn broken(expr: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (from, to) in REPLACEMENTS {
        for (nth, (at, _)) in expr.match_indices(from).enumerate() {
            let mut broken = expr.to_owned();
            broken.replace_range(at..at + from.len(), to);
            all.push((format!("{}#{nth}", from.trim()), broken));
        }
    }
    if all.is_empty() {
        all.push(("emptied".to_owned(), format!("({expr}) unless ({expr})")));
    }
    all
}

/// One line, single spaces: so that operators at line ends are found.
fn flatten(expr: &str) -> String {
    expr.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs the mutants on both cores; returns those that no story noticed.
fn survivors(mutants: &[Mutant], stories: &[Story]) -> Vec<String> {
    let mut runs: Vec<(String, Run)> = stories
        .iter()
        .map(|it| (it.document().to_string(), Run::new(std::slice::from_ref(it))))
        .collect();
    // Short ones are quick ones.
    runs.sort_by_key(|(text, _)| text.len());
    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            // The stories that name the alert, or tell of what the rule records, are the
            // likeliest to notice.
            let hint = HINTS.iter().find(|(part, _)| mutant.rule.contains(part));
            let name = hint.map_or(format!("\\\"{}\\\"", mutant.rule), |it| it.1.to_owned());
            let (named, others): (Vec<_>, Vec<_>) =
                runs.iter().partition(|(text, _)| text.contains(&name));
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

#[test]
fn every_broken_rule_is_noticed() {
    if !harness::installed("every_broken_rule_is_noticed", &["promtool"]) {
        return;
    }
    let start = Instant::now();
    let mut mutants = mutants(true);
    mutants.extend(self::mutants(false));
    let mut told = stories::all();
    told.push(stories::an_outage_of_a_day_is_a_ticket());
    told.push(truth_table::scheduled_table());
    let mut survivors = survivors(&mutants, &told);
    survivors.sort();
    say(&format!("{} broken rules in {:?}", mutants.len(), start.elapsed()));
    let known: Vec<String> =
        EQUIVALENT.iter().map(|(rule, change, _)| format!("{rule} {change}")).collect();
    survivors.retain(|it| !known.contains(it));
    assert!(survivors.is_empty(), "no test notices these: {survivors:#?}");
}
