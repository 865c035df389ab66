//! What the exporter says of itself, through `prometheus-client`.
//!
//! That library writes `OpenMetrics` only, but its descriptor and its samples are independent of
//! each other: written as a gauge under its full name, a counter has the classic form.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::exposition::Format;
use crate::outcome::{Outcome, Reason};
use crate::telemetry::{LATENESS_BOUNDS, Telemetry};

/// What does not change while the exporter runs, and the configuration in force.
#[derive(Clone, Debug)]
pub struct ExporterMetrics {
    /// When the process began, Unix seconds.
    pub start: f64,
    /// Fingerprint of the configuration in force.
    pub configuration: String,
    /// How many targets are watched.
    pub targets: usize,
}

impl ExporterMetrics {
    /// For a process that begins at this moment.
    #[must_use]
    pub fn starting() -> Self {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: start.as_secs_f64(), configuration: String::new(), targets: 0 }
    }

    pub(super) fn encode(&self, telemetry: &Telemetry, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Values::read(self, telemetry, format)));
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _ = text::encode_registry(&mut text, &registry);
        text
    }
}

type Labels = Vec<(&'static str, String)>;

/// Name, help, and samples of one metric.
type Family = (&'static str, &'static str, Vec<(Labels, f64)>);

/// Everything there is to say, read once.
#[derive(Debug)]
struct Values {
    format: Format,
    gauges: Vec<Family>,
    counters: Vec<Family>,
    lateness: (f64, Vec<(f64, u64)>),
}

impl Values {
    fn read(own: &ExporterMetrics, telemetry: &Telemetry, format: Format) -> Self {
        let buckets = LATENESS_BOUNDS
            .into_iter()
            .chain([f64::INFINITY])
            .zip(telemetry.lateness.counts())
            .collect();
        Self {
            format,
            gauges: gauges(own, telemetry),
            counters: counters(telemetry),
            lateness: (telemetry.lateness.sum().as_secs_f64(), buckets),
        }
    }
}

fn plain(value: f64) -> Vec<(Labels, f64)> {
    vec![(Labels::new(), value)]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn gauges(own: &ExporterMetrics, telemetry: &Telemetry) -> Vec<Family> {
    let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let hash = vec![("hash", own.configuration.clone())];
    let successful = f64::from(u8::from(telemetry.reload_successful.load(Relaxed)));
    let reloaded = telemetry.reload_success_millis.load(Relaxed) as f64 / 1000.0;
    let egress =
        egress_addresses().into_iter().map(|it| (vec![("address", it.to_string())], 1.0)).collect();
    let process = Process::read();
    vec![
        ("tcp_probe_exporter_build_info", "The version that runs; always 1.", vec![(build, 1.0)]),
        (
            "tcp_probe_exporter_config_hash_info",
            "Fingerprint of the configuration in force; always 1.",
            vec![(hash, 1.0)],
        ),
        (
            "tcp_probe_exporter_config_last_reload_successful",
            "Whether the last load of the configuration was good.",
            plain(successful),
        ),
        (
            "tcp_probe_exporter_config_last_reload_success_timestamp_seconds",
            "Last good load of the configuration.",
            plain(reloaded),
        ),
        (
            "blackbox_exporter_config_last_reload_successful",
            "The same under the name that rules for blackbox_exporter use.",
            plain(successful),
        ),
        (
            "blackbox_exporter_config_last_reload_success_timestamp_seconds",
            "The same under the name that rules for blackbox_exporter use.",
            plain(reloaded),
        ),
        (
            "tcp_probe_exporter_targets",
            "Targets that are watched on schedule.",
            plain(own.targets as f64),
        ),
        (
            "tcp_probe_exporter_probes_in_flight",
            "Probes that run at this moment, both modes.",
            plain(telemetry.in_flight.load(Relaxed) as f64),
        ),
        (
            "tcp_probe_exporter_probes_in_flight_limit",
            "Probes that may run at once, from the limit on descriptors.",
            plain(telemetry.in_flight_limit.load(Relaxed) as f64),
        ),
        (
            "tcp_probe_exporter_isolated",
            "Whether every canary failed when they were last asked.",
            plain(f64::from(u8::from(telemetry.isolated.load(Relaxed)))),
        ),
        (
            "tcp_probe_exporter_egress_info",
            "Addresses that probes come from, to allow in firewalls; always 1.",
            egress,
        ),
        ("process_open_fds", "Number of open file descriptors.", plain(process.open_descriptors)),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            plain(process.max_descriptors),
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            plain(process.resident_bytes),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            plain(process.virtual_bytes),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            plain(own.start),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn counters(telemetry: &Telemetry) -> Vec<Family> {
    let mut probes = Vec::new();
    for (module, counters) in telemetry.modules() {
        let labels = |outcome: &str, reason: &str| {
            vec![
                ("module", module.to_string()),
                ("outcome", outcome.to_owned()),
                ("reason", reason.to_owned()),
            ]
        };
        probes.push((labels(Outcome::Success.as_str(), ""), counters.successes() as f64));
        for &reason in Reason::ALL {
            let outcome = Outcome::because(reason, crate::outcome::Phase::Connect).as_str();
            probes.push((labels(outcome, reason.as_str()), counters.of(reason) as f64));
        }
    }
    let refused = telemetry
        .refusals()
        .into_iter()
        .map(|(rule, count)| (vec![("rule", rule.to_string())], count as f64))
        .collect();
    let of = |counter: &std::sync::atomic::AtomicU64| plain(counter.load(Relaxed) as f64);
    vec![
        (
            "tcp_probe_exporter_probes_total",
            "Finished probes of both modes by module, outcome and reason.",
            probes,
        ),
        (
            "tcp_probe_exporter_runs_skipped_total",
            "Scheduled runs left out because their predecessor still ran.",
            of(&telemetry.runs_skipped),
        ),
        ("tcp_probe_exporter_targets_refused_total", "Targets refused by an access rule.", refused),
        (
            "tcp_probe_exporter_probes_shed_total",
            "Requests to /probe that came while too many probes were in flight.",
            of(&telemetry.probes_shed),
        ),
        (
            "blackbox_module_unknown_total",
            "Requests to /probe for a module that does not exist.",
            of(&telemetry.modules_unknown),
        ),
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            plain(cpu_time().as_secs_f64()),
        ),
    ]
}

impl prometheus_client::collector::Collector for Values {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, samples) in &self.gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                sample(&mut family, labels, |it| it.encode_gauge(value))?;
            }
        }
        for (name, help, samples) in &self.counters {
            let short = match self.format {
                Format::Classic => name,
                Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            };
            let mut family = encoder.encode_descriptor(short, help, None, MetricType::Counter)?;
            for (labels, value) in samples {
                sample(&mut family, labels, |it| match self.format {
                    Format::Classic => it.encode_gauge(value),
                    Format::OpenMetrics => it.encode_counter::<Labels, _, f64>(value, None),
                })?;
            }
        }
        let (sum, buckets) = &self.lateness;
        let count = buckets.iter().map(|(_, count)| count).sum();
        let (name, help) =
            ("tcp_probe_exporter_start_lateness_seconds", "How late scheduled probes started.");
        encoder
            .encode_descriptor(name, help, None, MetricType::Histogram)?
            .encode_histogram::<Labels>(*sum, count, buckets, None)
    }
}

fn sample(
    family: &mut prometheus_client::encoding::MetricEncoder<'_>,
    labels: &Labels,
    value: impl FnOnce(&mut prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result
where
    Labels: EncodeLabelSet,
{
    if labels.is_empty() { value(family) } else { value(&mut family.encode_family(labels)?) }
}

/// Addresses of this machine that can reach others.
fn egress_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|it| it.address)
        .filter_map(|it| {
            let v4 = it.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| it.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .filter(|it| match it {
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
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = statm.split(' ').map(|it| it.parse::<f64>().unwrap_or_default());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .map_or(4096.0, |it| it as f64);
        Self {
            // The directory itself is open while it is read.
            open_descriptors: std::fs::read_dir("/proc/self/fd")
                .map_or(0.0, |it| it.count().saturating_sub(1) as f64),
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .map_or(0.0, |(soft, _)| soft as f64),
            virtual_bytes: pages.next().unwrap_or_default() * page,
            resident_bytes: pages.next().unwrap_or_default() * page,
        }
    }
}
