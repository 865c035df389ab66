//! One story per behaviour that the truth table does not tell, and at least one per alert.

use crate::promtool::Run;
use crate::story::{Story, Target};

const PAGE: &str = "TcpMonitorTargetDown";
/// Alerts about targets, the escalations left out.
const TARGET: &str = "TcpMonitor(TargetDown|TargetUnreachable|UnexpectedlyOpen|HostDown|RegionalFailure\
                      |DownUnconfirmed|AppFailing|DownButAppAnswers|Primary.*|Group.*)";
/// Alerts to the people who run the monitor; the one that always fires left out.
const MONITORING: &str = "TcpMonitor(Region(Impaired|Silent)|ExporterDown|AllRegionsSilent|CannotLook\
                          |QuorumDegraded|TargetUnwatched|ReloadFailed|ExportersDisagree|Schedule.*\
                          |TargetsRefused)";
const ALWAYS_UP: &str = "uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";

/// `letters` with repetition: `u6 d10 .2` is six minutes up, ten down, two silent.
fn minutes(letters: &str) -> String {
    letters
        .split_whitespace()
        .map(|it| {
            let (letter, count) = it.split_at(1);
            letter.repeat(if count.is_empty() { 1 } else { count.parse().expect("minutes") })
        })
        .collect()
}

/// The three usual regions with their stories.
fn regions<'a>(ap: &'a str, eu: &'a str, us: &'a str) -> [(&'static str, &'a str); 3] {
    [("ap", ap), ("eu", eu), ("us", us)]
}

/// At every half minute from `from` to `to`, exactly `expected` fires.
fn throughout(story: &mut Story, from: u32, to: u32, names: &str, expected: &[(&str, &str)]) {
    for half in from * 2..=to * 2 {
        story.firing(f64::from(half) / 2.0, names, expected);
    }
}

/// A story of one target in three regions, in which the page fires throughout.
fn page_holds(name: &str, interval: u32, letters: [&str; 3], from: u32, to: u32) -> Story {
    let mut story = Story::new(name);
    let [ap, eu, us] = letters.map(minutes);
    let target = Target { interval, ..Target::default() };
    story.scheduled(&target, &regions(&ap, &eu, &us));
    throughout(&mut story, from, to, PAGE, &[(PAGE, "orders-db")]);
    // With the labels it began with: a page that loses its team has moved to another route.
    let labelled = format!("count(ALERTS{{alertname=\"{PAGE}\", team=\"dba\"}})");
    for half in from * 2..=to * 2 {
        story.expect(&labelled, f64::from(half) / 2.0, &[("{}".to_owned(), 1.0)]);
    }
    story
}

fn restarts_and_gaps() -> Vec<Story> {
    vec![
        page_holds(
            "one exporter restarts in an outage",
            30,
            ["u6 d14", "u6 d4 . r d8", "u20"],
            7,
            19,
        ),
        page_holds(
            "all exporters restart in an outage",
            30,
            ["u6 d4 . r d8", "u6 d4 . r d8", "u6 d4 . r d8"],
            7,
            19,
        ),
        page_holds(
            "all restart, and the next probe is an hour away",
            3600,
            ["u6 d4 . r25", "u6 d4 . r25", "u36"],
            7,
            35,
        ),
        page_holds(
            "scrapes are lost in an outage",
            30,
            ["u6 d3 .2 d9", "u6 d4 .3 d7", "u20"],
            7,
            19,
        ),
        page_holds("a failing region is cut off", 30, ["u6 d3 .13", "u6 d16", "u22"], 7, 21),
        page_holds("local faults come on top", 30, ["u6 d3 i20", "u6 d3 i20", "u29"], 7, 28),
    ]
}

fn a_region_that_is_cut_off_has_no_vote() -> Story {
    let mut story = Story::new("a region is cut off from the centre, without stale markers");
    let cut_off = minutes("u6 c14");
    story.scheduled(&Target::default(), &regions(&cut_off, ALWAYS_UP, ALWAYS_UP));
    let fresh = |count| {
        [(
            "target:tcp_monitor_regions_fresh:count{monitor=\"orders-db\", target=\"orders-db:1\"}"
                .to_owned(),
            count,
        )]
    };
    story.expect("target:tcp_monitor_regions_fresh:count", 7.0, &fresh(3.0));
    story.expect("target:tcp_monitor_regions_fresh:count", 8.5, &fresh(2.0));
    story
}

fn silence_while_all_is_well() -> Story {
    let mut story = Story::new("restarts and lost scrapes while all is well");
    let (ap, eu) = (minutes("u6 . r u12"), minutes("u8 . u4 .2 r u4"));
    story.scheduled(&Target::default(), &regions(&ap, &eu, ALWAYS_UP));
    throughout(&mut story, 0, 19, TARGET, &[]);
    story
}

fn evidence_does_not_live_for_ever() -> Story {
    let mut story = Story::new("a target is removed everywhere while down");
    let gone = minutes("u6 d4 .25");
    story.scheduled(&Target::default(), &regions(&gone, &gone, &gone));
    story.firing(24.0, PAGE, &[(PAGE, "orders-db")]);
    story.firing(26.0, TARGET, &[]);
    story
}

fn first_region_after_a_start_does_not_page_alone() -> Story {
    let mut story = Story::new("regions appear one after another");
    let (ap, eu, us) = (minutes("d20"), minutes(".2 u18"), minutes(".3 u17"));
    story.scheduled(&Target::default(), &regions(&ap, &eu, &us));
    throughout(&mut story, 0, 19, PAGE, &[]);
    story
}

fn a_single_region_pages() -> Story {
    let mut story = Story::new("one region only, though two must agree");
    story.scheduled(&Target::default(), &[("ap", &minutes("u8 d12"))]);
    throughout(&mut story, 8, 19, TARGET, &[(PAGE, "orders-db")]);
    story
}

fn two_exporters_of_a_region_vote_together() -> Story {
    let mut story = Story::new("two exporters in a region");
    let target = Target { required: 1, ..Target::default() };
    story.scheduled_in(&target, "ap", "ap-1", &minutes("u6 d14"));
    story.scheduled_in(&target, "ap", "ap-2", &minutes("u12 d8"));
    throughout(&mut story, 6, 11, TARGET, &[]);
    throughout(&mut story, 12, 19, TARGET, &[(PAGE, "orders-db")]);
    story
}

fn labels_may_differ_between_exporters() -> Story {
    let mut story = Story::new("a team is being changed");
    let outage = minutes("u6 d14");
    for (region, labels) in [
        ("ap", "team=\"dba\", severity=\"warning\""),
        ("eu", "team=\"storage\", severity=\"warning\""),
        ("us", "team=\"dba\", severity=\"warning\""),
    ] {
        story.scheduled(&Target { labels, ..Target::default() }, &[(region, &outage)]);
    }
    let alert = "{alertname=\"TcpMonitorTargetDown\", alertstate=\"firing\", monitor=\"orders-db\", \
                 severity=\"warning\", target=\"orders-db:1\", team=\"dba\"}";
    let expr = format!("group without (__name__) (ALERTS{{alertname=\"{PAGE}\"}})");
    for minute in 6..20 {
        story.expect(&expr, f64::from(minute), &[(alert.to_owned(), 1.0)]);
    }
    story
}

fn flapping_is_two_pages() -> Story {
    let mut story = Story::new("flapping for 25 minutes");
    let flapping = minutes("u6 d2 u2 d2 u2 d2 u2 d2 u2 d2 u2 d2 u2 d1 u14");
    story.scheduled(&Target::default(), &regions(&flapping, &flapping, ALWAYS_UP));
    // Two outages begin: the second is held until ten minutes have been quiet.
    story.firing(9.0, PAGE, &[]);
    throughout(&mut story, 10, 40, PAGE, &[(PAGE, "orders-db")]);
    story.firing(42.0, PAGE, &[]);
    story.firing(25.0, "TcpMonitorFlapping", &[("TcpMonitorFlapping", "orders-db")]);
    story.firing(13.5, "TcpMonitorFlapping", &[]);
    story.firing(14.5, "TcpMonitorFlapping", &[("TcpMonitorFlapping", "orders-db")]);
    story
}

fn severity_and_immediacy_come_from_the_monitor() -> Story {
    let mut story = Story::new("labels of the page");
    let outage = minutes("u6 d4");
    for (monitor, labels, confirm) in [
        ("default", "team=\"dba\"", 3),
        ("minor", "team=\"dba\", severity=\"warning\"", 3),
        ("at-once", "team=\"dba\"", 1),
    ] {
        let target = Target { monitor, labels, confirm, ..Target::default() };
        story.scheduled(&target, &regions(&outage, &outage, ALWAYS_UP));
    }
    let expr = format!("group by (monitor, severity, immediate) (ALERTS{{alertname=\"{PAGE}\"}})");
    #[rustfmt::skip]
    story.expect(&expr, 7.0, &[
        ("{immediate=\"true\", monitor=\"at-once\", severity=\"critical\"}".to_owned(), 1.0),
        ("{monitor=\"default\", severity=\"critical\"}".to_owned(), 1.0),
        ("{monitor=\"minor\", severity=\"warning\"}".to_owned(), 1.0),
    ]);
    story
}

fn what_counts_as_news() -> Story {
    let mut story = Story::new("unavailable, unreachable, unexpectedly open");
    let outage = minutes("u6 d6");
    for (monitor, labels, reason) in [
        ("unavailable-refused", "team=\"dba\"", "refused"),
        ("unreachable-refused", "alert_if=\"unreachable\"", "refused"),
        ("unreachable-silent", "alert_if=\"unreachable\"", "timeout"),
        ("unreachable-unrouted", "alert_if=\"unreachable\"", "net_unreachable"),
        ("shut-and-open", "team=\"security\"", "unexpectedly_open"),
    ] {
        let target = Target { monitor, labels, reason, ..Target::default() };
        story.scheduled(&target, &regions(&outage, &outage, ALWAYS_UP));
        let scraped = format!("{monitor}-on-scrape");
        let target = Target { monitor: &scraped, confirm: 1, ..target };
        story.on_scrape(&target, &regions(&outage, &outage, ALWAYS_UP));
    }
    let expected = [
        (PAGE, "unavailable-refused"),
        ("TcpMonitorTargetUnreachable", "unreachable-silent"),
        ("TcpMonitorTargetUnreachable", "unreachable-unrouted"),
        ("TcpMonitorUnexpectedlyOpen", "shut-and-open"),
    ];
    let scraped = expected.map(|(alert, monitor)| (alert, format!("{monitor}-on-scrape")));
    let mut all = expected.to_vec();
    all.extend(scraped.iter().map(|(alert, monitor)| (*alert, monitor.as_str())));
    story.firing(8.0, TARGET, &all);
    story
}

fn pairs_and_clusters() -> Story {
    let mut story = Story::new("primary, standby, both; one, two, three of a cluster");
    let members: [(&str, &str, &str); 5] = [
        ("db-primary", "group=\"orders\", role=\"primary\"", "u6 d6 u6 d6 u6"),
        ("db-standby", "group=\"orders\", role=\"standby\"", "u12 d12 u6"),
        ("node-1", "group=\"cluster\"", "u6 d18 u6"),
        ("node-2", "group=\"cluster\"", "u12 d12 u6"),
        ("node-3", "group=\"cluster\"", "u18 d6 u6"),
    ];
    for (monitor, labels, letters) in members {
        let target = Target { monitor, labels, ..Target::default() };
        let letters = minutes(letters);
        story.scheduled(&target, &regions(&letters, &letters, &letters));
    }
    story.series("tcp_monitor_group_min_up{group=\"cluster\", region=\"ap\"}", "2x60");

    #[rustfmt::skip]
    story.expect("group:tcp_monitor_members_down:count", 5.0, &[
        ("group:tcp_monitor_members_down:count{group=\"cluster\"}".to_owned(), 0.0),
        ("group:tcp_monitor_members_down:count{group=\"orders\"}".to_owned(), 0.0),
    ]);
    let names = "TcpMonitor(PrimaryDown|GroupDegraded|TargetDown)";
    story.firing(5.0, names, &[]);
    story.firing(
        9.0,
        names,
        &[("TcpMonitorPrimaryDown", "db-primary"), ("TcpMonitorGroupDegraded", "node-1")],
    );
    story.firing(
        15.0,
        names,
        &[
            ("TcpMonitorGroupDegraded", "db-standby"),
            ("TcpMonitorGroupDegraded", "node-1"),
            ("TcpMonitorGroupDegraded", "node-2"),
        ],
    );
    let group = "TcpMonitorGroupDown";
    story.firing_by("group", 9.0, group, &[]);
    story.firing_by("group", 15.0, group, &[(group, "cluster")]);
    story.firing_by("group", 21.0, group, &[(group, "cluster"), (group, "orders")]);
    story.firing_by("group", 29.0, group, &[]);
    story
}

fn a_member_nobody_knows_counts_as_up() -> Story {
    let mut story = Story::new("a standby without evidence");
    let labels = "group=\"orders\", role=\"primary\"";
    let outage = minutes("u6 d10");
    let primary = Target { monitor: "db-primary", labels, ..Target::default() };
    story.scheduled(&primary, &regions(&outage, &outage, &outage));
    let labels = "group=\"orders\", role=\"standby\"";
    let unknown = minutes("r16");
    let standby = Target { monitor: "db-standby", labels, ..Target::default() };
    story.scheduled(&standby, &regions(&unknown, &unknown, &unknown));
    story.firing(10.0, TARGET, &[("TcpMonitorPrimaryDown", "db-primary")]);
    story.firing_by("group", 10.0, "TcpMonitorGroupDown", &[]);
    story
}

fn groups_on_scrape() -> Story {
    let mut story = Story::new("a cluster on scrape, two of three must be up");
    for (monitor, letters) in [("node-1", "u6 d12"), ("node-2", "u12 d6"), ("node-3", "u18")] {
        let labels = "group=\"cluster\", group_min_up=\"2\"";
        let letters = minutes(letters);
        let target = Target { monitor, labels, confirm: 1, ..Target::default() };
        story.on_scrape(&target, &regions(&letters, &letters, &letters));
    }
    for (monitor, letters) in [("big-1", "u6 d12"), ("big-2", "u18"), ("big-3", "u18")] {
        let labels = "group=\"big\", group_min_up=\"3\"";
        let letters = minutes(letters);
        let target = Target { monitor, labels, confirm: 1, ..Target::default() };
        story.on_scrape(&target, &regions(&letters, &letters, &letters));
    }
    let group = "TcpMonitorGroupDown";
    story.firing_by("group", 10.0, group, &[(group, "big")]);
    story.firing_by("group", 16.0, group, &[(group, "big"), (group, "cluster")]);
    story
}

fn hosts() -> Story {
    let mut story = Story::new("all ports of a host");
    for (monitor, labels, letters) in [
        ("a-ssh", "host=\"a\", severity=\"warning\"", "u6 d10"),
        ("a-mysql", "host=\"a\"", "u6 d10"),
        ("a-app", "host=\"a\", severity=\"warning\"", "u10 d6"),
        ("b-ssh", "host=\"b\", severity=\"warning\"", "u6 d10"),
        ("b-mysql", "host=\"b\", severity=\"warning\"", "u6 d10"),
        ("c-only", "host=\"c\"", "u6 d10"),
        // The application check of a host is no port of it.
        ("b-health", "host=\"b\", module=\"http_2xx\"", "u16"),
    ] {
        let letters = minutes(letters);
        let target = Target { monitor, labels, ..Target::default() };
        story.scheduled(&target, &regions(&letters, &letters, ALWAYS_UP));
    }
    let host = "TcpMonitorHostDown";
    story.firing_by("host", 8.0, host, &[(host, "b")]);
    story.firing_by("host", 12.0, host, &[(host, "a"), (host, "b")]);
    // The one critical port of a host decides.
    #[rustfmt::skip]
    story.expect(&format!("group by (host, severity) (ALERTS{{alertname=\"{host}\"}})"), 12.0, &[
        ("{host=\"a\", severity=\"critical\"}".to_owned(), 1.0),
        ("{host=\"b\", severity=\"warning\"}".to_owned(), 1.0),
    ]);
    story
}

fn parents_and_children() -> Story {
    let mut story = Story::new("a parent explains its children");
    for (monitor, labels, letters) in [
        ("edge-router", "team=\"net\"", "u6 d10"),
        ("core-router", "team=\"net\"", "u16"),
        ("shop", "depends_on=\"edge-router\"", "u6 d10"),
        ("wiki", "depends_on=\"core-router\"", "u6 d10"),
    ] {
        let letters = minutes(letters);
        let target = Target { monitor, labels, ..Target::default() };
        story.scheduled(&target, &regions(&letters, &letters, ALWAYS_UP));
    }
    // Nobody depends on this one.
    let lonely = Target { monitor: "lonely", ..Target::default() };
    let outage = minutes("u6 d10");
    story.scheduled(&lonely, &regions(&outage, &outage, &outage));
    let parent = "TcpMonitorParentDown";
    story.firing_by("depends_on", 8.0, parent, &[(parent, "edge-router")]);
    story
}

fn ports_and_applications() -> Story {
    let mut story = Story::new("a port and the application behind it");
    for (service, port, application) in [
        ("both-well", "u20", "u20"),
        ("app-fails", "u20", "u6 d14"),
        ("port-fails", "u6 d14", "u20"),
        ("both-fail", "u6 d14", "u6 d14"),
    ] {
        let labels = format!("service=\"{service}\"");
        let port = minutes(port);
        let monitor = format!("{service}-tcp");
        let target = Target { monitor: &monitor, labels: &labels, ..Target::default() };
        story.scheduled(&target, &regions(&port, &port, ALWAYS_UP));

        let labels = format!("service=\"{service}\", module=\"http_2xx\"");
        let application = minutes(application);
        let monitor = format!("{service}-http");
        let target = Target { monitor: &monitor, labels: &labels, confirm: 1, ..Target::default() };
        story.on_scrape(&target, &regions(&application, &application, ALWAYS_UP));
    }
    // Alertmanager inhibits the application's alert where its port is down.
    story.firing(
        12.0,
        TARGET,
        &[
            ("TcpMonitorAppFailing", "app-fails-http"),
            ("TcpMonitorAppFailing", "both-fail-http"),
            (PAGE, "port-fails-tcp"),
            (PAGE, "both-fail-tcp"),
            ("TcpMonitorDownButAppAnswers", "port-fails-tcp"),
        ],
    );
    story
}

fn escalation_goes_by_the_age_of_the_outage() -> Story {
    let mut story = Story::new("escalation after five and fifteen minutes, restarts included");
    let (ap, eu) = (minutes("u6 d3 .2 d20 u4"), minutes("u6 d2 . r d21 u4"));
    story.scheduled(&Target::default(), &regions(&ap, &eu, ALWAYS_UP));
    let expr = "count by (escalation) (ALERTS{alertname=\"TcpMonitorTargetDownProlonged\"})";
    let level = |it: u32| (format!("{{escalation=\"{it}\"}}"), 1.0);
    story.expect(expr, 10.5, &[]);
    story.expect(expr, 11.0, &[level(2)]);
    story.expect(expr, 20.5, &[level(2)]);
    story.expect(expr, 21.0, &[level(2), level(3)]);
    story.expect(expr, 32.0, &[]);
    story
}

pub(crate) fn an_outage_of_a_day_is_a_ticket() -> Story {
    let mut story = Story::new("down for a day");
    let outage = minutes("u6 d1445");
    let target = Target { required: 1, ..Target::default() };
    story.scheduled(&target, &[("ap", &outage)]);
    let long = "TcpMonitorTargetDownForLong";
    story.firing(6.0 + 1440.0 - 1.0, long, &[]);
    story.firing(6.0 + 1440.0 + 1.0, long, &[(long, "orders-db")]);
    story
}

fn regions_fail() -> Vec<Story> {
    let mut impaired = Story::new("a region is impaired");
    for index in 0..6 {
        let monitor = format!("monitor-{index}");
        let target = Target { monitor: &monitor, ..Target::default() };
        let ap = minutes(if index < 3 { "u6 d10" } else { "u16" });
        let eu = minutes(if index < 2 { "u6 d10" } else { "u16" });
        impaired.scheduled(&target, &regions(&ap, ALWAYS_UP, ALWAYS_UP));
        let monitor = format!("other-{index}");
        let target = Target { monitor: &monitor, ..target };
        // All of eu's own three targets: too few of all that it watches.
        if index < 3 {
            impaired.scheduled(&target, &[("eu", &eu), ("us", ALWAYS_UP)]);
        }
    }
    let name = "TcpMonitorRegionImpaired";
    impaired.firing_by("region", 6.5, name, &[]);
    impaired.firing_by("region", 9.0, name, &[(name, "ap")]);

    let mut everywhere = Story::new("targets down everywhere do not impair a region");
    for index in 0..4 {
        let monitor = format!("monitor-{index}");
        let target = Target { monitor: &monitor, ..Target::default() };
        let outage = minutes("u6 d10");
        everywhere.scheduled(&target, &regions(&outage, &outage, &outage));
    }
    everywhere.firing_by("region", 12.0, name, &[]);

    let mut small = Story::new("two targets are too few to blame a region");
    for index in 0..2 {
        let monitor = format!("monitor-{index}");
        let target = Target { monitor: &monitor, ..Target::default() };
        small.scheduled(&target, &regions(&minutes("u6 d10"), ALWAYS_UP, ALWAYS_UP));
    }
    small.firing_by("region", 12.0, name, &[]);

    let mut silent = Story::new("a region is silent, then all are");
    silent.scheduled(
        &Target::default(),
        &regions(&minutes("u6 .14"), &minutes("u12 .8"), &minutes("u12 .8")),
    );
    for (region, letters) in [("ap", "u6 .14"), ("eu", "u12 .8"), ("us", "u12 .8")] {
        let up =
            format!("up{{job=\"tcp-monitor\", instance=\"{region}:10115\", region=\"{region}\"}}");
        silent.tell(&up, &minutes(letters), |it, _| Some(f64::from(u8::from(it == 'u'))));
    }
    let (name, down) = ("TcpMonitorRegionSilent", "TcpMonitorExporterDown");
    silent.firing_by("region", 7.0, MONITORING, &[]);
    silent.firing_by("region", 9.0, MONITORING, &[(name, "ap"), (down, "ap")]);
    let all = ["ap", "eu", "us"];
    let mut expected: Vec<(&str, &str)> = all.iter().map(|it| (name, *it)).collect();
    expected.extend(all.iter().map(|it| (down, *it)));
    expected.push(("TcpMonitorAllRegionsSilent", ""));
    silent.firing_by("region", 15.0, MONITORING, &expected);
    silent.firing(15.0, TARGET, &[]);

    vec![impaired, everywhere, small, silent]
}

fn monitor_cannot_look() -> Vec<Story> {
    let name = "TcpMonitorCannotLook";
    let mut one = Story::new("local faults in one region");
    one.scheduled(&Target::default(), &regions(&minutes("u6 i14"), ALWAYS_UP, ALWAYS_UP));
    one.firing_by("region", 7.0, MONITORING, &[]);
    one.firing_by("region", 19.0, MONITORING, &[(name, "ap")]);
    throughout(&mut one, 0, 19, TARGET, &[]);

    let mut all = Story::new("local faults in all regions");
    let fault = minutes("u6 i24");
    all.scheduled(&Target::default(), &regions(&fault, &fault, &fault));
    all.firing_by("region", 29.0, MONITORING, &[(name, "ap"), (name, "eu"), (name, "us")]);
    throughout(&mut all, 0, 29, TARGET, &[]);

    let mut scraped = Story::new("local faults of probes on scrape");
    for (region, faults) in [("ap", "0+1x60"), ("eu", "0x60")] {
        for (outcome, values) in
            [("success", "0+9x60"), ("failure", "0x60"), ("inconclusive", faults)]
        {
            let labels = format!(
                "region=\"{region}\", job=\"tcp-monitor\", instance=\"{region}\", outcome=\"{outcome}\""
            );
            scraped.series(&format!("tcp_probe_exporter_probes_total{{{labels}}}"), values);
        }
    }
    scraped.firing_by("region", 10.0, name, &[(name, "ap")]);

    let mut degraded = Story::new("two of three regions cannot look");
    degraded
        .scheduled(&Target::default(), &regions(&minutes("u6 i14"), &minutes("u6 s14"), ALWAYS_UP));
    let quorum = "TcpMonitorQuorumDegraded";
    degraded.firing_by("region", 19.0, quorum, &[(quorum, "")]);
    degraded.firing_by("region", 7.0, quorum, &[]);

    vec![one, all, scraped, degraded]
}

fn nobody_looks() -> Story {
    let mut story = Story::new("a target is configured and nobody looks");
    let hung = minutes("u6 s24");
    let target = |monitor| Target { monitor, ..Target::default() };
    story.scheduled(&target("hung-everywhere"), &regions(&hung, &hung, &hung));
    story.scheduled(&target("hung-in-two"), &regions(&hung, &hung, ALWAYS_UP));
    let never = minutes("r30");
    story.scheduled(&target("never-probed"), &regions(&never, &never, &never));
    let name = "TcpMonitorTargetUnwatched";
    story.firing(4.0, name, &[]);
    story.firing(25.0, name, &[(name, "hung-everywhere"), (name, "never-probed")]);
    story
}

fn exporters_report_trouble() -> Story {
    let mut story = Story::new("exporters in trouble");
    let labels = |region: &str| {
        format!("region=\"{region}\", job=\"tcp-monitor\", instance=\"{region}:10115\"")
    };
    let reload = "tcp_probe_exporter_config_last_reload_successful";
    story.series(&format!("{reload}{{{}}}", labels("ap")), "1x12 0x100");
    story.series(&format!("{reload}{{{}}}", labels("eu")), "1x12 0x4 1x100");
    for (region, hash) in [("ap", "1"), ("eu", "1")] {
        let labels = labels(region);
        story.series(
            &format!("tcp_probe_exporter_config_hash_info{{{labels}, hash=\"{hash}\"}}"),
            "1x100",
        );
    }
    // A second exporter of ap that still runs on the old file.
    story.series(
        "tcp_probe_exporter_config_hash_info{region=\"ap\", job=\"tcp-monitor\", instance=\"ap-2\", hash=\"0\"}",
        "1x100",
    );
    let skipped = "tcp_probe_exporter_runs_skipped_total";
    story.series(&format!("{skipped}{{{}}}", labels("ap")), "0x20 0+1x80");
    story.series(&format!("{skipped}{{{}}}", labels("eu")), "0x100");
    for (region, below) in [("eu", "0+1x100"), ("us", "0x100")] {
        let labels = labels(region);
        let bucket = "tcp_probe_exporter_start_lateness_seconds_bucket";
        story.series(&format!("{bucket}{{{labels}, le=\"1\"}}"), below);
        story.series(&format!("{bucket}{{{labels}, le=\"10\"}}"), "0+1x100");
        story.series(&format!("{bucket}{{{labels}, le=\"+Inf\"}}"), "0+1x100");
    }
    let refused = "tcp_probe_exporter_targets_refused_total";
    story.series(&format!("{refused}{{{}}}", labels("ap")), "0x20 0+1x80");
    story.series(&format!("{refused}{{{}}}", labels("eu")), "0x100");
    let names = "TcpMonitor(ReloadFailed|ExportersDisagree|ScheduleLate|TargetsRefused|Watchdog)";
    #[rustfmt::skip]
    story.firing_by("region", 45.0, names, &[
        ("TcpMonitorReloadFailed", "ap"),
        ("TcpMonitorExportersDisagree", "ap"),
        ("TcpMonitorScheduleLate", "ap"),
        ("TcpMonitorScheduleLate", "us"),
        ("TcpMonitorTargetsRefused", "ap"),
        ("TcpMonitorWatchdog", ""),
    ]);
    story.firing_by("region", 5.0, names, &[("TcpMonitorWatchdog", "")]);
    story
}

fn policies_differ_between_regions() -> Vec<Story> {
    let name = "TcpMonitorExportersDisagree";
    let target = Target::default();
    let mut differ = Story::new("quorums differ");
    differ.scheduled(&target, &[("ap", ALWAYS_UP)]);
    differ.scheduled(&Target { required: 1, ..target.clone() }, &[("eu", ALWAYS_UP)]);
    differ.firing_by("region", 35.0, name, &[(name, "")]);
    differ.firing_by("region", 25.0, name, &[]);

    // A distant region may need more of it.
    let mut distant = Story::new("confirmation differs");
    distant.scheduled(&target, &[("ap", ALWAYS_UP)]);
    distant.scheduled(&Target { confirm: 5, ..target.clone() }, &[("eu", ALWAYS_UP)]);
    distant.firing_by("region", 35.0, name, &[]);

    let mut same = Story::new("policies agree");
    same.scheduled(&target, &regions(ALWAYS_UP, ALWAYS_UP, ALWAYS_UP));
    same.firing_by("region", 35.0, name, &[]);
    vec![differ, distant, same]
}

fn slow_targets() -> Story {
    let mut story = Story::new("slow, near the timeout");
    // What each region's exporter says, in steps of 30 s: `1` while it is so.
    let (never, always) = ("_x80", "1x80");
    // An exporter that is restarted needs a while to say it again; a bad moment does not last.
    let (restarted, moment) = ("1x20 _x4 1x56", "_x20 1x4 _x56");
    for (monitor, mark, values) in [
        ("slow-in-one", "slow", [always, never, never]),
        ("slow-in-two", "slow", [always, always, never]),
        ("slow-and-restarted", "slow", [always, restarted, never]),
        ("slow-for-a-moment", "slow", [moment, moment, moment]),
        ("near", "near_timeout", [always, never, never]),
        ("near-for-a-moment", "near_timeout", [moment, never, never]),
    ] {
        let target = Target { monitor, ..Target::default() };
        story.scheduled(&target, &regions(ALWAYS_UP, ALWAYS_UP, ALWAYS_UP));
        for (region, values) in ["ap", "eu", "us"].iter().zip(values) {
            let key = format!(
                "monitor=\"{monitor}\", target=\"{monitor}:1\", region=\"{region}\", \
                 job=\"tcp-monitor\", instance=\"{region}:10115\""
            );
            let values = values.replace(" _", " stale _");
            story.series(&format!("tcp_monitor_{mark}{{{key}}}"), &values);
        }
    }
    let scraped = Target { monitor: "scraped", confirm: 1, ..Target::default() };
    story.on_scrape(&scraped, &[("ap", ALWAYS_UP)]);
    let key = "monitor=\"scraped\", target=\"scraped:1\", region=\"ap\", job=\"tcp-probe\", instance=\"scraped:1\"";
    story.series(&format!("probe_duration_seconds{{{key}}}"), "4x80");
    story.series(&format!("probe_timeout_seconds{{{key}}}"), "5x80");

    let (slow, near) = ("TcpMonitorTargetSlow", "TcpMonitorNearTimeout");
    for minute in [11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 38.0] {
        story.firing(minute, slow, &[(slow, "slow-in-two"), (slow, "slow-and-restarted")]);
        story.firing(minute, near, &[(near, "near"), (near, "scraped")]);
    }
    story.firing(4.5, "TcpMonitor(TargetSlow|NearTimeout)", &[]);
    story
}

fn certificates() -> Story {
    let mut story = Story::new("certificates");
    let day = 86_400;
    for (monitor, days) in [("fine", 30), ("soon", 10), ("now", 2), ("expired", -1)] {
        let target = Target { monitor, ..Target::default() };
        story.scheduled(&target, &regions(ALWAYS_UP, ALWAYS_UP, ALWAYS_UP));
        let key = format!("monitor=\"{monitor}\", target=\"{monitor}:1\", region=\"ap\"");
        // The series is lost after five minutes, as it is while the target is down.
        story.series(
            &format!("tcp_monitor_tls_cert_not_after_timestamp_seconds{{{key}}}"),
            &format!("{}x10 stale", days * day),
        );
        let monitor = format!("{monitor}-on-scrape");
        let target = Target { monitor: &monitor, ..target };
        story.on_scrape(&target, &[("ap", ALWAYS_UP)]);
        let key = format!("monitor=\"{monitor}\", target=\"{monitor}:1\", region=\"ap\"");
        story.series(
            &format!("probe_ssl_earliest_cert_expiry{{{key}}}"),
            &format!("{}x10 stale", days * day),
        );
    }
    let name = "TcpMonitorTLSCertExpiringSoon";
    let expr = format!("count by (monitor, severity) (ALERTS{{alertname=\"{name}\"}})");
    let expected: Vec<(String, f64)> =
        [("expired", "critical"), ("now", "critical"), ("soon", "warning")]
            .iter()
            .flat_map(|(monitor, severity)| {
                ["", "-on-scrape"].map(|it| {
                    (format!("{{monitor=\"{monitor}{it}\", severity=\"{severity}\"}}"), 1.0)
                })
            })
            .collect();
    story.expect(&expr, 10.0, &expected);
    story
}

fn objectives() -> Story {
    let mut story = Story::new("error budgets");
    let brownout = "uf".repeat(60) + &"u".repeat(60);
    let well = "u".repeat(180);
    for (monitor, letters, objective) in [
        ("brown-out", [&brownout, &brownout, &well], Some(0.99)),
        ("in-one-region", [&brownout, &well, &well], Some(0.99)),
        ("no-objective", [&brownout, &brownout, &well], None),
        ("generous", [&brownout, &brownout, &well], Some(0.5)),
    ] {
        let target = Target { monitor, objective, ..Target::default() };
        let [ap, eu, us] = letters;
        story.scheduled(&target, &regions(ap, eu, us));
    }
    // A confirmed outage has paged already.
    let outage = minutes("u60 d60 u60");
    let confirmed = Target { monitor: "outage", objective: Some(0.99), ..Target::default() };
    story.scheduled(&confirmed, &regions(&outage, &outage, &outage));
    let expr =
        "count by (monitor, severity, long) (ALERTS{alertname=\"TcpMonitorErrorBudgetBurn\"})";
    let burn = |monitor: &str, severity: &str, long: &str| {
        (format!("{{long=\"{long}\", monitor=\"{monitor}\", severity=\"{severity}\"}}"), 1.0)
    };
    #[rustfmt::skip]
    story.expect(expr, 115.0, &[
        burn("brown-out", "critical", "1h"),
        burn("brown-out", "critical", "6h"),
        burn("brown-out", "warning", "1d"),
        burn("brown-out", "warning", "3d"),
        burn("outage", "warning", "1d"),
        burn("outage", "warning", "3d"),
    ]);
    // An hour after it ended, the short windows have forgotten it.
    #[rustfmt::skip]
    story.expect(expr, 178.0, &[
        burn("brown-out", "warning", "1d"),
        burn("brown-out", "warning", "3d"),
        burn("outage", "warning", "1d"),
        burn("outage", "warning", "3d"),
    ]);
    story
}

/// Every history of five samples on scrape, after one, two and three failures, against the
/// definition read literally.
fn on_scrape_histories() -> Story {
    let mut story = Story::new("on-scrape confirmation over all short histories");
    let length = 5;
    let mut expected: Vec<Vec<(String, f64)>> = vec![Vec::new(); length];
    for confirm in 1..=3 {
        for index in 0..3_usize.pow(u32::try_from(length).expect("short")) {
            let history: String = (0..length)
                .map(|it| {
                    ['u', 'd', '.'][index / 3_usize.pow(u32::try_from(it).expect("short")) % 3]
                })
                .collect();
            let monitor = format!("{history}-{confirm}");
            let key = format!(
                "monitor=\"{monitor}\", target=\"t\", region=\"ap\", confirm_failures=\"{confirm}\""
            );
            // One letter a sample here, not a minute: the second half of each minute is lost.
            let mut first = false;
            story.tell(&format!("probe_success{{{key}}}"), &history, |it, _| {
                first = !first;
                match it {
                    'u' if first => Some(1.0),
                    'd' if first => Some(0.0),
                    _ => None,
                }
            });
            story.constant(&format!("up{{{key}}}"), "uuuuu", 1.0);
            for (minute, expected) in expected.iter_mut().enumerate() {
                if let Some(verdict) = literally(&history[..=minute], confirm) {
                    expected.push((format!("{{monitor=\"{monitor}\"}}"), verdict));
                }
            }
        }
    }
    for (minute, expected) in expected.iter().enumerate() {
        let minute = f64::from(u32::try_from(minute).expect("short"));
        story.expect("max by (monitor) (instance_target:probe_success:verdict)", minute, expected);
    }
    story
}

/// The verdict after `history`: down if the last `confirm` samples failed, up after a success,
/// else what it was; lost samples do not count, and right after one there is no verdict.
fn literally(history: &str, confirm: usize) -> Option<f64> {
    if history.ends_with('.') {
        return None;
    }
    let samples: Vec<char> = history.chars().filter(|&it| it != '.').collect();
    (1..=samples.len()).rev().find_map(|end| {
        let failed = samples[..end].iter().rev().take_while(|&&it| it == 'd').count();
        match failed {
            0 => Some(1.0),
            it if it >= confirm => Some(0.0),
            _ => None,
        }
    })
}

/// All stories but the long one.
pub(crate) fn all() -> Vec<Story> {
    let mut stories = restarts_and_gaps();
    stories.extend([
        a_region_that_is_cut_off_has_no_vote(),
        silence_while_all_is_well(),
        evidence_does_not_live_for_ever(),
        first_region_after_a_start_does_not_page_alone(),
        a_single_region_pages(),
        two_exporters_of_a_region_vote_together(),
        labels_may_differ_between_exporters(),
        flapping_is_two_pages(),
        severity_and_immediacy_come_from_the_monitor(),
        what_counts_as_news(),
        pairs_and_clusters(),
        a_member_nobody_knows_counts_as_up(),
        groups_on_scrape(),
        hosts(),
        parents_and_children(),
        ports_and_applications(),
        escalation_goes_by_the_age_of_the_outage(),
        nobody_looks(),
        exporters_report_trouble(),
        slow_targets(),
        certificates(),
        objectives(),
        on_scrape_histories(),
    ]);
    stories.extend(regions_fail());
    stories.extend(monitor_cannot_look());
    stories.extend(policies_differ_between_regions());
    stories
}

#[test]
fn every_story_ends_as_told() {
    if !harness::installed("every_story_ends_as_told", &["promtool"]) {
        return;
    }
    Run::new(&all()).check();
}

#[test]
fn a_day_long_outage_becomes_a_ticket() {
    if !harness::installed("a_day_long_outage_becomes_a_ticket", &["promtool"]) {
        return;
    }
    Run::new(&[an_outage_of_a_day_is_a_ticket()]).check();
}
