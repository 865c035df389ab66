//! The single values of a configuration file: each knows how it is read, shown and described.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::{self, TimeZone};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::access::Rule;
use crate::address::{Address, Host, WELL_KNOWN_PORTS};
use crate::config::duration::{self, Signed};
use crate::config::files::hexadecimal;
use crate::config::read::{listed, nearest};
use crate::config::yaml::excerpt;
use crate::module::pattern::Pattern;
use crate::module::{Close, ExpectConnect, TlsVersion};
use crate::monitor::{Addresses, MAX_INTERVAL, MAX_RANGE, MIN_INTERVAL};

/// Longest name of a monitor, group or role, in bytes.
const MAX_NAME: usize = 255;
/// Most failures, successes or regions that can be asked for.
const MAX_COUNT: u32 = 1000;
/// Durations, for editors.
const DURATION: &str = r"^[-+]?(0|([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h|d|w|y))+$";

/// A single value, taken literally whether it looks like a number, a boolean or neither.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}

/// `true` or `false`, in the words of YAML 1.1.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true` or `false`")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Flag, E> {
                match text {
                    "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
                        Ok(Flag(true))
                    }
                    "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => {
                        Ok(Flag(false))
                    }
                    "true" | "false" => Err(E::custom(format!(
                        "the quotes make `{text}` a text: write it without them"
                    ))),
                    _ => Err(E::custom(format!(
                        "invalid boolean `{}`: must be `true` or `false`",
                        excerpt(text)
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Flag {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Flag".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "boolean"})
    }
}

/// A name: not empty, no control characters.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("minLength" = 1, "maxLength" = MAX_NAME))]
pub(super) struct Name(pub(super) String);

impl TryFrom<Text> for Name {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the text is empty: fill it in, or remove the key".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err(format!("`{}` holds a control character: remove it", excerpt(&text)));
        }
        if text.len() > MAX_NAME {
            return Err(format!("the name has {} bytes: write at most {MAX_NAME}", text.len()));
        }
        Ok(Self(text))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// A duration above zero.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("type" = "string", "pattern" = DURATION))]
pub(super) struct Span(pub(super) Duration);

impl TryFrom<Text> for Span {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let span = duration::parse(&text)?.positive().map(Self);
        span.ok_or_else(|| format!("invalid duration `{}`: must be above zero", excerpt(&text)))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        duration::prometheus(span.0)
    }
}

/// Time between two probes: 100ms to 1d.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("type" = "string", "pattern" = DURATION))]
pub(super) struct Interval(pub(super) Duration);

impl TryFrom<Text> for Interval {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let shown = excerpt(&text.0);
        let Span(interval) = Span::try_from(text)?;
        if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Ok(Self(interval));
        }
        Err(format!(
            "invalid interval `{shown}`: must be {} to {}",
            duration::prometheus(MIN_INTERVAL),
            duration::prometheus(MAX_INTERVAL)
        ))
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        duration::prometheus(interval.0)
    }
}

/// A duration of a module, of which zero and below stand for none; shown as Go shows it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("type" = "string", "pattern" = DURATION))]
pub(super) struct Limit(pub(super) Option<Duration>);

impl TryFrom<Text> for Limit {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        duration::parse(&text).map(Signed::positive).map(Self)
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        duration::go(limit.0.unwrap_or_default())
    }
}

/// A moment: date, time and offset of RFC 3339.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("format" = "date-time"))]
pub(super) struct Instant(#[schemars(with = "String")] pub(super) Timestamp);

impl TryFrom<Text> for Instant {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "invalid time `{}`: write date, time and offset, `2026-11-29T02:00:00+01:00`",
                excerpt(&text)
            )
        })
    }
}

impl From<Instant> for String {
    fn from(instant: Instant) -> Self {
        instant.0.to_string()
    }
}

/// A time of the day to the minute.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("pattern" = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
pub(super) struct ClockTime(#[schemars(with = "String")] pub(super) Time);

impl TryFrom<Text> for ClockTime {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let time = match text.as_bytes() {
            [_, _, b':', _, _] => Time::strptime("%H:%M", &text).ok(),
            _ => None,
        };
        time.map(Self).ok_or_else(|| {
            format!("invalid time of day `{}`: must be `00:00` to `23:59`", excerpt(&text))
        })
    }
}

impl From<ClockTime> for String {
    fn from(ClockTime(time): ClockTime) -> Self {
        format!("{:02}:{:02}", time.hour(), time.minute())
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("enum" = DAYS))]
pub(super) struct Day(#[schemars(with = "String")] pub(super) Weekday);

/// Days as they are written, from Monday.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl TryFrom<Text> for Day {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let day = DAYS.iter().zip(Weekday::Monday.cycle_forward()).find(|(day, _)| **day == text);
        day.map(|(_, day)| Self(day)).ok_or_else(|| {
            format!("invalid day `{}`: must be one of {}", excerpt(&text), listed(&DAYS))
        })
    }
}

impl From<Day> for String {
    fn from(Day(day): Day) -> Self {
        let index = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
        DAYS.get(index).map(ToString::to_string).unwrap_or_default()
    }
}

/// A time zone by its name.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
pub(super) struct Zone(#[schemars(with = "String")] pub(super) TimeZone);

impl TryFrom<Text> for Zone {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let zones = tz::db();
        zones.get(&text).map(Self).map_err(|_| {
            let names: Vec<String> = zones.available().map(|name| name.to_string()).collect();
            match nearest(&text, names.iter().map(|name| &**name)) {
                Some(near) => {
                    format!("unknown time zone `{}`: did you mean `{near}`?", excerpt(&text))
                }
                None => format!(
                    "unknown time zone `{}`: write a name like `Europe/Berlin`, or `UTC`",
                    excerpt(&text)
                ),
            }
        })
    }
}

impl From<Zone> for String {
    fn from(Zone(zone): Zone) -> Self {
        zone.iana_name().unwrap_or("UTC").to_owned()
    }
}

/// A whole number from 1 to 1000.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "u32")]
#[schemars(inline, extend("type" = "integer", "minimum" = 1, "maximum" = MAX_COUNT))]
pub(super) struct Count(pub(super) NonZeroU32);

impl TryFrom<Text> for Count {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let count = decimal(&text).filter(|count| *count <= MAX_COUNT).and_then(NonZeroU32::new);
        count.map(Self).ok_or_else(|| {
            format!(
                "invalid number `{}`: must be a whole number from 1 to {MAX_COUNT}",
                excerpt(&text)
            )
        })
    }
}

impl From<Count> for u32 {
    fn from(count: Count) -> Self {
        count.0.get()
    }
}

/// An objective of availability, `99.9%` or `0.999`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "f64")]
#[schemars(inline, extend("type" = ["string", "number"]))]
pub(super) struct Objective(pub(super) f64);

impl TryFrom<Text> for Objective {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let (number, exponent) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), -2),
            None => (&*text, 0),
        };
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        // The exponent leaves rounding to the parser: a division would make 0.9990000000000001.
        let ratio = format!("{number}e{exponent}").parse::<f64>().ok().filter(|_| plain);
        ratio.filter(|ratio| *ratio > 0.0 && *ratio < 1.0).map(Self).ok_or_else(|| {
            format!(
                "invalid objective `{}`: must be above 0 and below 100%, such as `99.9%`",
                excerpt(&text)
            )
        })
    }
}

impl From<Objective> for f64 {
    fn from(objective: Objective) -> Self {
        objective.0
    }
}

/// An upper bound of a histogram, seconds or a duration; or `off`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "Text")]
#[schemars(inline, with = "Text")]
pub(super) enum Bound {
    Off,
    Seconds(f64),
}

impl TryFrom<Text> for Bound {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        if matches!(&*text, "off" | "false" | "no") {
            return Ok(Self::Off);
        }
        let seconds = text
            .parse::<f64>()
            .ok()
            .or_else(|| duration::parse(&text).ok()?.positive().map(|span| span.as_secs_f64()));
        let seconds = seconds.filter(|bound| bound.is_finite() && *bound > 0.0);
        seconds.map(Self::Seconds).ok_or_else(|| {
            format!(
                "invalid bound `{}`: must be above zero, in seconds or a duration, `0.25` or \
                 `250ms`",
                excerpt(&text)
            )
        })
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Seconds(bound) => serializer.serialize_f64(*bound),
        }
    }
}

/// A number without sign, leading zeros (octal to some readers) or separators.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    if plain && !octal { text.parse().ok() } else { None }
}

fn port(text: &str) -> Option<u16> {
    decimal(text).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0)
}

fn port_fault(text: &str) -> String {
    let known = WELL_KNOWN_PORTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    match known {
        Some((_, number)) => format!("`{}` is a name: write its number, `{number}`", excerpt(text)),
        None => format!("invalid port `{}`: must be 1 to 65535", excerpt(text)),
    }
}

/// One port, a number from 1 to 65535.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
#[schemars(inline, extend("minimum" = 1))]
pub(super) struct Port(pub(super) u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single port, with several under `ports`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Port, E> {
                if text.split_once('-').is_some_and(|(first, _)| port(first).is_some()) {
                    return Err(E::custom(format!(
                        "invalid port `{0}`: write several as `ports: [{0}]`",
                        excerpt(text)
                    )));
                }
                port(text.trim()).map(Port).ok_or_else(|| E::custom(port_fault(text)))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// A port, or a range of ports, `8000-8010`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Text")]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl TryFrom<Text> for PortRange {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first.trim()), port(last.trim())),
            None => (port(text.trim()), port(text.trim())),
        };
        let (Some(first), Some(last)) = (first, last) else { return Err(port_fault(&text)) };
        if first > last {
            return Err(format!("`{text}` runs backwards: write `{last}-{first}`"));
        }
        let span = usize::from(last - first) + 1;
        if span > MAX_RANGE {
            return Err(format!(
                "`{text}` spans {span} ports: write ranges of at most {MAX_RANGE}"
            ));
        }
        Ok(Self { first, last })
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            return serializer.serialize_u16(self.first);
        }
        serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port from 1 to 65535, or a range, 8000-8010.",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[1-9][0-9]*( *- *[1-9][0-9]*)?$"},
            ],
        })
    }
}

/// A host name or an IP address.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
pub(super) struct HostText(#[schemars(with = "String")] pub(super) Host);

impl TryFrom<Text> for HostText {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let message = match Host::parse(&text) {
            Ok(host) => return Ok(Self(host)),
            Err(message) => message,
        };
        Err(if text.contains("://") {
            format!("`{}` is a URL: write the host alone", excerpt(&text))
        } else if let Ok(Address { host, port }) = Address::parse(&text) {
            format!("`{}` has a port: write `host: {host}` and `port: {port}`", excerpt(&text))
        } else {
            message
        })
    }
}

impl From<HostText> for String {
    fn from(host: HostText) -> Self {
        host.0.to_string()
    }
}

/// What is probed: `host:port`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
pub(super) struct TargetText(#[schemars(with = "String")] pub(super) Address);

impl TryFrom<Text> for TargetText {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        match Address::parse(&text)? {
            address if address.port > 0 => Ok(Self(address)),
            _ => Err(format!("`{}` has no port: write host:port", excerpt(&text))),
        }
    }
}

impl From<TargetText> for String {
    fn from(target: TargetText) -> Self {
        target.0.to_string()
    }
}

/// A regular expression in the syntax of RE2.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
pub(super) struct Expression(#[schemars(with = "String")] pub(super) Pattern);

impl TryFrom<Text> for Expression {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        Pattern::parse(&text)
            .map(Self)
            .map_err(|err| format!("invalid RE2 expression `{}`: {err}", excerpt(&text)))
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.0.as_str().to_owned()
    }
}

/// A rule of access: HOST[:PORTS].
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
pub(super) struct RuleText(#[schemars(with = "String")] pub(super) Rule);

impl TryFrom<Text> for RuleText {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        Rule::parse(&text).map(Self)
    }
}

impl From<RuleText> for String {
    fn from(rule: RuleText) -> Self {
        rule.0.text().to_string()
    }
}

/// The name of a label, in the form that every version of Prometheus takes.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline, extend("pattern" = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
pub(super) struct LabelName(pub(super) String);

impl TryFrom<Text> for LabelName {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        match label_fault(&text) {
            None => Ok(Self(text)),
            Some(message) => Err(message),
        }
    }
}

impl From<LabelName> for String {
    fn from(name: LabelName) -> Self {
        name.0
    }
}

/// What is wrong with the name of a label.
pub(super) fn label_fault(name: &str) -> Option<String> {
    let letter = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    let form =
        name.starts_with(letter) && name.chars().all(|each| letter(each) || each.is_ascii_digit());
    if !form {
        return Some(format!(
            "invalid label name `{}`: write letters, digits and `_`, no digit first",
            excerpt(name)
        ));
    }
    name.starts_with("__").then(|| {
        format!("`{}` begins with `__`, which is Prometheus's own: rename it", excerpt(name))
    })
}

/// One word of a closed set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<T>(pub(super) T);

/// A closed set of words.
pub(super) trait Words: Copy + PartialEq + 'static {
    const NAME: &'static str;
    const WORDS: &'static [(&'static str, Self)];
    /// How many of the first words are understood, but not recommended.
    const QUIET: usize = 0;
}

impl Words for Addresses {
    const NAME: &'static str = "Addresses";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::First.as_str(), Self::First),
        (Self::Any.as_str(), Self::Any),
        (Self::All.as_str(), Self::All),
        (Self::Quorum.as_str(), Self::Quorum),
    ];
}

/// How the histogram of durations is spread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Native,
    Classic,
    Off,
}

impl Words for Shape {
    const NAME: &'static str = "Shape";
    const WORDS: &'static [(&'static str, Self)] =
        &[("native", Self::Native), ("classic", Self::Classic), ("off", Self::Off)];
}

/// How much is exposed of every target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Series {
    Lean,
    Full,
}

impl Words for Series {
    const NAME: &'static str = "Series";
    const WORDS: &'static [(&'static str, Self)] = &[("lean", Self::Lean), ("full", Self::Full)];
}

impl Words for Close {
    const NAME: &'static str = "Close";
    const WORDS: &'static [(&'static str, Self)] =
        &[(Self::Fin.as_str(), Self::Fin), (Self::Reset.as_str(), Self::Reset)];
}

impl Words for ExpectConnect {
    const NAME: &'static str = "ExpectConnect";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Open.as_str(), Self::Open),
        (Self::Refused.as_str(), Self::Refused),
        (Self::Timeout.as_str(), Self::Timeout),
        (Self::Closed.as_str(), Self::Closed),
    ];
}

impl Words for TlsVersion {
    const NAME: &'static str = "TlsVersion";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Tls10.as_str(), Self::Tls10),
        (Self::Tls11.as_str(), Self::Tls11),
        (Self::Tls12.as_str(), Self::Tls12),
        (Self::Tls13.as_str(), Self::Tls13),
    ];
    const QUIET: usize = 2;
}

impl<'de, T: Words> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        let known = T::WORDS.iter().find(|(word, _)| *word == text);
        known.map(|(_, value)| Self(*value)).ok_or_else(|| {
            let words = T::WORDS.iter().skip(T::QUIET).map(|(word, _)| *word).collect::<Vec<_>>();
            let words = listed(&words);
            D::Error::custom(format!("invalid value `{}`: must be one of {words}", excerpt(&text)))
        })
    }
}

impl<T: Words> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let word = T::WORDS.iter().find(|(_, value)| *value == self.0);
        serializer.serialize_str(word.map_or("", |(word, _)| word))
    }
}

impl<T: Words> JsonSchema for Choice<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        json_schema!({"enum": words})
    }
}

/// Bytes: a text, `!!binary`, or `{hex: "00 ff"}`.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    /// As written: what escapes mean is for the key to say.
    Text(String),
    Raw(Vec<u8>),
}

/// Bytes in hexadecimal.
#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct HexKeys {
    /// Pairs of digits, blanks between them as one likes.
    hex: Option<Hex>,
}

#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(try_from = "Text", into = "String")]
#[schemars(inline)]
struct Hex(#[schemars(with = "String")] Vec<u8>);

impl TryFrom<Text> for Hex {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let pairs = digits.chunks_exact(2);
        let whole = pairs.remainder().is_empty();
        let bytes = pairs.map(|pair| hex_pair(pair[0], pair[1])).collect::<Option<Vec<u8>>>();
        // Not quoted: it may be a password.
        bytes
            .filter(|_| whole)
            .map(Self)
            .ok_or_else(|| "invalid hexadecimal: write pairs of digits, `00 ff 1a`".to_owned())
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        hexadecimal(&hex.0)
    }
}

pub(super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value or `{hex: \"00 ff\"}`")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Bytes, E> {
                Ok(Bytes::Text(value.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bytes, A::Error> {
                let keys = HexKeys::deserialize(MapAccessDeserializer::new(map))?;
                let Some(Hex(bytes)) = keys.hex else {
                    return Err(A::Error::custom("`hex` is missing: write `{hex: \"00 ff\"}`"));
                };
                Ok(Bytes::Raw(bytes))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Raw(bytes) => HexKeys { hex: Some(Hex(bytes.clone())) }.serialize(serializer),
        }
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hex = generator.subschema_for::<HexKeys>();
        json_schema!({"anyOf": [Text::json_schema(generator), hex]})
    }
}

/// Bytes as a text with escapes for those that cannot be typed.
///
/// # Errors
/// What is no escape.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut data = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        data.extend_from_slice(before.as_bytes());
        let (byte, length) = match after.as_bytes() {
            [b'r', ..] => (Some(b'\r'), 1),
            [b'n', ..] => (Some(b'\n'), 1),
            [b't', ..] => (Some(b'\t'), 1),
            [b'0', ..] => (Some(0), 1),
            [b'\\', ..] => (Some(b'\\'), 1),
            [b'x', high, low, ..] => (hex_pair(*high, *low), 3),
            _ => (None, 0),
        };
        let Some(byte) = byte else {
            let at = text.len() - rest.len() + before.len() + 1;
            return Err(format!(
                "invalid escape at byte {at}: write `\\xNN`, `\\r`, `\\n`, `\\t`, `\\0` or `\\\\`"
            ));
        };
        data.push(byte);
        rest = &after[length..];
    }
    data.extend_from_slice(rest.as_bytes());
    Ok(data)
}

/// A list, or a single item without its brackets.
#[derive(Clone, Debug)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(items) => items,
        }
    }
}

impl<'de, T: Deserialize<'de> + TryFrom<Text>> Deserialize<'de> for OneOrMany<T>
where
    <T as TryFrom<Text>>::Error: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + TryFrom<Text>> Visitor<'de> for Read<T>
        where
            <T as TryFrom<Text>>::Error: fmt::Display,
        {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value or a list, `[one, two]`")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<OneOrMany<T>, E> {
                self.visit_string(value.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: Error>(self, text: String) -> Result<OneOrMany<T>, E> {
                T::try_from(Text(text)).map(OneOrMany::One).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<OneOrMany<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(OneOrMany::Many)
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(item) => item.serialize(serializer),
            Self::Many(items) => items.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({"anyOf": [item, {"type": "array", "items": item}]})
    }
}

/// A mapping, or the one value of it that matters most.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Short<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + TryFrom<Text, Error = String>> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + TryFrom<Text, Error = String>> Visitor<'de> for Read<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value or a mapping, `key: value`")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
                self.visit_str(if value { "true" } else { "false" })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                T::try_from(Text(text.to_owned())).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Read(PhantomData)).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Short{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, generator.subschema_for::<T>()]})
    }
}
