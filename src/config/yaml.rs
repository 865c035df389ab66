//! YAML as a tree in which every node knows its line. Bounded: nesting, nodes, aliases.
//!
//! The tree lives in an [`Arena`], whose few large pieces go back to the system at once when it is
//! dropped; a hundred thousand small ones would stay behind between what was made of them.
//!
//! The habits are those of Go's yaml.v3, since existing files were written against it: only the
//! first document counts, `<<` merges, duplicate keys are errors, scalars keep their text until
//! a field says what it wants to be.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bumpalo::Bump;
use granit_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;
/// Most nodes of one file, each alias counted as what it stands for.
const MAX_NODES: usize = 5_000_000;
/// Mappings up to this size are searched for duplicate keys pair by pair.
const FEW_KEYS: usize = 16;

/// Where trees live.
pub(super) type Arena = Bump;

/// A value and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'tree> {
    /// From 1.
    pub(super) line: u32,
    pub(super) kind: Kind<'tree>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'tree> {
    /// Text without quotes, whose meaning the field decides.
    Plain(&'tree str),
    /// Text in quotes, a block scalar, or one tagged `!!str`.
    Quoted(&'tree str),
    /// Decoded from `!!binary`.
    Binary(&'tree [u8]),
    List(&'tree [Node<'tree>]),
    Map(&'tree [Entry<'tree>]),
}

/// A key of a mapping and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'tree> {
    pub(super) key: &'tree str,
    /// Line of the key.
    pub(super) line: u32,
    pub(super) value: Node<'tree>,
}

/// What is wrong with the text itself.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) line: u32,
    pub(super) message: String,
}

impl Node<'_> {
    /// Whether nothing was given: `key:`, `~`, `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Plain(text) => matches!(*text, "" | "~" | "null" | "Null" | "NULL"),
            Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) | Kind::Map(_) => false,
        }
    }

    /// What it is, for a message.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Plain(_) if self.is_null() => "nothing".to_owned(),
            Kind::Plain(text) | Kind::Quoted(text) => format!("`{}`", excerpt(text)),
            Kind::Binary(_) => "binary data".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// A text short enough for one line of a message.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect::<String>().escape_debug().collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// Reads the first document of a text; `None` if there is nothing in it.
///
/// # Errors
/// What is wrong: at most one syntax error, but every duplicate key before it.
pub(super) fn parse<'tree>(
    text: &'tree str,
    arena: &'tree Arena,
) -> Result<Option<Node<'tree>>, Vec<Fault>> {
    let options = granit_parser::options! { emit_comments: false };
    let mut tree = Tree::within(arena);
    let mut last_line = 1;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(it) => it,
            Err(err) => {
                tree.faults.push(syntax(&err));
                return Err(tree.faults);
            }
        };
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        last_line = line.max(last_line);
        let end = matches!(event, Event::DocumentEnd);
        if let Err(message) = tree.take(event, line) {
            tree.faults.push(Fault { line, message });
            return Err(tree.faults);
        }
        if end {
            break;
        }
    }
    if tree.faults.is_empty() { Ok(tree.root) } else { Err(tree.faults) }
}

fn syntax(err: &ScanError) -> Fault {
    let line = u32::try_from(err.marker().line()).unwrap_or(u32::MAX);
    Fault {
        line,
        message: format!("this is no YAML: {} (column {})", err.info(), err.marker().col() + 1),
    }
}

/// A collection whose end was not seen yet.
struct Open<'tree> {
    line: u32,
    anchor: usize,
    /// Nodes seen before this one.
    before: usize,
    children: Children<'tree>,
}

enum Children<'tree> {
    List(Vec<Node<'tree>>),
    Map {
        entries: Vec<Entry<'tree>>,
        /// A key that waits for its value.
        key: Option<(&'tree str, u32)>,
        merges: Vec<Node<'tree>>,
        merging: bool,
    },
}

struct Tree<'tree> {
    arena: &'tree Arena,
    root: Option<Node<'tree>>,
    open: Vec<Open<'tree>>,
    /// Finished anchored nodes and how many nodes each stands for.
    anchors: HashMap<usize, (Node<'tree>, usize)>,
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'tree> Tree<'tree> {
    fn within(arena: &'tree Arena) -> Self {
        Self {
            arena,
            root: None,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            faults: Vec::new(),
        }
    }

    fn take(&mut self, event: Event<'tree>, line: u32) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let before = self.nodes;
                self.count(1)?;
                let kind = scalar(text, style, tag.as_deref(), self.arena)?;
                self.finish(Node { line, kind }, anchor, before)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(line, anchor, Children::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, _) => self.begin(
                line,
                anchor,
                Children::Map {
                    entries: Vec::new(),
                    key: None,
                    merges: Vec::new(),
                    merging: false,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let kind = match open.children {
                    Children::List(items) => Kind::List(self.arena.alloc_slice_copy(&items)),
                    Children::Map { entries, merges, .. } => {
                        let entries = self.merge(entries, &merges)?;
                        Kind::Map(self.arena.alloc_slice_copy(&entries))
                    }
                };
                self.finish(Node { line: open.line, kind }, open.anchor, open.before)
            }
            Event::Alias(anchor) => {
                let Some(&(node, weight)) = self.anchors.get(&anchor) else {
                    return Err("an alias stands inside its own anchor".to_owned());
                };
                let before = self.nodes;
                self.count(weight)?;
                self.finish(node, 0, before)
            }
            // The set of events may grow; whatever is no node says nothing about the tree.
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(format!(
                "more than {MAX_NODES} values, aliases counted as what they repeat"
            ));
        }
        Ok(())
    }

    fn begin(&mut self, line: u32, anchor: usize, children: Children<'tree>) -> Result<(), String> {
        if self.open.len() == MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let before = self.nodes;
        self.count(1)?;
        self.open.push(Open { line, anchor, before, children });
        Ok(())
    }

    fn finish(&mut self, node: Node<'tree>, anchor: usize, before: usize) -> Result<(), String> {
        if anchor != 0 {
            let weight = self.nodes.saturating_sub(before);
            self.anchors.insert(anchor, (node, weight));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.children {
            Children::List(items) => items.push(node),
            Children::Map { entries, key, merges, merging } => {
                if *merging {
                    *merging = false;
                    merges.push(node);
                } else if let Some((key, line)) = key.take() {
                    entries.push(Entry { key, line, value: node });
                } else {
                    match node.kind {
                        Kind::Plain("<<") => *merging = true,
                        Kind::Plain(text) | Kind::Quoted(text) => *key = Some((text, node.line)),
                        Kind::Binary(_) | Kind::List(_) | Kind::Map(_) => {
                            return Err("a key is a list, a mapping or binary: write a word".into());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds duplicate keys, then adds what `<<` brings; a key that is written out wins.
    fn merge(
        &mut self,
        mut entries: Vec<Entry<'tree>>,
        merges: &[Node<'tree>],
    ) -> Result<Vec<Entry<'tree>>, String> {
        self.report_duplicates(&entries);
        for node in merges {
            let sources = match &node.kind {
                Kind::Map(_) => std::slice::from_ref(node),
                Kind::List(nodes) => nodes,
                Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) => &[],
            };
            if sources.is_empty() {
                return Err("`<<` needs a mapping or a list of mappings: write `<<: *name`".into());
            }
            let mut seen: HashSet<&str> = entries.iter().map(|it| it.key).collect();
            for source in sources {
                let Kind::Map(inherited) = source.kind else {
                    return Err("`<<` needs mappings: write `<<: [*one, *two]`".into());
                };
                self.count(inherited.len())?;
                for entry in inherited {
                    if seen.insert(entry.key) {
                        entries.push(*entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    fn report_duplicates(&mut self, entries: &[Entry<'tree>]) {
        let mut report = |entry: &Entry<'_>, first: u32| {
            self.faults.push(Fault {
                line: entry.line,
                message: format!(
                    "`{}` is given twice, first in line {first}: remove one",
                    excerpt(entry.key)
                ),
            });
        };
        if entries.len() <= FEW_KEYS {
            for (index, entry) in entries.iter().enumerate() {
                if let Some(first) = entries[..index].iter().find(|it| it.key == entry.key) {
                    report(entry, first.line);
                }
            }
            return;
        }
        let mut seen: HashMap<&str, u32> = HashMap::with_capacity(entries.len());
        for entry in entries {
            match seen.get(entry.key) {
                Some(&first) => report(entry, first),
                None => {
                    seen.insert(entry.key, entry.line);
                }
            }
        }
    }
}

fn scalar<'tree>(
    text: Cow<'tree, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    arena: &'tree Arena,
) -> Result<Kind<'tree>, String> {
    let suffix = tag.map(Tag::suffix);
    if suffix == Some("binary") {
        let compact: String = text.split_whitespace().collect();
        return match STANDARD.decode(compact) {
            Ok(bytes) => Ok(Kind::Binary(arena.alloc_slice_copy(&bytes))),
            Err(_) => Err("`!!binary` is followed by something that is no base64".to_owned()),
        };
    }
    let text = match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(text) => arena.alloc_str(&text),
    };
    if matches!(style, ScalarStyle::Plain) && suffix != Some("str") {
        Ok(Kind::Plain(text))
    } else {
        Ok(Kind::Quoted(text))
    }
}
