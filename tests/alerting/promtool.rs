//! Unit tests of rules: written as data, run by `promtool test rules`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::rules::{self, FILES, RuleFile};
use crate::story::{STEP, Story};

/// A test file and the rules it is run with, in a directory of their own.
pub(crate) struct Run {
    directory: TempDir,
}

impl Run {
    /// Lays out the rules as shipped and one test file per story.
    pub(crate) fn new(stories: &[Story]) -> Self {
        let directory = TempDir::with_prefix("promtool-").expect("temporary directory");
        for (index, story) in stories.iter().enumerate() {
            let document = json!({
                "rule_files": FILES,
                "evaluation_interval": format!("{STEP}s"),
                "group_eval_order": group_order(),
                "tests": [story.document()],
            });
            let file = directory.path().join(format!("story{index:02}.test.yml"));
            std::fs::write(file, document.to_string()).expect("test file");
        }
        let this = Self { directory };
        this.write_rules(&rules::shipped());
        this
    }

    /// Replaces the rules; JSON is YAML too.
    pub(crate) fn write_rules(&self, files: &[RuleFile]) {
        for (name, file) in FILES.iter().zip(files) {
            let text = serde_json::to_string(file).expect("rules");
            std::fs::write(self.directory.path().join(name), text).expect("rule file");
        }
    }

    /// The same tests with other rules, in a directory of their own.
    pub(crate) fn copy_with(&self, files: &[RuleFile]) -> Self {
        let directory = TempDir::with_prefix("promtool-").expect("temporary directory");
        for test in self.tests() {
            let name = test.file_name().expect("a file");
            std::os::unix::fs::symlink(&test, directory.path().join(name)).expect("link");
        }
        let this = Self { directory };
        this.write_rules(files);
        this
    }

    /// Runs all of them and panics with what differs.
    #[track_caller]
    pub(crate) fn check(&self) {
        if let Err(text) = self.run() {
            panic!("{text}");
        }
    }

    /// Runs all of them; the error is what promtool said.
    pub(crate) fn run(&self) -> Result<(), String> {
        promtool(self.directory.path(), &self.tests())
    }

    fn tests(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.directory.path())
            .expect("own directory")
            .map(|it| it.expect("entry").path())
            .filter(|it| it.to_string_lossy().ends_with(".test.yml"))
            .collect();
        files.sort();
        files
    }
}

/// `promtool test rules` on these files; the error is what it said.
pub(crate) fn promtool(directory: &Path, files: &[PathBuf]) -> Result<(), String> {
    let output = Command::new("promtool")
        .args(["test", "rules"])
        .args(files)
        .current_dir(directory)
        .output()
        .expect("promtool");
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(differences(&text))
}

/// What promtool says, with the series that were both expected and found left out.
fn differences(text: &str) -> String {
    let series = |line: &str| -> Vec<String> {
        let list = line.split_once(':').map_or("", |it| it.1).trim().trim_end_matches(',');
        list.replace("E+00, {", "E+00\n{").lines().map(str::to_owned).collect()
    };
    let mut lines = Vec::new();
    let mut wanted = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("Unit Testing:") || trimmed == "SUCCESS" || trimmed.is_empty() {
            // Which story it is stands in its own name.
        } else if trimmed.starts_with("exp:") {
            wanted = series(line);
        } else if trimmed.starts_with("got:") {
            let got = series(line);
            lines.extend(
                wanted.iter().filter(|it| !got.contains(it)).map(|it| format!("  missing {it}")),
            );
            lines.extend(
                got.iter().filter(|it| !wanted.contains(it)).map(|it| format!("  too much {it}")),
            );
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// All groups in the order of the files: those of regions and quality read what state records.
fn group_order() -> Vec<String> {
    rules::shipped().into_iter().flat_map(|it| it.groups).map(|it| it.name).collect()
}

/// `promtool check rules` finds nothing to complain about.
#[test]
fn rules_are_valid() {
    if !harness::installed("rules_are_valid", &["promtool"]) {
        return;
    }
    for file in FILES {
        harness::process::run(&[
            "promtool",
            "check",
            "rules",
            "--lint=all",
            "--lint-fatal",
            &rules::path(&format!("config/prometheus/rules/{file}")).to_string_lossy(),
        ]);
    }
}

/// Every configuration that is shipped loads.
#[test]
fn configurations_are_valid() {
    if !harness::installed("configurations_are_valid", &["promtool"]) {
        return;
    }
    for file in ["prometheus.yml", "central.yml", "sharding.yml", "agent.yml"] {
        let path = rules::path(&format!("config/prometheus/{file}"));
        let path = path.to_string_lossy();
        let mut words = vec!["promtool", "check", "config"];
        if file == "agent.yml" {
            words.push("--agent");
        }
        words.push(&path);
        harness::process::run(&words);
    }
}

/// Another program that reads such files agrees that they are good.
#[test]
fn vmalert_loads_the_rules() {
    if !harness::installed("vmalert_loads_the_rules", &["vmalert"]) {
        return;
    }
    let rules = rules::path("config/prometheus/rules");
    let rule = format!("-rule={}/*.yml", rules.display());
    harness::process::run(&["vmalert", "-dryRun", &rule]);
}
