//! The newest results of `/probe`, for people who ask why. Bounded in number and in bytes.
//!
//! A failure that falls out of the list of all results moves to a list of its own, so that a
//! rare failure outlives many successes.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::limits::HISTORY_BYTES;
use crate::module::Module;
use crate::outcome::ProbeResult;
use crate::prober::journal::Line;

/// One result.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counted from 0 since the start.
    pub id: u64,
    /// When the probe ended.
    pub at: Timestamp,
    /// How.
    pub module: Arc<Module>,
    /// Name for SNI and verification that came with the request.
    pub hostname: Option<String>,
    /// What, as asked for.
    pub target: String,
    /// What was found.
    pub result: ProbeResult,
    /// What the probe wrote down.
    pub lines: Vec<Line>,
}

impl Entry {
    /// About how much memory it occupies.
    fn bytes(&self) -> usize {
        let lines: usize = self.lines.iter().map(|it| size_of::<Line>() + it.message.len()).sum();
        let detail = self.result.detail.as_ref().map_or(0, |it| it.len());
        let hostname = self.hostname.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.target.len() + hostname + detail + lines
    }
}

/// The newest results.
#[derive(Debug)]
pub struct History {
    limit: usize,
    max_bytes: usize,
    /// Guards the lists; held for pushes and look-ups only.
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    next_id: u64,
    bytes: usize,
    /// Oldest first, both.
    newest: VecDeque<Arc<Entry>>,
    failures: VecDeque<Arc<Entry>>,
}

impl History {
    /// A history of at most `limit` results, and as many older failures.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { limit, max_bytes: HISTORY_BYTES, lists: Mutex::default() }
    }

    /// Adds a result; its id is given here.
    pub fn add(&self, mut entry: Entry) {
        let mut lists = self.lists();
        entry.id = lists.next_id;
        lists.next_id += 1;
        lists.bytes += entry.bytes();
        lists.newest.push_back(Arc::new(entry));
        while lists.newest.len() > self.limit {
            lists.retire(self.limit);
        }
        while lists.bytes > self.max_bytes && lists.newest.len() > 1 {
            // Old failures make room first only when there is nothing but them to give.
            if lists.newest.len() > lists.failures.len() {
                lists.retire(self.limit);
            } else {
                lists.forget_failure();
            }
        }
    }

    /// Every result, newest first, each once.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let lists = self.lists();
        lists.newest.iter().rev().chain(lists.failures.iter().rev()).cloned().collect()
    }

    /// The result of an id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<Arc<Entry>> {
        self.find(|it| it.id == id)
    }

    /// The result of a target, and of a module if one is given: an old failure if there is one,
    /// the oldest first, since that is what `blackbox_exporter` shows.
    #[must_use]
    pub fn by_target(&self, target: &str, module: Option<&str>) -> Option<Arc<Entry>> {
        self.find(|it| it.target == target && module.is_none_or(|name| *it.module.name == *name))
    }

    fn find(&self, wanted: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let lists = self.lists();
        lists.failures.iter().chain(&lists.newest).find(|it| wanted(it)).cloned()
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lists {
    /// Takes the oldest result out of the list of all; a failure moves to the other list.
    fn retire(&mut self, limit: usize) {
        let Some(entry) = self.newest.pop_front() else { return };
        if entry.result.outcome.is_success() || limit == 0 {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
            return;
        }
        self.failures.push_back(entry);
        if self.failures.len() > limit {
            self.forget_failure();
        }
    }

    fn forget_failure(&mut self) {
        if let Some(entry) = self.failures.pop_front() {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::{Outcome, Phase, Reason};

    fn entry(target: &str, outcome: Outcome) -> Entry {
        Entry {
            id: 0,
            at: Timestamp::UNIX_EPOCH,
            module: Arc::new(Module::connect("m")),
            hostname: None,
            target: target.to_owned(),
            result: ProbeResult::new(outcome, Duration::from_secs(1)),
            lines: Vec::new(),
        }
    }

    const FAILURE: Outcome = Outcome::because(Reason::Refused, Phase::Connect);

    fn ids(history: &History) -> Vec<u64> {
        history.entries().iter().map(|it| it.id).collect()
    }

    #[test]
    fn failures_outlive_successes() {
        let history = History::new(2);
        history.add(entry("bad", FAILURE));
        for _ in 0..5 {
            history.add(entry("good", Outcome::Success));
        }
        assert_eq!(ids(&history), [5, 4, 0]);
        assert!(history.by_id(0).is_some());
        assert!(history.by_id(1).is_none());
    }

    #[test]
    fn at_most_twice_the_limit() {
        let history = History::new(3);
        for _ in 0..20 {
            history.add(entry("bad", FAILURE));
        }
        assert_eq!(ids(&history), [19, 18, 17, 16, 15, 14]);
        let none = History::new(0);
        none.add(entry("bad", FAILURE));
        assert!(ids(&none).is_empty());
    }

    #[test]
    fn a_target_is_found_by_module_too() {
        let history = History::new(3);
        history.add(entry("a", Outcome::Success));
        assert!(history.by_target("a", None).is_some());
        assert!(history.by_target("a", Some("m")).is_some());
        assert!(history.by_target("a", Some("other")).is_none());
        assert!(history.by_target("b", None).is_none());
    }

    #[test]
    fn bytes_are_bounded_and_the_newest_stays() {
        let history = History { max_bytes: 20_000, ..History::new(1000) };
        for index in 0..200 {
            let outcome = if index % 2 == 0 { FAILURE } else { Outcome::Success };
            history.add(entry(&"x".repeat(1000), outcome));
            let bytes: usize = history.entries().iter().map(|it| it.bytes()).sum();
            assert_eq!(bytes, history.lists().bytes);
            assert!(bytes <= 20_000 || history.entries().len() == 1, "{bytes}");
            assert_eq!(history.entries()[0].id, index);
        }
    }
}
