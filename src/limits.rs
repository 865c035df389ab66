//! How many things may happen at once, from the number of descriptors that the system grants.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are neither connections nor probes: standard streams, event queues, signals,
/// listeners, configuration and certificate files, name look-ups.
const RESERVED: usize = 26;
/// Most connections of clients, however many descriptors there are.
const MAX_CONNECTIONS: usize = 4096;
/// Most probes on demand.
const MAX_ON_DEMAND: usize = 4096;
/// Most sockets that wait for their peer to close.
const MAX_LINGERING: usize = 4096;
/// Believed where the system does not tell.
const DEFAULT_DESCRIPTORS: usize = 1024;

/// Bounds on what happens at once. Together they fit the descriptor limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections of clients.
    pub connections: usize,
    /// Probes on demand.
    pub on_demand: usize,
    /// Scheduled probes.
    pub scheduled: usize,
    /// Sockets of ended probes that wait for their peer to close.
    pub lingering: usize,
}

impl Limits {
    /// Shares out a number of descriptors: a quarter for clients, an eighth for probes on demand
    /// with a second descriptor each for their names, a sixteenth for connections that wait for
    /// their peer to close, the rest for the schedule.
    #[must_use]
    pub fn of(descriptors: usize) -> Self {
        let usable = descriptors.saturating_sub(RESERVED).max(16);
        let connections = (usable / 4).min(MAX_CONNECTIONS);
        let on_demand = (usable / 8).min(MAX_ON_DEMAND);
        let lingering = (usable / 16).min(MAX_LINGERING);
        let scheduled = usable - connections - 2 * on_demand - lingering;
        Self { connections, on_demand, scheduled, lingering }
    }

    /// Raises the soft descriptor limit of this process to the hard one and shares it out.
    #[must_use]
    pub fn raise() -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return Self::of(DEFAULT_DESCRIPTORS);
        };
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        let granted = if raised { hard } else { soft };
        Self::of(usize::try_from(granted).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_together_fits_the_descriptors() {
        for descriptors in [42, 64, 100, 1024, 20_000, 1 << 20, usize::MAX] {
            let Limits { connections, on_demand, scheduled, lingering } = Limits::of(descriptors);
            assert!(connections + 2 * on_demand + scheduled + lingering + RESERVED <= descriptors);
            assert!(connections > 0 && on_demand > 0 && scheduled > 0, "{descriptors}");
        }
        let few = Limits { connections: 9, on_demand: 4, scheduled: 19, lingering: 2 };
        assert_eq!(Limits::of(64), few);
    }
}
