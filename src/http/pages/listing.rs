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
pub enum Standing {
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

impl Standing {
    /// Every standing, worst first.
    pub const ALL: [Self; 5] = [Self::Down, Self::Doubtful, Self::Blind, Self::Unknown, Self::Up];

    /// How a target with this state stands.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let blind = state.last.as_ref().is_some_and(|it| match it.outcome {
            Outcome::Inconclusive(..) => true,
            Outcome::Success | Outcome::Failure(..) => false,
        });
        match state.judgement.verdict() {
            Verdict::Down => Self::Down,
            Verdict::Unknown | Verdict::Up if state.judgement.is_in_doubt() => Self::Doubtful,
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
pub struct Wanted {
    /// Part of a name, an address, a label or a reason.
    pub text: String,
    /// Only targets that stand so.
    pub standing: Option<Standing>,
    /// Counted from 1; too high a number means the last one.
    pub page: usize,
}

impl Wanted {
    /// Reads `q`, `state` and `page`; what makes no sense is as if it were not there.
    #[must_use]
    pub fn parse(query: &Query) -> Self {
        let state = query.first("state");
        Self {
            text: query.first("q").trim().to_owned(),
            standing: Standing::ALL.into_iter().find(|it| it.class() == state),
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
pub struct Together {
    /// The worst standing among them.
    pub worst: Standing,
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
    /// Targets by standing, in the order of [`Standing::ALL`], of those that the text finds.
    pub counts: [usize; 5],
    /// Targets that the text and the standing find.
    pub found: usize,
    /// Those on this page, worst unit first, each unit together.
    pub rows: Vec<(Unit<'a>, Together, &'a Arc<Row>)>,
    /// The page shown, from 1.
    pub page: usize,
    /// How many there are, at least 1.
    pub pages: usize,
}

impl<'a> Listing<'a> {
    /// Chooses and orders.
    #[must_use]
    pub fn new(rows: &'a [Arc<Row>], wanted: &Wanted) -> Self {
        let needle = wanted.text.to_lowercase();
        let mut down = 0;
        let mut counts = [0; 5];
        let mut units: HashMap<Unit<'a>, Together> = HashMap::new();
        let mut found = Vec::new();
        for row in rows {
            let (standing, matches) = {
                let state = row.state();
                (Standing::of(&state), needle.is_empty() || mentions(row, &state, &needle))
            };
            let unit = Unit::of(row);
            let together =
                units.entry(unit).or_insert(Together { worst: standing, members: 0, not_down: 0 });
            together.worst = together.worst.min(standing);
            together.members += 1;
            together.not_down += usize::from(standing != Standing::Down);
            down += usize::from(standing == Standing::Down);
            if !matches {
                continue;
            }
            counts[standing as usize] += 1;
            if wanted.standing.is_none_or(|it| it == standing) {
                found.push((unit, standing, row));
            }
        }
        // The sort is stable: members that stand alike keep the order of the configuration.
        found.sort_by_cached_key(|(unit, standing, _)| (units[unit].worst, *unit, *standing));
        let pages = found.len().div_ceil(PAGE).max(1);
        let page = wanted.page.clamp(1, pages);
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
    use crate::outcome::{Finding, Phase, Reason};
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
            let mut finding = Finding::new(outcome, Duration::from_secs(10));
            finding.phases.connect = outcome.is_success().then_some(Duration::from_micros(1500));
            finding.detail = (!outcome.is_success()).then(|| "<b>it's & said</b>".into());
            let end = Moment::since_epoch(Duration::from_secs(1000 + second as u64));
            store.apply(&row, &finding, Box::default(), end);
        }
        row
    }

    #[track_caller]
    fn check(rows: &[Arc<Row>], query: &str, expected: &str) {
        let wanted = Wanted::parse(&Query::parse(query));
        let listing = Listing::new(rows, &wanted);
        let names: Vec<&str> =
            listing.rows.iter().map(|(_, _, row)| &*row.target.monitor.name).collect();
        assert_eq!(names.join(" "), expected, "{query}");
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
            let wanted = Wanted { page, ..Wanted::default() };
            let listing = Listing::new(&rows, &wanted);
            assert_eq!((listing.page, listing.pages, listing.found), (page, 3, 250));
            seen.extend(listing.rows.iter().map(|it| it.2.target.monitor.name.to_string()));
        }
        assert_eq!(seen.len(), 250);
        assert!(seen.is_sorted());
        let beyond = Wanted { page: 99, ..Wanted::default() };
        assert_eq!(Listing::new(&rows, &beyond).page, 3);
    }

    #[test]
    fn counts_are_of_what_the_text_finds() {
        let wanted = Wanted { text: "pair".to_owned(), ..Wanted::default() };
        assert_eq!(Listing::new(&zoo(), &wanted).counts, [1, 0, 0, 0, 1]);
    }
}
