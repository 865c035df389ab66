//! Turns results and the store into text for Prometheus. Nothing else knows a metric name.
//!
//! Monitors are written line by line by our own [`page`], since a hundred thousand of them are
//! millions of lines and a general encoder costs several times as much for each; what the
//! exporter says of itself goes through `prometheus-client`.

use std::io;

use crate::outcome::ProbeResult;
use crate::store::{Moment, Store};
use crate::telemetry::Telemetry;

pub mod exporter;
mod monitors;
mod page;
mod probe;

pub use crate::exposition::exporter::ExporterMetrics;
pub use crate::exposition::monitors::BUILT_IN_LABELS;

/// A text format of the exposition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// The format for an `Accept` header: `OpenMetrics` only where it is preferred, and never an
    /// error, since scrapers do not survive one.
    ///
    /// Weights as in RFC 9110, section 12.4.2; of equal ones the first wins. `OpenMetrics`
    /// without a version means 0.0.1, plain text without one 0.0.4, as Prometheus has it.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (Self::Classic, 0);
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut weight) = (None, 1000);
            for (key, value) in parts.filter_map(|it| it.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "version" => version = Some(value),
                    "q" => weight = thousandths(value),
                    _ => {}
                }
            }
            let format = match (media.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    Self::OpenMetrics
                }
                ("text/plain", None | Some("0.0.4")) | ("*/*" | "text/*", _) => Self::Classic,
                _ => continue,
            };
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    /// The `Content-Type` of the answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A weight from 0 to 1 with up to three decimals, in thousandths; 0 for what is none.
fn thousandths(text: &str) -> u32 {
    match text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        #[expect(clippy::cast_sign_loss, reason = "the range is checked")]
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u32,
        _ => 0,
    }
}

/// The metrics of one probe. Not for an inconclusive one, which `/probe` answers with 503.
#[must_use]
pub fn probe(result: &ProbeResult, format: Format) -> String {
    let mut text = Vec::with_capacity(4096);
    let mut page = page::Page::new(&mut text, format);
    // Writing to memory cannot fail.
    let _ = probe::write(result, &mut page).and_then(|()| page.finish());
    String::from_utf8(text).unwrap_or_default()
}

/// The metrics of every monitor and of the exporter, written piece by piece: whole pages of
/// large fleets are never in memory at once. At `now` a verdict may be stale.
///
/// # Errors
/// Those of `out`.
pub fn metrics(
    store: &Store,
    telemetry: &Telemetry,
    exporter: &ExporterMetrics,
    now: Moment,
    format: Format,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut page = page::Page::new(out, format);
    monitors::write(store, now, &mut page)?;
    page.raw(&exporter.encode(telemetry, format))?;
    page.finish()
}

#[cfg(test)]
mod tests;
