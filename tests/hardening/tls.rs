//! Encrypted conversations with those who mean harm: renegotiation from either side, and clients of
//! HTTP/2 that are slow or take back what they asked.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::process::Process;
use harness::{Exporter, wait_until};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{EXPORTER, LIMIT, MIB, assert_no_panic, descriptors, memory, wait_descriptors};

/// A certificate for `localhost` and its key, as PEM.
fn identity() -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// An exporter that speaks TLS, and its certificate.
pub(crate) fn encrypted(config: &str) -> (Exporter, String) {
    let (certificate, key) = identity();
    let web = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let exporter = Exporter::new(EXPORTER);
    let exporter = if config.is_empty() { exporter } else { exporter.config(config) };
    let exporter = exporter
        .file("server.pem", &certificate)
        .file("server.key", &key)
        .file("web.yml", web)
        .flag("--web.config.file=web.yml")
        .start();
    (exporter, certificate)
}

/// It still answers, and nothing in it panicked.
#[track_caller]
fn assert_well(exporter: &Exporter) {
    let url = format!("https://localhost:{}/-/healthy", exporter.address().port());
    let answer = Command::new("curl")
        .args(["--silent", "--show-error", "--cacert", "server.pem", "--max-time", "20", &url])
        .current_dir(exporter.directory())
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "Healthy\n", "{answer:?}");
    assert_no_panic(exporter);
}

#[test]
fn a_peer_that_renegotiates_gets_an_outcome() {
    if !harness::installed("a_peer_that_renegotiates_gets_an_outcome", &["openssl"]) {
        return;
    }
    let (certificate, key) = identity();
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("server.pem"), certificate + &key).expect("a file");
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-tls1_2"])
        .current_dir(home.path());
    let (mut server, mut input) = Process::start_listening(home.path(), &command);
    let address = server.wait_output(|it| {
        it.lines().find_map(|line| line.strip_prefix("ACCEPT ").map(|it| it.trim().to_owned()))
    });
    let tls = "tls: true, tls_config: {insecure_skip_verify: true}";
    let dialogue = format!("{{{tls}, query_response: [{{expect: x}}]}}");
    let exporter = Exporter::new(EXPORTER)
        .config(&format!("modules: {{dialogue: {{prober: tcp, timeout: 2s, tcp: {dialogue}}}}}\n"))
        .start();
    for round in 1..=5 {
        let page = std::thread::scope(|scope| {
            let asked = scope.spawn(|| exporter.probe(&address, "dialogue"));
            server.wait_output(|it| (it.matches("CIPHER is").count() == round).then_some(()));
            input.write_all(b"R\n").expect("it reads");
            asked.join().expect("no panic")
        });
        assert_eq!(page.value("probe_success", &[]), Some(0.0));
        assert_eq!(page.label("probe_failure_info", "phase"), Some("dialogue"), "{}", page.text);
    }
    let said = server.output();
    assert_eq!(said.matches("SSL_do_handshake").count(), 5, "{said}");
    crate::assert_well(&exporter);
}

#[test]
fn a_client_that_renegotiates_harms_only_itself() {
    if !harness::installed("a_client_that_renegotiates_harms_only_itself", &["openssl", "curl"]) {
        return;
    }
    let (exporter, _) = encrypted("");
    let mut refused = 0;
    for _ in 0..5 {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_2", "-connect", &exporter.address().to_string()]);
        let (mut client, mut input) = Process::start_listening(exporter.directory(), &command);
        client.wait_output(|it| it.contains("Verify return code").then_some(()));
        input.write_all(b"R\n").expect("it reads");
        client.wait(LIMIT);
        let said = client.output();
        assert!(said.contains("RENEGOTIATING"), "{said}");
        refused += usize::from(said.contains("no renegotiation"));
        assert_well(&exporter);
    }
    eprintln!("{refused} of 5 clients were told that there is no renegotiation");
    assert_eq!(refused, 5);
}

/// The certificate of a client in X.509 version 1, and what else is needed to use it.
fn old_client() -> Option<tempfile::TempDir> {
    if !harness::installed("X.509 version 1", &["openssl"]) {
        return None;
    }
    let home = tempfile::tempdir().expect("a directory");
    let openssl = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let output = Command::new("openssl").args(&words).current_dir(home.path()).output();
        let output = output.expect("openssl");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    openssl(&format!("req -x509 {key} authority.key -subj /CN=authority -out authority.pem"));
    openssl(&format!("req {key} client.key -subj /CN=client -out client.csr"));
    openssl(
        "x509 -req -in client.csr -CA authority.pem -CAkey authority.key -CAcreateserial -out client.pem",
    );
    Some(home)
}

#[test]
fn client_certificates_of_x509_version_1_are_shown_to_servers() {
    let Some(home) = old_client() else { return };
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "9", version])
            .args(["-cert", "authority.pem", "-key", "authority.key"])
            .args(["-Verify", "1", "-verify_return_error", "-CAfile", "authority.pem"])
            .current_dir(home.path());
        let (mut server, _input) = Process::start_listening(home.path(), &command);
        let address = server.wait_output(|it| {
            it.lines().find_map(|line| line.strip_prefix("ACCEPT ").map(|it| it.trim().to_owned()))
        });
        let path = |name: &str| home.path().join(name).display().to_string();
        let tls = |cert: &str, key: &str| {
            format!(
                "insecure_skip_verify: true, cert_file: {}, key_file: {}",
                path(cert),
                path(key)
            )
        };
        let module = |tls: &str| {
            format!("{{prober: tcp, timeout: 5s, tcp: {{tls: true, tls_config: {{{tls}}}}}}}")
        };
        let exporter = Exporter::new(EXPORTER)
            .config(&format!(
                "modules:\n  old: {}\n  none: {}\n  mixed: {}\n",
                module(&tls("client.pem", "client.key")),
                module("insecure_skip_verify: true"),
                module(&tls("client.pem", "authority.key")),
            ))
            .start();
        let page = exporter.probe(&address, "old");
        assert!(page.is_success(), "{version}: {}\n{}", page.text, server.output());
        server.wait_output(|it| it.contains("CN = client").then_some(()));
        // It is the certificate that opens the door.
        assert!(!exporter.probe(&address, "none").is_success(), "{version}");
        let mixed = exporter.get(&format!("/probe?module=mixed&target={address}"));
        assert_eq!(mixed.status, 503);
        assert!(
            mixed.text().contains("this is not the key of the certificate"),
            "{}",
            mixed.text()
        );
        crate::assert_well(&exporter);
    }
}

#[test]
fn a_server_certificate_of_x509_version_1_ends_the_start_with_a_clear_line() {
    let Some(home) = old_client() else { return };
    let path = |name: &str| home.path().join(name).display().to_string();
    let web = format!(
        "tls_server_config: {{cert_file: {}, key_file: {}}}",
        path("client.pem"),
        path("client.key")
    );
    let flag = "--web.config.file=web.yml";
    let (status, log) = Exporter::new(EXPORTER).file("web.yml", &web).flag(flag).run(LIMIT);
    assert_eq!(status.code(), Some(1), "{log}");
    let expected =
        "tls_server_config.cert: the certificate has X.509 version 1: issue one of version 3";
    assert!(log.contains(expected), "{log}");
}

/// A client of HTTP/2, by hand.
pub(crate) struct Client {
    tls: rustls::ClientConnection,
    stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(exporter: &Exporter, certificate: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        roots.add(der).expect("an anchor");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = "localhost".try_into().expect("a name");
        let tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let stream = TcpStream::connect(exporter.address()).expect("connect");
        let mut this = Self { tls, stream };
        this.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a preface");
        this.frame(SETTINGS, 0, 0, b"").expect("settings");
        assert_eq!(this.tls.alpn_protocol(), Some(&b"h2"[..]));
        this
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        rustls::Stream::new(&mut self.tls, &mut self.stream).write_all(bytes)
    }

    /// RFC 9113, section 4.1.
    pub(crate) fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.send(&[&head, payload].concat())
    }

    /// Whether the server has hung up.
    pub(crate) fn is_over(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => (),
                Err(err) => return err.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

/// Slow clients at once: half of them go on byte by byte, half fall silent.
const SLOW: usize = 200;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `GET https://localhost/` (RFC 7541, section 6.1 and appendix A).
pub(crate) const GET: &[u8] = b"\x82\x87\x84\x41\x09localhost";

#[test]
fn slow_clients_of_http2_harm_only_themselves() {
    if !harness::installed("slow_clients_of_http2_harm_only_themselves", &["curl"]) {
        return;
    }
    let (exporter, certificate) = encrypted("");
    assert_well(&exporter);
    let (memory_before, descriptors_before) = (memory(&exporter), descriptors(&exporter));
    let begin = Instant::now();
    let mut silent: Vec<Client> =
        (0..SLOW / 2).map(|_| Client::connect(&exporter, &certificate)).collect();
    let mut clients: Vec<Client> =
        (0..SLOW / 2).map(|_| Client::connect(&exporter, &certificate)).collect();
    for client in clients.iter_mut().chain(&mut silent) {
        // A name, and a value of 16,511 bytes that comes byte by byte.
        let head = [GET, b"\x00\x06x-slow\x7f\x80\x80\x01"].concat();
        client.frame(HEADERS, END_STREAM, 1, &head).expect("half a head");
    }
    wait_until(LIMIT, || {
        clients.retain_mut(|it| it.frame(CONTINUATION, 0, 1, b"x").is_ok() && !it.is_over());
        silent.retain_mut(|it| !it.is_over());
        assert_well(&exporter);
        sleep(Duration::from_millis(200));
        match (clients.len(), silent.len()) {
            (0, 0) => Ok(()),
            (clients, silent) => Err(format!("{clients} and {silent} silent ones hold on")),
        }
    });
    let growth = memory(&exporter).saturating_sub(memory_before);
    eprintln!("{SLOW} slow clients of HTTP/2 gone after {:?}, {growth} bytes", begin.elapsed());
    assert!(growth < 64 * MIB, "{growth}");
    wait_descriptors(&exporter, descriptors_before);
    assert_well(&exporter);
}

/// CVE-2023-44487.
#[test]
fn requests_taken_back_at_once_end_the_connection() {
    if !harness::installed("requests_taken_back_at_once_end_the_connection", &["curl"]) {
        return;
    }
    let (exporter, certificate) = encrypted("");
    let memory_before = memory(&exporter);
    let mut client = Client::connect(&exporter, &certificate);
    let taken_back = (0..100_000_u32)
        .take_while(|it| {
            let stream = it * 2 + 1;
            client.frame(HEADERS, END_STREAM | END_HEADERS, stream, GET).is_ok()
                && client.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]).is_ok()
        })
        .count();
    wait_until(LIMIT, || if client.is_over() { Ok(()) } else { Err("connected".to_owned()) });
    let growth = memory(&exporter).saturating_sub(memory_before);
    eprintln!("hung up within {taken_back} requests that were taken back, {growth} bytes");
    assert!(taken_back < 100_000 && growth < 16 * MIB, "{taken_back} requests, {growth} bytes");
    assert_well(&exporter);
}
