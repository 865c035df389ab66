//! Whoever is woken finds a page: every alert has a section, every section an alert.

use std::collections::BTreeSet;

use crate::rules;

#[test]
fn every_alert_links_to_its_section_of_the_runbook() {
    let runbook = rules::read("config/runbook.md");
    let sections: BTreeSet<&str> =
        runbook.lines().filter_map(|it| it.strip_prefix("## TcpMonitor")).collect();
    let files = rules::shipped();
    let mut alerts = BTreeSet::new();
    for rule in rules::all(&files) {
        let Some(alert) = &rule.alert else { continue };
        let url = rule.annotations.get("runbook_url").unwrap_or_else(|| panic!("{alert}"));
        let anchor = url.split_once("runbook.md#").expect("an anchor").1;
        assert_eq!(anchor, alert.to_lowercase(), "{alert}");
        alerts.insert(alert.strip_prefix("TcpMonitor").expect("one family of names"));
    }

    assert_eq!(sections, alerts);
}

#[test]
fn every_link_within_the_runbook_leads_somewhere() {
    let runbook = rules::read("config/runbook.md");
    // As GitHub makes anchors of headings: lower case, spaces to hyphens.
    let anchors: BTreeSet<String> = runbook
        .lines()
        .filter(|it| it.starts_with('#'))
        .map(|it| it.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-"))
        .collect();
    let links: Vec<&str> =
        runbook.split("](#").skip(1).filter_map(|it| it.split_once(')')).map(|it| it.0).collect();

    assert!(links.len() > 10);
    for link in links {
        assert!(anchors.contains(link), "no heading for the link `#{link}`");
    }
}

#[test]
fn every_section_says_what_it_means_and_what_to_do() {
    let runbook = rules::read("config/runbook.md");
    for section in runbook.split("\n## ").skip(1).filter(|it| it.starts_with("TcpMonitor")) {
        let name = section.lines().next().unwrap_or_default();
        assert!(section.contains("**What it means.**"), "{name}");
        assert!(section.contains("**What to do.**"), "{name}");
    }
}
