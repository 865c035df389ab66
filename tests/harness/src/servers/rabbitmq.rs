//! RabbitMQ: port 0 is AMQP, port 1 is AMQP over TLS. User, password and virtual host are `monitor`.

use super::{Home, Server, free_port};
use crate::{PATIENCE, wait_until};

pub const PROGRAMS: &[&str] = &["rabbitmq-server", "erl"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("rabbitmq", Some("rabbitmq"));
    home.certify();
    let (port, secure) = (free_port(), free_port());
    let config = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\nlisteners.ssl.1 = 127.0.0.1:{secure}\n\
         ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nlog.console = true\nlog.console.level = info\n\
         log.console.use_colors = off\nlog.file = false\n\
         default_user = monitor\ndefault_pass = monitor\ndefault_vhost = monitor\n\
         distribution.listener.interface = 127.0.0.1\n",
        home.file("ca.pem"),
        home.file("cert.pem"),
        home.file("key.pem"),
    );
    let config = home.write("rabbitmq.conf", &config);
    // Debian's wrapper on the path writes to the system's log directory; this one does not.
    let mut command = home.command("/usr/lib/rabbitmq/bin/rabbitmq-server");
    for (key, value) in [
        ("HOME", home.file("")),
        ("RABBITMQ_CONFIG_FILE", config),
        ("RABBITMQ_NODENAME", format!("test{port}@localhost")),
        ("RABBITMQ_MNESIA_BASE", home.file("data")),
        ("RABBITMQ_LOG_BASE", home.file("log")),
        ("RABBITMQ_PID_FILE", home.file("pid")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", home.file("plugins")),
        ("RABBITMQ_DIST_PORT", free_port().to_string()),
        ("ERL_EPMD_PORT", free_port().to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1".to_owned()),
    ] {
        command.env(key, value);
    }
    let server = Server::start(home, &[port, secure], command);
    wait_until(PATIENCE, || {
        let log = server.log();
        if log.contains("startup complete") { Ok(()) } else { Err(log) }
    });
    server
}
