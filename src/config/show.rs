//! The configuration in force as text: what `/config` and the debug view show.
//!
//! The structs mirror the file. Defaults are written out, secrets are not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use crate::access::{Access, Rule, Rules};
use crate::config::files::hexadecimal;
use crate::config::{Config, ModuleEntry, duration};
use crate::module::pattern::Pattern;
use crate::module::{Expect, Family, Module, PemSource, Resolver, Send, Step, TlsSettings};
use crate::monitor::{Endpoint, Histogram, Monitor, SeriesOptions};

/// Stands for what only the file may hold.
const SECRET: &str = "<secret>";

/// The whole configuration.
pub(super) fn config(config: &Config) -> String {
    let modules = config.modules.iter().map(|(name, entry)| {
        let module = match entry {
            ModuleEntry::Tcp(module) => Some(ModuleText::of(module, None)),
            ModuleEntry::Other { prober } if prober.is_empty() => None,
            ModuleEntry::Other { prober } => Some(ModuleText::other(prober)),
        };
        (&**name, module)
    });
    written(&File {
        modules: modules.collect(),
        defaults: DefaultsText::of(&config.options),
        monitors: config.monitors.iter().map(|it| MonitorText::of(it)).collect(),
        canaries: config
            .canaries
            .iter()
            .map(|it| CanaryText { target: it.address.to_string(), module: &it.module.name })
            .collect(),
        access: AccessText::of(&config.access),
    })
}

/// One module, with the name that a request gave for verification.
pub(super) fn module(module: &Module, hostname: Option<&str>) -> String {
    written(&ModuleText::of(module, hostname))
}

fn written(value: &impl Serialize) -> String {
    // The mirror holds nothing that YAML cannot: no keys but text, no foreign types.
    serde_yaml::to_string(value).unwrap_or_else(|err| format!("# cannot be written: {err}\n"))
}

#[derive(Serialize)]
struct File<'c> {
    modules: BTreeMap<&'c str, Option<ModuleText<'c>>>,
    defaults: DefaultsText<'c>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    monitors: Vec<MonitorText<'c>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    canaries: Vec<CanaryText<'c>>,
    #[serde(skip_serializing_if = "AccessText::is_empty")]
    access: AccessText<'c>,
}

#[derive(Serialize)]
struct DefaultsText<'c> {
    histogram: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<&'c [f64]>,
    series: &'static str,
}

impl<'c> DefaultsText<'c> {
    fn of(options: &'c SeriesOptions) -> Self {
        let (histogram, buckets) = match &options.histogram {
            Histogram::Native => ("native", None),
            Histogram::Classic(bounds) => ("classic", Some(&**bounds)),
            Histogram::Off => ("off", None),
        };
        Self { histogram, buckets, series: if options.full { "full" } else { "lean" } }
    }
}

#[derive(Serialize)]
struct ModuleText<'c> {
    prober: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpText<'c>>,
}

impl<'c> ModuleText<'c> {
    fn other(prober: &'c str) -> Self {
        Self { prober, timeout: None, tcp: None }
    }

    fn of(module: &'c Module, hostname: Option<&'c str>) -> Self {
        Self {
            prober: "tcp",
            timeout: module.timeout.map(duration::go),
            tcp: Some(TcpText {
                preferred_ip_protocol: match module.preferred_family {
                    Family::V4 => "ip4",
                    Family::V6 => "ip6",
                },
                ip_protocol_fallback: module.family_fallback,
                source_ip_address: module.source_address.as_deref(),
                resolver: ResolverText::of(&module.resolver),
                query_response: module.query_response.iter().map(StepText::of).collect(),
                tls: module.tls,
                tls_config: TlsText::of(&module.tls_settings, hostname),
                close: module.close.as_str(),
                expect_connect: module.expect_connect.as_str(),
                hold: module.hold.map(duration::go),
            }),
        }
    }
}

#[derive(Serialize)]
struct TcpText<'c> {
    preferred_ip_protocol: &'static str,
    ip_protocol_fallback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ip_address: Option<&'c str>,
    resolver: ResolverText,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    query_response: Vec<StepText<'c>>,
    tls: bool,
    tls_config: TlsText<'c>,
    close: &'static str,
    expect_connect: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ResolverText {
    Word(&'static str),
    Servers(Vec<String>),
}

impl ResolverText {
    fn of(resolver: &Resolver) -> Self {
        match resolver {
            Resolver::Builtin => Self::Word("builtin"),
            Resolver::System => Self::Word("system"),
            Resolver::Servers(servers) => {
                Self::Servers(servers.iter().map(ToString::to_string).collect())
            }
        }
    }
}

#[derive(Default, Serialize)]
struct StepText<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect_stream: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect_bytes: Option<BytesText<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<LabelText<'c>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_bytes: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    starttls: bool,
}

impl<'c> StepText<'c> {
    fn of(step: &'c Step) -> Self {
        let mut text = Self {
            reject: step.reject.as_ref().map(Pattern::as_str),
            starttls: step.starttls,
            ..Self::default()
        };
        match &step.expect {
            Some(Expect::Line(pattern)) => text.expect = Some(pattern.as_str()),
            Some(Expect::Stream(pattern)) => text.expect_stream = Some(pattern.as_str()),
            Some(Expect::Bytes(bytes)) => text.expect_bytes = Some(BytesText::of(bytes)),
            None => {}
        }
        text.labels = step.labels.as_ref().map(|labels| {
            let labels = labels.iter();
            labels.map(|(name, value)| LabelText { name, value: value.as_str() }).collect()
        });
        match &step.send {
            Some(Send::Line(template)) => text.send = Some(template.as_str()),
            Some(Send::Bytes(bytes)) => text.send_bytes = Some(escaped(bytes)),
            None => {}
        }
        text
    }
}

#[derive(Serialize)]
struct LabelText<'c> {
    name: &'c str,
    value: &'c str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum BytesText<'c> {
    Text(&'c str),
    Hex { hex: String },
}

impl<'c> BytesText<'c> {
    fn of(bytes: &'c [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Hex { hex: hexadecimal(bytes) },
        }
    }
}

/// Bytes in the notation of `send_bytes`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

#[derive(Default, Serialize)]
struct TlsText<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_ref: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_ref: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ref: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'c str>,
    insecure_skip_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_version: Option<&'static str>,
}

impl<'c> TlsText<'c> {
    fn of(settings: &'c TlsSettings, hostname: Option<&'c str>) -> Self {
        let (ca, ca_file, ca_ref) = pem(settings.ca.as_ref());
        let (cert, cert_file, cert_ref) = pem(settings.cert.as_ref());
        let (key, key_file, key_ref) = pem(settings.key.as_ref());
        Self {
            ca,
            ca_file,
            ca_ref,
            cert,
            cert_file,
            cert_ref,
            key: key.map(|_| SECRET),
            key_file,
            key_ref,
            server_name: settings.server_name.as_deref().or(hostname),
            insecure_skip_verify: settings.insecure_skip_verify,
            min_version: settings.min_version.map(crate::module::TlsVersion::as_str),
            max_version: settings.max_version.map(crate::module::TlsVersion::as_str),
        }
    }
}

fn pem(source: Option<&PemSource>) -> (Option<&str>, Option<String>, Option<&str>) {
    match source {
        None => (None, None, None),
        Some(PemSource::Inline(text)) => (Some(text), None, None),
        Some(PemSource::File(path)) => (None, Some(path.display().to_string()), None),
        Some(PemSource::Reference(name)) => (None, None, Some(name)),
    }
}

#[derive(Serialize)]
struct MonitorText<'c> {
    name: &'c str,
    host: String,
    #[serde(flatten)]
    ports: PortsText<'c>,
    module: &'c str,
    interval: String,
    timeout: String,
    confirm: ConfirmText,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slo: Option<f64>,
    addresses: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupText<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depends_on: Option<&'c str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'c BTreeMap<Arc<str>, Arc<str>>,
}

impl<'c> MonitorText<'c> {
    fn of(monitor: &'c Monitor) -> Self {
        let confirm = &monitor.confirm;
        Self {
            name: &monitor.name,
            host: monitor.endpoints.first().map_or(String::new(), |it| it.address.host.to_string()),
            ports: PortsText::of(&monitor.endpoints),
            module: &monitor.module.name,
            interval: duration::prometheus(monitor.interval),
            timeout: duration::prometheus(monitor.timeout),
            confirm: ConfirmText {
                failures: confirm.thresholds.failures.get(),
                successes: confirm.thresholds.successes.get(),
                retry_interval: duration::prometheus(confirm.retry_interval),
                regions: confirm.regions.get(),
            },
            slow: monitor.slow.map(duration::prometheus),
            slo: monitor.slo,
            addresses: monitor.addresses.as_str(),
            group: monitor.group.as_ref().map(|it| GroupText {
                name: &it.name,
                role: it.role.as_deref(),
                min_up: it.min_up.get(),
            }),
            depends_on: monitor.depends_on.as_deref(),
            labels: &monitor.labels,
        }
    }
}

#[derive(Serialize)]
enum PortsText<'c> {
    #[serde(rename = "port")]
    One(u16),
    #[serde(rename = "ports")]
    List(Vec<PortText>),
    #[serde(rename = "ports")]
    Named(BTreeMap<&'c str, PortText>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Range(String),
}

impl<'c> PortsText<'c> {
    fn of(endpoints: &'c [Endpoint]) -> Self {
        if let [Endpoint { service: None, address }] = endpoints {
            return Self::One(address.port);
        }
        let runs = endpoints.chunk_by(|one, two| {
            one.service == two.service && one.address.port.checked_add(1) == Some(two.address.port)
        });
        let runs: Vec<(Option<&str>, PortText)> = runs
            .filter_map(|run| {
                let service = run.first()?.service.as_deref();
                let (first, last) = (run.first()?.address.port, run.last()?.address.port);
                let text = if first == last {
                    PortText::Number(first)
                } else {
                    PortText::Range(format!("{first}-{last}"))
                };
                Some((service, text))
            })
            .collect();
        if endpoints.iter().all(|it| it.service.is_some()) {
            Self::Named(runs.into_iter().filter_map(|(name, it)| Some((name?, it))).collect())
        } else {
            Self::List(runs.into_iter().map(|(_, it)| it).collect())
        }
    }
}

#[derive(Serialize)]
struct ConfirmText {
    failures: u32,
    successes: u32,
    retry_interval: String,
    regions: u32,
}

#[derive(Serialize)]
struct GroupText<'c> {
    name: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'c str>,
    min_up: u32,
}

#[derive(Serialize)]
struct CanaryText<'c> {
    target: String,
    module: &'c str,
}

#[derive(Serialize)]
struct AccessText<'c> {
    #[serde(flatten)]
    everyone: RulesText<'c>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    modules: BTreeMap<&'c str, RulesText<'c>>,
}

impl<'c> AccessText<'c> {
    fn of(access: &'c Access) -> Self {
        let modules = access.modules.iter();
        Self {
            everyone: RulesText::of(&access.everyone),
            modules: modules.map(|(name, rules)| (&**name, RulesText::of(rules))).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.everyone.allow.is_empty() && self.everyone.deny.is_empty() && self.modules.is_empty()
    }
}

#[derive(Serialize)]
struct RulesText<'c> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<&'c str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<&'c str>,
}

impl<'c> RulesText<'c> {
    fn of(rules: &'c Rules) -> Self {
        let texts = |rules: &'c [Rule]| rules.iter().map(|it| &**it.text()).collect();
        Self { allow: texts(&rules.allow), deny: texts(&rules.deny) }
    }
}
