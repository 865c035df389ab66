//! `access:` – who may probe what.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::access::{Access, Rule, Rules};
use crate::config::ModuleEntry;
use crate::config::read::{Fields, Place, Report, entries, items, text};
use crate::config::yaml::{Kind, Node};

/// Reads `access:`.
pub(super) fn access(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
) -> Access {
    let Some(mut fields) = Fields::open(node, place, report) else { return Access::default() };
    let everyone = rules(&mut fields, place, report);
    let mut by_module = BTreeMap::new();
    if let Some(node) = fields.take("modules") {
        let place = place.key("modules");
        for entry in entries(node, &place, report).unwrap_or_default() {
            let place = place.key(entry.key);
            if !modules.contains_key(entry.key) {
                let known = modules.keys().map(|it| &**it);
                let message = match report.nearest(entry.key, known) {
                    Some(near) => format!("unknown module: did you mean `{near}`?"),
                    None => "unknown module: define it under `modules`".to_owned(),
                };
                report.error(entry.line, &place, message);
            }
            let Some(mut fields) = Fields::open(&entry.value, &place, report) else { continue };
            let rules = rules(&mut fields, &place, report);
            fields.close(&place, report);
            by_module.insert(Arc::from(entry.key), rules);
        }
    }
    fields.close(place, report);
    Access::new(everyone, by_module)
}

fn rules(fields: &mut Fields<'_>, place: &Place<'_>, report: &mut Report) -> Rules {
    let mut list = |key: &'static str| {
        let Some(node) = fields.take(key) else { return Vec::new() };
        let place = place.key(key);
        let one = std::slice::from_ref(node);
        let nodes = match &node.kind {
            Kind::Plain(_) | Kind::Quoted(_) => Some(one),
            Kind::List(_) | Kind::Map(_) | Kind::Binary(_) => items(node, &place, report),
        };
        // An empty list of what is allowed would allow everything, which is hardly meant.
        if key == "allow" && nodes.is_some_and(<[_]>::is_empty) {
            let message = "the list is empty: remove it, or write `*` for everything";
            report.error(node.line, &place, message);
        }
        let nodes = nodes.unwrap_or_default().iter().enumerate();
        nodes.filter_map(|(index, node)| rule(node, &place.index(index), report)).collect()
    };
    Rules { allow: list("allow"), deny: list("deny") }
}

fn rule(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Rule> {
    let text = text(node, place, report)?;
    match Rule::parse(text) {
        Ok(rule) => Some(rule),
        Err(message) => {
            report.error(node.line, place, message);
            None
        }
    }
}
