//! One deadline over a whole probe, and how late a wake-up makes it worthless.

use std::pin::pin;
use std::time::{Duration, Instant};

/// Least lateness that counts as a stall: a busy machine delays timers by some milliseconds.
const MIN_SLACK: Duration = Duration::from_millis(500);

/// A timer so late that the process may have been stopped.
const LATE: Duration = Duration::from_millis(50);
/// How long the runtime may take after a stop to look at its sockets.
const GRACE: Duration = Duration::from_millis(50);

/// The end of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// When the probe began.
    pub(super) start: Instant,
    /// When it ends.
    pub(super) end: Instant,
    /// How late after the end a wake-up proves nothing against the target.
    slack: Duration,
}

impl Deadline {
    /// Begins a probe.
    pub(super) fn begin(timeout: Duration) -> Self {
        let start = Instant::now();
        // An absurd timeout is cut to what an `Instant` can hold: a day.
        let end =
            start.checked_add(timeout).unwrap_or_else(|| start + Duration::from_secs(24 * 60 * 60));
        Self { start, end, slack: MIN_SLACK.max(timeout / 4) }
    }

    /// An earlier end within the same probe.
    pub(super) fn sooner(&self, after: Duration) -> Self {
        let end = Instant::now().checked_add(after).map_or(self.end, |it| it.min(self.end));
        Self { end, ..*self }
    }

    /// Whether the process slept so far past the end that silence says nothing about the peer:
    /// it was stopped, its machine was suspended, or it starves.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_late_by(self.slack)
    }

    /// Waits for a future until the end. The future is asked first, so what is there is found
    /// even after the end.
    ///
    /// # Errors
    /// The end came first.
    pub(super) async fn cap<F: Future>(&self, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let begun_late = self.is_late_by(LATE);
        if let Ok(output) = tokio::time::timeout_at(self.end.into(), &mut future).await {
            return Ok(output);
        }
        if !self.is_late_by(LATE) {
            return Err(Elapsed { stalled: false });
        }
        // Resumed after a stop, the runtime fires its timers before it has looked at its sockets
        // (epoll_wait(2) ends with EINTR then): they get their turn.
        // Boxed, as every waiting probe would keep room for it.
        if let Ok(output) = Box::pin(tokio::time::timeout(GRACE, future)).await {
            return Ok(output);
        }
        // Every wait before this one ended by the deadline, unless it was woken late.
        Err(Elapsed { stalled: begun_late || self.is_stalled() })
    }

    fn is_late_by(&self, lateness: Duration) -> bool {
        Instant::now().saturating_duration_since(self.end) > lateness
    }
}

/// The deadline came first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Elapsed {
    /// Not the peer was slow but this process: it slept through the end, or began after it.
    pub(super) stalled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_timeout_has_an_end() {
        let deadline = Deadline::begin(Duration::MAX);
        assert!(deadline.end > deadline.start);
        assert!(!deadline.is_stalled());
    }

    #[tokio::test]
    async fn what_is_there_is_found_even_after_the_end() {
        let deadline = Deadline::begin(Duration::ZERO);
        assert_eq!(deadline.cap(async { 1 }).await.ok(), Some(1));
        let elapsed = deadline.cap(std::future::pending::<()>()).await;
        assert_eq!(elapsed, Err(Elapsed { stalled: false }));
    }

    #[tokio::test]
    async fn a_wait_that_begins_late_is_our_own_fault() {
        let mut deadline = Deadline::begin(Duration::from_secs(1));
        deadline.end = Instant::now().checked_sub(LATE * 2).unwrap();
        let elapsed = deadline.cap(std::future::pending::<()>()).await;
        assert_eq!(elapsed, Err(Elapsed { stalled: true }));
    }

    #[test]
    fn a_late_wake_up_is_a_stall_only_beyond_the_slack() {
        let mut deadline = Deadline::begin(Duration::from_secs(1));
        deadline.end = Instant::now();
        assert!(!deadline.is_stalled());
        deadline.slack = Duration::ZERO;
        std::thread::yield_now();
        assert!(deadline.is_stalled());
    }
}
