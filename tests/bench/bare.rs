//! The bare handler: what a request with a connect in it costs in hyper when nothing is measured,
//! judged, remembered or written but a fixed page of the size of ours.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// `bare TARGET BYTES`: prints where it listens.
pub(crate) fn main(words: &[String]) {
    let target: SocketAddr = words[0].parse().expect("an address");
    let page = Bytes::from(vec![b'x'; words[1].parse().expect("a number")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("its name"));
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("it accepts");
            stream.set_nodelay(true).expect("an option");
            let page = page.clone();
            let answer = service_fn(move |_: Request<Incoming>| {
                let page = page.clone();
                async move {
                    TcpStream::connect(target).await.expect("the target is open");
                    Ok::<_, Infallible>(Response::new(Full::new(page)))
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            connections.spawn(connection);
        }
    });
}
