//! The dashboards as they are shipped: what a reviewer would ask of each, and every one of their
//! queries answered by a Prometheus that scrapes real exporters.

mod board;
mod lint;
