//! Which failure is explained next. Pure: no clock, no I/O, no tasks; the time is an argument.
//!
//! The budget holds whatever happens: so many at once, so many within a minute, one of a peer at a
//! time. What waits is bounded too: in an outage of everything the first failures say where, and
//! the thousandth says it once more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// The minute of the budget.
const MINUTE: Duration = Duration::from_secs(60);

/// How much may be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Budget {
    /// At once.
    pub(super) at_once: usize,
    /// Begun within any minute. A quarter of it at most is for what is not urgent.
    pub(super) a_minute: usize,
    /// Waiting.
    pub(super) waiting: usize,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// It waits for its turn.
    Queued,
    /// Somebody asked for the same peer already.
    Shared,
    /// Too many wait.
    Dropped,
}

/// What waits, what runs, and what the last minute saw.
#[derive(Debug)]
pub(super) struct Queue<T> {
    budget: Budget,
    urgent: VecDeque<(SocketAddr, T)>,
    leisurely: VecDeque<(SocketAddr, T)>,
    running: Vec<SocketAddr>,
    /// When those of the last minute began, and whether they were urgent.
    begun: VecDeque<(Duration, bool)>,
}

impl<T> Queue<T> {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            urgent: VecDeque::new(),
            leisurely: VecDeque::new(),
            running: Vec::new(),
            begun: VecDeque::new(),
        }
    }

    /// Wishes for an explanation of what happens at `peer`.
    pub(super) fn ask(&mut self, peer: SocketAddr, urgent: bool, wish: T) -> Asked {
        let known =
            |queue: &VecDeque<(SocketAddr, T)>| queue.iter().any(|(known, _)| *known == peer);
        if self.running.contains(&peer)
            || known(&self.urgent)
            || (!urgent && known(&self.leisurely))
        {
            return Asked::Shared;
        }
        let queue = if urgent { &mut self.urgent } else { &mut self.leisurely };
        if queue.len() >= self.budget.waiting {
            return Asked::Dropped;
        }
        queue.push_back((peer, wish));
        Asked::Queued
    }

    /// The next one that the budget has room for; to be given back to [`Queue::finished`].
    /// What is not wanted any more is left out, and costs nothing.
    pub(super) fn start(
        &mut self,
        now: Duration,
        is_wanted: impl Fn(SocketAddr, &T) -> bool,
    ) -> Option<(SocketAddr, T)> {
        self.forget(now);
        loop {
            let urgent = !self.urgent.is_empty();
            if !self.has_room(urgent) {
                return None;
            }
            let queue = if urgent { &mut self.urgent } else { &mut self.leisurely };
            let (peer, wish) = queue.pop_front()?;
            if self.running.contains(&peer) || !is_wanted(peer, &wish) {
                continue;
            }
            self.running.push(peer);
            self.begun.push_back((now, urgent));
            return Some((peer, wish));
        }
    }

    /// Whether somebody outside may look at `peer` now, counted like what waits here.
    pub(super) fn start_at_once(&mut self, peer: SocketAddr, now: Duration) -> bool {
        self.forget(now);
        let may = self.has_room(true) && !self.running.contains(&peer);
        if may {
            self.running.push(peer);
            self.begun.push_back((now, true));
        }
        may
    }

    /// One is over.
    pub(super) fn finished(&mut self, peer: SocketAddr) {
        if let Some(index) = self.running.iter().position(|known| *known == peer) {
            self.running.swap_remove(index);
        }
    }

    /// When the minute has room again for what waits; `None` if nothing waits, or it waits for one
    /// that runs.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        if self.running.len() >= self.budget.at_once {
            return None;
        }
        if self.urgent.is_empty() && self.leisurely.is_empty() {
            return None;
        }
        let enough = if self.urgent.is_empty() { self.has_room(false) } else { true };
        if enough && self.has_room(true) {
            return Some(now);
        }
        let all = self.begun.len() >= self.budget.a_minute;
        let oldest = self.begun.iter().find(|(_, urgent)| all || !urgent);
        oldest.map(|(at, _)| *at + MINUTE)
    }

    fn forget(&mut self, now: Duration) {
        while self.begun.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
            self.begun.pop_front();
        }
    }

    fn has_room(&self, urgent: bool) -> bool {
        let leisurely = self.begun.iter().filter(|(_, urgent)| !urgent).count();
        self.running.len() < self.budget.at_once
            && self.begun.len() < self.budget.a_minute
            && (urgent || leisurely < (self.budget.a_minute / 4).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { at_once: 2, a_minute: 8, waiting: 3 };

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 22))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn started(queue: &mut Queue<()>, now: u64) -> Vec<SocketAddr> {
        std::iter::from_fn(|| queue.start(seconds(now), |_, ()| true))
            .map(|(peer, ())| peer)
            .collect()
    }

    #[test]
    fn so_many_run_at_once_and_the_rest_waits_for_them() {
        let mut queue = Queue::new(BUDGET);
        for last in 1..=3 {
            assert_eq!(queue.ask(peer(last), true, ()), Asked::Queued);
        }
        assert_eq!(queue.ask(peer(4), true, ()), Asked::Dropped);
        assert_eq!(started(&mut queue, 0), [peer(1), peer(2)]);
        assert_eq!(queue.next(seconds(0)), None, "it waits for one that runs");
        queue.finished(peer(2));
        assert_eq!(queue.next(seconds(1)), Some(seconds(1)));
        assert_eq!(started(&mut queue, 1), [peer(3)]);
    }

    #[test]
    fn a_peer_is_asked_once_for_everybody() {
        let mut queue = Queue::new(BUDGET);
        assert_eq!(queue.ask(peer(1), true, ()), Asked::Queued);
        assert_eq!(queue.ask(peer(1), true, ()), Asked::Shared);
        assert_eq!(started(&mut queue, 0), [peer(1)]);
        assert_eq!(queue.ask(peer(1), true, ()), Asked::Shared);
        assert!(!queue.start_at_once(peer(1), seconds(0)));
        queue.finished(peer(1));
        assert_eq!(queue.ask(peer(1), true, ()), Asked::Queued);
    }

    #[test]
    fn a_minute_sees_no_more_than_its_budget() {
        let mut queue = Queue::new(BUDGET);
        let mut begun = Vec::new();
        for second in 0..600 {
            // More than can be done wish for it.
            for last in 0..20 {
                queue.ask(peer(last), true, ());
            }
            for peer in started(&mut queue, second) {
                begun.push(second);
                queue.finished(peer);
            }
        }
        for window in begun.windows(BUDGET.a_minute + 1) {
            assert!(window[BUDGET.a_minute] - window[0] >= 60, "{window:?}");
        }
        assert_eq!(begun.len(), 80, "all of it is used");
        assert_eq!(queue.next(seconds(599)), Some(seconds(600)));
    }

    #[test]
    fn what_is_not_urgent_takes_a_quarter_and_stands_back() {
        let mut queue = Queue::new(BUDGET);
        for last in 1..=3 {
            queue.ask(peer(last), false, ());
        }
        queue.ask(peer(9), true, ());
        let Some((first, ())) = queue.start(seconds(0), |_, ()| true) else {
            panic!("nothing starts")
        };
        assert_eq!(first, peer(9), "the urgent one first");
        queue.finished(first);
        assert_eq!(started(&mut queue, 1), [peer(1), peer(2)]);
        queue.finished(peer(1));
        queue.finished(peer(2));
        assert_eq!(started(&mut queue, 3), [], "a quarter of eight is two");
        assert_eq!(queue.next(seconds(3)), Some(seconds(61)));
        assert_eq!(started(&mut queue, 61), [peer(3)]);
    }

    #[test]
    fn what_is_not_wanted_any_more_costs_nothing() {
        let mut queue = Queue::new(BUDGET);
        for last in 1..=3 {
            queue.ask(peer(last), true, ());
        }
        let start = queue.start(seconds(0), |waiting, ()| waiting == peer(3));
        assert_eq!(start, Some((peer(3), ())));
        assert_eq!(queue.start(seconds(0), |_, ()| true), None);
        assert_eq!(queue.begun.len(), 1);
    }

    #[test]
    fn those_who_ask_from_outside_are_counted() {
        let mut queue: Queue<()> = Queue::new(BUDGET);
        for last in 0..8 {
            assert!(queue.start_at_once(peer(last), seconds(0)));
            queue.finished(peer(last));
        }
        assert!(!queue.start_at_once(peer(9), seconds(59)));
        assert!(queue.start_at_once(peer(9), seconds(60)));
    }
}
