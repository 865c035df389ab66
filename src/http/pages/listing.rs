//! Which targets the page shows and in which order: those that need a person first. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::http::request::Query;
use crate::outcome::Outcome;
use crate::store::{Row, State};
use crate::verdict::Verdict;

/// Targets on one page: a screenful or three, and few enough for a slow telephone.
pub const PAGE: usize = 100;

/// How a target stands, worst first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TargetState {
    /// Confirmed down.
    Down,
    /// Failing, and not confirmed yet.
    Doubtful,
    /// The last probe could not look.
    Blind,
    /// Too little was seen so far.
    Unknown,
    /// Up.
    Up,
}

impl TargetState {
    /// Every state, worst first.
    pub const ALL: [Self; 5] = [Self::Down, Self::Doubtful, Self::Blind, Self::Unknown, Self::Up];

    /// How a target with this state stands.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let blind = state.last.as_ref().is_some_and(|it| match it.outcome {
            Outcome::Inconclusive(..) => true,
            Outcome::Success | Outcome::Failure(..) => false,
        });
        match state.health.verdict() {
            Verdict::Down => Self::Down,
            Verdict::Unknown | Verdict::Up if state.health.is_in_doubt() => Self::Doubtful,
            Verdict::Unknown | Verdict::Up if blind => Self::Blind,
            Verdict::Unknown => Self::Unknown,
            Verdict::Up => Self::Up,
        }
    }

    /// The word for people; its last part is the value of `state` in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Doubtful => "in doubt",
            Self::Blind => "cannot look",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }

    /// The class in the style sheet, and the value of `state` in a URL.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Doubtful => "doubtful",
            Self::Blind => "blind",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }
}

/// What the reader asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ListingQuery {
    /// Part of a name, an address, a label or a reason.
    pub text: String,
    /// Only targets that stand so.
    pub state: Option<TargetState>,
    /// Counted from 1; too high a number means the last one.
    pub page: usize,
}

impl ListingQuery {
    /// Reads `q`, `state` and `page`; what makes no sense is as if it were not there.
    #[must_use]
    pub fn parse(query: &Query) -> Self {
        let state = query.first("state");
        Self {
            text: query.first("q").trim().to_owned(),
            state: TargetState::ALL.into_iter().find(|it| it.class() == state),
            page: query.first("page").parse().unwrap_or(1).max(1),
        }
    }
}

/// Targets that belong together: a group, or the ports of a monitor.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unit<'a> {
    /// Members of a group.
    Group(&'a str),
    /// Targets of a monitor that is in no group.
    Monitor(&'a str),
}

impl<'a> Unit<'a> {
    fn of(row: &'a Row) -> Self {
        let monitor = &row.target.monitor;
        match &monitor.group {
            Some(group) => Self::Group(&group.name),
            None => Self::Monitor(&monitor.name),
        }
    }
}

/// How the targets of a unit stand together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnitSummary {
    /// The worst state among them.
    pub worst: TargetState,
    /// How many there are.
    pub members: usize,
    /// How many of them are not down.
    pub not_down: usize,
}

/// The targets of one page.
#[derive(Debug)]
pub struct Listing<'a> {
    /// Targets that are down, whatever the reader asked for.
    pub down: usize,
    /// Targets by state, in the order of [`TargetState::ALL`], of those that the text finds.
    pub counts: [usize; 5],
    /// Targets that the text and the state find.
    pub found: usize,
    /// Those on this page, worst unit first, each unit together.
    pub rows: Vec<(Unit<'a>, UnitSummary, &'a Arc<Row>)>,
    /// The page shown, from 1.
    pub page: usize,
    /// How many there are, at least 1.
    pub pages: usize,
}

impl<'a> Listing<'a> {
    /// Chooses and orders.
    #[must_use]
    pub fn new(rows: &'a [Arc<Row>], query: &ListingQuery) -> Self {
        let needle = query.text.to_lowercase();
        let mut down = 0;
        let mut counts = [0; 5];
        let mut units: HashMap<Unit<'a>, UnitSummary> = HashMap::new();
        let mut found = Vec::new();
        for row in rows {
            let (state, matches) = {
                let state = row.state();
                (TargetState::of(&state), needle.is_empty() || mentions(row, &state, &needle))
            };
            let unit = Unit::of(row);
            let summary =
                units.entry(unit).or_insert(UnitSummary { worst: state, members: 0, not_down: 0 });
            summary.worst = summary.worst.min(state);
            summary.members += 1;
            summary.not_down += usize::from(state != TargetState::Down);
            down += usize::from(state == TargetState::Down);
            if !matches {
                continue;
            }
            counts[state as usize] += 1;
            if query.state.is_none_or(|it| it == state) {
                found.push((unit, state, row));
            }
        }
        // The sort is stable: members that stand alike keep the order of the configuration.
        found.sort_by_cached_key(|(unit, state, _)| (units[unit].worst, *unit, *state));
        let pages = found.len().div_ceil(PAGE).max(1);
        let page = query.page.clamp(1, pages);
        let shown = found.iter().skip((page - 1) * PAGE).take(PAGE);
        let rows = shown.map(|&(unit, _, row)| (unit, units[&unit], row)).collect();
        Self { down, counts, found: found.len(), rows, page, pages }
    }
}

/// Whether anything that the row shows contains the text, which is in lower case.
fn mentions(row: &Row, state: &State, needle: &str) -> bool {
    let monitor = &row.target.monitor;
    let contains = |text: &str| text.to_lowercase().contains(needle);
    contains(&monitor.name)
        || contains(&row.target.address.to_string())
        || row.target.service.as_deref().is_some_and(contains)
        || monitor.group.as_ref().is_some_and(|it| contains(&it.name))
        || monitor.labels.values().any(|it| contains(it))
        || contains(&monitor.module.name)
        || state
            .last
            .as_ref()
            .and_then(|it| it.outcome.cause())
            .is_some_and(|(reason, _)| reason.as_str().contains(needle))
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;
    use crate::monitor::Membership;
    use crate::monitor::tests::{change, monitor};
    use crate::outcome::{Phase, ProbeResult, Reason};
    use crate::store::{Moment, Store};

    const REFUSED: Outcome = Outcome::because(Reason::Refused, Phase::Connect);

    /// A row whose probes found these outcomes: `o` success, `x` failure, `?` inconclusive.
    pub(crate) fn row(name: &str, group: Option<&str>, outcomes: &str) -> Arc<Row> {
        let membership = group.map(|name| Membership {
            name: name.into(),
            role: Some("node".into()),
            min_up: NonZeroU32::MIN,
        });
        let plain = monitor(name, "db.example.com", &[5432]);
        let target = change(plain, |it| it.group = membership).targets().next().unwrap();
        let row = Store::row(target);
        let store = Store::default();
        for (second, outcome) in outcomes.chars().enumerate() {
            let outcome = match outcome {
                'o' => Outcome::Success,
                'x' => REFUSED,
                _ => Outcome::because(Reason::LocalStall, Phase::Connect),
            };
            let mut result = ProbeResult::new(outcome, Duration::from_secs(10));
            result.phases.connect = outcome.is_success().then_some(Duration::from_micros(1500));
            result.detail = (!outcome.is_success()).then(|| "<b>it's & said</b>".into());
            let end = Moment::since_epoch(Duration::from_secs(1000 + second as u64));
            store.apply(&row, &result, Box::default(), end);
        }
        row
    }

    #[track_caller]
    fn check(rows: &[Arc<Row>], text: &str, expected: &str) {
        let query = ListingQuery::parse(&Query::parse(text));
        let listing = Listing::new(rows, &query);
        let names: Vec<&str> =
            listing.rows.iter().map(|(_, _, row)| &*row.target.monitor.name).collect();
        assert_eq!(names.join(" "), expected, "{text}");
    }

    fn zoo() -> Vec<Arc<Row>> {
        vec![
            row("fine", None, "ooo"),
            row("alone", Some("pair"), "o"),
            row("fallen", Some("pair"), "xxx"),
            row("new", None, ""),
            row("shaky", None, "oox"),
            row("blind", None, "oo?"),
            row("also-down", None, "xxxx"),
        ]
    }

    #[test]
    fn those_that_need_a_person_come_first_and_groups_stay_together() {
        check(&zoo(), "", "fallen alone also-down shaky blind new fine");
    }

    #[test]
    fn text_and_state_choose() {
        check(&zoo(), "state=down", "fallen also-down");
        check(&zoo(), "state=doubtful", "shaky");
        check(&zoo(), "state=blind", "blind");
        check(&zoo(), "state=unknown", "new");
        check(&zoo(), "state=up", "alone fine");
        check(&zoo(), "q=PAIR", "fallen alone");
        check(&zoo(), "q=refused&state=down", "fallen also-down");
        check(&zoo(), "q=nothing+such", "");
        check(&zoo(), "state=nonsense&page=x", "fallen alone also-down shaky blind new fine");
    }

    #[test]
    fn pages_hold_everything_once() {
        let rows: Vec<_> = (0..250).map(|it| row(&format!("m{it:03}"), None, "o")).collect();
        let mut seen = Vec::new();
        for page in 1..=3 {
            let query = ListingQuery { page, ..ListingQuery::default() };
            let listing = Listing::new(&rows, &query);
            assert_eq!((listing.page, listing.pages, listing.found), (page, 3, 250));
            seen.extend(listing.rows.iter().map(|it| it.2.target.monitor.name.to_string()));
        }
        assert_eq!(seen.len(), 250);
        assert!(seen.is_sorted());
        let beyond = ListingQuery { page: 99, ..ListingQuery::default() };
        assert_eq!(Listing::new(&rows, &beyond).page, 3);
    }

    #[test]
    fn counts_are_of_what_the_text_finds() {
        let query = ListingQuery { text: "pair".to_owned(), ..ListingQuery::default() };
        assert_eq!(Listing::new(&zoo(), &query).counts, [1, 0, 0, 0, 1]);
    }
}
