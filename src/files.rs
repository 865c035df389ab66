//! Files that other programs write: read within bounds, on threads that may hang, kept at their
//! last good version.
//!
//! ```text
//! Watched ── Loader (a thread, a time limit) ── load ── Sources ── read
//!    │                                                     │
//!    └─ the last good value                                └─ FileVersion of every file read
//! ```
//!
//! Nothing else in this crate opens a file. A pipe, a device, a directory, a file without end or
//! a mount that does not answer costs one thread and one error message, never the process, a
//! thread of the runtime, or the value in force.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::digest;

use crate::limits::{DIRECTORY_ENTRIES, LOAD_BYTES};

mod loader;
pub mod pem;
mod watched;

pub use crate::files::loader::{LoadThreads, Loader, within};
pub use crate::files::watched::{Watched, WatchedMap};

/// A mebibyte.
pub const MIB: u64 = 1024 * 1024;
/// A file changed this recently may change again without getting another time: clocks of file
/// systems tick in milliseconds.
const TICK: Duration = Duration::from_millis(100);

/// Reads a regular file of at most `limit` bytes.
///
/// The calling thread may hang for as long as the file system does: outside of a [`Loader`] only
/// for files of the kernel, below `/proc` and `/sys`.
///
/// # Errors
/// The file cannot be read, is larger, or is not a regular file.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let (size, unit) = match limit {
            MIB.. => (limit / MIB, "MiB"),
            1024.. => (limit / 1024, "KiB"),
            _ => (limit, "bytes"),
        };
        io::Error::other(format!("it is larger than {size} {unit}"))
    };
    // Asked before opening, since opening alone does things to some devices; and after, since
    // only the open file is the one that is read.
    check_kind(&std::fs::metadata(path)?)?;
    // A pipe that took its place in between would hold up a plain open.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    check_kind(&metadata)?;
    if metadata.len() > limit {
        return Err(too_large());
    }
    let content = read_at_most(file, limit.saturating_add(1))?;
    // It may have grown meanwhile.
    if content.len() as u64 > limit { Err(too_large()) } else { Ok(content) }
}

fn read_at_most(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

fn check_kind(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else if metadata.is_dir() {
        Err(io::Error::other("it is a directory: name a file"))
    } else {
        Err(io::Error::other("it is a pipe or a device: name a file"))
    }
}

/// What changes when a file does: its identity, its size, its times.
///
/// The change time too, since copying with preserved times keeps the modification time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// The version of a file or directory; `None` if there is none to be seen.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether a change right after `now` might leave the version as it is.
    fn is_recent(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds).ok().and_then(|seconds| {
            let since = Duration::new(seconds, u32::try_from(nanoseconds).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        changed.is_some_and(|changed| match now.duration_since(changed) {
            Ok(age) => age < TICK,
            Err(ahead) => ahead.duration() < TICK,
        })
    }
}

/// What a load has read: each path with the version it had just before, and what was in it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    versions: Vec<(PathBuf, Option<FileVersion>)>,
    /// SHA-256 of each content, one after the other.
    digests: Vec<u8>,
    /// Bytes read.
    total: u64,
    /// A version is so recent that it may stand for more than one content.
    has_recent: bool,
}

impl Sources {
    /// Reads a file as [`read`] does, and remembers its version.
    ///
    /// # Errors
    /// As for [`read`].
    pub fn read(&mut self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.note(path);
        let content = if self.total > LOAD_BYTES {
            Err(io::Error::other(format!("all together is larger than {} MiB", LOAD_BYTES / MIB)))
        } else {
            read(path, limit)
        };
        let bytes = content.as_deref().unwrap_or_default();
        self.digests.extend_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        self.total = self.total.saturating_add(bytes.len() as u64);
        content
    }

    /// The names in a directory, sorted; remembers its version.
    ///
    /// # Errors
    /// The directory cannot be read, or has too many entries.
    pub fn list(&mut self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.note(directory);
        let entries = std::fs::read_dir(directory)?.take(DIRECTORY_ENTRIES + 1);
        let mut names: Vec<OsString> =
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        if names.len() > DIRECTORY_ENTRIES {
            return Err(io::Error::other(format!("it has more than {DIRECTORY_ENTRIES} entries")));
        }
        names.sort();
        Ok(names)
    }

    /// Remembers the version of a path, or that there is nothing.
    pub fn note(&mut self, path: &Path) {
        let version = FileVersion::of(path);
        self.has_recent |= version.is_some_and(|version| version.is_recent(SystemTime::now()));
        self.versions.push((path.to_owned(), version));
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether every path still has the version that was read.
    #[must_use]
    pub fn are_current(&self) -> bool {
        !self.has_recent
            && self.versions.iter().all(|(path, version)| FileVersion::of(path) == *version)
    }

    /// Whether the same contents were read from the same paths.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        let paths = |sources: &Self| -> Vec<PathBuf> {
            sources.versions.iter().map(|(path, _)| path.clone()).collect()
        };
        self.digests == other.digests && paths(self) == paths(other)
    }
}

#[cfg(test)]
mod tests;
