//! Clock changes by hand, everything else against the definition read literally.

use std::num::NonZeroU32;

use jiff::ToSpan as _;
use jiff::civil::time;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::monitor::Membership;
use crate::monitor::tests::{change, monitor};

fn weekly(days: &[Weekday], start: &str, end: &str, zone: &str) -> Times {
    let (start, end) = (start.parse().unwrap(), end.parse().unwrap());
    Times::Weekly(Weekly {
        days: days.to_vec(),
        start,
        end,
        time_zone: TimeZone::get(zone).unwrap(),
    })
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The window is open from `start` up to `end`, and closed on both sides.
#[track_caller]
fn check(times: &Times, start: &str, end: &str) {
    let (start, end, moment) = (at(start), at(end), 1.millisecond());
    assert_eq!(times.open_until(start - moment), None, "before {start}");
    assert_eq!(times.open_until(start), Some(end), "at {start}");
    assert_eq!(times.open_until(end - moment), Some(end), "before {end}");
    assert_eq!(times.open_until(end), None, "at {end}");
}

#[test]
fn a_window_that_is_once_ends_before_its_end() {
    let (start, end) = ("2026-11-29T02:00:00+01:00", "2026-11-29T04:00:00+01:00");
    check(&Times::Once { start: at(start), end: at(end) }, start, end);
}

#[test]
fn a_weekly_window_follows_the_clock_of_its_zone() {
    let window = weekly(&[Weekday::Sunday], "02:00", "04:00", "Europe/Berlin");
    check(&window, "2026-07-05T02:00:00+02:00", "2026-07-05T04:00:00+02:00");
    check(&window, "2026-11-29T02:00:00+01:00", "2026-11-29T04:00:00+01:00");
    assert_eq!(window.open_until(at("2026-11-28T03:00:00+01:00")), None, "a Saturday");
}

#[test]
fn an_end_before_the_start_is_on_the_following_day() {
    let window = weekly(&[Weekday::Saturday], "22:00", "02:00", "UTC");
    check(&window, "2026-11-28T22:00:00Z", "2026-11-29T02:00:00Z");
    assert_eq!(window.open_until(at("2026-11-28T01:00:00Z")), None, "that of a Friday");
    let whole = weekly(&[Weekday::Sunday], "00:00", "00:00", "UTC");
    check(&whole, "2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z");
}

/// In Berlin, 02:00 to 03:00 is skipped on 2026-03-29 and comes twice on 2026-10-25.
#[test]
fn clock_changes_never_cut_a_window_short() {
    let sunday = |start, end| weekly(&[Weekday::Sunday], start, end, "Europe/Berlin");
    for (start, end, from, to) in [
        // Skipped: over the gap, from it, into it, within it.
        ("01:00", "04:00", "2026-03-29T01:00:00+01:00", "2026-03-29T04:00:00+02:00"),
        ("02:30", "04:00", "2026-03-29T01:30:00+01:00", "2026-03-29T04:00:00+02:00"),
        ("01:00", "02:30", "2026-03-29T01:00:00+01:00", "2026-03-29T03:30:00+02:00"),
        ("02:15", "02:45", "2026-03-29T01:15:00+01:00", "2026-03-29T03:45:00+02:00"),
        // Twice: over it, from it, into it, within it; without a break.
        ("01:00", "04:00", "2026-10-25T01:00:00+02:00", "2026-10-25T04:00:00+01:00"),
        ("02:30", "04:00", "2026-10-25T02:30:00+02:00", "2026-10-25T04:00:00+01:00"),
        ("01:00", "02:30", "2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+01:00"),
        ("02:15", "02:45", "2026-10-25T02:15:00+02:00", "2026-10-25T02:45:00+01:00"),
    ] {
        check(&sunday(start, end), from, to);
    }
}

/// Samoa skipped 2011-12-30 altogether.
#[test]
fn a_day_that_never_was_is_covered() {
    let window = weekly(&[Weekday::Friday], "10:00", "12:00", "Pacific/Apia");
    check(&window, "2011-12-29T10:00:00-10:00", "2011-12-31T12:00:00+14:00");
}

#[test]
fn a_monitor_is_selected_by_every_part_that_is_given() {
    let group = Membership { name: "orders".into(), role: None, min_up: NonZeroU32::MIN };
    let monitor = change(monitor("db", "192.0.2.1", &[1]), |policy| {
        policy.group = Some(group);
        policy.labels = Arc::new([("team".into(), "dba".into())].into());
    });
    let names = |names: &[&str]| names.iter().copied().map(Arc::from).collect();
    let selects = |monitors: &[&str], groups: &[&str], labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|&(name, value)| (name.into(), value.into()));
        let labels = labels.collect();
        Selector { monitors: names(monitors), groups: names(groups), labels }.selects(&monitor)
    };
    assert!(selects(&["web", "db"], &[], &[]) && !selects(&["web"], &[], &[]));
    assert!(selects(&[], &["orders"], &[]) && !selects(&[], &["cache"], &[]));
    assert!(selects(&[], &[], &[("team", "dba")]) && !selects(&[], &[], &[("team", "web")]));
    assert!(!selects(&[], &[], &[("team", "dba"), ("service", "orders")]), "one is missing");
    assert!(selects(&["db"], &["orders"], &[("team", "dba")]));
    assert!(!selects(&["db"], &["cache"], &[("team", "dba")]), "a part that does not hold");
    assert!(selects(&["*"], &[], &[]) && !selects(&["*"], &["cache"], &[]));
}

/// Windows of every monitor.
fn all(times: impl IntoIterator<Item = Times>) -> Maintenance {
    let every: Vec<Arc<str>> = vec![Selector::EVERY.into()];
    let selector = Selector { monitors: every, ..Selector::default() };
    let window = |times| Window { selector: selector.clone(), times };
    Maintenance { windows: times.into_iter().map(window).collect() }
}

#[test]
fn windows_without_a_break_end_together() {
    let db = monitor("db", "192.0.2.1", &[1]);
    let once = |start: &str, end: &str| Times::Once { start: at(start), end: at(end) };
    let windows = all([
        once("2026-11-29T02:00:00Z", "2026-11-29T03:00:00Z"),
        once("2026-11-29T02:30:00Z", "2026-11-29T04:00:00Z"),
        once("2026-11-29T04:00:00Z", "2026-11-29T05:00:00Z"),
        once("2026-11-29T05:01:00Z", "2026-11-29T06:00:00Z"),
    ]);
    let end = |now: &str| windows.at(at(now)).end(&db).map(|end| end.to_string());
    assert_eq!(end("2026-11-29T02:10:00Z").as_deref(), Some("2026-11-29T05:00:00Z"));
    assert_eq!(end("2026-11-29T05:00:30Z"), None);
    assert_eq!(end("2026-11-29T05:30:00Z").as_deref(), Some("2026-11-29T06:00:00Z"));

    let days = [Weekday::Monday; 7].iter().scan(Weekday::Sunday, |day, _| {
        *day = day.next();
        Some(*day)
    });
    let always = all([weekly(&days.collect::<Vec<_>>(), "00:00", "00:00", "UTC")]);
    assert!(always.at(at("2026-11-29T02:10:00Z")).end(&db).is_some(), "it comes to an end");
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
];

prop_compose! {
    fn any_weekly()(
        days in btree_set(0_i8..7, 1..4),
        start in 0_i8..96,
        end in 0_i8..96,
        zone in select(&ZONES[..]),
    ) -> Weekly {
        let quarter = |quarter: i8| time(quarter / 4, quarter % 4 * 15, 0, 0);
        Weekly {
            days: days.into_iter().map(|day| Weekday::from_monday_zero_offset(day).unwrap()).collect(),
            start: quarter(start),
            end: quarter(end),
            time_zone: TimeZone::get(zone).unwrap(),
        }
    }
}

/// Whether the wall clock shows a time of the window: the definition, but for clock changes.
fn by_the_wall_clock(weekly: &Weekly, now: Timestamp) -> bool {
    let here = weekly.time_zone.to_datetime(now);
    let (today, clock) = (here.date().weekday(), here.time());
    let starts = |day: Weekday| weekly.days.contains(&day);
    if weekly.start < weekly.end {
        starts(today) && weekly.start <= clock && clock < weekly.end
    } else {
        starts(today) && clock >= weekly.start || starts(today.previous()) && clock < weekly.end
    }
}

/// Whether the clock of a zone changes within two days of a moment.
fn near_a_change(zone: &TimeZone, now: Timestamp) -> bool {
    let days = 48.hours();
    zone.following(now - days).next().is_some_and(|change| change.timestamp() <= now + days)
}

proptest! {
    #[test]
    fn a_weekly_window_is_open_while_the_wall_clock_says_so(
        weekly in any_weekly(),
        now in (1_262_304_000_i64..1_900_000_000).prop_map(|at| Timestamp::from_second(at).unwrap()),
    ) {
        let open = Times::Weekly(weekly.clone()).open_until(now);
        let clock = by_the_wall_clock(&weekly, now);
        // A clock change may make a window longer, and never shorter.
        prop_assert!(open.is_some() || !clock, "{now} is in {weekly:?}");
        if !near_a_change(&weekly.time_zone, now) {
            prop_assert_eq!(open.is_some(), clock);
        }
        if let Some(end) = open {
            prop_assert!(end > now && end <= now + 49.hours());
        }
    }

    /// Around every clock change, minute by minute: open without a break until the end it names.
    #[test]
    fn a_window_never_breaks_off(weekly in any_weekly(), changes in 0_usize..30, minute in 0_i64..2_880) {
        let from = Timestamp::from_second(1_262_304_000).unwrap();
        let change = weekly.time_zone.following(from).nth(changes).map(|change| change.timestamp());
        let now = change.unwrap_or(from) - 24.hours() + minute.minutes();
        let times = Times::Weekly(weekly);
        if let Some(end) = times.open_until(now) {
            let mut later = now;
            while later < end {
                prop_assert!(times.open_until(later) >= Some(end), "closed at {later}");
                later += 7.minutes();
            }
        }
    }

    #[test]
    fn overlapping_windows_are_one(
        hours in vec((0_i64..48, 1_i64..12), 1..6),
        minute in 0_i64..3_600,
    ) {
        let start = Timestamp::from_second(1_764_000_000).unwrap();
        let spans = hours.iter().map(|&(from, length)| {
            (start + from.hours(), start + (from + length).hours())
        });
        let spans: Vec<_> = spans.collect();
        let windows = all(spans.iter().map(|&(start, end)| Times::Once { start, end }));
        let now = start + minute.minutes();
        let covered = |at: Timestamp| spans.iter().any(|(start, end)| *start <= at && at < *end);

        let db = monitor("db", "192.0.2.1", &[1]);
        let open = windows.at(now);
        prop_assert_eq!(open.cover(&db), covered(now));
        let mut expected = now;
        while covered(expected) {
            expected += 1.minute();
        }
        prop_assert_eq!(open.end(&db), covered(now).then_some(expected));
    }
}
