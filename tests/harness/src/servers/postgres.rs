//! PostgreSQL, with TLS on, as Debian sets it up.

use std::path::PathBuf;

use super::{Home, Server, free_port};
use crate::process::{Process, run};
use crate::{PATIENCE, wait_until};

/// Whether it is installed. Debian keeps its programs off the path, a directory per version.
#[must_use]
pub fn available(test: &str) -> bool {
    super::available(test, &["setpriv"])
        && (program("postgres").is_some() || crate::skip(test, "not installed: postgres"))
}

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("postgres", Some("postgres"));
    let program = |it| program(it).expect("installed").display().to_string();
    home.certify();
    let data = home.file("data");
    let mut init = home.command(&program("initdb"));
    init.args(["-A", "trust", "--no-sync", "-D", &data]);
    let mut init = Process::start_command(home.path(), init);
    assert!(init.wait(PATIENCE * 4).success(), "initdb: {}", init.output());
    run(&["chmod", "600", &home.file("key.pem")]);
    let port = free_port();
    let mut command = home.command(&program("postgres"));
    command.args(["-D", &data, "-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", home.path().display()),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", home.file("cert.pem")),
        format!("ssl_key_file={}", home.file("key.pem")),
        "log_connections=on".to_owned(),
        "fsync=off".to_owned(),
        "shared_buffers=8MB".to_owned(),
    ] {
        command.args(["-c", &setting]);
    }
    let server = Server::start(home, &[port], command);
    wait_until(PATIENCE, || {
        let log = server.log();
        if log.contains("ready to accept connections") { Ok(()) } else { Err(log) }
    });
    server
}

fn program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|it| it.path().join("bin").join(name)).find(|it| it.is_file())
}
