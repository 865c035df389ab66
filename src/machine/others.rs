//! What the last probes of other targets say of our sight: who answered, who was silent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Peers that are remembered of either kind.
const REMEMBERED: usize = 32;
/// How long silence says something about the present.
const LATELY: Duration = Duration::from_secs(60);
/// Silent targets, beside the one in question, that together speak against us.
const SEVERAL: usize = 2;

/// The last peers that answered, and the last that did not.
#[derive(Debug, Default)]
pub(super) struct Others {
    answered: Recent,
    silent: Recent,
}

/// Peers, each once, the newest last.
#[derive(Debug, Default)]
struct Recent(Mutex<VecDeque<(SocketAddr, Instant)>>);

impl Others {
    pub(super) fn answered(&self, peer: SocketAddr, now: Instant) {
        self.answered.note(peer, now);
    }

    pub(super) fn silent(&self, peer: SocketAddr, now: Instant) {
        self.silent.note(peer, now);
    }

    /// Those that answered since then, this one aside.
    pub(super) fn answered_since(&self, but: SocketAddr, since: Instant) -> Vec<SocketAddr> {
        self.answered.since(but, Some(since))
    }

    /// Whether several were silent lately and nobody answered, this one aside.
    pub(super) fn all_silent(&self, but: SocketAddr, now: Instant) -> bool {
        let since = now.checked_sub(LATELY);
        // Other ports of the same host say nothing of our sight.
        let silent = self.silent.since(but, since);
        let elsewhere = silent.iter().filter(|peer| peer.ip() != but.ip()).count();
        elsewhere >= SEVERAL && self.answered.since(but, since).is_empty()
    }
}

impl Recent {
    fn note(&self, peer: SocketAddr, now: Instant) {
        let mut peers = self.peers();
        // One that is probed again and again must not push the others out.
        if let Some(index) = peers.iter().rposition(|(known, _)| *known == peer) {
            peers.remove(index);
        } else if peers.len() >= REMEMBERED {
            peers.pop_front();
        }
        peers.push_back((peer, now));
    }

    fn since(&self, but: SocketAddr, since: Option<Instant>) -> Vec<SocketAddr> {
        let peers = self.peers();
        let late =
            peers.iter().filter(|(peer, at)| *peer != but && since.is_none_or(|it| *at >= it));
        late.map(|(peer, _)| *peer).collect()
    }

    fn peers(&self) -> MutexGuard<'_, VecDeque<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 22))
    }

    #[test]
    fn others_that_answered_since_are_told_apart_from_the_one_in_question() {
        let (others, origin) = (Others::default(), Instant::now());
        let at = |seconds| origin + Duration::from_secs(seconds);
        others.answered(ip(1), at(1));
        others.answered(ip(2), at(2));
        others.answered(ip(3), at(3));
        assert_eq!(others.answered_since(ip(3), at(2)), [ip(2)]);
        others.answered(ip(1), at(4));
        assert_eq!(others.answered_since(ip(9), at(2)), [ip(2), ip(3), ip(1)]);
        for last in 0..=255 {
            others.answered(ip(last), at(5));
        }
        assert_eq!(others.answered_since(ip(9), at(0)).len(), REMEMBERED);
    }

    #[test]
    fn several_silent_targets_and_no_other_speak_against_us() {
        let (others, origin) = (Others::default(), Instant::now());
        let at = |seconds| origin + Duration::from_secs(seconds);
        others.silent(ip(1), at(1));
        others.silent(ip(2), at(1));
        others.silent(SocketAddr::new(ip(1).ip(), 80), at(1));
        assert!(!others.all_silent(ip(1), at(2)), "one elsewhere only");
        others.silent(ip(3), at(1));
        assert!(others.all_silent(ip(1), at(2)));
        assert!(others.all_silent(ip(1), at(61)));
        assert!(!others.all_silent(ip(1), at(62)), "long ago");
        others.answered(ip(1), at(2));
        assert!(others.all_silent(ip(1), at(3)), "the one in question does not vouch for us");
        others.answered(ip(4), at(2));
        assert!(!others.all_silent(ip(1), at(3)));
    }
}
