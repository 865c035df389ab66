//! The page, by its reader.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::listener::FullBacklog;
use harness::{ClosedPort, Exporter, Listener, wait_until};
use serde_json::Value;

use crate::driver::Browser;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 2] = ["chromium", "chromedriver"];

/// What a peer sends that wants to be more than text.
const BANNER: &[u8] =
    b"220 <script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\x1b[31m\r\n";
/// The same from a request and from a configuration.
const HOSTILE: &str = "\"><script>window.pwned=3</script><img src=x onerror=window.pwned=4>";

/// An exporter with a target in every state.
struct Zoo {
    exporter: Exporter,
    closed: ClosedPort,
    open: Listener,
    greeter: Listener,
    _silent: FullBacklog,
}

impl Zoo {
    fn new() -> Self {
        Self::with(BANNER, HOSTILE)
    }

    /// With what the jump host says and what its label is.
    fn with(banner: &[u8], note: &str) -> Self {
        let (open, closed, silent) = (Listener::silent(), ClosedPort::new(), FullBacklog::new());
        let greeter = Listener::banner(banner);
        let (up, down) = (open.port(), closed.address().port());
        let config = format!(
            "modules:\n\
             \x20 tcp_connect: {{prober: tcp}}\n\
             \x20 picky: {{prober: tcp, timeout: 500ms, tcp: {{query_response: [{{expect: '^SSH'}}]}}}}\n\
             \x20 blind: {{prober: tcp, tcp: {{source_ip_address: 192.0.2.7}}}}\n\
             defaults: {{interval: 1s, timeout: 500ms, confirm: {{failures: 2, retry_interval: 200ms}}}}\n\
             monitors:\n\
             \x20 - {{name: orders-db, host: 127.0.0.1, port: {down}, labels: {{team: dba, service: orders, severity: critical}}}}\n\
             \x20 - {{name: billing-queue, host: 127.0.0.1, port: {silent}, labels: {{team: platform, service: billing}}}}\n\
             \x20 - {{name: jump-host, host: 127.0.0.1, port: {greeter}, module: picky, labels: {{note: '{note}'}}}}\n\
             \x20 - {{name: api, host: 127.0.0.1, port: {up}, labels: {{team: web, service: shop}}}}\n\
             \x20 - {{name: cache, host: localhost, port: {up}, labels: {{team: web}}}}\n\
             \x20 - {{name: partner, host: 127.0.0.1, port: {up}, module: blind}}\n\
             \x20 - {{name: db-primary, host: 127.0.0.1, port: {down}, group: {{name: customers, role: primary, min_up: 1}}}}\n\
             \x20 - {{name: db-standby, host: 127.0.0.1, port: {up}, group: {{name: customers, role: standby, min_up: 1}}}}\n",
            silent = silent.address().port(),
            greeter = greeter.port(),
        );
        let exporter = Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter"))
            .config(&config)
            .flag("--web.route-prefix=/monitors")
            .start();
        let this = Self { exporter, closed, open, greeter, _silent: silent };
        wait_until(PATIENCE, || {
            let page = this.exporter.get("/monitors/").text();
            if page.contains("<title>4 down") && page.contains("local_") {
                Ok(())
            } else {
                Err(page)
            }
        });
        this
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/monitors/{rest}", self.exporter.address())
    }
}

fn pictures() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("browser");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Nothing was complained about, nothing from outside ran.
#[track_caller]
fn clean(browser: &Browser) {
    let console = browser.console();
    assert!(console.is_empty(), "{console:#?}");
    assert_eq!(browser.eval("window.pwned === undefined"), Value::Bool(true));
}

fn monitors(browser: &Browser) -> Vec<String> {
    let names = browser.eval(
        "[...document.querySelectorAll('#targets ~ table th[scope=row]')]\
         .filter((it) => it.closest('table').querySelector('.now'))\
         .map((it) => it.firstChild.textContent.trim())",
    );
    serde_json::from_value(names).unwrap()
}

#[test]
fn a_person_sees_what_fails_finds_it_and_probes_it() {
    if !harness::installed("a_person_sees_what_fails_finds_it_and_probes_it", &PROGRAMS) {
        return;
    }
    let zoo = Zoo::new();
    let browser = Browser::start(true);
    browser.open(&zoo.url(""));

    // What fails comes first, with the reason, what to do, and since when.
    assert_eq!(browser.eval("document.title"), "4 down, TCP monitors");
    let shown = monitors(&browser);
    assert_eq!(shown.len(), 8, "{shown:?}");
    assert_eq!(shown[..2], ["db-primary", "db-standby"], "the group stays together");
    assert_eq!(shown[7], "cache", "{shown:?}");
    let body = browser.text("body");
    for expected in [
        "refused in connect",
        "nothing listens on this port",
        "timeout in connect",
        "expect_timeout in dialogue",
        "Group customers",
        "1 of 2 not down, 1 needed",
        "team=dba",
    ] {
        assert!(body.contains(expected), "`{expected}` is missing in\n{body}");
    }
    clean(&browser);

    // Typing filters at once and changes the address, so that it can be passed on.
    browser.write("input[name=q]", "orders");
    browser.wait("document.querySelectorAll('.now').length === 1");
    assert_eq!(monitors(&browser), ["orders-db"]);
    assert_eq!(browser.eval("location.search"), "?q=orders");
    browser.open(&zoo.url("?state=up"));
    assert_eq!(monitors(&browser), ["db-standby", "api", "cache"]);
    browser.click(".counts a.down");
    browser.wait("document.querySelectorAll('.now').length === 4");

    // Probing from the form shows the log beside it and in the list below.
    browser.write("input[name=target]", &zoo.closed.target());
    browser.press("\u{e007}");
    browser.wait("document.getElementById('answer').textContent.includes('refused')");
    browser.wait("document.getElementById('recent').parentNode.textContent.includes('failure')");
    assert_eq!(browser.eval("document.activeElement.id"), "answer");
    browser.open(&zoo.url("?q=api"));
    browser.click("a.now");
    browser.wait("document.getElementById('answer').textContent.includes('probe_success 1')");
    clean(&browser);
}

#[test]
fn the_page_keeps_itself_fresh_until_told_not_to() {
    if !harness::installed("the_page_keeps_itself_fresh_until_told_not_to", &PROGRAMS) {
        return;
    }
    let mut zoo = Zoo::new();
    let browser = Browser::start(true);
    browser.open(&zoo.url("?q=api"));
    browser.wait("document.querySelector('.state').textContent === 'up'");
    zoo.open = Listener::silent();
    browser.wait("document.querySelector('.state').textContent === 'down'");
    assert!(browser.text("#live").contains("refused"));
    browser.click("#pause");
    assert_eq!(
        browser.eval("document.getElementById('pause').getAttribute('aria-pressed')"),
        "true"
    );
    clean(&browser);
    // An exporter that is gone is said to be gone.
    browser.click("#pause");
    zoo.exporter.signal(nix::sys::signal::Signal::SIGKILL);
    browser.wait("!document.getElementById('stale').hidden");
}

#[test]
fn without_scripts_links_and_forms_do_everything() {
    if !harness::installed("without_scripts_links_and_forms_do_everything", &PROGRAMS) {
        return;
    }
    let zoo = Zoo::new();
    let browser = Browser::start(false);
    browser.open(&zoo.url(""));
    assert_eq!(browser.eval("document.getElementById('pause').hidden"), true, "scripts run");
    browser.write("input[name=q]", "billing");
    browser.click("#filter button");
    browser.wait("location.search.includes('q=billing')");
    browser.wait_page("/monitors/");
    assert_eq!(monitors(&browser), ["billing-queue"]);
    browser.write("input[name=target]", &zoo.closed.target());
    browser.click("#probe button");
    browser.wait_page("/monitors/probe");
    assert!(browser.text("body").contains("refused"));
    browser.open(&zoo.url(""));
    browser.click("a[aria-label^='Log of probe']");
    browser.wait_page("/monitors/logs");
    assert!(browser.text("body").contains("refused"), "{}", browser.text("body"));
}

#[test]
fn what_peers_and_requests_say_stays_text() {
    if !harness::installed("what_peers_and_requests_say_stays_text", &PROGRAMS) {
        return;
    }
    let zoo = Zoo::new();
    let target: String = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let greeter = zoo.greeter.target();
    for request in
        [format!("probe?target={target}"), format!("probe?module=picky&target={greeter}")]
    {
        let _ = zoo.exporter.get(&format!("/monitors/{request}"));
    }
    let browser = Browser::start(true);
    for query in [String::new(), format!("?q={target}"), format!("?state={target}&page={target}")] {
        browser.open(&zoo.url(&query));
        clean(&browser);
        assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0);
        assert_eq!(browser.eval("document.scripts.length"), 1);
    }
    browser.open(&zoo.url(""));
    let body = browser.text("body");
    assert!(body.contains(HOSTILE), "the label is shown as it is:\n{body}");
    browser.write("input[name=target]", HOSTILE);
    browser.press("\u{e007}");
    browser.wait("document.getElementById('answer').textContent.includes('invalid_target')");
    browser.write("input[name=q]", "<script>window.pwned=5</script>");
    browser.wait("document.querySelectorAll('.now').length === 0");
    clean(&browser);
    // Even a script that got in would not run.
    browser.eval(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned=6'}))",
    );
    assert_eq!(browser.eval("window.pwned === undefined"), Value::Bool(true));
    assert!(browser.console().iter().any(|it| it.contains("Content Security Policy")));
}

/// The picture in README is this one, copied: `dashboards/pictures/status.png`.
#[test]
fn a_picture_for_readme_can_be_taken() {
    if !harness::installed("a_picture_for_readme_can_be_taken", &PROGRAMS) {
        return;
    }
    let zoo = Zoo::with(b"220 mail.example.com ESMTP\r\n", "bastion");
    let browser = Browser::start(true);
    browser.screen(1100, 940);
    browser.open(&zoo.url(""));
    browser.picture(&pictures().join("status.png"));
    clean(&browser);
}

/// Contrast of every piece of text with what lies behind it, after WCAG 2.2.
const CONTRAST: &str = "(() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
        const [r, g, b] = channels(colour).map((it) => it / 255).map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (it) => {
        for (; it; it = it.parentElement) {
            const colour = getComputedStyle(it).backgroundColor, [, , , alpha = 1] = channels(colour);
            if (alpha > 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    let worst = {ratio: 99};
    for (const it of document.querySelectorAll('body *')) {
        if (![...it.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
        if (!it.checkVisibility() || it.tagName === 'SCRIPT' || it.tagName === 'OPTION') continue;
        const pair = [luminance(getComputedStyle(it).color), luminance(behind(it))].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < worst.ratio) worst = {ratio, text: it.textContent.trim().slice(0, 40), tag: it.tagName};
    }
    return worst;
})()";

#[test]
fn it_is_readable_in_every_light_and_width_and_by_every_means() {
    if !harness::installed("it_is_readable_in_every_light_and_width_and_by_every_means", &PROGRAMS)
    {
        return;
    }
    let zoo = Zoo::new();
    let _ = zoo.exporter.get(&format!("/monitors/probe?target={}", zoo.closed.target()));
    let browser = Browser::start(true);
    for (name, width, height, dark) in [
        ("wide-light", 1200, 1100, false),
        ("wide-dark", 1200, 1100, true),
        ("phone-light", 390, 1400, false),
        ("phone-dark", 390, 1400, true),
    ] {
        browser.screen(width, height);
        browser.dark(dark);
        browser.open(&zoo.url(""));
        let overflow = browser.eval("document.documentElement.scrollWidth - window.innerWidth");
        assert!(overflow.as_f64().unwrap() <= 0.0, "{name}: {overflow} pixels too wide");
        let worst = browser.eval(CONTRAST);
        assert!(worst["ratio"].as_f64().unwrap() >= 4.5, "{name}: {worst}");
        let small = browser.eval(
            "[...document.querySelectorAll('input:not([type=hidden]), select, button')]\
             .filter((it) => it.checkVisibility() && it.getBoundingClientRect().height < 24).length",
        );
        assert_eq!(small, 0, "{name}: controls are too small to hit");
        browser.picture(&pictures().join(format!("{name}.png")));
        println!("{name}: lowest contrast {:.1}", worst["ratio"].as_f64().unwrap());
        clean(&browser);
    }

    // Names for those who hear the page.
    assert_eq!(browser.eval("document.documentElement.lang"), "en");
    for (selector, name) in [
        ("input[name=target]", "Probe a target now"),
        ("select[name=module]", "Module"),
        ("input[name=q]", "Name, address, label or reason contains"),
        ("select[name=state]", "State"),
        ("#pause", "Pause refresh"),
        (".counts", "Targets by state"),
    ] {
        assert_eq!(browser.name(selector), name, "{selector}");
    }
    assert!(browser.name("svg").starts_with("last "), "{}", browser.name("svg"));
    assert_eq!(browser.eval("document.querySelectorAll('th:not([scope])').length"), 0);
    assert_eq!(browser.eval("document.querySelectorAll('table:not(:has(caption))').length"), 0);

    // By keyboard alone: the first stop skips to the targets, and every stop can be seen.
    browser.open(&zoo.url(""));
    browser.press("\u{e004}");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    assert!(
        browser.eval("document.activeElement.getBoundingClientRect().left").as_f64().unwrap()
            >= 0.0
    );
    browser.press("\u{e007}");
    browser.wait("location.hash === '#targets'");
    for _ in 0..6 {
        browser.press("\u{e004}");
        let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "{}", browser.eval("document.activeElement.outerHTML"));
    }
}

#[test]
fn ten_thousand_targets_are_still_a_page() {
    if !harness::installed("ten_thousand_targets_are_still_a_page", &PROGRAMS) {
        return;
    }
    let closed = ClosedPort::new();
    let mut config =
        String::from("defaults: {interval: 1h, timeout: 1s, confirm: {failures: 1}}\nmonitors:\n");
    for number in 0..10_000 {
        writeln!(
            config,
            "  - {{name: 'monitor-{number}', host: 127.0.0.1, port: {}}}",
            10_000 + number
        )
        .unwrap();
    }
    let port = closed.address().port();
    writeln!(
        config,
        "  - {{name: the-one, host: 127.0.0.1, port: {port}, interval: 1s, timeout: 500ms}}"
    )
    .unwrap();
    let exporter = Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter")).config(&config).start();
    let (bytes, elapsed) = wait_until(PATIENCE, || {
        let start = Instant::now();
        let page = exporter.get("/").text();
        let elapsed = start.elapsed();
        if page.contains("refused in connect") || page.contains("<strong>refused</strong>") {
            Ok((page.len(), elapsed))
        } else {
            Err("nothing is down yet".to_owned())
        }
    });
    println!("10,001 targets: {bytes} bytes in {elapsed:?}");
    assert!(bytes < 300_000, "{bytes} bytes");
    let browser = Browser::start(true);
    browser.open(&format!("http://{}/", exporter.address()));
    let shown = monitors(&browser);
    assert_eq!(shown.len(), 100);
    browser.write("input[name=q]", "the-one");
    browser.wait("document.querySelectorAll('.now').length === 1");
    assert_eq!(monitors(&browser), ["the-one"]);
    browser.open(&format!("http://{}/?page=2", exporter.address()));
    browser.click("a[rel=next]");
    browser.wait("location.search === '?page=3'");
    clean(&browser);
}
