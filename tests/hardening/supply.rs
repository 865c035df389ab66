//! What is built in: licences, sources, banned crates, a reason and a use for every dependency.
//!
//! The rules are those of `.ci/deny.toml`, checked here without any tool or network; advisories
//! need `cargo deny` or `cargo audit`, which the gate installs and runs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// The quoted words between `key = [` and `]`.
fn list(toml: &str, key: &str) -> Vec<String> {
    let start = toml.find(&format!("\n{key} = [")).expect("the list");
    let text = &toml[start..];
    let text = &text[..text.find("\n]").expect("its end")];
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn dependencies_are_what_they_may_be() {
    let rules = std::fs::read_to_string(root().join(".ci/deny.toml")).expect("the rules");
    let allowed = list(&rules, "allow");
    let banned: Vec<&str> =
        rules.split("crate = \"").skip(1).filter_map(|it| it.split('"').next()).collect();
    assert!(banned.len() >= 4 && allowed.len() >= 5, "{banned:?} {allowed:?}");
    let packages = packages();
    for package in &packages {
        let name = package["name"].as_str().expect("a name");
        let license = package["license"].as_str().unwrap_or_default();
        let fine = license.split(" AND ").all(|part| {
            part.trim_matches(['(', ')'])
                .split(" OR ")
                .flat_map(|it| it.split('/'))
                .any(|it| allowed.iter().any(|allowed| allowed == it.trim()))
        });
        assert!(fine, "{name}: licence `{license}`");
        assert!(!banned.contains(&name), "{name} is banned");
        let source = package["source"].as_str();
        assert!(source.is_none_or(|it| it.starts_with("registry+")), "{name}: {source:?}");
    }
    eprintln!("{} packages for Linux: licences, sources, bans", packages.len());
}

#[test]
fn every_dependency_has_a_reason_and_a_use() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let start = manifest.find("\n[dependencies]\n").expect("dependencies") + 16;
    let block = &manifest[start..];
    let block = &block[..block.find("\n[").expect("the next table")];
    let mut sources = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                sources.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
    }
    let mut reason = false;
    let mut count = 0;
    for line in block.lines() {
        match line.split_once(" = ") {
            Some((name, _)) if !line.starts_with('#') => {
                let name = name.replace('-', "_");
                assert!(reason, "`{name}` has no reason above it");
                assert!(sources.contains(&format!("{name}::")), "`{name}` is used nowhere");
                count += 1;
            }
            _ => reason = line.starts_with('#') || (reason && !line.is_empty()),
        }
    }
    assert!(count > 20, "{count}");
}
