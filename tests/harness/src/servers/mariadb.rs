//! MariaDB on a host of its own: it does not count errors of clients on its loopback.

use std::process::Command;

use super::{Home, Server};
use crate::process::{Process, run};
use crate::{Netns, PATIENCE};

pub const PROGRAMS: &[&str] = &["mariadbd", "mariadb-install-db", "mariadb", "ip"];

const PORT: u16 = 3306;

/// A server at `address` in `netns`, where the client's address must have a name (else its errors
/// are not counted): see [`Mariadb::start`].
pub struct Mariadb {
    pub server: Server,
    socket: String,
}

impl Mariadb {
    /// Starts it in `netns`, to be reached at `address` from `client`.
    #[track_caller]
    #[must_use]
    pub fn start(netns: &Netns, address: &str, client: &str) -> Self {
        let home = Home::new("mariadb", Some("mysql"));
        let data = home.file("data");
        let socket = home.file("socket");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=normal"]);
        install.args(["--skip-test-db", "--skip-name-resolve"]).arg(format!("--datadir={data}"));
        let mut install = Process::start_command(home.path(), install);
        assert!(install.wait(PATIENCE * 4).success(), "{}", install.output());
        // `ip netns exec` lays this file over /etc/hosts.
        std::fs::write(
            netns.etc().join("hosts"),
            format!("127.0.0.1 localhost\n{client} client.test\n{address} server.test\n"),
        )
        .expect("hosts");
        let mut command = home.command("mariadbd");
        command.args(["--no-defaults", "--bind-address=0.0.0.0", "--log-warnings=4"]);
        command.args(["--performance-schema=ON", "--innodb-buffer-pool-size=8M"]);
        command.arg("--skip-ssl");
        for (flag, value) in [
            ("datadir", &data),
            ("socket", &socket),
            ("port", &PORT.to_string()),
            ("pid-file", &home.file("pid")),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        let server = Server::start_within(home, Some(netns.name()), address, &[PORT], command);
        Self { server, socket }
    }

    /// Answers `sql` as root, one line per row, columns apart by tabs.
    #[track_caller]
    #[must_use]
    pub fn query(&self, sql: &str) -> String {
        run(&["mariadb", "--no-defaults", "-uroot", "-S", &self.socket, "-N", "-e", sql])
    }

    /// A status variable that is a number.
    #[track_caller]
    #[must_use]
    pub fn status(&self, name: &str) -> u64 {
        let row = self.query(&format!("show global status like '{name}'"));
        let value = row.split('\t').nth(1).and_then(|it| it.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no status `{name}`: `{row}`"))
    }

    /// The errors by which it may block a client's host: those that count towards
    /// `max_connect_errors`, and those of the handshake.
    #[track_caller]
    #[must_use]
    pub fn host_errors(&self) -> (u64, u64) {
        let sql = "select coalesce(sum(sum_connect_errors), 0), \
                   coalesce(sum(count_handshake_errors), 0) from performance_schema.host_cache";
        let row = self.query(sql);
        let mut numbers = row.split_whitespace().map(|it| it.parse().expect("a number"));
        (numbers.next().expect("two columns"), numbers.next().expect("two columns"))
    }
}
