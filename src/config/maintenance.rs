//! `maintenance:` – when alerts are held back, and for which monitors.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::listed::Listed;
use crate::config::read::{Report, YamlPath, read};
use crate::config::scalar::{ClockTime, Name, OneOrMany, Text};
use crate::config::schema::{WeeklyKeys, WindowKeys};
use crate::config::yaml::excerpt;
use crate::maintenance::{Maintenance, Selector, Times, Weekly, Window};
use crate::monitor::Monitor;

/// More windows than this are not kept by hand: `labels` and `groups` cover many monitors at once.
const MAX_WINDOWS: usize = 1000;

/// Reads `maintenance:`. At `now` a window may be past.
pub(super) fn maintenance(
    path: &YamlPath<'_>,
    listed: &[Listed],
    now: Timestamp,
    report: &mut Report,
) -> Maintenance {
    let count = path.items(report).len();
    if count > MAX_WINDOWS {
        let message = format!(
            "{count} windows are too many: write at most {MAX_WINDOWS}, and select monitors by \
             `labels` or `groups`"
        );
        report.error(path, message);
        return Maintenance::default();
    }
    let known = Known::of(listed);
    let mut windows = Vec::new();
    for index in 0..count {
        let path = path.index(index);
        if !path.is_map() {
            report.error(&path, "must be a window, `{monitors: db, start: …, end: …}`");
            continue;
        }
        let Some(keys) = read::<WindowKeys>(&path, report) else { continue };
        let times = times(&keys, &path, report);
        let Some(selector) = selector(keys, &path, report) else { continue };
        known.check(&selector, &path, report);
        let Some(times) = times else { continue };
        if let Times::Once { end, .. } = times
            && end <= now
        {
            report.warn(&path.key("end"), "the window is past: remove it");
        }
        windows.push(Window { selector, times });
    }
    Maintenance { windows }
}

fn times(keys: &WindowKeys, path: &YamlPath<'_>, report: &mut Report) -> Option<Times> {
    let once = ["start", "end"].into_iter().filter(|key| !path.lacks(key)).count();
    match (once, path.lacks("weekly")) {
        (0, false) => return weekly(keys.weekly.as_ref()?, &path.key("weekly"), report),
        (_, false) => {
            let message = "`weekly` and `start`, `end` are mutually exclusive: remove one";
            report.error(&path.key("weekly"), message);
            return None;
        }
        (2, true) => {}
        (_, true) => {
            report.error(path, "the window has no times: write `start` and `end`, or `weekly`");
            return None;
        }
    }
    let (start, end) = (keys.start.as_ref()?.0, keys.end.as_ref()?.0);
    if end <= start {
        report.error(&path.key("end"), format!("the end is not after the start, {start}"));
        return None;
    }
    Some(Times::Once { start, end })
}

fn weekly(keys: &WeeklyKeys, path: &YamlPath<'_>, report: &mut Report) -> Option<Times> {
    for key in ["days", "start", "end", "time_zone"] {
        if path.lacks(key) {
            let example = match key {
                "days" => "[sat, sun]",
                "time_zone" => "Europe/Berlin",
                _ => "'22:00'",
            };
            report.error(path, format!("`{key}` is missing: write `{key}: {example}`"));
        }
    }
    let days_path = path.key("days");
    if days_path.is_empty() {
        report.error(&days_path, "the list is empty: write the days on which the window starts");
        return None;
    }
    let days = keys.days.clone()?.into_vec().into_iter().map(|day| day.0).collect();
    let (ClockTime(start), ClockTime(end)) = (keys.start?, keys.end?);
    let time_zone = keys.time_zone.clone()?.0;
    Some(Times::Weekly(Weekly { days, start, end, time_zone }))
}

fn selector(keys: WindowKeys, path: &YamlPath<'_>, report: &mut Report) -> Option<Selector> {
    let parts = ["monitors", "groups", "labels"];
    if parts.into_iter().all(|key| path.lacks(key)) {
        let message = "the window is for no monitor: write `monitors`, `groups` or `labels`, or \
                       `monitors: '*'` for all of them";
        report.error(path, message);
        return None;
    }
    let mut complete = true;
    for key in parts {
        let path = path.key(key);
        if path.is_empty() {
            report.error(&path, "nothing is listed: fill it in, or remove the key");
            complete = false;
        }
    }
    let names = |keys: Option<OneOrMany<Name>>| {
        keys.into_iter().flat_map(OneOrMany::into_vec).map(|Name(name)| Arc::from(name)).collect()
    };
    let label =
        |(name, value): (String, Option<Text>)| Some((Arc::from(name), Arc::from(value?.0)));
    complete.then(|| Selector {
        monitors: names(keys.monitors),
        groups: names(keys.groups),
        labels: keys.labels.into_iter().flatten().filter_map(label).collect(),
    })
}

/// What windows can name.
struct Known<'l> {
    monitors: Vec<&'l Monitor>,
    names: HashSet<&'l str>,
    groups: HashSet<&'l str>,
}

impl<'l> Known<'l> {
    fn of(listed: &'l [Listed]) -> Self {
        let monitors: Vec<&Monitor> = listed.iter().map(|listed| &listed.monitor).collect();
        let group = |monitor: &&'l Monitor| Some(&*monitor.group.as_ref()?.name);
        let names = monitors.iter().map(|monitor| &*monitor.name).collect();
        let groups = monitors.iter().filter_map(group).collect();
        Self { monitors, names, groups }
    }

    /// Warns of what matches nothing. Not an error: a discovered monitor may come back.
    fn check(&self, selector: &Selector, path: &YamlPath<'_>, report: &mut Report) {
        let mut unknown = false;
        let parts = [
            ("monitors", "monitor", &selector.monitors, &self.names),
            ("groups", "group", &selector.groups, &self.groups),
        ];
        for (key, what, listed, known) in parts {
            let path = path.key(key);
            for (index, name) in listed.iter().enumerate() {
                if known.contains(&**name) || **name == *Selector::EVERY && key == "monitors" {
                    continue;
                }
                unknown = true;
                let shown = excerpt(name);
                let near = report.nearest(name, known.iter().copied());
                let near = near.map(|near| format!(": did you mean `{near}`?"));
                let message = format!("no {what} is called `{shown}`{}", near.unwrap_or_default());
                report.warn(&path.index(index), message);
            }
        }
        if !unknown && !self.monitors.iter().any(|monitor| selector.selects(monitor)) {
            let message = "the window matches no monitor: check `monitors`, `groups` and `labels`";
            report.warn(path, message);
        }
    }
}
