//! Connections of clients: accepted, bounded, watched, drained. Knows no endpoint.
//!
//! There is a limited number of places. A connection that waits for its next request, or that
//! sends it drop by drop, gives its place to one that comes new; one that is being answered keeps
//! it. Where nobody gives way, newcomers wait in the kernel's queue. So slow clients harm
//! themselves only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::http::answer::{Body, Sent};
use crate::http::web::Web;

/// How long a connection may wait for its next request. Longer than common scrape intervals,
/// since hyper applies it between requests too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(95);
/// How long a connection may take to send its first request.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to fetch an answer.
const FETCHED_WITHIN: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A connection that has waited this long gives way to a new one.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);
/// How often a connection is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;
/// How long running requests may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(15);
/// Pause after a failed accept, which usually means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
pub struct Server<A> {
    /// Gives the answers.
    pub answer: A,
    /// TLS, passwords, headers.
    pub web: Arc<Web>,
    /// Most connections at once.
    pub limit: usize,
    /// Becomes true when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

/// Accepts connections until it is time to stop, then lets running requests finish.
pub async fn serve<A, F>(listeners: Vec<TcpListener>, server: Server<A>)
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Places::new(server.limit);
    let server = Arc::new(server);
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(listener, Arc::clone(&places), Arc::clone(&server)));
    }
    while acceptors.join_next().await.is_some() {}
}

async fn accept<A, F>(listener: TcpListener, places: Arc<Places>, server: Arc<Server<A>>)
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut stop = server.stop.clone();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = told(&mut stop) => break,
            (accepted, place) = async {
                let accepted = listener.accept().await;
                let place = places.take().await;
                (accepted, place)
            } => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(converse(stream, peer, place, Arc::clone(&server)));
                }
                Err(err) => {
                    warn!(error = %err, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let deadline = Instant::now() + DRAIN;
    while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
    if !connections.is_empty() {
        info!(connections = connections.len(), "ending what did not finish in time");
    }
}

async fn converse<A, F>(stream: TcpStream, peer: SocketAddr, place: Place, server: Arc<Server<A>>)
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let activity = Arc::clone(&place.activity);
    let conversation = async {
        let Some(tls) = server.web.tls() else {
            return talk(stream, false, peer, &activity, &server).await;
        };
        match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                talk(stream, http2, peer, &activity, &server).await;
            }
            Ok(Err(err)) => debug!(%peer, error = %err, "TLS handshake failed"),
            Err(_) => debug!(%peer, "TLS handshake took too long"),
        }
    };
    tokio::select! {
        () = conversation => (),
        () = activity.displaced.notified() => debug!(%peer, "gave way to another connection"),
        () = overdue(&activity, server.stop.clone()) => debug!(%peer, "connection took too long"),
    }
}

async fn talk<A, F>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http2: bool,
    peer: SocketAddr,
    activity: &Arc<Activity>,
    server: &Arc<Server<A>>,
) where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn({
        let (activity, server) = (Arc::clone(activity), Arc::clone(server));
        move |request| {
            let busy = Busy::new(&activity);
            let response = (server.answer)(request, peer);
            async move {
                let response = response.await;
                Ok::<_, Infallible>(response.map(|body| Sent::new(body, busy.sending())))
            }
        }
    });
    let stream = TokioIo::new(stream);
    let mut stop = server.stop.clone();
    // The two builders give two types with the same methods and no trait in common.
    let ended = if http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(err) = ended {
        debug!(%peer, error = %err, "connection ended");
    }
}

/// Waits for the word to stop.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the teller is gone, which is the end as well.
    let _ = stop.wait_for(|it| *it).await;
}

/// Returns once a connection has taken longer than it may.
async fn overdue(activity: &Activity, stop: watch::Receiver<bool>) {
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let stopping = *stop.borrow();
        let state = activity.state();
        let bound = match *state {
            State { answering: 1.., .. } => continue,
            State { sending: 1.., .. } => FETCHED_WITHIN,
            State { .. } if stopping => GIVES_WAY_AFTER,
            State { served: false, .. } => FIRST_REQUEST_WITHIN,
            State { .. } => HEADER_TIMEOUT + WATCH_INTERVAL,
        };
        if state.since.elapsed() > bound {
            return;
        }
    }
}

/// The places for connections.
struct Places {
    limit: usize,
    /// Guards the list of connections; held for a look only.
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    next_id: u64,
    connections: BTreeMap<u64, Arc<Activity>>,
}

impl Places {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), taken: Mutex::default(), freed: Notify::new() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. Where all are taken, the connection that has waited longest for a
    /// request is asked to go.
    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            // Whoever is asked to go frees a place at once; else somebody soon has waited enough.
            let _ = timeout(GIVES_WAY_AFTER / 10, self.freed.notified()).await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.connections.len() >= self.limit {
            let waiting = taken.connections.values().filter(|it| it.gives_way());
            if let Some(activity) = waiting.min_by_key(|it| it.state().since) {
                activity.displaced.notify_one();
            }
            return None;
        }
        let id = taken.next_id;
        taken.next_id += 1;
        let activity = Arc::new(Activity {
            state: Mutex::new(State {
                answering: 0,
                sending: 0,
                served: false,
                since: Instant::now(),
            }),
            displaced: Notify::new(),
        });
        taken.connections.insert(id, Arc::clone(&activity));
        Some(Place { places: Arc::clone(self), id, activity })
    }
}

/// The right to be connected, until dropped.
struct Place {
    places: Arc<Places>,
    id: u64,
    activity: Arc<Activity>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().connections.remove(&self.id);
        self.places.freed.notify_one();
    }
}

/// What a connection is doing.
struct Activity {
    state: Mutex<State>,
    /// Told to give its place to another.
    displaced: Notify,
}

struct State {
    /// Requests without an answer.
    answering: usize,
    /// Answers on their way.
    sending: usize,
    /// Whether there ever was a request.
    served: bool,
    /// When the above last changed.
    since: Instant,
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gives_way(&self) -> bool {
        let state = self.state();
        state.answering == 0 && state.sending == 0 && state.since.elapsed() > GIVES_WAY_AFTER
    }
}

/// A request that waits for its answer, until dropped.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        let mut state = activity.state();
        state.answering += 1;
        state.served = true;
        state.since = Instant::now();
        drop(state);
        Self(Arc::clone(activity))
    }

    fn sending(self) -> Sending {
        let mut state = self.0.state();
        state.sending += 1;
        state.since = Instant::now();
        drop(state);
        Sending(Arc::clone(&self.0))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        state.since = Instant::now();
    }
}

/// An answer on its way, until dropped.
pub struct Sending(Arc<Activity>);

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.sending -= 1;
        state.since = Instant::now();
    }
}
