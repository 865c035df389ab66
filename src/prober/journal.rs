//! What a probe writes down for the person who reads `debug=true` or `/logs`. Bounded.

use std::time::{Duration, Instant};

/// How much a line matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// A step on the way.
    Debug,
    /// An outcome.
    Info,
    /// Something odd that did not decide.
    Warn,
    /// Trouble of the exporter itself.
    Error,
}

/// One line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Since the probe began.
    pub at: Duration,
    /// How much it matters.
    pub level: Level,
    /// Printable text; whatever came from the peer is escaped.
    pub message: String,
}

/// The lines of one probe, up to a number of bytes.
///
/// Writing is free when nobody will read: messages are closures.
#[derive(Debug)]
pub struct Journal {
    start: Instant,
    budget: usize,
    lines: Vec<Line>,
}

impl Journal {
    /// A journal that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::bounded(0)
    }

    /// A journal of at most `budget` bytes of messages; what exceeds it is dropped, with one
    /// last line saying so.
    #[must_use]
    pub fn bounded(budget: usize) -> Self {
        Self { start: Instant::now(), budget, lines: Vec::new() }
    }

    /// Writes a line.
    pub fn note(&mut self, level: Level, message: impl FnOnce() -> String) {
        if self.budget == 0 {
            return;
        }
        let mut message = message();
        if message.len() >= self.budget {
            "the log is full, later lines are lost".clone_into(&mut message);
            self.budget = 0;
        } else {
            self.budget -= message.len();
        }
        self.lines.push(Line { at: self.start.elapsed(), level, message });
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn into_lines(self) -> Vec<Line> {
        self.lines
    }
}
