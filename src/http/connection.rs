//! Connections of clients: accepted, bounded, watched, drained. Knows no endpoint.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::http::answer::Body;

/// How long a connection may wait for its next request. Longer than common scrape intervals,
/// since hyper applies it between requests too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(95);
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long running requests may finish after the signal to stop.
const DRAIN: Duration = Duration::from_secs(15);
/// Pause after a failed accept, which usually means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` says so, then lets running requests finish.
pub async fn serve<F>(
    listeners: Vec<TcpListener>,
    limit: usize,
    stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limit));
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(listener, Arc::clone(&permits), stop.clone(), answer.clone()));
    }
    while acceptors.join_next().await.is_some() {}
}

async fn accept<F>(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = told(&mut stop) => break,
            Some(_) = connections.join_next() => (),
            accepted = next(&listener, &permits) => match accepted {
                Ok((stream, peer, permit)) => {
                    let connection = converse(stream, peer, stop.clone(), answer.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
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
        info!(requests = connections.len(), "ending requests that did not finish in time");
    }
}

/// A place first, then a connection: what is accepted can be served.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn converse<F>(
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>, SocketAddr) -> F,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let response = answer(request, peer);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        debug!(%peer, error = %err, "connection ended");
    }
}

/// Waits for the word to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the teller is gone, which is the end as well.
    let _ = stop.wait_for(|it| *it).await;
}
