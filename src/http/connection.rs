//! Connections of clients: accepted, bounded, watched, drained. Knows no endpoint.
//!
//! There is a limited number of places, shared fairly between clients ([`Shares`]). A connection
//! whose client is to move, because a request or an answer is on its way, gives its place to one
//! that comes new; one whose request is being answered keeps it, unless others have less. So slow
//! clients harm themselves only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::http::answer::{Abandoned, Body};
use crate::http::shares::{Client, Place, Shares};
use crate::http::socket::ClientSocket;
use crate::http::{self, App};
use crate::limits::{
    ANSWER_TAKEN_WITHIN, DRAINED_WITHIN, FIRST_REQUEST_WITHIN, HANDSHAKE_WITHIN, HEAD_BYTES,
    HEAD_FIELDS, MAX_STREAMS, NEXT_REQUEST_WITHIN, PIECE_TAKEN_WITHIN,
};
use crate::prober::accepted::Accepted;

/// How long a connection that has not begun a request stays after the signal to stop.
const STOPS_AFTER: Duration = Duration::from_secs(1);
/// How often a connection is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Pause after a failed accept, which usually means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who asks, and over which connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whom its shares are counted for.
    pub client: Client,
    /// Told to end the connection, for others need what it holds.
    pub displaced: Arc<Notify>,
}

/// What every connection needs.
#[derive(Debug)]
pub struct Server {
    /// Gives the answers.
    pub app: Arc<App>,
    /// Where it is noted which connections are open.
    pub accepted: Arc<Accepted>,
    /// Most connections at once.
    pub limit: usize,
    /// Becomes true when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

impl Server {
    /// Accepts connections until it is time to stop, then lets running requests finish.
    pub async fn serve(self, listeners: Vec<Arc<TcpListener>>) {
        let (places, server) = (Shares::new(self.limit), Arc::new(self));
        let graceful = Arc::new(GracefulShutdown::new());
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            let (server, places) = (Arc::clone(&server), Arc::clone(&places));
            acceptors.spawn(server.accept(listener, places, Arc::clone(&graceful)));
        }
        // Dropping the connections of an acceptor ends them.
        let connections = acceptors.join_all().await;
        let Some(graceful) = Arc::into_inner(graceful) else { return };
        if timeout(DRAINED_WITHIN, graceful.shutdown()).await.is_err() {
            info!("ending the connections that did not finish in time");
        }
        drop(connections);
    }

    async fn accept(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        places: Arc<Shares>,
        graceful: Arc<GracefulShutdown>,
    ) -> JoinSet<()> {
        let mut stop = self.stop.clone();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = told(&mut stop) => return connections,
                accepted = poll_fn(|context| self.accepted.poll_accept(&listener, context)) => accepted,
            };
            match accepted {
                Ok((stream, address, entry)) => {
                    let client = Client::from(address.ip());
                    let peer = Peer { client, displaced: Arc::new(Notify::new()) };
                    if let Some(place) = places.take(client, &peer.displaced) {
                        let (server, watcher) = (Arc::clone(&self), graceful.watcher());
                        let activity = Arc::new(Activity::new(place));
                        connections.spawn(async move {
                            server.converse(stream, address, peer, activity, watcher).await;
                            drop(entry);
                        });
                    } else {
                        debug!(peer = %address, "refused: its client has its share of connections");
                    }
                    // A request that is there already is read before its connection could give
                    // way to the next one.
                    yield_now().await;
                }
                Err(err) => {
                    warn!(error = %err, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        peer: Peer,
        activity: Arc<Activity>,
        watcher: Watcher,
    ) {
        let _ = stream.set_nodelay(true);
        let stream = ClientSocket::share(stream);
        let socket = stream.clone();
        let displaced = Arc::clone(&peer.displaced);
        let conversation = async {
            let Some(tls) = self.app.web.tls() else {
                return self.talk(stream, Version::Http1, address, &peer, &activity, watcher).await;
            };
            match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let version = if http2 { Version::Http2 } else { Version::Http1 };
                    self.talk(stream, version, address, &peer, &activity, watcher).await;
                }
                Ok(Err(err)) => debug!(peer = %address, error = %err, "TLS handshake failed"),
                Err(_) => debug!(peer = %address, "TLS handshake took too long"),
            }
        };
        tokio::select! {
            () = conversation => (),
            () = displaced.notified() => debug!(peer = %address, "gave way to another client"),
            () = activity.overdue(&socket, self.stop.clone()) => {
                debug!(peer = %address, "connection took too long");
            }
        }
        activity.place.release();
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        version: Version,
        address: SocketAddr,
        peer: &Peer,
        activity: &Arc<Activity>,
        watcher: Watcher,
    ) {
        let service = service_fn({
            let (activity, app, peer) = (Arc::clone(activity), Arc::clone(&self.app), peer.clone());
            move |request| {
                let exchange = Exchange::begin(&activity);
                let response = http::answer(Arc::clone(&app), request, peer.clone());
                async move {
                    let response = response.await;
                    exchange.answered();
                    Ok::<_, Infallible>(response.map(|body| Sent { body, exchange }))
                }
            }
        });
        let builder = builder(version);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(err) = watcher.watch(connection).await {
            debug!(peer = %address, error = %err, "connection ended");
        }
    }
}

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

/// HTTP/2 is spoken where TLS agreed on it, and nowhere else.
fn builder(version: Version) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Applied between requests too.
        .header_read_timeout(NEXT_REQUEST_WITHIN)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX));
    match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
    }
}

/// Waits for the word to stop.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the teller is gone, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What a connection is doing.
struct Activity {
    place: Place,
    state: Mutex<State>,
}

struct State {
    next_id: u64,
    exchanges: BTreeMap<u64, Stage>,
    /// Whether there ever was a request.
    served: bool,
    /// When the last exchange ended.
    idle_since: Instant,
}

/// How far an exchange has come.
#[derive(Clone, Copy)]
enum Stage {
    /// We are to move.
    Answering,
    /// The client is to take the answer: since when, and when it last took a piece of it.
    Sending { since: Instant, moved: Instant },
}

impl Activity {
    fn new(place: Place) -> Self {
        place.set_yields(true);
        let exchanges = BTreeMap::new();
        let state = State { next_id: 0, exchanges, served: false, idle_since: Instant::now() };
        Self { place, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and with it whether the place gives way.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let before = state.is_answering();
        change(&mut state);
        let after = state.is_answering();
        if before != after {
            self.place.set_yields(!after);
        }
    }

    /// Returns once the connection has taken longer than it may, or nobody is left to be
    /// answered: hyper does not see that behind a second request.
    async fn overdue(&self, socket: &ClientSocket, stop: watch::Receiver<bool>) {
        let mut ticks = interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let is_gone = poll_fn(|context| Poll::Ready(socket.is_closed(context))).await;
            let state = self.state();
            if state.is_overdue(*stop.borrow()) || (is_gone && state.is_answering()) {
                return;
            }
        }
    }
}

impl State {
    fn is_answering(&self) -> bool {
        self.exchanges.values().any(|stage| matches!(stage, Stage::Answering))
    }

    /// Each answer has its own time: what other streams of the connection do changes nothing.
    fn is_overdue(&self, stopping: bool) -> bool {
        if self.exchanges.is_empty() {
            let bound = match self.served {
                _ if stopping => STOPS_AFTER,
                false => FIRST_REQUEST_WITHIN,
                true => NEXT_REQUEST_WITHIN + WATCH_INTERVAL,
            };
            return self.idle_since.elapsed() > bound;
        }
        self.exchanges.values().any(|stage| match stage {
            Stage::Answering => false,
            Stage::Sending { since, moved } => {
                since.elapsed() > ANSWER_TAKEN_WITHIN || moved.elapsed() > PIECE_TAKEN_WITHIN
            }
        })
    }
}

/// A request and its answer, until dropped.
struct Exchange {
    activity: Arc<Activity>,
    id: u64,
}

impl Exchange {
    fn begin(activity: &Arc<Activity>) -> Self {
        let mut id = 0;
        activity.change(|state| {
            id = state.next_id;
            state.next_id += 1;
            state.served = true;
            state.exchanges.insert(id, Stage::Answering);
        });
        Self { activity: Arc::clone(activity), id }
    }

    /// From here on the client is to move.
    fn answered(&self) {
        let now = Instant::now();
        self.activity.change(|state| {
            state.exchanges.insert(self.id, Stage::Sending { since: now, moved: now });
        });
    }

    fn moved(&self) {
        self.activity.change(|state| {
            if let Some(Stage::Sending { moved, .. }) = state.exchanges.get_mut(&self.id) {
                *moved = Instant::now();
            }
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.activity.change(|state| {
            state.exchanges.remove(&self.id);
            state.idle_since = Instant::now();
        });
    }
}

/// A body that tells when its client takes a piece, and when it has all.
struct Sent {
    body: Body,
    exchange: Exchange,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Abandoned;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.exchange.moved();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
