//! YAML, entry by entry: a list of a hundred thousand monitors never stands in memory as a tree.
//!
//! An entry is a small tree in which every node knows its line; `serde_yaml` reads its values.
//! Bounded: nesting, nodes, aliases.
//!
//! The habits are those of Go's yaml.v3, since existing files were written against it: only the
//! first document counts, `<<` merges, duplicate keys are errors, scalars keep their text until
//! a field says what it wants to be.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde_yaml::Value;

use crate::config::files::hexadecimal;
use crate::limits::{YAML_DEPTH, YAML_NODES};

/// Mappings up to this size are searched for duplicate keys pair by pair.
const FEW_KEYS: usize = 16;

/// A value and where it begins. Cheap to clone: an alias shares what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    /// From 1.
    pub(super) line: u32,
    pub(super) kind: Kind<'t>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind<'t> {
    /// Text without quotes, whose meaning the field decides.
    Plain(Cow<'t, str>),
    /// Text in quotes, a block scalar, or one tagged `!!str`.
    Quoted(Cow<'t, str>),
    /// Decoded from `!!binary`, and no text.
    Binary(Rc<[u8]>),
    List(Rc<[Node<'t>]>),
    Map(Rc<[Pair<'t>]>),
}

/// A key of a mapping and its value.
#[derive(Clone, Debug)]
pub(super) struct Pair<'t> {
    pub(super) key: Cow<'t, str>,
    /// Line of the key.
    pub(super) line: u32,
    pub(super) value: Node<'t>,
}

/// A part of a document that is read on its own, in the order of the text.
pub(super) struct Piece<'t> {
    /// The key of the root mapping that holds it, and the line of that key.
    pub(super) key: Option<(Cow<'t, str>, u32)>,
    /// Its position in a list that is read item by item.
    pub(super) index: Option<usize>,
    pub(super) node: Node<'t>,
}

/// What is wrong with the text itself.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) line: u32,
    pub(super) message: String,
}

impl<'t> Node<'t> {
    /// Whether nothing was given: `key:`, `~`, `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Plain(text) => matches!(&**text, "" | "~" | "null" | "Null" | "NULL"),
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

    /// The pairs of a mapping; of anything else, none.
    pub(super) fn pairs(&self) -> &[Pair<'t>] {
        match &self.kind {
            Kind::Map(pairs) => pairs,
            Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) => &[],
        }
    }

    /// The items of a list; of anything else, none.
    pub(super) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::Map(_) => &[],
        }
    }

    pub(super) fn pair(&self, key: &str) -> Option<&Pair<'t>> {
        self.pairs().iter().find(|pair| pair.key == key)
    }

    /// A scalar's text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain(text) | Kind::Quoted(text) => Some(text),
            Kind::Binary(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// What serde reads. Every scalar is a text, taken literally, but for `null` and the booleans
    /// `true` and `false`; binary data has the form that the schema gives to bytes.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            Kind::Plain(_) if self.is_null() => Value::Null,
            Kind::Plain(text) if text == "true" => Value::Bool(true),
            Kind::Plain(text) if text == "false" => Value::Bool(false),
            Kind::Plain(text) | Kind::Quoted(text) => Value::String(text.clone().into_owned()),
            Kind::Binary(bytes) => {
                let hex = ("hex".into(), hexadecimal(bytes).into());
                Value::Mapping([hex].into_iter().collect())
            }
            Kind::List(items) => Value::Sequence(items.iter().map(Self::value).collect()),
            Kind::Map(pairs) => {
                let pairs = pairs.iter();
                let value =
                    |pair: &Pair<'_>| (pair.key.clone().into_owned().into(), pair.value.value());
                Value::Mapping(pairs.map(value).collect())
            }
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

/// Reads the first document of a text and hands it over in pieces: the values of the root
/// mapping, but of `listed` each item; the items of a root list; or what else the root is.
/// `false` if there is nothing in it.
///
/// # Errors
/// What is wrong: at most one syntax error, but every duplicate key before it. Pieces before it
/// were handed over.
pub(super) fn read<'t>(
    text: &'t str,
    listed: &'static str,
    take: &mut dyn FnMut(Piece<'t>),
) -> Result<bool, Vec<Fault>> {
    let options = granit_parser::options! { emit_comments: false };
    let mut reader = Reader {
        listed,
        take,
        is_empty: true,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(err) => {
                reader.faults.push(syntax(&err));
                return Err(reader.faults);
            }
        };
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        let end = matches!(event, Event::DocumentEnd);
        if let Err(message) = reader.event(event, line) {
            reader.faults.push(Fault { line, message });
            return Err(reader.faults);
        }
        if end {
            break;
        }
    }
    if reader.faults.is_empty() { Ok(!reader.is_empty) } else { Err(reader.faults) }
}

fn syntax(err: &ScanError) -> Fault {
    let line = u32::try_from(err.marker().line()).unwrap_or(u32::MAX);
    Fault {
        line,
        message: format!("invalid YAML: {} (column {})", err.info(), err.marker().col() + 1),
    }
}

/// A collection whose end was not seen yet.
struct Open<'t> {
    line: u32,
    anchor: usize,
    /// Nodes seen before this one.
    before: usize,
    children: Children<'t>,
}

enum Children<'t> {
    List(Vec<Node<'t>>),
    /// A list whose items are handed over, and how many were.
    Streamed(usize),
    Map {
        pairs: Vec<Pair<'t>>,
        /// A key that waits for its value.
        key: Option<(Cow<'t, str>, u32)>,
        merges: Vec<Node<'t>>,
        merging: bool,
    },
}

struct Reader<'t, 'f> {
    listed: &'static str,
    take: &'f mut dyn FnMut(Piece<'t>),
    is_empty: bool,
    open: Vec<Open<'t>>,
    /// Finished anchored nodes and how many nodes each stands for.
    anchors: HashMap<usize, (Node<'t>, usize)>,
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'t> Reader<'t, '_> {
    fn event(&mut self, event: Event<'t>, line: u32) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let before = self.nodes;
                self.count(1)?;
                let kind = scalar(text, style, tag.as_deref())?;
                self.finish(Node { line, kind }, anchor, before)
            }
            Event::SequenceStart(_, anchor, _) => {
                let streamed = anchor == 0 && self.is_listed();
                let children =
                    if streamed { Children::Streamed(0) } else { Children::List(Vec::new()) };
                self.begin(line, anchor, children)
            }
            Event::MappingStart(_, anchor, _) => {
                let (pairs, merges) = (Vec::new(), Vec::new());
                self.begin(line, anchor, Children::Map { pairs, key: None, merges, merging: false })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let kind = match open.children {
                    Children::Streamed(_) => {
                        self.end_streamed();
                        return Ok(());
                    }
                    Children::List(items) => Kind::List(items.into()),
                    Children::Map { pairs, merges, .. } => {
                        Kind::Map(self.merge(pairs, &merges)?.into())
                    }
                };
                self.finish(Node { line: open.line, kind }, open.anchor, open.before)
            }
            Event::Alias(anchor) => {
                let Some((node, weight)) = self.anchors.get(&anchor) else {
                    return Err("an alias stands inside its own anchor: remove it".to_owned());
                };
                let (node, weight, before) = (node.clone(), *weight, self.nodes);
                self.count(weight)?;
                self.finish(node, 0, before)
            }
            // The set of events may grow; whatever is no node says nothing about the tree.
            _ => Ok(()),
        }
    }

    /// Whether a list that begins here is read item by item.
    fn is_listed(&self) -> bool {
        match &*self.open {
            [] => true,
            [
                Open {
                    children: Children::Map { key: Some((key, _)), merging: false, .. }, ..
                },
            ] => key == self.listed,
            _ => false,
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > YAML_NODES {
            return Err(format!(
                "more than {YAML_NODES} values, aliases counted as what they repeat: split the file"
            ));
        }
        Ok(())
    }

    fn begin(&mut self, line: u32, anchor: usize, children: Children<'t>) -> Result<(), String> {
        if self.open.len() == YAML_DEPTH {
            return Err(format!("nested deeper than {YAML_DEPTH} levels: write it flatter"));
        }
        let before = self.nodes;
        self.count(1)?;
        self.is_empty = false;
        self.open.push(Open { line, anchor, before, children });
        Ok(())
    }

    /// Takes a finished node to where it belongs: into the collection around it, or out.
    fn finish(&mut self, node: Node<'t>, anchor: usize, before: usize) -> Result<(), String> {
        if anchor != 0 {
            let weight = self.nodes.saturating_sub(before);
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let depth = self.open.len();
        let section = match self.open.first() {
            Some(Open { children: Children::Map { key, .. }, .. }) => key.clone(),
            _ => None,
        };
        let Some(open) = self.open.last_mut() else {
            self.root(node);
            return Ok(());
        };
        match &mut open.children {
            Children::List(items) => items.push(node),
            Children::Streamed(count) => {
                let index = Some(*count);
                *count += 1;
                (self.take)(Piece { key: section, index, node });
            }
            Children::Map { pairs, key, merges, merging } => {
                if *merging {
                    *merging = false;
                    merges.push(node);
                } else if let Some((key, line)) = key.take() {
                    if depth == 1 {
                        let null = Node { line, kind: Kind::Plain(Cow::Borrowed("")) };
                        pairs.push(Pair { key: key.clone(), line, value: null });
                        self.section(key, line, node);
                    } else {
                        pairs.push(Pair { key, line, value: node });
                    }
                } else {
                    match node.kind {
                        Kind::Plain(text) if text == "<<" => *merging = true,
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

    /// Hands over a value of the root mapping.
    fn section(&mut self, key: Cow<'t, str>, line: u32, node: Node<'t>) {
        if key == self.listed
            && let Kind::List(items) = &node.kind
        {
            for (index, node) in items.iter().cloned().enumerate() {
                (self.take)(Piece { key: Some((key.clone(), line)), index: Some(index), node });
            }
            return;
        }
        (self.take)(Piece { key: Some((key, line)), index: None, node });
    }

    /// Hands over a root that is a scalar; one that is a collection went out in pieces.
    fn root(&mut self, node: Node<'t>) {
        if matches!(node.kind, Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_))
            && !node.is_null()
        {
            self.is_empty = false;
            (self.take)(Piece { key: None, index: None, node });
        }
    }

    /// The root mapping goes on after the list that was streamed out of it.
    fn end_streamed(&mut self) {
        if let Some(Open { children: Children::Map { pairs, key, .. }, .. }) = self.open.last_mut()
            && let Some((key, line)) = key.take()
        {
            let value = Node { line, kind: Kind::Plain(Cow::Borrowed("")) };
            pairs.push(Pair { key, line, value });
        }
    }

    /// Finds duplicate keys, then adds what `<<` brings; a key that is written out wins.
    fn merge(
        &mut self,
        mut pairs: Vec<Pair<'t>>,
        merges: &[Node<'t>],
    ) -> Result<Vec<Pair<'t>>, String> {
        report_duplicates(&pairs, &mut self.faults);
        let is_root = self.open.is_empty();
        for node in merges {
            let sources = match &node.kind {
                Kind::Map(_) => std::slice::from_ref(node),
                Kind::List(nodes) => nodes,
                Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) => &[],
            };
            if sources.is_empty() {
                return Err("`<<` needs a mapping or a list of mappings: write `<<: *name`".into());
            }
            let mut seen: HashSet<String> = pairs.iter().map(|pair| pair.key.to_string()).collect();
            for source in sources {
                let Kind::Map(inherited) = &source.kind else {
                    return Err("`<<` needs mappings: write `<<: [*one, *two]`".into());
                };
                self.count(inherited.len())?;
                for pair in inherited.iter().filter(|pair| seen.insert(pair.key.to_string())) {
                    if is_root {
                        self.section(pair.key.clone(), pair.line, pair.value.clone());
                    }
                    pairs.push(pair.clone());
                }
            }
        }
        Ok(pairs)
    }
}

fn report_duplicates(pairs: &[Pair<'_>], faults: &mut Vec<Fault>) {
    let mut report = |pair: &Pair<'_>, first: u32| {
        faults.push(Fault {
            line: pair.line,
            message: format!(
                "`{}` is given twice, first in line {first}: remove one",
                excerpt(&pair.key)
            ),
        });
    };
    if pairs.len() <= FEW_KEYS {
        for (index, pair) in pairs.iter().enumerate() {
            if let Some(first) = pairs[..index].iter().find(|first| first.key == pair.key) {
                report(pair, first.line);
            }
        }
        return;
    }
    let mut seen: HashMap<&str, u32> = HashMap::with_capacity(pairs.len());
    for pair in pairs {
        match seen.get(&*pair.key) {
            Some(&first) => report(pair, first),
            None => {
                seen.insert(&pair.key, pair.line);
            }
        }
    }
}

fn scalar<'t>(
    text: Cow<'t, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Kind<'t>, String> {
    let suffix = tag.map(Tag::suffix);
    if suffix == Some("binary") {
        let compact: String = text.split_whitespace().collect();
        let Ok(bytes) = STANDARD.decode(compact) else {
            return Err("`!!binary` is followed by invalid base64: encode the bytes again".into());
        };
        return Ok(match String::from_utf8(bytes) {
            Ok(text) => Kind::Quoted(Cow::Owned(text)),
            Err(err) => Kind::Binary(err.into_bytes().into()),
        });
    }
    if matches!(style, ScalarStyle::Plain) && suffix != Some("str") {
        Ok(Kind::Plain(text))
    } else {
        Ok(Kind::Quoted(text))
    }
}
