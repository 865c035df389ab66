//! OpenLDAP's `slapd`, logging every operation.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["slapd"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("slapd", Some("openldap"));
    let port = free_port();
    let data = home.make("data");
    let config = format!(
        "include /etc/ldap/schema/core.schema\npidfile {}\nmodulepath /usr/lib/ldap\n\
         moduleload back_mdb\ndatabase mdb\nmaxsize 1048576\nsuffix \"dc=test\"\ndirectory {data}\n",
        home.file("pid"),
    );
    let config = home.write("slapd.conf", &config);
    let mut command = home.command("slapd");
    command.args(["-h", &format!("ldap://127.0.0.1:{port}"), "-f", &config, "-d", "stats"]);
    Server::start(home, &[port], command)
}
