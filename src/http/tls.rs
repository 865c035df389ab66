//! TLS of the server, from the section of the web configuration file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, NamedGroup, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Version};

use crate::files::{Sources, pem};
use crate::limits::PEM_BYTES;
use crate::secret::Secret;

/// `tls_server_config` as written.
#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TlsServerConfig {
    cert: Option<String>,
    key: Option<Secret<String>>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_allowed_sans: Vec<String>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Vec<String>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ClientAuth {
    None,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl TlsServerConfig {
    /// Whether nothing is set, which means plain HTTP.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The keys that hold strangers off.
    #[must_use]
    pub fn protections(&self) -> Vec<&'static str> {
        let asks = !matches!(self.client_auth(), Ok(ClientAuth::None) | Err(_));
        let verifies = self.client_ca.is_some() || self.client_ca_file.is_some();
        let words = [
            (true, "tls_server_config"),
            (asks, "client_auth_type"),
            (verifies, "client_ca"),
            (!self.client_allowed_sans.is_empty(), "client_allowed_sans"),
        ];
        words.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect()
    }

    fn client_auth(&self) -> Result<ClientAuth, String> {
        let auth = match self.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") => ClientAuth::None,
            Some("RequestClientCert") => ClientAuth::Request,
            Some("RequireAnyClientCert" | "RequireClientCert") => ClientAuth::RequireAny,
            Some("VerifyClientCertIfGiven") => ClientAuth::VerifyIfGiven,
            Some("RequireAndVerifyClientCert") => ClientAuth::RequireAndVerify,
            Some(other) => return Err(format!("client_auth_type: `{other}` is unknown")),
        };
        let has_ca = self.client_ca.is_some() || self.client_ca_file.is_some();
        match auth {
            ClientAuth::None if has_ca => {
                Err("client_auth_type: missing, client certificates cannot be verified without it"
                    .to_owned())
            }
            ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify if !has_ca => {
                Err("client_ca: missing, give `client_ca` or `client_ca_file`".to_owned())
            }
            ClientAuth::None if !self.client_allowed_sans.is_empty() => {
                Err("client_allowed_sans: needs a `client_auth_type`".to_owned())
            }
            auth => Ok(auth),
        }
    }
}

/// Builds what accepts TLS connections.
///
/// # Errors
/// The key that is wrong, and why, in one line.
pub fn acceptor(
    config: &TlsServerConfig,
    directory: &Path,
    http2: bool,
    sources: &mut Sources,
) -> Result<TlsAcceptor, String> {
    let client_auth = config.client_auth()?;
    let versions = versions(config)?;
    let provider = Arc::new(provider(config)?);
    let mut text = |key, inline: Option<&String>, file: &Option<PathBuf>| match (inline, file) {
        (Some(_), Some(_)) => Err(format!("{key}: give `{key}` or `{key}_file`, not both")),
        (Some(inline), None) => Ok(inline.clone().into_bytes()),
        (None, Some(file)) => {
            let path = directory.join(file);
            let place = |err| format!("{key}: `{}`: {err}", path.display());
            sources.read(&path, PEM_BYTES).map_err(place)
        }
        (None, None) => Err(format!("{key}: missing, give `{key}` or `{key}_file`")),
    };
    if config.key.is_none() && config.key_file.is_none() {
        return Err("key: missing, give `key` or `key_file`".to_owned());
    }
    let chain = pem::certificates(&text("cert", config.cert.as_ref(), &config.cert_file)?)
        .map_err(|err| format!("cert: {err}"))?;
    check_version(&chain).map_err(|err| format!("cert: {err}"))?;
    let key = config.key.as_ref().map(Secret::expose);
    let key = pem::private_key(&text("key", key, &config.key_file)?)
        .map_err(|err| format!("key: {err}"))?;

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|err| format!("min_version: {err}"))?;
    let builder = if client_auth == ClientAuth::None {
        builder.with_no_client_auth()
    } else {
        let verified = match client_auth {
            ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify => {
                let anchors = text("client_ca", config.client_ca.as_ref(), &config.client_ca_file)?;
                Some(authority(&anchors, &provider).map_err(|err| format!("client_ca: {err}"))?)
            }
            ClientAuth::None | ClientAuth::Request | ClientAuth::RequireAny => None,
        };
        builder.with_client_cert_verifier(Arc::new(ClientCertificates {
            mandatory: matches!(client_auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify),
            verified,
            allowed_sans: config.client_allowed_sans.clone(),
            provider,
        }))
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|err| format!("cert: {err}"))?;
    server.ignore_client_order = config.prefer_server_cipher_suites.unwrap_or(true);
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        server.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// rustls refuses certificates of X.509 versions 1 and 2 for a server, in words for programmers.
fn check_version(chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    match leaf.map(|(_, leaf)| leaf.version()) {
        Some(version) if version != X509Version::V3 => {
            let version = version.0 + 1;
            Err(format!("the certificate has X.509 version {version}: issue one of version 3"))
        }
        _ => Ok(()),
    }
}

fn authority(
    text: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(text)? {
        roots.add(certificate).map_err(|err| err.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|err| err.to_string())
}

fn versions(config: &TlsServerConfig) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let read = |key: &str, text: &Option<String>, default| match text.as_deref() {
        None | Some("") => Ok(default),
        Some("TLS12") => Ok(12),
        Some("TLS13") => Ok(13),
        Some(other) => Err(format!("{key}: `{other}` is not spoken here, `TLS12`, `TLS13` are")),
    };
    let least = read("min_version", &config.min_version, 12)?;
    let most = read("max_version", &config.max_version, 13)?;
    let versions: Vec<_> = [(12, &TLS12), (13, &TLS13)]
        .into_iter()
        .filter(|(number, _)| (least..=most).contains(number))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err("max_version: is below min_version".to_owned());
    }
    Ok(versions)
}

/// ring, with the suites and groups that the file allows. As in Go, those of TLS 1.3 cannot be
/// chosen.
fn provider(config: &TlsServerConfig) -> Result<CryptoProvider, String> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !config.cipher_suites.is_empty() {
        let name = |suite: &SupportedCipherSuite| {
            format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
        };
        let known: Vec<String> = provider.cipher_suites.iter().map(name).collect();
        if let Some(other) = config.cipher_suites.iter().find(|it| !known.contains(it)) {
            let known = known.join("`, `");
            return Err(format!("cipher_suites: `{other}` is not spoken here, `{known}` are"));
        }
        provider.cipher_suites.retain(|it| {
            it.tls13().is_some() || config.cipher_suites.iter().any(|wanted| *wanted == name(it))
        });
    }
    if !config.curve_preferences.is_empty() {
        let all = provider.kx_groups;
        provider.kx_groups =
            config.curve_preferences.iter().map(|it| group(it, &all)).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}

fn group(
    name: &str,
    all: &[&'static dyn SupportedKxGroup],
) -> Result<&'static dyn SupportedKxGroup, String> {
    let wanted = match name {
        "CurveP256" => Some(NamedGroup::secp256r1),
        "CurveP384" => Some(NamedGroup::secp384r1),
        "X25519" => Some(NamedGroup::X25519),
        _ => None,
    };
    let known = "`CurveP256`, `CurveP384`, `X25519` are";
    all.iter()
        .copied()
        .find(|it| Some(it.name()) == wanted)
        .ok_or_else(|| format!("curve_preferences: `{name}` is not spoken here, {known}"))
}

/// Judges the certificates of clients.
struct ClientCertificates {
    mandatory: bool,
    /// Who verifies the chain; `None` where any certificate will do.
    verified: Option<Arc<dyn ClientCertVerifier>>,
    /// If not empty, one of these must be among the alternative names.
    allowed_sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificates").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verified.as_ref().map_or(&[], |it| it.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(verified) = &self.verified {
            verified.verify_client_cert(leaf, intermediates, now)?;
        }
        if !self.allowed_sans.is_empty() {
            let names = alternative_names(leaf)
                .ok_or_else(|| Error::General("the client's certificate is garbled".to_owned()))?;
            if !names.iter().any(|it| self.allowed_sans.contains(it)) {
                let error = "no alternative name of the client's certificate is allowed";
                return Err(Error::General(error.to_owned()));
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// DNS names, addresses of mail and IP, and URIs of a certificate.
fn alternative_names(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let Some(extension) = certificate.subject_alternative_name().ok()? else {
        return Some(Vec::new());
    };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => {
                <[u8; 4]>::try_from(*bytes).ok().map(|it| std::net::Ipv4Addr::from(it).to_string())
            }
            16 => {
                <[u8; 16]>::try_from(*bytes).ok().map(|it| std::net::Ipv6Addr::from(it).to_string())
            }
            _ => None,
        },
        _ => None,
    });
    Some(names.collect())
}
