//! `defaults:`, `monitors:` and `canaries:`.
//!
//! A monitor is read in two steps, since its file may name its module and defaults after it: a
//! [`Draft`] is what it says itself; once everything is read, [`complete`] fills in the rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, Host};
use crate::config::listed::{KeyLines, Listed, Origin, Position};
use crate::config::ports::PortsKeys;
use crate::config::read::{Report, YamlPath, read};
use crate::config::scalar::{Bound, OneOrMany, PortRange, Series, Shape, Short, Text, label_fault};
use crate::config::schema::{
    CanaryKeys, DefaultsKeys, GroupKeys, Labels as LabelKeys, MonitorKeys,
};
use crate::config::yaml::{Node, excerpt};
use crate::config::{Canary, ModuleEntry, duration};
use crate::limits::MAX_TARGETS;
use crate::module::Module;
use crate::monitor::{
    Addresses, Confirm, Endpoint, Histogram, Membership, Monitor, PathPolicy, Policy, SeriesOptions,
};
use crate::verdict::Thresholds;

/// Interval where nothing says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
/// Timeout where nothing says otherwise and the interval has room for it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two probes while a change is unconfirmed, where nothing says otherwise.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time between two probes of a target that is down, unless its timeout asks for more.
const DOWN_INTERVAL: Duration = Duration::from_secs(60);
/// Failures that confirm, where nothing says otherwise.
const FAILURES: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");
/// The module where nothing says otherwise.
const MODULE: &str = "tcp_connect";

/// Upper bounds of the duration histogram in seconds: a LAN to a bad day.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Labels of the info series that come from elsewhere.
const BUILT_IN_LABELS: [&str; 19] = [
    "monitor",
    "target",
    "module",
    "host",
    "port",
    "group",
    "role",
    "depends_on",
    "address",
    "addresses",
    "outcome",
    "phase",
    "reason",
    "place",
    "end",
    "last_hop",
    "hint",
    "policy",
    "le",
];

/// Free labels by name.
type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What a monitor, or `defaults:`, says itself of how to watch.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct OwnPolicy {
    module: Option<Arc<str>>,
    interval: Option<Duration>,
    down_interval: Option<Duration>,
    timeout: Option<Duration>,
    failures: Option<NonZeroU32>,
    successes: Option<NonZeroU32>,
    retry_interval: Option<Duration>,
    regions: Option<NonZeroU32>,
    slow: Option<Duration>,
    /// The bits of the float, which can be hashed.
    slo: Option<u64>,
    addresses: Option<Addresses>,
    path: Option<PathPolicy>,
    group: Option<Membership>,
    depends_on: Option<Arc<str>>,
    labels: Arc<Labels>,
}

/// What `defaults:` says.
pub(super) struct Defaults {
    policy: OwnPolicy,
    pub(super) options: SeriesOptions,
}

/// A monitor that still lacks what it does not say itself.
struct Draft {
    name: Arc<str>,
    endpoints: Box<[Endpoint]>,
    own: Arc<OwnPolicy>,
    origin: Origin,
}

/// The monitors read so far, and what they share.
#[derive(Default)]
pub(super) struct Drafts {
    list: Vec<Draft>,
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<Labels>>,
    policies: HashSet<Arc<OwnPolicy>>,
    /// Targets of the monitors so far.
    targets: usize,
}

impl Drafts {
    /// Reads one entry of `monitors:`.
    pub(super) fn monitor(&mut self, path: &YamlPath<'_>, position: Position, report: &mut Report) {
        let keys: Option<MonitorKeys> = if path.is_map() { read(path, report) } else { None };
        let Some(mut keys) = keys else {
            // Null is not a monitor either.
            if !path.is_map() {
                report.error(path, "must be a monitor, `{host: db.example.com, port: 5432}`");
            }
            return;
        };
        if path.lacks("host") {
            report.error(path, "`host` is missing: write a name or an IP address");
        }
        let group = path.key("group");
        if group.is_map() && group.lacks("name") {
            report.error(&group, "`name` is missing: write `name: orders`");
        }
        let host = keys.host.take().map(|host| host.0);
        let ports = ports(&keys, path, report);
        let name = keys.name.take();
        let own = self.own_policy(keys, &path.key("labels"), report);
        let (Some(host), false) = (host, ports.is_empty()) else { return };
        let name = match name {
            Some(name) => Arc::from(name.0),
            None if !path.lacks("name") => return,
            None => Arc::from(match &*ports {
                [port] => Address { host: host.clone(), port: port.number }.to_string(),
                _ => host.to_string(),
            }),
        };
        let origin = Origin {
            file: report.file.clone(),
            line: path.number(),
            position,
            keys: KeyLines::of(path),
        };
        self.add(name, &host, ports, own, origin, path, report);
    }

    /// Reads what the labels of a target group say of each target.
    pub(super) fn template(
        &mut self,
        keys: MonitorKeys,
        labels: &YamlPath<'_>,
        report: &mut Report,
    ) -> Arc<OwnPolicy> {
        let unnamed = keys.group.as_ref().is_some_and(|Short(group)| group.name.is_none());
        if unnamed && labels.lacks("__tcp_group") {
            report.error(labels, "`__tcp_group` is missing: write `__tcp_group: orders`");
        }
        self.own_policy(keys, labels, report)
    }

    /// Adds a target of a group.
    pub(super) fn target(
        &mut self,
        name: &str,
        address: &Address,
        own: &Arc<OwnPolicy>,
        position: Position,
        path: &YamlPath<'_>,
        report: &mut Report,
    ) {
        let file = report.file.clone();
        let origin = Origin { file, line: path.number(), position, keys: KeyLines::default() };
        let ports = vec![NamedPort { name: None, number: address.port }];
        self.add(Arc::from(name), &address.host, ports, own.clone(), origin, path, report);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a monitor")]
    fn add(
        &mut self,
        name: Arc<str>,
        host: &Host,
        ports: Vec<NamedPort>,
        own: Arc<OwnPolicy>,
        origin: Origin,
        path: &YamlPath<'_>,
        report: &mut Report,
    ) {
        let before = self.targets;
        self.targets = before.saturating_add(ports.len());
        if self.targets > MAX_TARGETS {
            if before <= MAX_TARGETS {
                let message =
                    format!("more than {MAX_TARGETS} targets: share them between exporters");
                report.error(path, message);
            }
            return;
        }
        let endpoint = |port: NamedPort| Endpoint {
            address: Address { host: host.clone(), port: port.number },
            service: port.name.map(|name| self.share(&name)),
        };
        let endpoints = ports.into_iter().map(endpoint).collect();
        self.list.push(Draft { name, endpoints, own, origin });
    }

    /// A text that many monitors share, kept once.
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// What the keys say of how to watch; the same as an earlier monitor's if that said the same.
    fn own_policy(
        &mut self,
        keys: MonitorKeys,
        labels: &YamlPath<'_>,
        report: &mut Report,
    ) -> Arc<OwnPolicy> {
        let confirm = keys.confirm.unwrap_or_default();
        let own = OwnPolicy {
            module: keys.module.map(|text| self.share(&text.0)),
            interval: keys.interval.map(|interval| interval.0),
            down_interval: keys.down_interval.map(|interval| interval.0),
            timeout: keys.timeout.map(|span| span.0),
            failures: confirm.failures.map(|count| count.0),
            successes: confirm.successes.map(|count| count.0),
            retry_interval: confirm.retry_interval.map(|interval| interval.0),
            regions: confirm.regions.map(|count| count.0),
            slow: keys.slow.map(|span| span.0),
            slo: keys.slo.map(|objective| objective.0.to_bits()),
            addresses: keys.addresses.map(|choice| choice.0),
            path: keys.path.map(|Short(keys)| keys.policy()),
            group: keys.group.and_then(|Short(keys)| self.membership(keys)),
            depends_on: keys.depends_on.map(|name| self.share(&name.0)),
            labels: self.labels(keys.labels.unwrap_or_default(), labels, report),
        };
        share(own, &mut self.policies)
    }

    fn membership(&mut self, keys: GroupKeys) -> Option<Membership> {
        Some(Membership {
            name: self.share(&keys.name?.0),
            role: keys.role.map(|role| self.share(&role.0)),
            min_up: keys.min_up.map_or(NonZeroU32::MIN, |count| count.0),
        })
    }

    fn labels(&mut self, keys: LabelKeys, path: &YamlPath<'_>, report: &mut Report) -> Arc<Labels> {
        let mut labels = BTreeMap::new();
        for (name, value) in keys {
            let path = path.key(&name);
            if let Some(message) = label_fault(&name) {
                report.error(&path, message);
                continue;
            }
            if BUILT_IN_LABELS.contains(&&*name) {
                let message = format!("label `{name}` is set by the exporter itself: rename it");
                report.error(&path, message);
                continue;
            }
            match &*name {
                "region" => {
                    let message = "label `region` says where an exporter runs, which Prometheus \
                                   adds to everything it scrapes here: rename it";
                    report.error(&path, message);
                    continue;
                }
                "job" | "instance" => {
                    let message = format!(
                        "Prometheus sets `{name}` itself and renames this one to \
                         `exported_{name}`: rename it"
                    );
                    report.warn(&path, message);
                }
                _ => {}
            }
            if let Some(Text(value)) = value.filter(|Text(value)| !value.is_empty()) {
                labels.insert(self.share(&name), self.share(&value));
            }
        }
        share(labels, &mut self.labels)
    }

    /// Reads `defaults:`.
    pub(super) fn defaults(&mut self, path: &YamlPath<'_>, report: &mut Report) -> Defaults {
        let mut keys: DefaultsKeys = read(path, report).unwrap_or_default();
        let full = keys.series.is_some_and(|choice| choice.0 == Series::Full);
        let options = SeriesOptions { histogram: histogram(&mut keys, path, report), full };
        let own = self.own_policy(keys.into(), &path.key("labels"), report);
        Defaults { policy: OwnPolicy::clone(&own), options }
    }
}

/// A port, perhaps with a name.
struct NamedPort {
    name: Option<String>,
    number: u16,
}

/// The ports of a monitor, each once.
fn ports(keys: &MonitorKeys, path: &YamlPath<'_>, report: &mut Report) -> Vec<NamedPort> {
    let ports_path = path.key("ports");
    match (path.lacks("port"), path.lacks("ports")) {
        (true, true) => {
            report.error(path, "`port` is missing: write a number from 1 to 65535");
        }
        (false, false) => {
            let message = "`port` and `ports` are mutually exclusive: remove one";
            report.error(&ports_path, message);
            return Vec::new();
        }
        (true, false) | (false, true) => {}
    }
    if let Some(port) = keys.port {
        return vec![NamedPort { name: None, number: port.0 }];
    }
    let mut ports = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |name: Option<&String>, range: PortRange, path: &YamlPath<'_>| {
        for number in range.first..=range.last {
            if !seen.insert(number) {
                report.error(path, format!("port {number} is given twice: remove one"));
                return;
            }
            ports.push(NamedPort { name: name.cloned(), number });
        }
    };
    match &keys.ports {
        None => return Vec::new(),
        Some(PortsKeys::List(list)) => {
            for (index, range) in list.iter().enumerate() {
                add(None, *range, &ports_path.index(index));
            }
        }
        Some(PortsKeys::Named(named)) => {
            for (name, range) in named {
                add(Some(name), *range, &ports_path.key(name));
            }
        }
    }
    if ports_path.is_empty() {
        report.error(&ports_path, "no port is given: write `[22, 3306]`");
    }
    ports
}

/// What `histogram` and `buckets` say together. Whoever lists buckets wants classic ones, and
/// whoever switches them off wants none.
fn histogram(keys: &mut DefaultsKeys, path: &YamlPath<'_>, report: &mut Report) -> Histogram {
    let shape = keys.histogram.map(|choice| choice.0);
    let bounds = keys.buckets.take();
    let bounds = bounds.and_then(|keys| buckets(keys, &path.key("buckets"), report));
    match (shape, bounds) {
        (None | Some(Shape::Native), None) => Histogram::Native,
        (Some(Shape::Classic), None) => Histogram::Classic(BUCKETS.into()),
        (Some(Shape::Off), None) => Histogram::Off,
        (None, Some(bounds)) if bounds.is_empty() => Histogram::Off,
        (None | Some(Shape::Classic), Some(bounds)) if !bounds.is_empty() => {
            Histogram::Classic(bounds.into())
        }
        (_, Some(_)) => {
            let shape = path.key("histogram").node().map(Node::describe).unwrap_or_default();
            let message = format!(
                "`histogram` is {shape}, and these buckets are only for `histogram: classic`: \
                 remove one of the two keys"
            );
            report.error(&path.key("buckets"), message);
            Histogram::Off
        }
    }
}

/// Upper bounds in ascending order, none for `off`.
fn buckets(keys: OneOrMany<Bound>, path: &YamlPath<'_>, report: &mut Report) -> Option<Vec<f64>> {
    /// More series per target than this serve nobody.
    const MAX_BUCKETS: usize = 64;
    let keys = match keys {
        OneOrMany::One(Bound::Off) => return Some(Vec::new()),
        OneOrMany::One(Bound::Seconds(bound)) => {
            report.error(path, format!("must be a list or `off`: write `[{bound}]`"));
            return None;
        }
        OneOrMany::Many(keys) => keys,
    };
    if keys.len() > MAX_BUCKETS {
        let message = format!("{} buckets are too many: write at most {MAX_BUCKETS}", keys.len());
        report.error(path, message);
        return None;
    }
    let mut bounds: Vec<f64> = Vec::with_capacity(keys.len());
    for (index, key) in keys.into_iter().enumerate() {
        let path = path.index(index);
        let Bound::Seconds(bound) = key else {
            report.error(&path, "`off` stands alone: write `buckets: off`");
            continue;
        };
        if bounds.last().is_some_and(|before| *before >= bound) {
            let text = path.node().map(Node::describe).unwrap_or_default();
            report.error(&path, format!("{text} is not above the bound before it: sort them"));
        }
        bounds.push(bound);
    }
    Some(bounds)
}

/// Fills in what the monitors do not say themselves: their module, then `defaults:`, then
/// constants.
pub(super) fn complete(
    drafts: Drafts,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    defaults: &Defaults,
    report: &mut Report,
) -> Vec<Listed> {
    let mut policies: HashMap<Arc<OwnPolicy>, Arc<Policy>> = HashMap::new();
    let mut labels = drafts.labels;
    let mut complete = |draft: Draft| {
        let Draft { name, endpoints, own, origin } = draft;
        let policy = match policies.get(&own) {
            Some(policy) => Arc::clone(policy),
            None => {
                let policy = policy(&own, modules, &defaults.policy, &mut labels, &origin, report)?;
                let policy = Arc::new(policy);
                policies.insert(own, Arc::clone(&policy));
                policy
            }
        };
        Some(Listed { monitor: Monitor { name, endpoints, policy }, origin })
    };
    drafts.list.into_iter().filter_map(&mut complete).collect()
}

/// The same value as one before, held once.
fn share<T: Eq + Hash>(value: T, known: &mut HashSet<Arc<T>>) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return Arc::clone(known);
    }
    let value = Arc::new(value);
    known.insert(Arc::clone(&value));
    value
}

fn policy(
    own: &OwnPolicy,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    defaults: &OwnPolicy,
    known_labels: &mut HashSet<Arc<Labels>>,
    origin: &Origin,
    report: &mut Report,
) -> Option<Policy> {
    let name = own.module.as_ref().or(defaults.module.as_ref()).map_or(MODULE, |name| name);
    let module = match find_module(name, modules, report) {
        Ok(module) => module,
        Err(message) => {
            origin.error(&["module"], message, report);
            return None;
        }
    };
    let interval = own.interval.or(defaults.interval).unwrap_or(INTERVAL);
    // What a person wrote for monitors goes before what a module brings along for `/probe`, which
    // is a bound and may be undercut.
    let written = own.timeout.or(defaults.timeout);
    let timeout =
        written.unwrap_or_else(|| module.timeout.unwrap_or(TIMEOUT).min(interval / 5 * 4));
    if timeout >= interval {
        let source = if own.timeout.is_some() { "" } else { " of `defaults`" };
        let message = format!(
            "the timeout of {}{source} does not fit into the interval of {}: write a shorter \
             `timeout`",
            duration::prometheus(timeout),
            duration::prometheus(interval)
        );
        let key: &[&str] = if own.timeout.is_some() { &["timeout"] } else { &[] };
        origin.error(key, message, report);
        return None;
    }
    let down_interval = match own.down_interval.or(defaults.down_interval) {
        None => DOWN_INTERVAL.max(timeout * 2).min(interval),
        // What `defaults` says is meant for many intervals and timeouts.
        Some(given) if own.down_interval.is_none() => given.max(timeout * 2).min(interval),
        Some(given) if given <= timeout || given > interval => {
            let message = format!(
                "invalid down_interval {}: must be longer than the timeout of {} and not longer \
                 than the interval of {}",
                duration::prometheus(given),
                duration::prometheus(timeout),
                duration::prometheus(interval)
            );
            origin.error(&["down_interval"], message, report);
            return None;
        }
        Some(given) => given,
    };
    let retry_interval = own
        .retry_interval
        .or(defaults.retry_interval)
        .unwrap_or_else(|| RETRY_INTERVAL.min(interval));
    let mut labels = Labels::clone(&defaults.labels);
    labels.extend(own.labels.iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(Policy {
        module,
        interval,
        down_interval,
        timeout,
        confirm: Confirm {
            thresholds: Thresholds {
                failures: own.failures.or(defaults.failures).unwrap_or(FAILURES),
                successes: own.successes.or(defaults.successes).unwrap_or(NonZeroU32::MIN),
            },
            retry_interval,
            regions: own.regions.or(defaults.regions).unwrap_or(NonZeroU32::MIN),
        },
        slow: own.slow.or(defaults.slow),
        slo: own.slo.or(defaults.slo).map(f64::from_bits),
        addresses: own.addresses.or(defaults.addresses).unwrap_or_default(),
        path: own.path.or(defaults.path).unwrap_or_default(),
        group: own.group.clone(),
        depends_on: own.depends_on.clone(),
        labels: share(labels, known_labels),
    })
}

/// The module of a name.
///
/// # Errors
/// What to write instead.
fn find_module(
    name: &str,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    report: &Report,
) -> Result<Arc<Module>, String> {
    match modules.get(name) {
        Some(ModuleEntry::Tcp(module)) => Ok(module.clone()),
        Some(ModuleEntry::Other { prober }) => {
            Err(format!("module `{}` is one of prober `{prober}`: name one of tcp", excerpt(name)))
        }
        None => Err(match report.nearest(name, modules.keys().map(|name| &**name)) {
            Some(near) => format!("unknown module `{}`: did you mean `{near}`?", excerpt(name)),
            None => format!("unknown module `{}`: define it under `modules`", excerpt(name)),
        }),
    }
}

/// Reads `canaries:`, each `host:port` or `{target: host:port, module: tcp_connect}`.
pub(super) fn canaries(
    path: &YamlPath<'_>,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    report: &mut Report,
) -> Vec<Canary> {
    let mut canaries = Vec::new();
    for index in 0..path.items(report).len() {
        let path = path.index(index);
        if path.is_map() && path.lacks("target") {
            report.error(&path, "`target` is missing: write `host:port`");
        }
        let Some(Short(CanaryKeys { target, module })) = read(&path, report) else { continue };
        let module = module.map_or_else(|| MODULE.to_owned(), |text| text.0);
        match (target, find_module(&module, modules, report)) {
            (Some(target), Ok(module)) => canaries.push(Canary { address: target.0, module }),
            (None, Ok(_)) => {}
            (_, Err(message)) => report.error(&path.key("module"), message),
        }
    }
    canaries
}
