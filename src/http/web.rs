//! The web configuration file: TLS, passwords, headers of the server.

use tokio_rustls::TlsAcceptor;

/// The web configuration in force.
#[derive(Debug, Default)]
pub struct Web {}

impl Web {
    /// How to speak TLS; `None` for plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<TlsAcceptor> {
        None
    }
}
