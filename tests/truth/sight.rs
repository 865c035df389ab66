//! Whether we see at all: canaries, ports that must be shut, findings that prove contact.

use crate::ask;
use crate::scene::{Scene, filter};
use crate::service::{BANNER, encrypted};
use crate::situation::Situation;

/// A region that is cut off, as the exporter can know it from its canaries.
const ISOLATED: [&[&str]; 1] = [&["local_isolated/connect", "local_gateway/connect"]];

pub(crate) fn situations() -> Vec<Situation> {
    [cut_off(), shut(), contact()].into_iter().flatten().collect()
}

fn expecting(scene: &mut Scene, expected: &str) {
    if !expected.is_empty() {
        scene.module = format!("expect_connect: {expected}");
    }
}

/// Everything beyond our router is dropped, a canary says so, the port is open.
fn cut_off() -> Vec<Situation> {
    let cut_off = |name, expected: &'static str| {
        Situation::new(name, "cut off beyond our router, the canary too")
            .prepare(move |scene| {
                expecting(scene, expected);
                scene.open();
                scene.canary();
                scene.cut_off();
            })
            .begins_broken()
            .without_terminal()
            .monitor(ISOLATED[0])
    };
    vec![
        Situation::new("cut_off", "cut off beyond our router, the canary too")
            .prepare(|scene| {
                scene.open();
                scene.canary();
            })
            .breaks(Scene::cut_off)
            .without_terminal()
            .monitor(ISOLATED[0]),
        cut_off("cut_off_closed_expected", "closed"),
        cut_off("cut_off_refused_expected", "refused"),
        cut_off("cut_off_timeout_expected", "timeout"),
        Situation::new("cut_off_among_others", "cut off, no canary, every other target silent too")
            .prepare(|scene| {
                expecting(scene, "closed");
                scene.open();
                (0..3).for_each(|_| scene.witness());
                scene.cut_off();
            })
            .begins_broken()
            // Asked once the others were.
            .breaks(ask::wait_probed)
            .without_terminal()
            .monitor(&["local_isolated/connect"]),
    ]
}

/// A port that is shut by silence, seen by somebody who sees.
fn shut() -> Vec<Situation> {
    let drop = |scene: &mut Scene, expected| {
        expecting(scene, expected);
        scene.open();
        let rule = format!("tcp dport {} drop", scene.port);
        filter(&scene.far, "input", &rule);
    };
    vec![
        Situation::new("silent_as_expected", "the target drops, the canary answers")
            .prepare(move |scene| {
                drop(scene, "closed");
                scene.canary();
            })
            .without_terminal(),
        Situation::new("timeout_as_expected", "the target drops, the canary answers")
            .prepare(move |scene| {
                drop(scene, "timeout");
                scene.canary();
            })
            .without_terminal(),
        Situation::new("outage_beside_a_canary", "the target drops, the canary answers")
            .prepare(move |scene| {
                drop(scene, "");
                scene.canary();
            })
            .begins_broken()
            .without_terminal()
            .target(&["timeout/connect"]),
        Situation::new("outage_beside_a_dead_canary", "the target drops, a canary of two is dead")
            .prepare(move |scene| {
                drop(scene, "");
                scene.canary();
                scene.dead_canary();
            })
            .begins_broken()
            .without_terminal()
            .target(&["timeout/connect"]),
        Situation::new(
            "outage_beside_healthy_targets",
            "the target drops, the only canary is dead, other targets answer",
        )
        .prepare(move |scene| {
            scene.open();
            (0..3).for_each(|_| scene.witness());
            scene.dead_canary();
        })
        .breaks(|scene| {
            let rule = format!("tcp dport {} drop", scene.port);
            filter(&scene.far, "input", &rule);
        })
        .without_terminal()
        .target(&["timeout/connect"]),
        Situation::new(
            "outage_beside_a_lossy_canary",
            "the target drops, the only canary loses nine packets of ten, other targets answer",
        )
        .prepare(move |scene| {
            scene.open();
            (0..3).for_each(|_| scene.witness());
            scene.canary();
        })
        .breaks(|scene| {
            let rule = format!("tcp dport {} drop", scene.port);
            filter(&scene.far, "input", &rule);
            let port = scene.canaries[0].rsplit(':').next().expect("a port");
            let rule = format!("tcp dport {port} numgen random mod 10 < 9 drop");
            filter(&scene.other, "input", &rule);
        })
        .times(3)
        .without_terminal()
        .target(&["timeout/connect"]),
        Situation::new("healthy_beside_a_dead_canary", "the only canary is dead, the target well")
            .prepare(|scene| {
                scene.open();
                scene.dead_canary();
            })
            .without_terminal(),
    ]
}

/// Findings that prove contact with the target: no canary takes them back.
fn contact() -> Vec<Situation> {
    let dead = |name, story: &'static str, prepare: fn(&mut Scene)| {
        Situation::new(name, format!("{story}; the only canary is dead"))
            .prepare(move |scene| {
                prepare(scene);
                scene.dead_canary();
            })
            .begins_broken()
            .without_terminal()
    };
    vec![
        dead("open_beside_a_dead_canary", "open though it must be shut", |scene| {
            expecting(scene, "closed");
            scene.open();
        })
        .target(&["unexpectedly_open/connect"]),
        dead("expired_beside_a_dead_canary", "the certificate ended yesterday", |scene| {
            encrypted(scene, -10, -1, "target.example");
        })
        .target(&["tls_expired/tls"])
        .at("certificate"),
        dead("mismatch_beside_a_dead_canary", "another service answers", |scene| {
            scene.speak(BANNER);
            scene.serve(|visitor| visitor.write(b"nonsense\n"));
        })
        .target(&["expect_mismatch/dialogue"])
        .at("service"),
        dead("closed_early_beside_a_dead_canary", "accepts and closes", |scene| {
            scene.speak(BANNER);
            scene.serve(|_| ());
        })
        .target(&["closed_early/dialogue"])
        .at("service"),
        dead("refused_beside_a_dead_canary", "nothing listens", Scene::closed)
            .target(&["refused/connect"])
            .at("host"),
        dead("refused_as_expected_beside_a_dead_canary", "nothing listens, as expected", |scene| {
            expecting(scene, "closed");
            scene.closed();
        }),
    ]
    .into_iter()
    .collect()
}
