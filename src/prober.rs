//! Opens connections. The only module that touches the network outwards.
//!
//! A probe never fails: whatever happens is a [`Finding`]. Callers decide what to make of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::address::{Address, Host};
use crate::guard::Access;
use crate::module::Module;
use crate::outcome::{Finding, Outcome, Phase, Reason};
use crate::prober::journal::Journal;

pub mod journal;

/// What to probe and how.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The target.
    pub address: &'a Address,
    /// How.
    pub module: &'a Module,
    /// Name for SNI and verification where the module sets none (`hostname` of `/probe`).
    pub hostname: Option<&'a str>,
    /// One deadline over the whole probe.
    pub timeout: Duration,
    /// What may be probed, judged on every resolved address.
    pub access: &'a Access,
}

/// Carries out probes. One per process: it holds resolvers, trust anchors, TLS configurations.
#[derive(Debug, Default)]
pub struct Prober {}

impl Prober {
    /// Probes the first address of the target.
    pub async fn probe(&self, probe: Probe<'_>, journal: &mut Journal) -> Finding {
        let _ = journal;
        Finding::new(Outcome::because(Reason::LocalConfig, Phase::Resolve), probe.timeout)
    }

    /// Probes one address of the target, as if resolved.
    pub async fn probe_at(
        &self,
        peer: SocketAddr,
        probe: Probe<'_>,
        journal: &mut Journal,
    ) -> Finding {
        let _ = peer;
        self.probe(probe, journal).await
    }

    /// Every address of a host that the module may use, the preferred family first.
    ///
    /// # Errors
    /// The reason, and the cause in one line.
    pub async fn addresses(
        &self,
        host: &Host,
        module: &Module,
        timeout: Duration,
    ) -> Result<Vec<IpAddr>, (Reason, String)> {
        let _ = (module, timeout);
        host.ip().map(|ip| vec![ip]).ok_or((Reason::DnsFailure, String::new()))
    }
}
