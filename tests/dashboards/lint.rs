//! What a reviewer would ask of every dashboard, without anything running.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::board::{self, Board, legend_labels, list, shipped, text, with_all};

/// Units of Grafana that the dashboards use. Another one is either a typing error or a decision.
const UNITS: [&str; 6] = ["short", "none", "s", "percentunit", "ops", "bytes"];

/// Kinds of panel, all of them part of Grafana itself.
const KINDS: [&str; 6] = ["stat", "table", "timeseries", "state-timeline", "heatmap", "bargauge"];

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

#[test]
fn the_committed_files_are_what_the_script_writes() {
    if !harness::installed("the_committed_files_are_what_the_script_writes", &["python3"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = board::path("tests/dashboards/generate.py");
    let status = Command::new("python3").arg(script).arg(directory.path()).status().unwrap();
    assert!(status.success());
    let json = board::NAMES.map(|it| format!("{it}.json"));
    let pictures = board::NAMES.map(|it| format!("pictures/{it}.svg"));
    for name in json.into_iter().chain(pictures) {
        let written = std::fs::read_to_string(directory.path().join(&name)).unwrap();
        let committed =
            std::fs::read_to_string(board::path(&format!("dashboards/{name}"))).unwrap_or_default();
        assert!(written == committed, "{name} differs: run tests/dashboards/generate.py");
    }
}

#[test]
fn every_dashboard_keeps_the_conventions() {
    let mut faults = Faults::default();
    let mut uids = BTreeSet::new();
    for board in shipped() {
        let json = &board.json;
        let uid = text(json, "/uid").to_owned();
        faults.check(
            uid.starts_with("tcp-monitor-"),
            board.name,
            "uid must begin with `tcp-monitor-`",
        );
        faults.check(uids.insert(uid), board.name, "uid must be unique");
        faults.check(json["schemaVersion"] == 42, board.name, "schemaVersion must be 42");
        faults.check(json["editable"] == false, board.name, "must not be editable");
        faults.check(json.get("id").is_none(), board.name, "must have no id of a server");
        faults.check(
            json.get("__inputs").is_none(),
            board.name,
            "provisioning knows no `__inputs`",
        );
        let tags = list(json, "/tags");
        faults.check(tags.contains(&"tcp_probe_exporter".into()), board.name, "must have the tag");
        let links = list(json, "/links").len();
        faults.check(links == 2, board.name, "must link to the others and to the runbook");
        check_variables(&board, &mut faults);
        check_layout(&board, &mut faults);
        for panel in board.panels() {
            check_panel(&board, panel, &mut faults);
        }
        check_sources(json, board.name, &mut faults);
    }
    assert!(faults.0.is_empty(), "{}", faults.0.join("\n"));
}

fn check_variables(board: &Board, faults: &mut Faults) {
    let variables = list(&board.json, "/templating/list");
    faults.check(
        variables.first().is_some_and(|it| text(it, "/type") == "datasource"),
        board.name,
        "the first variable must choose the data source",
    );
    let whole = board.json.to_string();
    for variable in variables {
        let name = text(variable, "/name");
        let place = format!("{}: variable {name}", board.name);
        faults.check(!text(variable, "/label").is_empty(), &place, "needs a label");
        faults.check(!text(variable, "/description").is_empty(), &place, "needs a description");
        let used = whole.matches(&format!("${name}")).count()
            + whole.matches(&format!("${{{name}")).count();
        faults.check(used > 0, &place, "is used nowhere");
        if text(variable, "/type") == "query" {
            faults.check(variable["refresh"] == 2, &place, "must refresh with the time range");
        }
    }
}

/// Panels neither overlap nor leave the screen, and their ids are unique.
fn check_layout(board: &Board, faults: &mut Faults) {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in list(&board.json, "/panels") {
        let place = format!("{}: {}", board.name, text(panel, "/title"));
        let at = |key| panel.pointer(&format!("/gridPos/{key}")).and_then(Value::as_u64).unwrap();
        faults.check(ids.insert(panel["id"].as_u64()), &place, "id must be unique");
        faults.check(at("x") + at("w") <= 24, &place, "must fit 24 columns");
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                faults.check(taken.insert((x, y)), &place, "must not overlap another panel");
            }
        }
    }
}

fn check_panel(board: &Board, panel: &Value, faults: &mut Faults) {
    let place = format!("{}: {}", board.name, text(panel, "/title"));
    let kind = text(panel, "/type");
    faults.check(KINDS.contains(&kind), &place, "is of a kind that is not part of Grafana");
    faults.check(!text(panel, "/title").is_empty(), &place, "needs a title");
    let description = text(panel, "/description");
    faults.check(description.len() > 20, &place, "needs a description that says how to read it");
    faults.check(description.ends_with('.'), &place, "its description must be a sentence");
    let unit = text(panel, "/fieldConfig/defaults/unit");
    faults.check(UNITS.contains(&unit), &place, "needs a known unit");
    let queries = board.queries_of(panel);
    faults.check(!queries.is_empty(), &place, "asks nothing");
    for query in queries {
        faults.check(!query.legend.is_empty(), &place, "needs a legend");
        let ranged = ["timeseries", "state-timeline", "heatmap"].contains(&kind);
        faults.check(
            query.instant != ranged,
            &place,
            "an instant query where a range is shown, or the reverse",
        );
        // What a rate is taken over belongs to the viewer, not to the panel.
        for fixed in ["[1m]", "[5m]", "[1h]"] {
            faults.check(
                !query.expr.contains(fixed),
                &place,
                "has a span of its own: use a variable",
            );
        }
        for hard in ["job=\"", "instance=\"", "region=\""] {
            faults.check(
                !query.expr.contains(hard),
                &place,
                "names a job, an instance or a region",
            );
        }
        let names = board::metrics(&with_all(&query.expr));
        faults.check(!names.is_empty(), &place, "reads no series");
        if kind == "timeseries" || kind == "state-timeline" {
            let constant = legend_labels(&query.legend).is_empty();
            faults.check(query.legend != "__auto", &place, "the legend must be chosen");
            let grouped = query.expr.starts_with("max") || query.expr.contains("quantile");
            faults.check(!constant || grouped, &place, "many series would share one legend");
        }
    }
}

/// Everything that names a data source names the variable.
fn check_sources(value: &Value, place: &str, faults: &mut Faults) {
    match value {
        Value::Object(map) => {
            if let Some(source) = map.get("datasource") {
                faults.check(
                    text(source, "/uid") == "${datasource}"
                        && text(source, "/type") == "prometheus",
                    place,
                    &format!("`{source}` is no `${{datasource}}`"),
                );
            }
            map.values().for_each(|it| check_sources(it, place, faults));
        }
        Value::Array(items) => items.iter().for_each(|it| check_sources(it, place, faults)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn dashboards_and_alerts_link_to_pages_that_exist() {
    let boards = shipped();
    let uids: BTreeSet<&str> = boards.iter().map(|it| text(&it.json, "/uid")).collect();
    let mut places: Vec<(String, String)> =
        boards.iter().map(|it| (it.name.to_owned(), it.json.to_string())).collect();
    for entry in std::fs::read_dir(board::path("config/prometheus/rules")).unwrap() {
        let file = entry.unwrap().path();
        places.push((file.display().to_string(), std::fs::read_to_string(&file).unwrap()));
    }
    let mut links = 0;
    for (place, whole) in places {
        for rest in whole.split("/d/").skip(1) {
            let uid: String =
                rest.chars().take_while(|it| it.is_ascii_alphanumeric() || *it == '-').collect();
            assert!(uids.contains(uid.as_str()), "{place}: no dashboard `{uid}`");
            links += 1;
        }
    }
    assert!(links > 10, "only {links} links");
}
