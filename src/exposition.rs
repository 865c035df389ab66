//! Turns results and the store into metrics for Prometheus. Nothing else knows a metric name.
//!
//! [`page`] writes everything, in every format. What is known of monitors goes straight from the
//! store to the page, since a hundred thousand of them are more than a million lines; what the
//! exporter counts about itself is held by `prometheus-client` and goes there by its registry.

use std::io;

use crate::maintenance::OpenWindows;
use crate::outcome::ProbeResult;
use crate::store::{Moment, Store};

pub mod exporter;
mod monitors;
mod page;
mod probe;
mod protobuf;

pub use crate::exposition::exporter::ExporterMetrics;
pub use crate::exposition::monitors::{BUILT_IN_LABELS, info_labels};

/// A format of the exposition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, length-delimited: the only one with native histograms.
    Protobuf,
}

impl Format {
    /// The format for an `Accept` header: anything but classic text only where it is preferred,
    /// and never an error, since scrapers do not survive one.
    ///
    /// Weights as in RFC 9110, section 12.4.2; of equal ones the first wins. `OpenMetrics`
    /// without a version means 0.0.1, plain text without one 0.0.4, as Prometheus has it.
    /// Protobuf needs both its message and its framing named.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (Self::Classic, 0);
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut message, mut framing) = (None, None, None);
            let mut weight = 1000;
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "version" => version = Some(value),
                    "proto" => message = Some(value),
                    "encoding" => framing = Some(value),
                    "q" => weight = thousandths(value),
                    _ => {}
                }
            }
            let format = match (media.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    Self::OpenMetrics
                }
                ("application/vnd.google.protobuf", _)
                    if message == Some("io.prometheus.client.MetricFamily")
                        && framing == Some("delimited") =>
                {
                    Self::Protobuf
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
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
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
pub fn probe(result: &ProbeResult, format: Format) -> Vec<u8> {
    let mut written = Vec::with_capacity(4096);
    let mut page = page::Page::new(&mut written, format);
    // Writing to memory cannot fail.
    let _ = probe::write(result, &mut page).and_then(|()| page.finish());
    written
}

/// The metrics of every monitor and of the exporter, written piece by piece: whole pages of
/// large fleets are never in memory at once. At `now` a verdict may be stale.
///
/// # Errors
/// Those of `out`.
pub fn metrics(
    store: &Store,
    exporter: &ExporterMetrics,
    maintenance: &OpenWindows<'_>,
    now: Moment,
    format: Format,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut page = page::Page::new(out, format);
    monitors::write(store, exporter.start(), maintenance, now, &mut page)?;
    exporter.write(&mut page)?;
    page.finish()
}

#[cfg(test)]
mod tests;
