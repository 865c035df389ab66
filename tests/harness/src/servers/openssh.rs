//! OpenSSH's `sshd`, logging at its default level.

use super::{Home, Server, free_port};
use crate::process::run;

pub const PROGRAMS: &[&str] = &["sshd", "ssh-keygen"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("sshd", None);
    let key = home.file("hostkey");
    run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &key]);
    // Its separation directory, which the service's own unit makes otherwise.
    std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
    let port = free_port();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {key}\nPidFile none\nMaxStartups 100\n\
         UsePAM no\n"
    );
    let config = home.write("sshd_config", &config);
    let mut command = home.command("sshd");
    command.args(["-D", "-e", "-f", &config]);
    Server::start(home, &[port], command)
}
