//! From nodes to values: every problem is noted with its place, and reading goes on.
//!
//! `None` from a reader means that an error was noted; nobody notes it again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::yaml::{Entry, Kind, Node, excerpt};
use crate::config::{Diagnostic, duration};

/// Most problems that are worth telling at once; the rest is counted.
const MAX_PROBLEMS: usize = 200;

/// What was noticed so far.
#[derive(Default)]
pub(super) struct Report {
    /// The file that is read at the moment.
    pub(super) file: Arc<PathBuf>,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    untold_errors: usize,
    untold_warnings: usize,
}

impl Report {
    pub(super) fn new(path: &Path) -> Self {
        Self { file: Arc::new(path.to_owned()), ..Self::default() }
    }

    pub(super) fn error(&mut self, line: u32, place: &Place<'_>, message: impl Into<String>) {
        if self.errors.len() == MAX_PROBLEMS {
            self.untold_errors += 1;
            return;
        }
        self.errors.push(diagnostic(&self.file, line, place, message.into()));
    }

    pub(super) fn warn(&mut self, line: u32, place: &Place<'_>, message: impl Into<String>) {
        if self.warnings.len() == MAX_PROBLEMS {
            self.untold_warnings += 1;
            return;
        }
        self.warnings.push(diagnostic(&self.file, line, place, message.into()));
    }

    /// The known word that a misspelt one probably meant. Costs nothing once nobody would read it.
    pub(super) fn nearest<'w>(
        &self,
        text: &str,
        words: impl Iterator<Item = &'w str>,
    ) -> Option<&'w str> {
        if self.errors.len() == MAX_PROBLEMS { None } else { nearest(text, words) }
    }

    /// Ends the reading: warnings, or every error.
    pub(super) fn close(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let more = |list: &mut Vec<Diagnostic>, untold: usize, what: &str| {
            if untold > 0 {
                list.push(Diagnostic {
                    file: PathBuf::clone(&self.file),
                    line: None,
                    path: String::new(),
                    message: format!("and {untold} more {what}"),
                });
            }
        };
        self.errors.sort();
        self.warnings.sort();
        more(&mut self.errors, self.untold_errors, "errors");
        more(&mut self.warnings, self.untold_warnings, "warnings");
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.errors) }
    }
}

fn diagnostic(file: &Path, line: u32, place: &Place<'_>, message: String) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line: usize::try_from(line).ok().filter(|&it| it > 0),
        path: place.to_string(),
        message,
    }
}

/// Where in the tree: a list that grows down the stack, written out only for a message.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> Place<'p> {
    pub(super) const ROOT: Self = Self { parent: None, step: Step::Root };

    pub(super) const fn key(&'p self, key: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    pub(super) const fn index(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let first = self.parent.is_none_or(|it| matches!(it.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) if first => f.write_str(&excerpt(key)),
            Step::Key(key) => write!(f, ".{}", excerpt(key)),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A mapping whose keys are known; what nobody asked for is an error in the end.
pub(super) struct Fields<'tree> {
    entries: &'tree [Entry<'tree>],
    /// Line where the mapping begins.
    pub(super) line: u32,
    asked: Vec<&'static str>,
}

impl<'tree> Fields<'tree> {
    pub(super) fn open(node: &Node<'tree>, place: &Place<'_>, report: &mut Report) -> Option<Self> {
        let entries = entries(node, place, report)?;
        Some(Self { entries, line: node.line, asked: Vec::with_capacity(16) })
    }

    /// The value of a key, unless it is missing or null.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'tree Node<'tree>> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|it| it.key == key)?;
        (!entry.value.is_null()).then_some(&entry.value)
    }

    /// Reports keys that no [`Fields::take`] asked for.
    pub(super) fn close(self, place: &Place<'_>, report: &mut Report) {
        let known = |key: &str| self.asked.contains(&key);
        for entry in self.entries.iter().filter(|it| !known(it.key)) {
            let message = match report.nearest(entry.key, self.asked.iter().copied()) {
                Some(near) => format!("unknown key: did you mean `{near}`?"),
                None => format!("unknown key: write one of {}", listed(&self.asked)),
            };
            report.error(entry.line, &place.key(entry.key), message);
        }
    }
}

/// The entries of a mapping; null counts as an empty one.
pub(super) fn entries<'tree>(
    node: &Node<'tree>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<&'tree [Entry<'tree>]> {
    match &node.kind {
        Kind::Map(entries) => Some(entries),
        _ if node.is_null() => Some(&[]),
        Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) => {
            report.error(
                node.line,
                place,
                format!("{} is no mapping: write `key: value`", node.describe()),
            );
            None
        }
    }
}

/// The items of a list.
pub(super) fn items<'tree>(
    node: &Node<'tree>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<&'tree [Node<'tree>]> {
    match &node.kind {
        Kind::List(items) => Some(items),
        Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::Map(_) => {
            let message = format!("{} is no list: write `[one, two]`", node.describe());
            report.error(node.line, place, message);
            None
        }
    }
}

/// A text, taken literally whether it looks like a number, a boolean or neither.
pub(super) fn text<'tree>(
    node: &Node<'tree>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<&'tree str> {
    let message = match &node.kind {
        Kind::Plain(text) | Kind::Quoted(text) => return Some(text),
        Kind::Binary(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return Some(text),
            Err(_) => "binary data that is no UTF-8 cannot stand here".to_owned(),
        },
        Kind::List(_) | Kind::Map(_) => {
            format!("{} is no text: write a single value", node.describe())
        }
    };
    report.error(node.line, place, message);
    None
}

/// A text with something in it and no control characters.
pub(super) fn word<'tree>(
    node: &Node<'tree>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<&'tree str> {
    let text = text(node, place, report)?;
    if text.is_empty() {
        report.error(node.line, place, "the text is empty: fill it in, or remove the key");
        return None;
    }
    if text.chars().any(char::is_control) {
        let message = format!("{} holds a control character: remove it", node.describe());
        report.error(node.line, place, message);
        return None;
    }
    Some(text)
}

/// Bytes: of a text, or of `!!binary`.
pub(super) fn bytes(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Vec<u8>> {
    match &node.kind {
        Kind::Binary(bytes) => Some(bytes.to_vec()),
        Kind::Plain(_) | Kind::Quoted(_) | Kind::List(_) | Kind::Map(_) => {
            text(node, place, report).map(|it| it.as_bytes().to_vec())
        }
    }
}

/// A boolean, with the words of YAML 1.1.
pub(super) fn boolean(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<bool> {
    if let Kind::Plain(text) = &node.kind {
        match &**text {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
                return Some(true);
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off"
            | "OFF" => return Some(false),
            _ => {}
        }
    }
    let message = match &node.kind {
        Kind::Quoted(text) if matches!(&**text, "true" | "false") => {
            format!("the quotes make `{text}` a text: write it without them")
        }
        _ => format!("{} is no boolean: write `true` or `false`", node.describe()),
    };
    report.error(node.line, place, message);
    None
}

/// A whole number between two bounds, in decimal.
pub(super) fn number(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    least: u32,
    most: u32,
) -> Option<u32> {
    if let Kind::Plain(text) | Kind::Quoted(text) = &node.kind
        && let Some(number) = decimal(text)
        && (least..=most).contains(&number)
    {
        return Some(number);
    }
    let message = format!("{} is no whole number from {least} to {most}", node.describe());
    report.error(node.line, place, message);
    None
}

/// A number without sign, leading zeros (octal to some readers) or separators.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|it| it.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    if plain && !octal { text.parse().ok() } else { None }
}

/// A duration that may be negative, which some fields read as none.
pub(super) fn any_duration(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<duration::Signed> {
    let text = text(node, place, report)?;
    match duration::parse(text) {
        Ok(duration) => Some(duration),
        Err(message) => {
            report.error(node.line, place, message);
            None
        }
    }
}

/// A duration above zero.
pub(super) fn positive_duration(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<Duration> {
    let duration = any_duration(node, place, report)?.positive();
    if duration.is_none() {
        let message = format!("{} is no duration above zero", node.describe());
        report.error(node.line, place, message);
    }
    duration
}

/// One word of a closed set.
pub(super) fn choice<T: Copy>(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    choices: &[(&'static str, T)],
) -> Option<T> {
    let text = text(node, place, report)?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
    let message = format!("{} is unknown: write one of {}", node.describe(), listed(&words));
    report.error(node.line, place, message);
    None
}

/// Words in backticks, separated by commas.
pub(super) fn listed(words: &[&str]) -> String {
    words.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
}

fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    /// Longer texts are no typing mistakes.
    const LONGEST: usize = 64;
    /// Most words that are looked at; among more, one that is near says little.
    const MOST: usize = 2_000;
    if text.len() > LONGEST {
        return None;
    }
    let slack = (text.len() / 3).min(3);
    words
        .take(MOST)
        .filter(|it| it.len() <= LONGEST)
        .map(|it| (distance(text, it), it))
        .filter(|&(distance, _)| distance <= slack)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, it)| it)
}

/// Letters inserted, removed, replaced or swapped with their neighbour.
fn distance(one: &str, two: &str) -> usize {
    let one: Vec<char> = one.chars().flat_map(char::to_lowercase).collect();
    let two: Vec<char> = two.chars().flat_map(char::to_lowercase).collect();
    let mut earlier: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=two.len()).collect();
    for (row, &letter) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &other) in two.iter().enumerate() {
            let replaced = previous[column] + usize::from(letter != other);
            let mut best = replaced.min(previous[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && letter == two[column - 1] && one[row - 1] == other {
                best = best.min(earlier[column - 1] + 1);
            }
            current.push(best);
        }
        earlier = std::mem::replace(&mut previous, current);
    }
    previous[two.len()]
}
