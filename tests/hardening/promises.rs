//! Every promise of SECURITY.md names the tests that show it, and they exist.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let (_, rest) = document.split_once("\n## What is promised\n").expect("the promises");
    let (promises, _) = rest.split_once("\n## ").expect("their end");
    let mut files = Vec::new();
    sources(&root.join("tests"), &mut files);
    sources(&root.join("src"), &mut files);
    let code: String =
        files.iter().map(|file| fs::read_to_string(file).expect("a source")).collect();
    let promises: Vec<&str> = promises
        .split("\n* ")
        .skip(1)
        .map(|promise| promise.split("\n\n").next().expect("a first part"))
        .collect();
    assert!(promises.len() >= 20, "{} promises", promises.len());
    for promise in promises {
        let tests = promise.rsplit_once("Tests:").map(|(_, tests)| tests);
        let tests = tests.unwrap_or_else(|| panic!("names no test: {promise}"));
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "names no test: {promise}");
        for name in names {
            let exists = code.contains(&format!("fn {name}("));
            assert!(exists, "`{name}`, which SECURITY.md names, is no test");
        }
    }
}
