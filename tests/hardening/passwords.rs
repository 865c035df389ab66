//! What guessing passwords tells, and whom it holds up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::Exporter;

use crate::{EXPORTER, assert_well_with};

/// Costly enough to be seen beside everything else that takes time.
const COST: u32 = 8;

fn ask(exporter: &Exporter, user: &str, password: &str) -> (u16, Duration) {
    let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let begin = Instant::now();
    let status = exporter.get_with("/-/healthy", &[("Authorization", &value)]).status;
    (status, begin.elapsed())
}

fn start() -> Exporter {
    let hash = bcrypt::hash("secret", COST).expect("a hash");
    Exporter::new(EXPORTER)
        .file("web.yml", &format!("basic_auth_users: {{alice: '{hash}'}}\n"))
        .flag("--web.config.file=web.yml")
        .start()
}

#[test]
fn time_does_not_tell_whether_a_user_exists() {
    let exporter = start();
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    // In turns, since the machine's mood changes; each password once, since verdicts are kept.
    for round in 0..15 {
        for (user, times) in [("alice", &mut known), ("mallory", &mut unknown)] {
            let (status, took) = ask(&exporter, user, &format!("guess{round}"));
            assert_eq!(status, 401);
            times.push(took);
        }
    }
    let [known, unknown] = [known, unknown].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let (_, first) = ask(&exporter, "alice", "secret");
    let kept = (0..5).map(|_| ask(&exporter, "alice", "secret").1).min().expect("some");
    eprintln!(
        "a wrong password: known user {known:?}, unknown user {unknown:?}; the right one: first \
         {first:?}, then {kept:?}"
    );
    // Without the check of unknown users' passwords these differ by a factor of a hundred.
    assert!(unknown < known * 8 && known < unknown * 8, "{known:?} {unknown:?}");
    assert!(kept * 2 < known, "a good verdict is kept: {kept:?} {known:?}");
}

#[test]
fn guessing_holds_up_nobody_who_is_known() {
    let exporter = start();
    assert_eq!(ask(&exporter, "alice", "secret").0, 200);
    let (stop, guesses, busy) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (exporter, stop, guesses, busy) = (&exporter, &stop, &guesses, &busy);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let user = if round % 2 == 0 { "alice" } else { "mallory" };
                    match ask(exporter, user, &format!("{thread}-{round}")).0 {
                        401 => guesses.fetch_add(1, Ordering::Relaxed),
                        // Too many wait for the same answer.
                        status if status >= 429 => busy.fetch_add(1, Ordering::Relaxed),
                        status => panic!("let in with {status}"),
                    };
                }
            });
        }
        let mut times: Vec<Duration> = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(4) {
            let (status, took) = ask(&exporter, "alice", "secret");
            assert_eq!(status, 200);
            times.push(took);
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!(
            "{} guesses, {} turned away: a known client waits {median:?}, at worst {worst:?}",
            guesses.load(Ordering::Relaxed),
            busy.load(Ordering::Relaxed)
        );
        assert!(median < Duration::from_secs(2), "{median:?}");
    });
    assert_well_with(&exporter, &[("Authorization", "Basic YWxpY2U6c2VjcmV0")]);
}
