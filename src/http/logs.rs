//! What probes wrote down, for people: `/logs`, `debug=true` and the log of the process.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::{Response, StatusCode};
use tracing::{Level, event};

use crate::config;
use crate::exposition::{self, Format};
use crate::http::App;
use crate::http::answer::{Body, text};
use crate::http::history::Entry;
use crate::http::request::Query;
use crate::log;
use crate::outcome::{Outcome, Phase};
use crate::prober::journal;

/// `/logs`: one result of the history.
#[must_use]
pub fn answer(app: &App, query: &Query) -> Response<Body> {
    let id = query.first("id").parse::<u64>().ok();
    let target = Some(query.first("target")).filter(|it| !it.is_empty());
    let module = Some(query.first("module")).filter(|it| !it.is_empty());
    let (found, missing) = match (id, target, module) {
        (Some(_), Some(_), _) => {
            return bad("Give either the id of a probe or its target, not both");
        }
        (None, None, None) => return bad("Give the id of a probe or its target"),
        (None, None, Some(_)) => return bad("Give the target along with the module"),
        (Some(id), None, _) => (app.history.by_id(id), "Probe id not found\n"),
        (None, Some(target), module) => {
            (app.history.by_target(target, module), "Probe target not found\n")
        }
    };
    match found {
        Some(entry) => text(StatusCode::OK, debug_output(&entry)),
        None => text(StatusCode::NOT_FOUND, missing),
    }
}

fn bad(message: &str) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, format!("{message}\n"))
}

/// Writes the lines of a probe to the log of the process.
pub fn write(entry: &Entry) {
    let (module, target) = (&*entry.module.name, &*entry.target);
    for line in &entry.lines {
        let message = &line.message;
        match line.level {
            journal::Level::Error => {
                event!(target: log::PROBE, Level::ERROR, module, target, "{message}");
            }
            journal::Level::Warn => {
                event!(target: log::PROBE, Level::WARN, module, target, "{message}");
            }
            journal::Level::Info => {
                event!(target: log::PROBE, Level::INFO, module, target, "{message}");
            }
            journal::Level::Debug => {
                event!(target: log::PROBE, Level::DEBUG, module, target, "{message}");
            }
        }
    }
}

/// What was probed, what was found and how long each phase took: there at every level of the log.
fn summary(entry: &Entry) -> String {
    let result = &entry.result;
    let millis = |duration: Duration| format!("{:.3} ms", duration.as_secs_f64() * 1000.0);
    let mut line = format!("Result for {}", journal::printable(&entry.target));
    if let Some(peer) = result.peer.filter(|peer| peer.to_string() != entry.target) {
        let _ = write!(line, " at {peer}");
    }
    let _ = write!(line, ": {}", result.outcome.as_str());
    if let Some((reason, phase)) = result.outcome.cause() {
        let _ = write!(line, ", {reason} in {phase}");
    }
    let _ = write!(line, " after {}", millis(result.duration));
    for phase in Phase::ALL {
        if let Some(duration) = result.phases.of(phase) {
            let _ = write!(line, ", {phase} {}", millis(duration));
        }
    }
    line
}

/// The three parts that users of `blackbox_exporter` know.
#[must_use]
pub fn debug_output(entry: &Entry) -> String {
    let mut out = "Logs for the probe:\n".to_owned();
    for line in &entry.lines {
        let _ = writeln!(
            out,
            "{:>9.3} ms  {:5}  {}",
            line.at.as_secs_f64() * 1000.0,
            level(line.level),
            line.message
        );
    }
    let _ = writeln!(out, "{}", summary(entry));
    out.push_str("\n\n\nMetrics that would have been returned:\n");
    match entry.result.outcome {
        Outcome::Inconclusive(reason, phase) => {
            let detail = entry.result.detail.as_deref().unwrap_or_default();
            let _ = writeln!(out, "none: inconclusive: {reason} ({phase}): {detail}");
        }
        Outcome::Success | Outcome::Failure(..) => {
            let page = exposition::probe(&entry.result, Format::Classic);
            out.push_str(&String::from_utf8_lossy(&page));
        }
    }
    out.push_str("\n\n\nModule configuration:\n");
    out.push_str(&config::module_text(&entry.module, entry.hostname.as_deref()));
    out
}

/// How much a line must matter to be kept at a level of the log.
#[must_use]
pub fn least(level: Level) -> journal::Level {
    match level {
        Level::TRACE | Level::DEBUG => journal::Level::Debug,
        Level::INFO => journal::Level::Info,
        Level::WARN => journal::Level::Warn,
        Level::ERROR => journal::Level::Error,
    }
}

const fn level(level: journal::Level) -> Level {
    match level {
        journal::Level::Debug => Level::DEBUG,
        journal::Level::Info => Level::INFO,
        journal::Level::Warn => Level::WARN,
        journal::Level::Error => Level::ERROR,
    }
}
