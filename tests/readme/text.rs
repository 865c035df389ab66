//! What README says, compared with what is there.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tcp_probe_exporter::outcome::{Against, Reason};

/// A path below the directory of the package.
pub(crate) fn path(relative: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The text of README.
pub(crate) fn readme() -> String {
    std::fs::read_to_string(path("README.md")).expect("README.md")
}

/// Bodies of the fenced blocks of one language, in order.
pub(crate) fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{language}\n");
    let pieces = readme.split(&fence).skip(1);
    pieces.filter_map(|it| it.split("```").next()).map(str::to_owned).collect()
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn marked<'a>(readme: &'a str, name: &str) -> &'a str {
    let rest = readme.split_once(&format!("<!-- {name} -->\n")).expect("opening mark").1;
    rest.split_once(&format!("<!-- /{name} -->")).expect("closing mark").0
}

#[test]
fn the_table_of_reasons_is_complete_and_says_the_same_as_the_program() {
    let mut expected =
        "| reason | against | place | what it means and where to look |\n|---|---|---|---|\n"
            .to_owned();
    for reason in Reason::ALL {
        let against = match reason.against() {
            Against::Target => "target",
            Against::Monitor => "monitor",
        };
        let place = reason.place();
        let _ = writeln!(expected, "| `{reason}` | {against} | {place} | {} |", reason.advice());
    }
    let readme = readme();
    let found = marked(&readme, "reasons");
    assert!(found == expected, "the table must read:\n{expected}");
    let counted = format!("| {} reasons, 8 places |", Reason::ALL.len());
    assert!(readme.contains(&counted), "the comparison must say `{counted}`");
}

/// The dashboards link a reason to its section of the runbook.
#[test]
fn the_runbook_has_a_section_for_every_reason() {
    let runbook = std::fs::read_to_string(path("config/runbook.md")).expect("runbook");
    let (_, reasons) = runbook.split_once("\n# Reasons\n").expect("a chapter on reasons");
    let mut sections = reasons.split("\n## ").skip(1);
    for reason in Reason::ALL {
        let section = sections.next().unwrap_or_default();
        let (name, body) = section.split_once("\n\n").unwrap_or_default();
        assert_eq!(name, reason.as_str(), "the sections keep the program's order");
        let said: Vec<&str> = body.split_whitespace().collect();
        let advice: Vec<&str> = reason.advice().split_whitespace().collect();
        assert!(said.starts_with(&advice), "`{reason}` must begin with: {}", reason.advice());
        assert!(said.len() > advice.len() + 5, "`{reason}` must say more than the program");
    }
    assert_eq!(sections.next(), None);
}

#[test]
fn every_file_that_readme_names_exists() {
    let roots = ["config/", "dashboards/", "tests/", "src/", ".ci/"];
    let top = ["CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile", "LICENSE"];
    let mut missing = Vec::new();
    let readme = readme();
    let words = readme.split(|it: char| it.is_whitespace() || "`(),=|;:\"<>".contains(it));
    for word in words.map(|it| it.trim_end_matches('.')) {
        let named = roots.iter().any(|it| word.starts_with(it)) || top.contains(&word);
        // A pattern names its directory.
        let file = word.split('*').next().unwrap_or_default();
        if named && !path(file).exists() {
            missing.push(word.to_owned());
        }
    }
    assert!(missing.is_empty(), "README names {missing:?}");
}

#[test]
fn the_example_of_a_configuration_is_good() {
    let examples = blocks("yaml");
    assert!(!examples.is_empty());
    for example in examples {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("example.yml");
        std::fs::write(&file, &example).expect("file");
        let output = Command::new(env!("CARGO_BIN_EXE_tcp_probe_exporter"))
            .arg(format!("--config.file={}", file.display()))
            .arg("--config.check")
            .output()
            .expect("the exporter starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{example}");
        assert!(!said.contains("orders-db"), "a warning: {said}");
    }
}
