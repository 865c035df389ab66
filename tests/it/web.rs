//! The web configuration file: TLS, certificates of clients, passwords, headers, rate.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use harness::{Exporter, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{EXPORTER, LIMIT, text};

/// `bcrypt` of `secret` with the least cost, so that tests are quick.
fn hash() -> String {
    bcrypt::hash("secret", 4).unwrap()
}

#[track_caller]
fn start(web: &str, files: &[(&str, String)]) -> Exporter {
    let mut builder =
        Exporter::new(EXPORTER).file("web.yml", web).flag("--web.config.file=web.yml");
    for (name, text) in files {
        builder = builder.file(name, text);
    }
    builder.start()
}

#[track_caller]
fn check_error(web: &str, expected: &str) {
    let flag = "--web.config.file=web.yml";
    let (status, log) = Exporter::new(EXPORTER).file("web.yml", web).flag(flag).run(LIMIT);
    assert_eq!(status.code(), Some(1), "{web}: {log}");
    assert!(log.contains(expected), "{web}: {log}");
}

#[test]
fn a_bad_file_ends_the_start() {
    check_error("nonsense: 1", "unknown field `nonsense`");
    check_error("tls_server_config: {cert_file: none, key_file: none}", "none");
    check_error("basic_auth_users: {user: plain}", "basic_auth_users.user: is no bcrypt hash");
    check_error(
        "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
        "client_auth_type: missing",
    );
    let (status, log) = Exporter::new(EXPORTER).flag("--web.config.file=absent.yml").run(LIMIT);
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("absent.yml"), "{log}");
}

#[test]
fn an_empty_file_is_plain_http() {
    assert_eq!(start("", &[]).get("/-/healthy").status, 200);
}

#[test]
fn every_path_asks_for_the_password() {
    let exporter = start(&format!("basic_auth_users: {{user: '{}'}}\n", hash()), &[]);
    // user:secret, user:wrong, nobody:secret
    let good = [("Authorization", "Basic dXNlcjpzZWNyZXQ=")];
    let wrong = [("Authorization", "Basic dXNlcjp3cm9uZw==")];
    let nobody = [("Authorization", "Basic bm9ib2R5OnNlY3JldA==")];
    for path in ["/", "/metrics", "/-/healthy", "/probe?target=127.0.0.1:0", "/logs", "/config"] {
        for headers in [&[][..], &wrong, &nobody, &[("Authorization", "Bearer x")]] {
            let answer = exporter.get_with(path, headers);
            assert_eq!(answer.status, 401, "{path} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Basic"));
            assert_eq!(answer.text(), "Unauthorized\n");
        }
        assert_ne!(exporter.get_with(path, &good).status, 401, "{path}");
    }
    assert_eq!(exporter.request("POST", "/-/reload", &[], b"").status, 401);
}

#[test]
fn the_file_is_followed() {
    let exporter = start("", &[]);
    let file = exporter.directory().join("web.yml");
    let wait_for = |status: u16| {
        wait_until(LIMIT, || match exporter.get("/-/healthy").status {
            it if it == status => Ok(()),
            it => Err(format!("{it}: {}", exporter.log())),
        });
    };

    std::fs::write(&file, format!("basic_auth_users: {{user: '{}'}}\n", hash())).unwrap();
    wait_for(401);
    std::fs::write(&file, "nonsense: 1\n").unwrap();
    wait_until(LIMIT, || match exporter.log() {
        log if log.contains("error reloading web configuration") => Ok(()),
        log => Err(log),
    });
    assert_eq!(exporter.get("/-/healthy").status, 401, "the old one stays");
    let limited = format!("basic_auth_users: {{user: '{}'}}\n", hash());
    std::fs::write(&file, limited + "rate_limit: {burst: 1, interval: 1h}\n").unwrap();
    wait_for(429);
}

#[test]
fn headers_are_added_to_every_answer() {
    let web = "http_server_config: {headers: {X-Frame-Options: deny, \
               Strict-Transport-Security: max-age=1}}\n";
    let exporter = start(web, &[]);
    for path in ["/", "/metrics", "/logs", "/%zz"] {
        let answer = exporter.get(path);
        assert_eq!(answer.header("x-frame-options"), Some("deny"), "{path}");
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"), "{path}");
    }
}

#[test]
fn the_rate_is_limited() {
    let exporter = start("rate_limit: {burst: 3, interval: 1h}\n", &[]);
    let statuses: Vec<u16> = (0..5).map(|_| exporter.get("/-/healthy").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}

/// An authority, a certificate for the server and one for a client, as PEM.
struct Pki {
    authority: String,
    server: (String, String),
    client: (String, String),
}

fn pki() -> Pki {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A name of its own, or its certificates look as if they had signed themselves.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    Pki { authority: issuer.pem(), server: issue("localhost"), client: issue("scraper") }
}

impl Pki {
    fn files(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ca.pem", self.authority.clone()),
            ("server.pem", self.server.0.clone()),
            ("server.key", self.server.1.clone()),
            ("client.pem", self.client.0.clone()),
            ("client.key", self.client.1.clone()),
        ]
    }
}

/// Asks by an HTTP client that has seen many servers.
fn curl(directory: &Path, address: SocketAddr, flags: &[&str]) -> Output {
    let url = format!("https://localhost:{}/-/healthy", address.port());
    Command::new("curl")
        .current_dir(directory)
        .args(["--silent", "--show-error", "--cacert", "ca.pem", "--max-time", "60"])
        .args(["--write-out", "%{http_version} %{ssl_verify_result}"])
        .args(flags)
        .arg(url)
        .output()
        .expect("curl")
}

#[test]
fn tls_is_spoken_with_either_http() {
    if !harness::installed("tls_is_spoken_with_either_http", &["curl"]) {
        return;
    }
    let web = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let exporter = start(web, &pki().files());
    let ask = |flags: &[&str]| text(&curl(exporter.directory(), exporter.address(), flags).stdout);
    assert_eq!(ask(&["--http2"]), "Healthy\n2 0");
    assert_eq!(ask(&["--http1.1"]), "Healthy\n1.1 0");
    assert_eq!(ask(&["--tlsv1.2", "--tls-max", "1.2"]), "Healthy\n2 0");

    let web = format!("{web}http_server_config: {{http2: false}}\n")
        .replace("server.key}", "server.key, min_version: TLS13}");
    let exporter = start(&web, &pki().files());
    let ask = |flags: &[&str]| curl(exporter.directory(), exporter.address(), flags);
    assert_eq!(text(&ask(&["--http2"]).stdout), "Healthy\n1.1 0");
    assert!(!ask(&["--tlsv1.2", "--tls-max", "1.2"]).status.success());
}

#[test]
fn clients_show_certificates_where_they_must() {
    if !harness::installed("clients_show_certificates_where_they_must", &["curl"]) {
        return;
    }
    let pki = pki();
    let with = ["--cert", "client.pem", "--key", "client.key"];
    for (settings, without_one, with_one) in [
        ("client_auth_type: RequestClientCert", true, true),
        ("client_auth_type: RequireAnyClientCert", false, true),
        ("client_ca_file: ca.pem, client_auth_type: VerifyClientCertIfGiven", true, true),
        ("client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert", false, true),
        (
            "client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert, \
             client_allowed_sans: [other]",
            false,
            false,
        ),
        (
            "client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert, \
             client_allowed_sans: [scraper]",
            false,
            true,
        ),
    ] {
        let web = format!(
            "tls_server_config: {{cert_file: server.pem, key_file: server.key, {settings}}}\n"
        );
        let exporter = start(&web, &pki.files());
        let ask =
            |flags: &[&str]| curl(exporter.directory(), exporter.address(), flags).status.success();
        assert_eq!(ask(&[]), without_one, "{settings} without");
        assert_eq!(ask(&with), with_one, "{settings} with");
    }
}

#[test]
fn a_certificate_that_is_replaced_is_used() {
    if !harness::installed("a_certificate_that_is_replaced_is_used", &["curl"]) {
        return;
    }
    let web = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let exporter = start(web, &pki().files());
    let renewed = pki();
    for (name, text) in renewed.files() {
        std::fs::write(exporter.directory().join(name), text).unwrap();
    }

    wait_until(LIMIT, || {
        let output = curl(exporter.directory(), exporter.address(), &[]);
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
}
