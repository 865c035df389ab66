//! A monitor and where it was written, for what is found out when its text is long gone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::read::{Report, YamlPath};
use crate::config::yaml::Node;
use crate::monitor::Monitor;

/// A monitor, and where it was written.
pub(super) struct Listed {
    pub(super) monitor: Monitor,
    pub(super) origin: Origin,
}

/// Where a monitor was written.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) file: Arc<PathBuf>,
    /// Where its entry begins.
    pub(super) line: u32,
    pub(super) position: Position,
    pub(super) keys: KeyLines,
}

/// Position in a list of monitors, written out only for a message.
#[derive(Clone, Copy)]
pub(super) enum Position {
    /// An entry of `monitors:`.
    Monitors(usize),
    /// An entry of a file that is nothing but a list.
    Item(usize),
    /// A target of an entry in the form of Prometheus.
    Target(usize, usize),
}

/// Lines of the keys that are judged late, counted from the line of the entry; 0 if unknown.
#[derive(Clone, Copy, Default)]
pub(super) struct KeyLines([u8; KeyLines::KEYS.len()]);

impl KeyLines {
    const KEYS: [&str; 8] =
        ["name", "host", "module", "timeout", "slow", "group", "depends_on", "confirm"];

    /// Looks the keys up in an entry.
    pub(super) fn of(entry: &YamlPath<'_>) -> Self {
        let mut lines = [0; Self::KEYS.len()];
        for pair in entry.node().into_iter().flat_map(Node::pairs) {
            if let Some(slot) = Self::KEYS.iter().position(|key| *key == pair.key) {
                let distance = pair.line.saturating_sub(entry.number());
                lines[slot] = u8::try_from(distance).unwrap_or(0);
            }
        }
        Self(lines)
    }

    fn distance(self, key: &str) -> u32 {
        Self::KEYS
            .iter()
            .zip(self.0)
            .find(|(known, _)| **known == key)
            .map_or(0, |(_, line)| line.into())
    }
}

impl Origin {
    /// Notes an error of one of the keys.
    pub(super) fn error(&self, key: &[&str], message: String, report: &mut Report) {
        self.note(key, report, |path, report| report.error(path, message));
    }

    /// Notes a warning of one of the keys.
    pub(super) fn warn(&self, key: &[&str], message: String, report: &mut Report) {
        self.note(key, report, |path, report| report.warn(path, message));
    }

    fn note(
        &self,
        key: &[&str],
        report: &mut Report,
        note: impl FnOnce(&YamlPath<'_>, &mut Report),
    ) {
        let here = std::mem::replace(&mut report.file, self.file.clone());
        let distance = key.first().map_or(0, |key| self.keys.distance(key));
        let root = YamlPath::line(self.line.saturating_add(distance));
        match self.position {
            Position::Monitors(index) => {
                below(&root.key("monitors").index(index), key, report, note);
            }
            Position::Item(index) => below(&root.index(index), key, report, note),
            Position::Target(group, index) => {
                note(&root.index(group).key("targets").index(index), report);
            }
        }
        report.file = here;
    }
}

fn below(
    path: &YamlPath<'_>,
    keys: &[&str],
    report: &mut Report,
    note: impl FnOnce(&YamlPath<'_>, &mut Report),
) {
    match keys {
        [] => note(path, report),
        [key, rest @ ..] => below(&path.key(key), rest, report, note),
    }
}

/// Where the first monitor of each name is.
pub(super) fn by_name(listed: &[Listed]) -> HashMap<Arc<str>, usize> {
    let mut names = HashMap::with_capacity(listed.len());
    for (index, listed) in listed.iter().enumerate() {
        names.entry(listed.monitor.name.clone()).or_insert(index);
    }
    names
}
