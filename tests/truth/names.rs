//! Name servers: ours that are broken, the target's name that is.

use std::time::Duration;

use harness::name_server::{A, AAAA, Reply};

use crate::scene::{NAME, Scene, filter, well};
use crate::situation::Situation;

const OURS: &[&str] = &["local_resolver/resolve"];

pub(crate) fn situations() -> Vec<Situation> {
    [absent(), silent(), others(), the_name(), families()].into_iter().flatten().collect()
}

/// A target by name, in a world where names work.
fn named(scene: &mut Scene) {
    scene.open();
    scene.well_named();
}

/// The whole budget is not spent on a question that was refused.
fn quick(row: Situation) -> Situation {
    row.check(|scene, answer| {
        let limit = scene.timeout / 2 + Duration::from_millis(300);
        if answer.took < limit { Ok(()) } else { Err(format!("took {:?}", answer.took)) }
    })
}

/// No resolver at all.
fn absent() -> Vec<Situation> {
    let slow = |scene: &mut Scene| {
        named(scene);
        scene.timeout = Duration::from_secs(3);
    };
    vec![
        Situation::new("named", "the target has a name").prepare(named),
        quick(
            Situation::new("resolver_gone", "nothing listens on 127.0.0.53")
                .prepare(move |scene| {
                    slow(scene);
                    scene.resolv_conf("nameserver 127.0.0.53\n");
                })
                .begins_broken()
                .monitor(OURS)
                .at("resolver"),
        ),
        Situation::new("resolv_conf_empty", "/etc/resolv.conf is empty")
            .prepare(|scene| {
                named(scene);
                scene.resolv_conf("");
            })
            .begins_broken()
            .monitor(OURS)
            .at("resolver"),
        Situation::new("resolv_conf_missing", "/etc/resolv.conf is missing")
            .prepare(|scene| {
                named(scene);
                std::fs::remove_file(scene.etc().join("resolv.conf")).expect("a file");
            })
            .begins_broken()
            .monitor(OURS)
            .at("resolver"),
        Situation::new("resolv_conf_goes_missing", "/etc/resolv.conf is removed while we run")
            .prepare(named)
            .breaks(|scene| {
                std::fs::remove_file(scene.etc().join("resolv.conf")).expect("a file");
                scene.names.as_ref().expect("started").turn(|_| Reply::Silence);
            })
            .monitor(OURS)
            .at("resolver"),
        Situation::new("resolver_off", "the name server on our own network is off")
            .prepare(|scene| {
                named(scene);
                scene.timeout = Duration::from_secs(4);
                scene.resolv_conf(&format!("nameserver {}\n", scene.ip(71, 53)));
            })
            .begins_broken()
            .monitor(OURS)
            .at("resolver"),
        quick(
            Situation::new("resolver_port_closed", "the name server's host: port unreachable")
                .prepare(move |scene| {
                    slow(scene);
                    scene.resolv_conf(&format!("nameserver {}\n", scene.far_ip()));
                })
                .begins_broken()
                .monitor(OURS)
                .at("resolver"),
        ),
    ]
}

/// A resolver that says nothing to anybody, or nothing that helps.
fn silent() -> Vec<Situation> {
    let turn = |reply: fn() -> Reply| {
        move |scene: &Scene| scene.names.as_ref().expect("started").turn(move |_| reply())
    };
    vec![
        Situation::new("resolver_silent", "the name server answers nobody")
            .prepare(named)
            .breaks(turn(|| Reply::Silence))
            .monitor(OURS)
            .at("resolver"),
        Situation::new("resolver_silent_from_the_start", "the name server answers nobody")
            .prepare(|scene| {
                named(scene);
                scene.names.as_ref().expect("started").turn(|_| Reply::Silence);
            })
            .begins_broken()
            .monitor(OURS)
            .at("resolver"),
        Situation::new(
            "resolver_silent_beside_a_canary",
            "the name server answers nobody, the canary is well",
        )
        .prepare(|scene| {
            named(scene);
            scene.canary();
        })
        .breaks(turn(|| Reply::Silence))
        .monitor(OURS)
        .at("resolver"),
        quick(
            Situation::new("resolver_refuses", "the name server refuses everybody")
                .prepare(|scene| {
                    named(scene);
                    scene.timeout = Duration::from_secs(3);
                })
                .breaks(turn(|| Reply::Code(5)))
                .monitor(OURS)
                .at("resolver"),
        ),
        Situation::new("resolver_fails", "the name server fails for every name")
            .prepare(named)
            .breaks(turn(|| Reply::Code(2)))
            .monitor(OURS)
            .at("resolver"),
        Situation::new("resolver_garbage", "the name server answers nonsense")
            .prepare(named)
            .breaks(turn(|| Reply::Bytes(vec![0xff; 300])))
            .monitor(OURS)
            .at("resolver"),
        Situation::new("answers_dropped_here", "our INPUT drops the name server's answers")
            .prepare(named)
            .breaks(|scene| filter(&scene.near, "input", "udp sport 53 drop"))
            .monitor(&["local_resolver/resolve", "local_firewall/resolve"]),
        Situation::new("questions_dropped_here", "our OUTPUT drops questions to the name server")
            .prepare(named)
            .breaks(|scene| scene.near_output("udp dport 53 drop"))
            .monitor(&["local_resolver/resolve", "local_firewall/resolve"]),
        Situation::new(
            "questions_rejected_here",
            "our OUTPUT rejects questions to the name server",
        )
        .prepare(named)
        .breaks(|scene| {
            scene.near_output("udp dport 53 reject with icmpx type admin-prohibited");
        })
        .monitor(&["local_resolver/resolve", "local_firewall/resolve"]),
        Situation::new("way_to_the_resolver_lost", "no route to the name server")
            .prepare(named)
            .breaks(|scene| {
                scene.near.ip(&format!("route add blackhole {}", scene.other_ip()));
            })
            .monitor(&["local_resolver/resolve", "local_no_route/resolve"]),
    ]
}

/// What is well with resolvers all the same.
fn others() -> Vec<Situation> {
    vec![
        Situation::new("second_resolver", "the first name server is gone, the second is well")
            .prepare(|scene| {
                named(scene);
                scene.timeout = Duration::from_secs(4);
                scene.resolv_conf(&format!(
                    "nameserver 127.0.0.53\nnameserver {}\n",
                    scene.other_ip()
                ));
            }),
        Situation::new("truncated", "the answer comes over TCP only").prepare(|scene| {
            named(scene);
            let ip = scene.far_ip();
            let names = scene.names.as_ref().expect("started");
            names.turn(move |question| Reply::Truncated(Box::new(well(question, ip))));
        }),
        Situation::new("slow_resolver", "the name server takes 300 ms").prepare(|scene| {
            named(scene);
            scene.timeout = Duration::from_secs(3);
            let ip = scene.far_ip();
            let names = scene.names.as_ref().expect("started");
            names.turn(move |question| {
                Reply::Late(Duration::from_millis(300), Box::new(well(question, ip)))
            });
        }),
        Situation::new(
            "address_beside_a_dead_resolver",
            "the target is an address, the name server silent",
        )
        .prepare(|scene| {
            let host = scene.host.clone();
            named(scene);
            scene.host = host;
            scene.names.as_ref().expect("started").turn(|_| Reply::Silence);
        }),
    ]
}

/// The target's own name is broken; the resolver is well for others.
fn the_name() -> Vec<Situation> {
    let only = |reply: fn() -> Reply| {
        move |scene: &mut Scene| {
            scene.open();
            let target = scene.other_port();
            let port = target.rsplit(':').next().expect("a port").to_owned();
            let other = scene.other_ip();
            scene.named(move |question| match question.name.as_str() {
                NAME => reply(),
                "other.example" => Reply::address(other),
                _ => Reply::Code(3),
            });
            scene.others.push(format!("other.example:{port}"));
            scene.timeout = Duration::from_secs(3);
        }
    };
    vec![
        Situation::new("no_such_name", "the name does not exist")
            .prepare(only(|| Reply::Code(3)))
            .begins_broken()
            .target(&["dns_nxdomain/resolve"])
            .at("name"),
        Situation::new("no_address", "the name has no address")
            .prepare(only(|| Reply::Addresses(0, Vec::new())))
            .begins_broken()
            .target(&["dns_no_address/resolve"])
            .at("name"),
        Situation::new("zone_fails", "the name server fails for this name only")
            .prepare(only(|| Reply::Code(2)))
            .begins_broken()
            .target(&["dns_failure/resolve"])
            .at("name"),
        Situation::new("zone_silent", "the name server is silent for this name only")
            .prepare(only(|| Reply::Silence))
            .begins_broken()
            .target(&["dns_timeout/resolve"])
            .at("name"),
        Situation::new("name_eats_the_budget", "the answer comes 100 ms before the end, the first SYN is lost")
            .prepare(|scene| {
                named(scene);
                scene.timeout = Duration::from_secs(2);
                let ip = scene.far_ip();
                let names = scene.names.as_ref().expect("started");
                names.turn(move |question| match question.name.as_str() {
                    NAME => Reply::Late(
                        Duration::from_millis(1900),
                        Box::new(Reply::address(ip)),
                    ),
                    _ => Reply::Code(3),
                });
                let rule = format!(
                    "tcp dport {} tcp flags & (syn | ack) == syn tcp sport != @seen add @seen {{ tcp sport }} drop",
                    scene.port
                );
                filter(&scene.router, "forward", &rule);
            })
            .begins_broken()
            .target(&["dns_timeout/resolve", "dns_timeout/connect"])
            .at("name"),
    ]
}

/// One version of IP that is missing or unanswered.
fn families() -> Vec<Situation> {
    vec![
        Situation::new("aaaa_unanswered", "the name server drops questions for AAAA")
            .prepare(|scene| {
                named(scene);
                scene.timeout = Duration::from_secs(4);
                let ip = scene.far_ip();
                let names = scene.names.as_ref().expect("started");
                names.turn(move |question| match question.kind {
                    AAAA => Reply::Silence,
                    A => well(question, ip),
                    _ => Reply::Code(3),
                });
            })
            .only_v4()
            .check(|scene, answer| {
                let limit = scene.timeout * 3 / 4;
                if answer.took < limit { Ok(()) } else { Err(format!("took {:?}", answer.took)) }
            }),
        Situation::new("both_without_ipv6", "the name has A and AAAA, this machine no IPv6")
            .begins_broken()
            .prepare(|scene| {
                scene.near.run(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
                scene.open();
                let ips = vec!["fd72::1".parse().expect("an address"), scene.far_ip()];
                scene.named(move |question| match question.name.as_str() {
                    NAME => Reply::Addresses(0, ips.clone()),
                    _ => Reply::Code(3),
                });
            })
            .only_v4(),
        Situation::new(
            "both_without_a_route",
            "the name has A and AAAA, this machine no route for IPv6",
        )
        .begins_broken()
        .prepare(|scene| {
            scene.near.run(&["ip", "-6", "route", "del", "default"]);
            scene.open();
            let ips = vec!["fd72::1".parse().expect("an address"), scene.far_ip()];
            scene.named(move |question| match question.name.as_str() {
                NAME => Reply::Addresses(0, ips.clone()),
                _ => Reply::Code(3),
            });
        })
        .only_v4(),
    ]
}
