//! Turns findings and the store into text for Prometheus. Nothing else knows a metric name.

use crate::outcome::Finding;

/// A text format of the exposition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// The format for an `Accept` header: `OpenMetrics` only where it is asked for, and never an
    /// error, since scrapers do not survive one.
    #[must_use]
    pub fn negotiate(_accept: &str) -> Self {
        Self::Classic
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

/// The metrics of one probe. Not for an inconclusive one, which `/probe` answers with 503.
#[must_use]
pub fn probe(_finding: &Finding, _format: Format) -> String {
    String::new()
}
