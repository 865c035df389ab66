//! The configuration in force: modules, monitors, access rules; built from files, checked whole.
//!
//! The schema stands once, as types (`schema`, `ports`, `scalar`). A text is read entry by entry
//! (`yaml`), each entry becomes such a type (`read`), which becomes values (`modules`, `monitors`,
//! `file_sd`, `access`); `lint` looks at all monitors together (`listed`), and `show` goes the way
//! back. Nothing downstream checks again. Every problem is noted with its place and reading goes
//! on, so that a person sees all of them at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::Access;
use crate::address::Address;
use crate::files::within;
use crate::limits::CONFIG_WITHIN;
use crate::maintenance::Maintenance;
use crate::module::Module;
use crate::monitor::{Monitor, SeriesOptions};

mod access;
mod duration;
mod file_sd;
mod files;
mod lint;
mod listed;
mod load;
mod maintenance;
mod modules;
mod monitors;
mod ports;
mod read;
mod scalar;
mod schema;
mod secret;
mod show;
mod yaml;

/// A module of the configuration.
#[derive(Clone, Debug)]
pub enum ModuleEntry {
    /// One that this exporter carries out.
    Tcp(Arc<Module>),
    /// One of another prober of `blackbox_exporter`: kept, so that `/probe` can say so.
    Other {
        /// `http`, `icmp`, …; empty for a module without content.
        prober: String,
    },
}

/// A target that is always up from here; while all are down, this region is cut off.
#[derive(Clone, Debug)]
pub struct Canary {
    /// What to probe.
    pub address: Address,
    /// How.
    pub module: Arc<Module>,
}

/// Something wrong, or worth a warning, in a configuration file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Diagnostic {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Its line, from 1, where known.
    pub line: Option<usize>,
    /// Path to the value, `monitors[2].port`; empty for the whole file.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    /// One line, in the form that editors jump to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Diagnostic {
    /// Something wrong with the whole file.
    #[must_use]
    pub fn of_file(path: Option<&Path>, message: String) -> Self {
        let file = path.map(Path::to_owned).unwrap_or_default();
        Self { file, line: None, path: String::new(), message }
    }
}

/// A configuration that was checked whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// By name: the embedded ones, and those of the file, which win.
    pub modules: BTreeMap<Arc<str>, ModuleEntry>,
    /// In the order of the files. Invariant: names unique.
    pub monitors: Vec<Arc<Monitor>>,
    /// Who may probe what.
    pub access: Arc<Access>,
    /// Targets that are always up from here.
    pub canaries: Vec<Canary>,
    /// When alerts are held back.
    pub maintenance: Maintenance,
    /// What is exposed of every target.
    pub options: SeriesOptions,
    /// Globs of further files, relative ones resolved.
    pub monitor_files: Vec<PathBuf>,
    /// Everything that was read: the file, then what the globs found.
    pub files: Vec<PathBuf>,
    /// SHA-256 of everything that was read, lower-case hexadecimal.
    pub fingerprint: String,
}

/// A configuration and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run.
    pub config: Config,
    /// What a person should look at.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// The configuration without a file: the embedded modules and no monitors.
    #[must_use]
    pub fn embedded() -> Self {
        load::embedded()
    }

    /// Reads a file, and the monitor files it names; without a path, the embedded configuration.
    ///
    /// # Errors
    /// Everything that is wrong, not the first thing only.
    pub fn load(path: Option<&Path>) -> Result<Loaded, Vec<Diagnostic>> {
        match path {
            None => Ok(Loaded { config: Self::embedded(), warnings: Vec::new() }),
            Some(path) => load::load(path, Self::embedded()),
        }
    }

    /// The same on a thread of its own, for callers without a runtime: a file system that hangs is
    /// an error.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_in_time(path: Option<&Path>) -> Result<Loaded, Vec<Diagnostic>> {
        let own = path.map(Path::to_owned);
        within(CONFIG_WITHIN, move || Self::load(own.as_deref()))
            .unwrap_or_else(|message| Err(vec![Diagnostic::of_file(path, message)]))
    }

    /// What [`Config::fingerprint`] would be if the files were read again, without reading what
    /// they mean. Cheap enough to ask every few seconds.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn fingerprint_now(&self) -> io::Result<String> {
        match self.files.first() {
            None => Ok(self.fingerprint.clone()),
            Some(path) => files::fingerprint(path, &self.monitor_files),
        }
    }

    /// What `/config` shows: YAML with every default filled in and secrets hidden. A file that
    /// [`Config::load`] reads back, but for the secrets and the modules of other probers.
    #[must_use]
    pub fn text(&self) -> String {
        show::config(self)
    }
}

/// The schema of a configuration file as JSON, which editors read.
#[must_use]
pub fn json_schema() -> String {
    schema::json()
}

/// The known word that a misspelt one probably meant.
#[must_use]
pub fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    read::nearest(text, words)
}

/// A module as `/config` shows it, with the name that a request gave for verification.
#[must_use]
pub fn module_text(module: &Module, hostname: Option<&str>) -> String {
    show::module(module, hostname)
}

#[cfg(test)]
mod tests;
