//! What the exporter says of itself: the metrics that [`Telemetry`] holds, under their names in a
//! registry of `prometheus-client`, and a collector of what the system knows at each scrape.
//!
//! That library writes `OpenMetrics` and protobuf, not classic text; so the families it gathers
//! for protobuf go to the page, which writes all three.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::net::if_::InterfaceFlags;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as model;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_protobuf,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::exposition::page::{Buckets, Distribution, Kind, Labels, Page, label};
use crate::files;
use crate::telemetry::Telemetry;

/// The metrics about the exporter, for as long as the process lives.
#[derive(Debug)]
pub struct ExporterMetrics {
    registry: Registry,
    /// When the process began, Unix seconds.
    start: f64,
    configuration: Family<HashLabels, Gauge>,
    targets: Gauge,
}

/// Fingerprint of the configuration in force.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HashLabels {
    hash: String,
}

impl ExporterMetrics {
    /// Registers what the exporter counts, for a process that begins at this moment.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let start = start.as_secs_f64();
        let (configuration, targets) = (Family::default(), Gauge::default());
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("tcp_probe_exporter");
        // The registry ends every help with a full stop.
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        own.register("build", "The version that runs; always 1", build);
        let help = "Fingerprint of the configuration in force; always 1";
        own.register("config_hash_info", help, configuration.clone());
        let help = [
            "Whether the last load of the configuration was good",
            "Last good load of the configuration",
        ];
        register_reloads(own, telemetry, help);
        let help = "Targets that are watched on schedule";
        own.register("targets", help, targets.clone());
        register_probes(own, telemetry);
        let blackbox = registry.sub_registry_with_prefix("blackbox_exporter");
        let help = "The same under the name that rules for blackbox_exporter use";
        register_reloads(blackbox, telemetry, [help; 2]);
        let help = "Requests to /probe for a module that does not exist";
        registry.register("blackbox_module_unknown", help, telemetry.modules_unknown.clone());
        let help = "Start time of the process since unix epoch in seconds";
        registry.register("process_start_time_seconds", help, ConstGauge::new(start));
        registry.register_collector(Box::new(System));
        Self { registry, start, configuration, targets }
    }

    /// Notes the configuration in force and how many targets are watched.
    pub fn describe(&self, fingerprint: &str, targets: usize) {
        let labels = HashLabels { hash: fingerprint.to_owned() };
        if self.configuration.get(&labels).is_none() {
            self.configuration.clear();
            self.configuration.get_or_create(&labels).set(1);
        }
        self.targets.set(i64::try_from(targets).unwrap_or(i64::MAX));
    }

    /// When the process began, Unix seconds.
    pub(super) const fn start(&self) -> f64 {
        self.start
    }

    pub(super) fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let families = prometheus_protobuf::encode(&self.registry).map_err(io::Error::other)?;
        families.into_iter().try_for_each(|family| write_family(family, page))
    }

    /// What `prometheus-client` itself makes of it.
    #[cfg(test)]
    pub(super) fn families(&self) -> Vec<model::MetricFamily> {
        prometheus_protobuf::encode(&self.registry).unwrap()
    }
}

fn register_reloads(registry: &mut Registry, telemetry: &Telemetry, [successful, at]: [&str; 2]) {
    let (name, gauge) = ("config_last_reload_successful", telemetry.reload_successful.clone());
    registry.register(name, successful, gauge);
    let (name, gauge) =
        ("config_last_reload_success_timestamp_seconds", telemetry.reload_success.clone());
    registry.register(name, at, gauge);
}

fn register_probes(registry: &mut Registry, telemetry: &Telemetry) {
    let help = "Finished probes of both modes by module and outcome";
    registry.register("probes", help, telemetry.probes.clone());
    let help = "Probes of both modes that did not succeed, by reason";
    registry.register("probe_failures", help, telemetry.failures.clone());
    let help = "Probes that run at this moment, both modes";
    registry.register("probes_in_flight", help, telemetry.in_flight.clone());
    let help = "Probes that may run at once, from the limit on descriptors";
    registry.register("probes_in_flight_limit", help, telemetry.in_flight_limit.clone());
    let help = "Requests to /probe that came while too many probes were in flight";
    registry.register("probes_shed", help, telemetry.probes_shed.clone());
    let help = "Scheduled runs left out because their predecessor still ran";
    registry.register("runs_skipped", help, telemetry.runs_skipped.clone());
    let help = "How late scheduled probes started";
    registry.register("start_lateness_seconds", help, telemetry.lateness.clone());
    let help = "Times the path to a target was followed, to explain a failure or as usual";
    registry.register("explanations", help, telemetry.explanations.clone());
    let help = "Confirmed failures that were not explained, since too many waited";
    registry.register("failures_unexplained", help, telemetry.unexplained.clone());
    let help = "Targets refused by an access rule";
    registry.register("targets_refused", help, telemetry.refused.clone());
    let help = "Whether every canary failed when they were last asked";
    registry.register("isolated", help, telemetry.isolated.clone());
}

/// One gathered family, its metrics in the order of their labels.
fn write_family(mut family: model::MetricFamily, page: &mut Page<'_>) -> io::Result<()> {
    let kind = match family.r#type() {
        model::MetricType::Counter => Kind::Counter,
        model::MetricType::Histogram => Kind::Histogram,
        _ => Kind::Gauge,
    };
    page.family(&family.name, kind, &family.help)?;
    let values = |metric: &model::Metric| -> Vec<String> {
        metric.label.iter().map(|pair| pair.value.clone()).collect()
    };
    family.metric.sort_by_cached_key(values);
    for metric in &family.metric {
        let labels = Pairs(&metric.label);
        match (&metric.counter, &metric.gauge, &metric.histogram) {
            (Some(counter), ..) => page.sample(&family.name, &labels, counter.value),
            (_, Some(gauge), _) => page.sample(&family.name, &labels, gauge.value),
            (.., Some(histogram)) => {
                let buckets: Vec<_> = histogram
                    .bucket
                    .iter()
                    .map(|bucket| (bucket.upper_bound, bucket.cumulative_count))
                    .collect();
                let distribution = Distribution {
                    created: None,
                    sum: histogram.sample_sum,
                    count: histogram.sample_count,
                    buckets: Buckets::Classic(&buckets),
                };
                page.distribution(&family.name, &labels, &distribution);
            }
            _ => {}
        }
        page.flush_if_full()?;
    }
    Ok(())
}

struct Pairs<'a>(&'a [model::LabelPair]);

impl Labels for Pairs<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        for pair in self.0 {
            label(text, &pair.name, &pair.value);
        }
    }
}

/// What the system says of this process and this machine whenever it is asked.
#[derive(Debug)]
struct System;

impl Collector for System {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let process = Process::read();
        for (name, help, value) in [
            ("process_open_fds", "Number of open file descriptors.", process.open_descriptors),
            (
                "process_max_fds",
                "Maximum number of open file descriptors.",
                process.max_descriptors,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                process.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                process.virtual_bytes,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let help = "Total user and system CPU time spent in seconds.";
        let metric =
            encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(cpu_time().as_secs_f64()).encode(metric)?;
        let name = "tcp_probe_exporter_egress_info";
        let help = "Addresses that probes come from, to allow in firewalls; always 1.";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for address in egress_addresses() {
            let labels = [("address", address.to_string())];
            ConstGauge::new(1_u32).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Addresses of this machine that can reach others.
fn egress_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = interfaces
        // Nothing leaves through an interface that is down or without carrier.
        .filter(|interface| {
            interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
        })
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        Duration::from_secs(seconds)
            + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or_default())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// What the kernel says of this process; zero where it does not say.
struct Process {
    open_descriptors: f64,
    max_descriptors: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
}

impl Process {
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^53")]
    fn read() -> Self {
        // proc_pid_statm(5): size and resident, in pages.
        let statm = files::read(Path::new("/proc/self/statm"), files::MIB).unwrap_or_default();
        let statm = String::from_utf8_lossy(&statm);
        let mut pages = statm.split(' ').map(|size| size.parse::<f64>().unwrap_or_default());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .map_or(4096.0, |bytes| bytes as f64);
        Self {
            // The directory itself is open while it is read.
            open_descriptors: std::fs::read_dir("/proc/self/fd")
                .map_or(0.0, |entries| entries.count().saturating_sub(1) as f64),
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .map_or(0.0, |(soft, _)| soft as f64),
            virtual_bytes: pages.next().unwrap_or_default() * page,
            resident_bytes: pages.next().unwrap_or_default() * page,
        }
    }
}
