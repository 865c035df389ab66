//! What the target itself does: nobody's fault, or its own, seen with a healthy network between.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use harness::listener::{FullBacklog, Visitor};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::scene::Scene;
use crate::situation::Situation;

/// A service that wants a word before it says anything, and answers in half a second.
pub(crate) const SLOW: &str = "query_response: [{send: 'word'}, {expect: '^answer'}]";
/// TLS with whomever.
pub(crate) const UNVERIFIED: &str = "tls: true, tls_config: {insecure_skip_verify: true}";
/// A service that speaks first.
pub(crate) const BANNER: &str = "query_response: [{expect: '^hello'}]";

pub(crate) fn situations() -> Vec<Situation> {
    [healthy(), failing(), resetting(), tls()].into_iter().flatten().collect()
}

fn healthy() -> Vec<Situation> {
    vec![
        Situation::new("open", "the port is open"),
        Situation::new("banner", "the service greets").prepare(|scene| {
            scene.speak(BANNER);
            scene.serve(|visitor| {
                visitor.write(b"hello\r\n");
                visitor.read_to_end();
            });
        }),
        Situation::new("slow_answer", "the service takes half a second").prepare(slow),
        Situation::new("closed_as_expected", "nothing listens, as the module wants").prepare(
            |scene| {
                scene.speak("expect_connect: closed");
                scene.closed();
            },
        ),
        Situation::new("refused_as_expected", "nothing listens, as the module wants").prepare(
            |scene| {
                scene.speak("expect_connect: refused");
                scene.closed();
            },
        ),
    ]
}

/// A service that answers in half a second.
pub(crate) fn slow(scene: &mut Scene) {
    scene.speak(SLOW);
    scene.serve(|visitor| {
        if visitor.read_until(4) {
            sleep(Duration::from_millis(500));
            visitor.write(b"answer\n");
            visitor.read_to_end();
        }
    });
}

fn failing() -> Vec<Situation> {
    vec![
        Situation::new("port_closed", "nothing listens")
            .prepare(Scene::closed)
            .begins_broken()
            .target(&["refused/connect"])
            .at("host"),
        Situation::new("accept_queue_full", "the service no longer accepts")
            .prepare(|scene| {
                let address = SocketAddr::new(scene.far_ip(), 0);
                let full = scene.far.within(|| FullBacklog::at(address));
                scene.port = full.address().port();
                scene.keep(full);
            })
            .begins_broken()
            .target(&["timeout/connect"]),
        Situation::new("open_though_it_must_be_shut", "the module wants it closed")
            .prepare(|scene| {
                scene.speak("expect_connect: closed");
                scene.open();
            })
            .begins_broken()
            .target(&["unexpectedly_open/connect"]),
        Situation::new("service_closes_at_once", "accepts and closes")
            .prepare(|scene| {
                scene.speak(BANNER);
                scene.serve(|_| ());
            })
            .begins_broken()
            .target(&["closed_early/dialogue"])
            .at("service"),
        Situation::new("service_closes_while_held", "accepts and closes after 200 ms")
            .prepare(|scene| {
                scene.speak("hold: 600ms");
                scene.serve(|_| sleep(Duration::from_millis(200)));
            })
            .begins_broken()
            .target(&["closed_early/dialogue"])
            .at("service"),
        Situation::new("service_says_nothing", "accepts, no greeting")
            .prepare(|scene| {
                scene.speak(BANNER);
                scene.open();
            })
            .begins_broken()
            .target(&["expect_timeout/dialogue"])
            .at("service"),
        Situation::new("service_hangs", "reads the question, never answers")
            .prepare(|scene| {
                scene.speak(SLOW);
                scene.open();
            })
            .begins_broken()
            .target(&["expect_timeout/dialogue"])
            .at("service"),
        Situation::new("wrong_answer", "another service answers")
            .prepare(|scene| {
                scene.speak(BANNER);
                scene.serve(|visitor| visitor.write(b"nonsense\n"));
            })
            .begins_broken()
            .target(&["expect_mismatch/dialogue"])
            .at("service"),
    ]
}

/// A server that resets as soon as it has accepted: always the same outcome, sixty times.
fn resetting() -> Vec<Situation> {
    let resets = |scene: &mut Scene, module: &str| {
        scene.speak(module);
        scene.serve(Visitor::reset);
    };
    vec![
        Situation::new("reset_at_once_connect", "accepts and resets; 60 connects")
            .prepare(move |scene| resets(scene, ""))
            .times(60),
        Situation::new("reset_at_once_hold", "accepts and resets; 60 times with hold")
            .prepare(move |scene| resets(scene, "hold: 300ms"))
            .begins_broken()
            .target(&["reset/dialogue"])
            .at("service")
            .times(60),
        Situation::new("reset_at_once_dialogue", "accepts and resets; 60 dialogues")
            .prepare(move |scene| resets(scene, BANNER))
            .begins_broken()
            .target(&["reset/dialogue"])
            .at("service")
            .times(60),
        Situation::new("reset_at_once_question", "accepts and resets; 60 questions")
            .prepare(move |scene| resets(scene, SLOW))
            .begins_broken()
            .target(&["reset/dialogue"])
            .at("service")
            .times(60),
    ]
}

fn tls() -> Vec<Situation> {
    vec![
        Situation::new("tls", "a certificate that is good for ten days")
            .prepare(|scene| encrypted(scene, -10, 10, "target.example")),
        Situation::new("certificate_expired", "the certificate ended yesterday")
            .prepare(|scene| encrypted(scene, -10, -1, "target.example"))
            .begins_broken()
            .target(&["tls_expired/tls"])
            .at("certificate"),
        Situation::new("certificate_not_yet_valid", "the certificate begins tomorrow")
            .prepare(|scene| encrypted(scene, 1, 10, "target.example"))
            .begins_broken()
            .target(&["tls_not_yet_valid/tls"])
            .at("certificate"),
        Situation::new("certificate_of_another", "the certificate is for another name")
            .prepare(|scene| encrypted(scene, -10, 10, "other.example"))
            .begins_broken()
            .target(&["tls_wrong_name/tls"])
            .at("certificate"),
        Situation::new("not_tls", "the service does not speak TLS")
            .prepare(|scene| {
                scene.speak(UNVERIFIED);
                scene.serve(|visitor| {
                    visitor.write(b"220 hello, this is no TLS\r\n");
                    visitor.read_to_end();
                });
            })
            .begins_broken()
            .target(&["tls_not_tls/tls"])
            .at("service"),
        Situation::new("tls_hangs", "reads the first message, never answers")
            .prepare(|scene| {
                scene.speak(UNVERIFIED);
                scene.open();
            })
            .begins_broken()
            .target(&["tls_timeout/tls"])
            .at("service"),
    ]
}

/// The target speaks TLS with a certificate for `name`, good from and until so many days from now.
pub(crate) fn encrypted(scene: &mut Scene, from: i32, until: i32, name: &str) {
    let day = |offset: i32| {
        let today = jiff::Timestamp::now().as_second() + i64::from(offset) * 86_400;
        let date = jiff::Timestamp::from_second(today).expect("a time").to_string();
        let part = |range: std::ops::Range<usize>| date[range].parse::<i32>().expect("a number");
        let small = |number: i32| u8::try_from(number).expect("a day or a month");
        rcgen::date_time_ymd(part(0..4), small(part(5..7)), small(part(8..10)))
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (day(from), day(until));
    let certificate = params.self_signed(&key).expect("a certificate");
    let file = scene.etc().join("authority.pem");
    std::fs::write(&file, certificate.pem()).expect("a file");
    scene
        .speak("tls: true, tls_config: {ca_file: /etc/authority.pem, server_name: target.example}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a pair");
    let config = Arc::new(config);
    scene.serve(move |visitor| {
        let mut server = ServerConnection::new(Arc::clone(&config)).expect("a server");
        let mut stream = Stream::new(&mut server, &mut visitor.stream);
        let _ = stream.flush();
        let _ = stream.read(&mut [0; 64]);
    });
}
