//! The log: one line per event on standard error, in logfmt or JSON.
//!
//! A log that cannot be written (full disk, closed pipe, reader that hangs) is lost and changes
//! nothing else: lines are written on a thread of their own, and dropped where it does not keep up.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::limits::LOG_LINES;

/// `tracing` target of the lines that a probe wrote down about itself.
pub const PROBE: &str = "tcp_probe_exporter::probe";

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// `key=value` pairs.
    #[default]
    Logfmt,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format, there are `logfmt`, `json`")),
        }
    }
}

/// Reads a log level.
///
/// # Errors
/// One line naming the levels there are.
pub fn level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(Level::DEBUG),
        "info" => Ok(Level::INFO),
        "warn" => Ok(Level::WARN),
        "error" => Ok(Level::ERROR),
        _ => Err(format!("`{text}` is no log level, there are `debug`, `info`, `warn`, `error`")),
    }
}

/// What is logged and how.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// The form of a line.
    pub format: Format,
    /// Least level of the exporter's own lines.
    pub level: Level,
    /// Least level of the lines about single probes.
    pub probe: Level,
}

/// How long the end of the process waits for the last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

enum Message {
    Line(String),
    /// To be answered once everything before it is written.
    End(SyncSender<()>),
}

/// The running log.
#[derive(Debug)]
pub struct Running(SyncSender<Message>);

/// Starts logging for the whole process. Only the first call has an effect.
///
/// # Errors
/// The system grants no thread.
pub fn start(settings: LogSettings) -> io::Result<Running> {
    let (sender, receiver) = mpsc::sync_channel(LOG_LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer { receiver, lost: Arc::clone(&lost), settings };
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
    let log = Log { settings, lines: sender.clone(), lost };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log));
    Ok(Running(sender))
}

impl Running {
    /// Waits for the last lines, for a moment.
    pub fn finish(self) {
        let (sender, receiver) = mpsc::sync_channel(1);
        if self.0.try_send(Message::End(sender)).is_ok() {
            let _ = receiver.recv_timeout(LAST_LINES_WITHIN);
        }
    }
}

/// Writes lines, at the pace of whoever reads them.
struct Writer {
    receiver: Receiver<Message>,
    lost: Arc<AtomicU64>,
    settings: LogSettings,
}

impl Writer {
    fn run(self) {
        for message in self.receiver {
            match message {
                Message::Line(line) => {
                    let _ = io::stderr().lock().write_all(line.as_bytes());
                }
                Message::End(done) => {
                    let _ = done.try_send(());
                }
            }
            let lost = self.lost.swap(0, Relaxed);
            if lost > 0 {
                let mut line = Line::begin(self.settings.format, Level::WARN);
                line.add("message", "lines of this log were lost");
                line.add_bare("lines", lost);
                let _ = io::stderr().lock().write_all(line.finish().as_bytes());
            }
        }
    }
}

struct Log {
    settings: LogSettings,
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Log {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        let least = match metadata.target() {
            PROBE => self.settings.probe,
            target if target.starts_with("tcp_probe_exporter") => self.settings.level,
            _ => return false,
        };
        *metadata.level() <= least
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::begin(self.settings.format, *event.metadata().level());
        event.record(&mut line);
        if self.lines.try_send(Message::Line(line.finish())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A moment in UTC with milliseconds, as logs and pages show it.
#[must_use]
pub fn time(timestamp: Timestamp) -> String {
    timestamp
        .round(Unit::Millisecond)
        .map_or_else(|_| timestamp.to_string(), |text| format!("{text:.3}"))
}

struct Line {
    format: Format,
    text: String,
}

impl Line {
    fn new(format: Format) -> Self {
        let text = match format {
            Format::Logfmt => String::new(),
            Format::Json => "{".to_owned(),
        };
        Self { format, text }
    }

    fn begin(format: Format, level: Level) -> Self {
        let mut line = Self::new(format);
        line.add("time", &time(Timestamp::now()));
        line.add("level", level.as_str());
        line
    }

    fn add(&mut self, key: &str, value: &str) {
        self.key(key);
        let plain = |character: char| {
            character.is_ascii_graphic()
                && character != '"'
                && character != '='
                && character != '\\'
        };
        match self.format {
            Format::Logfmt if !value.is_empty() && value.chars().all(plain) => {
                self.text.push_str(value);
            }
            Format::Logfmt | Format::Json => quote(value, &mut self.text),
        }
    }

    /// A number or a boolean, which JSON writes without quotes.
    fn add_bare(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    fn key(&mut self, key: &str) {
        let key = if key == "message" { "msg" } else { key };
        match self.format {
            Format::Logfmt => {
                if !self.text.is_empty() {
                    self.text.push(' ');
                }
                let _ = write!(self.text, "{key}=");
            }
            Format::Json => {
                if self.text.len() > 1 {
                    self.text.push(',');
                }
                let _ = write!(self.text, "\"{key}\":");
            }
        }
    }

    fn finish(mut self) -> String {
        self.text.push_str(match self.format {
            Format::Logfmt => "\n",
            Format::Json => "}\n",
        });
        self.text
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_bare(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_bare(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_bare(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
}

/// Writes a string as JSON does, control characters and all that is not printable escaped, so
/// that a line stays one line and a terminal stays sane.
fn quote(value: &str, into: &mut String) {
    into.push('"');
    for character in value.chars() {
        match character {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            character if character.is_control() => {
                let _ = write!(into, "\\u{:04x}", u32::from(character));
            }
            character => into.push(character),
        }
    }
    into.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format) -> String {
        let mut line = Line::new(format);
        line.add("message", "two words");
        line.add("plain", "127.0.0.1:80");
        line.add("hostile", "a\"b\n\u{1b}[31m");
        line.add("empty", "");
        line.add_bare("count", 3);
        line.finish()
    }

    #[test]
    fn a_line_is_logfmt() {
        let expected = "msg=\"two words\" plain=127.0.0.1:80 hostile=\"a\\\"b\\n\\u001b[31m\" \
                        empty=\"\" count=3\n";
        assert_eq!(line(Format::Logfmt), expected);
    }

    #[test]
    fn a_line_is_a_json_object() {
        let line = line(Format::Json);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["msg"], "two words");
        assert_eq!(object["hostile"], "a\"b\n\u{1b}[31m");
        assert_eq!(object["count"], 3);
    }
}
