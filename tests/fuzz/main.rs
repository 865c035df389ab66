//! Nonsense for every input: nothing panics, nothing runs for ever, what is written is read back.
//!
//! Each target runs for `FUZZ_SECONDS`, by default so briefly that it fits every run of the
//! tests. Cases start from what is well formed, since noise alone does not get far. What was found
//! is kept as a test of its own.

#![expect(clippy::print_stderr, reason = "executions are shown")]

use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestCaseResult, TestRunner};

mod dialogue;
mod exposition;
mod mutation;
mod parsers;
mod request;

/// A case that takes longer hangs, even on a machine that is busy with everything else.
const SLOWEST: Duration = Duration::from_secs(10);

/// Runs cases until the time is over; prints how many there were and how long the slowest took.
#[track_caller]
fn fuzz<S: Strategy>(name: &str, strategy: &S, check: impl Fn(S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    let wish = std::env::var_os("FUZZ_SECONDS");
    let seconds = wish.and_then(|it| it.to_str()?.parse().ok()).unwrap_or(2);
    let begin = Instant::now();
    let (executions, slowest) = (Cell::new(0_u64), Cell::new(Duration::ZERO));
    while begin.elapsed() < Duration::from_secs(seconds) {
        let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(strategy, |value| {
            let start = Instant::now();
            check(value)?;
            let took = start.elapsed();
            slowest.set(slowest.get().max(took));
            executions.set(executions.get() + 1);
            if took > SLOWEST { Err(TestCaseError::fail(format!("{took:?}"))) } else { Ok(()) }
        });
        if let Err(error) = result {
            panic!("{name}, after {} cases: {error}", executions.get());
        }
    }
    let (executions, slowest) = (executions.get(), slowest.get());
    eprintln!("fuzz {name}: {executions} cases in {:?}, slowest {slowest:?}", begin.elapsed());
}
