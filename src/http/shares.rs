//! Fair shares: places that clients take for a while, and that no client can keep from the others.
//!
//! One rule. While a place is free, anybody gets it. When none is free, a newcomer gets the place
//! of somebody who holds more: of a client with at least two places more than the newcomer's, or
//! one that merely waits for its own client, if that client holds no fewer. So of `k` clients each
//! gets the `k`-th part whenever it wants that much, whatever the others do; and one client alone,
//! such as a proxy before all others, may have everything.
//!
//! Used for connections, answers being made, probes on demand and waiting passwords. No clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Whom shares are counted for: an IPv4 address, or the network of 64 bits that an IPv6 client
/// has to itself.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let network = u128::from(ip) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            IpAddr::V4(ip) => IpAddr::V4(ip),
        })
    }
}

/// A number of places.
#[derive(Debug)]
pub struct Shares {
    limit: usize,
    /// Guards who holds what; held for a look only.
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// Counts changes; orders them without a clock.
    changes: u64,
    places: BTreeMap<u64, Taken>,
    held: HashMap<Client, usize>,
}

#[derive(Debug)]
struct Taken {
    client: Client,
    /// Whether it waits for its client.
    yields: bool,
    /// The change with which that began.
    since: u64,
    lost: Arc<Notify>,
}

impl Shares {
    /// So many places, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), state: Mutex::default(), freed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if the rule gives the client one now; `lost` is told when it is another's.
    #[must_use]
    pub fn take(self: &Arc<Self>, client: Client, lost: &Arc<Notify>) -> Option<Place> {
        let mut state = self.state();
        if state.places.len() >= self.limit {
            let victim = state.victim(client)?;
            state.remove(victim)?.lost.notify_one();
        }
        let id = state.add(client, lost);
        Some(Place { shares: Arc::clone(self), id })
    }

    /// The same, waiting for a place that others give back, or that comes to wait for its client.
    pub async fn take_within(
        self: &Arc<Self>,
        client: Client,
        lost: &Arc<Notify>,
        limit: Duration,
    ) -> Option<Place> {
        let place = async {
            loop {
                if let Some(place) = self.take(client, lost) {
                    return place;
                }
                self.freed.notified().await;
            }
        };
        timeout(limit, place).await.ok()
    }
}

impl State {
    fn held(&self, client: Client) -> usize {
        self.held.get(&client).copied().unwrap_or_default()
    }

    fn add(&mut self, client: Client, lost: &Arc<Notify>) -> u64 {
        let (id, since) = (self.next_id, self.changes);
        self.next_id += 1;
        self.changes += 1;
        *self.held.entry(client).or_default() += 1;
        let taken = Taken { client, yields: false, since, lost: Arc::clone(lost) };
        self.places.insert(id, taken);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Taken> {
        let taken = self.places.remove(&id)?;
        match self.held.get_mut(&taken.client) {
            Some(held @ 2..) => *held -= 1,
            Some(_) | None => drop(self.held.remove(&taken.client)),
        }
        Some(taken)
    }

    /// Who gives way to another place of `client`: whoever waits for its client, of those that
    /// hold most, the longest first; else the oldest of whom holds most.
    fn victim(&self, client: Client) -> Option<u64> {
        let own = self.held(client);
        let candidates = self.places.iter().filter_map(|(id, place)| {
            let held = self.held(place.client);
            let may_go = held >= own + 2 || (place.yields && held >= own);
            may_go.then_some((!place.yields, Reverse(held), place.since, *id))
        });
        candidates.min().map(|(.., id)| id)
    }
}

/// A place, until dropped or lost to another client.
#[derive(Debug)]
pub struct Place {
    shares: Arc<Shares>,
    id: u64,
}

impl Place {
    /// Says whether the place waits for its client, from now on.
    pub fn set_yields(&self, yields: bool) {
        let mut state = self.shares.state();
        state.changes += 1;
        let since = state.changes;
        if let Some(taken) = state.places.get_mut(&self.id) {
            (taken.yields, taken.since) = (yields, since);
        }
        drop(state);
        if yields {
            self.shares.freed.notify_one();
        }
    }

    /// Gives the place back. Once is enough.
    pub fn release(&self) {
        if self.shares.state().remove(self.id).is_some() {
            self.shares.freed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;
