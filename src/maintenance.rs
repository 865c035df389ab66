//! Windows of maintenance: when they are, and for which monitors. Pure: the time is an argument.
//!
//! Probes go on in a window; only alerts are held back. A weekly window is written in local time:
//! where a clock change makes one of its times ambiguous or skips it, it starts at the earlier and
//! ends at the later reading, so that work planned by the wall clock is always covered.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::monitor::Monitor;

/// Every window that is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Maintenance {
    /// In the order of the file.
    pub windows: Vec<Window>,
}

/// When, and for which monitors.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Which monitors.
    pub selector: Selector,
    /// When.
    pub times: Times,
}

/// Which monitors: those that satisfy every part that is not empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    /// Names, one of which is that of the monitor; `*` is every name.
    pub monitors: Vec<Arc<str>>,
    /// Groups, one of which is that of the monitor.
    pub groups: Vec<Arc<str>>,
    /// Labels, all of which the monitor has.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

impl Selector {
    /// The name that stands for every monitor.
    pub const EVERY: &'static str = "*";

    /// Whether a monitor is meant.
    #[must_use]
    pub fn selects(&self, monitor: &Monitor) -> bool {
        let among = |names: &[Arc<str>], name: Option<&Arc<str>>| {
            names.is_empty() || names.iter().any(|known| Some(known) == name)
        };
        let every = self.monitors.iter().any(|name| **name == *Self::EVERY);
        (every || among(&self.monitors, Some(&monitor.name)))
            && among(&self.groups, monitor.group.as_ref().map(|group| &group.name))
            && self.labels.iter().all(|(name, value)| monitor.labels.get(name) == Some(value))
    }
}

/// When a window is open: from its start up to, and without, its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Times {
    /// Once. Invariant: the start is before the end.
    Once {
        /// Its start.
        start: Timestamp,
        /// Its end.
        end: Timestamp,
    },
    /// Every week.
    Weekly(Weekly),
}

/// A window of every week, in local time.
#[derive(Clone, Debug, PartialEq)]
pub struct Weekly {
    /// The days on which it starts. Invariant: not empty.
    pub days: Vec<Weekday>,
    /// Its start.
    pub start: Time,
    /// Its end; on the following day unless it is after the start.
    pub end: Time,
    /// Whose clock.
    pub time_zone: TimeZone,
}

impl Times {
    /// The end of the window that is open at `now`, if one is.
    #[must_use]
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Once { start, end } => (*start <= now && now < *end).then_some(*end),
            Self::Weekly(weekly) => weekly.open_until(now),
        }
    }
}

impl Weekly {
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.time_zone.to_datetime(now).date();
        // A window takes up to a day; a change of the clock moves it by up to another.
        let days = (-2..=1).filter_map(|days| today.checked_add(Span::new().days(days)).ok());
        days.filter(|day| self.days.contains(&day.weekday()))
            .filter_map(|day| self.on(day))
            .filter(|(start, end)| *start <= now && now < *end)
            .map(|(_, end)| end)
            .max()
    }

    /// Start and end of the window that starts on a day.
    fn on(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let last = if self.end > self.start { day } else { day.tomorrow().ok()? };
        let start = self.time_zone.to_ambiguous_timestamp(day.to_datetime(self.start));
        let end = self.time_zone.to_ambiguous_timestamp(last.to_datetime(self.end));
        Some((start.earlier().ok()?, end.later().ok()?))
    }
}

impl Maintenance {
    /// What is open at a moment.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> OpenWindows<'_> {
        let open = self.windows.iter().filter(|window| window.times.open_until(now).is_some());
        OpenWindows { all: &self.windows, open: open.collect(), now }
    }
}

/// The windows that are open at one moment: usually none, so that large fleets cost nothing.
#[derive(Debug)]
pub struct OpenWindows<'m> {
    all: &'m [Window],
    open: Vec<&'m Window>,
    now: Timestamp,
}

impl OpenWindows<'_> {
    /// Windows in a row that are followed to find the end of the last one.
    const LONGEST_ROW: usize = 31;

    /// Whether a monitor is in maintenance.
    #[must_use]
    pub fn cover(&self, monitor: &Monitor) -> bool {
        self.open.iter().any(|window| window.selector.selects(monitor))
    }

    /// When the maintenance of a monitor ends, if it is in one. Windows that overlap, or follow
    /// each other without a break, are one.
    #[must_use]
    pub fn end(&self, monitor: &Monitor) -> Option<Timestamp> {
        if !self.cover(monitor) {
            return None;
        }
        let windows = self.all.iter().filter(|window| window.selector.selects(monitor));
        let windows: Vec<&Times> = windows.map(|window| &window.times).collect();
        let latest = |at: Timestamp| windows.iter().filter_map(|times| times.open_until(at)).max();
        let ends = iter::successors(latest(self.now), |end| latest(*end));
        ends.take(Self::LONGEST_ROW).last()
    }
}

#[cfg(test)]
mod tests;
