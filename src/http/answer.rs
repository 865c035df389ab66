//! Answers: bodies, types, compression. Knows no endpoint.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Arc, Weak};

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    HeaderMap, HeaderValue, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::http::shares::Place;
use crate::limits::{MAX_PIECES, PIECE_BYTES, PIECE_TAKEN_WITHIN};

/// The body of an answer: all of it, or piece by piece as it is made.
pub type Body = UnsyncBoxBody<Bytes, Abandoned>;

/// The end of an answer that its client was too slow to take: the connection breaks, since what
/// came so far must not be taken for the whole.
#[derive(Clone, Copy, Debug)]
pub struct Abandoned;

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was not taken in time")
    }
}

impl std::error::Error for Abandoned {}

/// Bodies below this many bytes fit one packet and are not worth compressing.
const WORTH_COMPRESSING: usize = 1024;

/// The type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Plain text.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, TEXT, body)
}

/// A page that may do what its policy allows, and tells nobody where its readers go.
#[must_use]
pub fn page(body: impl Into<Bytes>, policy: &str, place: Place) -> Response<Body> {
    let mut response = Response::new(long(body.into(), place));
    let headers = response.headers_mut();
    type_headers(headers, "text/html; charset=utf-8");
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
    let mut response = Response::new(short(body.into()));
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

/// All of a body at once.
fn short(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is there but long: it is handed out in pieces, and occupies a place until the
/// client has taken the last.
fn long(bytes: Bytes, place: Place) -> Body {
    place.set_yields(true);
    let pieces = stream::unfold((bytes, place), |(mut rest, place)| async {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Some((Ok(Frame::data(piece)), (rest, place)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A page for a scraper that is written while it is sent, compressed if the scraper asks for that.
///
/// `write` runs on a thread where it may block. The answer occupies `place` until the client has
/// taken the last piece; while it waits for the client, the place is one that gives way. When
/// the client is gone, or takes nothing for a while, the writer fails.
pub fn pieces(
    place: Place,
    content_type: &'static str,
    headers: &HeaderMap,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(MAX_PIECES);
    let encoded = accepts_gzip(headers);
    let place = Arc::new(place);
    let mut out = PieceWriter {
        sender,
        place: Arc::downgrade(&place),
        runtime: Handle::current(),
        piece: Vec::with_capacity(PIECE_BYTES),
    };
    tokio::task::spawn_blocking(move || {
        let made = if encoded {
            let mut out = GzEncoder::new(&mut out, Compression::fast());
            write(&mut out).and_then(|()| out.try_finish())
        } else {
            write(&mut out)
        };
        // An error means that the client is gone, or is to go; nobody is left to be told.
        let _ = made.and_then(|()| out.finish());
    });
    let taken = stream::unfold((receiver, place), |(mut receiver, place)| async {
        match receiver.recv().await {
            Some(Piece::Data(bytes)) => Some((Ok(Frame::data(bytes)), (receiver, place))),
            Some(Piece::End) => None,
            // Whatever the reason, half an answer must not look like a whole one.
            None => Some((Err(Abandoned), (receiver, place))),
        }
    });
    let mut response = Response::new(StreamBody::new(taken).boxed_unsync());
    scrape_headers(response.headers_mut(), content_type, encoded);
    response
}

enum Piece {
    Data(Bytes),
    End,
}

/// Cuts what is written into pieces.
struct PieceWriter {
    sender: mpsc::Sender<Piece>,
    /// Gone with the client.
    place: Weak<Place>,
    runtime: Handle,
    /// One large buffer would cost more in page faults than the writing itself.
    piece: Vec<u8>,
}

impl PieceWriter {
    /// Sends what is left, and the end.
    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.set_yields(true);
        self.send(Piece::End)
    }

    fn set_yields(&self, yields: bool) {
        if let Some(place) = self.place.upgrade() {
            place.set_yields(yields);
        }
    }

    /// Waits for the client where it has not taken what was made before.
    fn send(&self, piece: Piece) -> io::Result<()> {
        let piece = match self.sender.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(TrySendError::Full(piece)) => piece,
        };
        self.set_yields(true);
        let sent = self.runtime.block_on(self.sender.send_timeout(piece, PIECE_TAKEN_WITHIN));
        self.set_yields(false);
        sent.map_err(|_| io::ErrorKind::TimedOut.into())
    }
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.send(Piece::Data(piece.into()))
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
