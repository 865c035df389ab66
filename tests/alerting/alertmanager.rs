//! Who is told: routes by `amtool`, advice by comparison with the exporter's own.

use std::process::Command;

use tcp_probe_exporter::outcome::Reason;

use crate::rules;

const DEFAULT: &str = "config/alertmanager/alertmanager.yml";
const ESCALATION: &str = "config/alertmanager/escalation.yml";

/// The receivers of an alert with these labels, in order.
#[track_caller]
fn check(config: &str, labels: &[&str], receivers: &str) {
    let output = Command::new("amtool")
        .args(["config", "routes", "test"])
        .arg(format!("--config.file={}", rules::path(config).display()))
        .args(labels)
        .output()
        .expect("amtool");
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(found, receivers, "{config} {labels:?}");
}

fn installed(test: &str) -> bool {
    harness::installed(test, &["amtool"])
}

#[test]
fn configurations_are_valid() {
    if !installed("configurations_are_valid") {
        return;
    }
    for config in [DEFAULT, ESCALATION] {
        harness::process::run(&["amtool", "check-config", &rules::path(config).to_string_lossy()]);
    }
}

#[test]
fn routes_lead_to_those_who_can_act() {
    if !installed("routes_lead_to_those_who_can_act") {
        return;
    }
    let down = "alertname=TcpMonitorTargetDown";
    let (dba, critical) = ("team=dba", "severity=critical");
    for config in [DEFAULT, ESCALATION] {
        let first = if config == DEFAULT { "database-critical" } else { "database-slack" };
        let steps = if config == DEFAULT {
            ["nobody", "nobody"]
        } else {
            ["database-mail", "database-on-call"]
        };
        let host = "alertname=TcpMonitorHostDown";
        let prolonged = "alertname=TcpMonitorTargetDownProlonged";
        for (labels, receivers) in [
            (vec![down, dba, critical], first),
            (vec![host, dba, critical, "host=db"], first),
            (vec![down, dba, critical, "immediate=true"], "database-critical"),
            (vec![down, dba, critical, "maintenance=sunday-night"], "database-critical"),
            (vec![down, dba, "severity=warning"], "database-warning"),
            (vec![prolonged, dba, critical, "escalation=2"], steps[0]),
            (vec![prolonged, dba, critical, "escalation=3"], steps[1]),
            (vec![prolonged, "team=web", critical, "escalation=3"], "nobody"),
            (
                vec!["alertname=TcpMonitorGroupDown", dba, critical, "group=orders"],
                "database-critical",
            ),
            (
                vec!["alertname=TcpMonitorPrimaryDown", dba, critical, "group=orders"],
                "database-critical",
            ),
            (
                vec!["alertname=TcpMonitorGroupDegraded", dba, "severity=warning", "group=orders"],
                "database-warning",
            ),
            (vec!["alertname=TcpMonitorErrorBudgetBurn", dba, critical], "database-critical"),
            (
                vec!["alertname=TcpMonitorRegionalFailure", dba, "severity=warning"],
                "database-warning",
            ),
            (vec![down, "team=web", critical], "everybody"),
            (vec![down, critical], "everybody"),
            (
                vec!["alertname=TcpMonitorCannotLook", "team=monitoring", "severity=warning"],
                "monitoring-warning",
            ),
            (
                vec!["alertname=TcpMonitorAllRegionsSilent", "team=monitoring", critical],
                "monitoring-critical",
            ),
            (vec!["alertname=TcpMonitorParentDown", "severity=info"], "nobody"),
            (
                vec!["alertname=TcpMonitorWatchdog", "team=monitoring", "severity=info"],
                "dead-mans-switch",
            ),
        ] {
            check(config, &labels, receivers);
        }
    }
}

#[test]
fn escalation_differs_from_the_default_in_routes_and_receivers_only() {
    let section = |config: &str, from: &str, to: &str| {
        let text = rules::read(config);
        let start = text.find(from).unwrap_or_else(|| panic!("{from}"));
        let end = text[start..].find(to).map_or(text.len(), |it| start + it);
        text[start..end].to_owned()
    };
    for (from, to) in [("\nglobal:", "\nroute:"), ("\ninhibit_rules:", "\nreceivers:")] {
        assert_eq!(section(DEFAULT, from, to), section(ESCALATION, from, to));
    }
}

#[test]
fn messages_give_the_advice_of_the_exporter() {
    let template = rules::read("config/alertmanager/templates/tcp_monitor.tmpl");
    for reason in Reason::ALL {
        let line = format!("{{{{ if match \": {reason} \" . }}}}{reason}: {}\n", reason.advice());
        assert!(template.contains(&line), "the template lacks: {line}");
    }
    assert_eq!(template.matches("{{ if match ").count(), Reason::ALL.len());
}
