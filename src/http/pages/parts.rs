//! What the pages have in common: their head, times, strips, escaping. Pure.

use std::fmt::{self, Write as _};
use std::time::Duration;

use jiff::Timestamp;

use crate::store::{Moment, OutcomeHistory, State};

pub(super) const STYLE: &str = include_str!("style.css");
/// The end of a page that needs no script.
pub(super) const SCRIPT_FREE_FOOT: &str = "</main>\n</body>\n</html>\n";

/// Characters shown of any one text from outside; enough for every honest one.
pub(super) const SHOWN: usize = 300;
/// `title` is text, not markup.
pub(super) fn head(f: &mut fmt::Formatter<'_>, title: &str, is_down: bool) -> fmt::Result {
    let colour = if is_down { "%23cf222e" } else { "%232da44e" };
    f.write_str(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
    )?;
    if !title.is_empty() {
        write!(f, "{}, ", Escaped(title))?;
    }
    write!(
        f,
        "TCP monitors</title>\n<link rel=\"icon\" href=\"data:image/svg+xml,\
         %3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E\
         %3Ccircle cx='4' cy='4' r='4' fill='{colour}'/%3E%3C/svg%3E\">\n\
         <style>{STYLE}</style>\n</head>\n"
    )
}

pub(super) fn last_probe(f: &mut fmt::Formatter<'_>, state: &State) -> fmt::Result {
    let Some(last) = &state.last else { return f.write_str("none yet") };
    let Some((reason, phase)) = last.outcome.cause() else { return f.write_str("success") };
    write!(f, "<strong>{reason}</strong> in {phase}")?;
    if state.health.consecutive_failures() > 1 {
        write!(f, ", {} times", state.health.consecutive_failures())?;
    }
    if let Some(ip) = last.ip {
        write!(f, ", {ip}")?;
    }
    if let Some(detail) = &last.detail {
        write!(f, "<br><span class=\"more\">{}</span>", Escaped(detail))?;
    }
    write!(f, "<br>{}", Escaped(reason.advice()))
}

/// A link that probes a target.
pub(super) struct ProbeLink<'a> {
    pub(super) target: &'a str,
    pub(super) module: &'a str,
}

impl fmt::Display for ProbeLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = form_urlencoded::Serializer::new("debug=true".to_owned());
        query.append_pair("module", self.module).append_pair("target", self.target);
        write!(f, "probe?{}", Escaped(&query.finish()))
    }
}

/// The strip of recent outcomes: told apart by height as well as by colour.
pub(super) struct Bars(pub(super) OutcomeHistory);

impl fmt::Display for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes: Vec<usize> = self.0.outcomes().collect();
        let count = |wanted| outcomes.iter().filter(|&&it| it == wanted).count();
        write!(
            f,
            "<svg viewBox=\"0 0 128 16\" role=\"img\" aria-label=\"last {}: {} success, {} failure, \
             {} inconclusive\">",
            outcomes.len(),
            count(0),
            count(1),
            count(2),
        )?;
        // One path for each outcome: the newest bar always ends at the right edge.
        let first = OutcomeHistory::LENGTH - outcomes.len();
        for (wanted, class, top) in [(0, 's', 5), (1, 'f', 0), (2, 'i', 11)] {
            if count(wanted) == 0 {
                continue;
            }
            write!(f, "<path class=\"{class}\" d=\"")?;
            for (index, _) in outcomes.iter().enumerate().filter(|&(_, &it)| it == wanted) {
                write!(f, "M{} {top}h3V16h-3z", (first + index) * 4)?;
            }
            f.write_str("\"/>")?;
        }
        f.write_str("</svg>")
    }
}

/// A span of time in its largest unit.
pub(super) struct Age(pub(super) i64);

impl Age {
    pub(super) fn between(then: Timestamp, now: Timestamp) -> Self {
        Self(now.as_second() - then.as_second())
    }

    pub(super) fn since(then: Moment, now: Timestamp) -> Self {
        let then = i64::try_from(then.elapsed().as_secs()).unwrap_or(i64::MAX);
        Self(now.as_second().saturating_sub(then))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.max(0) {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7_200 => write!(f, "{} min", seconds / 60),
            seconds @ 7_200..172_800 => write!(f, "{} h", seconds / 3_600),
            seconds => write!(f, "{} d", seconds / 86_400),
        }
    }
}

/// A time that a probe took, with three digits.
pub(super) struct Latency(pub(super) Duration);

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.as_secs_f64() {
            seconds if seconds < 0.000_999_5 => (seconds * 1e6, "µs"),
            seconds if seconds < 0.999_5 => (seconds * 1e3, "ms"),
            seconds => (seconds, "s"),
        };
        let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        write!(f, "{value:.digits$} {unit}")
    }
}

/// Text inside HTML, between tags or in a quoted attribute: at most [`SHOWN`] characters, and
/// those that steer a terminal or turn the reading direction spelled out.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, it) in self.0.chars().enumerate() {
            if index == SHOWN {
                return f.write_char('…');
            }
            match it {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&#34;")?,
                '\'' => f.write_str("&#39;")?,
                it if it.is_control() || is_invisible(it) => write!(f, "{}", it.escape_unicode())?,
                it => f.write_char(it)?,
            }
        }
        Ok(())
    }
}

/// Marks, embeddings, overrides and isolates of direction, separators, joiners and the like.
fn is_invisible(it: char) -> bool {
    matches!(it, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
