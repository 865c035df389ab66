//! A Prometheus exporter that watches TCP ports.
//!
//! # Map
//!
//! On schedule, one way: `config ─▶ monitor ─▶ scheduler ─▶ prober ─▶ store ─▶ exposition ─▶ http`.
//!
//! On scrape, no memory: `http ─▶ guard ─▶ prober ─▶ exposition ─▶ http`.
//!
//! # Invariants
//!
//! * `address`, `module`, `monitor`, `outcome` and `verdict` do no I/O and read no clock.
//! * Only `prober` opens outgoing connections; only `exposition` knows metric names; only `cli`
//!   and `main` know clap.
//! * Nothing is global but the log: what a task needs is handed to it.
//! * Every task has an owner that stops it. Dropping [`run`] stops them all.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::info;

use crate::config::Config;
use crate::http::App;
use crate::http::address::{ExternalUrl, RoutePrefix};
use crate::http::history::History;
use crate::live::Live;
use crate::prober::Prober;
use crate::settings::Settings;

pub mod address;
pub mod cli;
pub mod config;
pub mod exposition;
pub mod guard;
pub mod http;
pub mod live;
pub mod log;
pub mod module;
pub mod monitor;
pub mod outcome;
pub mod prober;
pub mod scheduler;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod verdict;

/// Serves until `shutdown` is over and the running requests are finished.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(
    settings: Settings,
    config: Config,
    listeners: Vec<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let live = Arc::new(Live::new(settings.config_file.clone(), config));
    let first = listeners.first().map(TcpListener::local_addr).transpose()?;
    let external_url = settings
        .external_url
        .unwrap_or_else(|| ExternalUrl::of_this_machine(first.map_or(0, |it| it.port())));
    let prefix = settings.route_prefix.as_deref().unwrap_or_else(|| external_url.path());
    let app = Arc::new(App {
        live: Arc::clone(&live),
        prober: Arc::new(Prober::default()),
        history: History::new(settings.history_limit),
        places: Semaphore::new(1000),
        timeout_offset_seconds: settings.timeout_offset_seconds,
        route_prefix: RoutePrefix::new(prefix),
        external_url,
    });

    let (stop, stopped) = watch::channel(false);
    let mut background = JoinSet::new();
    background.spawn(reload_on_hangup(Arc::clone(&live))?);
    if let Some(interval) = settings.auto_reload {
        background.spawn(reload_on_change(live, interval));
    }
    let mut accepting = Vec::new();
    for listener in listeners {
        info!(address = %listener.local_addr()?, "listening");
        accepting.push(tokio::net::TcpListener::from_std(listener)?);
    }
    let serve = http::connection::serve(accepting, 4096, stopped, move |request, _peer| {
        http::answer(Arc::clone(&app), request)
    });
    let signal = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(serve, signal);
    Ok(())
}

/// SIGHUP reloads the configuration.
fn reload_on_hangup(live: Arc<Live>) -> io::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            // The reason of a failure is in the log already.
            let _ = live.reload().await;
        }
    })
}

/// Looks at the files again and again.
async fn reload_on_change(live: Arc<Live>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let _ = live.reload().await;
    }
}
