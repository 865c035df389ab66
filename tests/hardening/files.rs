//! Files that are not what they should be: of modules, of the trust store, of the web
//! configuration, of the configuration itself. Each costs an error, never the exporter.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use harness::listener::Visitor;
use harness::{Exporter, HangingMount, Listener, Metrics, wait_until};
use nix::sys::signal::Signal;
use rustls::pki_types::PrivateKeyDer;

use crate::{EXPORTER, LIMIT, MIB, assert_well, memory};

/// A server for `localhost` with a certificate that signed itself, and that certificate.
fn server() -> (Listener, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = rcgen::CertificateParams::new(names).expect("names");
    let certificate = params.self_signed(&key).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    let config = Arc::new(config);
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let listener = Listener::serve(address, move |visitor: &mut Visitor| {
        let mut server = rustls::ServerConnection::new(Arc::clone(&config)).expect("a server");
        while server.is_handshaking() && server.complete_io(&mut visitor.stream).is_ok() {}
        visitor.read_to_end();
    });
    (listener, certificate.pem())
}

/// Puts a text in the place of a file in one step.
fn replace(path: &Path, text: &str) {
    let aside = path.with_extension("aside");
    fs::write(&aside, text).expect("a file");
    fs::rename(aside, path).expect("a file");
}

fn reload_successful(exporter: &Exporter) -> bool {
    let page = Metrics::parse(&exporter.get("/metrics").text());
    let value = page.value("tcp_probe_exporter_config_last_reload_successful", &[]);
    value.expect("a value") > 0.5
}

#[test]
fn a_file_of_a_module_may_be_anything() {
    let Some(mount) = HangingMount::new("a_file_of_a_module_may_be_anything") else { return };
    let (peer, certificate) = server();
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name);
    harness::process::run(&["mkfifo", &path("pipe").display().to_string()]);
    fs::File::create(path("huge")).and_then(|file| file.set_len(1 << 40)).expect("a file");
    fs::write(path("empty"), "").expect("a file");
    fs::write(path("cut"), &certificate[..certificate.len() / 2]).expect("a file");
    fs::write(path("good"), &certificate).expect("a file");
    let cases = [
        (path("pipe"), "it is a pipe or a device"),
        ("/dev/zero".into(), "it is a pipe or a device"),
        (home.path().to_owned(), "it is a directory"),
        (path("huge"), "it is larger than 16 MiB"),
        (path("empty"), "no certificate in PEM form"),
        (path("cut"), "damaged PEM"),
        (mount.path(), "the file system hangs"),
    ];
    let module = |name: &str, file: &Path| {
        let file = file.display();
        format!(
            "  {name}: {{prober: tcp, timeout: 20s, tcp: {{tls: true, tls_config: {{ca_file: '{file}'}}}}}}\n"
        )
    };
    let mut config = "modules:\n".to_owned() + &module("good", &path("good"));
    for (index, (file, _)) in cases.iter().enumerate() {
        config += &module(&format!("bad{index}"), file);
    }
    let port = peer.port();
    let monitor = format!(
        "{{name: m, host: 127.0.0.1, port: {port}, module: good, interval: 1s, timeout: 900ms}}"
    );
    let config = format!("{config}monitors: [{monitor}]\n");
    let exporter = Exporter::new(EXPORTER).config(&config).start();
    let before = memory(&exporter);
    let probes = || {
        let page = Metrics::parse(&exporter.get("/metrics").text());
        page.value("tcp_monitor_probes_total", &[("outcome", "success")]).unwrap_or_default()
    };

    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..cases.len())
            .flat_map(|index| [index; 3])
            .map(|index| {
                let url = format!("/probe?target={}&module=bad{index}&debug=true", peer.target());
                let exporter = &exporter;
                scope.spawn(move || (url.clone(), exporter.get(&url)))
            })
            .collect();
        // Meanwhile everything else goes on.
        for _ in 0..20 {
            let begun = Instant::now();
            let good = exporter.probe(&peer.target(), "good");
            assert_eq!(good.value("probe_success", &[]), Some(1.0), "{}", good.text);
            assert_well(&exporter);
            assert_eq!(exporter.post("/-/reload").status, 200);
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
        let seen = probes();
        wait_until(LIMIT, || if probes() > seen { Ok(()) } else { Err("no probe".to_owned()) });
        for (answer, (_, words)) in asked.into_iter().zip(cases.iter().flat_map(|case| [case; 3])) {
            let (url, answer) = answer.join().expect("an answer");
            let text = answer.text();
            assert!(text.contains("local_config") && text.contains(words), "{url}: {text}");
        }
    });
    let growth = memory(&exporter).saturating_sub(before);
    assert!(growth < 64 * MIB, "{growth}");
    let mut exporter = exporter;
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait(LIMIT).success(), "a thread that hangs does not keep it from ending");
}

#[test]
fn a_trust_store_that_is_filled_later_is_used() {
    let (peer, certificate) = server();
    let (_, other) = server();
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store.pem");
    fs::write(&store, "").expect("a file");
    let exporter = Exporter::new(EXPORTER)
        .env("SSL_CERT_FILE", &store.display().to_string())
        .env("SSL_CERT_DIR", "")
        .start();
    let url = format!("/probe?target={}&module=tls_connect&debug=true", peer.target());
    let wait_for = |words: &str| {
        wait_until(LIMIT, || match exporter.get(&url).text() {
            text if text.contains(words) => Ok(()),
            text => Err(text),
        });
    };
    wait_for("local_config");
    fs::write(&store, &certificate).expect("a file");
    wait_for("probe_success 1");
    // Another authority in its place is seen too, and what is no store changes nothing.
    replace(&store, &other);
    wait_for("tls_untrusted");
    replace(&store, &certificate);
    wait_for("probe_success 1");
    for (spoilt, words) in [("", "no certificate in PEM form"), (&certificate[..99], "damaged PEM")]
    {
        replace(&store, spoilt);
        wait_for(words);
        wait_for("probe_success 1");
    }
    fs::remove_file(&store).expect("a file");
    wait_for("No such file");
    wait_for("probe_success 1");
}

#[test]
fn a_spoilt_file_of_a_module_leaves_the_good_one_in_force() {
    let (peer, certificate) = server();
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("ca.pem");
    fs::write(&file, &certificate).expect("a file");
    let tls = format!("{{tls: true, tls_config: {{ca_file: '{}'}}}}", file.display());
    let exporter = Exporter::new(EXPORTER)
        .config(&format!("modules: {{m: {{prober: tcp, tcp: {tls}}}}}\n"))
        .start();
    let url = format!("/probe?target={}&module=m&debug=true", peer.target());
    let wait_for = |words: &str| {
        wait_until(LIMIT, || match exporter.get(&url).text() {
            text if text.contains(words) => {
                assert!(text.contains("probe_success 1"), "{text}");
                Ok(())
            }
            text => Err(text),
        });
    };
    wait_for("probe_success 1");
    for (spoilt, words) in [("", "no certificate in PEM form"), (&certificate[..99], "damaged PEM")]
    {
        replace(&file, spoilt);
        wait_for(words);
    }
    let log = exporter.log();
    let line = "error reloading certificate files, the last good one stays";
    assert_eq!(log.matches(line).count(), 2, "one line for each: {log}");
}

#[test]
fn a_configuration_that_hangs_stops_neither_probes_nor_the_next_reload() {
    let test = "a_configuration_that_hangs_stops_neither_probes_nor_the_next_reload";
    let Some(mount) = HangingMount::new(test) else { return };
    let good = "modules: {m: {prober: tcp}}\n";
    let mut exporter = Exporter::new(EXPORTER).config(good).start();
    let file = exporter.directory().join("config.yml");
    fs::remove_file(&file).expect("a file");
    std::os::unix::fs::symlink(mount.path(), &file).expect("a link");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..4).map(|_| scope.spawn(|| exporter.post("/-/reload"))).collect();
        wait_until(LIMIT, || {
            assert_well(&exporter);
            if reloads.iter().all(ScopedJoinHandle::is_finished) {
                Ok(())
            } else {
                Err("hangs".to_owned())
            }
        });
        for answer in reloads {
            let answer = answer.join().expect("an answer");
            assert_eq!(answer.status, 500);
            assert!(answer.text().contains("the file system hangs"), "{}", answer.text());
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(!reload_successful(&exporter));
    // It answers again, and the file with it.
    drop(mount);
    replace(&file, good);
    wait_until(LIMIT, || match exporter.post("/-/reload") {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text()),
    });
    assert!(reload_successful(&exporter));
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait(LIMIT).success());
}

/// `user: secret` by the least cost.
fn users() -> String {
    format!("basic_auth_users: {{user: '{}'}}\n", bcrypt::hash("secret", 4).expect("a hash"))
}

#[test]
fn an_emptied_or_cut_web_configuration_does_not_open_the_server() {
    let good = format!("http_server_config: {{http2: false}}\n{}", users());
    let mut exporter =
        Exporter::new(EXPORTER).file("web.yml", &good).flag("--web.config.file=web.yml").start();
    // user:secret
    let known = [("Authorization", "Basic dXNlcjpzZWNyZXQ=")];
    let successful = |exporter: &Exporter| {
        let page = Metrics::parse(&exporter.get_with("/metrics", &known).text());
        let value = page.value("tcp_probe_exporter_config_last_reload_successful", &[]);
        value.expect("a value") > 0.5
    };
    let file = exporter.directory().join("web.yml");
    let cut = good.find("basic").expect("the users");
    let (half, inner) = (good[..cut].to_owned(), good[..cut + 25].to_owned());
    let cases: [(&str, &dyn Fn()); 6] = [
        ("emptied", &|| fs::write(&file, "").expect("a file")),
        ("a comment only", &|| replace(&file, "# later\n")),
        ("cut between two keys", &|| replace(&file, &half)),
        ("cut within a key", &|| replace(&file, &inner)),
        ("deleted", &|| fs::remove_file(&file).expect("a file")),
        ("a pipe", &|| {
            harness::process::run(&["mkfifo", &file.display().to_string()]);
        }),
    ];
    let line = "error reloading web configuration, the last good one stays";
    for (index, (what, spoil)) in cases.into_iter().enumerate() {
        spoil();
        wait_until(LIMIT, || {
            assert_eq!(exporter.get("/-/healthy").status, 401, "{what}");
            match (successful(&exporter), exporter.log().matches(line).count()) {
                (false, told) if told == index + 1 => Ok(()),
                other => Err(format!("{what}: {other:?}")),
            }
        });
        assert_eq!(exporter.get("/-/healthy").status, 401, "{what}");
        if what != "deleted" {
            replace(&file, &good);
            wait_until(LIMIT, || if successful(&exporter) { Ok(()) } else { Err(what.to_owned()) });
        }
    }
    let log = exporter.log();
    assert_eq!(log.matches(line).count(), 6, "one line for each: {log}");
    assert!(log.contains("restart to remove protection"), "{log}");
    // More protection is taken at once.
    replace(&file, &(good + "rate_limit: {interval: 1h, burst: 1}\n"));
    wait_until(LIMIT, || match exporter.get("/-/healthy").status {
        429 => Ok(()),
        status => Err(status.to_string()),
    });
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait(LIMIT).success());
}
