//! TLS on an open connection.
//!
//! Certificate files are read once per version of the file, never per probe; what was made from
//! them is shared by all probes with the same settings, and stays while newer files are damaged
//! or cannot be read. Sessions are never resumed, so that each probe verifies the certificate
//! that the server has now.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion, version,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::evidence::{Event, TlsFault};
use crate::files::{LoadThreads, Sources, Watched, WatchedMap, pem};
use crate::limits::PEM_BYTES;
use crate::module::{PemSource, TlsSettings, TlsVersion};
use crate::outcome::TlsDetails;
use crate::prober::connect;
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::journal::{Journal, Level};
use crate::prober::stream::TcpBytes;
use crate::prober::tls::certificate::Link;
use crate::prober::tls::recording::{Asked, RecordingVerifier};
use crate::prober::{Probe, ProbeError};

mod anchors;
mod certificate;
mod recording;

/// Carries out handshakes.
#[derive(Debug)]
pub(super) struct TlsClient {
    provider: Arc<CryptoProvider>,
    system_trust: Watched<Trust>,
    by_settings: WatchedMap<TlsSettings, Prepared>,
}

/// What settings and their files amount to.
#[derive(Debug)]
struct Prepared {
    config: Arc<ClientConfig>,
    trust: TrustSource,
    key: Option<Arc<CertifiedKey>>,
}

/// Whom to believe.
#[derive(Debug)]
enum TrustSource {
    Anyone,
    System,
    Given(Arc<Trust>),
}

/// All that a handshake needs.
struct Ready {
    prepared: Arc<Prepared>,
    trust: Option<Arc<Trust>>,
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
        let provider = Arc::new(ring::default_provider());
        let own = Arc::clone(&provider);
        // Threads of its own: hanging files of modules do not keep it from being read.
        let system_trust =
            Watched::new("trust store", &LoadThreads::default(), move |sources, _| {
                let certificates = anchors::load(sources)?;
                trust(&certificates, &own)
                    .map_err(|err| format!("trust store of the system: {err}"))
            });
        Self { provider, system_trust, by_settings: WatchedMap::new("certificate files") }
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
        let ready = self.ready_in_time(settings, deadline, journal).await;
        let (ready, name) = match (ready, server_name_of(probe)) {
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
        let asked =
            Arc::new(Asked { key: ready.prepared.key.clone(), asked: AtomicBool::new(false) });
        let mut config = ClientConfig::clone(&ready.prepared.config);
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

    async fn ready_in_time(
        &self,
        settings: &TlsSettings,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> Result<Ready, ProbeError> {
        let ready = deadline.cap(self.ready(settings, journal)).await;
        ready.unwrap_or_else(|Elapsed { stalled }| {
            let event = if stalled { Event::Overslept } else { Event::Misconfigured };
            Err(ProbeError::new(event, "certificate files: no answer from the file system in time"))
        })
    }

    /// What these settings amount to, made again if a file changed.
    async fn ready(
        &self,
        settings: &TlsSettings,
        journal: &mut Journal,
    ) -> Result<Ready, ProbeError> {
        let watched = self.by_settings.get(settings, |settings| {
            let provider = Arc::clone(&self.provider);
            move |sources| prepare(&settings, &provider, sources)
        });
        let prepared = watched.get().await.map_err(|err| config(&*err))?;
        journal.note_stale(watched.error());
        let trust = match &prepared.trust {
            TrustSource::Anyone => None,
            TrustSource::Given(trust) => Some(Arc::clone(trust)),
            TrustSource::System => {
                let trust = self.system_trust.get().await.map_err(|err| config(&*err))?;
                journal.note_stale(self.system_trust.error());
                Some(trust)
            }
        };
        Ok(Ready { prepared, trust })
    }
}

fn prepare(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    sources: &mut Sources,
) -> Result<Prepared, String> {
    let versions = versions(settings)?;
    // Anchors that are given are read even if nothing is verified, so that a wrong path shows.
    let given = settings.ca.as_ref().map(|ca| given_anchors(ca, provider, sources)).transpose()?;
    let trust = match (settings.insecure_skip_verify, given) {
        (true, _) => TrustSource::Anyone,
        (false, Some(trust)) => TrustSource::Given(trust),
        (false, None) => TrustSource::System,
    };
    let key = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => Some(client_key(cert, key, provider, sources)?),
        (None, None) => None,
        _ => return Err("certificate and key of the client must come together".to_owned()),
    };
    let nothing = Arc::new(Asked { key: None, asked: AtomicBool::new(false) });
    let blind = Arc::new(RecordingVerifier {
        trust: None,
        algorithms: provider.signature_verification_algorithms,
        seen: Mutex::default(),
    });
    // Verifier and certificate are replaced for each handshake.
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&versions)
        .map_err(|err| err.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(blind)
        .with_client_cert_resolver(nothing);
    client.resumption = Resumption::disabled();
    Ok(Prepared { config: Arc::new(client), trust, key })
}

fn given_anchors(
    source: &PemSource,
    provider: &Arc<CryptoProvider>,
    sources: &mut Sources,
) -> Result<Arc<Trust>, String> {
    let (text, place) = text(source, "CA", sources)?;
    pem::certificates(&text)
        .and_then(|certificates| trust(&certificates, provider))
        .map(Arc::new)
        .map_err(|err| format!("{place}: {err}"))
}

fn trust(
    certificates: &[CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Result<Trust, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    let links: Vec<_> = certificates.iter().filter_map(Link::parse).collect();
    if added == 0 {
        return Err("no usable certificate".to_owned());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(|err| err.to_string())?;
    Ok(Trust { verifier, links })
}

fn client_key(
    cert: &PemSource,
    key: &PemSource,
    provider: &Arc<CryptoProvider>,
    sources: &mut Sources,
) -> Result<Arc<CertifiedKey>, String> {
    let (chain, place) = text(cert, "client certificate", sources)?;
    let chain = pem::certificates(&chain).map_err(|err| format!("{place}: {err}"))?;
    let (key, place) = text(key, "client key", sources)?;
    pem::private_key(&key)
        .and_then(|key| certified(chain, key, provider))
        .map(Arc::new)
        .map_err(|err| format!("{place}: {err}"))
}

/// A chain with the key of its first certificate. Compared here, since rustls compares only what
/// it would verify, and refuses X.509 version 1 with that; what it sends, it need not verify.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<CertifiedKey, String> {
    let key = provider.key_provider.load_private_key(key).map_err(|err| err.to_string())?;
    let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let (_, leaf) = leaf.ok_or("the certificate cannot be read: write one in PEM form")?;
    let is_its = key.public_key().is_none_or(|public| *public == *leaf.public_key().raw);
    if !is_its {
        return Err(
            "this is not the key of the certificate: name the key that belongs to it".into()
        );
    }
    Ok(CertifiedKey::new(chain, key))
}

fn config(detail: impl Into<String>) -> ProbeError {
    ProbeError::new(Event::Misconfigured, detail)
}

/// The text of a source and its name for people.
fn text(
    source: &PemSource,
    what: &str,
    sources: &mut Sources,
) -> Result<(Vec<u8>, String), String> {
    match source {
        PemSource::Inline(text) => {
            Ok((text.expose().clone().into_bytes(), format!("inline {what}")))
        }
        PemSource::File(path) => {
            let place = format!("{what} `{}`", path.display());
            let text = sources.read(path, PEM_BYTES).map_err(|err| format!("{place}: {err}"))?;
            Ok((text, place))
        }
        PemSource::Reference(name) => {
            Err(format!("{what} `{name}`: there is no secret manager to take it from"))
        }
    }
}

/// The versions to offer.
fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let min = settings.min_version.unwrap_or(TlsVersion::Tls12);
    let max = settings.max_version.unwrap_or(TlsVersion::Tls13);
    if max < TlsVersion::Tls12 {
        let message = "max_version: TLS 1.0 and 1.1 are not spoken, the least is TLS12";
        return Err(message.to_owned());
    }
    if min > max {
        return Err("min_version is above max_version".to_owned());
    }
    let all = [(TlsVersion::Tls12, &version::TLS12), (TlsVersion::Tls13, &version::TLS13)];
    let offered = all.into_iter().filter(|(version, _)| (min..=max).contains(version));
    Ok(offered.map(|(_, version)| version).collect())
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
    use std::time::Duration;

    use super::*;
    use crate::access::Access;
    use crate::address::Address;
    use crate::module::Module;

    fn settings(min: Option<TlsVersion>, max: Option<TlsVersion>) -> TlsSettings {
        TlsSettings { min_version: min, max_version: max, ..TlsSettings::default() }
    }

    #[track_caller]
    fn check(min: Option<TlsVersion>, max: Option<TlsVersion>, expected: Option<usize>) {
        let versions = versions(&settings(min, max));
        assert_eq!(versions.ok().map(|versions| versions.len()), expected);
    }

    #[test]
    fn versions_that_are_offered() {
        use TlsVersion::{Tls10, Tls11, Tls12, Tls13};
        check(None, None, Some(2));
        check(Some(Tls10), None, Some(2));
        check(Some(Tls13), None, Some(1));
        check(None, Some(Tls12), Some(1));
        check(None, Some(Tls11), None);
        check(Some(Tls13), Some(Tls12), None);
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

    #[tokio::test]
    async fn what_cannot_be_read_is_the_monitors_trouble_and_says_where() {
        let client = TlsClient::default();
        let ca = |it| TlsSettings { ca: Some(it), ..TlsSettings::default() };
        for (settings, words) in [
            (
                ca(PemSource::File("/nonexistent/ca.pem".into())),
                "CA `/nonexistent/ca.pem`: No such",
            ),
            (
                ca(PemSource::Inline("nonsense".to_owned().into())),
                "inline CA: no certificate in PEM form",
            ),
            (
                ca(PemSource::Reference("vault".to_owned())),
                "CA `vault`: there is no secret manager",
            ),
        ] {
            let ready = client.ready(&settings, &mut Journal::off()).await;
            let error = ready.err().unwrap();
            assert_eq!(error.event, Event::Misconfigured);
            assert!(error.detail.starts_with(words), "{}", error.detail);
        }
    }
}
