//! What is promised, shown.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use harness::Process;
use nix::sys::signal::Signal;

use crate::world::{Plan, REGIONS, World, application, available};

const DATABASE: &str = "#database-alerts";
const MONITORING: &str = "#monitoring";
const PAGE: &str = "TcpMonitorTargetDown";

/// One monitor, probed every second, confirmed by three failures within half a second.
fn monitor(name: &str, host: &str, port: &str, more: &str) -> String {
    format!(
        "  - name: {name}\n    host: {host}\n    ports: [{port}]\n    module: tcp_connect\n    \
         interval: 1s\n    timeout: 400ms\n    \
         confirm: {{failures: 3, successes: 1, retry_interval: 100ms, regions: 2}}\n    {more}\n"
    )
}

fn dba(name: &str, host: &str) -> String {
    monitor(name, host, "5001", "labels: {team: dba}")
}

fn one_region_warns_two_page_once_recovery_is_told_once() {
    let world = World::new(&Plan { monitors: dba("orders-db", "10.10.0.1"), ..Plan::default() });
    world.settle(1);

    let start = Instant::now();
    world.cut("refused", "ap", "10.10.0.1", "5001");
    let warning = world.wait_slack(DATABASE, &["FIRING", "TcpMonitorRegionalFailure", "ap"], start);
    let text = warning.text("/attachments/0/text");
    assert!(text.contains("ap: refused (connect)"), "{text}");
    say(&format!("one region: warned after {:?}", warning.at - start));
    assert!(world.slack(DATABASE, &[PAGE], start).is_empty(), "{}", world.story());

    let second = Instant::now();
    world.cut("refused", "eu", "10.10.0.1", "5001");
    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "orders-db"], second);
    say(&format!("two regions: paged after {:?}", page.at - second));
    let text = page.text("/attachments/0/text");
    for words in [
        "2 of 3 regions hold it down, 2 must",
        "ap: refused",
        "eu: refused",
        "#tcpmonitortargetdown",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(text.contains("refused: The host answers but nothing listens"), "{text}");
    world.pass(240);

    let third = Instant::now();
    for region in ["ap", "eu"] {
        world.heal("refused", region, "10.10.0.1", "5001");
    }
    let resolved = world.wait_slack(DATABASE, &["RESOLVED", PAGE], third);
    say(&format!("recovery: told after {:?}", resolved.at - third));
    world.pass(240);

    assert_eq!(world.slack(DATABASE, &["FIRING", PAGE], start).len(), 1, "{}", world.story());
    assert_eq!(world.slack(DATABASE, &["RESOLVED", PAGE], start).len(), 1, "{}", world.story());
    let on_call: Vec<String> = world
        .http
        .messages()
        .iter()
        .filter(|it| it.to == "/pagerduty")
        .map(|it| it.text("/event_action").to_owned())
        .collect();
    assert_eq!(on_call, ["trigger", "resolve"]);
    let mail = world.mail.messages();
    assert_eq!(mail.len(), 2, "{mail:?}");
    assert_eq!(mail[0].to, "dba@company.com");
    assert!(
        mail[0].text("").contains("Subject: [FIRING:1] TcpMonitorTargetDown orders-db"),
        "{mail:?}"
    );
}

fn a_dead_region_neither_hides_an_outage_nor_makes_one() {
    let three = "labels: {team: dba}";
    let monitors = dba("fails-in-two", "10.10.0.1")
        + &dba("fails-in-one", "10.10.0.2")
        + &monitor("wants-three", "10.10.0.3", "5001", three).replace("regions: 2", "regions: 3")
        + &(1..=5).map(|it| dba(&format!("well-{it}"), "10.10.1.1")).collect::<String>();
    let mut world = World::new(&Plan { monitors, ..Plan::default() });
    world.settle(8);

    let start = Instant::now();
    world.stop("us");
    world.cut("refused", "ap", "10.10.0.0/24", "5001");
    world.cut("refused", "eu", "10.10.0.1", "5001");
    world.cut("refused", "eu", "10.10.0.3", "5001");

    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "fails-in-two"], start);
    say(&format!("down in two of two live regions: paged after {:?}", page.at - start));
    let unconfirmed =
        world.wait_slack(DATABASE, &["TcpMonitorDownUnconfirmed", "wants-three"], start);
    let text = unconfirmed.text("/attachments/0/text");
    assert!(text.contains("3 must agree") && text.contains("missing: us"), "{text}");
    world.wait_slack(DATABASE, &["TcpMonitorRegionalFailure", "fails-in-one"], start);
    let silent = world.wait_slack(MONITORING, &["TcpMonitorRegionSilent", "us"], start);
    say(&format!("down in one of two: warned; region named silent after {:?}", silent.at - start));
    world.pass(240);

    assert_eq!(world.slack(DATABASE, &[PAGE, "fails-in-two"], start).len(), 1, "{}", world.story());
    assert!(world.slack(DATABASE, &[PAGE, "fails-in-one"], start).is_empty(), "{}", world.story());
    // The region explains its exporter.
    assert!(world.slack(MONITORING, &["ExporterDown"], start).is_empty(), "{}", world.story());
}

fn restarts_and_cuts_neither_end_a_page_nor_repeat_it() {
    let monitors = dba("orders-db", "10.10.0.1") + &dba("well", "10.10.0.2");
    let mut world = World::new(&Plan { monitors, ..Plan::default() });
    world.settle(2);

    let start = Instant::now();
    for region in ["ap", "eu"] {
        world.cut("refused", region, "10.10.0.1", "5001");
    }
    world.wait_slack(DATABASE, &["FIRING:1", PAGE, "orders-db"], start);

    world.stop("eu");
    world.start("eu");
    world.pass(120);
    say(&format!("exporter restarted after {:?}", start.elapsed()));
    world.prometheus.restart();
    world.pass(240);
    say(&format!("Prometheus restarted after {:?}", start.elapsed()));
    // Stopped for longer than a scrape may take: one or two scrapes are lost, no more.
    let index = world.index("ap");
    let exporter = world.regions[index].exporter.as_ref().expect("it runs");
    exporter.signal(Signal::SIGSTOP);
    world.wait_value("up{region=\"ap\"}", |it| it < 0.5);
    exporter.signal(Signal::SIGCONT);
    world.wait_value("up{region=\"ap\"}", |it| it > 0.5);
    say(&format!("a scrape lost after {:?}", start.elapsed()));
    world.partition("ap", true);
    world.pass(300);
    world.partition("ap", false);
    world.wait_value("up{region=\"ap\"}", |it| it > 0.5);
    say(&format!("region cut off and back after {:?}", start.elapsed()));
    world.pass(120);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 1, "{}", world.story());

    let healed = Instant::now();
    for region in ["ap", "eu"] {
        world.heal("refused", region, "10.10.0.1", "5001");
    }
    world.wait_slack(DATABASE, &["RESOLVED", PAGE], healed);
    world.pass(240);
    // While all is well: nothing more, and never a word of the other.
    world.stop("us");
    world.start("us");
    world.prometheus.restart();
    world.pass(240);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 2, "{}", world.story());
    let others = world.slack(DATABASE, &[], start);
    let well: Vec<_> =
        others.iter().filter(|it| it.text("/attachments/0/text").contains("well")).collect();
    assert!(well.is_empty(), "{well:?}");
}

fn local_faults_are_told_to_those_who_run_the_monitor() {
    let monitors: String =
        (1..=5).map(|it| dba(&format!("db-{it}"), &format!("10.10.0.{it}"))).collect();
    let world = World::new(&Plan { monitors, ..Plan::default() });
    world.settle(5);

    let one = Instant::now();
    world.regions[0].unroute();
    let told = world.wait_slack(MONITORING, &["FIRING", "TcpMonitorCannotLook", "ap"], one);
    say(&format!("no route in one region: told after {:?}", told.at - one));
    assert!(told.text("/attachments/0/text").contains("local_no_route 5"), "{told:?}");
    world.pass(300);
    let cannot = "TcpMonitorCannotLook";
    assert_eq!(world.slack(MONITORING, &[cannot], one).len(), 1, "{}", world.story());
    world.regions[0].route();
    world.wait_slack(MONITORING, &["RESOLVED", "TcpMonitorCannotLook"], one);

    let all = Instant::now();
    for region in &world.regions {
        region.unroute();
    }
    let told = world.wait_slack(MONITORING, &["FIRING", "TcpMonitorCannotLook"], all);
    say(&format!("no route in all regions: told after {:?}", told.at - all));
    world.pass(300);
    assert_eq!(world.slack(MONITORING, &["FIRING", cannot], all).len(), 1, "{}", world.story());
    assert!(world.slack(DATABASE, &[], one).is_empty(), "{}", world.story());
}

fn a_dead_host_of_two_hundred_targets_is_few_messages() {
    let monitors = monitor("everything", "10.10.0.1", "5001-5200", "labels: {team: dba}")
        .replace("interval: 1s", "interval: 3s");
    let world = World::new(&Plan { monitors, more_ports: 199, ..Plan::default() });
    world.settle(200);

    let start = Instant::now();
    for region in REGIONS {
        world.cut("dropped", region, "10.10.0.1", "5001-5200");
    }
    let host = world.wait_slack(DATABASE, &["FIRING", "TcpMonitorHostDown"], start);
    say(&format!("200 ports of a dead host: first told after {:?}", host.at - start));
    world.wait_value("count(target:tcp_monitor_down:held == 1)", |it| it >= 200.0);
    world.pass(600);
    let sent = world.slack(DATABASE, &["FIRING"], start).len();
    say(&format!("200 targets behind a dead host: {sent} notifications"));
    assert!(sent <= 3, "{}", world.story());
}

/// Two hundred targets on a host each, settled.
fn two_hundred_hosts() -> World {
    let monitors: String = (1..=200)
        .map(|it| dba(&format!("db-{it}"), &format!("10.10.1.{it}")))
        .collect::<String>()
        .replace("interval: 1s", "interval: 5s");
    let world = World::new(&Plan { monitors, ..Plan::default() });
    world.settle(200);
    world
}

fn a_region_cut_off_from_two_hundred_targets_is_few_messages() {
    let world = two_hundred_hosts();

    let start = Instant::now();
    world.cut("dropped", "ap", "10.10.0.0/16", "5001");
    let told = world.wait_slack(MONITORING, &["FIRING", "TcpMonitorRegionImpaired", "ap"], start);
    say(&format!("200 targets cut off from one region: told after {:?}", told.at - start));
    world.pass(600);
    let sent = world.slack(DATABASE, &[], start).len()
        + world.slack(MONITORING, &["Impaired"], start).len();
    say(&format!("200 targets behind a cut network: {sent} notifications"));
    assert!(sent <= 3, "{}", world.story());
}

fn a_dead_exporter_of_two_hundred_targets_is_few_messages() {
    let mut world = two_hundred_hosts();

    let start = Instant::now();
    world.stop("ap");
    world.wait_slack(MONITORING, &["FIRING", "TcpMonitorRegionSilent", "ap"], start);
    world.pass(600);
    let sent = world.slack(DATABASE, &[], start).len()
        + world.slack(MONITORING, &["FIRING", "ap"], start).len();
    say(&format!("200 targets of a dead exporter: {sent} notifications"));
    assert!(sent <= 3, "{}", world.story());
}

fn pairs_and_clusters_send_what_is_documented() {
    let member = |name: &str, host: &str, group: &str| {
        monitor(name, host, "5001", &format!("group: {{{group}}}\n    labels: {{team: dba}}"))
    };
    let monitors = member("primary", "10.10.0.1", "name: pair, role: primary, min_up: 1")
        + &member("standby", "10.10.0.2", "name: pair, role: standby, min_up: 1")
        + &member("node-1", "10.10.1.1", "name: cluster, min_up: 2")
        + &member("node-2", "10.10.1.2", "name: cluster, min_up: 2")
        + &member("node-3", "10.10.1.3", "name: cluster, min_up: 2");
    let world = World::new(&Plan { monitors, ..Plan::default() });
    world.settle(5);
    let fail = |host: &str| {
        for region in REGIONS {
            world.cut("refused", region, host, "5001");
        }
    };
    let mend = |host: &str| {
        for region in REGIONS {
            world.heal("refused", region, host, "5001");
        }
    };
    let firing = |since: Instant| -> Vec<String> {
        let titles = world.slack(DATABASE, &["FIRING"], since);
        let mut names: Vec<String> = titles
            .iter()
            .filter_map(|it| it.text("/attachments/0/title").split(' ').nth(1).map(str::to_owned))
            .collect();
        names.sort();
        names
    };

    let start = Instant::now();
    fail("10.10.0.1");
    fail("10.10.1.1");
    world.wait_slack(DATABASE, &["TcpMonitorPrimaryDown", "primary"], start);
    world.wait_slack(DATABASE, &["TcpMonitorGroupDegraded", "node-1"], start);
    world.pass(420);
    say(&format!("primary, one of three: {:?}", firing(start)));
    assert_eq!(firing(start), ["TcpMonitorGroupDegraded", "TcpMonitorPrimaryDown"]);

    let start = Instant::now();
    fail("10.10.0.2");
    fail("10.10.1.2");
    world.wait_slack(DATABASE, &["TcpMonitorGroupDown", "pair"], start);
    world.wait_slack(DATABASE, &["TcpMonitorGroupDown", "cluster"], start);
    world.pass(420);
    say(&format!("both, two of three: {:?}", firing(start)));
    assert_eq!(firing(start), ["TcpMonitorGroupDown", "TcpMonitorGroupDown"]);

    let start = Instant::now();
    fail("10.10.1.3");
    world.wait_value("group:tcp_monitor_members_down:count{group=\"cluster\"}", |it| it >= 3.0);
    world.pass(420);
    say(&format!("three of three: {:?}", firing(start)));
    assert!(firing(start).is_empty(), "{}", world.story());

    let start = Instant::now();
    for host in ["10.10.0.1", "10.10.0.2", "10.10.1.1", "10.10.1.2", "10.10.1.3"] {
        mend(host);
    }
    world.wait_slack(DATABASE, &["RESOLVED", "group pair"], start);
    world.wait_slack(DATABASE, &["RESOLVED", "group cluster"], start);
    world.quiet();
    let start = Instant::now();
    fail("10.10.0.2");
    world.wait_slack(DATABASE, &["TcpMonitorGroupDegraded", "standby"], start);
    say(&format!("standby: {:?}", firing(start)));
    assert_eq!(firing(start), ["TcpMonitorGroupDegraded"]);
}

/// One page for each outage but the first two of an hour is what flapping must not cost.
fn flapping_pages_twice_at_most() {
    let world = World::new(&Plan { monitors: dba("orders-db", "10.10.0.1"), ..Plan::default() });
    world.settle(1);

    let start = Instant::now();
    // 25 minutes of two down, two up: 100 s here.
    for _ in 0..6 {
        for region in ["ap", "eu"] {
            world.cut("refused", region, "10.10.0.1", "5001");
        }
        world.pass(120);
        for region in ["ap", "eu"] {
            world.heal("refused", region, "10.10.0.1", "5001");
        }
        world.pass(120);
    }
    let pages = world.slack(DATABASE, &["FIRING", PAGE], start).len();
    say(&format!("flapping for {:?}: {pages} pages", start.elapsed()));
    assert!((1..=2).contains(&pages), "{}", world.story());
    world.wait_slack(DATABASE, &["TcpMonitorFlapping"], start);
    world.wait_value("target:tcp_monitor_down:held", |it| it < 0.5);
}

/// Planned work is quiet, by a silence and by a window, and what outlasts it is told at its end.
fn planned_work_is_quiet_until_it_ends() {
    let window = "labels: {team: dba, maintenance: sunday-night}";
    let monitors = dba("at-work", "10.10.0.1")
        + &monitor("in-window", "10.10.0.2", "5001", window)
        + &dba("orders-db", "10.10.0.3");
    let world = World::new(&Plan { monitors, ..Plan::default() });
    let sunday = "weekdays: [sunday]\n        times: [{start_time: '02:00', end_time: '04:00'}]";
    let weekday = |days: &str| {
        assert!(world.routes.contains(sunday), "{}", world.routes);
        world.alertmanager.configure(&world.routes.replace(sunday, days));
    };
    weekday("weekdays: ['sunday:saturday']");
    world.settle(3);
    let url = "--alertmanager.url=http://127.0.0.1:9093";
    let (matcher, comment) = ("monitor=at-work", "--comment=upgrade to 16");
    let silence =
        world.core.run(&["amtool", url, "silence", "add", matcher, "--duration=2h", comment]);

    let start = Instant::now();
    for region in ["ap", "eu"] {
        world.cut("refused", region, "10.10.0.0/24", "5001");
    }
    world.wait_slack(DATABASE, &["FIRING:1", PAGE, "orders-db"], start);
    world.wait_value(&format!("count(ALERTS{{alertname='{PAGE}',alertstate='firing'}})"), |it| {
        it >= 3.0
    });
    world.pass(240);
    for name in ["at-work", "in-window"] {
        assert!(world.slack(DATABASE, &[PAGE, name], start).is_empty(), "{}", world.story());
    }
    let mail = world.mail.messages();
    assert!(!mail.iter().any(|it| it.text("").contains("Down at-work")), "{mail:?}");

    let ended = Instant::now();
    world.core.run(&["amtool", url, "silence", "expire", silence.trim()]);
    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "at-work"], ended);
    say(&format!("silenced while at work, paged {:?} after its end", page.at - ended));
    assert!(world.slack(DATABASE, &[PAGE, "in-window"], start).is_empty(), "{}", world.story());

    let ended = Instant::now();
    weekday("years: ['2000']");
    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "in-window"], ended);
    say(&format!("mute for its hours, paged {:?} after them", page.at - ended));
    world.pass(120);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 3, "{}", world.story());
}

fn applications_and_their_ports_are_told_apart() {
    let monitors =
        monitor("orders-db", "10.10.2.2", "5001", "labels: {team: dba, service: orders}");
    let jobs = "  - job_name: http-probe\n    metrics_path: /probe\n    params: {module: [http_2xx]}\n    \
                static_configs:\n      - targets: ['http://10.10.2.1:8080/health']\n        \
                labels: {monitor: orders-app, module: http_2xx, team: dba, service: orders, region: ap, \
                confirm_failures: '2', required_regions: '1'}\n    relabel_configs:\n      \
                - {source_labels: [__address__], target_label: __param_target}\n      \
                - {source_labels: [__address__], target_label: target}\n      \
                - {target_label: __address__, replacement: '10.8.0.2:9115'}\n";
    let world = World::new(&Plan { monitors, jobs: jobs.to_owned(), ..Plan::default() });
    let well = Arc::new(AtomicBool::new(true));
    application(&world.targets, &well);
    let directory = tempfile::tempdir().expect("temporary directory");
    let config = directory.path().join("blackbox.yml");
    std::fs::write(&config, "modules: {http_2xx: {prober: http, timeout: 500ms}}\n").expect("file");
    let _blackbox = Process::start(
        directory.path(),
        &[
            "ip",
            "netns",
            "exec",
            world.regions[0].netns.name(),
            "prometheus-blackbox-exporter",
            &format!("--config.file={}", config.display()),
        ],
    );
    world.settle(1);
    world.wait_value("probe_success", |it| it > 0.5);

    let start = Instant::now();
    well.store(false, Ordering::Relaxed);
    let told = world.wait_slack(DATABASE, &["FIRING", "TcpMonitorAppFailing", "orders-app"], start);
    say(&format!("application fails, port open: told after {:?}", told.at - start));
    assert!(world.slack(DATABASE, &[PAGE], start).is_empty(), "{}", world.story());
    well.store(true, Ordering::Relaxed);
    world.wait_slack(DATABASE, &["RESOLVED", "TcpMonitorAppFailing"], start);

    let start = Instant::now();
    for region in REGIONS {
        world.cut("refused", region, "10.10.2.2", "5001");
    }
    world.wait_slack(DATABASE, &["FIRING", PAGE, "orders-db"], start);
    let told = world.wait_slack(DATABASE, &["FIRING", "TcpMonitorDownButAppAnswers"], start);
    say(&format!("port down, application answers: told after {:?}", told.at - start));

    let start = Instant::now();
    well.store(false, Ordering::Relaxed);
    world.wait_value("ALERTS{alertname=\"TcpMonitorAppFailing\", alertstate=\"firing\"}", |it| {
        it > 0.5
    });
    world.pass(420);
    say(&format!(
        "both down: {} further messages",
        world.slack(DATABASE, &["FIRING"], start).len()
    ));
    assert!(world.slack(DATABASE, &["FIRING"], start).is_empty(), "{}", world.story());
}

fn probes_on_scrape_page_alike() {
    let mut jobs = String::new();
    for (index, region) in REGIONS.iter().enumerate() {
        // Writing to memory cannot fail.
        let _ = write!(
            jobs,
            "  - job_name: tcp-probe-{region}\n    metrics_path: /probe\n    \
                 params: {{module: [quick]}}\n    static_configs:\n      \
                 - targets: ['10.10.0.1:5001', '10.10.0.2:5001']\n        \
                 labels: {{team: dba, confirm_failures: '3', required_regions: '2'}}\n    \
                 relabel_configs:\n      \
                 - {{source_labels: [__address__], target_label: __param_target}}\n      \
                 - {{source_labels: [__address__], target_label: target}}\n      \
                 - {{source_labels: [__address__], target_label: instance}}\n      \
                 - {{target_label: region, replacement: {region}}}\n      \
                 - {{target_label: __address__, replacement: '10.8.{index}.2:10115'}}\n"
        );
    }
    let mut world = World::new(&Plan { jobs, ..Plan::default() });
    world.settle(2);

    let start = Instant::now();
    world.cut("refused", "ap", "10.10.0.1", "5001");
    world.wait_slack(DATABASE, &["FIRING", "TcpMonitorRegionalFailure", "ap"], start);
    assert!(world.slack(DATABASE, &[PAGE], start).is_empty(), "{}", world.story());

    let second = Instant::now();
    world.cut("dropped", "eu", "10.10.0.1", "5001");
    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "10.10.0.1:5001"], second);
    say(&format!("on scrape, two regions: paged after {:?}", page.at - second));
    let text = page.text("/attachments/0/text");
    assert!(text.contains("ap: refused") && text.contains("eu: timeout"), "{text}");

    world.stop("eu");
    world.wait_value("count(up{region=\"eu\"} == 0)", |it| it > 1.5);
    world.start("eu");
    world.wait_value("count(up{region=\"eu\"} == 1)", |it| it > 1.5);
    world.prometheus.restart();
    world.pass(240);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 1, "{}", world.story());

    // No route: the exporter answers 503, which is no evidence.
    let faults = Instant::now();
    world.regions[2].unroute();
    world.wait_value("count(up{region=\"us\"} == 0)", |it| it > 1.5);
    world.pass(120);
    assert!(world.slack(DATABASE, &[], faults).is_empty(), "{}", world.story());
    world.regions[2].route();

    let healed = Instant::now();
    world.heal("refused", "ap", "10.10.0.1", "5001");
    world.heal("dropped", "eu", "10.10.0.1", "5001");
    world.wait_slack(DATABASE, &["RESOLVED", PAGE], healed);
    world.pass(120);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 2, "{}", world.story());
}

fn agents_with_remote_write_page_alike() {
    let monitors = dba("orders-db", "10.10.0.1") + &dba("well", "10.10.0.2");
    let mut world = World::new(&Plan { monitors, agents: true, ..Plan::default() });
    world.settle(2);

    let start = Instant::now();
    world.cut("refused", "ap", "10.10.0.1", "5001");
    world.cut("refused", "eu", "10.10.0.1", "5001");
    let page = world.wait_slack(DATABASE, &["FIRING:1", PAGE, "orders-db"], start);
    say(&format!("agents: paged after {:?}", page.at - start));
    world.partition("eu", true);
    let silent = world.wait_slack(MONITORING, &["FIRING", "TcpMonitorRegionSilent", "eu"], start);
    say(&format!("agents: a region cut off is named silent after {:?}", silent.at - start));
    world.partition("eu", false);
    world.wait_slack(MONITORING, &["RESOLVED", "TcpMonitorRegionSilent", "eu"], start);
    world.stop("eu");
    world.start("eu");
    world.prometheus.restart();
    world.pass(240);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 1, "{}", world.story());

    let healed = Instant::now();
    world.heal("refused", "ap", "10.10.0.1", "5001");
    world.heal("refused", "eu", "10.10.0.1", "5001");
    world.wait_slack(DATABASE, &["RESOLVED", PAGE, "orders-db"], healed);
    world.pass(120);
    assert_eq!(world.slack(DATABASE, &[PAGE], start).len(), 2, "{}", world.story());
}

/// Prints a line past the test runner's capture, which would hide it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// How many worlds live at once. Most of a story is waiting: two cores carry some more, but a
/// scrape or an evaluation that comes late would be a story of its own.
const WORLDS: usize = 7;

/// The stories, long ones first, so that none begins when all others have ended.
const SHOWS: [(&str, fn()); 13] = [
    ("10 flapping", flapping_pages_twice_at_most),
    ("6 pairs and clusters", pairs_and_clusters_send_what_is_documented),
    ("3 restarts and cuts", restarts_and_cuts_neither_end_a_page_nor_repeat_it),
    ("4 local faults", local_faults_are_told_to_those_who_run_the_monitor),
    ("agents", agents_with_remote_write_page_alike),
    ("7 applications", applications_and_their_ports_are_told_apart),
    ("planned work", planned_work_is_quiet_until_it_ends),
    ("5 a dead host", a_dead_host_of_two_hundred_targets_is_few_messages),
    ("8 on scrape", probes_on_scrape_page_alike),
    ("5 a region cut off", a_region_cut_off_from_two_hundred_targets_is_few_messages),
    ("1 one region, two, recovery", one_region_warns_two_page_once_recovery_is_told_once),
    ("5 a dead exporter", a_dead_exporter_of_two_hundred_targets_is_few_messages),
    ("2 a dead region", a_dead_region_neither_hides_an_outage_nor_makes_one),
];

#[test]
fn what_is_promised_is_shown() {
    if !available("what_is_promised_is_shown") {
        return;
    }
    let next = AtomicUsize::new(0);
    let show_all = || {
        let mut failed = Vec::new();
        while let Some((name, show)) = SHOWS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            if catch_unwind(show).is_err() {
                failed.push(*name);
            }
            say(&format!("{name}: {:?}", start.elapsed()));
        }
        failed
    };
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..WORLDS).map(|_| scope.spawn(show_all)).collect();
        running.into_iter().flat_map(|it| it.join().expect("panics are caught")).collect()
    });
    assert!(failed.is_empty(), "{failed:?}");
}
