//! The page for people: what fails, since when, why, and what to do. Pure but for the clock it is
//! handed.
//!
//! Whole without a script: links and forms do everything. A script that is part of the page keeps
//! it fresh. Nothing comes from elsewhere, and the policy of [`policy`] lets nothing in. All text
//! from outside goes through [`parts::Escaped`].

use std::fmt::{self, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use crate::http::history::Entry;
use crate::http::pages::listing::{Listing, ListingQuery, TargetState, Unit, UnitSummary};
use crate::http::pages::parts::{Age, Bars, Escaped, Latency, ProbeLink, STYLE, head, last_probe};
use crate::http::pages::target::TargetLink;
use crate::maintenance::OpenWindows;
use crate::outcome::Outcome;
use crate::store::Row;

pub mod listing;
pub mod parts;
pub mod target;

const SCRIPT: &str = include_str!("pages/script.js");

/// Most on-demand probes on the page, whatever `--history.limit` keeps.
const RECENT: usize = 1_000;

/// What the page is made of.
#[derive(Debug)]
pub struct Index<'a> {
    /// Every scheduled target.
    pub rows: &'a [Arc<Row>],
    /// On-demand probes, newest first.
    pub recent: &'a [Arc<Entry>],
    /// Names of the modules that can be probed with.
    pub modules: &'a [&'a str],
    /// What the reader asked for.
    pub wanted: ListingQuery,
    /// Whether every canary failed when they were last asked.
    pub isolated: bool,
    /// The maintenance windows that are open.
    pub maintenance: OpenWindows<'a>,
    /// The moment at which it is read.
    pub now: Timestamp,
}

/// The `Content-Security-Policy` of the page: its own style and script by their hash, requests to
/// where it came from, nothing else.
#[must_use]
pub fn policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT),
    )
}

/// The page at `/`.
#[must_use]
pub fn index(index: &Index<'_>) -> String {
    let mut page = String::with_capacity(64 * 1024);
    // Writing to a string cannot fail.
    let _ = write!(page, "{}", Page(index));
    page
}

struct Page<'a>(&'a Index<'a>);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Index { rows, wanted, .. } = self.0;
        let listing = Listing::new(rows, wanted);
        let title = if listing.down > 0 { format!("{} down", listing.down) } else { String::new() };
        head(f, &title, listing.down > 0)?;
        f.write_str(
            "<body>\n<a class=\"skip\" href=\"#targets\">Skip to the targets</a>\n\
             <header><h1>TCP monitors</h1>\n<nav aria-label=\"Other pages\"><ul>\
             <li><a href=\"metrics\">Metrics</a><li><a href=\"config\">Configuration</a>\
             <li><a href=\"api/v1/targets\">Targets as JSON</a><li><a href=\"sd\">Service discovery</a>\
             </ul></nav></header>\n<main>\n",
        )?;
        probe_form(f, self.0)?;
        filter_form(f, wanted)?;
        f.write_str(
            "<p id=\"news\" class=\"skip\" role=\"status\"></p>\n\
             <p id=\"stale\" class=\"banner\" role=\"alert\" hidden>The exporter does not answer: \
             what follows is old.</p>\n<div id=\"live\">\n",
        )?;
        if self.0.isolated {
            f.write_str(
                "<p class=\"banner\" role=\"alert\"><strong>This region is cut off:</strong> every \
                 canary fails. No failure counts against a target until one answers.</p>\n",
            )?;
        }
        targets(f, self.0, &listing)?;
        recent(f, self.0)?;
        write!(
            f,
            "<footer>tcp_probe_exporter {}, page made at <time datetime=\"{now:.0}\">{now:.0}</time>\
             </footer>\n</div>\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
            env!("CARGO_PKG_VERSION"),
            now = self.0.now,
        )
    }
}

fn probe_form(f: &mut fmt::Formatter<'_>, index: &Index<'_>) -> fmt::Result {
    f.write_str(
        "<form id=\"probe\" action=\"probe\" method=\"get\" aria-label=\"Probe now\">\n\
         <label class=\"wide\">Probe a target now <input name=\"target\" required \
         placeholder=\"host:port\" autocomplete=\"off\" spellcheck=\"false\"></label>\n\
         <label>Module <select name=\"module\">",
    )?;
    for name in index.modules {
        let selected = if *name == "tcp_connect" { " selected" } else { "" };
        write!(f, "<option{selected}>{}", Escaped(name))?;
    }
    f.write_str(
        "</select></label>\n<input type=\"hidden\" name=\"debug\" value=\"true\">\
         <button>Probe</button>\n</form>\n\
         <pre id=\"answer\" tabindex=\"0\" role=\"region\" aria-label=\"Answer of the probe\" hidden></pre>\n",
    )
}

fn filter_form(f: &mut fmt::Formatter<'_>, wanted: &ListingQuery) -> fmt::Result {
    write!(
        f,
        "<form id=\"filter\" method=\"get\" role=\"search\" aria-label=\"Filter the targets\">\n\
         <label class=\"wide\">Name, address, label or reason contains <input type=\"search\" name=\"q\" \
         value=\"{}\" autocomplete=\"off\" spellcheck=\"false\"></label>\n\
         <label>State <select name=\"state\"><option value=\"\">every",
        Escaped(&wanted.text)
    )?;
    for state in TargetState::ALL {
        let selected = if wanted.state == Some(state) { " selected" } else { "" };
        let (class, word) = (state.class(), state.as_str());
        write!(f, "<option value=\"{class}\"{selected}>{word}")?;
    }
    f.write_str(
        "</select></label>\n<button>Filter</button>\n\
         <button id=\"pause\" type=\"button\" aria-pressed=\"false\" hidden>Pause refresh</button>\n</form>\n",
    )
}

fn targets(f: &mut fmt::Formatter<'_>, index: &Index<'_>, listing: &Listing<'_>) -> fmt::Result {
    f.write_str("<h2 id=\"targets\">Targets</h2>\n")?;
    if index.rows.is_empty() {
        return f.write_str(
            "<p>No monitors are configured. Add them under <code>monitors:</code> in the \
             configuration file, or probe a target by hand above.</p>\n",
        );
    }
    f.write_str("<nav class=\"counts\" aria-label=\"Targets by state\"><ul>")?;
    for (state, count) in TargetState::ALL.into_iter().zip(listing.counts) {
        let current = index.wanted.state == Some(state);
        let link = Link { text: &index.wanted.text, state: (!current).then_some(state), page: 1 };
        let aria = if current { " aria-current=\"true\"" } else { "" };
        let (class, word) = (state.class(), state.as_str());
        write!(f, "<li><a class=\"{class}\" href=\"{link}\"{aria}>{count} {word}</a> ")?;
    }
    f.write_str("</ul></nav>\n")?;
    if listing.rows.is_empty() {
        return f.write_str("<p>No target is like that.</p>\n");
    }
    let first = (listing.page - 1) * listing::PAGE + 1;
    write!(
        f,
        "<table>\n<caption>{first} to {} of {}, those that need attention first. In the strip, \
         tall is a failure, middle a success, low a probe that could not look; newest right.</caption>\n\
         <thead><tr><th scope=\"col\">State<th scope=\"col\">Target<th scope=\"col\">Last probe\
         <th scope=\"col\" class=\"optional\">Latency<th scope=\"col\">Recent\
         <th scope=\"col\" class=\"optional\">Looked</thead>\n",
        first + listing.rows.len() - 1,
        listing.found,
    )?;
    let mut current = None;
    for &(unit, together, row) in &listing.rows {
        if current != Some(unit) {
            f.write_str("<tbody>\n")?;
            heading(f, unit, together, row)?;
            current = Some(unit);
        }
        let within = together.members > 1 || matches!(unit, Unit::Group(_));
        target(f, row, within, index)?;
    }
    f.write_str("</table>\n")?;
    pager(f, &index.wanted, listing)
}

/// Names the unit above its targets, unless it has only the one.
fn heading(
    f: &mut fmt::Formatter<'_>,
    unit: Unit<'_>,
    together: UnitSummary,
    row: &Row,
) -> fmt::Result {
    let UnitSummary { members, not_down, worst } = together;
    let class = worst.class();
    match unit {
        Unit::Group(name) => {
            let needed = row.target.monitor.group.as_ref().map_or(1, |it| it.min_up.get());
            let enough = not_down >= usize::try_from(needed).unwrap_or(usize::MAX);
            // A group with a member down has lost its redundancy; it is not down.
            let class = match (enough, not_down == members) {
                (false, _) => TargetState::Down.class(),
                (true, false) => TargetState::Doubtful.class(),
                (true, true) => class,
            };
            writeln!(
                f,
                "<tr class=\"unit\"><th scope=\"rowgroup\" colspan=\"6\">Group {} \
                 <span class=\"more\"><span class=\"{class}\">{not_down} of {members} not down</span>, \
                 {needed} needed</span>",
                Escaped(name),
            )
        }
        Unit::Monitor(name) if members > 1 => writeln!(
            f,
            "<tr class=\"unit\"><th scope=\"rowgroup\" colspan=\"6\">{} \
             <span class=\"more\"><span class=\"{class}\">{not_down} of {members} not down</span></span>",
            Escaped(name),
        ),
        Unit::Monitor(_) => Ok(()),
    }
}

fn target(f: &mut fmt::Formatter<'_>, row: &Row, within: bool, index: &Index<'_>) -> fmt::Result {
    let now = index.now;
    let state = row.state().clone();
    let shown = TargetState::of(&state);
    let monitor = &row.target.monitor;
    let within = if within { " class=\"within\"" } else { "" };
    write!(f, "<tr{within}><td><span class=\"state {}\">{}</span>", shown.class(), shown.as_str())?;
    if let Some(at) = state.last_change_at {
        write!(f, "<br><span class=\"more\">for {}</span>", Age::since(at, now))?;
    }
    if let Some(end) = index.maintenance.end(monitor) {
        let (time, shown) = (format_args!("{end:.0}"), end.strftime("%F %H:%M UTC"));
        write!(
            f,
            "<br><span class=\"more\">maintenance until <time datetime=\"{time}\">{shown}</time></span>"
        )?;
    }
    let page = TargetLink(&row.target);
    write!(f, "<th scope=\"row\"><a href=\"{page}\">{}</a>", Escaped(&monitor.name))?;
    if let Some(service) = &row.target.service {
        write!(f, " <span class=\"address\">({})</span>", Escaped(service))?;
    }
    write!(f, "<br><span class=\"address\">{}</span>", Escaped(&row.target.address.to_string()))?;
    let role = monitor.group.as_ref().and_then(|it| it.role.as_deref()).map(|it| ("role", it));
    let labels = monitor.labels.iter().map(|(name, value)| (&**name, &**value));
    for (index, (name, value)) in role.into_iter().chain(labels).take(8).enumerate() {
        f.write_str(if index == 0 { "<br><span class=\"more\">" } else { " " })?;
        write!(f, "{}={}", Escaped(name), Escaped(value))?;
    }
    if role.is_some() || !monitor.labels.is_empty() {
        f.write_str("</span>")?;
    }
    f.write_str("<td class=\"why\">")?;
    last_probe(f, &state)?;
    let link = ProbeLink { target: &row.target.address.to_string(), module: &monitor.module.name };
    if let Some(explanation) = state.explanation().filter(|_| shown == TargetState::Down) {
        let text = explanation.found.to_string();
        write!(f, "<br><a class=\"more\" href=\"{page}#where\">{}</a>", Escaped(&text))?;
    }
    write!(
        f,
        " <a class=\"now more\" href=\"{link}\">Probe now</a><td class=\"number optional\">"
    )?;
    if let Some(latency) = state.last.as_ref().and_then(|it| it.latency) {
        write!(f, "{}", Latency(latency.into()))?;
    }
    write!(f, "<td class=\"strip\">{}<td class=\"number optional\">", Bars(state.history))?;
    match &state.last {
        Some(last) => writeln!(f, "{} ago", Age::since(last.at, now)),
        None => writeln!(f, "not yet"),
    }
}

fn pager(f: &mut fmt::Formatter<'_>, wanted: &ListingQuery, listing: &Listing<'_>) -> fmt::Result {
    let Listing { page, pages, .. } = *listing;
    if pages == 1 {
        return Ok(());
    }
    let link = |page| Link { text: &wanted.text, state: wanted.state, page };
    f.write_str("<nav aria-label=\"Pages\"><ul>")?;
    if page > 1 {
        write!(f, "<li><a href=\"{}\">First</a>", link(1))?;
        write!(f, "<li><a rel=\"prev\" href=\"{}\">Previous</a>", link(page - 1))?;
    }
    write!(f, "<li>Page {page} of {pages}")?;
    if page < pages {
        write!(f, "<li><a rel=\"next\" href=\"{}\">Next</a>", link(page + 1))?;
        write!(f, "<li><a href=\"{}\">Last</a>", link(pages))?;
    }
    f.write_str("</ul></nav>\n")
}

fn recent(f: &mut fmt::Formatter<'_>, index: &Index<'_>) -> fmt::Result {
    f.write_str("<h2 id=\"recent\">Recent probes on demand</h2>\n")?;
    if index.recent.is_empty() {
        return f.write_str("<p>None yet.</p>\n");
    }
    write!(
        f,
        "<table>\n<caption>The newest {} of {}; failures are kept longer.</caption>\n\
         <thead><tr><th scope=\"col\">Outcome<th scope=\"col\">Target\
         <th scope=\"col\" class=\"optional\">Module<th scope=\"col\" class=\"optional\">Took\
         <th scope=\"col\">Ended<th scope=\"col\">Log</thead>\n<tbody>\n",
        index.recent.len().min(RECENT),
        index.recent.len(),
    )?;
    for entry in index.recent.iter().take(RECENT) {
        let outcome = entry.result.outcome;
        let class = match outcome {
            Outcome::Success => "up",
            Outcome::Failure(..) => "down",
            Outcome::Inconclusive(..) => "blind",
        };
        write!(f, "<tr><td><span class=\"state {class}\">{}</span>", outcome.as_str())?;
        if let Some((reason, phase)) = outcome.cause() {
            write!(f, "<br><span class=\"more\">{reason} in {phase}</span>")?;
        }
        writeln!(
            f,
            "<th scope=\"row\">{}<td class=\"optional\">{}<td class=\"number optional\">{}\
             <td class=\"number\"><time datetime=\"{:.0}\">{} ago</time><td><a href=\"logs?id={id}\" \
             aria-label=\"Log of probe {id}\">Log</a>",
            Escaped(&entry.target),
            Escaped(&entry.module.name),
            Latency(entry.result.duration),
            entry.at,
            Age::between(entry.at, index.now),
            id = entry.id,
        )?;
    }
    f.write_str("</table>\n")
}

/// A link to this page with another choice of targets.
struct Link<'a> {
    text: &'a str,
    state: Option<TargetState>,
    page: usize,
}

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.text.is_empty() {
            query.append_pair("q", self.text);
        }
        if let Some(state) = self.state {
            query.append_pair("state", state.class());
        }
        if self.page > 1 {
            query.append_pair("page", &self.page.to_string());
        }
        write!(f, "?{}", Escaped(&query.finish()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    use super::listing::tests::row;
    use super::parts::SHOWN;
    use super::*;
    use crate::http::request::Query;
    use crate::maintenance::{Maintenance, Selector, Times, Window};
    use crate::module::Module;
    use crate::outcome::{Phase, ProbeResult, Reason};

    const HOSTILE: &str = "\"><script>alert(1)</script>'&\u{202e}\u{7}";

    /// `orders-db` is in maintenance until 1970-01-01 00:20.
    static WINDOWS: LazyLock<Maintenance> = LazyLock::new(|| {
        let second = |second| Timestamp::from_second(second).unwrap();
        let selector = Selector { monitors: vec!["orders-db".into()], ..Selector::default() };
        let times = Times::Once { start: second(1_000), end: second(1_200) };
        Maintenance { windows: vec![Window { selector, times }] }
    });

    fn page(rows: &[Arc<Row>], recent: &[Arc<Entry>], query: &str) -> String {
        let now = Timestamp::from_second(1_100).unwrap();
        index(&Index {
            rows,
            recent,
            modules: &["tcp_connect", HOSTILE],
            wanted: ListingQuery::parse(&Query::parse(query)),
            isolated: true,
            maintenance: WINDOWS.at(now),
            now,
        })
    }

    fn entry(target: &str, outcome: Outcome) -> Arc<Entry> {
        let mut result = ProbeResult::new(outcome, Duration::from_secs(10));
        result.duration = Duration::from_micros(1_234);
        Arc::new(Entry {
            id: 7,
            at: Timestamp::from_second(1_000).unwrap(),
            module: Arc::new(Module::connect(HOSTILE)),
            hostname: None,
            target: target.to_owned(),
            result,
            lines: Vec::new(),
        })
    }

    #[test]
    fn says_what_fails_since_when_why_and_what_to_do() {
        let rows = [row("orders-db", None, "oxxx"), row("fine", None, "o")];
        let page = page(&rows, &[], "");
        for expected in [
            "<title>1 down, TCP monitors</title>",
            "<span class=\"state down\">down</span><br><span class=\"more\">for 97 s</span>",
            "<strong>refused</strong> in connect, 3 times",
            "nothing listens on this port",
            "aria-label=\"last 4: 1 success, 3 failure, 0 inconclusive\"",
            "<td class=\"number optional\">1.50 ms",
            "maintenance until <time datetime=\"1970-01-01T00:20:00Z\">1970-01-01 00:20 UTC</time>",
            "<a class=\"down\" href=\"?state=down\">1 down</a>",
        ] {
            assert!(page.contains(expected), "`{expected}` is missing in {page}");
            assert_eq!(page.matches("maintenance until").count(), 1, "`fine` is in none");
        }
    }

    #[test]
    fn everything_from_outside_is_escaped() {
        let rows = [row(HOSTILE, Some(HOSTILE), "xxx")];
        let refused = Outcome::because(Reason::Refused, Phase::Connect);
        let recent = [entry(HOSTILE, refused)];
        let query: String = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
        for query in [String::new(), format!("q={query}"), format!("q={query}&state=up")] {
            let page = page(&rows, &recent, &query);
            assert_eq!(page.matches("<script>").count(), 1, "{page}");
            assert!(!page.contains("<b>"), "{page}");
            assert!(!page.contains('\u{202e}') && !page.contains('\u{7}'), "{page}");
            assert!(page.contains(
                "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;\\u{202e}\\u{7}"
            ));
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(Escaped(&"x".repeat(5_000)).to_string().chars().count(), SHOWN + 1);
    }

    #[test]
    fn groups_say_how_many_are_needed() {
        let rows = [row("a", Some("pair"), "xxx"), row("b", Some("pair"), "o")];
        let page = page(&rows, &[], "");
        assert!(
            page.contains(
                "Group pair <span class=\"more\"><span class=\"doubtful\">1 of 2 not down"
            )
        );
        assert!(page.contains("1 needed"));
    }

    #[test]
    fn links_keep_the_filter() {
        let rows: Vec<_> = (0..250).map(|it| row(&format!("m{it}"), None, "o")).collect();
        let page = page(&rows, &[], "q=m%26&state=up&page=2");
        assert!(page.contains("No target is like that"));
        let page = self::page(&rows, &[], "q=m&state=up&page=2");
        assert!(page.contains("href=\"?q=m&amp;state=up&amp;page=3\""), "{page}");
    }

    #[test]
    fn the_policy_names_the_hashes_of_what_the_page_holds() {
        let page = page(&[], &[], "");
        let policy = policy();
        for tag in ["style", "script"] {
            let start = page.find(&format!("<{tag}>")).unwrap() + tag.len() + 2;
            let end = start + page[start..].find(&format!("</{tag}>")).unwrap();
            let hash = BASE64_STANDARD.encode(digest(&SHA256, &page.as_bytes()[start..end]));
            assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}'")), "{policy}");
        }
        for unsafe_word in ["unsafe-inline", "unsafe-eval", "*", "http"] {
            assert!(!policy.contains(unsafe_word), "{policy}");
        }
        for attribute in [" style=", " onclick=", " src="] {
            assert!(!page.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn times_are_read_at_a_glance() {
        for (micros, expected) in [
            (7, "7.00 µs"),
            (999, "999 µs"),
            (1_234, "1.23 ms"),
            (45_678, "45.7 ms"),
            (456_789, "457 ms"),
            (12_345_678, "12.3 s"),
        ] {
            assert_eq!(Latency(Duration::from_micros(micros)).to_string(), expected);
        }
        for (seconds, expected) in
            [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d")]
        {
            assert_eq!(Age(seconds).to_string(), expected);
        }
    }

    /// The whole of a large fleet is sorted for every page, so it must be cheap.
    #[test]
    fn ten_thousand_targets_make_a_small_page() {
        let stories = ["oooooooo", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "oox", "oo?", ""];
        let rows: Vec<_> = (0..10_000)
            .map(|it| row(&format!("monitor-{it}"), None, stories[it % stories.len()]))
            .collect();
        let refused = Outcome::because(Reason::Refused, Phase::Connect);
        let recent: Vec<_> = (0..200).map(|_| entry("db.example.com:5432", refused)).collect();
        let start = Instant::now();
        let page = page(&rows, &recent, "");
        let elapsed = start.elapsed();
        println!("10,000 targets: {} bytes in {elapsed:?}", page.len());
        assert!(page.len() < 300_000, "{} bytes", page.len());
        assert!(elapsed < Duration::from_secs(2), "{elapsed:?} even without optimisation");
    }
}
