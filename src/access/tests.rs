use super::*;

fn rules(allow: &[&str], deny: &[&str]) -> Rules {
    let parse = |texts: &[&str]| texts.iter().map(|text| Rule::parse(text).unwrap()).collect();
    Rules { allow: parse(allow), deny: parse(deny) }
}

fn access(allow: &[&str], deny: &[&str]) -> Access {
    Access::new(rules(allow, deny), BTreeMap::new())
}

/// A public address that belongs to this machine.
const OWN: &str = "203.0.113.7";

/// The verdict on `host`, which resolved to `ip`: `ok`, or the rule that denies.
fn judged(access: &Access, module: &str, host: &str, ip: &str, port: u16) -> String {
    let host = Host::parse(host).unwrap();
    let is_own = |ip: IpAddr| ip.to_string() == OWN;
    match access.judge(module, &host, SocketAddr::new(ip.parse().unwrap(), port), is_own) {
        Ok(()) => "ok".to_owned(),
        Err(denial) => denial.rule.to_string(),
    }
}

#[track_caller]
fn check(access: &Access, host: &str, ip: &str, port: u16, expected: &str) {
    assert_eq!(judged(access, "tcp_connect", host, ip, port), expected, "{host} {ip} {port}");
}

#[test]
fn by_default_only_what_nobody_means_is_denied() {
    let access = Access::default();
    check(&access, "db", "192.0.2.1", 22, "ok");
    check(&access, "localhost", "127.0.0.1", 22, "ok");
    check(&access, "metadata.google.internal", "169.254.169.254", 80, "link_local");
    check(&access, "169.254.1.2", "169.254.1.2", 80, "link_local");
    check(&access, "fe80::1", "fe80::1", 80, "link_local");
    check(&access, "febf::1", "febf::1", 80, "link_local");
    check(&access, "fec0::1", "fec0::1", 80, "ok");
    check(&access, "x", "fd00:ec2::254", 80, "metadata");
    check(&access, "x", "fd20:ce::254", 80, "metadata");
    check(&access, "x", "100.100.100.200", 80, "metadata");
    for ip in ["fd00:ec2::23", "fd00:ec2::253", "fd00:c1::a9fe:a9fe", "fd00:42::42"] {
        check(&access, "x", ip, 80, "metadata");
    }
    check(&access, "x", "fd00:42::43", 80, "ok");
    check(&access, "x", "fd00:ec3::254", 80, "ok");
    check(&access, "x", "192.0.0.192", 80, "metadata");
    check(&access, "x", "168.63.129.16", 80, "metadata");
    assert!(access.is_open());
}

#[test]
fn an_address_is_judged_for_what_it_is_however_it_is_written() {
    let access = access(&[], &["127.0.0.0/8", "::1", "10.0.0.0/8"]);
    check(&access, "x", "::ffff:169.254.169.254", 80, "link_local");
    check(&access, "x", "::ffff:127.0.0.1", 80, "127.0.0.0/8");
    check(&access, "0.0.0.0", "0.0.0.0", 80, "127.0.0.0/8");
    check(&access, "::", "::", 80, "::1");
    check(&access, "::ffff:0.0.0.0", "::ffff:0.0.0.0", 80, "127.0.0.0/8");
    check(&access, "x", "64:ff9b::a9fe:a9fe", 80, "link_local");
    check(&access, "x", "64:ff9b::10.1.2.3", 80, "10.0.0.0/8");
    check(&access, "x", "64:ff9b::192.0.2.1", 80, "ok");
    check(&access, "fe80::1%eth0", "fe80::1", 80, "link_local");
    let mapped = super::tests::access(&[], &["::ffff:10.0.0.0/104"]);
    check(&mapped, "x", "10.9.9.9", 80, "::ffff:10.0.0.0/104");
    check(&mapped, "x", "11.0.0.1", 80, "ok");
    for rule in ["::ffff:10.0.0.1/128", "::ffff:10.0.0.1"] {
        let one = super::tests::access(&[], &[rule]);
        check(&one, "x", "10.0.0.1", 80, rule);
        check(&one, "x", "10.0.0.0", 80, "ok");
        check(&one, "x", "10.0.0.2", 80, "ok");
        check(&one, "x", "127.0.0.1", 80, "ok");
    }
    let all = super::tests::access(&["::ffff:0.0.0.0/96"], &[]);
    check(&all, "x", "192.0.2.1", 80, "ok");
    check(&all, "x", "2001:db8::1", 80, "not_allowed");
}

#[test]
fn an_address_that_carries_another_is_judged_as_both() {
    let access = access(&[], &["127.0.0.0/8", "10.0.0.0/8", "192.0.2.5", "2001:db8::/32"]);
    for (ip, expected) in [
        // IPv4-compatible, IPv4-translated.
        ("::10.1.2.3", "10.0.0.0/8"),
        ("::169.254.169.254", "link_local"),
        ("::192.0.2.6", "ok"),
        ("::1", "ok"),
        ("::ffff:0:10.1.2.3", "10.0.0.0/8"),
        ("::ffff:0:192.0.2.6", "ok"),
        // NAT64.
        ("64:ff9b::10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::", "127.0.0.0/8"),
        ("64:ff9b::192.0.2.6", "ok"),
        // RFC 8215 with prefixes of 96, 64, 56, 48 bits (RFC 6052, section 2.4).
        ("64:ff9b:1:abcd::10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b:1:abcd:a:102:300:0", "10.0.0.0/8"),
        ("64:ff9b:1:ab0a:1:203::", "10.0.0.0/8"),
        ("64:ff9b:1:a01:2:300::", "10.0.0.0/8"),
        ("64:ff9b:1::169.254.169.254", "link_local"),
        ("64:ff9b:1:a9fe:a9:fe00::", "link_local"),
        ("64:ff9b:1:fffe::192.0.2.6", "ok"),
        ("64:ff9b:1:c000:2:600::", "ok"),
        ("64:ff9b:1::", "ok"),
        ("64:ff9b:2::10.1.2.3", "ok"),
        // 6to4.
        ("2002:a01:203::1", "10.0.0.0/8"),
        ("2002:a9fe:a9fe::a9fe:a9fe", "link_local"),
        ("2002:c000:206::1", "ok"),
        // Teredo: client 10.1.2.3, then server 10.1.2.3.
        ("2001:0:c000:206:0:0:f5fe:fdfc", "10.0.0.0/8"),
        ("2001:0:a01:203:0:0:3fff:fdf9", "10.0.0.0/8"),
        ("2001:0:c000:206:0:0:3fff:fdf9", "ok"),
        // ISATAP.
        ("2001:db9::5efe:10.1.2.3", "10.0.0.0/8"),
        ("2001:db9::200:5efe:10.1.2.3", "10.0.0.0/8"),
        ("2001:db9::200:5eff:10.1.2.3", "ok"),
        // What carries nothing is judged for itself.
        ("2001:db8::10.1.2.3", "2001:db8::/32"),
        ("2001:db9::10.1.2.3", "ok"),
    ] {
        check(&access, "x", ip, 80, expected);
    }
    // What allows the carried address does not allow what carries it, and the other way round.
    let inside = super::tests::access(&["10.0.0.0/8"], &[]);
    check(&inside, "x", "64:ff9b::10.1.2.3", 80, "not_allowed");
    let gateway = super::tests::access(&["64:ff9b::/96"], &[]);
    check(&gateway, "x", "64:ff9b::10.1.2.3", 80, "ok");
    check(&gateway, "x", "64:ff9b::169.254.169.254", 80, "link_local");
}

#[test]
fn a_pattern_of_names_grants_no_inner_address() {
    let names = access(&["*.example.com:443", "db.example.org"], &[]);
    for ip in ["192.0.2.1", "2001:db9::1", "64:ff9b::192.0.2.1"] {
        check(&names, "www.example.com", ip, 443, "ok");
    }
    for ip in [
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.0.8",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "::ffff:10.0.0.1",
        "fc00::1",
        "fdff::1",
        "fec0::1",
        "ff02::1",
        "64:ff9b::10.0.0.1",
        "2002:a01:203::1",
        OWN,
    ] {
        check(&names, "www.example.com", ip, 443, "inner_address");
        check(&names, "db.example.org", ip, 443, "inner_address");
    }
    for ip in ["172.15.255.255", "172.32.0.0", "100.128.0.0", "198.20.0.0", "223.255.255.255"] {
        check(&names, "www.example.com", ip, 443, "ok");
    }
    check(&names, "www.example.com", "169.254.0.1", 443, "link_local");
    check(&names, "www.example.com", "10.0.0.1", 444, "not_allowed");
    assert!(names.rules().contains(&Arc::from("inner_address")));
    assert!(!access(&["10.0.0.0/8", "*"], &[]).rules().contains(&Arc::from("inner_address")));
    // A network makes it explicit, in the same list or in that of everyone; so does `*`.
    for also in ["10.0.0.0/8", "10.0.0.0/8:443", "0.0.0.0/0", "*", ":443"] {
        let both = access(&["*.example.com:443", also], &[]);
        check(&both, "www.example.com", "10.0.0.1", 443, "ok");
    }
    let elsewhere = access(&["*.example.com:443", "10.0.0.0/8:444", "192.168.0.0/16"], &[]);
    check(&elsewhere, "www.example.com", "10.0.0.1", 443, "inner_address");
    for (everyone, expected) in [("10.0.0.0/8", "ok"), ("*", "inner_address")] {
        let modules = BTreeMap::from([(Arc::from("m"), rules(&["*.example.com"], &[]))]);
        let access = Access::new(rules(&[everyone], &[]), modules);
        assert_eq!(judged(&access, "m", "www.example.com", "10.0.0.1", 443), expected);
        assert_eq!(judged(&access, "other", "www.example.com", "10.0.0.1", 443), "ok");
    }
    // Without allow rules nothing depends on the name.
    check(&access(&[], &["x.example.com"]), "www.example.com", "10.0.0.1", 443, "ok");
}

#[test]
fn sensitive_addresses_open_only_to_a_rule_that_names_them() {
    for (allow, expected) in [
        (vec!["*"], "link_local"),
        (vec!["0.0.0.0/0"], "link_local"),
        (vec!["169.0.0.0/8"], "link_local"),
        (vec!["*.internal"], "link_local"),
        (vec!["*", "169.254.169.254"], "ok"),
        (vec!["169.254.169.254:80"], "ok"),
        (vec!["169.254.169.254:81"], "link_local"),
        (vec!["169.254.0.0/16"], "ok"),
        (vec!["169.254.0.0/24", "*"], "link_local"),
    ] {
        let access = access(&allow, &[]);
        check(&access, "m.internal", "169.254.169.254", 80, expected);
    }
    let denied = access(&["169.254.169.254"], &["m.internal"]);
    check(&denied, "m.internal", "169.254.169.254", 80, "m.internal");
}

#[test]
fn what_is_not_allowed_is_denied_and_deny_wins() {
    let access = access(
        &["10.0.0.0/8", "*.example.com:443", "[2001:db8::/32]:22", "198.51.100.0/24:8000-8010"],
        &["10.9.0.0/16", "bad.example.com", ":25"],
    );
    assert!(!access.is_open());
    check(&access, "x", "10.1.2.3", 5432, "ok");
    check(&access, "x", "10.9.2.3", 5432, "10.9.0.0/16");
    check(&access, "x", "10.1.2.3", 25, ":25");
    check(&access, "x", "192.0.2.1", 443, "not_allowed");
    check(&access, "www.example.com", "192.0.2.1", 443, "ok");
    check(&access, "WWW.Example.COM.", "192.0.2.1", 443, "ok");
    check(&access, "www.example.com", "192.0.2.1", 444, "not_allowed");
    check(&access, "example.com", "192.0.2.1", 443, "not_allowed");
    check(&access, "www.example.com.evil.net", "192.0.2.1", 443, "not_allowed");
    check(&access, "bad.example.com.", "192.0.2.1", 443, "bad.example.com");
    check(&access, "x", "2001:db8::7", 22, "ok");
    check(&access, "x", "2001:db8::7", 23, "not_allowed");
    check(&access, "x", "198.51.100.7", 8010, "ok");
    check(&access, "x", "198.51.100.7", 8011, "not_allowed");
    // A name that is allowed may not lead to what is denied.
    check(&access, "www.example.com", "10.9.0.1", 443, "10.9.0.0/16");
}

#[test]
fn the_rules_of_a_module_come_on_top() {
    let modules = BTreeMap::from([(Arc::from("ssh"), rules(&["192.0.2.0/24"], &["192.0.2.9"]))]);
    let access = Access::new(rules(&[], &["192.0.2.5"]), modules);
    for (module, ip, expected) in [
        ("ssh", "192.0.2.1", "ok"),
        ("ssh", "192.0.2.5", "192.0.2.5"),
        ("ssh", "192.0.2.9", "192.0.2.9"),
        ("ssh", "198.51.100.1", "not_allowed:ssh"),
        ("tcp_connect", "198.51.100.1", "ok"),
        ("tcp_connect", "192.0.2.9", "ok"),
    ] {
        assert_eq!(judged(&access, module, "x", ip, 22), expected, "{module} {ip}");
    }
    let counted: Vec<String> = access.rules().iter().map(ToString::to_string).collect();
    assert_eq!(
        counted,
        ["192.0.2.5", "192.0.2.9", "link_local", "metadata", "not_allowed:ssh", "own_listener"]
    );
}

#[test]
fn every_denial_is_among_the_rules_that_are_counted() {
    let modules = BTreeMap::from([(Arc::from("ssh"), rules(&["192.0.2.0/24"], &[":9"]))]);
    let access = Access::new(rules(&["192.0.2.0/23", "10.0.0.0/8"], &["10.1.0.0/16"]), modules);
    let counted = access.rules();
    for module in ["ssh", "other"] {
        for ip in ["192.0.2.1", "192.0.3.1", "10.0.0.1", "10.1.0.1", "169.254.1.1", "8.8.8.8"] {
            for port in [9, 22] {
                let rule = judged(&access, module, "x", ip, port);
                let known = counted.iter().any(|name| **name == *rule);
                assert!(rule == "ok" || known, "{rule} is not counted");
            }
        }
    }
}

#[test]
fn rules_that_cannot_be_meant() {
    for (text, expected) in [
        ("", "the rule is empty: write a network, a name or `:port`"),
        ("10.0.0.0/33", "`10.0.0.0/33` is no network: write `10.0.0.0/8`"),
        ("010.0.0.0/8", "`010.0.0.0/8` is no network: write `10.0.0.0/8`"),
        ("10.1.2.3/8", "`10.1.2.3/8` has bits beyond its prefix: write `10.0.0.0/8`"),
        ("db:", "`db:` has no ports after the colon: write `:22` or `:8000-8010`"),
        ("db:ssh", "`db:ssh` has no ports after the colon: write `:22` or `:8000-8010`"),
        ("db:9-1", "`db:9-1` has no ports after the colon: write `:22` or `:8000-8010`"),
        ("[::1", "`[::1` has `[` without `]`"),
        ("a b*", "`a b*` is no pattern of names: write `*.example.com`"),
        (
            "10.*",
            "`10.*` looks like an address, but patterns are about names: write a network, \
             `10.0.0.0/8`",
        ),
        ("127.1", "`127.1` is no IPv4 address: write four decimal numbers, 192.0.2.1"),
    ] {
        assert_eq!(Rule::parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com", true),
        ("*.example.com", ".example.com", true),
        ("*.example.com", "example.com", false),
        ("db-*.example.*", "db-1.example.org", true),
        ("db-*.example.*", "xdb-1.example.org", false),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("a*b*c", "abbc", true),
        ("a*b*c", "acb", false),
    ] {
        let pieces: Vec<Box<str>> = pattern.split('*').map(Box::from).collect();
        assert_eq!(matches_pieces(&pieces, name), expected, "{pattern} {name}");
    }
}

#[test]
fn what_the_configuration_names_itself_is_not_judged() {
    check(&Access::unrestricted(), "x", "169.254.169.254", 80, "ok");
}

proptest::proptest! {
    // What was found once becomes a test of its own, not a file beside the sources.
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_rule_is_read_or_refused(text in ".{0,40}") {
        let _ = Rule::parse(&text);
    }

    #[test]
    fn an_address_and_its_mapped_form_are_judged_alike(
        address in proptest::prelude::any::<u32>(), prefix in 0..=32_u8, port in 0..=u16::MAX,
    ) {
        let ip = Ipv4Addr::from(address);
        let network = Ipv4Net::new(ip, prefix).unwrap().trunc();
        let access = access(&[], &[&network.to_string()]);
        let mapped = ip.to_ipv6_mapped().to_string();
        let plain = judged(&access, "m", "x", &ip.to_string(), port);
        assert_ne!(plain, "ok");
        assert_eq!(judged(&access, "m", "x", &mapped, port), plain);
    }
}

#[track_caller]
fn check_unresolved(access: &Access, host: &str, port: u16, expected: &str) {
    let seen = match access.judge_unresolved("m", &Host::parse(host).unwrap(), port) {
        Ok(()) => "ok".to_owned(),
        Err(denial) => denial.rule.to_string(),
    };
    assert_eq!(seen, expected, "{host}:{port}");
}

#[test]
fn what_no_address_could_save_is_denied_before_it_is_looked_up() {
    let names = access(&[], &["*.internal", ":25", "10.0.0.0/8"]);
    check_unresolved(&names, "db.internal", 80, "*.internal");
    check_unresolved(&names, "db.internal.", 80, "*.internal");
    check_unresolved(&names, "db.example", 25, ":25");
    check_unresolved(&names, "db.example", 80, "ok");
    // Whether this is a name of 10.0.0.0/8 is known only afterwards.
    let networks = access(&["192.0.2.0/24:443", "*.example.com:22"], &[]);
    check_unresolved(&networks, "db.example", 443, "ok");
    check_unresolved(&networks, "db.example", 80, "not_allowed");
    check_unresolved(&networks, "db.example.com", 22, "ok");
    check_unresolved(&networks, "db.example.org", 22, "not_allowed");
    check_unresolved(&Access::unrestricted(), "db.internal", 25, "ok");
    check_unresolved(&Access::default(), "db.internal", 25, "ok");
}

#[test]
fn a_name_is_looked_up_only_where_some_address_is_allowed() {
    for (allow, module_allow, deny, expected) in [
        // Nothing is left of what is allowed.
        (&["10.0.0.0/8"][..], &[][..], &["10.0.0.0/8"][..], "10.0.0.0/8"),
        (&["10.0.0.0/8"], &[], &["10.128.0.0/9", "10.0.0.0/9"], "10.128.0.0/9"),
        (&["10.0.0.0/8"], &[], &["10.0.0.0/9"], "ok"),
        (&["10.0.0.0/8"], &[], &["10.0.0.0/8:80"], "ok"),
        (&["10.0.0.0/8:443", "192.0.2.1"], &[], &["0.0.0.0/0"], "0.0.0.0/0"),
        (&["10.0.0.0/8", "2001:db8::/32"], &[], &["0.0.0.0/0"], "ok"),
        (&[], &[], &["0.0.0.0/0", "::/0"], "0.0.0.0/0"),
        (&[], &[], &["0.0.0.0/0"], "ok"),
        // Two lists that have nothing in common, or something.
        (&["10.0.0.0/8"], &["192.0.2.0/24"], &[], "not_allowed:m"),
        (&["10.0.0.0/8"], &["10.9.0.0/16"], &[], "ok"),
        (&["10.9.0.0/16"], &["10.0.0.0/8"], &[], "ok"),
        (&["10.0.0.0/8"], &["10.9.0.0/16"], &["10.9.0.0/16"], "10.9.0.0/16"),
        (&["10.0.0.0/8"], &["*"], &["10.0.0.0/8"], "10.0.0.0/8"),
        (&["10.0.0.0/8"], &["db.*"], &["10.0.0.0/9"], "ok"),
        (&["10.0.0.0/8"], &["web.*"], &[], "not_allowed:m"),
    ] {
        let modules = BTreeMap::from([(Arc::from("m"), rules(module_allow, &[]))]);
        let access = Access::new(rules(allow, deny), modules);
        check_unresolved(&access, "db.example", 443, expected);
    }
}

#[test]
fn nothing_is_denied_early_that_would_not_be_denied_late() {
    for (allow, deny) in [
        (&["192.0.2.0/24"][..], &["192.0.2.9"][..]),
        (&["192.0.2.8/29"], &["192.0.2.8/30", "192.0.2.12/30"]),
        (&["192.0.2.8/29:22", "*.example.com:80"], &["192.0.0.0/16"]),
        (&["*.example.com:22", "192.0.2.0/24:1-80"], &["db.*", ":25"]),
        (&[], &["*", "192.0.2.0/24"]),
        (&["*"], &["bad.example.com:80"]),
    ] {
        let access = access(allow, deny);
        for host in ["db.example.com", "bad.example.com", "x", "192.0.2.9", "192.0.2.1"] {
            for port in [22, 25, 80, 443] {
                let early =
                    access.judge_unresolved("m", &Host::parse(host).unwrap(), port).is_err();
                for ip in ["192.0.2.9", "192.0.2.1", "198.51.100.1"] {
                    let late = judged(&access, "m", host, ip, port) != "ok";
                    assert!(late || !early, "{host} {ip} {port}, {allow:?} {deny:?}");
                }
            }
        }
    }
}

#[test]
fn own_listeners_open_only_to_a_rule_that_names_their_port() {
    let own = |access: &Access| {
        let host = Host::parse("localhost").unwrap();
        access.judge_own("m", &host, "127.0.0.1:10115".parse().unwrap()).is_ok()
    };
    assert!(!own(&Access::default()));
    assert!(!own(&access(&["*", "127.0.0.0/8", ":1-65535"], &[])));
    assert!(own(&access(&["127.0.0.0/8:10115"], &[])));
    assert!(own(&access(&[":10115"], &[])));
    assert!(!own(&access(&["10.0.0.0/8:10115"], &[])));
    assert!(own(&Access::unrestricted()));
}

#[test]
fn open_is_what_allows_everything() {
    assert!(access(&[], &[":25"]).is_open());
    assert!(access(&["*"], &[]).is_open());
    assert!(access(&["::/0"], &[]).is_open());
    assert!(access(&["10.0.0.0/8", "*:1-65535"], &[]).is_open());
    assert!(!access(&["*:443"], &[]).is_open());
    assert!(!access(&["*.example.com"], &[]).is_open());
}
