//! vsftpd, logging every command.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["vsftpd"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("vsftpd", None);
    let port = free_port();
    let empty = home.make("empty");
    let config = format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\n\
         anonymous_enable=YES\nanon_root={empty}\nsecure_chroot_dir={empty}\n\
         xferlog_enable=YES\nxferlog_std_format=NO\nlog_ftp_protocol=YES\n\
         vsftpd_log_file={}\nseccomp_sandbox=NO\n",
        home.file("vsftpd.log"),
    );
    let config = home.write("vsftpd.conf", &config);
    let mut command = home.command("vsftpd");
    command.arg(&config);
    Server::start(home, &[port], command).with_log("vsftpd.log")
}
