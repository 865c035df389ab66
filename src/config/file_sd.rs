//! Lists of targets in the form of Prometheus's file-based discovery.
//!
//! Each target becomes a monitor. What Prometheus's own labels mean for a scrape they mean here:
//! `__param_module` names the module, `__param_target` the target, `__scrape_interval__` and
//! `__scrape_timeout__` the times. `__tcp_KEY` is for everything else that a monitor can say;
//! other labels in double underscores, `__meta_…` among them, are dropped as Prometheus drops
//! them; the rest are free labels.

use crate::config::load::{Origin, Placed};
use crate::config::monitors::{self, Context};
use crate::config::read::{Fields, Place, Report, entries, items, text};
use crate::config::yaml::{Arena, Entry, Kind, Node, excerpt};

/// What `__tcp_KEY` sets, and the mapping within a monitor that holds it.
const KEYS: [(&str, Option<&str>, &str); 16] = [
    ("name", None, "name"),
    ("module", None, "module"),
    ("interval", None, "interval"),
    ("timeout", None, "timeout"),
    ("slow", None, "slow"),
    ("slo", None, "slo"),
    ("addresses", None, "addresses"),
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
    match &node.kind {
        Kind::Map(entries) => entries.iter().any(|it| it.key == "targets"),
        Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) => false,
    }
}

/// Reads `{targets: […], labels: {…}}`.
pub(super) fn group(
    node: &Node<'_>,
    index: usize,
    place: &Place<'_>,
    report: &mut Report,
    context: &mut Context<'_>,
    placed: &mut Vec<Placed>,
) {
    let Some(mut fields) = Fields::open(node, place, report) else { return };
    let targets = fields.take("targets");
    let labels = fields.take("labels");
    fields.close(place, report);
    let arena = Arena::new();
    let template = match labels {
        Some(node) => template(node, &place.key("labels"), report, &arena),
        None => Template::default(),
    };
    let targets_place = place.key("targets");
    let targets = targets.and_then(|it| items(it, &targets_place, report)).unwrap_or_default();
    for (position, node) in targets.iter().enumerate() {
        let place = targets_place.index(position);
        let Some(shown) = text(node, &place, report) else { continue };
        let source = template.target.as_ref().unwrap_or(node);
        let Some(address) = monitors::address(source, &place, report) else { continue };
        let (host, port) = (address.host.to_string(), address.port.to_string());
        let own = [("name", shown), ("host", &host), ("port", &port)];
        // What the labels say comes first, so that `__tcp_name` wins.
        let mut entries = template.entries.clone();
        for (key, value) in own {
            if entries.iter().all(|it| it.key != key) {
                let value = Node { line: node.line, kind: Kind::Quoted(value) };
                entries.push(Entry { key, line: node.line, value });
            }
        }
        let monitor = Node { line: node.line, kind: Kind::Map(&entries) };
        let errors = report.errors.len();
        let monitor = monitors::monitor(&monitor, &place, report, context);
        // The target itself is fine, so the labels are at fault, for every target alike.
        let Some(monitor) = monitor.filter(|_| report.errors.len() == errors) else { return };
        let file = report.file.clone();
        let path = Origin::Target(index, position);
        placed.push(Placed { monitor, file, line: node.line, path });
    }
}

/// What the labels of a group say about each of its targets, as entries of a monitor.
#[derive(Default)]
struct Template<'n> {
    entries: Vec<Entry<'n>>,
    target: Option<Node<'n>>,
}

fn template<'n>(
    node: &Node<'n>,
    place: &Place<'_>,
    report: &mut Report,
    arena: &'n Arena,
) -> Template<'n> {
    let mut template = Template::default();
    let mut confirm: Vec<Entry<'n>> = Vec::new();
    let mut group: Vec<Entry<'n>> = Vec::new();
    let mut free: Vec<Entry<'n>> = Vec::new();
    for entry in entries(node, place, report).unwrap_or_default() {
        let key = match entry.key {
            "__param_module" => "module",
            "__param_target" => "target",
            "__scrape_interval__" => "interval",
            "__scrape_timeout__" => "timeout",
            name => match name.strip_prefix("__tcp_") {
                Some(key) => key,
                None if name.starts_with("__") => continue,
                None => {
                    free.push(*entry);
                    continue;
                }
            },
        };
        let Some((_, parent, key)) = KEYS.iter().find(|(name, _, _)| *name == key) else {
            let place = place.key(entry.key);
            let message = match report.nearest(key, KEYS.iter().map(|(name, _, _)| *name)) {
                Some(near) => format!("unknown key: did you mean `__tcp_{near}`?"),
                None => format!("nothing of a monitor is called `{}`", excerpt(key)),
            };
            report.error(entry.line, &place, message);
            continue;
        };
        let renamed = Entry {
            key,
            line: entry.line,
            value: Node { line: entry.line, kind: entry.value.kind },
        };
        let list = match parent {
            Some("confirm") => &mut confirm,
            Some(_) => &mut group,
            None if *key == "target" => {
                template.target = Some(renamed.value);
                continue;
            }
            None => &mut template.entries,
        };
        // The own word for a thing wins over the one of Prometheus.
        let own = entry.key.starts_with("__tcp_");
        match list.iter().position(|it| it.key == *key) {
            Some(taken) if own => list[taken] = renamed,
            Some(_) => {}
            None => list.push(renamed),
        }
    }
    for (key, list) in [("confirm", confirm), ("group", group), ("labels", free)] {
        if !list.is_empty() {
            let kind = Kind::Map(arena.alloc_slice_copy(&list));
            let value = Node { line: node.line, kind };
            template.entries.push(Entry { key, line: node.line, value });
        }
    }
    template
}
