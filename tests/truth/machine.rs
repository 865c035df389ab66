//! The exporter's own machine: its firewall, its routes, its limits.

use std::time::Duration;

use crate::scene::{Scene, filter};
use crate::situation::Situation;

const OURS: &[&str] = &["local_firewall/connect"];

pub(crate) fn situations() -> Vec<Situation> {
    [firewall(), firewall_expected(), routes(), limits()].into_iter().flatten().collect()
}

/// Our own OUTPUT does this to SYNs for the target.
fn output(action: &'static str) -> impl Fn(&Scene) + Send + Sync {
    move |scene| scene.near_output(&format!("tcp dport {} {action}", scene.port))
}

fn firewall() -> Vec<Situation> {
    let mut all: Vec<Situation> = [
        ("own_reset", "reject with tcp reset"),
        ("own_host_unreachable", "reject with icmpx type host-unreachable"),
        ("own_prohibited", "reject with icmpx type admin-prohibited"),
        ("own_port_unreachable", "reject with icmpx type port-unreachable"),
        ("own_no_route", "reject with icmpx type no-route"),
        ("own_drop", "drop"),
    ]
    .into_iter()
    .map(|(name, action)| {
        Situation::new(name, format!("our own OUTPUT: {action}"))
            .breaks(output(action))
            .monitor(OURS)
            .at("machine")
    })
    .collect();
    all.push(
        Situation::new("own_drop_beside_a_canary", "our own OUTPUT drops, the canary is well")
            .prepare(|scene| {
                scene.open();
                scene.canary();
            })
            .breaks(output("drop"))
            .without_terminal()
            .monitor(OURS)
            .at("machine"),
    );
    all.push(
        Situation::new("own_drop_of_data", "our own OUTPUT drops all but handshakes")
            .prepare(|scene| {
                scene.speak("query_response: [{send: 'a question of a certain length, so that it is data for sure'}, {expect: '^answer'}]");
                scene.serve(|visitor| {
                    if visitor.read_until(4) {
                        visitor.write(b"answer\n");
                        visitor.read_to_end();
                    }
                });
            })
            .breaks(output("meta length > 90 drop"))
            .monitor(&["local_firewall/dialogue"])
            .at("machine"),
    );
    all.push(
        Situation::new(
            "answers_of_all_dropped_here",
            "our own INPUT drops every SYN-ACK; a canary",
        )
        .prepare(|scene| {
            scene.open();
            scene.canary();
        })
        .breaks(|scene| {
            let rule = "tcp flags & (syn | ack) == (syn | ack) drop";
            let rule = format!("iifname \"{}\" {rule}", scene.near_link);
            filter(&scene.near, "input", &rule);
        })
        .without_terminal()
        .monitor(&["local_firewall/connect", "local_isolated/connect"]),
    );
    all
}

/// A port that must be shut is not certified by our own firewall.
fn firewall_expected() -> Vec<Situation> {
    [
        ("own_reset_refused_expected", "refused", "reject with tcp reset"),
        ("own_reset_closed_expected", "closed", "reject with tcp reset"),
        ("own_drop_timeout_expected", "timeout", "drop"),
        ("own_drop_closed_expected", "closed", "drop"),
        ("own_prohibited_refused_expected", "refused", "reject with icmpx type admin-prohibited"),
    ]
    .into_iter()
    .map(|(name, expected, action)| {
        Situation::new(name, format!("our own OUTPUT: {action}; the port is open"))
            .prepare(move |scene| {
                scene.module = format!("expect_connect: {expected}");
                scene.open();
                output(action)(scene);
            })
            .begins_broken()
            .monitor(OURS)
            .at("machine")
    })
    .collect()
}

fn routes() -> Vec<Situation> {
    const GONE: &[&str] = &["local_no_route/connect"];
    let mut all: Vec<Situation> = ["blackhole", "prohibit", "unreachable"]
        .into_iter()
        .map(|kind| {
            let name = match kind {
                "blackhole" => "own_route_blackhole",
                "prohibit" => "own_route_prohibit",
                _ => "own_route_unreachable",
            };
            Situation::new(name, format!("our own route to the target is of type {kind}"))
                .breaks(move |scene| scene.near.ip(&route("add", kind, scene)))
                .monitor(GONE)
                .at("machine")
        })
        .collect();
    for kind in ["blackhole", "prohibit", "unreachable"] {
        let name = match kind {
            "blackhole" => "own_route_becomes_blackhole",
            "prohibit" => "own_route_becomes_prohibit",
            _ => "own_route_becomes_unreachable",
        };
        all.push(
            Situation::new(name, format!("the first SYN is lost, then our route becomes {kind}"))
                .prepare(|scene| {
                    scene.timeout = Duration::from_secs(3);
                    scene.open();
                    let rule = format!(
                        "tcp dport {} tcp flags & (syn | ack) == syn tcp sport != @seen add @seen {{ tcp sport }} drop",
                        scene.port
                    );
                    filter(&scene.router, "forward", &rule);
                })
                .weather(move |scene| {
                    std::thread::sleep(Duration::from_millis(250));
                    scene.near.ip(&route("add", kind, scene));
                    std::thread::sleep(Duration::from_millis(3600));
                    scene.near.ip(&route("del", kind, scene));
                    std::thread::sleep(Duration::from_millis(250));
                })
                .monitor(&["local_no_route/connect", "success"])
                .at("machine"),
        );
        let name = match kind {
            "blackhole" => "own_route_blackhole_in_dialogue",
            "prohibit" => "own_route_prohibit_in_dialogue",
            _ => "own_route_unreachable_in_dialogue",
        };
        all.push(
            Situation::new(name, format!("our route becomes {kind} before we answer the greeting"))
                .prepare(|scene| {
                    scene.timeout = Duration::from_secs(3);
                    scene.speak(
                        "query_response: [{expect: '^hello'}, {send: 'word'}, {expect: '^answer'}]",
                    );
                    scene.serve(|visitor| {
                        std::thread::sleep(Duration::from_millis(600));
                        visitor.write(b"hello\n");
                        if visitor.read_until(4) {
                            visitor.write(b"answer\n");
                            visitor.read_to_end();
                        }
                    });
                })
                .weather(move |scene| {
                    std::thread::sleep(Duration::from_millis(300));
                    scene.near.ip(&route("add", kind, scene));
                    std::thread::sleep(Duration::from_millis(3600));
                    scene.near.ip(&route("del", kind, scene));
                    std::thread::sleep(Duration::from_millis(900));
                })
                .monitor(&["local_no_route/dialogue", "local_no_route/connect", "success"])
                .at("machine"),
        );
    }
    all
}

fn route(action: &str, kind: &str, scene: &Scene) -> String {
    format!("route {action} {kind} {}", scene.far_ip())
}

fn limits() -> Vec<Situation> {
    vec![
        Situation::new("source_address_not_ours", "source_ip_address is not an address of ours")
            .prepare(|scene| {
                scene.module = format!("source_ip_address: '{}'", scene.ip(71, 200));
                scene.open();
            })
            .begins_broken()
            .monitor(&["local_config/connect"])
            .at("machine"),
        Situation::new("certificate_file_missing", "ca_file does not exist any more")
            .prepare(|scene| {
                crate::service::encrypted(scene, -10, 10, "target.example");
            })
            .breaks(|scene| {
                std::fs::remove_file(scene.etc().join("authority.pem")).expect("a file");
            })
            .begins_broken()
            .monitor(&["local_config/tls", "success"])
            .at("machine"),
    ]
}
