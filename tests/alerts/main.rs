//! Alerts from end to end: real exporters in three regions, real Prometheus and Alertmanager,
//! inboxes where Slack, `PagerDuty` and the mail server would be.

mod compress;
mod shows;
mod world;
