//! Lists of targets in the form of Prometheus's file-based discovery.
//!
//! Each target becomes a monitor. What Prometheus's own labels mean for a scrape they mean here:
//! `__param_module` names the module, `__param_target` the target, `__scrape_interval__` and
//! `__scrape_timeout__` the times. `__tcp_KEY` is for everything else that a monitor can say;
//! other labels in double underscores, `__meta_…` among them, are dropped as Prometheus drops
//! them; the rest are free labels.

use std::borrow::Cow;

use crate::config::listed::Position;
use crate::config::monitors::Drafts;
use crate::config::read::{Report, YamlPath, check_keys, read, read_renamed};
use crate::config::scalar::{TargetText, Text};
use crate::config::schema::{MonitorKeys, TargetGroupKeys};
use crate::config::yaml::{Kind, Node, Pair, excerpt};

/// What `__tcp_KEY` sets, and the mapping within a monitor that holds it.
const KEYS: [(&str, Option<&str>, &str); 18] = [
    ("name", None, "name"),
    ("module", None, "module"),
    ("interval", None, "interval"),
    ("down_interval", None, "down_interval"),
    ("timeout", None, "timeout"),
    ("slow", None, "slow"),
    ("slo", None, "slo"),
    ("addresses", None, "addresses"),
    ("path", None, "path"),
    ("depends_on", None, "depends_on"),
    ("failures", Some("confirm"), "failures"),
    ("successes", Some("confirm"), "successes"),
    ("retry_interval", Some("confirm"), "retry_interval"),
    ("regions", Some("confirm"), "regions"),
    ("group", Some("group"), "name"),
    ("role", Some("group"), "role"),
    ("min_up", Some("group"), "min_up"),
    ("target", None, "target"),
];

/// Whether an entry of a list is one of Prometheus: it has `targets`.
pub(super) fn is_group(node: &Node<'_>) -> bool {
    node.pair("targets").is_some()
}

/// Reads `{targets: […], labels: {…}}`.
pub(super) fn group(group: usize, path: &YamlPath<'_>, drafts: &mut Drafts, report: &mut Report) {
    check_keys::<TargetGroupKeys>(path, report);
    let labels_path = path.key("labels");
    let template = Template::of(&labels_path, report);
    let keys: MonitorKeys =
        read_renamed(&template.monitor, &template.names, &labels_path, report).unwrap_or_default();
    let name = keys.name.clone();
    let own = drafts.template(keys, &labels_path, report);
    let target = template.target.map(|key| labels_path.key(key));
    let target = target.and_then(|path| read::<TargetText>(&path, report));
    let targets_path = path.key("targets");
    for (index, node) in targets_path.items(report).iter().enumerate() {
        let path = targets_path.index(index);
        let Some(shown) = node.text() else {
            report.error(&path, format!("must be host:port, not {}", node.describe()));
            continue;
        };
        let address = match &target {
            Some(target) => target.0.clone(),
            None => match TargetText::try_from(Text(shown.to_owned())) {
                Ok(target) => target.0,
                Err(message) => {
                    report.error(&path, message);
                    continue;
                }
            },
        };
        let name = name.as_ref().map_or(shown, |name| &name.0);
        drafts.target(name, &address, &own, Position::Target(group, index), &path, report);
    }
}

/// What the labels of a group say about each of its targets.
struct Template<'n> {
    /// As the keys of a monitor.
    monitor: Node<'n>,
    /// Which label each key comes from.
    names: Vec<(&'static str, &'n str)>,
    /// The label that names what is probed instead of the target.
    target: Option<&'n str>,
}

impl<'n> Template<'n> {
    fn of(path: &YamlPath<'n>, report: &mut Report) -> Self {
        let mut names: Vec<(&'static str, &'n str)> = Vec::new();
        let mut target = None;
        let mut free: Vec<Pair<'n>> = Vec::new();
        let labels: Vec<&'n str> = path.keys(report).collect();
        for label in labels {
            let key = match label {
                "__param_module" => "module",
                "__param_target" => "target",
                "__scrape_interval__" => "interval",
                "__scrape_timeout__" => "timeout",
                name => match name.strip_prefix("__tcp_") {
                    Some(key) => key,
                    None if name.starts_with("__") => continue,
                    None => {
                        free.extend(path.node().and_then(|node| node.pair(label)).cloned());
                        continue;
                    }
                },
            };
            let Some((key, _, _)) = KEYS.iter().find(|(name, _, _)| *name == key) else {
                let message = match report.nearest(key, KEYS.iter().map(|(name, _, _)| *name)) {
                    Some(near) => format!("unknown key: did you mean `__tcp_{near}`?"),
                    None => format!("unknown key `{}`: a monitor has none such", excerpt(key)),
                };
                report.error(&path.key(label), message);
                continue;
            };
            // The own word for a thing wins over the one of Prometheus.
            let own = label.starts_with("__tcp_");
            if *key == "target" {
                target = target.filter(|_| !own).or(Some(label));
                continue;
            }
            match names.iter_mut().find(|(known, _)| known == key) {
                Some(known) if own => known.1 = label,
                Some(_) => {}
                None => names.push((key, label)),
            }
        }
        let monitor = monitor(path, &names, free);
        Self { monitor, names, target }
    }
}

/// The keys of a monitor, from the labels that set them.
fn monitor<'n>(
    path: &YamlPath<'n>,
    names: &[(&'static str, &'n str)],
    free: Vec<Pair<'n>>,
) -> Node<'n> {
    let line = path.number();
    let pairs = |parent: Option<&str>| -> Vec<Pair<'n>> {
        let names = names.iter().filter_map(|(name, label)| {
            let (_, holder, key) = KEYS.iter().find(|(known, _, _)| known == name)?;
            let pair = path.node()?.pair(label)?;
            let value = pair.value.clone();
            (*holder == parent).then_some(Pair { key: Cow::Borrowed(*key), line: pair.line, value })
        });
        names.collect()
    };
    let mut monitor = pairs(None);
    let inner =
        [("confirm", pairs(Some("confirm"))), ("group", pairs(Some("group"))), ("labels", free)];
    for (key, pairs) in inner.into_iter().filter(|(_, pairs)| !pairs.is_empty()) {
        let value = Node { line, kind: Kind::Map(pairs.into()) };
        monitor.push(Pair { key: Cow::Borrowed(key), line, value });
    }
    Node { line, kind: Kind::Map(monitor.into()) }
}
