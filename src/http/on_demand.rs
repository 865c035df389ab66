//! Places for probes on demand. Targets that let a probe wait in vain get three quarters of them,
//! so that services that hang never keep a healthy one from being probed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::http::shares::{Client, Place, Shares};
use crate::limits::{MAX_SUSPECT_TARGETS, SUSPECT_TARGET_FOR};
use crate::outcome::ProbeResult;

/// All places, and who may have which.
#[derive(Debug)]
pub struct OnDemand {
    places: Arc<Shares>,
    suspect_places: Arc<Shares>,
    suspects: Mutex<Suspects>,
}

/// A place for one probe, until dropped.
#[derive(Debug)]
pub struct Granted {
    _place: Place,
    _suspect_place: Option<Place>,
}

impl OnDemand {
    /// So many places.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            places: Shares::new(limit),
            suspect_places: Shares::new(limit * 3 / 4),
            suspects: Mutex::default(),
        }
    }

    /// A place for a probe of `target`, if there is one for it; `lost` is told when it is another
    /// client's.
    #[must_use]
    pub fn take(&self, client: Client, target: &str, lost: &Arc<Notify>) -> Option<Granted> {
        let is_suspect = self.suspects().contains(target, Instant::now());
        let suspect_place =
            if is_suspect { Some(self.suspect_places.take(client, lost)?) } else { None };
        let place = self.places.take(client, lost)?;
        Some(Granted { _place: place, _suspect_place: suspect_place })
    }

    /// Remembers whether the target let this probe wait in vain.
    pub fn learn(&self, target: &str, result: &ProbeResult) {
        self.suspects().learn(target, result.waited_in_vain(), Instant::now());
    }

    fn suspects(&self) -> std::sync::MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Targets by their hash, and until when each is one.
#[derive(Debug, Default)]
struct Suspects {
    until: HashMap<u64, Instant>,
    hasher: RandomState,
}

impl Suspects {
    fn contains(&self, target: &str, now: Instant) -> bool {
        self.until.get(&self.hasher.hash_one(target)).is_some_and(|&until| now < until)
    }

    fn learn(&mut self, target: &str, in_vain: bool, now: Instant) {
        let target = self.hasher.hash_one(target);
        if !in_vain {
            self.until.remove(&target);
            return;
        }
        if self.until.len() >= MAX_SUSPECT_TARGETS {
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < MAX_SUSPECT_TARGETS || self.until.contains_key(&target) {
            self.until.insert(target, now + SUSPECT_TARGET_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_one_until_it_answers_or_is_forgotten() {
        let (now, mut suspects) = (Instant::now(), Suspects::default());
        suspects.learn("a", true, now);
        suspects.learn("b", true, now);
        suspects.learn("b", false, now);
        let almost = now + SUSPECT_TARGET_FOR.mul_f32(0.99);
        assert!(suspects.contains("a", almost));
        assert!(!suspects.contains("a", now + SUSPECT_TARGET_FOR));
        assert!(!suspects.contains("b", now), "it answered");
        assert!(!suspects.contains("c", now), "nobody asked for it");
    }

    #[test]
    fn suspects_are_bounded() {
        let (now, mut suspects) = (Instant::now(), Suspects::default());
        for number in 0..=MAX_SUSPECT_TARGETS {
            suspects.learn(&number.to_string(), true, now);
        }
        assert_eq!(suspects.until.len(), MAX_SUSPECT_TARGETS);
        assert!(!suspects.contains(&MAX_SUSPECT_TARGETS.to_string(), now));
        let later = now + SUSPECT_TARGET_FOR;
        suspects.learn("new", true, later);
        assert_eq!(suspects.until.len(), 1, "the old ones made room");
    }

    #[test]
    fn suspects_leave_a_quarter_to_others() {
        let (places, lost) = (OnDemand::new(8), Arc::new(Notify::new()));
        let client = Client::from(std::net::IpAddr::from([127, 0, 0, 1]));
        for number in 0..8 {
            places.suspects().learn(&format!("hangs{number}"), true, Instant::now());
        }
        let take = |target: &str| places.take(client, target, &lost);
        let mut held: Vec<_> =
            (0..8).filter_map(|number| take(&format!("hangs{number}"))).collect();
        assert_eq!(held.len(), 6);
        held.extend((0..8).filter_map(|number| take(&format!("answers{number}"))));
        assert_eq!(held.len(), 8);
        drop(held);
        let held: Vec<_> = (0..9).filter_map(|number| take(&format!("answers{number}"))).collect();
        assert_eq!(held.len(), 8, "without suspects all places are for everybody");
    }
}
