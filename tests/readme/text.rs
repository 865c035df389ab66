//! What README says, compared with what is there.

use std::fmt::Write as _;
use std::path::Path;

use tcp_probe_exporter::config::Config;
use tcp_probe_exporter::outcome::{Against, Reason};

/// A path below the directory of the package.
pub(crate) fn path(relative: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The text of README.
pub(crate) fn readme() -> String {
    std::fs::read_to_string(path("README.md")).expect("README.md")
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn marked<'a>(readme: &'a str, name: &str) -> &'a str {
    let rest = readme.split_once(&format!("<!-- {name} -->\n")).expect("opening mark").1;
    rest.split_once(&format!("<!-- /{name} -->")).expect("closing mark").0
}

#[test]
fn the_table_of_reasons_is_complete_and_says_the_same_as_the_program() {
    let mut expected =
        "| reason | against | what it means and where to look |\n|---|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let against = match reason.against() {
            Against::Target => "target",
            Against::Monitor => "monitor",
        };
        let _ = writeln!(expected, "| `{reason}` | {against} | {} |", reason.advice());
    }
    let readme = readme();
    let found = marked(&readme, "reasons");
    assert!(found == expected, "the table must read:\n{expected}");
    let counted = format!("| {} reasons |", Reason::ALL.len());
    assert!(readme.contains(&counted), "the comparison must say `{counted}`");
}

#[test]
fn the_table_of_presets_names_the_embedded_modules() {
    let readme = readme();
    let rows = marked(&readme, "presets").lines().skip(2);
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let mut found: Vec<&str> =
        cells.flat_map(|it| it.split(',')).map(|it| it.trim().trim_matches('`')).collect();
    found.sort_unstable();

    let config = Config::embedded();
    let mut expected: Vec<&str> = config.modules.keys().map(|it| &**it).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
