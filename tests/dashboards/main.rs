//! The dashboards as they are shipped: what a reviewer would ask of each, and every one of their
//! queries answered by a Prometheus that scrapes real exporters.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![expect(clippy::print_stdout, reason = "figures for people: cargo test -- --nocapture")]

mod board;
mod lint;
mod live;
