//! nginx: port 0 is https, port 1 is http.

use super::{Home, Server, free_port};

pub const PROGRAMS: &[&str] = &["nginx"];

#[track_caller]
#[must_use]
pub fn start() -> Server {
    let home = Home::new("nginx", None);
    home.certify();
    let (secure, plain) = (free_port(), free_port());
    let config = format!(
        "daemon off;\nerror_log stderr info;\npid {};\nworker_processes 1;\nevents {{}}\nhttp {{\n  \
         access_log {};\n  server {{\n    listen 127.0.0.1:{secure} ssl;\n    \
         ssl_certificate {};\n    ssl_certificate_key {};\n  }}\n  \
         server {{\n    listen 127.0.0.1:{plain};\n  }}\n}}\n",
        home.file("pid"),
        home.file("access.log"),
        home.file("cert.pem"),
        home.file("key.pem"),
    );
    let config = home.write("nginx.conf", &config);
    let mut command = home.command("nginx");
    command.args(["-c", &config, "-e", "stderr"]);
    Server::start(home, &[secure, plain], command)
}
