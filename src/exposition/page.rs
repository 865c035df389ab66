//! Lines of the text formats. Knows syntax, no metric.

use std::io;
use std::time::Duration;

use crate::exposition::Format;

/// Written out whenever this much has gathered.
const FLUSH: usize = 64 * 1024;

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Gauge,
    /// Its name ends in `_total`.
    Counter,
    Histogram,
}

/// A page of metrics on its way out.
pub(super) struct Page<'a> {
    out: &'a mut dyn io::Write,
    text: Vec<u8>,
    format: Format,
}

impl<'a> Page<'a> {
    pub(super) fn new(out: &'a mut dyn io::Write, format: Format) -> Self {
        Self { out, text: Vec::with_capacity(4096), format }
    }

    /// Opens a family. Help is static text without backslash and line feed.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> io::Result<()> {
        self.flush_if_full()?;
        let family = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        for part in ["# HELP ", family, " ", help, "\n# TYPE ", family, " ", kind, "\n"] {
            self.text.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }

    /// A gauge without labels, family and all.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Value) -> io::Result<()> {
        self.family(name, Kind::Gauge, help)?;
        self.sample(name, &"", value);
        Ok(())
    }

    /// One line. Call [`Page::flush_if_full`] now and then, while no lock is held.
    pub(super) fn sample(&mut self, name: &str, labels: &impl Labels, value: impl Value) {
        self.text.extend_from_slice(name.as_bytes());
        self.text.push(b'{');
        let open = self.text.len();
        labels.write(&mut self.text);
        if self.text.len() == open {
            self.text[open - 1] = b' ';
        } else {
            self.text.extend_from_slice(b"} ");
        }
        value.write(&mut self.text);
        self.text.push(b'\n');
    }

    /// Text that is in the page's format already.
    pub(super) fn raw(&mut self, text: &str) -> io::Result<()> {
        self.text.extend_from_slice(text.as_bytes());
        self.flush_if_full()
    }

    pub(super) fn flush_if_full(&mut self) -> io::Result<()> {
        if self.text.len() >= FLUSH {
            self.out.write_all(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    /// Ends the page.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.format == Format::OpenMetrics {
            self.text.extend_from_slice(b"# EOF\n");
        }
        self.out.write_all(&self.text)
    }
}

/// Labels of a line, written without the braces.
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
}

impl Value for u64 {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }
}

impl Value for i64 {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }
}

impl Value for u32 {
    fn write(&self, text: &mut Vec<u8>) {
        u64::from(*self).write(text);
    }
}

impl Value for bool {
    fn write(&self, text: &mut Vec<u8>) {
        text.push(if *self { b'1' } else { b'0' });
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
        let number = ryu::Buffer::new().format_finite(*self).as_bytes().to_owned();
        text.extend_from_slice(number.strip_suffix(b".0").unwrap_or(&number));
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
        let end = digits.iter().rposition(|&it| it != b'0').map_or(0, |it| it + 1);
        text.extend_from_slice(&digits[..end]);
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
