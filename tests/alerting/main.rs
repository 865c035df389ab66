//! Alerting as shipped: rules, Alertmanager configuration and runbook, against the real programs.

mod alertmanager;
mod lint;
mod mutation;
mod promtool;
mod rules;
mod runbook;
mod stories;
mod story;
mod truth_table;
