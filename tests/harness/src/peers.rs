//! Newer versions of the programs that read the exporter than the system has.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the programs of these packages of Debian unstable, unpacked on first use; says
/// their versions. `None` where they cannot be had: then `test` is to be skipped, as it is said.
#[must_use]
pub fn fetch(test: &str, packages: &[&str]) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = root.join("target/peers");
    let script = root.join("tests/peers/fetch.sh");
    match Command::new(&script).arg(&directory).args(packages).output() {
        Ok(output) if output.status.success() => {
            eprint!("{}", String::from_utf8_lossy(&output.stdout));
            Some(directory.join("usr/bin"))
        }
        Ok(output) => {
            crate::skip(test, &String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(err) => {
            crate::skip(test, &format!("{}: {err}", script.display()));
            None
        }
    }
}
