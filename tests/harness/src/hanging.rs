//! A file system that never answers.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A FUSE file system without anybody behind it: whoever looks at a path in it waits, until it is
/// dropped.
pub struct HangingMount {
    directory: TempDir,
    /// The kernel's questions wait here. Closed, they all fail.
    questions: Option<File>,
}

impl HangingMount {
    /// Mounts one. `None`, with a word to the reader, where that is not allowed.
    ///
    /// # Panics
    /// As other tests that are skipped, where `CI=true`.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        let directory = TempDir::with_prefix("hanging-").expect("temporary directory");
        let questions = File::options().read(true).write(true).open("/dev/fuse").and_then(|file| {
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", file.as_raw_fd());
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("hanging"), directory.path(), Some("fuse"), flags, Some(&*options))?;
            Ok(file)
        });
        match questions {
            Ok(questions) => Some(Self { directory, questions: Some(questions) }),
            Err(err) => {
                crate::skip(test, &format!("cannot mount through /dev/fuse: {err}"));
                None
            }
        }
    }

    /// A path that nobody can look at.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::join(self.directory.path(), "file")
    }
}

impl Drop for HangingMount {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}
