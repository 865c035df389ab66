//! What a probe writes down for the person who reads `debug=true` or `/logs`. Bounded.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{CAUSE_BYTES, QUOTED_BYTES};

/// How much a line matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// A step on the way.
    Debug,
    /// An outcome.
    Info,
    /// Something odd that did not decide.
    Warn,
    /// A problem of the exporter itself.
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
    least: Level,
    budget: usize,
    lines: Vec<Line>,
}

impl Journal {
    /// A journal that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::bounded(Level::Error, 0)
    }

    /// A journal of lines that matter at least so much, of at most `budget` bytes of messages;
    /// what exceeds them is dropped, with one last line saying so.
    #[must_use]
    pub fn bounded(least: Level, budget: usize) -> Self {
        Self { start: Instant::now(), least, budget, lines: Vec::new() }
    }

    /// Writes a line.
    pub fn note(&mut self, level: Level, message: impl FnOnce() -> String) {
        if self.budget == 0 || level < self.least {
            return;
        }
        let mut message = one_line(message());
        if message.len() >= self.budget {
            "the log is full, later lines are lost".clone_into(&mut message);
            self.budget = 0;
        } else {
            self.budget -= message.len();
        }
        self.lines.push(Line { at: self.start.elapsed(), level, message });
    }

    /// Tells the reader that the probe went by older files, and why.
    pub(super) fn note_stale(&mut self, err: Option<Arc<str>>) {
        if let Some(err) = err {
            self.note(Level::Warn, || format!("{err}; going by what was read before"));
        }
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

/// Whether a character moves a cursor, ends a line or changes the direction of writing.
pub(super) fn moves_text(it: char) -> bool {
    it.is_control()
        || matches!(it,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text without what [`moves_text`], escaped: no name or zone forges a line.
#[must_use]
pub fn one_line(text: String) -> String {
    if !text.chars().any(moves_text) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut line, letter| {
        if moves_text(letter) {
            line.extend(letter.escape_unicode());
        } else {
            line.push(letter);
        }
        line
    })
}

/// Bytes of a peer as one printable line, cut to a bearable length.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(QUOTED_BYTES)];
    let mut text: String = String::from_utf8_lossy(cut).escape_debug().collect();
    if cut.len() < bytes.len() {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

/// A cause as one printable line, cut to a bearable length.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut line = String::new();
    for it in text.chars() {
        if line.len() >= CAUSE_BYTES {
            line.push('…');
            break;
        }
        // Quotation marks and backslashes are fine where they stand; control characters are not.
        match it {
            '"' | '\'' | '\\' => line.push(it),
            _ => line.extend(it.escape_debug()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_journal_says_so_once() {
        let mut journal = Journal::bounded(Level::Debug, 10);
        for _ in 0..5 {
            journal.note(Level::Debug, || "1234".to_owned());
        }
        let messages: Vec<_> = journal.lines().iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages, ["1234", "1234", "the log is full, later lines are lost"]);
    }

    #[test]
    fn no_message_is_more_than_one_line() {
        let mut journal = Journal::bounded(Level::Debug, 1000);
        journal.note(Level::Debug, || "no interface `x\nERROR\u{202e}`".to_owned());
        assert_eq!(journal.lines()[0].message, "no interface `x\\u{a}ERROR\\u{202e}`");
    }

    #[test]
    fn nobody_pays_for_a_journal_that_is_off() {
        let unread = || unreachable!("the message is never made");
        Journal::off().note(Level::Error, unread);
        Journal::bounded(Level::Info, 1000).note(Level::Debug, unread);
    }

    #[test]
    fn what_a_peer_sends_cannot_write_to_the_terminal() {
        assert_eq!(shown(b"220 hi\r\n\x1b[2J\xff\0"), "220 hi\\r\\n\\u{1b}[2J\u{fffd}\\0");
        let long = shown(&[b'a'; 1000]);
        assert!(long.ends_with("… (1000 bytes)") && long.len() < 250, "{long}");
        assert_eq!(printable("a `b` \"c\"\n\u{202e}"), "a `b` \"c\"\\n\\u{202e}");
        assert!(printable(&"ä".repeat(10_000)).len() < 600);
    }
}
