//! The files of a configuration: which they are, and whether their contents changed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest;

use crate::files;
use crate::limits::{CONFIG_BYTES, MONITOR_FILES};

/// SHA-256 over several files: which, and what is in them.
pub(super) struct Fingerprint(digest::Context);

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn add(&mut self, path: &Path, content: &[u8]) {
        let name = path.as_os_str().as_encoded_bytes();
        for part in [name, content] {
            // Lengths between the parts, so that no two sets of files look the same.
            self.0.update(&part.len().to_be_bytes());
            self.0.update(part);
        }
    }

    pub(super) fn finish(self) -> String {
        hexadecimal(self.0.finish().as_ref())
    }
}

/// Reads a file of bounded size.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read(path, CONFIG_BYTES)
}

/// Files that match globs, each once, sorted within each glob; without the file that names them.
pub(super) fn expand(file: &Path, globs: &[PathBuf]) -> Vec<PathBuf> {
    let own = file.canonicalize().ok();
    let is_own = |path: &Path| own.is_some() && path.canonicalize().ok() == own;
    let mut found: Vec<PathBuf> = Vec::new();
    let mut seen = HashSet::new();
    for pattern in globs {
        let Some(paths) = pattern.to_str().and_then(|text| glob::glob(text).ok()) else { continue };
        for path in paths.filter_map(Result::ok).filter(|path| path.is_file() && !is_own(path)) {
            if found.len() <= MONITOR_FILES && seen.insert(path.clone()) {
                found.push(path);
            }
        }
    }
    found
}

/// Reads everything again, for its fingerprint only.
pub(super) fn fingerprint(path: &Path, globs: &[PathBuf]) -> io::Result<String> {
    let mut fingerprint = Fingerprint::new();
    fingerprint.add(path, &read(path)?);
    for path in expand(path, globs) {
        fingerprint.add(&path, &read(&path)?);
    }
    Ok(fingerprint.finish())
}

/// Two lower-case digits for each byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
