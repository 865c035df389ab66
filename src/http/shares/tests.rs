use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

fn client(number: u8) -> Client {
    Client::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, number)))
}

#[test]
fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
    let of = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
    for (one, other, same) in [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
    ] {
        assert_eq!(of(one) == of(other), same, "{one} {other}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take(u8),
    GiveBack(usize),
    Yield(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..6_u8).prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::GiveBack),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(index, yields)| Step::Yield(index, yields)),
    ];
    proptest::collection::vec(step, 0..200)
}

/// What clients believe they hold, to compare with the book.
struct World {
    shares: Arc<Shares>,
    places: Vec<(u8, Place, Arc<Notify>)>,
}

/// A place, and what tells that it is lost.
fn take(shares: &Arc<Shares>, number: u8) -> Option<(u8, Place, Arc<Notify>)> {
    let lost = Arc::new(Notify::new());
    shares.take(client(number), &lost).map(|place| (number, place, lost))
}

fn is_lost(lost: &Notify) -> bool {
    lost.notified().now_or_never().is_some()
}

impl World {
    fn new(limit: usize) -> Self {
        Self { shares: Shares::new(limit), places: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        let count = self.places.len();
        match step {
            Step::Take(number) => {
                let taken = take(&self.shares, number);
                self.places.extend(taken);
            }
            Step::GiveBack(index) if count > 0 => drop(self.places.swap_remove(index % count)),
            Step::Yield(index, yields) if count > 0 => {
                self.places[index % count].1.set_yields(yields);
            }
            Step::GiveBack(_) | Step::Yield(..) => (),
        }
        self.places.retain(|(.., lost)| !is_lost(lost));
    }

    fn held(&self, number: u8) -> usize {
        self.places.iter().filter(|(holder, ..)| *holder == number).count()
    }
}

proptest! {
    #[test]
    fn the_book_is_right_and_never_over_the_limit(limit in 1..12_usize, steps in steps()) {
        let mut world = World::new(limit);
        for step in steps {
            world.step(step);
            let state = world.shares.state();
            prop_assert!(state.places.len() <= limit);
            prop_assert_eq!(state.places.len(), world.places.len());
            prop_assert_eq!(state.held.values().sum::<usize>(), world.places.len());
            for number in 0..6 {
                prop_assert_eq!(state.held(client(number)), world.held(number));
            }
        }
    }

    /// The theorem: whatever happened before, and whatever the others hold, a client that wants
    /// places gets its part, and one that is refused has it already.
    #[test]
    fn whoever_wants_its_part_gets_it(limit in 1..12_usize, steps in steps(), number in 0..6_u8) {
        let mut world = World::new(limit);
        for step in steps {
            world.step(step);
        }
        let mut clients: BTreeSet<u8> = world.places.iter().map(|(holder, ..)| *holder).collect();
        clients.insert(number);
        let part = limit / clients.len();
        // Twice, since its own idle places are the first to go.
        for _ in 0..2 * limit {
            world.step(Step::Take(number));
        }
        prop_assert!(world.held(number) >= part, "{} of {part}", world.held(number));
    }

    /// Nobody loses a place at work below its part to a client that holds as much.
    #[test]
    fn work_is_taken_only_from_who_has_more(limit in 1..12_usize, steps in steps()) {
        let mut world = World::new(limit);
        for step in steps {
            let before: Vec<usize> = (0..6).map(|number| world.held(number)).collect();
            let working = |world: &World| {
                let state = world.shares.state();
                let working = state.places.values().filter(|place| !place.yields);
                working.map(|place| place.client).collect::<Vec<_>>()
            };
            let busy = working(&world);
            world.step(step);
            let Step::Take(taker) = step else { continue };
            let left = working(&world);
            for number in (0..6).filter(|number| *number != taker) {
                let count = |list: &[Client]| list.iter().filter(|holder| **holder == client(number)).count();
                if count(&left) < count(&busy) {
                    let (had, taker_had) = (before[usize::from(number)], before[usize::from(taker)]);
                    prop_assert!(had >= taker_had + 2, "{had} against {taker_had}");
                }
            }
        }
    }
}

#[test]
fn one_client_alone_may_have_everything() {
    let shares = Shares::new(5);
    let places: Vec<_> = std::iter::from_fn(|| take(&shares, 1)).collect();
    assert_eq!(places.len(), 5);
    let stranger = take(&shares, 2).expect("a place");
    let lost = places.iter().position(|(.., lost)| is_lost(lost));
    assert_eq!(lost, Some(0), "the oldest");
    drop(stranger);
    assert!(take(&shares, 1).is_some());
}

#[test]
fn who_waits_for_its_client_gives_way_first() {
    let shares = Shares::new(3);
    let places: Vec<_> = std::iter::from_fn(|| take(&shares, 1)).collect();
    places[2].1.set_yields(true);
    places[1].1.set_yields(true);
    let _own = take(&shares, 1).expect("instead of one's own");
    let lost: Vec<_> = places.iter().map(|(.., lost)| is_lost(lost)).collect();
    assert_eq!(lost, [false, false, true], "the one that has waited longest");
}

#[tokio::test(start_paused = true)]
async fn one_waits_for_what_others_give_back() {
    let (shares, lost) = (Shares::new(1), Arc::new(Notify::new()));
    let place = shares.take(client(1), &lost).expect("a place");
    let limit = Duration::from_secs(5);
    assert!(shares.take_within(client(1), &lost, limit).await.is_none());
    let waiting = shares.take_within(client(1), &lost, limit);
    let giving_back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(place);
    };
    let (waited, ()) = tokio::join!(waiting, giving_back);
    let waited = waited.expect("a place");
    let waiting = shares.take_within(client(1), &lost, limit);
    let yielding = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        waited.set_yields(true);
    };
    let (waited, ()) = tokio::join!(waiting, yielding);
    assert!(waited.is_some());
}
