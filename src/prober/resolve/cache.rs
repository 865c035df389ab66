//! What names stood for, as long as their records say and within a number of bytes.
//!
//! Two generations: names are kept in the young one, which becomes the old one when it has its
//! share of bytes or its time; what nobody asked for meanwhile goes with the old one. So a flood
//! of names drives out names, and never takes more memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{NAME_CACHE_BYTES, NAME_IDLE, NAME_TTL, NO_NAME_TTL};
use crate::prober::resolve::evidence::Answer;

/// Bytes of an entry beside its key and its addresses: its slot, at the table's worst load, and
/// what the allocator adds to two boxes.
const ENTRY_BYTES: usize = 2 * size_of::<(Box<str>, Kept)>() + 32;

/// The cache. Shared by all resolvers; a key begins with the number of its owner.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Held for a look only.
    generations: Mutex<Generations>,
    owners: AtomicU64,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<str>, Kept>,
    old: HashMap<Box<str>, Kept>,
    young_bytes: usize,
    turned: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Kept {
    answer: Answer,
    expires: Instant,
}

impl Cache {
    /// A number that tells the entries of one resolver from those of others.
    pub(super) fn new_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &str, now: Instant) -> Option<Answer> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn_if_due(now);
        if let Some(kept) = generations.young.get(key) {
            return (kept.expires > now).then(|| kept.answer.clone());
        }
        let (key, kept) = generations.old.remove_entry(key)?;
        let answer = (kept.expires > now).then(|| kept.answer.clone())?;
        generations.insert(key, kept, now);
        Some(answer)
    }

    /// Keeps an answer for as long as its records say.
    pub(super) fn insert(&self, key: &str, answer: &Answer, ttl: Duration, now: Instant) {
        let most = match answer {
            Answer::Addresses(_) => NAME_TTL,
            Answer::NoName | Answer::NoRecord => NO_NAME_TTL,
        };
        let ttl = ttl.min(most);
        if ttl.is_zero() {
            return;
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn_if_due(now);
        generations.old.remove(key);
        let kept = Kept { answer: answer.clone(), expires: now + ttl };
        generations.insert(key.into(), kept, now);
    }
}

impl Generations {
    fn insert(&mut self, key: Box<str>, kept: Kept, now: Instant) {
        let bytes = bytes(&key, &kept);
        if self.young_bytes + bytes > NAME_CACHE_BYTES / 2 {
            self.turn(now);
        }
        self.young_bytes += bytes;
        let key_bytes = key.len();
        if let Some(before) = self.young.insert(key, kept) {
            self.young_bytes -= bytes_of(key_bytes, &before);
        }
    }

    fn turn_if_due(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        if now.saturating_duration_since(turned) >= NAME_IDLE {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
        self.turned = Some(now);
    }
}

fn bytes(key: &str, kept: &Kept) -> usize {
    bytes_of(key.len(), kept)
}

fn bytes_of(key_bytes: usize, kept: &Kept) -> usize {
    let addresses = match &kept.answer {
        Answer::Addresses(found) => size_of_val(&**found),
        Answer::NoName | Answer::NoRecord => 0,
    };
    ENTRY_BYTES + key_bytes + addresses
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn addresses(count: u8) -> Answer {
        Answer::Addresses((0..count).map(|last| IpAddr::from([192, 0, 2, last])).collect())
    }

    #[test]
    fn an_answer_is_kept_as_long_as_its_records_say_and_a_missing_name_briefly() {
        let (cache, start) = (Cache::default(), Instant::now());
        cache.insert("a", &addresses(1), MINUTE, start);
        cache.insert("gone", &Answer::NoName, MINUTE * 60, start);
        cache.insert("fleeting", &addresses(1), Duration::ZERO, start);
        cache.insert("year", &addresses(2), MINUTE * 60 * 24 * 365, start);
        for (key, after, expected) in [
            ("a", Duration::from_secs(59), Some(addresses(1))),
            ("a", MINUTE, None),
            ("gone", Duration::from_secs(29), Some(Answer::NoName)),
            ("gone", NO_NAME_TTL, None),
            ("fleeting", Duration::ZERO, None),
            ("b", Duration::ZERO, None),
        ] {
            assert_eq!(cache.get(key, start + after), expected, "{key} {after:?}");
        }
        let day = MINUTE * 60 * 24;
        let mut now = start;
        while now < start + day {
            assert_eq!(cache.get("year", now), Some(addresses(2)));
            now += MINUTE * 9;
        }
        assert_eq!(cache.get("year", start + day), None);
    }

    #[test]
    fn what_nobody_asks_for_goes() {
        let (cache, start) = (Cache::default(), Instant::now());
        cache.insert("used", &addresses(1), MINUTE * 600, start);
        cache.insert("idle", &addresses(1), MINUTE * 600, start);
        let count = || {
            let generations = cache.generations.lock().unwrap();
            generations.young.len() + generations.old.len()
        };
        assert_eq!(count(), 2);
        for minute in [9, 18, 29] {
            assert!(cache.get("used", start + MINUTE * minute).is_some());
        }
        assert_eq!(count(), 1);
        assert!(cache.get("used", start + MINUTE * 30).is_some());
    }

    #[test]
    fn a_flood_of_names_takes_no_more_than_its_bytes_and_spares_what_is_used() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.insert("mine", &addresses(1), MINUTE * 600, now);
        let mut most = 0;
        for number in 0..200_000 {
            cache.insert(&format!("{number}.flood.test"), &addresses(64), MINUTE * 600, now);
            if number % 1000 == 0 {
                assert!(cache.get("mine", now).is_some(), "after {number}");
                let generations = cache.generations.lock().unwrap();
                let all = generations.young.iter().chain(&generations.old);
                most = most.max(all.map(|(key, kept)| bytes(key, kept)).sum());
                let young = generations.young.iter().map(|(key, kept)| bytes(key, kept));
                assert_eq!(generations.young_bytes, young.sum::<usize>());
            }
        }
        assert!(most > NAME_CACHE_BYTES / 2 && most <= NAME_CACHE_BYTES, "{most} bytes");
    }

    #[test]
    fn a_name_kept_again_counts_once() {
        let (cache, now) = (Cache::default(), Instant::now());
        for count in 1..100 {
            cache.insert("a", &addresses(count), MINUTE, now);
        }
        let generations = cache.generations.lock().unwrap();
        assert_eq!(generations.young.len(), 1);
        assert_eq!(generations.young_bytes, bytes("a", &generations.young["a"]));
    }
}
