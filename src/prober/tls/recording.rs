//! Watches one handshake: the certificates that came, and what was made of them.
//!
//! Verification ends a handshake that fails it, but its certificates are what a person wants to
//! see then; so they are kept before they are judged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::outcome::TlsDetails;
use crate::prober::tls::Trust;
use crate::prober::tls::certificate::{self, Link};

/// The verifier of one handshake.
#[derive(Debug)]
pub(super) struct RecordingVerifier {
    /// `None` believes anything.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Written once, in the handshake; read after it.
    pub(super) seen: Mutex<Option<TlsDetails>>,
}

impl RecordingVerifier {
    /// What was seen.
    pub(super) fn take(&self) -> Option<TlsDetails> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Trust {
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        // A leaf that is itself an anchor needs no issuer, and may even be an authority.
        if let Some(leaf) = self.links.iter().find(|it| it.is(end_entity)) {
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            if leaf.is_early(seconds) {
                return Err(CertificateError::NotValidYet.into());
            }
            if !leaf.is_valid(seconds) {
                return Err(CertificateError::Expired.into());
            }
            let parsed = ParsedCertificate::try_from(end_entity)?;
            return rustls::client::verify_server_name(&parsed, server_name);
        }
        self.verifier
            .verify_server_cert(end_entity, intermediates, server_name, &[], now)
            .map(|_| ())
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<Link> =
            std::iter::once(end_entity).chain(intermediates).filter_map(Link::parse).collect();
        let mut seen = TlsDetails {
            earliest_expiry: chain.iter().map(|it| it.not_after).min(),
            leaf: certificate::describe(end_entity),
            validity: certificate::validity(&chain),
            ..TlsDetails::default()
        };
        let verdict = match &self.trust {
            None => Ok(()),
            Some(trust) => {
                let verdict = trust.judge(end_entity, intermediates, server_name, now);
                if verdict.is_ok() {
                    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                    seen.last_chain_expiry =
                        certificate::last_chain_expiry(&chain, &trust.links, now);
                }
                verdict
            }
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        verdict.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Offers the client certificate, and remembers that the server asked for one.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) key: Option<Arc<CertifiedKey>>,
    pub(super) asked: AtomicBool,
}

impl Asked {
    /// Whether the server asked.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}
