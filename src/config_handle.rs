//! The configuration in force, and its replacement while the exporter runs.
//!
//! Readers take a snapshot and keep it for as long as their work lasts. A configuration that
//! cannot be loaded leaves the old one in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

use crate::config::{Config, Diagnostic, Loaded, ModuleEntry};
use crate::files::Loader;
use crate::limits::RELOAD_WITHIN;
use crate::telemetry::Telemetry;

/// The configuration in force.
#[derive(Debug)]
pub struct ConfigHandle {
    path: Option<PathBuf>,
    telemetry: Arc<Telemetry>,
    current: watch::Sender<Arc<Config>>,
    loader: Loader,
    /// Held while reloading, so that two reloads follow each other. True after a failure.
    failed: Mutex<bool>,
}

impl ConfigHandle {
    /// Puts a first configuration into force.
    #[must_use]
    pub fn new(path: Option<PathBuf>, config: Config, telemetry: Arc<Telemetry>) -> Self {
        let config_handle = Self {
            path,
            telemetry,
            current: watch::Sender::new(Arc::new(config)),
            loader: Loader::default(),
            failed: Mutex::default(),
        };
        config_handle.begin_counting();
        config_handle.note(true);
        config_handle
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
        self.load(true).await
    }

    /// Loads the files anew and says nothing if they are what is in force, or what failed before.
    ///
    /// # Errors
    /// As for [`ConfigHandle::reload`].
    pub async fn reload_if_changed(&self) -> Result<(), String> {
        self.load(false).await
    }

    async fn load(&self, asked_for: bool) -> Result<(), String> {
        let mut failed = self.failed.lock().await;
        let (path, current) = (self.path.clone(), self.config());
        let loaded = self.loader.run(RELOAD_WITHIN, move || load(path.as_deref(), &current)).await;
        let loaded = loaded.unwrap_or_else(|message| {
            Err(vec![Diagnostic::of_file(self.path.as_deref(), message)])
        });
        self.note(loaded.is_ok());
        match loaded {
            Ok(loaded) => {
                let changed = loaded.is_some();
                if let Some(Loaded { config, warnings }) = loaded {
                    warn_of(&warnings);
                    self.current.send_replace(Arc::new(config));
                    self.begin_counting();
                }
                if changed || asked_for || *failed {
                    info!(changed, "configuration reloaded");
                }
                *failed = false;
                Ok(())
            }
            Err(diagnostics) => {
                if asked_for || !*failed {
                    for diagnostic in &diagnostics {
                        error!(error = %diagnostic, "error reloading config");
                    }
                }
                *failed = true;
                let lines: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
                Err(lines.join("\n"))
            }
        }
    }

    fn note(&self, successful: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.telemetry.reloaded(successful, now);
    }

    /// The counters of every module exist, at zero, before its first probe.
    fn begin_counting(&self) {
        let config = self.config();
        self.telemetry.may_refuse(config.access.rules());
        for (name, entry) in &config.modules {
            match entry {
                ModuleEntry::Tcp(_) => drop(self.telemetry.module(name)),
                ModuleEntry::Other { .. } => (),
            }
        }
    }
}

/// What the files say, unless it is what is in force.
fn load(path: Option<&Path>, current: &Config) -> Result<Option<Loaded>, Vec<Diagnostic>> {
    if current.fingerprint_now().is_ok_and(|fingerprint| fingerprint == current.fingerprint) {
        return Ok(None);
    }
    Config::load(path).map(Some)
}

/// Logs what was noticed while loading.
pub fn warn_of(warnings: &[Diagnostic]) {
    for warning in warnings {
        warn!(%warning, "configuration");
    }
}
