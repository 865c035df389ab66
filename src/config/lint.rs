//! Looks at everything together, with knowledge of the field.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::config::listed::{Listed, Position, by_name};
use crate::config::read::{Report, YamlPath};
use crate::config::yaml::{Node, excerpt};
use crate::config::{ModuleEntry, duration};
use crate::monitor::Endpoint;

/// How long Prometheus waits for a scrape unless told otherwise.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Embedded modules and the ports where their protocol lives.
const PRESETS: &[(&str, &[u16])] = &[
    ("ftp", &[21]),
    ("ssh", &[22]),
    ("smtp", &[25, 587]),
    ("smtp_starttls", &[25, 587]),
    ("dns_tcp", &[53]),
    ("pop3", &[110]),
    ("pop3_starttls", &[110]),
    ("imap", &[143]),
    ("imap_starttls", &[143]),
    ("ldap", &[389]),
    ("smtps", &[465]),
    ("imaps", &[993]),
    ("pop3s", &[995]),
    ("mssql", &[1433]),
    ("mysql", &[3306]),
    ("postgresql", &[5432]),
    ("amqp", &[5672]),
    ("redis", &[6379]),
    ("mongodb", &[27017]),
];
/// Presets that speak TLS from the first byte.
const TLS_PRESETS: [&str; 3] = ["smtps", "imaps", "pop3s"];

/// Modules of the file that no monitor uses are there for `/probe`, where Prometheus's patience
/// is the limit.
pub(super) fn modules(
    path: &YamlPath<'_>,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    listed: &[Listed],
    report: &mut Report,
) {
    let used: HashSet<&str> = listed.iter().map(|listed| &*listed.monitor.module.name).collect();
    for pair in path.node().into_iter().flat_map(Node::pairs) {
        let Some(ModuleEntry::Tcp(module)) = modules.get(&*pair.key) else { continue };
        let Some(timeout) = module.timeout.filter(|&timeout| timeout > SCRAPE_TIMEOUT) else {
            continue;
        };
        if !used.contains(&*pair.key) {
            let timeout = duration::prometheus(timeout);
            let message = format!(
                "Prometheus ends a scrape after {}, unless `scrape_timeout` says otherwise, so \
                 `/probe` does not wait {timeout}",
                duration::prometheus(SCRAPE_TIMEOUT)
            );
            report.warn(&path.key(&pair.key).key("timeout"), message);
        }
    }
}

/// Looks at all monitors together.
pub(super) fn monitors(all: &mut Vec<Listed>, report: &mut Report) {
    repeated(all, report);
    names(all, report);
    dependencies(all, report);
    groups(all, report);
    targets(all, report);
    for listed in &*all {
        times(listed, report);
        presets(listed, report);
    }
}

/// Discovery often finds a target twice; that is no reason to refuse the file.
fn repeated(all: &mut Vec<Listed>, report: &mut Report) {
    let discovered = |listed: &Listed| matches!(listed.origin.position, Position::Target(..));
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(all.len());
    for listed in all.drain(..) {
        let key = |listed: &Listed| {
            let monitor = &listed.monitor;
            let address = monitor.endpoints.first().map(|endpoint| endpoint.address.clone());
            (monitor.name.clone(), address, monitor.module.name.clone())
        };
        if discovered(&listed) && !seen.insert(key(&listed)) {
            let message = "this target is listed before: it is probed once".to_owned();
            listed.origin.warn(&[], message, report);
        } else {
            kept.push(listed);
        }
    }
    *all = kept;
}

fn names(all: &[Listed], report: &mut Report) {
    let names = by_name(all);
    for (index, listed) in all.iter().enumerate() {
        let Some(first) = names.get(&listed.monitor.name).filter(|&&first| first != index) else {
            continue;
        };
        let first = &all[*first];
        let message = format!(
            "name `{}` is taken by {}:{}: rename one",
            excerpt(&listed.monitor.name),
            first.origin.file.display(),
            first.origin.line
        );
        listed.origin.error(&["name"], message, report);
    }
}

fn dependencies(all: &[Listed], report: &mut Report) {
    let names = by_name(all);
    for listed in all {
        let Some(depends_on) = &listed.monitor.depends_on else { continue };
        if names.contains_key(depends_on) {
            continue;
        }
        let near = report.nearest(depends_on, names.keys().map(|name| &**name));
        let message = match near {
            Some(near) => {
                format!("no monitor is called `{}`: did you mean `{near}`?", excerpt(depends_on))
            }
            None => format!("no monitor is called `{}`", excerpt(depends_on)),
        };
        listed.origin.error(&["depends_on"], message, report);
    }
    // Each monitor depends on at most one other, so a walk from each finds every cycle; what a
    // walk has passed is never walked again.
    let mut walked = vec![0usize; all.len()];
    for start in 0..all.len() {
        let mut here = start;
        let mut path: Vec<usize> = Vec::new();
        while walked[here] == 0 {
            walked[here] = start + 1;
            path.push(here);
            let next = all[here].monitor.depends_on.as_ref().and_then(|name| names.get(name));
            match next {
                Some(&next) => here = next,
                None => break,
            }
        }
        let in_this_walk = walked[here] == start + 1;
        let Some(first) = path.iter().position(|&index| index == here).filter(|_| in_this_walk)
        else {
            continue;
        };
        let closes = all[path[path.len() - 1]].monitor.depends_on.as_ref();
        if closes.and_then(|name| names.get(name)) != Some(&here) {
            continue;
        }
        let mut circle: Vec<&str> =
            path[first..].iter().map(|&index| &*all[index].monitor.name).collect();
        circle.push(&all[here].monitor.name);
        let message = format!("monitors explain each other in a circle: {}", excerpt_list(&circle));
        all[here].origin.error(&["depends_on"], message, report);
    }
}

fn excerpt_list(names: &[&str]) -> String {
    /// More names than this make no line.
    const MOST: usize = 8;
    let mut shown: Vec<String> =
        names.iter().take(MOST).map(|name| format!("`{}`", excerpt(name))).collect();
    if names.len() > MOST {
        shown.push("…".to_owned());
    }
    shown.join(" → ")
}

fn groups(all: &[Listed], report: &mut Report) {
    struct Group<'p> {
        first: &'p Listed,
        members: usize,
        min_up: NonZeroU32,
    }
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for listed in all {
        let Some(membership) = &listed.monitor.group else { continue };
        let group = groups.entry(&membership.name).or_insert(Group {
            first: listed,
            members: 0,
            min_up: membership.min_up,
        });
        group.members += listed.monitor.endpoints.len();
        if membership.min_up != group.min_up {
            let message = format!(
                "group `{}` needs {} up in line {} of {}: write the same `min_up` everywhere",
                excerpt(&membership.name),
                group.min_up,
                group.first.origin.line,
                group.first.origin.file.display()
            );
            listed.origin.error(&["group"], message, report);
        }
    }
    for (name, group) in groups {
        let (name, members) = (excerpt(name), group.members);
        if usize::try_from(group.min_up.get()).is_ok_and(|min_up| min_up > members) {
            let message = format!(
                "group `{name}` has {members} target{}, of which {} can never be up: write a \
                 lower `min_up`",
                if members == 1 { "" } else { "s" },
                group.min_up
            );
            group.first.origin.error(&["group"], message, report);
        } else if members == 1 {
            let message = format!(
                "group `{name}` has a single target, which nobody stands in for: add another, \
                 or remove the group"
            );
            group.first.origin.warn(&["group"], message, report);
        }
    }
}

fn targets(all: &[Listed], report: &mut Report) {
    let mut seen: HashMap<(&Address, &str), usize> = HashMap::new();
    for (index, listed) in all.iter().enumerate() {
        let monitor = &listed.monitor;
        for Endpoint { address, .. } in &monitor.endpoints {
            let key = (address, &*monitor.module.name);
            let first = *seen.entry(key).or_insert(index);
            if first != index {
                let message = format!(
                    "`{address}` is probed by monitor `{}` too, with the same module",
                    excerpt(&all[first].monitor.name)
                );
                listed.origin.warn(&["host"], message, report);
                break;
            }
        }
    }
}

fn times(listed: &Listed, report: &mut Report) {
    let monitor = &listed.monitor;
    let retry_interval = monitor.confirm.retry_interval;
    if retry_interval > monitor.interval {
        let message = format!(
            "re-checks every {} are slower than the interval of {}: confirmation takes longer \
             than the schedule suggests",
            duration::prometheus(retry_interval),
            duration::prometheus(monitor.interval)
        );
        listed.origin.warn(&["confirm", "retry_interval"], message, report);
    }
    if let Some(slow) = monitor.slow.filter(|&slow| slow >= monitor.timeout) {
        let message = format!(
            "no success can be slower than {}, since the timeout is {}",
            duration::prometheus(slow),
            duration::prometheus(monitor.timeout)
        );
        listed.origin.warn(&["slow"], message, report);
    }
}

fn presets(listed: &Listed, report: &mut Report) {
    let module = &*listed.monitor.module.name;
    for Endpoint { address: Address { port: number, .. }, .. } in &listed.monitor.endpoints {
        let here = || PRESETS.iter().filter(|(_, ports)| ports.contains(number));
        let Some((owner, _)) = here().next() else { continue };
        let known = PRESETS.iter().any(|(name, _)| *name == module);
        let message = if known && here().all(|(name, _)| *name != module) {
            format!("port {number} is usually `{owner}`, not `{module}`: check port and module")
        } else if module == "tls_connect" && !TLS_PRESETS.contains(owner) {
            format!("port {number} is usually `{owner}`, which does not begin with TLS")
        } else if module == "tcp_connect" && *owner == "mysql" {
            "MySQL counts bare connects as errors and blocks the exporter's host in the end: \
             use module `mysql`"
                .to_owned()
        } else {
            continue;
        };
        listed.origin.warn(&["module"], message, report);
    }
}
