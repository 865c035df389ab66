//! Answers: bodies, types, compression. Knows no endpoint.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    HeaderMap, HeaderValue, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it.
    Whole(Full<Bytes>),
    /// Piece by piece, as it is made. A client that reads slowly holds up the maker.
    Pieces(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Pieces(pieces) => {
                pieces.poll_recv(context).map(|it| it.map(|it| Ok(Frame::data(it))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A body that lets go of something once it is sent, or given up.
#[derive(Debug)]
pub struct Sent<G> {
    body: Body,
    _guard: G,
}

impl<G> Sent<G> {
    /// Ties a guard to a body.
    pub const fn new(body: Body, guard: G) -> Self {
        Self { body, _guard: guard }
    }
}

impl<G: Unpin> hyper::body::Body for Sent<G> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bodies below this many bytes fit one packet and are not worth compressing.
const WORTH_COMPRESSING: usize = 1024;

/// Size of the pieces of a streamed body; one large buffer would cost more in page faults than
/// the writing itself.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the client.
const PIECES: usize = 4;

/// Plain text.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A page that may do what its policy allows, and tells nobody where its readers go.
#[must_use]
pub fn page(body: impl Into<Bytes>, policy: &str) -> Response<Body> {
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", body);
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body of a type.
#[must_use]
pub fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    type_headers(response.headers_mut(), content_type);
    response
}

/// What a body is, and that browsers must not guess otherwise: it may quote a peer.
fn type_headers(headers: &mut HeaderMap, content_type: &'static str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A redirect.
#[must_use]
pub fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let mut response = text(status, "");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// A page for a scraper, compressed if it asks for that.
#[must_use]
pub fn scrape(content_type: &'static str, body: Vec<u8>, headers: &HeaderMap) -> Response<Body> {
    let compress = body.len() >= WORTH_COMPRESSING && accepts_gzip(headers);
    let compressed = if compress { gzip(&body) } else { None };
    let encoded = compressed.is_some();
    let body = compressed.unwrap_or(body);
    let mut response = typed(StatusCode::OK, content_type, body);
    scrape_headers(response.headers_mut(), content_type, encoded);
    response
}

/// A page for a scraper that is written while it is sent, compressed if the scraper asks for that.
///
/// `write` runs on a thread where it may block. When the client leaves, its writer fails.
pub fn pieces(
    content_type: &'static str,
    headers: &HeaderMap,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let encoded = accepts_gzip(headers);
    tokio::task::spawn_blocking(move || {
        let mut out = PieceWriter { sender, piece: Vec::with_capacity(PIECE) };
        // An error means that the client is gone; nobody is left to be told.
        let _ = if encoded {
            let mut out = GzEncoder::new(&mut out, Compression::fast());
            write(&mut out).and_then(|()| out.try_finish())
        } else {
            write(&mut out)
        };
        let _ = out.flush();
    });
    let mut response = Response::new(Body::Pieces(receiver));
    scrape_headers(response.headers_mut(), content_type, encoded);
    response
}

/// Cuts what is written into pieces.
struct PieceWriter {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(piece.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn scrape_headers(headers: &mut HeaderMap, content_type: &'static str, encoded: bool) {
    type_headers(headers, content_type);
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if encoded {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Whether `Accept-Encoding` names gzip, or everything, and does not forbid it with `q=0`.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok()).any(|value| {
        value.split(',').any(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let named = parts.next().is_some_and(|it| it.eq_ignore_ascii_case("gzip") || it == "*");
            let forbidden = parts
                .filter_map(|it| it.strip_prefix("q="))
                .any(|it| it.parse::<f32>().is_ok_and(|it| it <= 0.0));
            named && !forbidden
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_only_where_it_is_asked_for() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let headers =
                HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
