//! From the path of a file to a configuration in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::files::{self, Fingerprint};
use crate::config::listed::Position;
use crate::config::monitors::Drafts;
use crate::config::read::{Report, YamlPath, check_keys, read};
use crate::config::scalar::{OneOrMany, Text};
use crate::config::schema::{FileKeys, MonitorFileKeys};
use crate::config::yaml::{Kind, Node, Pair, Piece, excerpt};
use crate::config::{
    Config, Diagnostic, Loaded, access, file_sd, lint, maintenance, modules, monitors, yaml,
};
use crate::limits::MONITOR_FILES;
use crate::maintenance::Maintenance;
use crate::monitor::SeriesOptions;

/// The configuration in force when no file is given.
const EMBEDDED: &str = include_str!("embedded.yml");
/// The section whose entries are read one by one.
const MONITORS: &str = "monitors";

/// The embedded modules, no monitors.
pub(super) fn embedded() -> Config {
    let mut fingerprint = Fingerprint::new();
    fingerprint.add(Path::new(""), EMBEDDED.as_bytes());
    let mut config = Config {
        modules: BTreeMap::new(),
        monitors: Vec::new(),
        access: Arc::default(),
        canaries: Vec::new(),
        maintenance: Maintenance::default(),
        options: SeriesOptions::default(),
        monitor_files: Vec::new(),
        files: Vec::new(),
        fingerprint: fingerprint.finish(),
    };
    // A test sees to it that nothing is reported.
    configuration(
        EMBEDDED,
        Path::new(""),
        &mut config,
        &mut Report::default(),
        &mut Fingerprint::new(),
    );
    config
}

/// Reads a file and the monitor files it names, on top of the embedded configuration.
pub(super) fn load(path: &Path, mut config: Config) -> Result<Loaded, Vec<Diagnostic>> {
    let mut report = Report::new(path);
    let mut fingerprint = Fingerprint::new();
    config.files = vec![path.to_owned()];
    if let Some(content) = content(path, &mut report, &mut fingerprint) {
        configuration(&content, path, &mut config, &mut report, &mut fingerprint);
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
            report.error(&YamlPath::FILE, format!("cannot read the file: {err}"));
            return None;
        }
    };
    fingerprint.add(path, &bytes);
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(err) => {
            let valid = err.utf8_error().valid_up_to();
            let line = err.as_bytes()[..valid].split(|&byte| byte == b'\n').count();
            let line = YamlPath::line(u32::try_from(line).unwrap_or(u32::MAX));
            report.error(&line, "the text is not UTF-8 from here on: save the file as UTF-8");
            None
        }
    }
}

/// Reads a text piece by piece; `false` if it is no YAML, or empty, which is reported.
fn pieces<'t>(
    content: &'t str,
    report: &mut Report,
    take: &mut dyn FnMut(Piece<'t>, &mut Report),
) -> bool {
    match yaml::read(content, MONITORS, &mut |piece| take(piece, report)) {
        Ok(true) => true,
        Ok(false) => {
            let message = "the file has no content (EOF): write at least `{}` or `[]`";
            report.error(&YamlPath::FILE, message);
            false
        }
        Err(faults) => {
            for fault in faults {
                report.error(&YamlPath::line(fault.line), fault.message);
            }
            false
        }
    }
}

/// The root of a file without the list of monitors, which are read as they come.
fn root<'t>(
    content: &'t str,
    report: &mut Report,
    drafts: &mut Drafts,
    item: fn(&YamlPath<'_>, usize, &mut Drafts, &mut Report),
) -> Option<Node<'t>> {
    let mut sections: Vec<Pair<'t>> = Vec::new();
    let whole = pieces(content, report, &mut |piece, report| match piece {
        Piece { key: Some((key, line)), index: None, node } => {
            sections.push(Pair { key, line, value: node });
        }
        Piece { key: Some((key, line)), index: Some(index), node } => {
            let root = YamlPath::line(line);
            let list = root.key(&key);
            drafts.monitor(&list.item(index, &node), Position::Monitors(index), report);
        }
        Piece { key: None, index: Some(index), node } => {
            item(&YamlPath::FILE.item(index, &node), index, drafts, report);
        }
        Piece { key: None, index: None, node } => {
            YamlPath::root(&node).keys(report).for_each(drop);
        }
    });
    whole.then(|| Node { line: 1, kind: Kind::Map(sections.into()) })
}

pub(super) fn configuration(
    content: &str,
    path: &Path,
    config: &mut Config,
    report: &mut Report,
    fingerprint: &mut Fingerprint,
) {
    let mut drafts = Drafts::default();
    let root = root(content, report, &mut drafts, |path, index, _, report| {
        if index == 0 {
            let line = YamlPath::line(path.number());
            report.error(&line, "must be a mapping, `key: value`, not a list");
        }
    });
    let Some(root) = root else { return };
    let root = YamlPath::root(&root);
    check_keys::<FileKeys>(&root, report);
    config.modules.extend(modules::modules(&root.key("modules"), report));
    let defaults = drafts.defaults(&root.key("defaults"), report);
    let _ = root.key(MONITORS).items(report);
    config.monitor_files = globs(&root.key("monitor_files"), path, report);
    config.canaries = monitors::canaries(&root.key("canaries"), &config.modules, report);
    config.access = Arc::new(access::access(&root.key("access"), &config.modules, report));
    let main_file = report.file.clone();
    for path in files::expand(path, &config.monitor_files) {
        report.file = Arc::new(path.clone());
        if let Some(content) = self::content(&path, report, fingerprint) {
            monitor_file(&content, &mut drafts, report);
        }
        config.files.push(path);
    }
    report.file = main_file;
    let mut listed = monitors::complete(drafts, &config.modules, &defaults, report);
    lint::monitors(&mut listed, report);
    let windows = root.key("maintenance");
    config.maintenance = maintenance::maintenance(&windows, &listed, Timestamp::now(), report);
    lint::modules(&root.key("modules"), &config.modules, &listed, report);
    config.options = defaults.options;
    config.monitors = listed.into_iter().map(|listed| Arc::new(listed.monitor)).collect();
}

/// A monitor file: `monitors: […]`, a list of monitors, or a list in the form of Prometheus's
/// file-based discovery, in YAML or JSON.
fn monitor_file(content: &str, drafts: &mut Drafts, report: &mut Report) {
    let root = root(content, report, drafts, |path, index, drafts, report| {
        if path.node().is_some_and(file_sd::is_group) {
            file_sd::group(index, path, drafts, report);
        } else {
            drafts.monitor(path, Position::Item(index), report);
        }
    });
    let Some(root) = root else { return };
    let root = YamlPath::root(&root);
    check_keys::<MonitorFileKeys>(&root, report);
    let _ = root.key(MONITORS).items(report);
}

/// Globs relative to the file that names them.
fn globs(place: &YamlPath<'_>, path: &Path, report: &mut Report) -> Vec<PathBuf> {
    let Some(keys) = read::<OneOrMany<Text>>(place, report) else { return Vec::new() };
    let base = path.parent().unwrap_or(Path::new(""));
    let mut globs = Vec::new();
    for (index, Text(text)) in keys.into_vec().iter().enumerate() {
        let place = place.index(index);
        // Only the part that was written is a pattern: the directory may be called `[a]`.
        let base = glob::Pattern::escape(&base.to_string_lossy());
        let pattern = Path::new(&base).join(text);
        if let Err(err) = glob::Pattern::new(&pattern.to_string_lossy()) {
            let message = format!("invalid glob `{}`: {}", excerpt(text), err.msg);
            report.error(&place, message);
            continue;
        }
        let found = files::expand(path, std::slice::from_ref(&pattern)).len();
        if found == 0 {
            report.warn(&place, format!("`{}` finds no file", excerpt(text)));
        }
        if found > MONITOR_FILES {
            let limit = MONITOR_FILES;
            let message =
                format!("`{}` finds more than {limit} files: narrow it down", excerpt(text));
            report.error(&place, message);
        }
        globs.push(pattern);
    }
    globs
}
