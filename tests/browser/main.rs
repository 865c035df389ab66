//! The status page in a real browser: what a person sees, with and without scripts, in the dark
//! and on a telephone, and what a hostile peer tries to make of it.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod driver;
mod page;
