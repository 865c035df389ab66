//! The thread on which the scheduler runs, fed with a plan for every configuration.
//!
//! A thread and a runtime of its own, so that requests never delay a scheduled probe.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::monitor::{Monitor, Shard};
use crate::scheduler::probing::Network;
use crate::scheduler::{self, Plan};
use crate::store::Store;
use crate::telemetry::Telemetry;

/// The running schedule. Dropping it stops it without waiting for the probes in flight.
#[derive(Debug)]
pub struct Schedule {
    thread: JoinHandle<()>,
    scheduled: watch::Receiver<bool>,
    _stop: oneshot::Sender<()>,
}

impl Schedule {
    /// Begins to watch the monitors of the configuration in force, and of all that follow.
    ///
    /// # Errors
    /// The system grants no thread or no event queue.
    pub fn start(
        store: Arc<Store>,
        telemetry: Arc<Telemetry>,
        network: Network,
        configs: watch::Receiver<Arc<Config>>,
        shard: Shard,
        limit: usize,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (tell, scheduled) = watch::channel(false);
        let (plans, planned) = mpsc::channel(1);
        let mut feed = Feed { shard, configs, plans, tell };
        // On the thread that read the configuration: the rows fill the memory that reading it
        // left behind.
        let first = plan(&feed.configs.borrow_and_update(), shard);
        let thread = thread::Builder::new().name("schedule".to_owned()).spawn(move || {
            let network = Arc::new(network);
            let beside = Arc::clone(&network);
            // Tasks, since the future that a runtime blocks on wakes itself through the kernel.
            runtime.spawn(async move { beside.run_beside().await });
            runtime.spawn(feed.run(first, stopped));
            let running = runtime.spawn(scheduler::run(store, telemetry, network, limit, planned));
            // It ends by itself, or by a panic that has been told.
            let _ = runtime.block_on(running);
        })?;
        Ok(Self { thread, scheduled, _stop: stop })
    }

    /// Becomes true once the first probe of every monitor is scheduled.
    #[must_use]
    pub fn scheduled(&self) -> watch::Receiver<bool> {
        self.scheduled.clone()
    }

    /// Starts no more probes and waits for those in flight, within the scheduler's bound.
    pub async fn stop(self) {
        let Self { thread, _stop: stop, .. } = self;
        drop(stop);
        // It ends by itself; a thread that died has said so on standard error.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// What a configuration wants watched.
fn plan(config: &Config, shard: Shard) -> Plan {
    let targets = config.monitors.iter().flat_map(Monitor::targets);
    Plan {
        rows: targets.filter(|it| shard.holds(it)).map(Store::row).collect(),
        options: config.options.clone(),
        scheduled: None,
    }
}

struct Feed {
    shard: Shard,
    configs: watch::Receiver<Arc<Config>>,
    plans: mpsc::Sender<Plan>,
    tell: watch::Sender<bool>,
}

impl Feed {
    /// Sends a plan for every configuration until told to stop.
    async fn run(mut self, first: Plan, mut stop: oneshot::Receiver<()>) {
        let mut next = first;
        loop {
            let (scheduled, done) = oneshot::channel();
            next.scheduled = Some(scheduled);
            if self.plans.send(next).await.is_err() {
                return;
            }
            if done.await.is_ok() {
                self.tell.send_replace(true);
            }
            tokio::select! {
                _ = &mut stop => return,
                changed = self.configs.changed() => if changed.is_err() { return },
            }
            let (config, shard) = (Arc::clone(&self.configs.borrow_and_update()), self.shard);
            // Not on this thread, whose probes must not wait for a large plan.
            match tokio::task::spawn_blocking(move || plan(&config, shard)).await {
                Ok(plan) => next = plan,
                Err(_) => return,
            }
        }
    }
}
