//! Unbound, answering over TCP and logging its queries.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["unbound"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("unbound", Some("unbound"));
    let port = free_port();
    let config = format!(
        "server:\n interface: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n directory: \"{}\"\n \
         pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n log-queries: yes\n verbosity: 2\n \
         do-ip6: no\n num-threads: 1\n module-config: \"iterator\"\n\
         remote-control:\n control-enable: no\n",
        home.file(""),
    );
    let config = home.write("unbound.conf", &config);
    let mut command = home.command("unbound");
    command.args(["-d", "-c", &config]);
    Server::start(home, &[port], command)
}
