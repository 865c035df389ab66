//! What the command line decided, and what cannot change while the exporter runs.

use std::path::PathBuf;
use std::time::Duration;

use crate::http::url::{ExternalUrl, ListenAddress};
use crate::log::LogSettings;
use crate::monitor::Shard;

/// Everything the flags say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Configuration file; `None` for the embedded one.
    pub config_file: Option<PathBuf>,
    /// How often the files are looked at; `None` for never.
    pub auto_reload: Option<Duration>,
    /// Where to listen.
    pub listen: Vec<ListenAddress>,
    /// Whether systemd hands over the listening sockets.
    pub systemd_socket: bool,
    /// TLS and basic auth of the web server.
    pub web_config_file: Option<PathBuf>,
    /// The URL under which others reach the exporter.
    pub external_url: Option<ExternalUrl>,
    /// Prefix of all routes, as written.
    pub route_prefix: Option<String>,
    /// Subtracted from the scrape timeout. A float, since it may be negative.
    pub timeout_offset_seconds: f64,
    /// Results kept for `/logs`.
    pub history_limit: u32,
    /// What is logged and how.
    pub log: LogSettings,
    /// Problems with the log flags, to be told once there is a log.
    pub log_warning: Option<String>,
    /// Which monitors are ours.
    pub shard: Shard,
}
