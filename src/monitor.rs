//! What is watched, how often, and how much it takes to believe a change. Pure: plain values.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, Host};
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

/// A port of a monitor, perhaps with a name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Port {
    /// Name given by the user, exposed as the `service` label where the monitor sets none.
    pub name: Option<Arc<str>>,
    /// From 1 to 65535.
    pub number: u16,
}

/// A configured entry: what to watch and by which policy.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Unique name.
    pub name: Arc<str>,
    /// Host of every target.
    pub host: Host,
    /// One target each. Invariant: not empty, numbers unique.
    pub ports: Vec<Port>,
    /// How to probe.
    pub module: Arc<Module>,
    /// Time between two starts. Invariant: [`MIN_INTERVAL`] ≤ interval ≤ [`MAX_INTERVAL`].
    pub interval: Duration,
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
    /// Its group.
    pub group: Option<Membership>,
    /// Name of the monitor whose being down explains this one.
    pub depends_on: Option<Arc<str>>,
    /// Free labels of the info series. Invariant: valid names that no built-in label uses.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

impl Monitor {
    /// The address of one of its ports.
    #[must_use]
    pub fn address(&self, port: &Port) -> Address {
        Address { host: self.host.clone(), port: port.number }
    }
}
