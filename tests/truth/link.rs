//! Our own link: the gateway, the cable, the addresses.

use std::time::Duration;

use harness::wait_until;

use crate::scene::{Scene, literal};
use crate::situation::Situation;

const OURS: &[&str] = &["local_gateway/connect"];

pub(crate) fn situations() -> Vec<Situation> {
    let mut all = gateway();
    all.extend(cable());
    all.extend(addresses());
    all
}

/// The neighbour entry of the gateway is forgotten, as after a quiet minute.
fn forget(scene: &Scene) {
    let word = if scene.v6 { "-6" } else { "-4" };
    scene.near.run(&["ip", word, "neigh", "flush", "dev", &scene.near_link]);
}

/// Long enough for a neighbour to be found missing: three seconds.
fn patient(scene: &mut Scene) {
    scene.timeout = Duration::from_millis(4500);
    scene.open();
}

fn expecting(scene: &mut Scene, expected: &str) {
    scene.module = format!("expect_connect: {expected}");
    patient(scene);
}

fn gateway() -> Vec<Situation> {
    let deaf = |scene: &mut Scene| {
        scene.deafen_gateway();
        forget(scene);
    };
    let mut all = vec![
        Situation::new("gateway_silent", "our gateway answers nothing any more")
            .prepare(patient)
            .breaks(|scene| {
                scene.deafen_gateway();
                forget(scene);
            })
            .monitor(OURS)
            .at("link"),
        Situation::new("gateway_silent_from_the_start", "our gateway answers nothing")
            .prepare(move |scene| {
                patient(scene);
                deaf(scene);
            })
            .begins_broken()
            .monitor(OURS)
            .at("link"),
        Situation::new("gateway_silent_short_timeout", "the same, a timeout below three seconds")
            .prepare(move |scene| {
                scene.open();
                deaf(scene);
            })
            .begins_broken()
            .monitor(OURS)
            .at("link"),
        Situation::new(
            "gateway_dies_beside_a_canary",
            "our gateway falls silent, its entry is still fresh",
        )
        .prepare(|scene| {
            patient(scene);
            scene.canary();
        })
        .breaks(Scene::deafen_gateway)
        .without_terminal()
        .monitor(&["local_gateway/connect", "local_isolated/connect"]),
        Situation::new(
            "gateway_found_silent",
            "our gateway fell silent and the kernel has noticed",
        )
        .prepare(|scene| {
            scene.open();
            quick_neighbours(scene);
        })
        .breaks(|scene| {
            scene.deafen_gateway();
            notice(scene);
        })
        // What was probed before the kernel knew is no concern of this row.
        .on_demand()
        .monitor(OURS)
        .at("link"),
    ];
    let expected = [
        ("gateway_silent_closed_expected", "closed"),
        ("gateway_silent_timeout_expected", "timeout"),
        ("gateway_silent_refused_expected", "refused"),
    ];
    all.extend(expected.map(|(name, expected)| {
        Situation::new(name, "our gateway answers nothing, the port is open")
            .prepare(move |scene| {
                expecting(scene, expected);
                deaf(scene);
            })
            .begins_broken()
            .monitor(OURS)
            .at("link")
    }));
    all
}

/// Neighbours are doubted after a second instead of half a minute.
fn quick_neighbours(scene: &Scene) {
    let version = if scene.v6 { "ipv6" } else { "ipv4" };
    for (key, value) in [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1")] {
        let word = format!("net.{version}.neigh.{}.{key}={value}", scene.near_link);
        scene.near.run(&["sysctl", "-qw", &word]);
    }
}

/// Sends through the gateway until the kernel has found it missing.
fn notice(scene: &Scene) {
    let (gateway, far) = (scene.gateway().to_string(), scene.far_ip());
    let version = if scene.v6 { "-6" } else { "-4" };
    wait_until(Duration::from_secs(40), || {
        scene.near.within(|| {
            let any = if scene.v6 { "[::]:0" } else { "0.0.0.0:0" };
            let socket = std::net::UdpSocket::bind(any).expect("a socket");
            let _ = socket.send_to(b"x", (far, 9));
        });
        let state = scene.near.run(&["ip", version, "neigh", "show", &gateway]);
        let is_known = state.contains("FAILED") || state.contains("INCOMPLETE");
        if is_known { Ok(()) } else { Err(state) }
    });
}

/// No carrier on our interface.
fn cut(scene: &Scene) {
    scene.router.ip(&format!("link set {} down", scene.near_link));
}

fn cable() -> Vec<Situation> {
    let mut all = vec![
        Situation::new("cable_out", "no carrier on our interface")
            .breaks(cut)
            .monitor(OURS)
            .at("link"),
        Situation::new("cable_out_patient", "no carrier, a timeout above three seconds")
            .prepare(patient)
            .breaks(cut)
            .monitor(OURS)
            .at("link"),
        Situation::new("cable_out_to_a_neighbour", "no carrier, the target on our own network")
            .prepare(|scene| {
                patient(scene);
                // The router's own address stands for a neighbour.
                scene.host = literal(scene.gateway());
                let address = std::net::SocketAddr::new(scene.gateway(), 0);
                let listener = scene.router.within(|| {
                    harness::Listener::serve(address, harness::listener::Visitor::read_to_end)
                });
                scene.port = listener.port();
                scene.keep(listener);
            })
            .breaks(cut)
            .monitor(OURS)
            .at("link"),
        Situation::new("cable_out_beside_a_canary", "no carrier, a canary configured")
            .prepare(|scene| {
                scene.open();
                scene.canary();
            })
            .breaks(cut)
            .without_terminal()
            .monitor(&["local_gateway/connect", "local_isolated/connect"]),
        Situation::new("cable_out_during_a_dialogue", "no carrier while the service thinks")
            .prepare(|scene| {
                scene.speak(crate::service::BANNER);
                scene.timeout = Duration::from_secs(3);
                scene.serve(|visitor| {
                    std::thread::sleep(Duration::from_millis(800));
                    visitor.write(b"hello\n");
                    visitor.read_to_end();
                });
            })
            .weather(move |scene| {
                std::thread::sleep(Duration::from_millis(300));
                cut(scene);
                std::thread::sleep(Duration::from_secs(4));
                scene.router.ip(&format!("link set {} up", scene.near_link));
                restore(scene);
                std::thread::sleep(Duration::from_millis(300));
            })
            .monitor(&[
                "local_gateway/dialogue",
                "local_gateway/connect",
                "local_no_route/connect",
                "success",
            ]),
    ];
    let expected = [
        ("cable_out_closed_expected", "closed"),
        ("cable_out_timeout_expected", "timeout"),
        ("cable_out_refused_expected", "refused"),
    ];
    all.extend(expected.map(|(name, expected)| {
        Situation::new(name, "no carrier, the port is open")
            .prepare(move |scene| {
                expecting(scene, expected);
                cut(scene);
            })
            .begins_broken()
            .monitor(OURS)
            .at("link")
    }));
    all
}

fn addresses() -> Vec<Situation> {
    vec![
        Situation::new("interface_down", "our interface is switched off")
            .breaks(|scene| scene.near.ip(&format!("link set {} down", scene.near_link)))
            .monitor(&["local_no_route/connect"])
            .at("machine"),
        Situation::new("no_route", "our default route is gone")
            .breaks(|scene| {
                let version = if scene.v6 { "-6" } else { "-4" };
                scene.near.run(&["ip", version, "route", "del", "default"]);
            })
            .monitor(&["local_no_route/connect"])
            .at("machine"),
        Situation::new("address_gone", "our address is gone")
            .breaks(|scene| {
                let version = if scene.v6 { "-6" } else { "-4" };
                scene.near.run(&[
                    "ip",
                    version,
                    "address",
                    "flush",
                    "dev",
                    &scene.near_link,
                    "scope",
                    "global",
                ]);
            })
            .monitor(&["local_no_route/connect", "local_resources/connect"])
            .at("machine"),
    ]
}

/// Routes that went with the carrier.
fn restore(scene: &Scene) {
    let device = &scene.near_link;
    for route in [
        format!("route replace default via 10.71.0.254 dev {device}\n"),
        format!("route replace default via fd71::fe dev {device}\n"),
    ] {
        scene.near.ip(&route);
    }
}
