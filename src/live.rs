//! The configuration in force, and its replacement while the exporter runs.
//!
//! Readers take a snapshot and keep it for as long as their work lasts. A configuration that
//! cannot be loaded leaves the old one in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

use crate::config::{Config, Diagnostic};

/// The configuration in force.
#[derive(Debug)]
pub struct Live {
    path: Option<PathBuf>,
    current: watch::Sender<Arc<Config>>,
    /// Held while reloading, so that two reloads follow each other.
    reloading: Mutex<()>,
}

impl Live {
    /// Puts a first configuration into force.
    #[must_use]
    pub fn new(path: Option<PathBuf>, config: Config) -> Self {
        Self { path, current: watch::Sender::new(Arc::new(config)), reloading: Mutex::default() }
    }

    /// A snapshot.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of every replacement.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.current.subscribe()
    }

    /// Loads the files anew.
    ///
    /// # Errors
    /// Everything that is wrong with them, one per line; the old configuration stays.
    pub async fn reload(&self) -> Result<(), String> {
        let _turn = self.reloading.lock().await;
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || Config::load(path.as_deref()))
            .await
            .map_err(|err| format!("the loader died: {err}"))?;
        match loaded {
            Ok(loaded) => {
                warn_of(&loaded.warnings);
                let config = Arc::new(loaded.config);
                self.current.send_if_modified(|current| {
                    let modified = current.fingerprint != config.fingerprint;
                    *current = config;
                    modified
                });
                info!("configuration loaded");
                Ok(())
            }
            Err(diagnostics) => {
                let lines: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
                let lines = lines.join("\n");
                error!(error = lines, "error reloading config");
                Err(lines)
            }
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// Logs what was noticed while loading.
pub fn warn_of(warnings: &[Diagnostic]) {
    for warning in warnings {
        warn!(warning = %warning, "configuration");
    }
}
