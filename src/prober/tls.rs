//! TLS on an open connection.
//!
//! Certificate files are read once per version of the file, never per probe; what was made from
//! them is shared by all probes with the same settings. Sessions are never resumed, so that each
//! probe verifies the certificate of the day.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion, version,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::evidence::{Event, TlsFault};
use crate::module::{PemSource, TlsSettings, TlsVersion};
use crate::outcome::TlsDetails;
use crate::prober::connect;
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::journal::{Journal, Level};
use crate::prober::stamp::Stamp;
use crate::prober::stream::TcpBytes;
use crate::prober::tls::certificate::Link;
use crate::prober::tls::recording::{Asked, RecordingVerifier};
use crate::prober::{Probe, ProbeError};

mod certificate;
mod recording;

/// How often the files of a module are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Settings that are kept. Reloads bring new ones; beyond this all are made again.
const MAX_SETTINGS: usize = 1024;

/// Carries out handshakes.
#[derive(Debug)]
pub(super) struct TlsClient {
    provider: Arc<CryptoProvider>,
    /// Guards what was made from settings and files; held to look and, rarely, to read.
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    system: Option<Arc<Trust>>,
    by_settings: HashMap<TlsSettings, Entry>,
}

/// What was made from settings, and from which files.
#[derive(Debug)]
struct Entry {
    looked: Instant,
    stamps: Vec<Option<Stamp>>,
    ready: Result<Ready, ProbeError>,
}

/// All that a handshake needs.
#[derive(Clone, Debug)]
struct Ready {
    config: Arc<ClientConfig>,
    trust: Option<Arc<Trust>>,
    key: Option<Arc<CertifiedKey>>,
}

/// Trust anchors.
#[derive(Debug)]
struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    links: Vec<Link>,
}

/// A handshake that succeeded.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpBytes>,
    /// The server asked for a certificate and has not yet said what it thinks of the answer.
    pub(super) may_be_refused: bool,
}

/// A handshake that did not succeed, and the connection where it can still be closed politely.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: ProbeError,
    pub(super) stream: Option<TcpBytes>,
}

impl Default for TlsClient {
    fn default() -> Self {
        Self { provider: Arc::new(ring::default_provider()), made: Mutex::default() }
    }
}

impl TlsClient {
    /// Shakes hands. What the server showed is returned also if it was not believed.
    pub(super) async fn handshake(
        &self,
        stream: TcpBytes,
        probe: &Probe<'_>,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> (Option<TlsDetails>, Result<Secured, Refused>) {
        let settings = &*probe.module.tls_settings;
        let (ready, name) = match (self.ready(settings), server_name_of(probe)) {
            (Ok(ready), Ok(name)) => (ready, name),
            (Err(error), _) | (_, Err(error)) => {
                return (None, Err(Refused { error, stream: Some(stream) }));
            }
        };
        journal.note(Level::Debug, || format!("TLS handshake, expecting {}", name.to_str()));
        let recording = Arc::new(RecordingVerifier {
            trust: ready.trust,
            algorithms: self.provider.signature_verification_algorithms,
            seen: Mutex::default(),
        });
        let asked = Arc::new(Asked { key: ready.key, asked: AtomicBool::new(false) });
        let mut config = ClientConfig::clone(&ready.config);
        config.dangerous().set_certificate_verifier(recording.clone());
        config.client_auth_cert_resolver = asked.clone();
        let revoked = stream.revoked();
        let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let mut connecting = pin!(connect.into_fallible());
        let result = deadline.cap(&mut connecting).await;
        let mut seen = recording.take();
        if let Some(leaf) = seen.as_ref().and_then(|it| it.leaf.as_ref()) {
            journal.note(Level::Debug, || {
                format!("certificate of `{}` by `{}`", leaf.subject, leaf.issuer)
            });
        }
        let result = match result {
            Ok(Ok(stream)) => {
                let agreed = stream.get_ref().1.protocol_version();
                let version = agreed.and_then(version_name);
                seen.get_or_insert_default().version = version;
                let suite = stream.get_ref().1.negotiated_cipher_suite();
                journal.note(Level::Debug, || {
                    let suite = suite.and_then(|it| it.suite().as_str()).unwrap_or("a cipher");
                    format!("{} with {suite}", version.unwrap_or("TLS"))
                });
                let may_be_refused = asked.was_asked() && agreed == Some(ProtocolVersion::TLSv1_3);
                Ok(Secured { stream, may_be_refused })
            }
            Ok(Err((err, stream))) => Err(Refused {
                error: failed(&err, seen.is_some(), asked.was_asked()),
                stream: Some(stream),
            }),
            Err(Elapsed { stalled }) => {
                let event = if stalled { Event::Overslept } else { Event::Silence };
                let error = ProbeError::new(event, "the handshake did not finish in time");
                // Ends it at once, and gives the connection back.
                revoked.store(true, Ordering::Relaxed);
                Err(Refused { error, stream: connecting.await.err().map(|(_, stream)| stream) })
            }
        };
        (seen, result)
    }

    /// What these settings amount to, made again if a file changed.
    fn ready(&self, settings: &TlsSettings) -> Result<Ready, ProbeError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(entry) = made.by_settings.get_mut(settings) {
            if now.saturating_duration_since(entry.looked) < LOOK_INTERVAL {
                return entry.ready.clone();
            }
            entry.looked = now;
            if entry.stamps == stamps(settings) {
                return entry.ready.clone();
            }
        }
        // Stamps first: a file that changes between the two looks is then read again.
        let stamps = stamps(settings);
        let ready = self.make(settings, &mut made.system);
        if made.by_settings.len() >= MAX_SETTINGS {
            made.by_settings.clear();
        }
        let entry = Entry { looked: now, stamps, ready: ready.clone() };
        made.by_settings.insert(settings.clone(), entry);
        ready
    }

    fn make(
        &self,
        settings: &TlsSettings,
        system: &mut Option<Arc<Trust>>,
    ) -> Result<Ready, ProbeError> {
        let versions = versions(settings)?;
        // Anchors that are given are read even if nothing is verified, so that a wrong path shows.
        let given = settings.ca.as_ref().map(|it| self.given_anchors(it)).transpose()?;
        let trust = match (settings.insecure_skip_verify, given) {
            (true, _) => None,
            (false, Some(trust)) => Some(trust),
            (false, None) => Some(match system {
                Some(trust) => trust.clone(),
                None => system.insert(self.system_anchors()?).clone(),
            }),
        };
        let key = match (&settings.cert, &settings.key) {
            (Some(cert), Some(key)) => Some(self.client_key(cert, key)?),
            (None, None) => None,
            _ => return Err(config("certificate and key of the client must come together")),
        };
        let nothing = Arc::new(Asked { key: None, asked: AtomicBool::new(false) });
        let blind = Arc::new(RecordingVerifier {
            trust: None,
            algorithms: self.provider.signature_verification_algorithms,
            seen: Mutex::default(),
        });
        // Verifier and certificate are replaced for each handshake.
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|err| config(err.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(blind)
            .with_client_cert_resolver(nothing);
        client.resumption = Resumption::disabled();
        Ok(Ready { config: Arc::new(client), trust, key })
    }

    fn given_anchors(&self, source: &PemSource) -> Result<Arc<Trust>, ProbeError> {
        let (text, place) = pem(source, "CA")?;
        let certificates = certificates(&text, &place)?;
        self.trust(&certificates).map_err(|err| config(format!("{place}: {err}")))
    }

    fn system_anchors(&self) -> Result<Arc<Trust>, ProbeError> {
        let found = rustls_native_certs::load_native_certs();
        self.trust(&found.certs).map_err(|err| {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            config(format!("trust anchors of the system: {err} {}", errors.join(", ")))
        })
    }

    fn trust(&self, certificates: &[CertificateDer<'_>]) -> Result<Arc<Trust>, String> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        let links: Vec<_> = certificates.iter().filter_map(Link::parse).collect();
        if added == 0 {
            return Err("no usable certificate".to_owned());
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
                .build()
                .map_err(|err| err.to_string())?;
        Ok(Arc::new(Trust { verifier, links }))
    }

    fn client_key(
        &self,
        cert: &PemSource,
        key: &PemSource,
    ) -> Result<Arc<CertifiedKey>, ProbeError> {
        let (text, place) = pem(cert, "client certificate")?;
        let chain = certificates(&text, &place)?;
        let (text, place) = pem(key, "client key")?;
        let key = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|err| config(format!("{place}: no private key: {err}")))?;
        CertifiedKey::from_der(chain, key, &self.provider)
            .map(Arc::new)
            .map_err(|err| config(format!("{place}: {err}")))
    }
}

fn config(detail: impl Into<String>) -> ProbeError {
    ProbeError::new(Event::Misconfigured, detail)
}

/// The stamps of the files that the settings name.
fn stamps(settings: &TlsSettings) -> Vec<Option<Stamp>> {
    [&settings.ca, &settings.cert, &settings.key]
        .into_iter()
        .map(|it| match it {
            Some(PemSource::File(path)) => Stamp::of(path),
            Some(PemSource::Inline(_) | PemSource::Reference(_)) | None => None,
        })
        .collect()
}

/// The text of a source and its name for people.
fn pem(source: &PemSource, what: &str) -> Result<(Vec<u8>, String), ProbeError> {
    match source {
        PemSource::Inline(text) => Ok((text.clone().into_bytes(), format!("inline {what}"))),
        PemSource::File(path) => {
            let place = shown(path, what);
            let text = std::fs::read(path).map_err(|err| config(format!("{place}: {err}")))?;
            Ok((text, place))
        }
        PemSource::Reference(name) => {
            Err(config(format!("{what} `{name}`: there is no secret manager to take it from")))
        }
    }
}

fn shown(path: &Path, what: &str) -> String {
    format!("{what} `{}`", path.display())
}

fn certificates(text: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, ProbeError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|err| config(format!("{place}: {err}")))?;
    if found.is_empty() {
        return Err(config(format!("{place}: no certificate in PEM form")));
    }
    Ok(found)
}

/// The versions to offer.
fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, ProbeError> {
    let min = settings.min_version.unwrap_or(TlsVersion::Tls12);
    let max = settings.max_version.unwrap_or(TlsVersion::Tls13);
    if max < TlsVersion::Tls12 {
        return Err(config("max_version: TLS 1.0 and 1.1 are not spoken, the least is TLS12"));
    }
    if min > max {
        return Err(config("min_version is above max_version"));
    }
    let all = [(TlsVersion::Tls12, &version::TLS12), (TlsVersion::Tls13, &version::TLS13)];
    Ok(all.into_iter().filter(|(it, _)| (min..=max).contains(it)).map(|(_, it)| it).collect())
}

/// The name to verify: of the module, of the request, of the target.
fn server_name_of(probe: &Probe<'_>) -> Result<ServerName<'static>, ProbeError> {
    let configured = probe.module.tls_settings.server_name.as_deref();
    let named = configured.into_iter().chain(probe.hostname).find(|it| !it.is_empty());
    let text = match (named, probe.address.host.literal()) {
        (Some(name), _) | (None, Err(name)) => name,
        (None, Ok(ip)) => return Ok(ServerName::IpAddress(ip.to_canonical().into())),
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    ServerName::try_from(text.to_owned())
        .map_err(|_| config(format!("`{}` cannot be a server name", text.escape_debug())))
}

const fn version_name(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLS 1.3"),
        _ => None,
    }
}

/// Why a handshake did not succeed.
fn failed(err: &io::Error, saw_certificate: bool, was_asked: bool) -> ProbeError {
    if let Some(err) = err.get_ref().and_then(|it| it.downcast_ref::<Error>()) {
        let mut error = explained(err);
        let is_garbage = matches!(err, Error::InvalidMessage(_));
        if is_garbage && saw_certificate {
            error.event = Event::Tls(TlsFault::Handshake);
        }
        // Some servers have no better word for a missing certificate.
        let is_vague = matches!(err, Error::AlertReceived(AlertDescription::HandshakeFailure));
        if is_vague && was_asked {
            error.event = Event::Tls(TlsFault::ClientCertificate);
        }
        return error;
    }
    if err.kind() == io::ErrorKind::UnexpectedEof {
        let detail = "the peer closed the connection during the handshake";
        return ProbeError::new(Event::Closed, detail);
    }
    connect::broken(err)
}

/// A TLS error in the words of a probe.
pub(super) fn explained(err: &Error) -> ProbeError {
    use AlertDescription as Alert;
    let fault = match err {
        Error::InvalidCertificate(err) => match err {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                TlsFault::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsFault::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFault::WrongName
            }
            _ => TlsFault::Untrusted,
        },
        Error::InvalidMessage(_) => TlsFault::NotTls,
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => TlsFault::ClientCertificate,
        _ => TlsFault::Handshake,
    };
    ProbeError::new(Event::Tls(fault), err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::address::Address;
    use crate::module::Module;

    fn settings(min: Option<TlsVersion>, max: Option<TlsVersion>) -> TlsSettings {
        TlsSettings { min_version: min, max_version: max, ..TlsSettings::default() }
    }

    #[track_caller]
    fn check(min: Option<TlsVersion>, max: Option<TlsVersion>, expected: Result<usize, Event>) {
        let versions = versions(&settings(min, max));
        assert_eq!(versions.map(|it| it.len()).map_err(|error| error.event), expected);
    }

    #[test]
    fn versions_that_are_offered() {
        use TlsVersion::{Tls10, Tls11, Tls12, Tls13};
        check(None, None, Ok(2));
        check(Some(Tls10), None, Ok(2));
        check(Some(Tls13), None, Ok(1));
        check(None, Some(Tls12), Ok(1));
        check(None, Some(Tls11), Err(Event::Misconfigured));
        check(Some(Tls13), Some(Tls12), Err(Event::Misconfigured));
    }

    #[track_caller]
    fn check_name(configured: Option<&str>, hostname: Option<&str>, target: &str, expected: &str) {
        let mut module = Module::connect("m");
        let server_name = configured.map(str::to_owned);
        module.tls_settings = TlsSettings { server_name, ..TlsSettings::default() }.into();
        let address = Address::parse(target).unwrap();
        let access = Access::default();
        let timeout = Duration::ZERO;
        let probe =
            Probe { address: &address, module: &module, hostname, timeout, access: &access };
        let name = server_name_of(&probe).map(|it| it.to_str().into_owned());
        assert_eq!(name.unwrap_or_else(|it| it.detail), expected);
    }

    #[test]
    fn the_name_to_verify() {
        check_name(None, None, "db.test.:1", "db.test");
        check_name(None, Some("b.test"), "db.test:1", "b.test");
        check_name(Some("a.test"), Some("b.test"), "db.test:1", "a.test");
        check_name(Some(""), Some(""), "db_1.test:1", "db_1.test");
        check_name(None, None, "[::1]:1", "::1");
        check_name(None, None, "[::ffff:192.0.2.1]:1", "192.0.2.1");
        check_name(Some("a b"), None, "db.test:1", "`a b` cannot be a server name");
    }

    #[test]
    fn what_cannot_be_read_is_the_monitors_trouble_and_says_where() {
        let client = TlsClient::default();
        let ca = |it| TlsSettings { ca: Some(it), ..TlsSettings::default() };
        for (settings, words) in [
            (
                ca(PemSource::File("/nonexistent/ca.pem".into())),
                "CA `/nonexistent/ca.pem`: No such",
            ),
            (ca(PemSource::Inline("nonsense".to_owned())), "inline CA: no certificate in PEM form"),
            (
                ca(PemSource::Reference("vault".to_owned())),
                "CA `vault`: there is no secret manager",
            ),
        ] {
            let error = client.ready(&settings).unwrap_err();
            assert_eq!(error.event, Event::Misconfigured);
            assert!(error.detail.starts_with(words), "{}", error.detail);
        }
    }
}
