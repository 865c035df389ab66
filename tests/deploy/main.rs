//! What is shipped to run the exporter somewhere: a unit, manifests, a compose file. None of them
//! can be started here; all of them can be read.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize as _;
use serde_yaml::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_tcp_probe_exporter");

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|err| panic!("{relative}: {err}"))
}

/// Every document of a YAML file.
fn documents(relative: &str) -> Vec<Value> {
    let text = read(relative);
    let read = |it| Value::deserialize(it).unwrap_or_else(|err| panic!("{relative}: {err}"));
    serde_yaml::Deserializer::from_str(&text).map(read).collect()
}

/// The value at a path such as `spec.template.spec.containers.0`.
#[track_caller]
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| {
        let found = match key.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(key),
        };
        found.unwrap_or_else(|| panic!("no `{key}` of `{path}` in {value:?}"))
    })
}

fn words(value: &Value) -> Vec<String> {
    let items = value.as_sequence().unwrap().iter();
    items.map(|it| it.as_str().unwrap().to_owned()).collect()
}

fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// The exporter takes these flags; `config` stands in for the file that is mounted elsewhere.
#[track_caller]
fn takes(flags: &[String], config: &str) {
    let flags = flags.iter().map(|it| match it.split_once('=') {
        Some(("--config.file", _)) => format!("--config.file={}", path(config).display()),
        Some(("--shard", _)) => "--shard=1".to_owned(),
        _ => it.clone(),
    });
    let output = Command::new(BINARY).args(flags).arg("--config.check").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_unit_is_understood_and_exposes_little() {
    if !harness::installed("the_unit_is_understood_and_exposes_little", &["systemd-analyze"]) {
        return;
    }
    let text = read("config/systemd/tcp_probe_exporter.service");
    let start = text.lines().find_map(|it| it.strip_prefix("ExecStart=")).unwrap();
    let flags: Vec<String> = start.split_whitespace().skip(1).map(str::to_owned).collect();
    takes(&flags, "config/try/exporter.yml");
    // The program is not installed here, which is no fault of the unit.
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("tcp_probe_exporter.service");
    std::fs::write(&unit, text.replace("/usr/local/bin/tcp_probe_exporter", BINARY)).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let complaints = said(&output);
    assert!(output.status.success(), "{complaints}");
    assert!(!complaints.contains("tcp_probe_exporter.service:"), "{complaints}");
    // Tenths of systemd's scale from 0 to 10; what is usual for a service without care is 9.6.
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15"])
        .arg(&unit)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_manifests_fit_each_other() {
    let config = &documents("config/kubernetes/configmap.yml")[0];
    let services = documents("config/kubernetes/service.yml");
    let policy = &documents("config/kubernetes/networkpolicy.yml")[0];
    let monitor = &documents("config/kubernetes/servicemonitor.yml")[0];
    let inner = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(inner.path(), at(config, "data").get("exporter.yml").unwrap().as_str().unwrap())
        .unwrap();
    for (file, service) in [("deployment", &services[0]), ("statefulset", &services[1])] {
        let workload = &documents(&format!("config/kubernetes/{file}.yml"))[0];
        let labels = at(workload, "spec.template.metadata.labels");
        assert_eq!(at(workload, "spec.selector.matchLabels"), labels, "{file}");
        assert_eq!(at(service, "spec.selector"), labels, "{file}: its service");
        for (selector, place) in [
            (at(policy, "spec.podSelector.matchLabels"), "policy"),
            (at(monitor, "spec.selector.matchLabels"), "monitor"),
        ] {
            for (key, value) in selector.as_mapping().unwrap() {
                assert_eq!(labels.get(key), Some(value), "{file}: {place}");
            }
        }
        let container = at(workload, "spec.template.spec.containers.0");
        let port = at(container, "ports.0");
        assert_eq!(at(port, "containerPort").as_u64(), Some(10115), "{file}");
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(at(container, &format!("{probe}.httpGet.port")), at(port, "name"), "{file}");
        }
        assert_eq!(at(service, "spec.ports.0.targetPort"), at(port, "name"), "{file}");
        assert_eq!(at(policy, "spec.ingress.0.ports.0.port"), at(port, "name"), "{file}");
        assert_eq!(
            at(monitor, "spec.endpoints.0.port"),
            at(service, "spec.ports.0.name"),
            "{file}"
        );
        for (key, value) in [("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
        {
            assert_eq!(at(container, "securityContext").get(key), Some(&value.into()), "{file}");
        }
        assert_eq!(
            at(workload, "spec.template.spec.securityContext.runAsNonRoot"),
            &Value::from(true),
            "{file}"
        );
        takes(&words(at(container, "args")), inner.path().to_str().unwrap());
        if file == "statefulset" {
            assert_eq!(at(workload, "spec.serviceName"), at(service, "metadata.name"));
            let shards =
                format!("--total-shards={}", at(workload, "spec.replicas").as_u64().unwrap());
            assert!(words(at(container, "args")).contains(&shards), "{shards}");
            assert_eq!(
                at(workload, "spec.template.spec.volumes.0.configMap.name"),
                at(config, "metadata.name")
            );
            let mounted = at(container, "volumeMounts.0.mountPath").as_str().unwrap();
            assert!(words(at(container, "args"))[0].contains(mounted), "{mounted}");
        }
    }
    let probe = &documents("config/kubernetes/probe.yml")[0];
    let url = at(probe, "spec.prober.url").as_str().unwrap();
    let name = at(&services[0], "metadata.name").as_str().unwrap();
    assert_eq!(url, format!("{name}:10115"));
}

#[test]
fn the_stack_finds_what_it_mounts() {
    let compose = &documents("config/compose.yml")[0];
    let mut mounts = Vec::new();
    for (name, service) in at(compose, "services").as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        for volume in service.get("volumes").map(words).unwrap_or_default() {
            let (from, to) = volume.split_once(':').unwrap();
            if from.starts_with('.') {
                assert!(path("config").join(from).exists(), "{name} mounts `{from}`");
            }
            mounts.push((name.to_owned(), to.trim_end_matches(":ro").to_owned()));
        }
        for word in service.get("command").map(words).unwrap_or_default() {
            if let Some(file) = word.strip_prefix("--config.file=") {
                assert!(mounts.contains(&(name.to_owned(), file.to_owned())), "{name}: {file}");
            }
        }
    }
    takes(&words(at(compose, "services.exporter.command")), "config/compose/exporter.yml");
    let provider = &documents("config/grafana/provisioning/dashboards/tcp_monitors.yml")[0];
    let directory = at(provider, "providers.0.options.path").as_str().unwrap().to_owned();
    assert!(mounts.contains(&("grafana".to_owned(), directory.clone())), "{directory}");
    let home =
        at(compose, "services.grafana.environment.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH");
    let home = home.as_str().unwrap().strip_prefix(&directory).unwrap();
    assert!(path(&format!("dashboards{home}")).exists(), "{home}");
}

#[test]
fn prometheus_and_alertmanager_take_their_files() {
    let test = "prometheus_and_alertmanager_take_their_files";
    if !harness::installed(test, &["promtool", "amtool"]) {
        return;
    }
    for (program, arguments, file) in [
        ("promtool", &["check", "config"][..], "config/try/prometheus.yml"),
        ("promtool", &["check", "config", "--syntax-only"], "config/compose/prometheus.yml"),
        ("amtool", &["check-config"], "config/try/alertmanager.yml"),
    ] {
        let output = Command::new(program).args(arguments).arg(path(file)).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Base images come from a registry, which a test must not need: what the file names is looked up.
#[test]
fn the_image_copies_what_exists_and_checks_its_health() {
    let text = read("Dockerfile");
    for line in text.lines().filter_map(|it| it.strip_prefix("COPY ")) {
        let files: Vec<&str> = line.split_whitespace().filter(|it| !it.starts_with("--")).collect();
        for file in &files[..files.len() - 1] {
            assert!(file.starts_with('/') || path(file).exists(), "`{file}` is copied");
        }
    }
    let user = text.lines().rfind(|it| it.starts_with("USER "));
    assert_eq!(user, Some("USER nonroot"));
    assert!(text.contains("CMD [\"/usr/local/bin/tcp_probe_exporter\", \"healthcheck\"]"));
}

/// What a change is judged by there is what it is judged by here.
#[test]
fn the_workflow_runs_the_gate_and_the_forms_can_be_filled_in() {
    let workflow = documents(".github/workflows/ci.yml").remove(0);
    let steps = at(&workflow, "jobs.gate.steps").as_sequence().unwrap();
    let runs: Vec<&str> = steps.iter().filter_map(|step| step.get("run")?.as_str()).collect();
    assert!(runs.contains(&".ci/run"), "{runs:?}");
    assert!(path(".ci/run").exists());
    // A skipped test is a failure there.
    assert_eq!(at(&workflow, "jobs.gate.env.CI"), "true");
    for form in ["bug", "idea"] {
        let form = documents(&format!(".github/ISSUE_TEMPLATE/{form}.yml")).remove(0);
        let fields = at(&form, "body").as_sequence().unwrap();
        let mut ids: Vec<&str> =
            fields.iter().map(|field| at(field, "id").as_str().unwrap()).collect();
        for field in fields {
            assert!(at(field, "attributes.label").is_string());
            let kind = at(field, "type").as_str().unwrap();
            assert!(["input", "textarea"].contains(&kind), "{kind}");
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), fields.len(), "an id is given twice");
    }
}
