//! A value that is made from files, and made again when they change.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{error, info};

use crate::files::Sources;
use crate::files::loader::{self, LoadThreads};
use crate::limits::{FIRST_LOAD_WITHIN, NEWS_WITHIN, WATCHED_FILES};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A load that failed is tried again so often though the files look the same: what was wrong may
/// not show in them, as a permission or a shortage of descriptors.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Makes a value, given the one in force. What it reads, it reads through the [`Sources`].
type Load<T> = dyn Fn(&mut Sources, Option<&T>) -> Result<T, String> + Send + Sync;

/// A value made from files. Clones share it.
///
/// Readers get the last good value. Whoever asks a second after the last look has the files
/// looked at again, on a thread that may hang: then readers go on with what they have. A load
/// that fails replaces nothing, is logged once, and is tried again.
pub struct Watched<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    /// For the log: what this is.
    name: &'static str,
    load: Box<Load<T>>,
    threads: LoadThreads,
    state: ArcSwap<State<T>>,
    /// The look under way, if there is one. Held to begin or end one only.
    look: Mutex<Option<Look>>,
}

/// What is known after a look.
struct State<T> {
    value: Option<Arc<T>>,
    /// What the value was made from.
    value_sources: Arc<Sources>,
    /// Why the last load failed, if it did.
    error: Option<Arc<str>>,
    /// What the last load has read, failed or not.
    sources: Arc<Sources>,
    /// When the files were last looked at, and loaded.
    looked: Option<Instant>,
    loaded: Option<Instant>,
}

/// A look that has not ended.
#[derive(Clone)]
struct Look {
    begun: Instant,
    /// Closed at its end.
    ended: watch::Receiver<()>,
}

/// Ends a look, also if its load panics.
struct EndLook<T> {
    inner: Arc<Inner<T>>,
    _ended: watch::Sender<()>,
    _permit: OwnedSemaphorePermit,
}

impl<T> Drop for EndLook<T> {
    fn drop(&mut self) {
        *self.inner.look() = None;
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> fmt::Debug for Watched<T> {
    /// Without the value, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// Watched values by what they are made for, such as the settings of a module. Reloads bring new
/// keys; beyond a number of them all values are made again.
#[derive(Debug)]
pub struct WatchedMap<K, T> {
    name: &'static str,
    threads: LoadThreads,
    /// Held to look up only.
    by_key: Mutex<HashMap<K, Watched<T>>>,
}

impl<K: Clone + Eq + Hash, T: Send + Sync + 'static> WatchedMap<K, T> {
    /// An empty one, whose values share their threads; the name is for the log.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, threads: LoadThreads::default(), by_key: Mutex::default() }
    }

    /// The value for a key, with a way to load it if it is new.
    pub fn get<L>(&self, key: &K, load: impl FnOnce(K) -> L) -> Watched<T>
    where
        L: Fn(&mut Sources) -> Result<T, String> + Send + Sync + 'static,
    {
        let mut known = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = known.get(key) {
            return watched.clone();
        }
        if known.len() >= WATCHED_FILES {
            known.clear();
        }
        let load = load(key.clone());
        let watched = Watched::new(self.name, &self.threads, move |sources, _| load(sources));
        known.insert(key.clone(), watched.clone());
        watched
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// A value that is loaded when it is first asked for.
    #[must_use]
    pub fn new(
        name: &'static str,
        threads: &LoadThreads,
        load: impl Fn(&mut Sources, Option<&T>) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            value: None,
            value_sources: Arc::default(),
            error: None,
            sources: Arc::default(),
            looked: None,
            loaded: None,
        };
        Self {
            inner: Arc::new(Inner {
                name,
                load: Box::new(load),
                threads: threads.clone(),
                state: ArcSwap::from_pointee(state),
                look: Mutex::default(),
            }),
        }
    }

    /// The value in force, after a look at the files if the last one is a second ago.
    ///
    /// Returns at once, or after half a second at most, when there is a value; the first one may
    /// take five seconds. Cancel safe: a look goes on without its caller.
    ///
    /// # Errors
    /// Why there is no value, in one line.
    pub async fn get(&self) -> Result<Arc<T>, Arc<str>> {
        let state = self.inner.state.load();
        if state.is_constant()
            || state.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL)
        {
            return state.answer();
        }
        let limit = if state.value.is_some() { NEWS_WITHIN } else { FIRST_LOAD_WITHIN };
        drop(state);
        match self.begin_look(limit).await {
            Ok(Look { begun, mut ended }) => {
                let left = limit.saturating_sub(begun.elapsed());
                // Nothing is ever sent: the end of the look closes the channel.
                let in_time = tokio::time::timeout(left, ended.changed()).await.is_ok();
                let state = self.inner.state.load();
                if in_time || state.value.is_some() {
                    return state.answer();
                }
                Err(loader::hangs(limit).into())
            }
            Err(err) => self.inner.state.load().value.clone().ok_or(err.into()),
        }
    }

    /// The value in force, without a look at the files.
    #[must_use]
    pub fn current(&self) -> Option<Arc<T>> {
        self.inner.state.load().value.clone()
    }

    /// Why the last load failed, if it did. There may be a value nevertheless.
    #[must_use]
    pub fn error(&self) -> Option<Arc<str>> {
        self.inner.state.load().error.clone()
    }

    /// The first value, for callers without a runtime.
    ///
    /// # Errors
    /// Why there is none, in one line.
    pub fn start(&self) -> Result<Arc<T>, Arc<str>> {
        let inner = Arc::clone(&self.inner);
        loader::within(FIRST_LOAD_WITHIN, move || {
            inner.look_at_files();
            inner.state.load().answer()
        })?
    }

    /// Has the files looked at every second, for ever, and tells why the last load failed, if it
    /// did.
    pub async fn watch(&self, mut tell: impl FnMut(Option<&str>)) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Why there is no value is in the log already.
            let _ = self.get().await;
            tell(self.inner.state.load().error.as_deref());
        }
    }

    /// Starts a look, or joins the one under way.
    async fn begin_look(&self, limit: Duration) -> Result<Look, String> {
        if let Some(look) = &*self.inner.look() {
            return Ok(look.clone());
        }
        let permit = match self.inner.threads.try_acquire() {
            Some(permit) => Some(permit),
            // Who has a value need not wait until others are done.
            None if self.current().is_some() => None,
            None => self.inner.threads.acquire(limit).await,
        };
        let permit = permit.ok_or("too many files are being read: a file system hangs")?;
        let mut current = self.inner.look();
        if let Some(look) = &*current {
            return Ok(look.clone());
        }
        let (sender, ended) = watch::channel(());
        let look = Look { begun: Instant::now(), ended };
        *current = Some(look.clone());
        drop(current);
        let inner = Arc::clone(&self.inner);
        let end = EndLook { inner: Arc::clone(&inner), _ended: sender, _permit: permit };
        loader::start(move || {
            let end = end;
            inner.look_at_files();
            drop(end);
        })?;
        Ok(look)
    }
}

impl<T> Inner<T> {
    fn look(&self) -> MutexGuard<'_, Option<Look>> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the value if the files changed, or if the last load failed a while ago.
    fn look_at_files(&self) {
        let old = self.state.load_full();
        let is_settled = match &old.error {
            None => true,
            Some(_) => old.loaded.is_some_and(|loaded| loaded.elapsed() < RETRY_INTERVAL),
        };
        if old.loaded.is_some() && is_settled && old.sources.are_current() {
            self.state.store(Arc::new(State { looked: Some(Instant::now()), ..old.copied() }));
            return;
        }
        let mut sources = Sources::default();
        let loaded = (self.load)(&mut sources, old.value.as_deref());
        let sources = Arc::new(sources);
        let is_first = old.value.is_none();
        let mut state = State { sources: Arc::clone(&sources), error: None, ..old.copied() };
        match loaded {
            // Only times changed: who compares by identity sees the same value.
            Ok(_) if !is_first && sources.are_same(&old.value_sources) => {}
            Ok(value) => {
                state.value = Some(Arc::new(value));
                state.value_sources = sources;
                if !is_first {
                    info!("{} reloaded", self.name);
                }
            }
            Err(err) => {
                if !is_first && old.error.as_deref() != Some(&*err) {
                    error!(error = err, "error reloading {}, the last good one stays", self.name);
                }
                state.error = Some(err.into());
            }
        }
        let now = Some(Instant::now());
        self.state.store(Arc::new(State { looked: now, loaded: now, ..state }));
    }
}

impl<T> State<T> {
    fn copied(&self) -> Self {
        Self {
            value: self.value.clone(),
            value_sources: Arc::clone(&self.value_sources),
            error: self.error.clone(),
            sources: Arc::clone(&self.sources),
            looked: self.looked,
            loaded: self.loaded,
        }
    }

    /// Whether no file can change the value.
    fn is_constant(&self) -> bool {
        self.value.is_some() && self.error.is_none() && self.sources.is_empty()
    }

    /// The value, or why there is none.
    fn answer(&self) -> Result<Arc<T>, Arc<str>> {
        match (&self.value, &self.error) {
            (Some(value), _) => Ok(Arc::clone(value)),
            (None, Some(err)) => Err(Arc::clone(err)),
            (None, None) => Err("the load did not come to an end".into()),
        }
    }
}
