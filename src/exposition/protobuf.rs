//! The messages of `io.prometheus.client` in protobuf's wire format: proto3, so what is zero is
//! left out. Compared byte by byte with `prometheus-client` in the tests.

use crate::exposition::page::{Buckets, Distribution, Kind};

/// Nearer to zero than this a native histogram does not tell observations apart; there are none.
/// Prometheus knows a native histogram without observations by it.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// Fields of a message.
pub(super) trait Message {
    fn varint(&mut self, value: u64);
    fn tag(&mut self, field: u32, wire_type: u32);
    /// Bytes, text, or a message of its own.
    fn bytes(&mut self, field: u32, bytes: &[u8]);
    fn unsigned(&mut self, field: u32, value: u64);
    fn signed(&mut self, field: u32, value: i64);
    fn double(&mut self, field: u32, value: f64);
}

impl Message for Vec<u8> {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(0x80 | (value & 0x7f) as u8);
            value >>= 7;
        }
        self.push((value & 0x7f) as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint((field << 3 | wire_type).into());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn unsigned(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, 0);
            self.varint(value);
        }
    }

    fn signed(&mut self, field: u32, value: i64) {
        self.unsigned(field, zigzag(value));
    }

    fn double(&mut self, field: u32, value: f64) {
        if value != 0.0 {
            self.tag(field, 1);
            self.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Small numbers of either sign become small numbers.
const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Name, help and type of a `MetricFamily`.
pub(super) fn family_head(head: &mut Vec<u8>, name: &str, help: &str, kind: Kind) {
    head.clear();
    head.bytes(1, name.as_bytes());
    head.bytes(2, help.as_bytes());
    head.unsigned(
        3,
        match kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Summary => 2,
            Kind::Histogram => 4,
        },
    );
}

/// The label pairs of a `Metric`, from labels as the text formats write them.
pub(super) fn labels(metric: &mut Vec<u8>, text: &[u8], pair: &mut Vec<u8>, value: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(end) = rest.iter().position(|&byte| byte == b'=') {
        let name = &rest[..end];
        // The quote after the equals sign.
        rest = &rest[end + 2..];
        value.clear();
        loop {
            let stop = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            // Every value has its closing quote.
            let stop = stop.unwrap_or(rest.len());
            value.extend_from_slice(&rest[..stop]);
            match (rest.get(stop), rest.get(stop + 1)) {
                (Some(b'\\'), Some(b'n')) => value.push(b'\n'),
                (Some(b'\\'), Some(&escaped)) => value.push(escaped),
                _ => {
                    // The quote, and the comma if another label follows.
                    rest = rest.get(stop + 2..).unwrap_or_default();
                    break;
                }
            }
            rest = &rest[stop + 2..];
        }
        pair.clear();
        pair.bytes(1, name);
        if !value.is_empty() {
            pair.bytes(2, value);
        }
        metric.bytes(1, pair);
    }
}

/// A `Histogram`; without buckets, a `Summary` too.
pub(super) fn histogram(
    message: &mut Vec<u8>,
    piece: &mut Vec<u8>,
    distribution: &Distribution<'_>,
) {
    message.unsigned(1, distribution.count);
    message.double(2, distribution.sum);
    match distribution.buckets {
        Buckets::None => {}
        Buckets::Classic(buckets) => {
            let infinite = (f64::INFINITY, distribution.count);
            let finite = buckets.iter().filter(|(bound, _)| bound.is_finite()).copied();
            for (bound, count) in finite.chain([infinite]) {
                piece.clear();
                piece.unsigned(1, count);
                piece.double(2, bound);
                message.bytes(3, piece);
            }
        }
        Buckets::Native { schema, first, counts } => {
            message.signed(5, schema.into());
            message.double(6, ZERO_THRESHOLD);
            native(message, piece, first, counts);
        }
    }
}

/// Spans of buckets, and by how much each bucket differs from the one before.
fn native(message: &mut Vec<u8>, piece: &mut Vec<u8>, first: i32, counts: &[u32]) {
    let spans = || Spans { first, counts, next: 0, last: None };
    for Span { offset, counts } in spans() {
        piece.clear();
        piece.signed(1, offset);
        piece.unsigned(2, counts.len() as u64);
        message.bytes(12, piece);
    }
    piece.clear();
    let mut before = 0;
    for &count in spans().flat_map(|span| span.counts) {
        piece.varint(zigzag(i64::from(count) - before));
        before = count.into();
    }
    if !piece.is_empty() {
        message.bytes(13, piece);
    }
}

/// Consecutive buckets.
struct Span<'a> {
    /// From the end of the span before, or the index of the first.
    offset: i64,
    counts: &'a [u32],
}

/// Counts cut where more than two in a row are zero: a span costs as much as two empty buckets.
struct Spans<'a> {
    first: i32,
    counts: &'a [u32],
    next: usize,
    last: Option<usize>,
}

impl<'a> Iterator for Spans<'a> {
    type Item = Span<'a>;

    fn next(&mut self) -> Option<Span<'a>> {
        let start = self.next + self.counts[self.next..].iter().position(|&count| count > 0)?;
        let mut end = start + 1;
        // As long as one of the next three is not empty.
        while let Some(next) = self.counts[end..].iter().take(3).position(|&count| count > 0) {
            end += next + 1;
        }
        self.next = end;
        let offset = match self.last.replace(end) {
            None => i64::from(self.first) + count(start),
            Some(last) => count(start - last),
        };
        Some(Span { offset, counts: &self.counts[start..end] })
    }
}

fn count(buckets: usize) -> i64 {
    i64::try_from(buckets).unwrap_or(i64::MAX)
}
