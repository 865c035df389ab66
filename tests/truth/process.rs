//! The exporter's own process and clock: stopped within a probe, set to another day.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::{Scene, filter};
use crate::service::{BANNER, encrypted};
use crate::situation::Situation;

/// Whether a row of this name is about the exporter's own process.
pub(crate) fn is_about(name: &str) -> bool {
    situations().iter().any(|situation| situation.name == name)
}

pub(crate) fn situations() -> Vec<Situation> {
    [stops(), clock()].into_iter().flatten().collect()
}

/// Stops the exporter a moment after a probe may have begun, for so long, over and over.
fn stop(millis: u64) -> impl Fn(&Scene) + Send + Sync {
    move |scene| {
        sleep(Duration::from_millis(120));
        scene.exporter().signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(millis));
        scene.exporter().signal(Signal::SIGCONT);
        // Lets the probe end that was stopped, now and then a whole one.
        sleep(Duration::from_millis(3100_u64.saturating_sub(millis) / 2 + 100));
    }
}

/// A service that takes half a second, one that hangs up on who is slow, one whose answer to the
/// SYN comes to nobody at first.
fn stops() -> Vec<Situation> {
    let mut all = Vec::new();
    for (name, millis) in [
        ("stopped_300_ms", 300),
        ("stopped_900_ms", 900),
        ("stopped_1500_ms", 1500),
        ("stopped_2100_ms", 2100),
        ("stopped_2700_ms", 2700),
        ("stopped_2900_ms", 2900),
    ] {
        all.push(stopped(name, millis, "the service answers in half a second", |scene| {
            scene
                .speak("query_response: [{expect: '^hello'}, {send: 'word'}, {expect: '^answer'}]");
            scene.serve(|visitor| {
                visitor.write(b"hello\n");
                if visitor.read_until(4) {
                    sleep(Duration::from_millis(500));
                    visitor.write(b"answer\n");
                    visitor.read_to_end();
                }
            });
        }));
    }
    for (name, millis) in [("stopped_900_ms_impatient", 900), ("stopped_2100_ms_impatient", 2100)] {
        all.push(stopped(name, millis, "the service hangs up after 700 ms", |scene| {
            scene
                .speak("query_response: [{expect: '^hello'}, {send: 'word'}, {expect: '^answer'}]");
            scene.serve(|visitor| {
                visitor.write(b"hello\n");
                let patience = Some(Duration::from_millis(700));
                visitor.stream.set_read_timeout(patience).expect("a timeout");
                if visitor.read_until(4) {
                    visitor.write(b"answer\n");
                    visitor.read_to_end();
                }
            });
        }));
    }
    for (name, millis) in [("stopped_1500_ms_lossy", 1500), ("stopped_2900_ms_lossy", 2900)] {
        all.push(
            stopped(name, millis, "the first answer to each SYN is lost", |scene| {
                scene.speak(BANNER);
                scene.serve(|visitor| {
                    visitor.write(b"hello\n");
                    visitor.read_to_end();
                });
                let rule = format!(
                    "tcp sport {} tcp flags & (syn | ack) == (syn | ack) tcp dport != @seen add @seen {{ tcp dport }} drop",
                    scene.port
                );
                filter(&scene.router, "forward", &rule);
            })
        );
    }
    for (name, millis) in [("stopped_900_ms_tls", 900), ("stopped_2700_ms_tls", 2700)] {
        all.push(stopped(name, millis, "the service speaks TLS", |scene| {
            encrypted(scene, -10, 10, "target.example");
        }));
    }
    all
}

fn stopped(
    name: &'static str,
    millis: u64,
    story: &str,
    prepare: impl Fn(&mut Scene) + Send + Sync + 'static,
) -> Situation {
    Situation::new(name, format!("the exporter is stopped for {millis} ms of 3 s; {story}"))
        .prepare(move |scene| {
            prepare(scene);
            scene.timeout = Duration::from_secs(3);
        })
        .weather(stop(millis))
        .times(3)
        .without_terminal()
        .only_v4()
        // A probe that was stopped and ended well all the same has seen enough.
        .monitor(&[
            "success",
            "local_stall/connect",
            "local_stall/dialogue",
            "local_stall/tls",
            "local_stall/resolve",
        ])
}

/// Where Debian has the library that shifts clocks.
fn faketime() -> Option<&'static str> {
    [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ]
    .into_iter()
    .find(|file| Path::new(file).exists())
}

/// A wall clock that can be set; nothing else is shifted.
fn settable(scene: &mut Scene) {
    let file = scene.etc().join("clock");
    std::fs::write(&file, "+0").expect("a file");
    let library = faketime().expect("libfaketime is installed");
    let pairs = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", "/etc/clock"),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    scene.environment = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
}

fn set(scene: &Scene, offset: &str) {
    let draft = scene.etc().join("clock.new");
    std::fs::write(&draft, offset).expect("a file");
    std::fs::rename(draft, scene.etc().join("clock")).expect("a file");
}

fn clock() -> Vec<Situation> {
    if faketime().is_none() {
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "no libfaketime");
        eprintln!("SKIPPED the clock: no libfaketime");
        return Vec::new();
    }
    let valid = |scene: &mut Scene| {
        encrypted(scene, -10, 10, "target.example");
        settable(scene);
    };
    vec![
        Situation::new("clock_ahead", "our clock jumps 20 days ahead; a certificate of ten days")
            .prepare(valid)
            .breaks(|scene| set(scene, "+20d"))
            .without_terminal()
            .monitor(&["local_clock/tls"])
            .at("machine"),
        Situation::new("clock_behind", "our clock jumps 20 days back; a certificate of ten days")
            .prepare(valid)
            .breaks(|scene| set(scene, "-20d"))
            .without_terminal()
            .monitor(&["local_clock/tls"])
            .at("machine"),
        Situation::new("clock_came_back", "our clock jumped 20 days ahead and back")
            .prepare(valid)
            .breaks(|scene| {
                set(scene, "+20d");
                let _ = crate::ask::once(scene);
                set(scene, "+0");
            })
            .check(|scene, _| {
                let target = crate::ask::target(scene);
                let now = jiff::Timestamp::now().as_second();
                #[expect(clippy::cast_precision_loss, reason = "seconds of a day")]
                let latest = now as f64 + 60.0;
                match target["last_change_timestamp_seconds"].as_f64() {
                    Some(at) if at > latest => Err(format!("last change in the future: {at}")),
                    _ => Ok(()),
                }
            })
            .without_terminal(),
        Situation::new("clock_ahead_connect", "our clock jumps 20 days ahead; a plain port")
            .prepare(|scene| {
                scene.open();
                settable(scene);
            })
            .breaks(|scene| set(scene, "+20d"))
            .without_terminal(),
        Situation::new(
            "expired_whatever_the_clock",
            "the clock jumped and came back, the certificate ended yesterday",
        )
        .prepare(|scene| {
            encrypted(scene, -10, -1, "target.example");
            settable(scene);
        })
        .breaks(|scene| {
            set(scene, "+20d");
            let _ = crate::ask::once(scene);
            set(scene, "+0");
        })
        .begins_broken()
        .without_terminal()
        .target(&["tls_expired/tls"])
        .at("certificate"),
    ]
}
