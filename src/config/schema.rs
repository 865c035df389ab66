//! The configuration file as types: its reader, `/config` and `config/config.schema.json` all
//! come from here. What a key means is said here too, for editors.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use serde_yaml::Value;

use crate::config::ports::PortsKeys;
use crate::config::scalar::{
    Bound, Bytes, Choice, ClockTime, Count, Day, Expression, Flag, HostText, Instant, Interval,
    LabelName, Limit, Name, Objective, OneOrMany, Port, RuleText, Series, Shape, Short, Span,
    TargetText, Text, Zone,
};
use crate::config::yaml::excerpt;
use crate::module::{Close, ExpectConnect, TlsVersion};
use crate::monitor::{Addresses, PathPolicy};
use crate::secret::Secret;

/// Free labels by name; null counts as none.
pub(super) type Labels = BTreeMap<String, Option<Text>>;

/// Configuration of `tcp_probe_exporter`.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    /// How to probe. The schema of a TCP module of `blackbox_exporter`; modules of other probers
    /// are skipped with a warning. The embedded modules are always there; one of the same name
    /// here replaces them.
    pub(super) modules: Option<BTreeMap<String, Option<ModuleKeys>>>,
    /// What monitors say unless they say otherwise themselves.
    pub(super) defaults: Option<DefaultsKeys>,
    /// What is probed on schedule, whether or not anybody scrapes.
    pub(super) monitors: Option<Vec<MonitorKeys>>,
    /// Globs of further files, relative to this one: `monitors: […]`, a list of monitors, or a
    /// list in the form of Prometheus's `file_sd_configs`.
    pub(super) monitor_files: Option<OneOrMany<Text>>,
    /// Targets that are always up from here. While all of them fail, this region is cut off and
    /// failures are inconclusive.
    pub(super) canaries: Option<Vec<Short<CanaryKeys>>>,
    /// Who may probe what by `/probe`.
    pub(super) access: Option<AccessKeys>,
    /// When alerts are held back, and for which monitors. Probes go on meanwhile.
    pub(super) maintenance: Option<Vec<WindowKeys>>,
}

/// A file of monitors.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MonitorFileKeys {
    #[expect(dead_code, reason = "read item by item; here for its name")]
    monitors: Option<Vec<MonitorKeys>>,
}

/// A module of `blackbox_exporter`'s schema.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(transform = lenient_for_other_probers)]
pub(super) struct ModuleKeys {
    /// `tcp`; modules of other probers are skipped.
    pub(super) prober: Option<Text>,
    /// Longest duration of a probe: resolve, connect, TLS and dialogue. Default: none.
    pub(super) timeout: Option<Limit>,
    /// How to probe.
    pub(super) tcp: Option<TcpKeys>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) http: Option<Value>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) icmp: Option<Value>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) dns: Option<Value>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) grpc: Option<Value>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) unix: Option<Value>,
    /// Ignored.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) websocket: Option<Value>,
}

/// Modules of other probers may have any keys.
fn lenient_for_other_probers(schema: &mut Schema) {
    let strict = std::mem::take(schema);
    *schema = schemars::json_schema!({
        "if": {"properties": {"prober": {"const": "tcp"}}},
        "then": strict,
        "required": ["prober"],
    });
}

/// `tcp` of a module.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TcpKeys {
    /// The family tried first: `ip6` or `ip4`. Default: ip6.
    pub(super) preferred_ip_protocol: Option<Text>,
    /// Whether the other family may be used if the name has no address of the preferred one.
    /// Default: true.
    pub(super) ip_protocol_fallback: Option<Flag>,
    /// Local address to connect from. Default: the kernel's choice.
    pub(super) source_ip_address: Option<Text>,
    /// `builtin` (`/etc/hosts` and `/etc/resolv.conf`), `system` (`getaddrinfo`), or a list of
    /// name servers. Default: builtin.
    pub(super) resolver: Option<OneOrMany<Text>>,
    /// The exchange, in order.
    pub(super) query_response: Option<Vec<StepKeys>>,
    /// TLS from the first byte. Default: false.
    pub(super) tls: Option<Flag>,
    /// For `tls` and `starttls`.
    pub(super) tls_config: Option<TlsKeys>,
    /// How the connection ends: `fin` or `reset`. Default: fin.
    pub(super) close: Option<Choice<Close>>,
    /// What must become of the connect. Default: open.
    pub(super) expect_connect: Option<Choice<ExpectConnect>>,
    /// How long the connection must stay open after the exchange, to find a port that accepts and
    /// then closes. Default: not checked.
    pub(super) hold: Option<Limit>,
}

/// One entry of `query_response`: wait, then send, then begin TLS; each optional.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepKeys {
    /// A line that matches. RE2 syntax; `^` and `$` are the ends of the line.
    pub(super) expect: Option<Expression>,
    /// A match anywhere in what came, for protocols without lines.
    pub(super) expect_stream: Option<Expression>,
    /// Exactly these bytes.
    pub(super) expect_bytes: Option<Bytes>,
    /// What ends the probe as a failure at once, without waiting for the timeout.
    pub(super) reject: Option<Expression>,
    /// Labels of `probe_expect_info`, with the captures of `expect`.
    pub(super) labels: Option<Vec<LabelKeys>>,
    /// A text, with captures as `$1` or `${name}`; a line feed is added.
    pub(super) send: Option<Secret<Bytes>>,
    /// The same in a file, without captures; read again when it changes. The file is relative to
    /// the working directory, and what it holds is a secret.
    pub(super) send_file: Option<Text>,
    /// Bytes as they are, without a line feed: `\xNN`, `\r`, `\n`, `\t`, `\0`, `\\`.
    pub(super) send_bytes: Option<Secret<Bytes>>,
    /// The same in a file, which holds the very bytes.
    pub(super) send_bytes_file: Option<Text>,
    /// Begin TLS. Default: false.
    pub(super) starttls: Option<Flag>,
}

/// A label of `probe_expect_info`.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelKeys {
    /// Its name.
    pub(super) name: Option<LabelName>,
    /// Its value, with captures as `$1` or `${name}`.
    pub(super) value: Option<Text>,
}

/// `tls_config` of a module. Files are relative to the working directory and read again when they
/// change.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsKeys {
    /// Trust anchors instead of those of the system.
    pub(super) ca: Option<Text>,
    /// The same in a file.
    pub(super) ca_file: Option<Text>,
    /// The same in a secret manager, which this exporter does not have.
    pub(super) ca_ref: Option<Text>,
    /// Client certificate, only together with its key.
    pub(super) cert: Option<Text>,
    /// The same in a file.
    pub(super) cert_file: Option<Text>,
    /// The same in a secret manager, which this exporter does not have.
    pub(super) cert_ref: Option<Text>,
    /// Key of the client certificate.
    pub(super) key: Option<Secret<Text>>,
    /// The same in a file.
    pub(super) key_file: Option<Text>,
    /// The same in a secret manager, which this exporter does not have.
    pub(super) key_ref: Option<Text>,
    /// Name to verify and to send. Default: the host of the target.
    pub(super) server_name: Option<Text>,
    /// Accept any certificate. Default: false.
    pub(super) insecure_skip_verify: Option<Flag>,
    /// Lowest version. Default: TLS12.
    pub(super) min_version: Option<Choice<TlsVersion>>,
    /// Highest version. Default: TLS13.
    pub(super) max_version: Option<Choice<TlsVersion>>,
}

/// What monitors say unless they say otherwise themselves.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultsKeys {
    /// Name of a module. Default: `tcp_connect`.
    pub(super) module: Option<Text>,
    /// Time between two probes of a target. Default: 1m.
    pub(super) interval: Option<Interval>,
    /// The same of a target that is down. Default: 1m or the interval, whichever is shorter, but
    /// at least twice the timeout.
    pub(super) down_interval: Option<Interval>,
    /// Longest duration of a probe, shorter than the interval. Default: the module's, else 10s;
    /// not more than four fifths of the interval.
    pub(super) timeout: Option<Span>,
    /// What it takes to change state.
    pub(super) confirm: Option<ConfirmKeys>,
    /// Successes slower than this are worth an alert. Default: none.
    pub(super) slow: Option<Span>,
    /// Objective of availability, for error budgets: 99.9% or 0.999. Default: none.
    pub(super) slo: Option<Objective>,
    /// Which addresses of a name are probed: the first, or every one, of which any, all or a
    /// quorum must succeed. Default: first.
    pub(super) addresses: Option<Choice<Addresses>>,
    /// Whether a confirmed failure is explained by following the path and by counter-checks: `on`,
    /// `off`, or `{baseline: 1h}` to follow the path so often while the target is up, too.
    /// Default: on.
    pub(super) path: Option<Short<PathKeys>>,
    /// Free labels of `tcp_monitor_info`, to route and group alerts by. Those of a monitor win.
    pub(super) labels: Option<Labels>,
    /// How `tcp_monitor_probe_duration_seconds` is spread: a native histogram where the scraper
    /// asks for protobuf, classic buckets for every scraper, or off. Default: native.
    pub(super) histogram: Option<Choice<Shape>>,
    /// Upper bounds of classic buckets, seconds or durations; listed without `histogram`, they ask
    /// for it.
    pub(super) buckets: Option<OneOrMany<Bound>>,
    /// `full` also exposes what can be derived, `tcp_monitor_consecutive_successes` and the policy
    /// as series of every target. Default: lean.
    pub(super) series: Option<Choice<Series>>,
}

impl From<DefaultsKeys> for MonitorKeys {
    fn from(defaults: DefaultsKeys) -> Self {
        let DefaultsKeys {
            module,
            interval,
            down_interval,
            timeout,
            confirm,
            slow,
            slo,
            addresses,
            path,
            labels,
            histogram: _,
            buckets: _,
            series: _,
        } = defaults;
        Self {
            module,
            interval,
            down_interval,
            timeout,
            confirm,
            slow,
            slo,
            addresses,
            path,
            labels,
            ..Self::default()
        }
    }
}

/// What is probed on schedule.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["host"], "oneOf" = [{"required": ["port"]}, {"required": ["ports"]}]))]
pub(super) struct MonitorKeys {
    /// Unique. Default: host:port, or the host if there are several ports.
    pub(super) name: Option<Name>,
    /// A host name or an IP address.
    pub(super) host: Option<HostText>,
    /// One port.
    pub(super) port: Option<Port>,
    /// Several ports: a list of numbers and ranges of up to 1024, or names for them, exposed as
    /// the label `service`.
    pub(super) ports: Option<PortsKeys>,
    /// Name of a module. Default: that of `defaults`.
    pub(super) module: Option<Text>,
    /// Time between two probes of a target. Default: that of `defaults`.
    pub(super) interval: Option<Interval>,
    /// The same of a target that is down, between the timeout and the interval. Default: that of
    /// `defaults`.
    pub(super) down_interval: Option<Interval>,
    /// Longest duration of a probe, shorter than the interval. Default: that of `defaults`.
    pub(super) timeout: Option<Span>,
    /// What it takes to change state.
    pub(super) confirm: Option<ConfirmKeys>,
    /// Successes slower than this are worth an alert. Default: that of `defaults`.
    pub(super) slow: Option<Span>,
    /// Objective of availability, for error budgets: 99.9% or 0.999. Default: that of `defaults`.
    pub(super) slo: Option<Objective>,
    /// Which addresses of a name are probed: the first, or every one, of which any, all or a
    /// quorum must succeed. Default: that of `defaults`.
    pub(super) addresses: Option<Choice<Addresses>>,
    /// Whether a confirmed failure is explained by following the path and by counter-checks: `on`,
    /// `off`, or `{baseline: 1h}` to follow the path so often while the target is up, too.
    /// Default: that of `defaults`.
    pub(super) path: Option<Short<PathKeys>>,
    /// Targets that stand in for each other. A name alone is enough: `group: orders`.
    pub(super) group: Option<Short<GroupKeys>>,
    /// Another monitor, whose being down explains this one.
    pub(super) depends_on: Option<Name>,
    /// Free labels of `tcp_monitor_info`, on top of those of `defaults`.
    pub(super) labels: Option<Labels>,
}

/// What it takes to change state.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmKeys {
    /// Failures in a row that take a target down. Default: 3.
    pub(super) failures: Option<Count>,
    /// Successes in a row that bring it back. Default: 1.
    pub(super) successes: Option<Count>,
    /// Time between two probes while a change is unconfirmed. Default: 5s, or a shorter interval.
    pub(super) retry_interval: Option<Interval>,
    /// How many regions must hold a target down before somebody is notified. Policy for the alert
    /// rules; no exporter waits for another. Default: 1.
    pub(super) regions: Option<Count>,
}

/// When the path is followed.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PathKeys {
    /// How often while the target is up, as far as the budget goes. Default: never.
    pub(super) baseline: Option<Interval>,
    /// Whether at all.
    #[serde(skip)]
    pub(super) off: bool,
}

impl PathKeys {
    pub(super) fn policy(&self) -> PathPolicy {
        match (self.off, &self.baseline) {
            (true, _) => PathPolicy::Off,
            (false, None) => PathPolicy::OnFailure,
            (false, Some(Interval(baseline))) => PathPolicy::Baseline(*baseline),
        }
    }
}

impl Serialize for PathKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.policy() {
            PathPolicy::Off => serializer.serialize_str("off"),
            PathPolicy::OnFailure => serializer.serialize_str("on"),
            PathPolicy::Baseline(baseline) => {
                serializer.collect_map([("baseline", Interval(baseline))])
            }
        }
    }
}

impl TryFrom<Text> for PathKeys {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        match &*text {
            "on" | "true" => Ok(Self::default()),
            "off" | "false" => Ok(Self { off: true, ..Self::default() }),
            _ => Err(format!(
                "invalid path `{}`: must be `on`, `off` or `{{baseline: 1h}}`",
                excerpt(&text)
            )),
        }
    }
}

/// Membership of targets that stand in for each other.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupKeys {
    /// The group.
    pub(super) name: Option<Name>,
    /// What this monitor is in it: primary, standby, node. Default: none.
    pub(super) role: Option<Name>,
    /// Members that must be up for the group to be; the same in all of them. Default: 1.
    pub(super) min_up: Option<Count>,
}

impl TryFrom<Text> for GroupKeys {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        Ok(Self { name: Some(Name::try_from(text)?), ..Self::default() })
    }
}

/// A target that is always up from here.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CanaryKeys {
    /// What to probe, host:port.
    pub(super) target: Option<TargetText>,
    /// Name of a module. Default: `tcp_connect`.
    pub(super) module: Option<Text>,
}

impl TryFrom<Text> for CanaryKeys {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        Ok(Self { target: Some(TargetText::try_from(text)?), module: None })
    }
}

/// Who may probe what. A rule is HOST[:PORTS]: a network, an address, a name in which `*` stands
/// for anything, or nothing; a port or a range.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessKeys {
    /// If there are any, one must match. Default: all but link-local and metadata addresses.
    pub(super) allow: Option<OneOrMany<RuleText>>,
    /// None of these may match.
    pub(super) deny: Option<OneOrMany<RuleText>>,
    /// On top, for one module.
    pub(super) modules: Option<BTreeMap<String, Option<RuleKeys>>>,
    /// Whether `/probe`, the status page and the logs of probes on demand quote what peers say.
    /// What `labels` of a module capture is exposed anyway. Default: true.
    pub(super) banners: Option<Flag>,
}

/// Rules for one module.
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleKeys {
    /// If there are any, one must match.
    pub(super) allow: Option<OneOrMany<RuleText>>,
    /// None of these may match.
    pub(super) deny: Option<OneOrMany<RuleText>>,
}

/// A window of maintenance: for the monitors that satisfy all of `monitors`, `groups` and `labels`
/// that are given, once (`start` and `end`) or every week (`weekly`).
#[derive(Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "anyOf" = [{"required": ["monitors"]}, {"required": ["groups"]}, {"required": ["labels"]}],
    "oneOf" = [{"required": ["start", "end"]}, {"required": ["weekly"]}]
))]
pub(super) struct WindowKeys {
    /// Names of monitors; `*` is every monitor.
    pub(super) monitors: Option<OneOrMany<Name>>,
    /// Names of groups.
    pub(super) groups: Option<OneOrMany<Name>>,
    /// Labels that the monitors have, all of them.
    pub(super) labels: Option<Labels>,
    /// Its start, with offset: 2026-11-29T02:00:00+01:00.
    pub(super) start: Option<Instant>,
    /// Its end.
    pub(super) end: Option<Instant>,
    /// Every week, in local time.
    pub(super) weekly: Option<WeeklyKeys>,
}

/// A window of every week. Where a clock change makes a time ambiguous or skips it, the window
/// starts at the earlier and ends at the later reading.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["days", "start", "end", "time_zone"]))]
pub(super) struct WeeklyKeys {
    /// The days on which it starts: mon, tue, wed, thu, fri, sat, sun.
    pub(super) days: Option<OneOrMany<Day>>,
    /// Its start, 00:00 to 23:59.
    pub(super) start: Option<ClockTime>,
    /// Its end; on the following day unless it is after the start.
    pub(super) end: Option<ClockTime>,
    /// Whose clock: a name of the time zone database, Europe/Berlin, or UTC.
    pub(super) time_zone: Option<Zone>,
}

/// An entry in the form of Prometheus's file-based discovery.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read key by key; here for their names")]
pub(super) struct TargetGroupKeys {
    targets: Option<Value>,
    labels: Option<Value>,
}

/// What editors read.
#[must_use]
pub(super) fn json() -> String {
    let schema = SchemaGenerator::default().into_root_schema_for::<FileKeys>();
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}
