//! The architecture as a test: who may import whom, and what must be absent where.
//!
//! It reads the source, so it sees what a reader sees. Tests inside the source may do anything.

#![expect(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom. A new line here is an architecture decision: say why in the commit
/// message. Modules only look at those above them, so the graph has no cycle.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // The vocabulary.
    ("secret", &[]),
    ("address", &[]),
    ("module", &["secret"]),
    ("outcome", &[]),
    ("evidence", &["module", "outcome"]),
    ("circumstances", &[]),
    ("diagnosis", &["circumstances", "evidence", "module", "outcome"]),
    ("path", &["outcome"]),
    ("explanation", &["outcome", "path"]),
    ("verdict", &["outcome"]),
    ("monitor", &["address", "module", "verdict"]),
    ("access", &["address"]),
    ("maintenance", &["monitor"]),
    // The edges.
    ("limits", &[]),
    ("files", &["limits"]),
    ("log", &["limits"]),
    ("telemetry", &["outcome"]),
    (
        "config",
        &[
            "address",
            "access",
            "files",
            "limits",
            "maintenance",
            "module",
            "monitor",
            "secret",
            "verdict",
        ],
    ),
    ("config_handle", &["config", "files", "limits", "telemetry"]),
    ("machine", &["circumstances", "evidence", "limits"]),
    (
        "prober",
        &[
            "limits",
            "address",
            "access",
            "circumstances",
            "diagnosis",
            "evidence",
            "files",
            "machine",
            "module",
            "outcome",
            "path",
            "secret",
        ],
    ),
    ("canaries", &[]),
    (
        "observer",
        &["access", "canaries", "config_handle", "diagnosis", "outcome", "prober", "telemetry"],
    ),
    // Memory and motion.
    ("store", &["explanation", "monitor", "outcome", "path", "verdict"]),
    // Beside the schedule: it may not be asked by what it explains.
    (
        "explainer",
        &[
            "access",
            "explanation",
            "limits",
            "monitor",
            "outcome",
            "path",
            "prober",
            "store",
            "telemetry",
            "verdict",
        ],
    ),
    (
        "scheduler",
        &[
            "limits",
            "address",
            "access",
            "diagnosis",
            "evidence",
            "explainer",
            "monitor",
            "observer",
            "outcome",
            "prober",
            "store",
            "telemetry",
            "verdict",
        ],
    ),
    ("schedule", &["config", "monitor", "scheduler", "store", "telemetry"]),
    // The surface.
    (
        "exposition",
        &["files", "maintenance", "monitor", "outcome", "store", "telemetry", "verdict"],
    ),
    (
        "http",
        &[
            "access",
            "address",
            "config",
            "diagnosis",
            "evidence",
            "explainer",
            "explanation",
            "exposition",
            "files",
            "config_handle",
            "limits",
            "log",
            "maintenance",
            "module",
            "monitor",
            "observer",
            "outcome",
            "path",
            "prober",
            "secret",
            "store",
            "telemetry",
            "verdict",
        ],
    ),
    // The process.
    ("settings", &["http", "log", "monitor"]),
    (
        "cli",
        &[
            "address",
            "config",
            "access",
            "diagnosis",
            "evidence",
            "explainer",
            "explanation",
            "http",
            "limits",
            "log",
            "module",
            "monitor",
            "outcome",
            "prober",
            "path",
            "secret",
            "settings",
        ],
    ),
];

/// Modules that decide and remember nothing of the world: no I/O, no clock, no log.
const PURE: &[&str] = &[
    "secret",
    "address",
    "module",
    "outcome",
    "path",
    "explanation",
    "evidence",
    "circumstances",
    "diagnosis",
    "verdict",
    "monitor",
    "access",
    "maintenance",
];
/// What gives the world away. The absence is the architecture.
const IMPURE: &[&str] = &[
    "tokio::",
    "hyper::",
    "tracing::",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "std::fs",
    "std::io",
    "TcpStream",
    "std::env",
    "std::process",
];

/// What only some places may know, and those places: prefixes of paths under `src`.
const ONLY: &[(&str, &[&str])] = &[
    // Commands and their words.
    ("clap::", &["cli", "main.rs"]),
    // Outgoing connections, and sockets to listen.
    ("Socket::new", &["prober/", "http/url.rs", "machine/link.rs"]),
    ("TcpStream::connect", &["prober/"]),
    ("UdpSocket", &["prober/"]),
    ("lookup_host", &["prober/"]),
    ("hickory_proto::", &["prober/"]),
    // Why a probe did not succeed is concluded on one page.
    ("Outcome::because(", &["diagnosis.rs", "exposition/"]),
    // Files: bounded, of a regular kind, on threads that may hang.
    ("fs::read(", &["files.rs"]),
    ("fs::read_to_string", &["files.rs"]),
    ("File::open", &["files.rs"]),
    ("OpenOptions", &["files.rs"]),
    // Shapes of files are not the shapes of values.
    ("Deserialize", &["config/", "http/web.rs", "http/tls.rs"]),
    // Metric names.
    ("prometheus_client::", &["exposition/", "exposition.rs", "telemetry.rs"]),
    ("# TYPE", &["exposition/", "exposition.rs"]),
    ("\"tcp_monitor_", &["exposition/", "exposition.rs"]),
    ("\"probe_success", &["exposition/", "exposition.rs"]),
    // HTTP.
    ("hyper::", &["http/", "http.rs"]),
    // The environment, and the end of the process.
    ("std::env::", &["main.rs", "cli.rs", "prober/tls/anchors.rs"]),
];

struct Source {
    /// Under `src`.
    path: String,
    /// Of the crate: `http` for `http/web.rs`.
    module: String,
    /// Without comments and tests.
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    let sources = found.into_iter().filter_map(|file| {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            return None;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text
            .lines()
            .take_while(|it| !it.starts_with("#[cfg(test)]"))
            .filter(|it| !it.trim_start().starts_with("//"))
            .collect();
        let module = path.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        Some(Source { path, module, code: code.join("\n") })
    });
    sources.collect()
}

/// The modules that a text names after `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|it| it.is_ascii_lowercase() || *it == '_').collect()
    };
    code.split("crate::").skip(1).map(word).filter(|it| !it.is_empty()).collect()
}

#[test]
fn modules_import_only_what_they_may() {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        if ["lib", "main"].contains(&source.module.as_str()) {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(module, _)| *module == source.module);
        let Some((_, allowed)) = allowed else {
            panic!("`{}` is not in the table: which layer is it in?", source.path);
        };
        for import in imports(&source.code) {
            assert!(
                import == source.module || allowed.contains(&import.as_str()),
                "`{}` imports `{import}`, which `{}` may not",
                source.path,
                source.module
            );
            seen.entry(source.module.clone()).or_default().insert(import);
        }
    }
    for (module, allowed) in MAY_IMPORT {
        for import in *allowed {
            assert!(
                seen.get(*module).is_some_and(|it| it.contains(*import)),
                "`{module}` may import `{import}` and does not: take the permission back"
            );
        }
    }
}

/// Where a `MAX_…` is no guard against others but part of what the configuration may say.
const OWN_WORDS: &[&str] = &[
    "address.rs",
    "cli/",
    "config/",
    "explainer",
    "module/",
    "monitor.rs",
    "path.rs",
    "prober/kernel.rs",
    "prober/resolve/server.rs",
];

#[test]
fn bounds_against_others_stand_in_one_place() {
    for source in sources() {
        let path = &source.path;
        if path == "limits.rs" || OWN_WORDS.iter().any(|own| path.starts_with(own)) {
            continue;
        }
        let bound = source.code.lines().find(|line| line.contains("const MAX_"));
        assert!(bound.is_none(), "`{path}`: {}: belongs into `limits.rs`", bound.unwrap_or(""));
    }
}

#[test]
fn the_graph_has_no_cycle() {
    let position = |module: &str| MAY_IMPORT.iter().position(|(it, _)| *it == module);
    for (index, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        for import in *allowed {
            let above = position(import).unwrap_or_else(|| panic!("no module `{import}`"));
            assert!(above < index, "`{module}` looks down at `{import}`");
        }
    }
}

/// The files of a room, by path without `.rs`, and those of the same room that each names. The
/// file that opens the room, `config.rs`, names what it hands on and is left out.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let name = |source: &Source| source.path.trim_end_matches(".rs").to_owned();
    let inner: Vec<&Source> = sources.iter().filter(|source| source.path.contains('/')).collect();
    let names: BTreeSet<String> = inner.iter().map(|source| name(source)).collect();
    let graph = inner.iter().map(|source| {
        let own = name(source);
        let room = source.path.split('/').next().unwrap();
        let looks_at = |other: &&String| {
            let inside = other.strip_prefix(&format!("{room}/")).unwrap_or_default();
            let path = inside.replace('/', "::");
            // A file below it is another file.
            let below = format!("{other}/");
            let code = names
                .iter()
                .filter(|name| name.starts_with(&below))
                .fold(source.code.clone(), |code, name| {
                    code.replace(&format!("crate::{}", name.replace('/', "::")), "")
                });
            !inside.is_empty() && **other != own && names_file(&code, room, &path)
        };
        (own.clone(), names.iter().filter(looks_at).cloned().collect())
    });
    graph.collect()
}

/// Whether a text says `use crate::room::path`, alone or in braces.
fn names_file(code: &str, room: &str, path: &str) -> bool {
    let start = format!("crate::{room}::");
    code.split(&start).skip(1).any(|rest| {
        let ends = |text: &str| {
            !text.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
        };
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split_once("};").map_or(list, |(list, _)| list);
                list.split([',', '{', '}'])
                    .map(str::trim)
                    .any(|item| item.strip_prefix(path).is_some_and(ends))
            }
            None => rest.strip_prefix(path).is_some_and(ends),
        }
    })
}

/// Who looks back at whom inside a room, to be opened: none may be added.
const LOOK_BACK: &[(&str, &str)] =
    &[("exposition/protobuf", "exposition/page"), ("prober/tls/recording", "prober/tls")];

#[test]
fn no_room_has_a_circle_inside() {
    let mut rooms = rooms();
    assert!(rooms["config/load"].contains("config/lint"), "{rooms:?}");
    for (file, back) in LOOK_BACK {
        let known = rooms.get_mut(*file).is_some_and(|named| named.remove(*back));
        assert!(known, "`{file}` does not look back at `{back}`: take it off the list");
    }
    for start in rooms.keys() {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut next: Vec<&String> = rooms[start].iter().collect();
        while let Some(file) = next.pop() {
            assert!(file != start, "`{start}` comes back to itself by {seen:?}");
            if seen.insert(file) {
                next.extend(&rooms[file]);
            }
        }
    }
}

#[test]
fn the_vocabulary_knows_nothing_of_the_world() {
    for source in sources().iter().filter(|it| PURE.contains(&it.module.as_str())) {
        for impurity in IMPURE {
            assert!(!source.code.contains(impurity), "`{}` knows `{impurity}`", source.path);
        }
    }
}

#[test]
fn some_things_are_known_in_one_place_only() {
    for source in sources() {
        for (thing, places) in ONLY {
            let allowed = places.iter().any(|it| source.path.starts_with(it));
            assert!(
                allowed || !source.code.contains(thing),
                "`{}` knows `{thing}`, which belongs to {places:?}",
                source.path
            );
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    for file in found.iter().filter(|it| !it.ends_with("tests.rs")) {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.starts_with("//! "), "`{}` begins without a word", file.display());
    }
}

/// Notes that must not be merged.
#[test]
fn nothing_is_left_to_fix_before_merging() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    for file in found {
        let text = fs::read_to_string(&file).unwrap();
        for note in ["FIXME", "XXX", "HACK"] {
            assert!(!text.contains(note), "`{}` has a {note}", file.display());
        }
    }
}
