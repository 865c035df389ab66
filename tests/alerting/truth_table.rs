//! Which combinations of regions page, which warn, and which are silent: all of them.

use crate::promtool::Run;
use crate::story::{Story, Target};

/// What one region reports of a target, as in [`crate::story`].
const SCHEDULED: [char; 5] = ['u', 'd', '.', 'i', 's'];
/// On scrape, an inconclusive probe answers 503, which is silence.
const ON_SCRAPE: [char; 3] = ['u', 'd', '.'];

/// Minutes of the story: all is well until `CHANGE`, then the combination holds until `RECOVERY`.
const CHANGE: usize = 6;
const RECOVERY: usize = 29;
const END: usize = 32;

/// The alerts that say what is held to be true of a target.
const DECISIONS: &str = "TcpMonitor(TargetDown|RegionalFailure|DownUnconfirmed)";

/// The definition read literally: the alert of a target of which the regions report this, of
/// which `required` must agree, when `forgotten` says whether silence has lasted 15 minutes.
fn expected(regions: [char; 3], required: usize, forgotten: bool) -> Option<&'static str> {
    let count = |wanted: char| regions.iter().filter(|&&it| it == wanted).count();
    let (up, down) = (count('u'), count('d'));
    let required = if forgotten { required.min(up + down) } else { required };
    if down == 0 {
        None
    } else if down >= required {
        Some("TcpMonitorTargetDown")
    } else if up + down >= required {
        Some("TcpMonitorRegionalFailure")
    } else {
        Some("TcpMonitorDownUnconfirmed")
    }
}

/// Every combination; which region has which state makes no difference, so each set comes once,
/// and the regions take turns.
fn combinations(states: &[char]) -> Vec<[char; 3]> {
    let mut all = Vec::new();
    for (index, &first) in states.iter().enumerate() {
        for (offset, &second) in states[index..].iter().enumerate() {
            for &third in &states[index + offset..] {
                let mut regions = [first, second, third];
                regions.rotate_left(all.len() % 3);
                all.push(regions);
            }
        }
    }
    all
}

/// A region's story: well, then `state`, then well again.
fn letters(state: char) -> String {
    let during = state.to_string().repeat(RECOVERY - CHANGE);
    format!("{}{during}{}", "u".repeat(CHANGE), "u".repeat(END - RECOVERY))
}

/// The whole table in one mode, for every number of regions that must agree.
fn table(
    name: &str,
    states: &[char],
    confirmations: &[u32],
    tell: fn(&mut Story, &Target, &[(&str, &str)]),
) -> Story {
    let mut story = Story::new(name);
    let mut targets = Vec::new();
    for required in 1..=3 {
        for &confirm in confirmations {
            for regions in combinations(states) {
                let text: String = regions.iter().collect();
                let monitor = format!("{text}-regions{required}-failures{confirm}");
                let [ap, eu, us] = regions.map(letters);
                let target = Target { monitor: &monitor, required, confirm, ..Target::default() };
                tell(&mut story, &target, &[("ap", &ap), ("eu", &eu), ("us", &us)]);
                targets.push((monitor, regions, required));
            }
        }
    }
    let minute = |it: usize| f64::from(u32::try_from(it).expect("minutes"));
    story.firing(minute(CHANGE) - 0.5, DECISIONS, &[]);
    // Six minutes later: on-scrape confirmation, a stale scheduler and `for` have all run out.
    for (at, forgotten) in [(CHANGE + 6, false), (RECOVERY - 1, true)] {
        let firing: Vec<(&str, &str)> = targets
            .iter()
            .filter_map(|(monitor, regions, required)| {
                Some((expected(*regions, *required, forgotten)?, monitor.as_str()))
            })
            .collect();
        story.firing(minute(at), DECISIONS, &firing);
    }
    story.firing(minute(END) - 0.5, DECISIONS, &[]);
    story
}

/// Three regions in five states each, where one, two or three must agree.
pub(crate) fn scheduled_table() -> Story {
    table("scheduled truth table", &SCHEDULED, &[3], Story::scheduled)
}

/// The same through probes on scrape alone, after one, three and five failures.
pub(crate) fn on_scrape_table() -> Story {
    table("on-scrape truth table", &ON_SCRAPE, &[1, 3, 5], Story::on_scrape)
}

#[test]
fn scheduled_mode_pages_exactly_when_enough_fresh_regions_agree() {
    if !harness::installed("scheduled truth table", &["promtool"]) {
        return;
    }
    Run::new(&[scheduled_table()]).check();
}

#[test]
fn on_scrape_mode_has_the_same_truth_table() {
    if !harness::installed("on-scrape truth table", &["promtool"]) {
        return;
    }
    Run::new(&[on_scrape_table()]).check();
}
