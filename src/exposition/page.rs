//! The one engine that writes metrics: classic text, `OpenMetrics` and protobuf from one
//! description. Knows syntax, no metric.
//!
//! A page leaves in pieces of some 64 KiB. A protobuf family that is longer goes out as several
//! messages of one name, each complete, since a message begins with its length.

use std::io;
use std::time::Duration;

use crate::exposition::Format;
use crate::exposition::protobuf::{self, Message};

/// Written out whenever this much has gathered.
const FLUSH: usize = 64 * 1024;

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Gauge,
    /// Its name ends in `_total`, but for the parts of a histogram.
    Counter,
    /// Sum and count only. Text formats have no other name for them.
    Summary,
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Summary => "summary",
            Self::Histogram => "histogram",
        }
    }
}

/// How observations are spread: sum, count, and buckets in one of two shapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution<'a> {
    /// When counting began, Unix seconds.
    pub created: Option<f64>,
    pub sum: f64,
    pub count: u64,
    pub buckets: Buckets<'a>,
}

/// Buckets of a distribution.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buckets<'a> {
    /// None: sum and count only.
    None,
    /// Bounds, each with what is at or below it. The infinite one is implied.
    Classic(&'a [(f64, u64)]),
    /// Counts of the buckets from `first` on, not cumulative; bucket `index` reaches up to 2 to
    /// the power of `index / 2^schema`. Protobuf only.
    Native { schema: i8, first: i32, counts: &'a [u32] },
}

/// A page of metrics on its way out.
pub(super) struct Page<'a> {
    out: &'a mut dyn io::Write,
    format: Format,
    /// What gathered: lines of text, or the metrics of the present protobuf family.
    body: Vec<u8>,
    family: Family,
    scratch: Scratch,
}

/// The protobuf family that is being written.
struct Family {
    kind: Kind,
    /// Name, help and type.
    head: Vec<u8>,
}

/// Room for the parts of a protobuf metric, used again and again.
#[derive(Default)]
struct Scratch {
    labels: Vec<u8>,
    metric: Vec<u8>,
    part: Vec<u8>,
    piece: Vec<u8>,
}

impl<'a> Page<'a> {
    pub(super) fn new(out: &'a mut dyn io::Write, format: Format) -> Self {
        let family = Family { kind: Kind::Gauge, head: Vec::new() };
        Self { out, format, body: Vec::with_capacity(4096), family, scratch: Scratch::default() }
    }

    /// The format being written.
    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// Opens a family. Help is static text without backslash and line feed.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> io::Result<()> {
        if self.format == Format::Protobuf {
            self.write_out()?;
            self.family.kind = kind;
            protobuf::family_head(&mut self.family.head, name, help, kind);
            return Ok(());
        }
        self.flush_if_full()?;
        let name = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind.as_str(), "\n"] {
            self.body.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }

    /// A gauge without labels, family and all.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Value) -> io::Result<()> {
        self.family(name, Kind::Gauge, help)?;
        self.sample(name, &"", value);
        Ok(())
    }

    /// One sample of a gauge or a counter. Call [`Page::flush_if_full`] now and then, while no
    /// lock is held.
    pub(super) fn sample(&mut self, name: &str, labels: &impl Labels, value: impl Value) {
        if self.format == Format::Protobuf {
            let Scratch { metric, part, .. } = self.scratch.metric(labels);
            part.clear();
            part.double(1, value.float());
            metric.bytes(if self.family.kind == Kind::Counter { 3 } else { 2 }, part);
            self.body.bytes(4, metric);
        } else {
            self.line(name, "", labels, "", value);
        }
    }

    /// The samples of a summary or a histogram of this name.
    pub(super) fn distribution(
        &mut self,
        name: &str,
        labels: &impl Labels,
        distribution: &Distribution<'_>,
    ) {
        if self.format == Format::Protobuf {
            let Scratch { metric, part, piece, .. } = self.scratch.metric(labels);
            part.clear();
            protobuf::histogram(part, piece, distribution);
            metric.bytes(if self.family.kind == Kind::Summary { 4 } else { 7 }, part);
            self.body.bytes(4, metric);
            return;
        }
        if let Buckets::Classic(buckets) = distribution.buckets {
            for &(bound, count) in buckets.iter().filter(|(bound, _)| bound.is_finite()) {
                // `le` keeps its decimal point in both formats, lest negotiation change a series.
                let mut digits = ryu::Buffer::new();
                self.line(name, "_bucket", labels, digits.format_finite(bound), count);
            }
            self.line(name, "_bucket", labels, "+Inf", distribution.count);
        }
        self.line(name, "_sum", labels, "", distribution.sum);
        self.line(name, "_count", labels, "", distribution.count);
        // Prometheus looks for this line from each histogram on to the end of the family if it
        // converts classic histograms: of thousands of targets, that takes longer than a scrape.
        if let (Format::OpenMetrics, Buckets::Classic(_), Some(created)) =
            (self.format, distribution.buckets, distribution.created)
        {
            self.line(name, "_created", labels, "", created);
        }
    }

    /// One line of text. Without `le`, that label is left out.
    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &impl Labels,
        le: &str,
        value: impl Value,
    ) {
        let text = &mut self.body;
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(suffix.as_bytes());
        text.push(b'{');
        let open = text.len();
        labels.write(text);
        if !le.is_empty() {
            label(text, "le", le);
        }
        if text.len() == open {
            text[open - 1] = b' ';
        } else {
            text.extend_from_slice(b"} ");
        }
        value.write(text);
        text.push(b'\n');
    }

    pub(super) fn flush_if_full(&mut self) -> io::Result<()> {
        if self.body.len() >= FLUSH { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        if self.format == Format::Protobuf {
            let length = self.family.head.len() + self.body.len();
            self.scratch.part.clear();
            self.scratch.part.varint(length as u64);
            self.out.write_all(&self.scratch.part)?;
            self.out.write_all(&self.family.head)?;
        }
        self.out.write_all(&self.body)?;
        self.body.clear();
        Ok(())
    }

    /// Ends the page.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.format == Format::OpenMetrics {
            self.body.extend_from_slice(b"# EOF\n");
        }
        self.write_out()
    }
}

impl Scratch {
    /// Begins a protobuf metric with its labels.
    fn metric(&mut self, labels: &impl Labels) -> &mut Self {
        let Self { labels: text, metric, part, piece } = self;
        text.clear();
        labels.write(text);
        metric.clear();
        protobuf::labels(metric, text, part, piece);
        self
    }
}

/// Labels of a sample, written as text without the braces.
pub(super) trait Labels {
    fn write(&self, text: &mut Vec<u8>);
}

/// Labels that were rendered before.
impl Labels for &str {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.as_bytes());
    }
}

/// Names and values.
impl<const N: usize> Labels for [(&str, &str); N] {
    fn write(&self, text: &mut Vec<u8>) {
        for (name, value) in self {
            label(text, name, value);
        }
    }
}

/// Rendered labels, and more.
impl<const N: usize> Labels for (&str, [(&str, &str); N]) {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.0.as_bytes());
        self.1.write(text);
    }
}

/// Names and values of any number.
impl Labels for &[(String, String)] {
    fn write(&self, text: &mut Vec<u8>) {
        for (name, value) in *self {
            label(text, name, value);
        }
    }
}

/// Appends one label, after a comma unless it is the first since an opening brace.
pub(super) fn label(text: &mut Vec<u8>, name: &str, value: &str) {
    if !matches!(text.last(), None | Some(b'{')) {
        text.push(b',');
    }
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"=\"");
    for &byte in value.as_bytes() {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'"' => text.extend_from_slice(b"\\\""),
            b'\n' => text.extend_from_slice(b"\\n"),
            byte => text.push(byte),
        }
    }
    text.push(b'"');
}

/// A sample's value.
pub(super) trait Value: Copy {
    fn write(&self, text: &mut Vec<u8>);
    /// As protobuf has it.
    fn float(&self) -> f64;
}

impl Value for u64 {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn float(&self) -> f64 {
        *self as f64
    }
}

impl Value for i64 {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }

    #[expect(clippy::cast_precision_loss, reason = "Unix seconds stay far below 2^53")]
    fn float(&self) -> f64 {
        *self as f64
    }
}

impl Value for u32 {
    fn write(&self, text: &mut Vec<u8>) {
        u64::from(*self).write(text);
    }

    fn float(&self) -> f64 {
        (*self).into()
    }
}

impl Value for bool {
    fn write(&self, text: &mut Vec<u8>) {
        text.push(if *self { b'1' } else { b'0' });
    }

    fn float(&self) -> f64 {
        u8::from(*self).into()
    }
}

impl Value for f64 {
    fn write(&self, text: &mut Vec<u8>) {
        if !self.is_finite() {
            let word = if self.is_nan() {
                "NaN"
            } else if *self > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            return text.extend_from_slice(word.as_bytes());
        }
        let mut digits = ryu::Buffer::new();
        let number = digits.format_finite(*self).as_bytes();
        text.extend_from_slice(number.strip_suffix(b".0").unwrap_or(number));
    }

    fn float(&self) -> f64 {
        *self
    }
}

/// Seconds with all their nanoseconds, without a detour over floating point.
impl Value for Duration {
    fn write(&self, text: &mut Vec<u8>) {
        self.as_secs().write(text);
        let mut nanos = self.subsec_nanos();
        if nanos == 0 {
            return;
        }
        let mut digits = *b".000000000";
        for digit in digits[1..].iter_mut().rev() {
            // A remainder of ten is a digit.
            *digit = b'0' + u8::try_from(nanos % 10).unwrap_or(0);
            nanos /= 10;
        }
        let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
        text.extend_from_slice(&digits[..end]);
    }

    fn float(&self) -> f64 {
        self.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: impl Value, expected: &str) {
        let mut text = Vec::new();
        value.write(&mut text);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let float: f64 = expected.parse().unwrap();
        assert!(value.float().total_cmp(&float).is_eq(), "{expected}");
    }

    #[test]
    fn values() {
        check(7_u64, "7");
        check(-62_135_596_800_i64, "-62135596800");
        check(true, "1");
        check(0.0, "0");
        check(0.25, "0.25");
        check(1e-7, "1e-7");
        check(1_763_874_000.125, "1763874000.125");
        check(f64::INFINITY, "+Inf");
        check(f64::NAN, "NaN");
        check(Duration::from_millis(1_500), "1.5");
        check(Duration::from_micros(30), "0.00003");
        check(Duration::from_nanos(1), "0.000000001");
        check(Duration::from_secs(60), "60");
        check(Duration::ZERO, "0");
    }

    #[test]
    fn lines_and_their_escapes() {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, Format::OpenMetrics);
        page.family("a_total", Kind::Counter, "Some a.").unwrap();
        page.sample("a_total", &"", 1_u64);
        page.sample("a_total", &[("b", "c\"\\\nd")], 2_u64);
        page.sample("a_total", &("x=\"y\"", [("b", "c")]), 3_u64);
        page.finish().unwrap();
        let expected = "\
# HELP a Some a.
# TYPE a counter
a_total 1
a_total{b=\"c\\\"\\\\\\nd\"} 2
a_total{x=\"y\",b=\"c\"} 3
# EOF
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
