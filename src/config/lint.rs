//! Looks at everything together, with knowledge of the field.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ModuleEntry;
use crate::config::load::{Placed, by_name};
use crate::config::read::{Place, Report};
use crate::config::yaml::Node;

pub(super) fn modules(
    _node: &Node<'_>,
    _place: &Place<'_>,
    _modules: &BTreeMap<Arc<str>, ModuleEntry>,
    _report: &mut Report,
) {
}

/// Looks at all monitors together.
pub(super) fn monitors(placed: &mut Vec<Placed>, report: &mut Report) {
    let names = by_name(placed);
    for (index, it) in placed.iter().enumerate() {
        let first = names[&it.monitor.name];
        if first != index {
            let first = &placed[first];
            let message = format!(
                "name `{}` is taken by {}:{}: rename one",
                it.monitor.name,
                first.file.display(),
                first.line
            );
            it.error("name", message, report);
        }
    }
}
