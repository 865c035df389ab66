//! ngIRCd, which wants a PING answered before it welcomes anyone.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["ngircd"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("ngircd", Some("irc"));
    let port = free_port();
    let config = format!(
        "[Global]\nName = irc.test\nInfo = Test\nListen = 127.0.0.1\nPorts = {port}\n\
         AdminEMail = irc@irc.test\n[Limits]\nMaxConnectionsIP = 0\n\
         [Options]\nIdent = no\nPAM = no\nDNS = no\nRequireAuthPing = yes\n"
    );
    let config = home.write("ngircd.conf", &config);
    let mut command = home.command("ngircd");
    command.args(["-n", "-f", &config]);
    Server::start(home, &[port], command)
}
