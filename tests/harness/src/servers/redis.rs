//! Redis, without persistence.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["redis-server"];

/// With a password that every client must give, if there is one.
#[track_caller]
#[must_use]
pub fn start(password: Option<&str>) -> Server {
    let home = Home::new("redis", Some("redis"));
    let port = free_port();
    let mut command = home.command("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--save", "", "--dir", &home.file(""), "--loglevel", "verbose"]);
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    let server = Server::start(home, &[port], command);
    // It listens before it has said all it has to say.
    let _ = server.wait_log(0, "Ready to accept", 1);
    server
}
