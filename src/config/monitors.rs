//! `defaults:`, `monitors:` and `canaries:`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, Host, WELL_KNOWN_PORTS};
use crate::config::modules::label_fault;
use crate::config::read::{
    Fields, Place, Report, choice, decimal, entries, items, number, positive_duration, text, word,
};
use crate::config::yaml::{Kind, Node, excerpt};
use crate::config::{Canary, ModuleEntry, duration};
use crate::module::Module;
use crate::monitor::{
    Addresses, Confirm, Endpoint, Histogram, MAX_INTERVAL, MAX_RANGE, MIN_INTERVAL, Membership,
    Monitor, Policy, SeriesOptions,
};
use crate::verdict::Thresholds;

/// Interval where nothing says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
/// Timeout where nothing says otherwise and the interval has room for it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two probes in doubt, where nothing says otherwise.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Failures that confirm, where nothing says otherwise.
const FAILURES: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");
/// The module where nothing says otherwise.
const MODULE: &str = "tcp_connect";
/// Most targets of all monitors together: what one machine can watch, and a bound of memory.
const MAX_TARGETS: usize = 1_000_000;
/// Most failures, successes or regions that can be asked for.
const MOST: u32 = 1000;
/// Longest name of a monitor, group or role, in bytes.
const LONGEST_NAME: usize = 255;

/// Upper bounds of the duration histogram in seconds: a LAN to a bad day.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Labels of the info series that come from elsewhere.
const BUILT_IN_LABELS: [&str; 16] = [
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
    "policy",
    "le",
];

/// What a monitor, or `defaults:`, says itself.
#[derive(Clone, Default)]
pub(super) struct PolicyKeys {
    pub(super) module: Option<Arc<str>>,
    pub(super) interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) failures: Option<NonZeroU32>,
    pub(super) successes: Option<NonZeroU32>,
    pub(super) retry_interval: Option<Duration>,
    pub(super) regions: Option<NonZeroU32>,
    pub(super) slow: Option<Duration>,
    pub(super) slo: Option<f64>,
    pub(super) addresses: Option<Addresses>,
    pub(super) labels: Labels,
}

/// What `defaults:` says.
#[derive(Default)]
pub(super) struct Defaults {
    pub(super) policy: PolicyKeys,
    pub(super) options: SeriesOptions,
}

/// Texts that many monitors share, kept once.
#[derive(Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<Labels>>,
}

/// Free labels by name.
type Labels = BTreeMap<Arc<str>, Arc<str>>;

impl Interner {
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    fn share_labels(&mut self, labels: Labels) -> Arc<Labels> {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        let labels = Arc::new(labels);
        self.labels.insert(labels.clone());
        labels
    }
}

/// What monitors are made from, beside their own text.
pub(super) struct Context<'c> {
    pub(super) modules: &'c BTreeMap<Arc<str>, ModuleEntry>,
    pub(super) defaults: &'c PolicyKeys,
    pub(super) interner: Interner,
    /// Policies of the last monitors, newest last.
    pub(super) policies: Vec<Arc<Policy>>,
    /// Targets of the monitors so far.
    pub(super) targets: usize,
}

impl Context<'_> {
    /// How many policies are remembered: fleets are written in runs of monitors that are alike.
    const POLICIES: usize = 16;

    /// The policy of an earlier monitor if it is the same, so that it is held once.
    fn share_policy(&mut self, policy: Policy) -> Arc<Policy> {
        if let Some(known) = self.policies.iter().rev().find(|it| ***it == policy) {
            return Arc::clone(known);
        }
        let policy = Arc::new(policy);
        if self.policies.len() == Self::POLICIES {
            self.policies.remove(0);
        }
        self.policies.push(Arc::clone(&policy));
        policy
    }
}

/// The keys of a monitor that `defaults:` has too.
fn policy(
    fields: &mut Fields<'_>,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
) -> PolicyKeys {
    let mut policy = PolicyKeys::default();
    if let Some(node) = fields.take("module") {
        policy.module = text(node, &place.key("module"), report).map(|it| interner.share(it));
    }
    if let Some(node) = fields.take("interval") {
        policy.interval = interval(node, &place.key("interval"), report);
    }
    if let Some(node) = fields.take("timeout") {
        policy.timeout = positive_duration(node, &place.key("timeout"), report);
    }
    if let Some(node) = fields.take("confirm") {
        let place = place.key("confirm");
        if let Some(mut fields) = Fields::open(node, &place, report) {
            policy.failures = count(&mut fields, "failures", &place, report);
            policy.successes = count(&mut fields, "successes", &place, report);
            if let Some(node) = fields.take("retry_interval") {
                policy.retry_interval = interval(node, &place.key("retry_interval"), report);
            }
            policy.regions = count(&mut fields, "regions", &place, report);
            fields.close(&place, report);
        }
    }
    if let Some(node) = fields.take("slow") {
        policy.slow = positive_duration(node, &place.key("slow"), report);
    }
    if let Some(node) = fields.take("slo") {
        policy.slo = objective(node, &place.key("slo"), report);
    }
    if let Some(node) = fields.take("addresses") {
        policy.addresses = choice(node, &place.key("addresses"), report, &ADDRESSES);
    }
    if let Some(node) = fields.take("labels") {
        policy.labels = labels(node, &place.key("labels"), report, interner);
    }
    policy
}

pub(super) const ADDRESSES: [(&str, Addresses); 4] = [
    (Addresses::First.as_str(), Addresses::First),
    (Addresses::Any.as_str(), Addresses::Any),
    (Addresses::All.as_str(), Addresses::All),
    (Addresses::Quorum.as_str(), Addresses::Quorum),
];

pub(super) fn interval(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<Duration> {
    let interval = positive_duration(node, place, report)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        return Some(interval);
    }
    let message = format!(
        "{} is out of range: write {} to {}",
        node.describe(),
        duration::prometheus(MIN_INTERVAL),
        duration::prometheus(MAX_INTERVAL)
    );
    report.error(node.line, place, message);
    None
}

fn count(
    fields: &mut Fields<'_>,
    key: &'static str,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<NonZeroU32> {
    let node = fields.take(key)?;
    number(node, &place.key(key), report, 1, MOST).and_then(NonZeroU32::new)
}

/// `99.9%` or `0.999`.
pub(super) fn objective(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<f64> {
    let text = text(node, place, report)?;
    let (number, exponent) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), -2),
        None => (text, 0),
    };
    let plain = number.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    // The exponent leaves rounding to the parser: a division would make 0.9990000000000001.
    let ratio = format!("{number}e{exponent}").parse::<f64>().ok().filter(|_| plain);
    let ratio = ratio.filter(|it| *it > 0.0 && *it < 1.0);
    if ratio.is_none() {
        let message =
            format!("{} is no objective above 0 and below 100%: write `99.9%`", node.describe());
        report.error(node.line, place, message);
    }
    ratio
}

fn labels(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
) -> Labels {
    let mut labels = BTreeMap::new();
    for entry in entries(node, place, report).unwrap_or_default() {
        let place = place.key(entry.key);
        label(entry.key, &entry.value, entry.line, &place, report, interner, &mut labels);
    }
    labels
}

/// One free label.
pub(super) fn label(
    name: &str,
    value: &Node<'_>,
    line: u32,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
    labels: &mut Labels,
) {
    if let Some(message) = label_fault(name) {
        report.error(line, place, message);
        return;
    }
    if BUILT_IN_LABELS.contains(&name) {
        let message = format!("label `{name}` is set by the exporter itself: rename it");
        report.error(line, place, message);
        return;
    }
    match name {
        "region" => {
            let message = "label `region` says where an exporter runs, which Prometheus adds to \
                           everything it scrapes here: rename it";
            report.error(line, place, message);
            return;
        }
        "job" | "instance" => {
            let message = format!(
                "Prometheus sets `{name}` itself and renames this one to `exported_{name}`: \
                 rename it"
            );
            report.warn(line, place, message);
        }
        _ => {}
    }
    if value.is_null() {
        return;
    }
    if let Some(text) = text(value, place, report)
        && !text.is_empty()
    {
        labels.insert(interner.share(name), interner.share(text));
    }
}

/// Reads `defaults:`.
pub(super) fn defaults(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
) -> Defaults {
    let mut defaults = Defaults::default();
    let Some(mut fields) = Fields::open(node, place, report) else { return defaults };
    defaults.policy = policy(&mut fields, place, report, interner);
    defaults.options.histogram = histogram(&mut fields, place, report);
    if let Some(node) = fields.take("series") {
        let choices = [("lean", false), ("full", true)];
        defaults.options.full =
            choice(node, &place.key("series"), report, &choices).unwrap_or_default();
    }
    fields.close(place, report);
    defaults
}

/// Reads `histogram` and `buckets`. Whoever lists buckets wants classic ones, and whoever switches
/// them off wants none, as before there was a choice.
fn histogram(fields: &mut Fields<'_>, place: &Place<'_>, report: &mut Report) -> Histogram {
    const SHAPES: [(&str, &str); 3] =
        [("native", "native"), ("classic", "classic"), ("off", "off")];
    let shape = fields.take("histogram").and_then(|node| {
        Some((choice(node, &place.key("histogram"), report, &SHAPES)?, node.line))
    });
    let listed = fields.take("buckets");
    let bounds = listed.and_then(|node| buckets(node, &place.key("buckets"), report));
    match (shape, bounds) {
        (None | Some(("native", _)), None) => Histogram::Native,
        (Some(("classic", _)), None) => Histogram::Classic(BUCKETS.into()),
        (None, Some(bounds)) if bounds.is_empty() => Histogram::Off,
        (None | Some(("classic", _)), Some(bounds)) if !bounds.is_empty() => {
            Histogram::Classic(bounds.into())
        }
        (Some((shape, line)), Some(_)) => {
            let message = format!(
                "`histogram: {shape}` and these buckets exclude each other: buckets are for \
                 `histogram: classic`, remove one of the two keys"
            );
            report.error(line, &place.key("buckets"), message);
            Histogram::Off
        }
        _ => Histogram::Off,
    }
}

/// `off`, or upper bounds in ascending order, each a duration or seconds.
fn buckets(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Vec<f64>> {
    /// More series per target than this serve nobody.
    const MOST_BUCKETS: usize = 64;
    if let Kind::Plain(text) = &node.kind
        && matches!(&**text, "off" | "false" | "no")
    {
        return Some(Vec::new());
    }
    let nodes = items(node, place, report)?;
    if nodes.len() > MOST_BUCKETS {
        let message = format!("{} buckets are too many: write at most {MOST_BUCKETS}", nodes.len());
        report.error(node.line, place, message);
        return None;
    }
    let mut bounds: Vec<f64> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let place = place.index(index);
        let text = text(node, &place, report)?;
        let seconds = text
            .parse::<f64>()
            .ok()
            .or_else(|| duration::parse(text).ok()?.positive().map(|it| it.as_secs_f64()));
        let Some(seconds) = seconds.filter(|it| it.is_finite() && *it > 0.0) else {
            let message = format!(
                "{} is no bound above zero: write seconds or a duration, `0.25` or `250ms`",
                node.describe()
            );
            report.error(node.line, &place, message);
            return None;
        };
        if bounds.last().is_some_and(|it| *it >= seconds) {
            let message = format!("{} is not above the bound before it", node.describe());
            report.error(node.line, &place, message);
            return None;
        }
        bounds.push(seconds);
    }
    Some(bounds)
}

/// Reads one entry of `monitors:`.
pub(super) fn monitor(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    context: &mut Context<'_>,
) -> Option<Monitor> {
    let mut fields = Fields::open(node, place, report)?;
    let own = policy(&mut fields, place, report, &mut context.interner);
    let name = fields.take("name").map(|node| name(node, &place.key("name"), report));
    let host = match fields.take("host") {
        Some(node) => host(node, &place.key("host"), report),
        None => {
            report.error(fields.line, place, "`host` is missing: write a name or an IP address");
            None
        }
    };
    let ports = ports(&mut fields, place, report, &mut context.interner);
    let group = fields
        .take("group")
        .and_then(|node| group(node, &place.key("group"), report, &mut context.interner));
    let depends_on = fields.take("depends_on").and_then(|node| {
        word(node, &place.key("depends_on"), report).map(|it| context.interner.share(it))
    });
    let line = fields.line;
    fields.close(place, report);
    let name = match name {
        Some(name) => Cow::Borrowed(name?),
        None => {
            let host = host.as_ref()?;
            match ports.as_deref()? {
                [port] => Cow::Owned(Address { host: host.clone(), port: port.number }.to_string()),
                _ => Cow::Owned(host.to_string()),
            }
        }
    };
    let before = context.targets;
    context.targets = before.saturating_add(ports.as_ref().map_or(0, Vec::len));
    if context.targets > MAX_TARGETS {
        if before <= MAX_TARGETS {
            let message = format!("more than {MAX_TARGETS} targets: share them between exporters");
            report.error(line, place, message);
        }
        return None;
    }
    let checked = Parts { name: Arc::from(&*name), host: host?, ports: ports?, group, depends_on };
    complete(checked, own, line, place, report, context)
}

/// A port, perhaps with a name.
pub(super) struct Port {
    pub(super) name: Option<Arc<str>>,
    pub(super) number: u16,
}

/// What a monitor must bring along, checked.
pub(super) struct Parts {
    pub(super) name: Arc<str>,
    pub(super) host: Host,
    pub(super) ports: Vec<Port>,
    pub(super) group: Option<Membership>,
    pub(super) depends_on: Option<Arc<str>>,
}

/// Fills in what the monitor does not say itself: its module, then `defaults:`, then constants.
pub(super) fn complete(
    parts: Parts,
    own: PolicyKeys,
    line: u32,
    place: &Place<'_>,
    report: &mut Report,
    context: &mut Context<'_>,
) -> Option<Monitor> {
    let defaults = context.defaults;
    let own_timeout = own.timeout;
    let module = own.module.as_ref().or(defaults.module.as_ref());
    let module = find_module(
        module.map_or(MODULE, |it| it),
        context.modules,
        line,
        &place.key("module"),
        report,
    );
    let interval = own.interval.or(defaults.interval).unwrap_or(INTERVAL);
    let module = module?;
    // What a person wrote for monitors goes before what a module brings along for `/probe`, which
    // is a bound and may be undercut.
    let written = own_timeout.or(defaults.timeout);
    let timeout =
        written.unwrap_or_else(|| module.timeout.unwrap_or(TIMEOUT).min(interval / 5 * 4));
    if timeout >= interval {
        let source = if own_timeout.is_some() { "" } else { " of `defaults`" };
        let message = format!(
            "the timeout of {}{source} does not fit into the interval of {}: write a shorter \
             `timeout`",
            duration::prometheus(timeout),
            duration::prometheus(interval)
        );
        report.error(line, place, message);
        return None;
    }
    let retry_interval = own
        .retry_interval
        .or(defaults.retry_interval)
        .unwrap_or_else(|| RETRY_INTERVAL.min(interval));
    let failures = own.failures.or(defaults.failures).unwrap_or(FAILURES);
    let successes = own.successes.or(defaults.successes).unwrap_or(NonZeroU32::MIN);
    let mut labels = own.labels;
    for (name, value) in &defaults.labels {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let policy = Policy {
        module,
        interval,
        timeout,
        confirm: Confirm {
            thresholds: Thresholds { failures, successes },
            retry_interval,
            regions: own.regions.or(defaults.regions).unwrap_or(NonZeroU32::MIN),
        },
        slow: own.slow.or(defaults.slow),
        slo: own.slo.or(defaults.slo),
        addresses: own.addresses.or(defaults.addresses).unwrap_or_default(),
        group: parts.group,
        depends_on: parts.depends_on,
        labels: context.interner.share_labels(labels),
    };
    let endpoint = |port: Port| Endpoint {
        address: Address { host: parts.host.clone(), port: port.number },
        service: port.name,
    };
    Some(Monitor {
        name: parts.name,
        endpoints: parts.ports.into_iter().map(endpoint).collect(),
        policy: context.share_policy(policy),
    })
}

/// The module of a name, or an error that suggests one.
pub(super) fn find_module(
    name: &str,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    line: u32,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<Arc<Module>> {
    let message = match modules.get(name) {
        Some(ModuleEntry::Tcp(module)) => return Some(module.clone()),
        Some(ModuleEntry::Other { prober }) => {
            format!("module `{}` is one of prober `{prober}`: name one of tcp", excerpt(name))
        }
        None => match report.nearest(name, modules.keys().map(|it| &**it)) {
            Some(near) => format!("unknown module `{}`: did you mean `{near}`?", excerpt(name)),
            None => format!("unknown module `{}`: define it under `modules`", excerpt(name)),
        },
    };
    report.error(line, place, message);
    None
}

fn name<'tree>(node: &Node<'tree>, place: &Place<'_>, report: &mut Report) -> Option<&'tree str> {
    let name = word(node, place, report)?;
    if name.len() > LONGEST_NAME {
        let message = format!("the name has {} bytes: write at most {LONGEST_NAME}", name.len());
        report.error(node.line, place, message);
        return None;
    }
    Some(name)
}

fn host(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Host> {
    let text = text(node, place, report)?;
    let message = match Host::parse(text) {
        Ok(host) => return Some(host),
        Err(message) => message,
    };
    let message = if text.contains("://") {
        format!("`{}` is a URL: write the host alone", excerpt(text))
    } else if let Ok(address) = Address::parse(text) {
        format!(
            "`{}` has a port: write `host: {}` and `port: {}`",
            excerpt(text),
            address.host,
            address.port
        )
    } else {
        message
    };
    report.error(node.line, place, message);
    None
}

fn ports(
    fields: &mut Fields<'_>,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
) -> Option<Vec<Port>> {
    let single = fields.take("port");
    let several = fields.take("ports");
    let mut ports = Ports::default();
    let errors = report.errors.len();
    let line = fields.line;
    match (single, several) {
        (Some(node), None) => {
            let place = place.key("port");
            match &node.kind {
                Kind::List(_) | Kind::Map(_) => {
                    let message = format!("{} is no port: write `ports`", node.describe());
                    report.error(node.line, &place, message);
                }
                Kind::Plain(text) | Kind::Quoted(text)
                    if text.split_once('-').is_some_and(|(first, _)| port(first).is_some()) =>
                {
                    let message =
                        format!("{} is no port: write `ports: [{text}]`", node.describe());
                    report.error(node.line, &place, message);
                }
                Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) => {
                    add_ports(node, None, &place, report, &mut ports);
                }
            }
        }
        (None, Some(node)) => {
            let place = place.key("ports");
            match &node.kind {
                Kind::List(nodes) => {
                    for (index, node) in nodes.iter().enumerate() {
                        add_ports(node, None, &place.index(index), report, &mut ports);
                    }
                }
                Kind::Map(entries) => {
                    for entry in *entries {
                        let place = place.key(entry.key);
                        if decimal(entry.key).is_some() || entry.key.is_empty() {
                            let message = "the name of a port is no number: write `ssh: 22`";
                            report.error(entry.line, &place, message);
                            continue;
                        }
                        let name = interner.share(entry.key);
                        add_ports(&entry.value, Some(&name), &place, report, &mut ports);
                    }
                }
                Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) => {
                    add_ports(node, None, &place, report, &mut ports);
                }
            }
            if ports.list.is_empty() && report.errors.len() == errors {
                report.error(node.line, &place, "no port is given: write `[22, 3306]`");
            }
        }
        (Some(_), Some(node)) => {
            let message = "`port` and `ports` are mutually exclusive: remove one";
            report.error(node.line, &place.key("ports"), message);
        }
        (None, None) => {
            report.error(line, place, "`port` is missing: write a number from 1 to 65535");
        }
    }
    (report.errors.len() == errors && !ports.list.is_empty()).then_some(ports.list)
}

/// Ports in their order, each once.
#[derive(Default)]
struct Ports {
    list: Vec<Port>,
    numbers: HashSet<u16>,
}

/// A number, or a range in quotes.
fn add_ports(
    node: &Node<'_>,
    name: Option<&Arc<str>>,
    place: &Place<'_>,
    report: &mut Report,
    ports: &mut Ports,
) {
    let Some(text) = text(node, place, report) else { return };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first.trim()), port(last.trim())),
        None => (port(text.trim()), port(text.trim())),
    };
    let (Some(first), Some(last)) = (first, last) else {
        report.error(node.line, place, port_fault(text));
        return;
    };
    if first > last {
        let message = format!("`{text}` runs backwards: write `{last}-{first}`");
        report.error(node.line, place, message);
        return;
    }
    let span = usize::from(last - first) + 1;
    if span > MAX_RANGE {
        let message = format!("`{text}` spans {span} ports: write ranges of at most {MAX_RANGE}");
        report.error(node.line, place, message);
        return;
    }
    for number in first..=last {
        if !ports.numbers.insert(number) {
            report.error(node.line, place, format!("port {number} is given twice: remove one"));
            return;
        }
        ports.list.push(Port { name: name.cloned(), number });
    }
}

pub(super) fn port(text: &str) -> Option<u16> {
    decimal(text).and_then(|it| u16::try_from(it).ok()).filter(|&it| it > 0)
}

fn port_fault(text: &str) -> String {
    let known = WELL_KNOWN_PORTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    match known {
        Some((_, number)) => {
            format!("`{}` is a name: write its number, `{number}`", excerpt(text))
        }
        None => format!("`{}` is no port: write a number from 1 to 65535", excerpt(text)),
    }
}

/// `orders`, or `{name: orders, role: primary, min_up: 1}`.
fn group(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    interner: &mut Interner,
) -> Option<Membership> {
    let Kind::Map(_) = &node.kind else {
        let name = name(node, place, report)?;
        return Some(Membership {
            name: interner.share(name),
            role: None,
            min_up: NonZeroU32::MIN,
        });
    };
    let mut fields = Fields::open(node, place, report)?;
    let Some(name_node) = fields.take("name") else {
        report.error(fields.line, place, "`name` is missing: write `name: orders`");
        return None;
    };
    let name = name(name_node, &place.key("name"), report);
    let role = fields.take("role").and_then(|node| self::name(node, &place.key("role"), report));
    let min_up = count(&mut fields, "min_up", place, report).unwrap_or(NonZeroU32::MIN);
    fields.close(place, report);
    Some(Membership {
        name: interner.share(name?),
        role: role.map(|it| interner.share(it)),
        min_up,
    })
}

/// Reads `canaries:`, each `host:port` or `{target: host:port, module: tcp_connect}`.
pub(super) fn canaries(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
) -> Vec<Canary> {
    let mut canaries = Vec::new();
    for (index, node) in items(node, place, report).unwrap_or_default().iter().enumerate() {
        let place = place.index(index);
        let (target, module) = match &node.kind {
            Kind::Map(_) => {
                let Some(mut fields) = Fields::open(node, &place, report) else { continue };
                let target = fields.take("target");
                let module = fields.take("module");
                if target.is_none() {
                    report.error(node.line, &place, "`target` is missing: write `host:port`");
                }
                fields.close(&place, report);
                let Some(target) = target else { continue };
                let module = module.map(|it| text(it, &place.key("module"), report));
                (target, module)
            }
            Kind::Plain(_) | Kind::Quoted(_) | Kind::Binary(_) | Kind::List(_) => (node, None),
        };
        let module = match module {
            Some(Some(name)) => name,
            Some(None) => continue,
            None => MODULE,
        };
        let address = address(target, &place, report);
        let module = find_module(module, modules, node.line, &place.key("module"), report);
        if let (Some(address), Some(module)) = (address, module) {
            canaries.push(Canary { address, module });
        }
    }
    canaries
}

/// `host:port` with a port above zero.
pub(super) fn address(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Address> {
    let text = text(node, place, report)?;
    let message = match Address::parse(text) {
        Ok(address) if address.port > 0 => return Some(address),
        Ok(_) => format!("`{}` has no port: write host:port", excerpt(text)),
        Err(message) => message,
    };
    report.error(node.line, place, message);
    None
}
