//! A Prometheus exporter that watches TCP ports.
//!
//! # Map
//!
//! Knowledge flows one way. On schedule, on a thread of its own:
//!
//! ```text
//! config ─▶ monitor ─▶ scheduler ─▶ prober ─▶ store ─▶ exposition ─▶ http
//!                                     │         │
//!            evidence, machine ─▶ diagnosis   verdict
//! ```
//!
//! On scrape, without memory:
//!
//! ```text
//! http ─▶ request ─▶ observer (access, canaries) ─▶ exposition ─▶ http
//! ```
//!
//! Reading order: the vocabulary (`secret`, `address`, `module`, `monitor`, `outcome`, `path`,
//! `explanation`, `evidence`, `circumstances`, `verdict`, `access`, `maintenance`) and the judgement
//! (`diagnosis`); the edges (`files`, `config`, `config_handle`, `machine`, `prober`, `canaries`,
//! `observer`); memory and motion (`store`, `scheduler`, `explainer`, `telemetry`); the surface
//! (`exposition`, `http`); the process (`cli`, `settings`, `limits`, `log`).
//!
//! # Invariants
//!
//! * The vocabulary does no I/O and reads no clock.
//! * Only `diagnosis` names a reason; only `prober` opens outgoing connections; only `files` opens
//!   files; only `exposition` knows metric names; only `cli` and `main` know clap; only `config`
//!   and the web configuration derive `Deserialize`.
//! * Nothing is global but the log: what a task needs is handed to it.
//! * Every task has an owner that stops it. Dropping [`run`] stops them all.
//!
//! # Glossary
//!
//! * **module**: how to probe; **monitor**: a configured entry; **target**: one of its `host:port`.
//! * **probe**: one attempt; **evidence**: what it saw; **circumstances**: what was wrong here.
//! * **diagnosis**: the judgement of both; **outcome**: success, failure or inconclusive.
//! * **reason**: why, from a closed set; **phase**: in which part; **place**: where on the way.
//! * **verdict**: up, down or unknown after confirmation; **health state**: it and its streaks.
//! * **re-check**: a probe before the next regular one, while a change is unconfirmed.
//! * **canary**: a target that is always up from here; **observer**: who asks it before blaming.
//! * **path**, **hop**: the routers on the way to a target; **counter-check**: the same probe with
//!   one thing changed; **hint**: what that points at; **explanation**: all three of a failure.
//! * **maintenance**: a window in which monitors are probed and nobody is alerted.
//! * **policy**: interval, timeout, confirmation and objective of a monitor.
//! * **region**: where an exporter runs; known to Prometheus, never to the exporter.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::Config;
use crate::config_handle::ConfigHandle;
use crate::explainer::Explainer;
use crate::exposition::exporter::ExporterMetrics;
use crate::http::connection::Server;
use crate::http::history::History;
use crate::http::url::{ExternalUrl, RoutePrefix};
use crate::http::web::Web;
use crate::http::{App, Setup, Shared};
use crate::limits::Limits;
use crate::observer::Observer;
use crate::prober::Prober;
use crate::prober::accepted::Accepted;
use crate::schedule::Schedule;
use crate::scheduler::probing::Network;
use crate::settings::Settings;
use crate::store::Store;
use crate::telemetry::Telemetry;

pub mod access;
pub mod address;
pub mod canaries;
pub mod circumstances;
pub mod cli;
pub mod config;
pub mod config_handle;
pub mod diagnosis;
pub mod evidence;
pub mod explainer;
pub mod explanation;
pub mod exposition;
pub mod files;
pub mod http;
pub mod limits;
pub mod log;
pub mod machine;
pub mod maintenance;
pub mod module;
pub mod monitor;
pub mod observer;
pub mod outcome;
pub mod path;
pub mod prober;
pub mod schedule;
pub mod scheduler;
pub mod secret;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod verdict;

/// Serves until `shutdown` is over and the running requests and probes are finished.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(
    settings: Settings,
    config: Config,
    web: Web,
    listeners: Vec<std::net::TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let limits = Limits::raise();
    let telemetry = Arc::new(Telemetry::default());
    let places = limits.on_demand + limits.scheduled;
    telemetry.in_flight_limit.set(i64::try_from(places).unwrap_or(i64::MAX));
    let config_handle =
        Arc::new(ConfigHandle::new(settings.config_file.clone(), config, Arc::clone(&telemetry)));
    let exposed = listeners.iter().any(is_exposed);
    let listeners: io::Result<Vec<_>> =
        listeners.into_iter().map(|own| TcpListener::from_std(own).map(Arc::new)).collect();
    let listeners = listeners?;
    let accepted = Arc::new(Accepted::new(&listeners)?);
    let prober = Arc::new(Prober::new(Arc::clone(&accepted), limits.lingering));
    let observer = Arc::new(Observer::new(
        Arc::clone(&prober),
        Arc::clone(&config_handle),
        Arc::clone(&telemetry),
    ));
    let store = Arc::new(Store::default());
    let explainer = Arc::new(Explainer::new(
        Arc::clone(&prober),
        Arc::clone(&store),
        Arc::clone(&telemetry),
        limits.explanations,
    ));
    let schedule = Schedule::start(
        Arc::clone(&store),
        Arc::clone(&telemetry),
        Network::new(Arc::clone(&prober), Arc::clone(&observer), Arc::clone(&explainer)),
        config_handle.subscribe(),
        settings.shard,
        limits.scheduled,
    )?;

    let url = settings.external_url.as_ref();
    let prefix = settings.route_prefix.as_deref().or_else(|| url.map(ExternalUrl::path));
    let route_prefix = RoutePrefix::new(prefix.unwrap_or_default());
    // Without a URL, `/` leads to where the routes are.
    let home = url.map_or_else(|| route_prefix.as_str().to_owned(), ToString::to_string);
    let web = Arc::new(web);
    let app = Arc::new(App {
        web: Arc::clone(&web),
        config_handle: Arc::clone(&config_handle),
        observer: Arc::clone(&observer),
        explainer: Arc::clone(&explainer),
        store,
        exporter: ExporterMetrics::new(&telemetry),
        telemetry: Arc::clone(&telemetry),
        history: History::new(settings.history_limit),
        shared: Shared::new(&limits),
        setup: Setup {
            shard: settings.shard,
            timeout_offset_seconds: settings.timeout_offset_seconds,
            least: http::logs::least(settings.log.probe),
            route_prefix,
            home,
            host: url.and_then(ExternalUrl::host).map(str::to_owned),
        },
        scheduled: schedule.scheduled(),
    });

    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&web).watch(Arc::clone(&telemetry)));
    background.spawn(observer.watch());
    background.spawn(explainer.run());
    background.spawn(reload_on_hangup(Arc::clone(&config_handle))?);
    if let Some(interval) = settings.auto_reload {
        background.spawn(reload_on_change(Arc::clone(&config_handle), interval));
    }
    if config_handle.config().access.is_open() && !web.asks_who() && exposed {
        warn!(
            "/probe is open to everybody who reaches this port, and reaches any address: set \
             access rules in the configuration, a password in --web.config.file, or listen on a \
             private address"
        );
    }
    for listener in &listeners {
        let address = listener.local_addr()?;
        info!(%address, tls = web.tls().is_some(), "listening");
    }
    let (stop, stopped) = watch::channel(false);
    let server = Server { app, accepted, limit: limits.connections, stop: stopped };
    let stopping = async {
        shutdown.await;
        stop.send_replace(true);
        schedule.stop().await;
    };
    tokio::join!(server.serve(listeners), stopping);
    prober.drain().await;
    Ok(())
}

/// Whether others than this machine may reach a listener.
fn is_exposed(listener: &std::net::TcpListener) -> bool {
    listener.local_addr().is_ok_and(|it| match it.ip() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    })
}

/// SIGHUP reloads the configuration.
fn reload_on_hangup(config_handle: Arc<ConfigHandle>) -> io::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            // Why it failed is in the log already.
            let _ = config_handle.reload().await;
        }
    })
}

/// Looks at the files again and again.
async fn reload_on_change(config_handle: Arc<ConfigHandle>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        // Why it failed is in the log already.
        let _ = config_handle.reload_if_changed().await;
    }
}
