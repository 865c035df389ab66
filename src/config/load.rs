//! From the path of a file to a configuration in force.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::files::{self, Fingerprint};
use crate::config::monitors::{Context, Defaults, Interner};
use crate::config::read::{Fields, Place, Report, items, text};
use crate::config::yaml::{Arena, Kind, Node, excerpt};
use crate::config::{
    Config, Diagnostic, Loaded, ModuleEntry, access, file_sd, lint, modules, monitors, yaml,
};
use crate::monitor::{Monitor, SeriesOptions};

/// The configuration in force when no file is given.
const EMBEDDED: &str = include_str!("embedded.yml");

/// A monitor, and where it stands.
pub(super) struct Placed {
    pub(super) monitor: Monitor,
    /// The file it came from.
    pub(super) file: Arc<PathBuf>,
    pub(super) line: u32,
    /// `monitors[3]`.
    pub(super) path: Origin,
}

impl Placed {
    /// Notes an error of one of its keys, when its node is long gone.
    pub(super) fn error(&self, key: &str, message: String, report: &mut Report) {
        self.note(key, report, |place, report| report.error(self.line, place, message));
    }

    /// Notes a warning of one of its keys.
    pub(super) fn warn(&self, key: &str, message: String, report: &mut Report) {
        self.note(key, report, |place, report| report.warn(self.line, place, message));
    }

    fn note(&self, key: &str, report: &mut Report, note: impl FnOnce(&Place<'_>, &mut Report)) {
        let here = std::mem::replace(&mut report.file, self.file.clone());
        let root = Place::ROOT;
        match self.path {
            Origin::Listed(index) => {
                note(&root.key("monitors").index(index).key(key), report);
            }
            Origin::Item(index) => note(&root.index(index).key(key), report),
            Origin::Target(group, index) => {
                note(&root.index(group).key("targets").index(index), report);
            }
        }
        report.file = here;
    }
}

/// Position in a list of monitors, written out only for a message.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// An entry of `monitors:`.
    Listed(usize),
    /// An entry of a file that is nothing but a list.
    Item(usize),
    /// A target of an entry in the form of Prometheus.
    Target(usize, usize),
}

/// The embedded modules, no monitors.
pub(super) fn embedded() -> Config {
    let mut report = Report::default();
    let arena = Arena::new();
    let modules = match yaml::parse(EMBEDDED, &arena) {
        Ok(Some(root)) => embedded_modules(&root, &mut report),
        // Unreachable: a test reads the text that is compiled in.
        Ok(None) | Err(_) => BTreeMap::new(),
    };
    let mut fingerprint = Fingerprint::new();
    fingerprint.add(Path::new(""), EMBEDDED.as_bytes());
    Config {
        modules,
        monitors: Vec::new(),
        access: Arc::default(),
        canaries: Vec::new(),
        options: SeriesOptions::default(),
        monitor_files: Vec::new(),
        files: Vec::new(),
        fingerprint: fingerprint.finish(),
    }
}

fn embedded_modules(root: &Node<'_>, report: &mut Report) -> BTreeMap<Arc<str>, ModuleEntry> {
    let place = Place::ROOT;
    let Some(mut fields) = Fields::open(root, &place, report) else { return BTreeMap::new() };
    let node = fields.take("modules");
    node.map(|it| modules::modules(it, &place.key("modules"), report)).unwrap_or_default()
}

/// Reads a file and the monitor files it names, on top of the embedded configuration.
pub(super) fn load(path: &Path, mut config: Config) -> Result<Loaded, Vec<Diagnostic>> {
    let mut report = Report::new(path);
    let mut fingerprint = Fingerprint::new();
    config.files = vec![path.to_owned()];
    if let Some(content) = content(path, &mut report, &mut fingerprint) {
        document(&content, &mut config, &mut report, |root, config, report| {
            configuration(root, path, config, report, &mut fingerprint);
        });
    }
    let warnings = report.close()?;
    config.fingerprint = fingerprint.finish();
    Ok(Loaded { config, warnings })
}

/// The text of a file, or an error.
fn content(path: &Path, report: &mut Report, fingerprint: &mut Fingerprint) -> Option<String> {
    let bytes = match files::read(path) {
        Ok(bytes) => bytes,
        Err(err) => {
            report.error(0, &Place::ROOT, format!("cannot read the file: {err}"));
            return None;
        }
    };
    fingerprint.add(path, &bytes);
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(err) => {
            let valid = err.utf8_error().valid_up_to();
            let line = err.as_bytes()[..valid].split(|&it| it == b'\n').count();
            let message = "the text is no UTF-8 from here on: save the file as UTF-8";
            report.error(u32::try_from(line).unwrap_or(u32::MAX), &Place::ROOT, message);
            None
        }
    }
}

/// Parses a text and hands its root on; faults of the text itself are reported.
fn document<T>(
    content: &str,
    target: &mut T,
    report: &mut Report,
    read: impl FnOnce(&Node<'_>, &mut T, &mut Report),
) {
    let arena = Arena::new();
    match yaml::parse(content, &arena) {
        Ok(Some(root)) if !root.is_null() => read(&root, target, report),
        Ok(_) => {
            let message = "the file has no content (EOF): write at least `{}` or `[]`";
            report.error(0, &Place::ROOT, message);
        }
        Err(faults) => {
            for fault in faults {
                report.error(fault.line, &Place::ROOT, fault.message);
            }
        }
    }
}

pub(super) fn configuration(
    root: &Node<'_>,
    path: &Path,
    config: &mut Config,
    report: &mut Report,
    fingerprint: &mut Fingerprint,
) {
    let place = Place::ROOT;
    let Some(mut fields) = Fields::open(root, &place, report) else { return };
    let modules_node = fields.take("modules");
    if let Some(node) = modules_node {
        let modules = modules::modules(node, &place.key("modules"), report);
        config.modules.extend(modules);
    }
    let mut interner = Interner::default();
    let mut defaults = Defaults::default();
    if let Some(node) = fields.take("defaults") {
        defaults = monitors::defaults(node, &place.key("defaults"), report, &mut interner);
    }
    config.options = defaults.options;
    let mut placed: Vec<Placed> = Vec::new();
    let mut context = Context {
        modules: &config.modules,
        defaults: &defaults.policy,
        interner,
        policies: Vec::new(),
        targets: 0,
    };
    if let Some(node) = fields.take("monitors") {
        listed(node, &place.key("monitors"), Origin::Listed, report, &mut context, &mut placed);
    }
    if let Some(node) = fields.take("monitor_files") {
        let place = place.key("monitor_files");
        config.monitor_files = globs(node, &place, path, report);
    }
    let canaries = fields
        .take("canaries")
        .map(|node| monitors::canaries(node, &place.key("canaries"), report, &config.modules));
    let access = fields
        .take("access")
        .map(|node| access::access(node, &place.key("access"), report, &config.modules));
    fields.close(&place, report);
    let main_file = report.file.clone();
    for path in files::expand(path, &config.monitor_files) {
        report.file = Arc::new(path.clone());
        if let Some(content) = content(&path, report, fingerprint) {
            document(&content, &mut placed, report, |root, placed, report| {
                monitor_file(root, report, &mut context, placed);
            });
        }
        config.files.push(path);
    }
    report.file = main_file;
    lint::monitors(&mut placed, report);
    if let Some(node) = modules_node {
        lint::modules(node, &place.key("modules"), &config.modules, &placed, report);
    }
    config.canaries = canaries.unwrap_or_default();
    config.access = Arc::new(access.unwrap_or_default());
    config.monitors = placed.into_iter().map(|it| Arc::new(it.monitor)).collect();
}

fn listed(
    node: &Node<'_>,
    place: &Place<'_>,
    origin: fn(usize) -> Origin,
    report: &mut Report,
    context: &mut Context<'_>,
    placed: &mut Vec<Placed>,
) {
    let Some(nodes) = items(node, place, report) else { return };
    for (index, node) in nodes.iter().enumerate() {
        let place = place.index(index);
        if let Some(monitor) = monitors::monitor(node, &place, report, context) {
            let file = report.file.clone();
            placed.push(Placed { monitor, file, line: node.line, path: origin(index) });
        }
    }
}

/// A monitor file: `monitors: […]`, a list of monitors, or a list in the form of Prometheus's
/// file-based discovery, in YAML or JSON.
fn monitor_file(
    root: &Node<'_>,
    report: &mut Report,
    context: &mut Context<'_>,
    placed: &mut Vec<Placed>,
) {
    let place = Place::ROOT;
    if let Kind::List(nodes) = &root.kind {
        for (index, node) in nodes.iter().enumerate() {
            let place = place.index(index);
            if file_sd::is_group(node) {
                file_sd::group(node, index, &place, report, context, placed);
            } else if let Some(monitor) = monitors::monitor(node, &place, report, context) {
                let file = report.file.clone();
                placed.push(Placed { monitor, file, line: node.line, path: Origin::Item(index) });
            }
        }
        return;
    }
    let Some(mut fields) = Fields::open(root, &place, report) else { return };
    if let Some(node) = fields.take("monitors") {
        listed(node, &place.key("monitors"), Origin::Listed, report, context, placed);
    }
    fields.close(&place, report);
}

/// Globs relative to the file that names them.
fn globs(node: &Node<'_>, place: &Place<'_>, path: &Path, report: &mut Report) -> Vec<PathBuf> {
    let base = path.parent().unwrap_or(Path::new(""));
    let one = std::slice::from_ref(node);
    let nodes = match &node.kind {
        Kind::Plain(_) | Kind::Quoted(_) => one,
        Kind::List(_) | Kind::Map(_) | Kind::Binary(_) => {
            items(node, place, report).unwrap_or_default()
        }
    };
    let mut globs = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let place = place.index(index);
        let Some(text) = text(node, &place, report) else { continue };
        // Only the part that was written is a pattern: the directory may be called `[a]`.
        let base = glob::Pattern::escape(&base.to_string_lossy());
        let pattern = Path::new(&base).join(text);
        if let Err(err) = glob::Pattern::new(&pattern.to_string_lossy()) {
            let message = format!("`{}` is no glob: {}", excerpt(text), err.msg);
            report.error(node.line, &place, message);
            continue;
        }
        let found = files::expand(path, std::slice::from_ref(&pattern)).len();
        if found == 0 {
            report.warn(node.line, &place, format!("`{}` finds no file", excerpt(text)));
        }
        if found > files::MAX_FILES {
            let limit = files::MAX_FILES;
            let message = format!("`{}` finds more than {limit} files", excerpt(text));
            report.error(node.line, &place, message);
        }
        globs.push(pattern);
    }
    globs
}

/// Where the first monitor of each name stands.
pub(super) fn by_name(placed: &[Placed]) -> HashMap<Arc<str>, usize> {
    let mut names = HashMap::with_capacity(placed.len());
    for (index, it) in placed.iter().enumerate() {
        names.entry(it.monitor.name.clone()).or_insert(index);
    }
    names
}
