//! The configuration in force as text: what `/config` and the debug view show.
//!
//! The schema's own types, written out. Defaults are filled in, secrets are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_yaml::Value;

use crate::access::{Access, Rule, Rules};
use crate::config::ports::PortsKeys;
use crate::config::scalar::{
    Bound, Bytes, Choice, ClockTime, Count, Day, Expression, Flag, HostText, Instant, Interval,
    LabelName, Limit, Name, Objective, OneOrMany, Port, PortRange, RuleText, Series, Shape, Short,
    Span, TargetText, Text, Zone,
};
use crate::config::schema::{
    AccessKeys, CanaryKeys, ConfirmKeys, DefaultsKeys, FileKeys, GroupKeys, LabelKeys, ModuleKeys,
    MonitorKeys, PathKeys, RuleKeys, StepKeys, TcpKeys, TlsKeys, WeeklyKeys, WindowKeys,
};
use crate::config::{Config, ModuleEntry};
use crate::maintenance::{Selector, Times, Weekly, Window};
use crate::module::template::Template;
use crate::module::{Expect, Family, Module, PemSource, Resolver, Send, Step, TlsSettings};
use crate::monitor::{Endpoint, Histogram, Monitor, PathPolicy, SeriesOptions};
use crate::secret::Secret;

/// The whole configuration.
pub(super) fn config(config: &Config) -> String {
    let modules = config.modules.iter().map(|(name, entry)| {
        let keys = match entry {
            ModuleEntry::Tcp(module) => Some(module_keys(module, None)),
            ModuleEntry::Other { prober } if prober.is_empty() => None,
            ModuleEntry::Other { prober } => {
                Some(ModuleKeys { prober: text(prober), ..ModuleKeys::default() })
            }
        };
        (name.to_string(), keys)
    });
    let canaries: Vec<Short<CanaryKeys>> = config
        .canaries
        .iter()
        .map(|canary| {
            let target = Some(TargetText(canary.address.clone()));
            Short(CanaryKeys { target, module: text(&canary.module.name) })
        })
        .collect();
    let mut shown = written(&FileKeys {
        modules: Some(modules.collect()),
        defaults: Some(defaults_keys(&config.options)),
        canaries: Some(canaries).filter(|canaries| !canaries.is_empty()),
        access: access_keys(&config.access),
        maintenance: Some(config.maintenance.windows.iter().map(window_keys).collect())
            .filter(|windows: &Vec<_>| !windows.is_empty()),
        ..FileKeys::default()
    });
    // One by one: the keys of all of them would take more memory than the monitors themselves.
    for (index, monitor) in config.monitors.iter().enumerate() {
        if index == 0 {
            shown.push_str("monitors:\n");
        }
        shown.push_str(&written(&[monitor_keys(monitor)]));
    }
    shown
}

/// One module, with the name that a request gave for verification.
pub(super) fn module(module: &Module, hostname: Option<&str>) -> String {
    written(&module_keys(module, hostname))
}

fn written(keys: &impl Serialize) -> String {
    let text = serde_yaml::to_value(keys).and_then(|mut value| {
        prune(&mut value);
        serde_yaml::to_string(&value)
    });
    // The keys hold nothing that YAML cannot: no keys but text, no foreign types.
    text.unwrap_or_else(|err| format!("# cannot be written: {err}\n"))
}

/// Removes the keys that say nothing; a module that says nothing stays.
fn prune(value: &mut Value) {
    match value {
        Value::Mapping(mapping) => {
            mapping.retain(|key, value| {
                prune(value);
                key.as_str() == Some("modules") || !value.is_null()
            });
        }
        Value::Sequence(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => {}
    }
}

fn defaults_keys(options: &SeriesOptions) -> DefaultsKeys {
    let (shape, bounds) = match &options.histogram {
        Histogram::Native => (Shape::Native, None),
        Histogram::Classic(bounds) => (Shape::Classic, Some(bounds)),
        Histogram::Off => (Shape::Off, None),
    };
    let series = if options.full { Series::Full } else { Series::Lean };
    DefaultsKeys {
        histogram: Some(Choice(shape)),
        buckets: bounds
            .map(|bounds| OneOrMany::Many(bounds.iter().copied().map(Bound::Seconds).collect())),
        series: Some(Choice(series)),
        ..DefaultsKeys::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every key is optional")]
fn text(text: &str) -> Option<Text> {
    Some(Text(text.to_owned()))
}

fn module_keys(module: &Module, hostname: Option<&str>) -> ModuleKeys {
    let limit = |limit| Some(Limit(Some(limit)));
    let steps: Vec<StepKeys> = module.query_response.iter().map(step_keys).collect();
    let tcp = TcpKeys {
        preferred_ip_protocol: text(match module.preferred_family {
            Family::V4 => "ip4",
            Family::V6 => "ip6",
        }),
        ip_protocol_fallback: Some(Flag(module.family_fallback)),
        source_ip_address: module.source_address.clone().map(Text),
        resolver: Some(match &module.resolver {
            Resolver::Builtin => OneOrMany::One(Text("builtin".to_owned())),
            Resolver::System => OneOrMany::One(Text("system".to_owned())),
            Resolver::Servers(servers) => {
                OneOrMany::Many(servers.iter().map(|server| Text(server.to_string())).collect())
            }
        }),
        query_response: Some(steps).filter(|steps| !steps.is_empty()),
        tls: Some(Flag(module.tls)),
        tls_config: Some(tls_keys(&module.tls_settings, hostname)),
        close: Some(Choice(module.close)),
        expect_connect: Some(Choice(module.expect_connect)),
        hold: module.hold.and_then(limit),
    };
    ModuleKeys {
        prober: text("tcp"),
        timeout: module.timeout.and_then(limit),
        tcp: Some(tcp),
        ..ModuleKeys::default()
    }
}

fn step_keys(step: &Step) -> StepKeys {
    let mut keys = StepKeys {
        reject: step.reject.clone().map(Expression),
        starttls: step.starttls.then_some(Flag(true)),
        ..StepKeys::default()
    };
    match &step.expect {
        Some(Expect::Line(pattern)) => keys.expect = Some(Expression(pattern.clone())),
        Some(Expect::Stream(pattern)) => keys.expect_stream = Some(Expression(pattern.clone())),
        Some(Expect::Bytes(bytes)) => {
            keys.expect_bytes = Some(match String::from_utf8(bytes.clone()) {
                Ok(text) => Bytes::Text(text),
                Err(err) => Bytes::Raw(err.into_bytes()),
            });
        }
        None => {}
    }
    keys.labels = step.labels.as_ref().map(|labels| {
        let label = |(name, value): &(String, _)| label_keys(name, value);
        labels.iter().map(label).collect()
    });
    match &step.send {
        Some(Send::Line(line)) => {
            let text = |line: Template| Bytes::Text(line.as_str().to_owned());
            keys.send = Some(line.clone().map(text));
        }
        Some(Send::Bytes(bytes)) => keys.send_bytes = Some(bytes.clone().map(Bytes::Raw)),
        Some(Send::File { path, ends_line }) => {
            let key = if *ends_line { &mut keys.send_file } else { &mut keys.send_bytes_file };
            *key = text(&path.display().to_string());
        }
        None => {}
    }
    keys
}

fn label_keys(name: &str, value: &Template) -> LabelKeys {
    LabelKeys { name: Some(LabelName(name.to_owned())), value: text(value.as_str()) }
}

fn tls_keys(settings: &TlsSettings, hostname: Option<&str>) -> TlsKeys {
    let (ca, [ca_file, ca_ref]) = pem(settings.ca.as_ref());
    let (cert, [cert_file, cert_ref]) = pem(settings.cert.as_ref());
    let (key, [key_file, key_ref]) = pem(settings.key.as_ref());
    // Every handshake shows certificates.
    let public = |pem: Option<Secret<Text>>| pem.map(|pem| pem.expose().clone());
    TlsKeys {
        ca: public(ca),
        ca_file,
        ca_ref,
        cert: public(cert),
        cert_file,
        cert_ref,
        key,
        key_file,
        key_ref,
        server_name: settings.server_name.as_deref().or(hostname).and_then(text),
        insecure_skip_verify: Some(Flag(settings.insecure_skip_verify)),
        min_version: settings.min_version.map(Choice),
        max_version: settings.max_version.map(Choice),
    }
}

/// Inline, in a file, in a secret manager.
fn pem(source: Option<&PemSource>) -> (Option<Secret<Text>>, [Option<Text>; 2]) {
    match source {
        None => (None, [None, None]),
        Some(PemSource::Inline(pem)) => (Some(pem.clone().map(Text)), [None, None]),
        Some(PemSource::File(path)) => (None, [text(&path.display().to_string()), None]),
        Some(PemSource::Reference(name)) => (None, [None, text(name)]),
    }
}

fn monitor_keys(monitor: &Monitor) -> MonitorKeys {
    let confirm = &monitor.confirm;
    let (port, ports) = ports_keys(&monitor.endpoints);
    let host = monitor.endpoints.first().map(|endpoint| HostText(endpoint.address.host.clone()));
    MonitorKeys {
        name: Some(Name(monitor.name.to_string())),
        host,
        port,
        ports,
        module: text(&monitor.module.name),
        interval: Some(Interval(monitor.interval)),
        down_interval: Some(Interval(monitor.down_interval)),
        timeout: Some(Span(monitor.timeout)),
        confirm: Some(ConfirmKeys {
            failures: Some(Count(confirm.thresholds.failures)),
            successes: Some(Count(confirm.thresholds.successes)),
            retry_interval: Some(Interval(confirm.retry_interval)),
            regions: Some(Count(confirm.regions)),
        }),
        slow: monitor.slow.map(Span),
        slo: monitor.slo.map(Objective),
        addresses: Some(Choice(monitor.addresses)),
        path: Some(Short(path_keys(monitor.path))),
        group: monitor.group.as_ref().map(|group| {
            Short(GroupKeys {
                name: Some(Name(group.name.to_string())),
                role: group.role.as_ref().map(|role| Name(role.to_string())),
                min_up: Some(Count(group.min_up)),
            })
        }),
        depends_on: monitor.depends_on.as_ref().map(|name| Name(name.to_string())),
        labels: Some(
            monitor
                .labels
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect::<BTreeMap<_, _>>(),
        )
        .filter(|labels| !labels.is_empty()),
    }
}

fn path_keys(path: PathPolicy) -> PathKeys {
    match path {
        PathPolicy::Off => PathKeys { off: true, baseline: None },
        PathPolicy::OnFailure => PathKeys::default(),
        PathPolicy::Baseline(interval) => {
            PathKeys { off: false, baseline: Some(Interval(interval)) }
        }
    }
}

/// `port` or `ports`, whichever says it shorter.
fn ports_keys(endpoints: &[Endpoint]) -> (Option<Port>, Option<PortsKeys>) {
    if let [Endpoint { service: None, address }] = endpoints {
        return (Some(Port(address.port)), None);
    }
    let runs = endpoints.chunk_by(|one, two| {
        one.service == two.service && one.address.port.checked_add(1) == Some(two.address.port)
    });
    let runs: Vec<(Option<String>, PortRange)> = runs
        .filter_map(|run| {
            let service = run.first()?.service.as_deref().map(str::to_owned);
            let (first, last) = (run.first()?.address.port, run.last()?.address.port);
            Some((service, PortRange { first, last }))
        })
        .collect();
    let ports = if endpoints.iter().all(|endpoint| endpoint.service.is_some()) {
        PortsKeys::Named(runs.into_iter().filter_map(|(name, run)| Some((name?, run))).collect())
    } else {
        PortsKeys::List(runs.into_iter().map(|(_, run)| run).collect())
    };
    (None, Some(ports))
}

fn window_keys(window: &Window) -> WindowKeys {
    let names = |names: &[Arc<str>]| {
        let keys = names.iter().map(|name| Name(name.to_string())).collect();
        (!names.is_empty()).then_some(OneOrMany::Many(keys))
    };
    let label = |(name, value): (&Arc<str>, &Arc<str>)| (name.to_string(), text(value));
    let Selector { monitors, groups, labels } = &window.selector;
    let keys = WindowKeys {
        monitors: names(monitors),
        groups: names(groups),
        labels: Some(labels.iter().map(label).collect())
            .filter(|labels: &BTreeMap<_, _>| !labels.is_empty()),
        ..WindowKeys::default()
    };
    match &window.times {
        Times::Once { start, end } => {
            WindowKeys { start: Some(Instant(*start)), end: Some(Instant(*end)), ..keys }
        }
        Times::Weekly(Weekly { days, start, end, time_zone }) => {
            let weekly = WeeklyKeys {
                days: Some(OneOrMany::Many(days.iter().copied().map(Day).collect())),
                start: Some(ClockTime(*start)),
                end: Some(ClockTime(*end)),
                time_zone: Some(Zone(time_zone.clone())),
            };
            WindowKeys { weekly: Some(weekly), ..keys }
        }
    }
}

fn access_keys(access: &Access) -> Option<AccessKeys> {
    let modules: BTreeMap<String, Option<RuleKeys>> = access
        .modules
        .iter()
        .map(|(name, Rules { allow, deny })| {
            (name.to_string(), Some(RuleKeys { allow: rules(allow), deny: rules(deny) }))
        })
        .collect();
    let Rules { allow, deny } = &access.everyone;
    let keys = AccessKeys {
        allow: rules(allow),
        deny: rules(deny),
        modules: Some(modules).filter(|modules| !modules.is_empty()),
        banners: access.hides_banners.then_some(Flag(false)),
    };
    (*access != Access::default()).then_some(keys)
}

fn rules(rules: &[Rule]) -> Option<OneOrMany<RuleText>> {
    let keys = rules.iter().cloned().map(RuleText).collect();
    (!rules.is_empty()).then_some(OneOrMany::Many(keys))
}
