//! Lists of targets in the form of Prometheus's file-based discovery.

use crate::config::load::Placed;
use crate::config::monitors::Context;
use crate::config::read::{Place, Report};
use crate::config::yaml::{Kind, Node};

/// Whether an entry of a list is one of Prometheus: it has `targets`.
pub(super) fn is_group(node: &Node<'_>) -> bool {
    match &node.kind {
        Kind::Map(entries) => entries.iter().any(|it| it.key == "targets"),
        Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) => false,
    }
}

pub(super) fn group(
    _node: &Node<'_>,
    _index: usize,
    _place: &Place<'_>,
    _report: &mut Report,
    _context: &mut Context<'_>,
    _placed: &mut Vec<Placed>,
) {
}
