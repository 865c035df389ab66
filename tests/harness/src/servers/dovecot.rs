//! Dovecot: ports 0 to 3 are IMAP, IMAP over TLS, POP3, POP3 over TLS. In its directory is the
//! socket `auth`, by which Postfix checks passwords.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["dovecot"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("dovecot", None);
    home.certify();
    let ports = [(); 4].map(|()| free_port());
    let [imap, imaps, pop3, pop3s] = ports;
    let service = |name: &str, plain: u16, wrapped: u16| {
        format!(
            "service {name}-login {{\n  chroot =\n  inet_listener {name} {{\n    port = {plain}\n  }}\n  \
             inet_listener {name}s {{\n    port = {wrapped}\n  }}\n}}\n"
        )
    };
    let config = format!(
        "base_dir = {}\nstate_dir = {}\nlog_path = {}\nprotocols = imap pop3\n\
         listen = 127.0.0.1\nssl = yes\nssl_cert = <{}\nssl_key = <{}\n{}{}\
         passdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
         service auth {{\n  unix_listener {} {{\n    mode = 0666\n  }}\n}}\n\
         userdb {{\n  driver = static\n  args = uid=65534 gid=65534 home=/nonexistent\n}}\n",
        home.file("run"),
        home.file("state"),
        home.file("dovecot.log"),
        home.file("cert.pem"),
        home.file("key.pem"),
        service("imap", imap, imaps),
        service("pop3", pop3, pop3s),
        home.file("auth"),
    );
    let config = home.write("dovecot.conf", &config);
    let mut command = home.command("dovecot");
    command.args(["-F", "-c", &config]);
    Server::start(home, &ports, command).with_log("dovecot.log")
}
