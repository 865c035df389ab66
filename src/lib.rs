//! A Prometheus exporter that watches TCP ports.
