//! The same page in every format, and what it costs where it is stored.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of tests are small"
)]

use std::collections::BTreeMap;

use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model as model};
use prometheus_client::metrics::histogram::{Histogram as OtherHistogram, NativeHistogramConfig};
use prometheus_client::registry::Registry;
use prost::Message as _;

use super::*;
use crate::outcome::TlsDetails;

/// Series by name and labels as text has them, and their values.
type Series = BTreeMap<String, f64>;

const FORMATS: [Format; 3] = [Format::Classic, Format::OpenMetrics, Format::Protobuf];

fn families(mut page: &[u8]) -> Vec<model::MetricFamily> {
    let mut families = Vec::new();
    while !page.is_empty() {
        families.push(model::MetricFamily::decode_length_delimited(&mut page).unwrap());
    }
    families
}

fn written(families: &[model::MetricFamily]) -> Vec<u8> {
    families.iter().flat_map(model::MetricFamily::encode_length_delimited_to_vec).collect()
}

/// What Prometheus stores of a page.
fn stored(page: &[u8], format: Format) -> Series {
    if format != Format::Protobuf {
        let samples = text(page).lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
        return samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect();
    }
    let mut series = Series::new();
    for family in families(page) {
        for metric in &family.metric {
            let mut add = |suffix: &str, le: Option<f64>, value: f64| {
                let mut labels = Vec::new();
                for pair in &metric.label {
                    page::label(&mut labels, &pair.name, &pair.value);
                }
                if let Some(le) = le {
                    let le = if le.is_finite() { format!("{le:?}") } else { "+Inf".to_owned() };
                    page::label(&mut labels, "le", &le);
                }
                let mut name = format!("{}{suffix}", family.name);
                if !labels.is_empty() {
                    name = format!("{name}{{{}}}", text(&labels));
                }
                assert_eq!(series.insert(name, value), None, "{suffix} of {metric:?}");
            };
            if let Some(value) = &metric.gauge {
                add("", None, value.value);
            } else if let Some(value) = &metric.counter {
                add("", None, value.value);
            } else if let Some(value) = &metric.summary {
                add("_sum", None, value.sample_sum);
                add("_count", None, value.sample_count as f64);
            } else if let Some(value) = &metric.histogram {
                if value.zero_threshold > 0.0 {
                    add("", None, value.sample_count as f64);
                    continue;
                }
                add("_sum", None, value.sample_sum);
                add("_count", None, value.sample_count as f64);
                for bucket in &value.bucket {
                    add("_bucket", Some(bucket.upper_bound), bucket.cumulative_count as f64);
                }
            }
        }
    }
    series
}

/// A store with one target that was probed so often with this result.
fn probed(options: &SeriesOptions, result: &ProbeResult, times: u32) -> Store {
    let store = Store::default();
    let policy = |policy: &mut Policy| {
        policy.slow = Some(Duration::from_secs(1));
        policy.slo = Some(0.999);
    };
    let monitor = change(monitor("db \"1\"\\\n", "192.0.2.1", &[1]), policy);
    let row = Store::row(monitor.targets().next().unwrap());
    store.replace(vec![Arc::clone(&row)], options);
    for _ in 0..times {
        store.apply(&row, result, Box::default(), moment(0));
    }
    store
}

fn healthy() -> ProbeResult {
    let mut healthy = result(Outcome::Success);
    let rtt = Some(Duration::from_micros(30));
    healthy.kernel = Some(KernelView { rtt, syn_retransmits: 0 });
    healthy
}

fn down() -> ProbeResult {
    let mut down = result(Outcome::because(Reason::Refused, Phase::Connect));
    down.kernel = Some(KernelView { rtt: None, syn_retransmits: 0 });
    down
}

/// How many series of one target.
fn count(store: &Store, format: Format) -> usize {
    let of_target = |name: &&String| name.contains("monitor=");
    stored(&page(store, format), format).keys().filter(of_target).count()
}

#[test]
fn a_healthy_target_is_fourteen_series_and_a_down_one_four_more() {
    let lean = SeriesOptions::default();
    let mut spoken = healthy();
    spoken.tls = Some(Box::new(TlsDetails { earliest_expiry: Some(1), ..TlsDetails::default() }));
    for format in FORMATS {
        let healthy = count(&probed(&lean, &healthy(), 9), format);
        let tls = count(&probed(&lean, &spoken, 9), format);
        // Down since the exporter began, and after it was up.
        let down_series = count(&probed(&lean, &down(), 9), format);
        let store = probed(&lean, &self::healthy(), 9);
        let row = Arc::clone(&store.snapshot()[0]);
        for _ in 0..3 {
            store.apply(&row, &down(), Box::default(), moment(0));
        }
        let fallen = count(&store, format);
        eprintln!("{format:?}: healthy {healthy}, TLS {tls}, down {down_series} or {fallen}");
        assert!(healthy <= 14, "{format:?}: {healthy}");
        assert!(healthy >= 10, "{format:?}: {healthy}");
        assert_eq!(tls, healthy + 1, "{format:?}");
        assert!(down_series.max(fallen) <= healthy + 4, "{format:?}: {down_series}, {fallen}");
    }
}

#[test]
fn a_policy_is_exposed_once_and_joined_by_the_info_series() {
    let lean = SeriesOptions::default();
    let store = Store::default();
    let slow = change(monitor("b", "192.0.2.2", &[1, 2]), |policy| {
        policy.interval = Duration::from_secs(5);
    });
    let alike = change(monitor("c", "192.0.2.3", &[1]), |policy| {
        policy.labels = Arc::new([("team".into(), "dba".into())].into());
    });
    let targets = [monitor("a", "192.0.2.1", &[1, 2]), slow, alike];
    let rows = targets.iter().flat_map(Monitor::targets).map(Store::row).collect();
    store.replace(rows, &lean);
    let page = stored(&page(&store, Format::Classic), Format::Classic);
    let intervals: Vec<_> = page
        .iter()
        .filter_map(|(name, &value)| {
            Some((name.strip_prefix("tcp_monitor_policy_interval_seconds{")?, value))
        })
        .collect();
    assert_eq!(intervals.len(), 2, "{intervals:?}");
    for (labels, interval) in intervals {
        let joined = format!(",{labels}");
        let infos = page.keys().filter(|name| name.starts_with("tcp_monitor_info{"));
        let infos: Vec<_> = infos.filter(|name| name.ends_with(&joined)).collect();
        let expected = if interval > 5.0 { 3 } else { 2 };
        assert_eq!(infos.len(), expected, "{interval}: {infos:?}");
    }
    assert!(!page.keys().any(|name| name.starts_with("tcp_monitor_interval_seconds")));

    store.replace(store.snapshot().to_vec(), &SeriesOptions { full: true, ..lean });
    let page = stored(&super::page(&store, Format::Classic), Format::Classic);
    let old = "tcp_monitor_interval_seconds{monitor=\"b\",target=\"192.0.2.2:1\"}";
    assert_eq!(page.get(old), Some(&5.0));
    assert!(page.keys().any(|name| name.starts_with("tcp_monitor_consecutive_successes{")));
}

#[test]
fn a_fresh_exporter_is_at_most_120_series() {
    let telemetry = Telemetry::default();
    telemetry.module(&"tcp_connect".into());
    telemetry.may_refuse(vec!["link-local".into(), "metadata".into()]);
    let exporter = ExporterMetrics::new(&telemetry);
    exporter.describe("abc", 0);
    for format in FORMATS {
        let mut page = Vec::new();
        metrics(&Store::default(), &exporter, &NONE.at(EPOCH), moment(0), format, &mut page)
            .unwrap();
        let count = stored(&page, format).len();
        eprintln!("{format:?}: {count}");
        assert!((60..=120).contains(&count), "{format:?}: {count}");
    }
}

#[test]
fn every_format_says_the_same() {
    let classic = Histogram::Classic([0.1, 1.0].into());
    for histogram in [Histogram::Native, classic, Histogram::Off] {
        let store = probed(&options(histogram.clone()), &healthy(), 3);
        let row = Arc::clone(&store.snapshot()[0]);
        store.apply(&row, &down(), Box::default(), moment(0));
        // What the system says of the process changes meanwhile.
        let lasting = |(name, _): &(String, f64)| !name.starts_with("process_");
        let [classic, open, mut protobuf] = FORMATS.map(|format| -> Series {
            stored(&page(&store, format), format).into_iter().filter(lasting).collect()
        });
        let created = |name: &String| name.contains("_created");
        let open: Series = open.into_iter().filter(|(name, _)| !created(name)).collect();
        let native =
            protobuf.keys().find(|name| name.starts_with("tcp_monitor_probe_duration_seconds{"));
        assert_eq!(native.is_some(), histogram == Histogram::Native);
        if let Some(native) = native.cloned() {
            assert_eq!(protobuf.remove(&native), Some(3.0));
        }
        // `start` is each exporter's own.
        assert_eq!(classic.keys().collect::<Vec<_>>(), open.keys().collect::<Vec<_>>());
        assert_eq!(classic, open);
        assert_eq!(classic, protobuf);
    }
}

#[test]
fn protobuf_of_targets_is_what_its_own_messages_write() {
    let classic = Histogram::Classic([0.1, 1.0].into());
    for histogram in [Histogram::Native, classic, Histogram::Off] {
        let store = probed(&options(histogram), &healthy(), 3);
        let page = page(&store, Format::Protobuf);
        let families = families(&page);
        assert!(families.len() > 20, "{}", families.len());
        assert_eq!(written(&families), page);
        let info = families.iter().find(|family| family.name == "tcp_monitor_info").unwrap();
        assert_eq!(info.metric[0].label[0].value, "db \"1\"\\\n");
    }
    let page = probe(&down(), Format::Protobuf);
    assert_eq!(written(&families(&page)), page);
}

#[test]
fn protobuf_of_the_exporter_is_that_of_prometheus_client() {
    let telemetry = Telemetry::default();
    telemetry.module(&"tcp_connect".into()).count(Outcome::Success);
    telemetry.lateness.observe(0.003);
    let exporter = ExporterMetrics::new(&telemetry);
    exporter.describe("abc", 7);
    let mut ours = Vec::new();
    metrics(&Store::default(), &exporter, &NONE.at(EPOCH), moment(0), Format::Protobuf, &mut ours)
        .unwrap();
    let mut theirs = exporter.families();
    // Ours leaves out what is empty, has an order, and asked the system at another moment.
    theirs.retain(|family| !family.metric.is_empty());
    for family in &mut theirs {
        family.metric.sort_by_key(|metric| {
            metric.label.iter().map(|pair| pair.value.clone()).collect::<Vec<_>>()
        });
    }
    let lasting = |family: &model::MetricFamily| !family.name.starts_with("process_");
    let (mut ours, length) = (families(&ours), theirs.len());
    assert_eq!(ours.len(), length);
    ours.retain(lasting);
    theirs.retain(lasting);
    assert_eq!(written(&ours), written(&theirs));
}

#[test]
fn native_histograms_are_those_of_prometheus_client() {
    let mut random = 1_u64;
    for round in 0..20_u64 {
        let config =
            NativeHistogramConfig::with_schema(2).zero_threshold(2.938_735_877_055_719e-39);
        let other = OtherHistogram::new_native(config);
        let mut durations = Vec::new();
        for _ in 0..round * 7 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // From a few microseconds to minutes.
            let micros = 2.0_f64 * 1.2_f64.powi((random >> 33) as i32 % 100);
            let duration = Duration::from_nanos((micros * 1e3) as u64);
            durations.push(duration);
            other.observe(duration.as_secs_f64());
        }
        let mut registry = Registry::default();
        registry.register("a", "a", other);
        let mut theirs = prometheus_protobuf::encode(&registry).unwrap();
        let mut theirs = theirs[0].metric.remove(0).histogram.unwrap();
        theirs.start_timestamp = None;
        let store = store_of(Histogram::Native, &durations);
        let ours = families(&page(&store, Format::Protobuf));
        let name = "tcp_monitor_probe_duration_seconds";
        let ours = ours.iter().find(|family| family.name == name).unwrap();
        let ours = ours.metric[0].histogram.clone().unwrap();
        if theirs.positive_span.len() == 1 && theirs.positive_delta.is_empty() {
            theirs.positive_span.clear();
        }
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec(), "{round}");
    }
}

/// A quantile as Prometheus reads it from classic buckets, and from native ones: their bounds.
fn bucket_of(counts: impl Iterator<Item = (f64, u64)>, rank: u64) -> f64 {
    let mut total = 0;
    for (bound, count) in counts {
        total += count;
        if total >= rank {
            return bound;
        }
    }
    f64::INFINITY
}

#[test]
fn quantiles_of_native_and_classic_agree_within_a_bucket() {
    let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
    let durations: Vec<Duration> =
        (1..500_u32).map(|step| Duration::from_micros(150) * step * step / 20).collect();
    let native = store_of(Histogram::Native, &durations);
    let classic = store_of(Histogram::Classic(bounds.into()), &durations);
    for quantile in [5, 50, 95, 99] {
        let rank = (durations.len() as u64 * quantile).div_ceil(100);
        let exact = durations[rank as usize - 1].as_secs_f64();
        let of = |store: &Store, bound: &dyn Fn(i32) -> f64| {
            let durations = store.snapshot()[0].state().durations.clone();
            let buckets = (i32::from(durations.first)..).map(bound);
            bucket_of(buckets.zip(durations.counts.iter().map(|&count| count.into())), rank)
        };
        let native = of(&native, &|index| 2.0_f64.powf(f64::from(index) / 4.0));
        let classic = of(&classic, &|index| bounds[index as usize]);
        assert!(exact <= native && native < exact * 1.19, "{quantile}: {exact} {native}");
        let below = bounds.iter().rev().find(|&&bound| bound < classic).unwrap_or(&0.0);
        assert!(native > *below && native / 1.19 <= classic, "{quantile}: {native} {classic}");
    }
}

/// How long the pieces of a page are, and all of them.
struct Pieces(Vec<usize>, Vec<u8>);
impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push(bytes.len());
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn long_families_go_out_in_pieces_of_one_name() {
    let ports: Vec<u16> = (1..=5_000).collect();
    let store = Store::default();
    let rows = monitor("db", "192.0.2.1", &ports).targets().map(Store::row).collect();
    store.replace(rows, &SeriesOptions::default());
    for format in FORMATS {
        let mut out = Pieces(Vec::new(), Vec::new());
        metrics(&store, &exporter(), &NONE.at(EPOCH), moment(0), format, &mut out).unwrap();
        let largest = out.0.iter().max().unwrap();
        assert!(*largest < 80 * 1024, "{format:?}: {largest}");
        let infos = stored(&out.1, format);
        let infos = infos.keys().filter(|name| name.starts_with("tcp_monitor_info{"));
        assert_eq!(infos.count(), 5_000, "{format:?}");
    }
}
