//! A Prometheus exporter that watches TCP ports.
//!
//! # Map
//!
//! On schedule, one way: `config ─▶ monitor ─▶ scheduler ─▶ prober ─▶ store ─▶ exposition ─▶ http`.
//!
//! On scrape, no memory: `http ─▶ guard ─▶ prober ─▶ exposition ─▶ http`.
//!
//! # Invariants
//!
//! * `address`, `module`, `monitor`, `outcome` and `verdict` do no I/O and read no clock.
pub mod address;
pub mod config;
pub mod exposition;
pub mod guard;
pub mod module;
pub mod monitor;
pub mod outcome;
pub mod prober;
pub mod scheduler;
pub mod store;
pub mod telemetry;
pub mod verdict;
