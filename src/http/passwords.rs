//! Checks passwords, which is costly on purpose, so that guessing holds up nobody who is known.
//!
//! One check at a time. Whoever got in once need not be checked again. The others take turns by
//! client, not by arrival, and all who gave a wrong password lately share one turn. So a client
//! with its first password waits for at most one check of each other client that is no suspect,
//! and for one of all suspects.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ring::digest::{Context, SHA256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::http::shares::{Client, Shares};
use crate::limits::{KNOWN_PASSWORDS, MAX_PASSWORDS, MAX_SUSPECTS, SUSPECT_FOR, WRONG_PASSWORDS};
use crate::secret::Secret;

/// Salt and digest that no password is known for, to check those of unknown users against.
const NOBODY: &str = "7uWKpNiv1HR5GSYbXJ4YpuNvC1ZfRYRfHRcT9oHP3ikpqPX5cHVdK";

/// Checks passwords.
pub struct Passwords {
    /// Places for those who wait.
    waiting: Arc<Shares>,
    /// The turn of everybody.
    turn: Arc<Semaphore>,
    /// The turn of all suspects among themselves.
    suspects_turn: Arc<Semaphore>,
    /// Guards what is remembered; held for look-ups only.
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    good: VecDeque<[u8; 32]>,
    bad: VecDeque<[u8; 32]>,
    /// Who gave a wrong password, and when; the latest last.
    suspects: VecDeque<(Client, Instant)>,
    /// The turn of each client among its own requests, while some wait.
    turns: HashMap<Client, Weak<Semaphore>>,
}

/// The turns that a check holds.
type Turns = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Default for Passwords {
    fn default() -> Self {
        Self {
            waiting: Shares::new(MAX_PASSWORDS),
            turn: Arc::new(Semaphore::new(1)),
            suspects_turn: Arc::new(Semaphore::new(1)),
            memory: Mutex::default(),
        }
    }
}

impl Passwords {
    /// Whether a password is the user's; `None` if too many others wait for the same answer.
    ///
    /// An unknown user's password is checked too, so that the time tells nothing.
    pub async fn check(
        &self,
        users: &[(String, Secret<String>)],
        user: &str,
        password: &Secret<String>,
        client: Client,
    ) -> Option<bool> {
        let known = users.iter().find(|(name, _)| name == user);
        let hash = match (known, users.first()) {
            (Some((_, hash)), _) => hash.expose().clone(),
            // As costly as those of the others.
            (None, Some((_, hash))) => {
                format!("{}{NOBODY}", hash.expose().get(..7).unwrap_or("$2b$10$"))
            }
            (None, None) => return Some(false),
        };
        let key = digest(&[user, &hash, password.expose()]);
        if let Some(verdict) = self.memory().verdict(&key) {
            return Some(verdict);
        }
        let lost = Arc::new(Notify::new());
        let waiting = self.waiting.take(client, &lost)?;
        let suspect = self.memory().is_suspect(client);
        waiting.set_yields(suspect);
        let turns = tokio::select! {
            biased;
            () = lost.notified() => return None,
            turns = self.turns(client, suspect) => turns?,
        };
        if let Some(verdict) = self.memory().verdict(&key) {
            return Some(verdict);
        }
        let (is_known, password) = (known.is_some(), password.clone());
        let verified = tokio::task::spawn_blocking(move || {
            // Held until the end even if the client leaves.
            let _turns = turns;
            bcrypt::verify(password.expose(), &hash).unwrap_or(false)
        });
        let verdict = verified.await.unwrap_or(false) && is_known;
        self.memory().remember(key, verdict, client);
        Some(verdict)
    }

    /// Waits for the turn of a client, from the narrowest to that of everybody.
    async fn turns(&self, client: Client, suspect: bool) -> Option<Turns> {
        let own = self.memory().turn(client);
        let own = own.acquire_owned().await.ok()?;
        let suspects = if suspect {
            Some(Arc::clone(&self.suspects_turn).acquire_owned().await.ok()?)
        } else {
            None
        };
        let all = Arc::clone(&self.turn).acquire_owned().await.ok()?;
        Some((all, suspects, own))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn verdict(&self, key: &[u8; 32]) -> Option<bool> {
        if self.good.contains(key) {
            Some(true)
        } else if self.bad.contains(key) {
            Some(false)
        } else {
            None
        }
    }

    /// Wrong passwords never make a good one forgotten.
    fn remember(&mut self, key: [u8; 32], verdict: bool, client: Client) {
        let (list, most) = if verdict {
            (&mut self.good, KNOWN_PASSWORDS)
        } else {
            (&mut self.bad, WRONG_PASSWORDS)
        };
        if list.len() >= most {
            list.pop_front();
        }
        list.push_back(key);
        if !verdict {
            self.suspects.retain(|(suspect, _)| *suspect != client);
            if self.suspects.len() >= MAX_SUSPECTS {
                self.suspects.pop_front();
            }
            self.suspects.push_back((client, Instant::now()));
        }
    }

    fn is_suspect(&self, client: Client) -> bool {
        let mut suspects = self.suspects.iter();
        suspects.any(|(suspect, since)| *suspect == client && since.elapsed() < SUSPECT_FOR)
    }

    fn turn(&mut self, client: Client) -> Arc<Semaphore> {
        self.turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = self.turns.get(&client).and_then(Weak::upgrade);
        turn.unwrap_or_else(|| {
            let turn = Arc::new(Semaphore::new(1));
            self.turns.insert(client, Arc::downgrade(&turn));
            turn
        })
    }
}

/// SHA-256 over parts that cannot run into each other.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(number: u8) -> Client {
        Client::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, number)))
    }

    fn users() -> [(String, Secret<String>); 1] {
        [("user".to_owned(), bcrypt::hash("secret", 4).unwrap().into())]
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused_after_the_same_work() {
        let (users, passwords) = (users(), Passwords::default());
        let check = async |user: &str, password: &str| {
            let password = password.to_owned().into();
            passwords.check(&users, user, &password, client(1)).await
        };
        for _ in 0..2 {
            assert_eq!(check("user", "secret").await, Some(true));
            assert_eq!(check("user", "wrong").await, Some(false));
            assert_eq!(check("nobody", "secret").await, Some(false));
        }
        {
            let memory = passwords.memory();
            assert_eq!((memory.good.len(), memory.bad.len(), memory.suspects.len()), (1, 2, 1));
        }
        // The stand-in is a hash that can be worked on, or the time would tell.
        assert!(format!("$2b$04${NOBODY}").parse::<bcrypt::HashParts>().is_ok());
        assert!(bcrypt::verify("x", &format!("$2b$04${NOBODY}")).is_ok());
    }

    /// The order in which the turn goes round: by client, suspects last and together.
    #[tokio::test(flavor = "current_thread")]
    async fn the_turn_goes_round_by_client_and_suspects_share_one() {
        let passwords = Passwords::default();
        let order = Mutex::new(Vec::new());
        let held = passwords.turns(client(9), false).await.expect("the turn");
        let wait = async |name: &'static str, number: u8, suspect: bool| {
            let turns = passwords.turns(client(number), suspect).await;
            order.lock().unwrap().push(name);
            drop(turns);
        };
        tokio::join!(
            biased;
            wait("a1", 1, false),
            wait("a2", 1, false),
            wait("a3", 1, false),
            wait("x1", 3, true),
            wait("y1", 4, true),
            wait("b1", 2, false),
            async { drop(held) },
        );
        let order = order.into_inner().unwrap();
        assert_eq!(order[..3], ["a1", "x1", "b1"], "{order:?}");
        assert_eq!(order.len(), 6);
    }

    #[tokio::test]
    async fn suspects_make_room_for_others_and_are_forgiven() {
        let passwords = Passwords::default();
        for number in 1..=200 {
            passwords.memory().remember([number; 32], false, client(number));
        }
        let memory = passwords.memory();
        assert!(memory.is_suspect(client(1)) && !memory.is_suspect(client(201)));
        assert!(memory.bad.len() <= WRONG_PASSWORDS && memory.suspects.len() <= MAX_SUSPECTS);
    }
}
