//! From an entry of a file to the structs that mirror it: every fault is noted with its place,
//! and reading goes on without what was at fault.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path as FaultPath, Segment};
use serde_yaml::Value;

use crate::config::Diagnostic;
use crate::config::yaml::{Kind, Node, Pair, excerpt};

/// Most problems that are worth telling at once; the rest is counted.
const MAX_PROBLEMS: usize = 200;
/// Most faults of one entry that are looked for; each costs another reading of the entry.
const MAX_FAULTS: usize = 20;

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

    pub(super) fn error(&mut self, path: &YamlPath<'_>, message: impl Into<String>) {
        if self.errors.len() == MAX_PROBLEMS {
            self.untold_errors += 1;
            return;
        }
        self.errors.push(diagnostic(&self.file, path, message.into()));
    }

    pub(super) fn warn(&mut self, path: &YamlPath<'_>, message: impl Into<String>) {
        if self.warnings.len() == MAX_PROBLEMS {
            self.untold_warnings += 1;
            return;
        }
        self.warnings.push(diagnostic(&self.file, path, message.into()));
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

fn diagnostic(file: &Path, path: &YamlPath<'_>, message: String) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line: usize::try_from(path.line).ok().filter(|&line| line > 0),
        path: path.to_string(),
        message,
    }
}

/// A place in a file, `monitors[2].confirm`, with its line and the node that is there. A list that
/// grows down the stack, written out only for a message.
#[derive(Clone, Copy)]
pub(super) struct YamlPath<'p> {
    parent: Option<&'p YamlPath<'p>>,
    step: Step<'p>,
    line: u32,
    node: Option<&'p Node<'p>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> YamlPath<'p> {
    /// The file as a whole.
    pub(super) const FILE: Self = Self::line(0);

    /// A line of the file, whatever is there.
    pub(super) const fn line(line: u32) -> Self {
        Self { parent: None, step: Step::Root, line, node: None }
    }

    pub(super) const fn root(node: &'p Node<'p>) -> Self {
        Self { parent: None, step: Step::Root, line: node.line, node: Some(node) }
    }

    /// The value of a key of the mapping here; where there is none, the place that lacks it.
    pub(super) fn key(&'p self, key: &'p str) -> Self {
        let pair = self.node.and_then(|node| node.pair(key));
        Self {
            parent: Some(self),
            step: Step::Key(key),
            line: pair.map_or(self.line, |pair| pair.line),
            node: pair.map(|pair| &pair.value),
        }
    }

    /// An item of the list here.
    pub(super) fn index(&'p self, index: usize) -> Self {
        let node = self.node.and_then(|node| node.items().get(index));
        let line = node.map_or(self.line, |node| node.line);
        Self { parent: Some(self), step: Step::Index(index), line, node }
    }

    /// An item of the list here that is read on its own.
    pub(super) const fn item(&'p self, index: usize, node: &'p Node<'p>) -> Self {
        Self { parent: Some(self), step: Step::Index(index), line: node.line, node: Some(node) }
    }

    /// The node, unless it is null or missing.
    pub(super) fn node(&self) -> Option<&'p Node<'p>> {
        self.node.filter(|node| !node.is_null())
    }

    pub(super) const fn number(&self) -> u32 {
        self.line
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node, Some(Node { kind: Kind::Map(_), .. }))
    }

    /// Whether there is a list or a mapping here with nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        match self.node.map(|node| &node.kind) {
            Some(Kind::List(items)) => items.is_empty(),
            Some(Kind::Map(pairs)) => pairs.is_empty(),
            Some(Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_)) | None => false,
        }
    }

    /// The keys of the mapping here, which may be missing or null.
    pub(super) fn keys(&self, report: &mut Report) -> impl Iterator<Item = &'p str> + use<'p> {
        let node = self.node();
        if let Some(node) = node.filter(|_| !self.is_map()) {
            let message = format!("must be a mapping, `key: value`, not {}", node.describe());
            report.error(self, message);
        }
        node.into_iter().flat_map(Node::pairs).map(|pair| &*pair.key)
    }

    /// The items of the list here, which may be missing or null.
    pub(super) fn items(&self, report: &mut Report) -> &'p [Node<'p>] {
        let Some(node) = self.node() else { return &[] };
        if !matches!(node.kind, Kind::List(_)) {
            report.error(self, format!("must be a list, `[one, two]`, not {}", node.describe()));
        }
        node.items()
    }

    /// Whether the mapping here says nothing of a key: no value that is in force, and none that
    /// was at fault.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.key(key).node().is_none()
    }
}

impl fmt::Display for YamlPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) if first => f.write_str(&excerpt(key)),
            Step::Key(key) => write!(f, ".{}", excerpt(key)),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Reads the value at a place. Each fault is noted and its value left out, so that one reading
/// tells all of them.
pub(super) fn read<T: DeserializeOwned>(path: &YamlPath<'_>, report: &mut Report) -> Option<T> {
    let node = path.node()?;
    // Places cost time, and are only asked for where something is wrong.
    if let Ok(read) = serde_yaml::from_value(node.value()) {
        return Some(read);
    }
    read_value(node.value(), &mut |steps, message| {
        descend(path, steps, &mut |path| {
            let message = plain(message, path, report);
            report.error(path, message);
        });
    })
}

/// Reads what labels say of a monitor: a fault of a key is one of the label that set it.
pub(super) fn read_renamed<T: DeserializeOwned>(
    node: &Node<'_>,
    names: &[(&'static str, &str)],
    labels: &YamlPath<'_>,
    report: &mut Report,
) -> Option<T> {
    read_value(node.value(), &mut |steps, message| {
        let set = |key: &str| names.iter().find(|(name, _)| *name == key).map(|(_, label)| *label);
        let label = match steps {
            [Step::Key("labels"), Step::Key(label), ..] => Some(*label),
            [Step::Key("group"), Step::Key("name"), ..] => set("group"),
            [Step::Key("confirm" | "group"), Step::Key(key), ..] | [Step::Key(key), ..] => set(key),
            _ => None,
        };
        let path = label.map(|label| labels.key(label));
        let path = path.as_ref().unwrap_or(labels);
        let message = plain(message, path, report);
        report.error(path, message);
    })
}

/// Notes the keys of the mapping here that a struct does not have, without reading their values.
pub(super) fn check_keys<T: DeserializeOwned>(path: &YamlPath<'_>, report: &mut Report) {
    let Some(node) = path.node() else { return };
    let null = |pair: &Pair<'_>| (Value::from(&*pair.key), Value::Null);
    let keys = Value::Mapping(node.pairs().iter().map(null).collect());
    let _: Option<T> = read_value(keys, &mut |steps, message| {
        descend(path, steps, &mut |path| {
            let message = plain(message, path, report);
            report.error(path, message);
        });
    });
}

/// Reads a value, handing over the place of each fault within it and what serde says.
fn read_value<T: DeserializeOwned>(
    mut value: Value,
    note: &mut dyn FnMut(&[Step<'_>], &str),
) -> Option<T> {
    let mut removed: Vec<Vec<Segment>> = Vec::new();
    loop {
        let err = match serde_path_to_error::deserialize(&value) {
            Ok(read) => return Some(read),
            Err(err) => err,
        };
        let place = original(err.path(), &removed);
        let steps: Vec<Step<'_>> = place.iter().filter_map(step).collect();
        // What is missing here was at fault itself, and told.
        let told = removed
            .iter()
            .any(|removed| removed.len() > place.len() && same(&removed[..place.len()], &place));
        if !told {
            note(&steps, &err.inner().to_string());
        }
        if removed.len() == MAX_FAULTS || !remove(&mut value, err.path()) {
            return None;
        }
        removed.push(place);
    }
}

fn same(one: &[Segment], two: &[Segment]) -> bool {
    one.iter().filter_map(step).eq(two.iter().filter_map(step))
}

fn step(segment: &Segment) -> Option<Step<'_>> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key)),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn descend(path: &YamlPath<'_>, steps: &[Step<'_>], note: &mut dyn FnMut(&YamlPath<'_>)) {
    match steps {
        [] | [Step::Root, ..] => note(path),
        [Step::Key(key), rest @ ..] => descend(&path.key(key), rest, note),
        [Step::Index(index), rest @ ..] => descend(&path.index(*index), rest, note),
    }
}

/// Where a value was before others were removed from the lists around it.
fn original(path: &FaultPath, removed: &[Vec<Segment>]) -> Vec<Segment> {
    let mut place: Vec<Segment> = Vec::new();
    for segment in path {
        let Segment::Seq { index } = segment else {
            place.push(segment.clone());
            continue;
        };
        let mut gone: Vec<usize> = removed
            .iter()
            .filter_map(|removed| match removed.split_last()? {
                (Segment::Seq { index }, list) if same(list, &place) => Some(*index),
                _ => None,
            })
            .collect();
        gone.sort_unstable();
        let index = gone.into_iter().fold(*index, |index, gone| index + usize::from(gone <= index));
        place.push(Segment::Seq { index });
    }
    place
}

/// Takes a value out; `false` if it is all there is.
fn remove(value: &mut Value, path: &FaultPath) -> bool {
    let steps: Vec<Step<'_>> = path.iter().filter_map(step).collect();
    let Some((last, parents)) = steps.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Root => None,
        Step::Key(key) => value.get_mut(*key),
        Step::Index(index) => value.get_mut(*index),
    });
    match (parent, last) {
        (Some(Value::Mapping(mapping)), Step::Key(key)) => mapping.remove(*key).is_some(),
        (Some(Value::Sequence(items)), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

/// What serde says, in words that name a remedy.
fn plain(message: &str, path: &YamlPath<'_>, report: &Report) -> String {
    if let (Some(rest), Step::Key(key)) = (message.strip_prefix("unknown field `"), path.step) {
        let known = rest.get(key.len()..).unwrap_or_default();
        let known: Vec<&str> = known.split('`').skip(2).step_by(2).collect();
        return unknown_key(key, &known, report);
    }
    let expected =
        message.strip_prefix("invalid type: ").and_then(|it| it.rsplit_once(", expected "));
    let Some((_, expected)) = expected else { return message.to_owned() };
    let expected = match expected {
        "a sequence" => "a list, `[one, two]`",
        "a map" => "a mapping, `key: value`",
        expected if expected.starts_with("struct ") => "a mapping, `key: value`",
        expected => expected,
    };
    match path.node {
        Some(node) => format!("must be {expected}, not {}", node.describe()),
        None => format!("must be {expected}"),
    }
}

/// What to write instead of a key that nobody knows.
pub(super) fn unknown_key(key: &str, known: &[&str], report: &Report) -> String {
    match report.nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key: did you mean `{near}`?"),
        None => format!("unknown key: write one of {}", listed(known)),
    }
}

/// Words in backticks, separated by commas.
pub(super) fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    /// Longer texts are no typing mistakes.
    const LONGEST: usize = 64;
    /// Most words that are looked at; among more, one that is near says little.
    const MOST: usize = 2_000;
    if text.len() > LONGEST {
        return None;
    }
    let slack = (text.len() / 3).min(3);
    let text = text.to_lowercase();
    words
        .take(MOST)
        .filter(|word| word.len() <= LONGEST)
        .map(|word| (strsim::osa_distance(&text, &word.to_lowercase()), word))
        .filter(|&(distance, _)| distance <= slack)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}
