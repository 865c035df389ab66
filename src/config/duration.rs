//! Durations as Prometheus and Go write them: `90s`, `1m30s`, `1d`, `1.5s`, `300ms`.
//!
//! Both use the same letters for the same units, so one reader serves both: Go's fractions and
//! sign, Prometheus's `d`, `w` and `y`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::config::yaml::excerpt;

/// Longest duration that is believed; everything beyond is a slip.
const LONGEST: Duration = Duration::from_secs(100 * 365 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// A duration with its sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Signed {
    negative: bool,
    length: Duration,
}

impl Signed {
    /// The duration, unless it is zero or below.
    pub(super) fn positive(self) -> Option<Duration> {
        (!self.negative && !self.length.is_zero()).then_some(self.length)
    }
}

/// Reads a duration.
///
/// # Errors
/// One line saying what to write instead.
pub(super) fn parse(text: &str) -> Result<Signed, String> {
    let wrong = || format!("`{}` is no duration: write `30s`, `1m30s` or `500ms`", excerpt(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Signed { negative: false, length: Duration::ZERO });
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    if rest.bytes().all(|it| it.is_ascii_digit()) {
        return Err(format!("`{text}` has no unit: write `{text}s` for seconds"));
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(wrong());
        }
        let end = after.find(|it: char| it.is_ascii_digit() || it == '.').unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let unit = unit(name).ok_or_else(wrong)?;
        let part = scaled(whole, fraction, unit).ok_or_else(|| too_long(text))?;
        nanoseconds = nanoseconds.checked_add(part).ok_or_else(|| too_long(text))?;
        rest = after;
    }
    let length = u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .ok()
        .filter(|&it| it <= LONGEST)
        .ok_or_else(|| too_long(text))?;
    Ok(Signed { negative, length })
}

fn too_long(text: &str) -> String {
    format!("`{}` is too long: write at most 100 years", excerpt(text))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len()))
}

/// Nanoseconds of a unit.
fn unit(name: &str) -> Option<u64> {
    let unit = match name {
        "ns" => Duration::from_nanos(1),
        "us" | "µs" | "μs" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(60 * 60),
        "d" => Duration::from_secs(DAY),
        "w" => Duration::from_secs(7 * DAY),
        "y" => Duration::from_secs(365 * DAY),
        _ => return None,
    };
    u64::try_from(unit.as_nanos()).ok()
}

fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<u128> {
    let unit = u128::from(unit);
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        // Digits below a nanosecond have no weight, as in Go.
        let value = place.checked_mul(u128::from(digit - b'0'))?;
        sum = sum.checked_add(value / 10)?;
        place /= 10;
    }
    Some(sum)
}

/// Go's form, `1.5s`, `2h0m0s`: what `/config` shows for modules.
pub(super) fn go(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let scaled = |unit: u128, name: &str| {
        let (whole, rest) = (nanoseconds / unit, nanoseconds % unit);
        let width = unit.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        match fraction.trim_end_matches('0') {
            "" => format!("{whole}{name}"),
            fraction => format!("{whole}.{fraction}{name}"),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        _ => {
            let seconds = duration.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = Duration::new(seconds % 60, duration.subsec_nanos());
            let rest = format!("{}s", rest.as_secs_f64());
            match (hours, minutes) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

/// Prometheus's form, `1m30s`, `1d`: what people read and write for monitors.
pub(super) fn prometheus(duration: Duration) -> String {
    let odd = !duration.subsec_nanos().is_multiple_of(1_000_000);
    if duration.is_zero() || odd {
        return go(duration);
    }
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, name) in
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")]
    {
        if rest >= unit {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{name}", rest / unit);
            rest %= unit;
        }
    }
    text
}
