//! What is watched, how often, and how much it takes to believe a change. Pure: plain values.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::module::Module;
use crate::verdict::Thresholds;

/// Shortest interval between two probes of a target.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Longest interval between two probes of a target.
pub const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Most ports that one range may span.
pub const MAX_RANGE: usize = 1024;

/// Confirmation: what it takes to believe a change.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Confirm {
    /// How many outcomes in a row change the verdict of this region.
    pub thresholds: Thresholds,
    /// Time between two probes while the verdict is in doubt.
    pub retry_interval: Duration,
    /// Regions that must hold a target down; policy for the rules, not for the exporter.
    pub regions: NonZeroU32,
}

/// Which addresses of a name are probed and what they must show together.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Addresses {
    /// The first address only.
    #[default]
    First,
    /// Every address; one success suffices.
    Any,
    /// Every address; each must succeed.
    All,
    /// Every address; more than half must succeed.
    Quorum,
}

impl Addresses {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Any => "any",
            Self::All => "all",
            Self::Quorum => "quorum",
        }
    }
}

/// When the path to a target is followed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PathPolicy {
    /// Never, and no counter-check is made.
    Off,
    /// When a failure that a path can explain is confirmed.
    #[default]
    OnFailure,
    /// Then, and so often while it is up.
    Baseline(Duration),
}

/// What is exposed of every target, whatever its monitor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesOptions {
    /// How the durations of successful probes are counted, beside their sum and number.
    pub histogram: Histogram,
    /// Whether also to expose what most fleets can derive.
    pub full: bool,
}

/// How durations are counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Histogram {
    /// In buckets that grow by a fixed factor, for scrapers that read protobuf.
    #[default]
    Native,
    /// In buckets up to these bounds in seconds, ascending, for every scraper.
    Classic(Arc<[f64]>),
    /// Not at all.
    Off,
}

/// Membership in a group of targets that stand in for each other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Membership {
    /// The group.
    pub name: Arc<str>,
    /// What this monitor is in it: `primary`, `standby`, `node`.
    pub role: Option<Arc<str>>,
    /// Members that must be up for the group to be.
    pub min_up: NonZeroU32,
}

/// What is watched of a monitor: a port of its host, perhaps with a name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// What is probed. Invariant: its port is not zero.
    pub address: Address,
    /// Name given by the user, exposed as the `service` label where the monitor sets none.
    pub service: Option<Arc<str>>,
}

/// A configured entry: what to watch and by which policy.
///
/// Its policy is read as if it were its own: `monitor.interval`.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitor {
    /// Unique name.
    pub name: Arc<str>,
    /// One target each. Invariant: not empty, of one host, ports unique.
    pub endpoints: Box<[Endpoint]>,
    /// How it is watched; shared with the monitors that are watched alike, since large fleets
    /// have few policies.
    pub policy: Arc<Policy>,
}

/// How a monitor is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How to probe.
    pub module: Arc<Module>,
    /// Time between two starts. Invariant: [`MIN_INTERVAL`] ≤ interval ≤ [`MAX_INTERVAL`].
    pub interval: Duration,
    /// Time between two starts while the target is down. Invariant: not longer than the interval.
    pub down_interval: Duration,
    /// One deadline over a whole probe. Invariant: shorter than the interval.
    pub timeout: Duration,
    /// What it takes to believe a change.
    pub confirm: Confirm,
    /// Successes slower than this are worth a warning.
    pub slow: Option<Duration>,
    /// Objective of availability, above 0 and below 1.
    pub slo: Option<f64>,
    /// Which addresses of the name are probed.
    pub addresses: Addresses,
    /// When the path is followed.
    pub path: PathPolicy,
    /// Its group.
    pub group: Option<Membership>,
    /// Name of the monitor whose being down explains this one.
    pub depends_on: Option<Arc<str>>,
    /// Free labels of the info series, shared by all monitors that have the same. Invariant: valid
    /// names that no built-in label uses.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Deref for Monitor {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

impl Monitor {
    /// Its targets, one for each endpoint.
    pub fn targets(self: &Arc<Self>) -> impl Iterator<Item = Target> {
        (0..self.endpoints.len()).map(|index| Target { monitor: Arc::clone(self), index })
    }
}

/// One `host:port` that a monitor watches. Read as the endpoint it is: `target.address`.
#[derive(Clone, Debug)]
pub struct Target {
    /// The monitor it belongs to.
    pub monitor: Arc<Monitor>,
    /// Its place among the monitor's endpoints.
    index: usize,
}

impl Deref for Target {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.monitor.endpoints[self.index]
    }
}

impl Target {
    /// A hash of its identity, monitor and address, that is the same in every process and version.
    ///
    /// FNV-1a of 64 bits with the finalizer of `MurmurHash3`, which spreads the low bits of short
    /// texts: phase and shard take remainders of it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        // Writing to a hash cannot fail.
        let _ = write!(hash, "{}\0{}", self.monitor.name, self.address);
        let mut mixed = hash.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }

    /// Whether two definitions probe the same thing in the same way, so that what is known of
    /// one holds for the other.
    #[must_use]
    pub fn probes_like(&self, other: &Self) -> bool {
        self.address == other.address
            && self.monitor.addresses == other.monitor.addresses
            && self.monitor.module == other.monitor.module
    }
}

struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// One of several exporters that share the targets of one configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shard {
    index: u32,
    total: NonZeroU32,
}

impl Shard {
    /// All targets.
    pub const WHOLE: Self = Self { index: 0, total: NonZeroU32::MIN };

    /// Shard `index`, counted from 0, of `total`; `None` unless `index < total`.
    #[must_use]
    pub const fn new(index: u32, total: NonZeroU32) -> Option<Self> {
        if index < total.get() { Some(Self { index, total }) } else { None }
    }

    /// Whether a target belongs to this shard: each belongs to exactly one, and going from n to
    /// n + 1 shards moves one target in n + 1.
    ///
    /// The jump consistent hash of Lamping and Veach (2014).
    #[must_use]
    pub fn holds(self, target: &Target) -> bool {
        let mut key = target.hash();
        let (mut bucket, mut next) = (0_u64, 0_u64);
        while next < u64::from(self.total.get()) {
            bucket = next;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            // (bucket + 1) * 2^31 / ((key >> 33) + 1); both factors fit 64 bits.
            next = ((bucket + 1) << 31) / ((key >> 33) + 1);
        }
        bucket == u64::from(self.index)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::address::Host;

    /// A monitor of `host` with these ports and the defaults of the configuration.
    pub(crate) fn monitor(name: &str, host: &str, ports: &[u16]) -> Arc<Monitor> {
        Arc::new(Monitor {
            name: name.into(),
            endpoints: ports
                .iter()
                .map(|&port| Endpoint {
                    address: Address { host: Host::parse(host).unwrap(), port },
                    service: None,
                })
                .collect(),
            policy: Arc::new(Policy {
                module: Arc::new(Module::connect("tcp_connect")),
                interval: Duration::from_secs(60),
                down_interval: Duration::from_secs(60),
                timeout: Duration::from_secs(10),
                confirm: Confirm {
                    thresholds: Thresholds {
                        failures: NonZeroU32::new(3).unwrap(),
                        successes: NonZeroU32::MIN,
                    },
                    retry_interval: Duration::from_secs(5),
                    regions: NonZeroU32::new(2).unwrap(),
                },
                slow: None,
                slo: None,
                addresses: Addresses::First,
                path: PathPolicy::OnFailure,
                group: None,
                depends_on: None,
                labels: Arc::default(),
            }),
        })
    }

    /// The same with another policy.
    pub(crate) fn change(monitor: Arc<Monitor>, change: impl FnOnce(&mut Policy)) -> Arc<Monitor> {
        let mut monitor = Arc::unwrap_or_clone(monitor);
        change(Arc::make_mut(&mut monitor.policy));
        Arc::new(monitor)
    }

    fn targets(count: usize) -> Vec<Target> {
        (0..count)
            .flat_map(|it| {
                monitor(&format!("m{it}"), "db.example.com", &[5432]).targets().collect::<Vec<_>>()
            })
            .collect()
    }

    fn shard(index: u32, total: u32) -> Shard {
        Shard::new(index, NonZeroU32::new(total).unwrap()).unwrap()
    }

    #[test]
    fn every_target_is_on_exactly_one_shard() {
        for target in targets(10_000) {
            assert_eq!((0..3).filter(|&it| shard(it, 3).holds(&target)).count(), 1);
            assert!(Shard::WHOLE.holds(&target));
        }
    }

    #[test]
    fn a_fourth_shard_takes_a_quarter_and_nothing_else_moves() {
        let targets = targets(10_000);
        let of = |target: &Target, total| (0..total).find(|&it| shard(it, total).holds(target));
        let moved: Vec<_> = targets.iter().filter(|it| of(it, 3) != of(it, 4)).collect();
        assert!((2_300..=2_700).contains(&moved.len()), "{} of 10000 moved", moved.len());
        assert!(moved.iter().all(|it| of(it, 4) == Some(3)));
    }

    #[test]
    fn a_shard_outside_its_total_cannot_be_built() {
        assert_eq!(Shard::new(3, NonZeroU32::new(3).unwrap()), None);
    }

    #[test]
    fn the_hash_of_a_target_never_changes() {
        let target = monitor("orders-db", "db.example.com", &[5432]).targets().next().unwrap();
        assert_eq!(target.hash(), 15_633_427_999_207_673_628);
    }
}
