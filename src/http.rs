//! The surface: endpoints over HTTP. Translates requests, decides nothing about targets.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::config::ModuleEntry;
use crate::exposition::{self, Format};
use crate::http::address::{ExternalUrl, RoutePrefix};
use crate::http::answer::{Body, redirect, scrape, text};
use crate::http::history::{Entry, History};
use crate::http::pages::Index;
use crate::http::pages::listing::Wanted;
use crate::http::request::{ProbeRequest, Query, invalid_target};
use crate::live::Live;
use crate::outcome::{Outcome, Reason};
use crate::prober::journal::Journal;
use crate::prober::{Probe, Prober};

pub mod address;
pub mod answer;
pub mod connection;
pub mod history;
pub mod pages;
pub mod request;

/// Most bytes that one probe may write down.
const JOURNAL_BYTES: usize = 16 * 1024;

/// What the endpoints need.
#[derive(Debug)]
pub struct App {
    /// The configuration in force.
    pub live: Arc<Live>,
    /// Carries out probes.
    pub prober: Arc<Prober>,
    /// Recent results of `/probe`.
    pub history: History,
    /// Places for probes on demand.
    pub places: Semaphore,
    /// Subtracted from the scrape timeout.
    pub timeout_offset_seconds: f64,
    /// Where redirects of `/` lead.
    pub external_url: ExternalUrl,
    /// Prefix of all routes.
    pub route_prefix: RoutePrefix,
}

/// Answers one request.
pub async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let Some(route) = path.strip_prefix(app.route_prefix.as_str()) else {
        return outside(&app, path);
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match route {
        "probe" => probe(&app, &query, request.headers()).await,
        "metrics" => metrics(&app, request.headers()),
        "config" => text(StatusCode::OK, app.live.config().text()),
        "logs" => logs(&app, &query),
        "-/healthy" => text(StatusCode::OK, "Healthy\n"),
        "-/ready" => text(StatusCode::OK, "Ready\n"),
        "-/reload" => reload(&app, request.method()).await,
        _ => index(&app, &query),
    }
}

/// A path that does not begin with the route prefix.
fn outside(app: &App, path: &str) -> Response<Body> {
    let prefix = app.route_prefix.as_str();
    match path {
        "/" => redirect(StatusCode::FOUND, &app.external_url.to_string()),
        _ if prefix.strip_suffix('/') == Some(path) => {
            redirect(StatusCode::MOVED_PERMANENTLY, prefix)
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn probe(app: &App, query: &Query, headers: &HeaderMap) -> Response<Body> {
    let config = app.live.config();
    let scrape_timeout = headers
        .get("x-prometheus-scrape-timeout-seconds")
        .map(|it| String::from_utf8_lossy(it.as_bytes()));
    let request = match ProbeRequest::parse(
        query,
        scrape_timeout.as_deref(),
        app.timeout_offset_seconds,
        &config,
    ) {
        Ok(request) => request,
        Err(rejection) => return text(rejection.status(), format!("{rejection}\n")),
    };
    let Ok(_place) = app.places.try_acquire() else {
        return inconclusive(Reason::LocalResources, "connect", "too many probes at once");
    };
    let mut journal = Journal::bounded(JOURNAL_BYTES);
    let finding = match &request.address {
        Ok(address) => {
            let probe = Probe {
                address,
                module: &request.module,
                hostname: request.hostname.as_deref(),
                timeout: request.timeout,
                access: &config.access,
            };
            app.prober.probe(probe, &mut journal).await
        }
        Err(error) => invalid_target(error, request.timeout),
    };
    let format =
        Format::negotiate(headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default());
    let answer = match finding.outcome {
        Outcome::Inconclusive(reason, phase) => {
            inconclusive(reason, phase.as_str(), finding.detail.as_deref().unwrap_or_default())
        }
        Outcome::Success | Outcome::Failure(..) => {
            scrape(format.content_type(), exposition::probe(&finding, format), headers)
        }
    };
    app.history.add(Entry {
        id: 0,
        at: Timestamp::now(),
        module: request.module,
        hostname: request.hostname,
        target: request.target,
        finding,
        lines: journal.into_lines(),
    });
    answer
}

fn inconclusive(reason: Reason, phase: &str, detail: &str) -> Response<Body> {
    let body = format!("inconclusive: {reason} ({phase}): {detail}\n");
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn metrics(_app: &App, headers: &HeaderMap) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let format = Format::negotiate(accept);
    scrape(format.content_type(), String::new(), headers)
}

fn logs(_app: &App, _query: &Query) -> Response<Body> {
    text(StatusCode::NOT_FOUND, "Probe id not found\n")
}

/// The page for people, at every path that is nothing else.
fn index(app: &App, query: &Query) -> Response<Body> {
    let config = app.live.config();
    let modules = config.modules.iter().filter(|(_, it)| matches!(it, ModuleEntry::Tcp(_)));
    let modules: Vec<&str> = modules.map(|(name, _)| &**name).collect();
    answer::page(
        pages::index(&Index {
            rows: &[],
            recent: &app.history.entries(),
            modules: &modules,
            wanted: Wanted::parse(query),
            isolated: false,
            now: Timestamp::now(),
        }),
        &pages::policy(),
    )
}

async fn reload(app: &App, method: &Method) -> Response<Body> {
    if method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "This endpoint requires a POST request.\n");
    }
    match app.live.reload().await {
        Ok(()) => text(StatusCode::OK, ""),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error}\n"))
        }
    }
}
