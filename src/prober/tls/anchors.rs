//! The trust anchors of the system.
//!
//! Where they are, `openssl-probe` knows; reading them is left to our own reader, which watches
//! every file and bounds it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use crate::files::{FileVersion, Sources, pem};
use crate::limits::PEM_BYTES;

/// Reads every certificate. What cannot be read is passed over while there are others.
///
/// # Errors
/// There is none at all: why, in one line.
pub(super) fn load(sources: &mut Sources) -> Result<Vec<CertificateDer<'static>>, String> {
    let (file, directories) = places();
    read(file.as_deref(), &directories, sources)
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set, otherwise where the system has them.
fn places() -> (Option<PathBuf>, Vec<PathBuf>) {
    let file = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let directories = std::env::var_os("SSL_CERT_DIR");
    if file.is_some() || directories.is_some() {
        let directories = directories.iter().flat_map(std::env::split_paths);
        return (file, directories.filter(|path| !path.as_os_str().is_empty()).collect());
    }
    let found = openssl_probe::probe();
    (found.cert_file, found.cert_dir)
}

fn read(
    file: Option<&Path>,
    directories: &[PathBuf],
    sources: &mut Sources,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut problems = Vec::new();
    let mut paths: Vec<PathBuf> = file.into_iter().map(Path::to_owned).collect();
    for directory in directories {
        match sources.list(directory) {
            Ok(names) => paths.extend(names.into_iter().map(|name| directory.join(name))),
            Err(err) => problems.push(format!("`{}`: {err}", directory.display())),
        }
    }
    let mut found = Vec::new();
    // Each certificate has several links to it, and the bundle may lie among them.
    let mut seen = HashSet::new();
    for path in paths {
        if FileVersion::of(&path).is_some_and(|version| !seen.insert(version)) {
            continue;
        }
        let certificates = sources
            .read(&path, PEM_BYTES)
            .map_err(|err| err.to_string())
            .and_then(|text| pem::certificates(&text));
        match certificates {
            Ok(certificates) => found.extend(certificates),
            Err(err) => problems.push(format!("`{}`: {err}", path.display())),
        }
    }
    let mut known = HashSet::new();
    found.retain(|certificate: &CertificateDer<'_>| known.insert(certificate.to_vec()));
    if found.is_empty() {
        if problems.is_empty() {
            problems.push("install ca-certificates, or set SSL_CERT_FILE".to_owned());
        }
        problems.truncate(3);
        return Err(format!("trust store of the system: {}", problems.join(", ")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(name: &str) -> String {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn files_and_directories_are_read_once_each() {
        let home = tempfile::tempdir().unwrap();
        let bundle = home.path().join("bundle.crt");
        fs::write(&bundle, certificate("a.test") + &certificate("b.test")).unwrap();
        fs::write(home.path().join("c.pem"), certificate("c.test")).unwrap();
        std::os::unix::fs::symlink("c.pem", home.path().join("0123abcd.0")).unwrap();
        fs::write(home.path().join("README"), "not a certificate").unwrap();
        fs::create_dir(home.path().join("java")).unwrap();
        let read = |file: Option<&Path>, directories: &[PathBuf]| {
            read(file, directories, &mut Sources::default()).map(|found| found.len())
        };
        assert_eq!(read(Some(&bundle), &[home.path().to_owned()]), Ok(3));
        assert_eq!(read(Some(&bundle), &[]), Ok(2));
        let empty = home.path().join("java");
        let words = "trust store of the system: install ca-certificates, or set SSL_CERT_FILE";
        assert_eq!(read(None, std::slice::from_ref(&empty)), Err(words.to_owned()));
        let err = read(Some(&empty), &[]).unwrap_err();
        assert!(err.contains("java`: it is a directory"), "{err}");
    }

    #[test]
    fn a_certificate_that_comes_later_is_a_change() {
        let home = tempfile::tempdir().unwrap();
        let directories = [home.path().to_owned()];
        let mut sources = Sources::default();
        assert!(read(None, &directories, &mut sources).is_err());
        fs::write(home.path().join("a.pem"), certificate("a.test")).unwrap();
        assert!(!sources.are_current());
        assert_eq!(read(None, &directories, &mut Sources::default()).unwrap().len(), 1);
    }
}
