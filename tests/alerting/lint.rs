//! What a reviewer would ask of every rule, asked of its syntax tree.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::Labels;
use promql_parser::parser::{
    self, BinaryExpr, Call, Expr, LabelModifier, VectorMatchCardinality, VectorSelector, token,
};

use crate::rules::{self, Rule};

/// Series that the rules read and that no rule records.
const EXPOSED: [&str; 25] = [
    "ALERTS",
    "probe_duration_seconds",
    "probe_failure_info",
    "probe_ssl_earliest_cert_expiry",
    "probe_success",
    "probe_timeout_seconds",
    "tcp_monitor_failure_info",
    "tcp_monitor_group_min_up",
    "tcp_monitor_info",
    "tcp_monitor_near_timeout",
    "tcp_monitor_policy_confirm_failures",
    "tcp_monitor_policy_required_regions",
    "tcp_monitor_policy_slo_objective_ratio",
    "tcp_monitor_slow",
    "tcp_monitor_stale",
    "tcp_monitor_tls_cert_not_after_timestamp_seconds",
    "tcp_monitor_up",
    "tcp_probe_exporter_config_hash_info",
    "tcp_probe_exporter_config_last_reload_successful",
    "tcp_probe_exporter_probes_total",
    "tcp_probe_exporter_runs_skipped_total",
    "tcp_probe_exporter_start_lateness_seconds_bucket",
    "tcp_probe_exporter_targets",
    "tcp_probe_exporter_targets_refused_total",
    "up",
];

/// The labels that tell series of a recorded name apart, by the first part of that name.
fn level(name: &str) -> Option<&'static [&'static str]> {
    Some(match name.split_once(':')?.0 {
        "instance_target" => &["region", "monitor", "target", "job", "instance"],
        "region_target" => &["region", "monitor", "target"],
        "target" => &["monitor", "target"],
        "group" => &["group"],
        "host" => &["host"],
        "region" => &["region"],
        "rules" => &[],
        _ => return None,
    })
}

/// What was found wrong, one line each.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn check(&mut self, holds: bool, place: &str, message: &str) {
        if !holds {
            self.0.push(format!("{place}: {message}"));
        }
    }
}

fn parse(rule: &Rule) -> Expr {
    parser::parse(&rule.expr).unwrap_or_else(|err| panic!("{}: {err}", rule.name()))
}

/// The expressions directly below this one.
fn children(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Aggregate(it) => it.param.iter().chain([&it.expr]).map(AsRef::as_ref).collect(),
        Expr::Unary(it) => vec![&it.expr],
        Expr::Binary(it) => vec![&it.lhs, &it.rhs],
        Expr::Paren(it) => vec![&it.expr],
        Expr::Subquery(it) => vec![&it.expr],
        Expr::Call(it) => it.args.args.iter().map(AsRef::as_ref).collect(),
        Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::Extension(_) => vec![],
    }
}

/// Calls `visit` for an expression, with the function it is an argument of, and all below it.
fn walk<'a>(expr: &'a Expr, within: &'a str, visit: &mut impl FnMut(&'a Expr, &'a str)) {
    visit(expr, within);
    let within = match expr {
        Expr::Call(call) => call.func.name,
        _ => within,
    };
    for child in children(expr) {
        walk(child, within, visit);
    }
}

fn selector(expr: &Expr) -> Option<&VectorSelector> {
    match expr {
        Expr::VectorSelector(it) => Some(it),
        Expr::MatrixSelector(it) => Some(&it.vs),
        _ => None,
    }
}

fn is_vector(expr: &Expr) -> bool {
    expr.value_type() == parser::value::ValueType::Vector
}

fn is_set_operator(binary: &BinaryExpr) -> bool {
    let op = binary.op.id();
    op == token::T_LAND || op == token::T_LOR || op == token::T_LUNLESS
}

/// Whether no two series of `expr` agree in `labels`, by construction.
fn unique(expr: &Expr, labels: &[&str]) -> bool {
    let within = |some: &[&str]| some.iter().all(|it| labels.contains(it));
    let named = |some: &Labels| some.labels.iter().all(|it| labels.contains(&it.as_str()));
    match expr {
        Expr::Aggregate(it) => match &it.modifier {
            Some(LabelModifier::Include(by)) => {
                named(by) && it.op.id() != token::T_TOPK && it.op.id() != token::T_BOTTOMK
            }
            None => true,
            Some(LabelModifier::Exclude(_)) => false,
        },
        Expr::Unary(it) => unique(&it.expr, labels),
        Expr::Paren(it) => unique(&it.expr, labels),
        Expr::Call(Call { args, .. }) => args.args.iter().any(|it| unique(it, labels)),
        Expr::VectorSelector(_) | Expr::MatrixSelector(_) => {
            selector(expr).and_then(|it| it.name.as_deref()).and_then(level).is_some_and(within)
        }
        Expr::Binary(binary) => {
            let (left, right) = (unique(&binary.lhs, labels), unique(&binary.rhs, labels));
            if binary.op.id() == token::T_LOR {
                left && right
            } else if is_set_operator(binary) {
                left
            } else if !is_vector(&binary.lhs) {
                right
            } else if !is_vector(&binary.rhs) {
                left
            } else {
                match binary.modifier.as_ref().map(|it| &it.card) {
                    Some(VectorMatchCardinality::ManyToOne(_)) => left,
                    Some(VectorMatchCardinality::OneToMany(_)) => right,
                    _ => left || right,
                }
            }
        }
        Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Subquery(_)
        | Expr::Extension(_) => false,
    }
}

#[test]
fn names_and_texts_keep_the_conventions() {
    let mut faults = Faults::default();
    for file in rules::shipped() {
        for group in &file.groups {
            let alerts = group.rules.iter().filter(|it| it.alert.is_some());
            faults.check(alerts.clone().count() <= 20, &group.name, "too many alerts in a group");
            faults.check(group.name.len() <= 40, &group.name, "name too long");
            for rule in alerts {
                let name = rule.name();
                let camel = name.chars().all(|it| it.is_ascii_alphanumeric());
                faults.check(
                    camel && name.starts_with("TcpMonitor") && name.len() <= 40,
                    name,
                    "must be `TcpMonitor…`, letters and digits, 40 at most",
                );
                let severity = rule.labels.get("severity").map_or("", String::as_str);
                let known =
                    ["critical", "warning", "info", "{{ or $labels.severity \"critical\" }}"];
                faults.check(known.contains(&severity), name, "severity must be one of three");
                let text = |key: &str| rule.annotations.get(key).map_or("", String::as_str);
                let summary = text("summary");
                faults.check(
                    summary.starts_with(char::is_uppercase)
                        && summary.ends_with('.')
                        && !summary.contains("{{"),
                    name,
                    "summary must be a sentence without a template",
                );
                faults.check(
                    text("description").contains("{{"),
                    name,
                    "description must say which",
                );
                for label in ["instance", "value"] {
                    faults.check(!rule.labels.contains_key(label), name, "label changes too often");
                }
                let volatile = rule.labels.values().any(|it| it.contains("$value"));
                faults.check(!volatile, name, "a value in a label is a new alert each time");
            }
        }
    }
    assert!(faults.0.is_empty(), "{:#?}", faults.0);
}

#[test]
fn every_series_is_exposed_or_recorded_in_time() {
    let mut faults = Faults::default();
    let files = rules::shipped();
    let recorded: BTreeSet<&str> =
        rules::all(&files).filter_map(|it| it.record.as_deref()).collect();
    let mut used = BTreeSet::new();
    for group in files.iter().flat_map(|it| &it.groups) {
        let here: BTreeMap<&str, usize> = group
            .rules
            .iter()
            .enumerate()
            .filter_map(|(index, it)| Some((it.record.as_deref()?, index)))
            .collect();
        for (index, rule) in group.rules.iter().enumerate() {
            let expr = parse(rule);
            walk(&expr, "", &mut |it, within| {
                let Some(name) = selector(it).and_then(|it| it.name.as_deref()) else { return };
                used.insert(name.to_owned());
                let known = recorded.contains(name) || EXPOSED.contains(&name);
                faults.check(known, rule.name(), &format!("nothing exposes `{name}`"));
                // A rule further down is read as it was at the last evaluation, which must be
                // said; that a rule reads itself so is plain.
                let later = here.get(name).is_some_and(|&it| it > index);
                faults.check(
                    !later || within == "last_over_time",
                    rule.name(),
                    &format!("`{name}` is recorded further down"),
                );
            });
        }
    }
    for name in EXPOSED {
        faults.check(used.contains(name), name, "no rule reads it any more");
    }
    assert!(faults.0.is_empty(), "{:#?}", faults.0);
}

#[test]
fn counters_are_read_as_rates_and_gauges_are_not() {
    let mut faults = Faults::default();
    let files = rules::shipped();
    for rule in rules::all(&files) {
        let expr = parse(rule);
        walk(&expr, "", &mut |it, within| {
            let Some(name) = selector(it).and_then(|it| it.name.as_deref()) else { return };
            let counter =
                ["_total", "_bucket", "_sum", "_count"].iter().any(|it| name.ends_with(it));
            let rate = ["rate", "increase"].contains(&within);
            faults.check(counter == rate, rule.name(), &format!("{within}(`{name}`)"));
            faults.check(within != "irate", rule.name(), "irate sees two samples only");
        });
    }
    assert!(faults.0.is_empty(), "{:#?}", faults.0);
}

#[test]
fn no_disagreement_between_exporters_can_break_a_join() {
    let mut faults = Faults::default();
    let mut joins = 0;
    let files = rules::shipped();
    for rule in rules::all(&files) {
        let expr = parse(rule);
        walk(&expr, "", &mut |it, _| {
            let Expr::Binary(binary) = it else { return };
            let Some(modifier) = &binary.modifier else { return };
            let Some(LabelModifier::Include(on)) = &modifier.matching else { return };
            if is_set_operator(binary) {
                return;
            }
            joins += 1;
            let on: Vec<&str> = on.labels.iter().map(String::as_str).collect();
            let (left, right) = match modifier.card {
                VectorMatchCardinality::ManyToOne(_) => (true, unique(&binary.rhs, &on)),
                VectorMatchCardinality::OneToMany(_) => (unique(&binary.lhs, &on), true),
                _ => (unique(&binary.lhs, &on), unique(&binary.rhs, &on)),
            };
            faults.check(left && right, rule.name(), &format!("not unique by {on:?}: {it}"));
        });
    }
    assert!(joins > 13, "{joins}");
    assert!(faults.0.is_empty(), "{:#?}", faults.0);
}

#[test]
fn what_a_rule_records_has_the_labels_its_name_says() {
    let mut faults = Faults::default();
    let files = rules::shipped();
    for rule in rules::all(&files).filter(|it| it.record.is_some()) {
        let level = level(rule.name());
        faults.check(level.is_some(), rule.name(), "unknown level");
        // `:labels` and `:info` carry more, and are unique by `topk`.
        let labelled = rule.name().ends_with(":labels") || rule.name().ends_with(":info");
        let unique = labelled || level.is_some_and(|it| unique(&parse(rule), it));
        faults.check(unique, rule.name(), "may hold two series of one target");
    }
    assert!(faults.0.is_empty(), "{:#?}", faults.0);
}
