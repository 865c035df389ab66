//! The surface: endpoints over HTTP. Translates requests, decides nothing about targets.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::access::Access;
use crate::config::ModuleEntry;
use crate::config_handle::ConfigHandle;
use crate::explainer::Explainer;
use crate::exposition::exporter::ExporterMetrics;
use crate::exposition::{self, Format};
use crate::http::answer::{Body, pieces, redirect, scrape, text};
use crate::http::connection::Peer;
use crate::http::history::{Entry, History};
use crate::http::on_demand::OnDemand;
use crate::http::pages::Index;
use crate::http::pages::listing::ListingQuery;
use crate::http::request::{ProbeRequest, Query, invalid_target};
use crate::http::shares::{Place, Shares};
use crate::http::url::RoutePrefix;
use crate::http::web::Web;
use crate::limits::{ANSWER_PLACE_WITHIN, JOURNAL_BYTES, Limits, MAX_ANSWERS};
use crate::monitor::Shard;
use crate::observer::Observer;
use crate::outcome::{Outcome, Phase, ProbeResult, Reason};
use crate::path::Router;
use crate::prober::Probe;
use crate::prober::journal::{Journal, Level};
use crate::store::{Moment, Store};
use crate::telemetry::Telemetry;

pub mod answer;
pub mod api;
pub mod connection;
pub mod history;
pub mod logs;
mod on_demand;
pub mod origin;
pub mod pages;
pub mod passwords;
pub mod request;
pub mod shares;
pub mod socket;
pub mod tls;
pub mod url;
pub mod web;

const JSON: &str = "application/json; charset=utf-8";
/// What must be escaped in the path of a redirect.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'\\');

/// What the endpoints need.
#[derive(Debug)]
pub struct App {
    /// The configuration in force.
    pub config_handle: Arc<ConfigHandle>,
    /// Carry out probes on demand, and say whether this region is cut off.
    pub observer: Arc<Observer>,
    /// Follows paths on demand, within its budget.
    pub explainer: Arc<Explainer>,
    /// What is known of every monitor.
    pub store: Arc<Store>,
    /// What the exporter counts about itself.
    pub telemetry: Arc<Telemetry>,
    /// Who may ask, and what is added to every answer.
    pub web: Arc<Web>,
    /// What the exporter exposes about itself.
    pub exporter: ExporterMetrics,
    /// Recent results of `/probe`.
    pub history: History,
    /// What clients share.
    pub shared: Shared,
    /// What was set at the start.
    pub setup: Setup,
    /// Whether the first probe of every monitor is scheduled.
    pub scheduled: watch::Receiver<bool>,
}

/// What clients share, besides connections.
#[derive(Debug)]
pub struct Shared {
    /// Places for probes on demand.
    pub probes: OnDemand,
    /// Places for long answers.
    pub answers: Arc<Shares>,
}

impl Shared {
    /// As much as the limits allow.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { probes: OnDemand::new(limits.on_demand), answers: Shares::new(MAX_ANSWERS) }
    }
}

/// What was set at the start and stays.
#[derive(Debug)]
pub struct Setup {
    /// Which monitors are ours.
    pub shard: Shard,
    /// Subtracted from the scrape timeout.
    pub timeout_offset_seconds: f64,
    /// How much a probe's own note must matter to be shown and logged.
    pub least: Level,
    /// Where `/` leads if the routes are elsewhere.
    pub home: String,
    /// Prefix of all routes.
    pub route_prefix: RoutePrefix,
    /// The host of `--web.external-url`, where one is given.
    pub host: Option<String>,
}

/// Answers one request.
pub async fn answer(app: Arc<App>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let mut response = match origin::judge(method, uri, headers, app.setup.host.as_deref()) {
        Err(foreign) => text(foreign.status(), foreign.message()),
        Ok(()) => match app.web.admit(headers, peer.client).await {
            Ok(()) => route(&app, &request, &peer).await,
            Err(refusal) => *refusal,
        },
    };
    app.web.decorate(&mut response);
    response
}

async fn route(app: &Arc<App>, request: &Request<Incoming>, peer: &Peer) -> Response<Body> {
    if let Some(fault) = fault(request) {
        let mut response = text(StatusCode::BAD_REQUEST, format!("{fault}\n"));
        // Whatever follows on this connection cannot be trusted to be a request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let Some(path) = decoded(request.uri().path()) else {
        return text(StatusCode::BAD_REQUEST, "the path has a malformed percent escape\n");
    };
    let clean = cleaned(&path);
    if clean != path {
        let mut location = utf8_percent_encode(&clean, PATH).to_string();
        if let Some(query) = request.uri().query() {
            location.push('?');
            location.push_str(query);
        }
        return redirect(StatusCode::MOVED_PERMANENTLY, &location);
    }
    let Some(route) = path.strip_prefix(app.setup.route_prefix.as_str()) else {
        return outside(app, &path);
    };
    let (query, headers) =
        (Query::parse(request.uri().query().unwrap_or_default()), request.headers());
    match route {
        "probe" => probe(app, &query, headers, peer).await,
        "metrics" => metrics(app, headers, peer).await,
        "config" => {
            let config = app.config_handle.config();
            // Writing that of a large fleet takes longer than a probe may wait for its turn.
            let write = move |out: &mut dyn io::Write| out.write_all(config.text().as_bytes());
            streamed(app, headers, peer, answer::TEXT, write).await
        }
        "logs" => logs::answer(app, &query),
        "api/v1/targets" => {
            let (rows, wanted) = (app.store.snapshot(), api::TargetFilter::parse(&query));
            let config = app.config_handle.config();
            let write = move |out: &mut dyn io::Write| {
                api::targets(&rows, &wanted, &config.maintenance.at(Timestamp::now()), out)
            };
            streamed(app, headers, peer, JSON, write).await
        }
        "target" => match place(app, peer).await {
            Some(place) => target(app, &query, place),
            None => too_many_answers(),
        },
        "sd" => {
            let (config, shard) = (app.config_handle.config(), app.setup.shard);
            let write = move |out: &mut dyn io::Write| api::service_discovery(&config, shard, out);
            streamed(app, headers, peer, JSON, write).await
        }
        "-/healthy" => text(StatusCode::OK, "Healthy\n"),
        "-/ready" => ready(app),
        "-/reload" => reload(app, request.method()).await,
        route if route.starts_with("debug/") => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        _ => match place(app, peer).await {
            Some(place) => index(app, &query, place),
            None => too_many_answers(),
        },
    }
}

/// What makes a request ambiguous to those between the client and us, if anything does. Of two
/// lengths hyper takes the chunks and ends the connection (RFC 9112, section 6.3).
fn fault(request: &Request<Incoming>) -> Option<&'static str> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some("the request needs one Host header");
    }
    None
}

/// The path without percent escapes; `None` if one is malformed.
fn decoded(path: &str) -> Option<Cow<'_, str>> {
    if path.contains('%') {
        // A plus sign is a plus sign in a path.
        request::unescape(&path.replace('+', "%2B")).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(path))
    }
}

/// The path without empty and dot segments, as Go's `path.Clean` has it, final slash kept.
fn cleaned(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => (),
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{slash}", segments.join("/"))
}

/// A path that does not begin with the route prefix.
fn outside(app: &App, path: &str) -> Response<Body> {
    let prefix = app.setup.route_prefix.as_str();
    match path {
        "/" => redirect(StatusCode::FOUND, &app.setup.home),
        _ if prefix.strip_suffix('/') == Some(path) => {
            redirect(StatusCode::MOVED_PERMANENTLY, &utf8_percent_encode(prefix, PATH).to_string())
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn probe(app: &App, query: &Query, headers: &HeaderMap, peer: &Peer) -> Response<Body> {
    let config = app.config_handle.config();
    let scrape_timeout = headers
        .get("x-prometheus-scrape-timeout-seconds")
        .map(|it| String::from_utf8_lossy(it.as_bytes()));
    let offset = app.setup.timeout_offset_seconds;
    let request = match ProbeRequest::parse(query, scrape_timeout.as_deref(), offset, &config) {
        Ok(request) => request,
        Err(rejection) => {
            app.telemetry.modules_unknown.inc_by(rejection.unknown_modules());
            return text(rejection.status(), format!("{rejection}\n"));
        }
    };
    let lost = Arc::new(Notify::new());
    let places = &app.shared.probes;
    let Some(_granted) = places.take(peer.client, &request.target, &lost) else {
        return shed(app, "too many probes at once");
    };

    // They exist at zero while the probe runs.
    let counters = app.telemetry.module(&request.module.name);
    let running = app.telemetry.start();
    let mut journal = Journal::bounded(app.setup.least, JOURNAL_BYTES);
    let result = tokio::select! {
        result = carry_out(app, &config.access, &request, &mut journal) => result,
        () = lost.notified() => return shed(app, "another client needed the place of this probe"),
    };
    if request.trace {
        trace(app, &config.access, &request, &result, &mut journal).await;
    }
    drop(running);
    counters.count(result.outcome);
    places.learn(&request.target, &result);

    if let Outcome::Inconclusive(Reason::LocalDenied, _) = result.outcome {
        return denied(app, &result);
    }
    let entry = Entry {
        id: 0,
        at: Timestamp::now(),
        module: Arc::clone(&request.module),
        hostname: request.hostname,
        target: request.target,
        result,
        lines: journal.into_lines(),
    };
    logs::write(&entry);
    let answer = if request.debug {
        text(StatusCode::OK, logs::debug_output(&entry))
    } else {
        finding_answer(&entry.result, headers)
    };
    app.history.add(entry);
    answer
}

/// The probe itself, whatever its target is.
async fn carry_out(
    app: &App,
    access: &Access,
    request: &ProbeRequest,
    journal: &mut Journal,
) -> ProbeResult {
    match &request.address {
        Ok(address) => {
            let probe = Probe {
                address,
                module: &request.module,
                hostname: request.hostname.as_deref(),
                timeout: request.timeout,
                access,
            };
            app.observer.probe(probe, journal).await
        }
        Err(error) => invalid_target(error, request.timeout, journal),
    }
}

/// Follows the path to where a probe went, within the probe's own timeout and the budget of all
/// explanations, and writes it down for the reader of its log.
async fn trace(
    app: &App,
    access: &Access,
    request: &ProbeRequest,
    result: &ProbeResult,
    journal: &mut Journal,
) {
    let (Ok(address), Some(peer), None) = (&request.address, result.peer, &result.denied_by) else {
        return;
    };
    let (module, hostname) = (&request.module, request.hostname.as_deref());
    let probe = Probe { address, module, hostname, timeout: request.timeout, access };
    let Some(_place) = app.explainer.place(peer) else {
        let note = "the path is not followed: the budget of explanations is used up";
        return journal.note(Level::Warn, || note.to_owned());
    };
    match timeout(request.timeout, app.explainer.trace(peer, &probe)).await {
        Ok(Ok(path)) => {
            for (hop, router) in (1..).zip(&path.hops) {
                journal.note(Level::Info, || match router {
                    Some(Router { address, round_trip }) => {
                        format!("hop {hop}: {address} after {round_trip:?}")
                    }
                    None => format!("hop {hop}: does not answer"),
                });
            }
            journal.note(Level::Info, || format!("the path {path}"));
        }
        Ok(Err(why)) => journal.note(Level::Warn, || format!("the path is not followed: {why}")),
        Err(_) => journal.note(Level::Warn, || {
            format!("the path was not at its end after {:?}", request.timeout)
        }),
    }
}

/// A probe for which there is no place.
fn shed(app: &App, why: &str) -> Response<Body> {
    app.telemetry.probes_shed.inc();
    inconclusive(Reason::LocalResources, Phase::Connect, why)
}

fn finding_answer(result: &ProbeResult, headers: &HeaderMap) -> Response<Body> {
    match result.outcome {
        Outcome::Inconclusive(reason, phase) => {
            inconclusive(reason, phase, result.detail.as_deref().unwrap_or_default())
        }
        Outcome::Success | Outcome::Failure(..) => {
            let format = format(headers);
            scrape(format.content_type(), exposition::probe(result, format), headers)
        }
    }
}

/// The same words for every target: a client learns nothing about what it may not probe.
fn denied(app: &App, result: &ProbeResult) -> Response<Body> {
    if let Some(rule) = &result.denied_by {
        app.telemetry.refused(rule);
    }
    text(StatusCode::FORBIDDEN, "the access rules of this exporter do not allow this target\n")
}

fn inconclusive(reason: Reason, phase: Phase, detail: &str) -> Response<Body> {
    let body = format!("inconclusive: {reason} ({phase}): {detail}\n");
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

/// The format that the client wants.
fn format(headers: &HeaderMap) -> Format {
    Format::negotiate(headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default())
}

async fn metrics(app: &Arc<App>, headers: &HeaderMap, peer: &Peer) -> Response<Body> {
    let format = format(headers);
    app.exporter.describe(&app.config_handle.config().fingerprint, app.store.snapshot().len());
    let this = Arc::clone(app);
    streamed(app, headers, peer, format.content_type(), move |out| {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Moment::since_epoch(elapsed);
        let config = this.config_handle.config();
        let windows = config.maintenance.at(Timestamp::now());
        exposition::metrics(&this.store, &this.exporter, &windows, now, format, out)
    })
    .await
}

/// Piece by piece from a thread of its own: what is said of a large fleet never is in memory as a
/// whole, and writing it holds up nobody.
async fn streamed(
    app: &App,
    headers: &HeaderMap,
    peer: &Peer,
    content_type: &'static str,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
) -> Response<Body> {
    match place(app, peer).await {
        Some(place) => pieces(place, content_type, headers, write),
        None => too_many_answers(),
    }
}

/// A place for a long answer. Where another client needs it, the connection ends.
async fn place(app: &App, peer: &Peer) -> Option<Place> {
    app.shared.answers.take_within(peer.client, &peer.displaced, ANSWER_PLACE_WITHIN).await
}

fn too_many_answers() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "too many answers at once\n")
}

fn ready(app: &App) -> Response<Body> {
    if *app.scheduled.borrow() {
        text(StatusCode::OK, "Ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "Not ready: monitors are still being scheduled\n")
    }
}

/// The page for people, at every path that is nothing else.
fn index(app: &App, query: &Query, place: Place) -> Response<Body> {
    let config = app.config_handle.config();
    let modules = config.modules.iter().filter(|(_, it)| matches!(it, ModuleEntry::Tcp(_)));
    let modules: Vec<&str> = modules.map(|(name, _)| &**name).collect();
    let now = Timestamp::now();
    answer::page(
        pages::index(&Index {
            rows: &app.store.snapshot(),
            recent: &app.history.entries(),
            modules: &modules,
            wanted: ListingQuery::parse(query),
            isolated: app.observer.all_fail(),
            maintenance: config.maintenance.at(now),
            now,
        }),
        &pages::policy(),
        place,
    )
}

/// The page of one target.
fn target(app: &App, query: &Query, place: Place) -> Response<Body> {
    let rows = app.store.snapshot();
    match rows.iter().find(|row| pages::target::is_wanted(row, query)) {
        Some(row) => {
            answer::page(pages::target::page(row, Timestamp::now()), &pages::policy(), place)
        }
        None => text(StatusCode::NOT_FOUND, "no such target: give monitor and target as listed\n"),
    }
}

/// Pages of other sites have been turned away before.
async fn reload(app: &App, method: &Method) -> Response<Body> {
    if method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "This endpoint requires a POST request.\n");
    }
    match app.config_handle.reload().await {
        Ok(()) => text(StatusCode::OK, ""),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b", "/a/b"),
            ("/a/", "/a/"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("//example.com/", "/example.com/"),
        ] {
            assert_eq!(cleaned(path), expected, "{path}");
        }
    }

    #[test]
    fn paths_are_decoded() {
        assert_eq!(decoded("/%70robe+").as_deref(), Some("/probe+"));
        assert_eq!(decoded("/%zz"), None);
        assert_eq!(decoded("/%7"), None);
    }
}
