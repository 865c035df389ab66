//! Tells whether a file is still the one that was read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file does: its place, its size, its times.
///
/// The change time too, since copying with preserved times keeps the other one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file; `None` if it cannot be looked at.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let it = std::fs::metadata(path).ok()?;
        Some(Self {
            device: it.dev(),
            inode: it.ino(),
            size: it.size(),
            modified: (it.mtime(), it.mtime_nsec()),
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_written_again_has_another_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        assert_eq!(Stamp::of(&path), None);
        std::fs::write(&path, "1").unwrap();
        let first = Stamp::of(&path);
        assert_eq!(first, Stamp::of(&path));
        std::fs::write(&path, "22").unwrap();
        assert_ne!(first, Stamp::of(&path));
    }
}
