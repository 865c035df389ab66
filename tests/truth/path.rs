//! The way to the target beyond what is ours: firewalls, routers, loss, ICMP.

use std::thread::sleep;
use std::time::Duration;

use harness::Forger;

use crate::ask::Answer;
use crate::scene::{Scene, filter, literal};
use crate::service::{BANNER, SLOW, UNVERIFIED, encrypted, slow};
use crate::situation::Situation;

pub(crate) fn situations() -> Vec<Situation> {
    [firewalls(), on_syn(), after_handshake(), swallowing(), loss()].into_iter().flatten().collect()
}

fn firewalls() -> Vec<Situation> {
    let far = |rule: &'static str| {
        move |scene: &Scene| {
            filter(&scene.far, "input", &format!("tcp dport {} {rule}", scene.port));
        }
    };
    vec![
        Situation::new("target_drops", "the target's firewall drops")
            .breaks(far("drop"))
            .target(&["timeout/connect"])
            .at("path"),
        Situation::new("target_resets", "the target's firewall resets")
            .breaks(far("reject with tcp reset"))
            .target(&["refused/connect"])
            .at("host"),
        Situation::new("target_rejects", "the target's firewall: port unreachable")
            .breaks(far("reject with icmpx type port-unreachable"))
            .target(&["rejected/connect"]),
        Situation::new("target_prohibits", "the target's firewall: prohibited")
            .breaks(far("reject with icmpx type admin-prohibited"))
            .target(&["prohibited/connect"]),
        Situation::new("router_resets", "a firewall on the way resets")
            .breaks(|scene| {
                let rule = format!("tcp dport {} reject with tcp reset", scene.port);
                filter(&scene.router, "forward", &rule);
            })
            .target(&["refused/connect"]),
        Situation::new("target_off", "the target's host is off; its router says so")
            .prepare(|scene| {
                scene.timeout = Duration::from_millis(4500);
                scene.open();
                // It hears nothing, not even who asks for its address.
                scene.far.nft(&format!(
                    "table netdev deaf {{ chain c {{ type filter hook ingress device \"{}\" priority 0; drop; }}; }}",
                    scene.far_link
                ));
            })
            .begins_broken()
            .target(&["host_unreachable/connect"])
            .at("host"),
        Situation::new("neighbour_off", "a target on our own network is off")
            .prepare(|scene| {
                scene.timeout = Duration::from_millis(4500);
                scene.host = literal(scene.ip(71, 77));
                scene.witness();
            })
            .begins_broken()
            .target(&["host_unreachable/connect"])
            .at("host"),
        Situation::new("router_has_no_route", "the router does not know the network")
            .prepare(|scene| scene.host = literal(scene.ip(79, 1)))
            .begins_broken()
            .target(&["net_unreachable/connect"])
            .at("path"),
    ]
}

/// Every ICMP error that a router may send for a SYN, and what it means.
fn on_syn() -> Vec<Situation> {
    const NET: &[&str] = &["net_unreachable/connect"];
    const HOST: &[&str] = &["host_unreachable/connect"];
    const REJECTED: &[&str] = &["rejected/connect"];
    const PROHIBITED: &[&str] = &["prohibited/connect"];
    const ERROR: &[&str] = &["network_error/connect"];
    let rows: [(&str, bool, u8, u8, &'static [&'static str]); 24] = [
        ("syn_3_0", false, 3, 0, NET),
        ("syn_3_1", false, 3, 1, HOST),
        ("syn_3_2", false, 3, 2, REJECTED),
        ("syn_3_3", false, 3, 3, REJECTED),
        ("syn_3_5", false, 3, 5, ERROR),
        ("syn_3_6", false, 3, 6, NET),
        ("syn_3_7", false, 3, 7, HOST),
        ("syn_3_9", false, 3, 9, PROHIBITED),
        ("syn_3_10", false, 3, 10, PROHIBITED),
        ("syn_3_11", false, 3, 11, NET),
        ("syn_3_12", false, 3, 12, HOST),
        ("syn_3_13", false, 3, 13, PROHIBITED),
        ("syn_3_14", false, 3, 14, PROHIBITED),
        ("syn_3_15", false, 3, 15, PROHIBITED),
        ("syn_11_0", false, 11, 0, NET),
        ("syn_12_0", false, 12, 0, ERROR),
        ("syn_1_0", true, 1, 0, NET),
        ("syn_1_1", true, 1, 1, PROHIBITED),
        ("syn_1_2", true, 1, 2, NET),
        ("syn_1_3", true, 1, 3, HOST),
        ("syn_1_4", true, 1, 4, REJECTED),
        ("syn_1_5", true, 1, 5, PROHIBITED),
        ("syn_1_6", true, 1, 6, PROHIBITED),
        ("syn_3_0", true, 3, 0, NET),
    ];
    let situation = |(name, v6, kind, code, expected)| {
        let story = format!("the router answers the SYN with ICMP {kind}/{code}");
        let row = Situation::new(name, story)
            .prepare(move |scene: &mut Scene| {
                scene.open();
                let rule = format!("tcp dport {} drop", scene.port);
                filter(&scene.router, "forward", &rule);
                scene.forge("syn", kind, code, u32::MAX);
            })
            .begins_broken()
            .target(expected);
        if v6 { row.only_v6() } else { row.only_v4() }
    };
    rows.into_iter().map(situation).collect()
}

/// An error for the first segment of data, which arrives all the same: a hint (RFC 1122 4.2.3.9,
/// RFC 5927), and the connection is well.
fn after_handshake() -> Vec<Situation> {
    let rows: [(&'static str, bool, u8, u8); 22] = [
        ("data_3_0", false, 3, 0),
        ("data_3_1", false, 3, 1),
        ("data_3_2", false, 3, 2),
        ("data_3_3", false, 3, 3),
        ("data_3_5", false, 3, 5),
        ("data_3_9", false, 3, 9),
        ("data_3_10", false, 3, 10),
        ("data_3_13", false, 3, 13),
        ("data_11_0", false, 11, 0),
        ("data_11_1", false, 11, 1),
        ("data_12_0", false, 12, 0),
        ("data_1_0", true, 1, 0),
        ("data_1_1", true, 1, 1),
        ("data_1_2", true, 1, 2),
        ("data_1_3", true, 1, 3),
        ("data_1_4", true, 1, 4),
        ("data_1_5", true, 1, 5),
        ("data_1_6", true, 1, 6),
        ("data_3_0", true, 3, 0),
        ("data_3_1", true, 3, 1),
        ("data_4_0", true, 4, 0),
        ("data_4_1", true, 4, 1),
    ];
    let mut all: Vec<Situation> = rows
        .into_iter()
        .map(|(name, v6, kind, code)| {
            let story = format!("ICMP {kind}/{code} for data of a connection that is well");
            let row = Situation::new(name, story).prepare(move |scene: &mut Scene| {
                talkative(scene);
                scene.forge("data", kind, code, u32::MAX);
            });
            let row = row.begins_broken().check(complained);
            if v6 { row.only_v6() } else { row.only_v4() }
        })
        .collect();
    let codes = |scene: &Scene| if scene.v6 { (1, 1) } else { (3, 13) };
    all.push(
        Situation::new("icmp_for_a_held_connection", "prohibited for the end of the handshake")
            .begins_broken()
            .prepare(move |scene| {
                scene.speak("hold: 400ms");
                scene.open();
                let (kind, code) = codes(scene);
                scene.forge("ack", kind, code, u32::MAX);
            }),
    );
    all.push(
        Situation::new("icmp_for_a_greeting", "prohibited before the service greets").prepare(
            move |scene| {
                scene.speak(BANNER);
                scene.serve(|visitor| {
                    sleep(Duration::from_millis(300));
                    visitor.write(b"hello\n");
                    visitor.read_to_end();
                });
                let (kind, code) = codes(scene);
                scene.forge("ack", kind, code, u32::MAX);
            },
        ),
    );
    all.push(
        Situation::new("icmp_during_tls", "prohibited for data of a good TLS handshake").prepare(
            move |scene| {
                encrypted(scene, -10, 10, "target.example");
                let (kind, code) = codes(scene);
                scene.forge("data", kind, code, u32::MAX);
            },
        ),
    );
    all
}

/// A service that asks back: what is sent next meets an error that has come meanwhile.
fn talkative(scene: &mut Scene) {
    scene.speak(
        "query_response: [{send: 'word'}, {expect: '^more'}, {send: 'word'}, {expect: '^answer'}]",
    );
    scene.serve(|visitor| {
        for (length, words) in [(5, "more\n"), (10, "answer\n")] {
            if !visitor.read_until(length) {
                return;
            }
            sleep(Duration::from_millis(200));
            visitor.write(words.as_bytes());
        }
        visitor.read_to_end();
    });
}

/// Whether the router has complained at all.
fn complained(scene: &Scene, _: &Answer) -> Result<(), String> {
    let sent = scene.forger.as_ref().map_or(0, Forger::sent);
    if sent > 0 { Ok(()) } else { Err("no ICMP error was sent".to_owned()) }
}

/// What has data: the acknowledgement of the handshake has none and passes.
const DATA: &str = "meta length > 90";

/// A path that lets the handshake through and not what follows.
fn swallowing() -> Vec<Situation> {
    let swallow = |scene: &mut Scene, rule: &str| {
        let rule = format!("tcp dport {} tcp flags & (syn | fin | rst) == 0x0 {rule}", scene.port);
        filter(&scene.router, "forward", &rule);
    };
    vec![
        Situation::new("data_swallowed", "the path drops whatever follows the handshake")
            .begins_broken()
            .begins_broken()
            .prepare(move |scene| {
                scene.speak("query_response: [{send: 'a question of a certain length, so that it is data for sure'}, {expect: '^answer'}]");
                scene.open();
                swallow(scene, &format!("{DATA} drop"));
            })
            .begins_broken()
            .target(&["unacknowledged/dialogue"])
            .at("path"),
        Situation::new("tls_swallowed", "the path drops the first message of TLS")
            .prepare(move |scene| {
                scene.speak(UNVERIFIED);
                scene.open();
                swallow(scene, &format!("{DATA} drop"));
            })
            .begins_broken()
            .target(&["unacknowledged/tls"])
            .at("path"),
        Situation::new("data_prohibited", "a router answers all data with prohibited")
            .prepare(move |scene| {
                scene.speak("query_response: [{send: 'a question of a certain length, so that it is data for sure'}, {expect: '^answer'}]");
                scene.open();
                swallow(scene, &format!("{DATA} reject with icmpx type admin-prohibited"));
            })
            .begins_broken()
            // The kernel does not keep the sender of an ICMP error for data.
            .target(&["prohibited/dialogue", "unacknowledged/dialogue"])
            .at("path"),
        Situation::new("mtu_black_hole", "large packets to us vanish without a word")
            .prepare(|scene| {
                scene.speak(SLOW);
                scene.serve(|visitor| {
                    if visitor.read_until(4) {
                        visitor.write(&[b'x'; 4000]);
                        sleep(Duration::from_millis(50));
                        visitor.write(b"\nanswer\n");
                        visitor.read_to_end();
                    }
                });
                let rule = format!("tcp sport {} meta length > 1300 drop", scene.port);
                // What comes as one large piece within a machine is cut as on a wire.
                scene.far.ip(&format!("link set {} gso_max_size 1500", scene.far_link));
                filter(&scene.router, "forward", &rule);
            })
            .begins_broken()
            .target(&["unacknowledged/dialogue", "expect_timeout/dialogue"])
            .at("path"),
    ]
}

fn loss() -> Vec<Situation> {
    vec![
        Situation::new("syn_ack_lost", "the first answer to each SYN is lost")
            .prepare(|scene| {
                scene.timeout = Duration::from_secs(3);
                scene.open();
                let rule = format!(
                    "tcp sport {} tcp flags & (syn | ack) == (syn | ack) tcp dport != @seen add @seen {{ tcp dport }} drop",
                    scene.port
                );
                filter(&scene.router, "forward", &rule);
            })
            .check(|_, answer| match answer.rtt {
                Some(rtt) if rtt > 0.5 => Err(format!("a round trip of {rtt} s is told")),
                _ => Ok(()),
            }),
        Situation::new("syn_lost", "the first SYN of each connection is lost").prepare(|scene| {
            scene.timeout = Duration::from_secs(3);
            scene.open();
            let rule = format!(
                "tcp dport {} tcp flags & (syn | ack) == syn tcp sport != @seen add @seen {{ tcp sport }} drop",
                scene.port
            );
            filter(&scene.router, "forward", &rule);
        }),
        Situation::new("every_third_packet_lost", "a third of the packets is lost").prepare(
            |scene| {
                slow(scene);
                scene.timeout = Duration::from_secs(5);
                filter(&scene.router, "forward", "numgen inc mod 3 0 drop");
            },
        ),
    ]
}
