//! Threads for work that a file system may hold up for ever.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::LOAD_THREADS;

/// Bounds the threads that loads may occupy together. Clones share the bound.
#[derive(Clone, Debug)]
pub struct LoadThreads(Arc<Semaphore>);

impl Default for LoadThreads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOAD_THREADS)))
    }
}

impl LoadThreads {
    /// A thread, if there is one at once.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// A thread, after at most so long.
    pub(super) async fn acquire(&self, limit: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(limit, Arc::clone(&self.0).acquire_owned()).await.ok()?.ok()
    }
}

/// Runs jobs one at a time, each on a thread of its own. A job that hangs is left behind; until
/// it ends, there is no other.
#[derive(Debug, Default)]
pub struct Loader {
    is_busy: Arc<AtomicBool>,
}

/// Says that the job is over, however it ended.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Loader {
    /// The result of a job.
    ///
    /// # Errors
    /// One line: the job takes longer than `limit`, or an earlier one still hangs.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if self.is_busy.swap(true, Ordering::Acquire) {
            return Err("an earlier read has not come back: the file system hangs".to_owned());
        }
        let busy = Busy(Arc::clone(&self.is_busy));
        let (answer, answered) = oneshot::channel();
        start(move || {
            let result = job();
            drop(busy);
            let _ = answer.send(result);
        })?;
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer.map_err(|_| DIED.to_owned()),
            Err(_) => Err(hangs(limit)),
        }
    }
}

/// The result of a job on a thread of its own, for callers without a runtime.
///
/// # Errors
/// One line: the job takes longer than `limit`.
pub fn within<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (answer, answered) = mpsc::sync_channel(1);
    start(move || {
        let _ = answer.send(job());
    })?;
    answered.recv_timeout(limit).map_err(|err| match err {
        mpsc::RecvTimeoutError::Timeout => hangs(limit),
        mpsc::RecvTimeoutError::Disconnected => DIED.to_owned(),
    })
}

const DIED: &str = "the thread that reads died";

/// Starts a thread that nobody waits for.
pub(super) fn start(job: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = thread::Builder::new().name("files".to_owned()).spawn(job);
    started.map(drop).map_err(|err: io::Error| format!("no thread to read on: {err}"))
}

pub(super) fn hangs(limit: Duration) -> String {
    format!("no answer within {limit:?}: the file system hangs")
}
