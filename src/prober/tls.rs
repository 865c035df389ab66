//! TLS on an open connection.

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::outcome::{Reason, TlsFinding};
use crate::prober::deadline::Deadline;
use crate::prober::journal::Journal;
use crate::prober::{Probe, Trouble};

/// Carries out handshakes.
#[derive(Debug, Default)]
pub(super) struct TlsClient {}

/// A handshake that succeeded.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// The server asked for a certificate and has not yet said what it thinks of the answer.
    pub(super) may_be_refused: bool,
}

impl TlsClient {
    /// Shakes hands.
    pub(super) async fn handshake(
        &self,
        _stream: TcpStream,
        _probe: &Probe<'_>,
        _deadline: Deadline,
        _journal: &mut Journal,
    ) -> (Option<TlsFinding>, Result<Secured, Trouble>) {
        (None, Err(Trouble::new(Reason::LocalConfig, "TLS is not available")))
    }
}

/// A TLS error in the words of a probe.
pub(super) fn explained(err: &rustls::Error) -> Trouble {
    Trouble::new(Reason::TlsHandshake, err.to_string())
}
