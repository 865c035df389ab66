//! The page of one target: how it stands and why, where its path ends, what counter-checks found,
//! how it is watched. Pure but for the clock it is handed.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

use crate::explanation::Explanation;
use crate::http::pages::listing::TargetState;
use crate::http::pages::parts::{
    Age, Bars, Escaped, Latency, ProbeLink, SCRIPT_FREE_FOOT, head, last_probe,
};
use crate::http::request::Query;
use crate::monitor::{PathPolicy, Policy, Target};
use crate::outcome::Outcome;
use crate::path::{Path, Router};
use crate::store::{Dated, Moment, Row, State};

/// Whether a row is the one that a query asks for by `monitor` and `target`.
#[must_use]
pub fn is_wanted(row: &Row, query: &Query) -> bool {
    let Target { monitor, .. } = &row.target;
    *monitor.name == *query.first("monitor")
        && row.target.address.to_string() == query.first("target")
}

/// A link to the page of a target.
pub(super) struct TargetLink<'a>(pub(super) &'a Target);

impl fmt::Display for TargetLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("monitor", &self.0.monitor.name);
        query.append_pair("target", &self.0.address.to_string());
        write!(f, "target?{}", Escaped(&query.finish()))
    }
}

/// The page of a target.
#[must_use]
pub fn page(row: &Row, now: Timestamp) -> String {
    let mut page = String::with_capacity(16 * 1024);
    // Writing to a string cannot fail.
    let _ = write!(page, "{}", Page { row, state: row.state().clone(), now });
    page
}

struct Page<'a> {
    row: &'a Row,
    state: State,
    now: Timestamp,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, state, now } = self;
        let (monitor, address) = (&row.target.monitor, row.target.address.to_string());
        let shown = TargetState::of(state);
        let title = format!("{} {}", shown.as_str(), monitor.name);
        head(f, &title, shown == TargetState::Down)?;
        write!(
            f,
            "<body>\n<header><h1>{} <span class=\"address\">{}</span></h1>\n\
             <nav aria-label=\"Other pages\"><ul><li><a href=\"./\">All targets</a>\
             <li><a href=\"{}\">Probe now</a><li><a href=\"{}&amp;trace=true\">Probe and follow the path</a>\
             </ul></nav></header>\n<main>\n<p><span class=\"state {}\">{}</span>",
            Escaped(&monitor.name),
            Escaped(&address),
            ProbeLink { target: &address, module: &monitor.module.name },
            ProbeLink { target: &address, module: &monitor.module.name },
            shown.class(),
            shown.as_str(),
        )?;
        if let Some(at) = state.last_change_at {
            write!(f, " for {}, since {}", Age::since(at, *now), Time(at))?;
        }
        f.write_str("</p>\n<p class=\"why\">Last probe: ")?;
        last_probe(f, state)?;
        f.write_str("</p>\n")?;
        explanation(f, state)?;
        history(f, state)?;
        policy(f, &row.target)?;
        write!(
            f,
            "<footer>page made at <time datetime=\"{now:.0}\">{now:.0}</time></footer>\n{SCRIPT_FREE_FOOT}"
        )
    }
}

/// A moment as people write it.
struct Time(Moment);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.elapsed().as_secs()).unwrap_or(i64::MAX);
        let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        write!(f, "<time datetime=\"{time:.0}\">{time:.0}</time>")
    }
}

fn explanation(f: &mut fmt::Formatter<'_>, state: &State) -> fmt::Result {
    f.write_str("<h2 id=\"where\">Where it fails</h2>\n")?;
    let usual = state.usual_path();
    let Some(Dated { at, found }) = state.explanation() else {
        f.write_str("<p>No confirmed failure that a path can explain was seen so far.</p>\n")?;
        return usual.map_or(Ok(()), |usual| usual_path(f, usual));
    };
    let Explanation { path, checks, hint } = &**found;
    writeln!(f, "<p class=\"more\">Looked at {}.</p>", Time(*at))?;
    if let Some(hint) = hint {
        writeln!(f, "<p><strong>{}</strong>: {}.</p>", hint.as_str(), Escaped(&hint.to_string()))?;
    }
    if let Some(path) = path {
        write!(f, "<p>The path {}", Escaped(&path.to_string()))?;
        if let Some(next) = usual.and_then(|usual| path.went_on(&usual.found)) {
            write!(f, "; it used to go on over {next}")?;
        }
        f.write_str(".</p>\n")?;
        hops(f, path)?;
    }
    if !checks.is_empty() {
        f.write_str(
            "<table>\n<caption>Counter-checks: the same probe with one thing changed.</caption>\n\
             <thead><tr><th scope=\"col\">Changed<th scope=\"col\">Answered\
             <th scope=\"col\">At the first SYN</thead>\n<tbody>\n",
        )?;
        for check in checks {
            writeln!(
                f,
                "<tr><th scope=\"row\">{}<td>{} of {} answered<td>{} at the first SYN",
                Escaped(&check.change.to_string()),
                check.answered,
                check.asked,
                check.at_first,
            )?;
        }
        f.write_str("</table>\n")?;
    }
    usual.map_or(Ok(()), |usual| usual_path(f, usual))
}

fn usual_path(f: &mut fmt::Formatter<'_>, usual: &Dated<Path>) -> fmt::Result {
    write!(f, "<h2>The path while it was up</h2>\n<p>Followed at {}.</p>\n", Time(usual.at))?;
    hops(f, &usual.found)
}

fn hops(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    if path.hops.is_empty() {
        return Ok(());
    }
    f.write_str("<ol class=\"hops\">\n")?;
    for hop in &path.hops {
        match hop {
            Some(Router { address, round_trip }) => {
                writeln!(f, "<li>{address} <span class=\"more\">{}</span>", Latency(*round_trip))?;
            }
            None => f.write_str("<li><span class=\"more\">does not answer</span>\n")?,
        }
    }
    f.write_str("</ol>\n")
}

fn history(f: &mut fmt::Formatter<'_>, state: &State) -> fmt::Result {
    write!(f, "<h2>History</h2>\n<div class=\"strip\">{}</div>\n<dl>", Bars(state.history))?;
    for (name, count) in Outcome::NAMES.into_iter().zip(state.outcomes) {
        write!(f, "<dt>{name}<dd>{count}")?;
    }
    if let Some(rtt) = state.rtt {
        write!(f, "<dt>round trip<dd>{}", Latency(rtt.into()))?;
    }
    writeln!(f, "<dt>SYNs sent again<dd>{}</dl>", state.syn_retransmits)
}

fn policy(f: &mut fmt::Formatter<'_>, target: &Target) -> fmt::Result {
    let Policy { module, interval, down_interval, timeout, confirm, slow, slo, .. } =
        &*target.monitor.policy;
    write!(
        f,
        "<h2>Policy</h2>\n<dl><dt>module<dd>{}<dt>interval<dd>{interval:?}\
         <dt>interval while down<dd>{down_interval:?}<dt>timeout<dd>{timeout:?}\
         <dt>down after<dd>{} failures, {:?} apart<dt>up after<dd>{} successes\
         <dt>regions that must agree<dd>{}",
        Escaped(&module.name),
        confirm.thresholds.failures,
        confirm.retry_interval,
        confirm.thresholds.successes,
        confirm.regions,
    )?;
    if let Some(slow) = slow {
        write!(f, "<dt>slow from<dd>{slow:?}")?;
    }
    if let Some(slo) = slo {
        write!(f, "<dt>objective<dd>{} %", slo * 100.0)?;
    }
    let monitor = &target.monitor;
    write!(f, "<dt>addresses<dd>{}<dt>path<dd>", monitor.addresses.as_str())?;
    match monitor.path {
        PathPolicy::Off => f.write_str("not followed")?,
        PathPolicy::OnFailure => f.write_str("followed on failure")?,
        PathPolicy::Baseline(every) => write!(f, "followed on failure and every {every:?}")?,
    }
    if let Some(group) = &monitor.group {
        write!(f, "<dt>group<dd>{}", Escaped(&group.name))?;
    }
    if let Some(parent) = &monitor.depends_on {
        write!(f, "<dt>depends on<dd>{}", Escaped(parent))?;
    }
    for (name, value) in monitor.labels.iter() {
        write!(f, "<dt>{}<dd>{}", Escaped(name), Escaped(value))?;
    }
    f.write_str("</dl>\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::explanation::{Change, CounterCheck, Hint};
    use crate::http::pages::listing::tests::row;
    use crate::path::PathEnd;
    use crate::store::Store;

    fn path(last: &[u8], end: PathEnd) -> Arc<Path> {
        let hops = last.iter().map(|&last| {
            let round_trip = Duration::from_micros(340);
            (last > 0).then(|| Router { address: [10, 0, 0, last].into(), round_trip })
        });
        Arc::new(Path::new("192.0.2.1:5432".parse().unwrap(), hops.collect(), end))
    }

    #[test]
    fn says_where_it_fails_and_what_was_tried() {
        let row = row("db", None, "oxxx");
        let at = Moment::since_epoch(Duration::from_secs(1_050));
        Store::note_usual_path(&row, Dated { at, found: path(&[1, 2, 3], PathEnd::Open) });
        let checks =
            [CounterCheck { change: Change::SourcePort, asked: 12, answered: 6, at_first: 6 }];
        let explanation = Explanation {
            path: Some(path(&[1, 0, 2], PathEnd::Silent)),
            checks: checks.into(),
            hint: Some(Hint::PartialPath { dead: 6, of: 12 }),
        };
        Store::explain(&row, Dated { at, found: Arc::new(explanation) });
        let page = page(&row, Timestamp::from_second(1_100).unwrap());
        for expected in [
            "<title>down db, TCP monitors</title>",
            "since <time datetime=\"1970-01-01T00:16:43Z\">",
            "<strong>refused</strong> in connect, 3 times",
            "<strong>partial_path</strong>: 6 of 12 flows never pass",
            "stops after 10.0.0.2 (hop 3): nothing answers behind it; it used to go on over 10.0.0.3",
            "<li>10.0.0.1 <span class=\"more\">340 µs</span>",
            "<li><span class=\"more\">does not answer</span>",
            "from other source ports<td>6 of 12 answered",
            "The path while it was up",
            "<dt>failure<dd>3",
            "<dt>down after<dd>3 failures",
        ] {
            assert!(page.contains(expected), "`{expected}` is missing in {page}");
        }
    }

    #[test]
    fn everything_from_outside_is_escaped_and_the_link_leads_there() {
        let hostile = "\"><b>'&\u{202e}";
        let row = row(hostile, Some(hostile), "xxx");
        let page = page(&row, Timestamp::from_second(1_100).unwrap());
        assert!(!page.contains("<b>") && !page.contains('\u{202e}'), "{page}");
        let link = TargetLink(&row.target).to_string().replace("&amp;", "&");
        let query = Query::parse(link.strip_prefix("target?").unwrap());
        assert!(is_wanted(&row, &query), "{link}");
        assert!(!is_wanted(&row, &Query::parse("monitor=x&target=db.example.com:5432")));
    }
}
