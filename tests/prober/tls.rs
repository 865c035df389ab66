//! What becomes of TLS: every certificate that is wrong in one way, and servers that are.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    SanType,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use tcp_probe_exporter::module::pattern::Pattern;
use tcp_probe_exporter::module::template::Template;
use tcp_probe_exporter::module::{Expect, Module, PemSource, Send, Step, TlsSettings, TlsVersion};
use tcp_probe_exporter::outcome::{Outcome, Phase, ProbeResult, Reason, TlsDetails};

use crate::{SILENCE, TIMEOUT, failure, peer, probe, read_all, say};

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];
/// 2020-01-01, 2021-01-01, 2090-01-01 and 2095-01-01.
const PAST: (i32, i32) = (2020, 2021);
const FUTURE: (i32, i32) = (2090, 2095);
const GOOD: (i32, i32) = (2020, 2095);

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificates, leaf first, and its key.
#[derive(Clone)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pem: String,
    key_pem: String,
}

fn params(name: &str, years: (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = params(name, (2020, 2094));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn issue_authority(&self, name: &str) -> Self {
        let mut params = params(name, (2020, 2093));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &*self.0).unwrap())
    }

    fn issue(&self, names: &[&str], years: (i32, i32)) -> Identity {
        let mut params = params("leaf", years);
        params.subject_alt_names = names
            .iter()
            .map(|it| match it.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*it).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        identity(&certificate, &key)
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

fn identity(certificate: &Certificate, key: &KeyPair) -> Identity {
    Identity {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
        pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    }
}

fn config(
    identity: &Identity,
    clients: Option<(&Authority, bool)>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((authority, is_required)) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(identity.key.clone()).unwrap();
    Arc::new(builder.with_single_cert(identity.chain.clone(), key).unwrap())
}

/// A server that shakes hands, says hello, and waits for the other side to close.
fn server(config: Arc<ServerConfig>) -> SocketAddr {
    peer(move |stream| serve(config, stream))
}

fn serve(config: Arc<ServerConfig>, mut socket: std::net::TcpStream) {
    let mut connection = ServerConnection::new(config).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    let _ = stream.write_all(b"hello\n");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

fn tls(settings: TlsSettings) -> Module {
    Module { tls: true, tls_settings: settings.into(), ..Module::connect("m") }
}

fn trusting(pem: String) -> TlsSettings {
    TlsSettings { ca: Some(PemSource::Inline(pem.into())), ..TlsSettings::default() }
}

fn named(pem: String, name: &str) -> TlsSettings {
    TlsSettings { server_name: Some(name.to_owned()), ..trusting(pem) }
}

async fn against(identity: &Identity, settings: TlsSettings) -> ProbeResult {
    let address = server(config(identity, None, BOTH));
    probe(&address.to_string(), &tls(settings), TIMEOUT).await
}

fn shown(result: &ProbeResult) -> &TlsDetails {
    result.tls.as_deref().unwrap()
}

const fn new_year(year: i64) -> i64 {
    let leap_days = (year - 1969) / 4;
    ((year - 1970) * 365 + leap_days) * 86_400
}

#[track_caller]
fn check_failure(result: &ProbeResult, reason: Reason) {
    assert_eq!(result.outcome, failure(reason, Phase::Tls), "{result:?}");
    assert_eq!(result.phases.tls, None);
    assert!(result.phases.connect.is_some());
}

#[tokio::test]
async fn a_good_certificate_is_described() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["db.test"], GOOD);

    let result = against(&leaf, named(authority.pem(), "db.test")).await;

    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.phases.tls.is_some());
    let tls = shown(&result);
    assert_eq!(tls.version, Some("TLS 1.3"));
    assert_eq!(tls.earliest_expiry, Some(new_year(2095)));
    assert_eq!(tls.last_chain_expiry, Some(new_year(2094)));
    let shown = tls.leaf.as_ref().unwrap();
    assert_eq!((&*shown.subject, &*shown.issuer), ("CN=leaf", "CN=root"));
    assert_eq!(shown.subject_alternative, "db.test");
    assert_eq!((shown.not_before, shown.not_after), (new_year(2020), new_year(2095)));
}

#[tokio::test]
async fn a_bad_certificate_is_described_too() {
    let authority = Authority::new("root");
    for (years, names, reason) in [
        (PAST, ["db.test"], Reason::TlsExpired),
        (FUTURE, ["db.test"], Reason::TlsNotYetValid),
        (GOOD, ["other.test"], Reason::TlsWrongName),
    ] {
        let result =
            against(&authority.issue(&names, years), named(authority.pem(), "db.test")).await;
        check_failure(&result, reason);
        let tls = shown(&result);
        assert_eq!(tls.earliest_expiry, Some(new_year(i64::from(years.1))));
        assert_eq!(tls.last_chain_expiry, None);
        assert_eq!(tls.leaf.as_ref().unwrap().subject, "CN=leaf");
    }
}

#[tokio::test]
async fn a_given_authority_replaces_all_others() {
    let leaf = Authority::new("root").issue(&["db.test"], GOOD);
    let stranger = Authority::new("stranger");
    check_failure(&against(&leaf, named(stranger.pem(), "db.test")).await, Reason::TlsUntrusted);
    let system = TlsSettings { server_name: Some("db.test".to_owned()), ..TlsSettings::default() };
    let result = against(&leaf, system).await;
    // A machine without any authority cannot judge, and says so.
    let reason = result.outcome.cause().map(|(reason, _)| reason);
    assert!(matches!(reason, Some(Reason::TlsUntrusted | Reason::LocalConfig)), "{result:?}");
}

#[tokio::test]
async fn a_module_may_believe_anything() {
    let leaf = Authority::new("root").issue(&["other.test"], PAST);
    let settings = TlsSettings { insecure_skip_verify: true, ..TlsSettings::default() };
    let result = against(&leaf, settings).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(shown(&result).last_chain_expiry, None);
    assert_eq!(shown(&result).earliest_expiry, Some(new_year(2021)));
}

#[tokio::test]
async fn any_certificate_of_the_file_is_an_anchor() {
    let root = Authority::new("root");
    let middle = root.issue_authority("middle");
    let mut leaf = middle.issue(&["db.test"], GOOD);

    let result = against(&leaf, named(root.pem(), "db.test")).await;
    check_failure(&result, Reason::TlsUntrusted);
    let result = against(&leaf, named(middle.pem(), "db.test")).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(shown(&result).last_chain_expiry, Some(new_year(2093)));

    leaf.chain.push(middle.der());
    let result = against(&leaf, named(root.pem(), "db.test")).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(shown(&result).earliest_expiry, Some(new_year(2093)));
}

#[tokio::test]
async fn a_self_signed_server_is_trusted_by_its_own_certificate() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let mut params = params("self", GOOD);
        params.is_ca = is_ca;
        params.subject_alt_names = vec![SanType::DnsName("db.test".try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let identity = identity(&params.self_signed(&key).unwrap(), &key);

        let result = against(&identity, named(identity.pem.clone(), "db.test")).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        assert_eq!(shown(&result).last_chain_expiry, Some(new_year(2095)));
        let result = against(&identity, named(identity.pem.clone(), "other.test")).await;
        check_failure(&result, Reason::TlsWrongName);
        let result = against(&identity, named(Authority::new("x").pem(), "db.test")).await;
        check_failure(&result, Reason::TlsUntrusted);
    }
}

#[tokio::test]
async fn an_address_is_verified_as_an_address() {
    let authority = Authority::new("root");
    let with = authority.issue(&["127.0.0.1"], GOOD);
    let result = against(&with, trusting(authority.pem())).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    let without = authority.issue(&["localhost"], GOOD);
    check_failure(&against(&without, trusting(authority.pem())).await, Reason::TlsWrongName);
}

#[tokio::test]
async fn versions_without_common_ground_are_a_failed_handshake() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["127.0.0.1"], GOOD);
    for (server_speaks, min_version, expected) in [
        (&version::TLS12, None, None),
        (&version::TLS12, Some(TlsVersion::Tls13), Some(Reason::TlsHandshake)),
        (&version::TLS13, Some(TlsVersion::Tls13), None),
    ] {
        let address = server(config(&leaf, None, &[server_speaks]));
        let settings = TlsSettings { min_version, ..trusting(authority.pem()) };
        let result = probe(&address.to_string(), &tls(settings), TIMEOUT).await;
        let reason = result.outcome.cause().map(|(reason, _)| reason);
        assert_eq!(reason, expected, "{result:?}");
        if expected.is_none() {
            let version = if server_speaks.version == rustls::ProtocolVersion::TLSv1_2 {
                "TLS 1.2"
            } else {
                "TLS 1.3"
            };
            assert_eq!(shown(&result).version, Some(version));
        }
    }
}

#[tokio::test]
async fn what_is_not_tls() {
    for words in [b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let address = peer(move |stream| {
            say(&stream, words);
            let _ = read_all(&stream);
        });
        let result = probe(&address.to_string(), &tls(TlsSettings::default()), TIMEOUT).await;
        if result.outcome.is_inconclusive() {
            // Without authorities on this machine the handshake is not even begun.
            continue;
        }
        check_failure(&result, Reason::TlsNotTls);
    }
    let blind = TlsSettings { insecure_skip_verify: true, ..TlsSettings::default() };
    let address = peer(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
    });
    let result = probe(&address.to_string(), &tls(blind.clone()), TIMEOUT).await;
    assert!(
        matches!(result.outcome, Outcome::Failure(Reason::ClosedEarly | Reason::Reset, Phase::Tls)),
        "{result:?}"
    );
    let address = peer(|stream| drop(read_all(&stream)));
    let result = probe(&address.to_string(), &tls(blind), SILENCE).await;
    check_failure(&result, Reason::TlsTimeout);
}

#[tokio::test]
async fn a_wanted_client_certificate() {
    let authority = Authority::new("root");
    let stranger = Authority::new("stranger");
    let leaf = authority.issue(&["127.0.0.1"], GOOD);
    let refused = Some(Reason::TlsClientCertificate);
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        for (is_required, issuer, expected) in [
            (true, None, refused),
            (true, Some(&stranger), refused),
            (true, Some(&authority), None),
            (false, None, None),
        ] {
            let address = server(config(&leaf, Some((&authority, is_required)), versions));
            let client = issuer.map(|it| it.issue(&["client"], GOOD));
            let settings = TlsSettings {
                cert: client.as_ref().map(|it| PemSource::Inline(it.pem.clone().into())),
                key: client.as_ref().map(|it| PemSource::Inline(it.key_pem.clone().into())),
                ..trusting(authority.pem())
            };
            let result = probe(&address.to_string(), &tls(settings), TIMEOUT).await;
            let reason = result.outcome.cause().map(|(reason, _)| reason);
            assert_eq!(reason, expected, "{:?} {result:?}", versions[0].version);
        }
    }
}

#[tokio::test]
async fn starttls_begins_in_plain_text_and_drops_what_was_not_asked_for() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["127.0.0.1"], GOOD);
    let server = config(&leaf, None, BOTH);
    let address = peer(move |mut stream| {
        say(&stream, b"220 mail\r\n");
        let mut command = [0; 9];
        stream.read_exact(&mut command).unwrap();
        assert_eq!(&command, b"STARTTLS\n");
        say(&stream, b"220 go\r\nhello from nobody\r\n");
        serve(server, stream);
    });
    let line = |it| Some(Expect::Line(Pattern::parse(it).unwrap()));
    let query_response = vec![
        Step {
            expect: line("^220"),
            send: Some(Send::Line(Template::new("STARTTLS".to_owned()).into())),
            ..Step::default()
        },
        Step { expect: line("^220"), starttls: true, ..Step::default() },
        Step {
            expect: line("^hello(.*)"),
            labels: Some(vec![("from".to_owned(), Template::new("$1".to_owned()))]),
            ..Step::default()
        },
    ];
    let module = Module {
        query_response,
        tls_settings: trusting(authority.pem()).into(),
        ..Module::connect("m")
    };

    let result = probe(&address.to_string(), &module, TIMEOUT).await;

    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.phases.tls.is_some() && result.phases.dialogue.is_some());
    assert!(shown(&result).leaf.is_some());
    let labels = result.dialogue.unwrap().labels.unwrap();
    assert_eq!(labels, [("from".to_owned(), String::new())]);
}

#[tokio::test]
async fn a_file_that_changes_is_read_again() {
    let old = Authority::new("old");
    let new = Authority::new("new");
    let leaf = new.issue(&["127.0.0.1"], GOOD);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, old.pem()).unwrap();
    let settings =
        TlsSettings { ca: Some(PemSource::File(path.clone())), ..TlsSettings::default() };
    let module = tls(settings);
    let prober = tcp_probe_exporter::prober::Prober::default();
    let access = tcp_probe_exporter::access::Access::default();
    let outcome = async || {
        let address = server(config(&leaf, None, BOTH)).to_string();
        let address = tcp_probe_exporter::address::Address::parse(&address).unwrap();
        let probe = tcp_probe_exporter::prober::Probe {
            address: &address,
            module: &module,
            hostname: None,
            timeout: TIMEOUT,
            access: &access,
        };
        let mut journal = tcp_probe_exporter::prober::journal::Journal::off();
        prober.probe(probe, &mut journal).await.outcome
    };
    assert_eq!(outcome().await, failure(Reason::TlsUntrusted, Phase::Tls));

    std::fs::write(&path, new.pem()).unwrap();

    let begun = Instant::now();
    while outcome().await != Outcome::Success {
        assert!(begun.elapsed() < TIMEOUT, "the new file is not read");
    }
}

/// What a server sends in answer to a client's first flight, in TLS 1.2 where more is in the
/// clear.
fn first_flight(config: Arc<ServerConfig>, hello: &[u8]) -> Vec<u8> {
    let mut connection = ServerConnection::new(config).unwrap();
    connection.read_tls(&mut &*hello).unwrap();
    connection.process_new_packets().unwrap();
    let mut flight = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut flight).unwrap();
    }
    flight
}

#[tokio::test]
async fn a_handshake_that_is_cut_or_damaged_anywhere_is_a_failure() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["127.0.0.1"], GOOD);
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let server = config(&leaf, None, versions);
        for at in (0..600).step_by(23) {
            for is_cut in [true, false] {
                let server = server.clone();
                let address = peer(move |mut stream| {
                    let mut hello = [0; 4096];
                    let length = stream.read(&mut hello).unwrap();
                    let mut flight = first_flight(server, &hello[..length]);
                    let at = at.min(flight.len() - 1);
                    if is_cut {
                        flight.truncate(at);
                    } else {
                        flight[at] ^= 0xff;
                    }
                    say(&stream, &flight);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = read_all(&stream);
                });
                let settings = trusting(authority.pem());
                let result = probe(&address.to_string(), &tls(settings), TIMEOUT).await;
                let is_failure = matches!(result.outcome, Outcome::Failure(_, Phase::Tls));
                assert!(is_failure, "at {at}: {result:?}");
                assert!(result.duration < TIMEOUT);
            }
        }
    }
}
