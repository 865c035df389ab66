//! Postfix: port 0 is SMTP with STARTTLS, port 1 is SMTP over TLS.

use std::path::Path;

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["postfix"];

/// With logins, if Dovecot's socket for them is given.
#[track_caller]
#[must_use]
pub fn start(auth: Option<&Path>) -> Server {
    let home = Home::new("postfix", None);
    home.certify();
    let config = home.make("config");
    let spool = home.make("spool");
    let data = home.make("data");
    crate::process::run(&["chown", "postfix", &data]);
    let (plain, wrapped) = (free_port(), free_port());
    let file = |name: &str| home.file(name);
    let auth = auth.map_or_else(String::new, |socket| {
        format!(
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n",
            socket.display()
        )
    });
    home.write(
        "config/main.cf",
        &format!(
            "compatibility_level = 3.6\nqueue_directory = {spool}\ndata_directory = {data}\n\
             maillog_file = {}\nmaillog_file_prefixes = /\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nmyhostname = mail.test\nmydestination =\nalias_maps =\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n\
             smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\n{auth}",
            file("mail.log"),
            file("cert.pem"),
            file("key.pem"),
        ),
    );
    home.write(
        "config/master.cf",
        &format!(
            "127.0.0.1:{plain} inet n - n - - smtpd\n\
             127.0.0.1:{wrapped} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n\
             postlog unix-dgram n - n - 1 postlogd\ntlsmgr unix - - n 1000? 1 tlsmgr\n\
             anvil unix - - n - 1 anvil\nrewrite unix - - n - - trivial-rewrite\n\
             cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
             pickup unix n - n 60 1 pickup\nproxymap unix - - n - - proxymap\n\
             bounce unix - - n - 0 bounce\nerror unix - - n - - error\n\
             smtp unix - - n - - smtp\nshowq unix n - n - - showq\nflush unix n - n 1000? 0 flush\n\
             defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nverify unix - - n - 1 verify\n\
             retry unix - - n - - error\ndiscard unix - - n - - discard\nscache unix - - n - 1 scache\n",
        ),
    );
    let mut command = home.command("postfix");
    command.args(["-c", &config, "start-fg"]);
    Server::start(home, &[plain, wrapped], command).with_log("mail.log")
}
