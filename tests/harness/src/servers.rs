//! Real servers, each with a configuration of its own in a temporary directory, on a free port of
//! the loopback, as its service user. No service of the system is touched; dropping the handle
//! ends the server and all its children.
//!
//! They need root, to become the service users. Where that or a program is missing, a test that
//! asked [`available`] is skipped.

pub mod dovecot;
pub mod mariadb;
pub mod nginx;
pub mod ngircd;
pub mod openssh;
pub mod postfix;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod slapd;
pub mod unbound;
pub mod vsftpd;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, find, run};
use crate::{PATIENCE, netns, skip, wait_until};

/// Whether servers can be started here, and `programs` are installed; if not, `test` is to be
/// skipped (loudly).
#[must_use]
pub fn available(test: &str, programs: &[&str]) -> bool {
    crate::installed(test, programs)
        && (nix::unistd::geteuid().is_root() || skip(test, "needs root to become service users"))
}

/// A running server.
pub struct Server {
    process: Process,
    home: Home,
    ports: Vec<u16>,
    /// Where it writes its log; its output if it has none.
    log: Option<PathBuf>,
    netns: Option<String>,
    host: String,
}

impl Server {
    /// Starts `command` and waits until it accepts connections at all `ports`.
    #[track_caller]
    fn start(home: Home, ports: &[u16], command: Command) -> Self {
        Self::start_within(home, None, "127.0.0.1", ports, command)
    }

    #[track_caller]
    fn start_within(
        home: Home,
        netns: Option<&str>,
        host: &str,
        ports: &[u16],
        command: Command,
    ) -> Self {
        let process = Process::start_command(home.path(), contained(netns, &command));
        let mut this = Self {
            process,
            home,
            ports: ports.to_vec(),
            log: None,
            netns: netns.map(str::to_owned),
            host: host.to_owned(),
        };
        this.wait_ports();
        this
    }

    /// With its log in a file of its directory.
    fn with_log(mut self, name: &str) -> Self {
        self.log = Some(self.home.path().join(name));
        self
    }

    #[track_caller]
    fn wait_ports(&mut self) {
        let addresses: Vec<SocketAddr> = (0..self.ports.len())
            .map(|it| self.target_of(it).parse().expect("an address"))
            .collect();
        let netns = self.netns.clone();
        for address in addresses {
            self.process.wait_output(|_| {
                netns::within(netns.as_deref(), || TcpStream::connect(address)).ok()
            });
        }
    }

    /// The first port, as a probe's target.
    #[must_use]
    pub fn target(&self) -> String {
        self.target_of(0)
    }

    /// The port of this index, as a probe's target.
    #[must_use]
    pub fn target_of(&self, index: usize) -> String {
        format!("{}:{}", self.host, self.ports[index])
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// The authority that signed its certificate, to be trusted by the exporter. Only for those
    /// that speak TLS.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// A file of its directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// All it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        match &self.log {
            Some(file) => String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into(),
            None => self.process.output(),
        }
    }

    /// What it has logged beyond the first `mark` bytes.
    #[must_use]
    pub fn log_since(&self, mark: usize) -> String {
        self.log().split_off(mark)
    }

    /// Waits until the log beyond `mark` has at least `count` lines with `word`, so that what a
    /// server writes after a connection ended is not missed.
    #[track_caller]
    pub fn wait_log(&self, mark: usize, word: &str, count: usize) -> String {
        wait_until(PATIENCE, || {
            let log = self.log_since(mark);
            let found = log.lines().filter(|it| it.contains(word)).count();
            if found >= count {
                Ok(log)
            } else {
                Err(format!("{found} `{word}` of {count}: {log}"))
            }
        })
    }
}

impl Drop for Server {
    /// Waits until nothing listens any more: the children end a moment after their parent.
    fn drop(&mut self) {
        self.process.kill();
        let begun = Instant::now();
        for index in 0..self.ports.len() {
            let address: SocketAddr = self.target_of(index).parse().expect("an address");
            let netns = self.netns.as_deref();
            while begun.elapsed() < PATIENCE
                && netns::within(netns, || TcpStream::connect(address)).is_ok()
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The directory of a server, which its service user can enter and write.
struct Home {
    directory: TempDir,
    user: Option<&'static str>,
}

impl Home {
    fn new(name: &str, user: Option<&'static str>) -> Self {
        let directory = TempDir::with_prefix(format!("{name}-")).expect("temporary directory");
        let this = Self { directory, user };
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(this.path(), open).expect("permissions");
        this.own(this.path());
        this
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of `name`, as text for configuration files.
    fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Writes a file, for the service user.
    fn write(&self, name: &str, text: &str) -> String {
        let file = self.path().join(name);
        std::fs::write(&file, text).expect("file");
        self.own(&file);
        file.display().to_string()
    }

    /// Makes a directory, for the service user.
    fn make(&self, name: &str) -> String {
        let directory = self.path().join(name);
        std::fs::create_dir(&directory).expect("directory");
        self.own(&directory);
        directory.display().to_string()
    }

    fn own(&self, path: &Path) {
        if let Some(user) = self.user {
            run(&["chown", user, &path.display().to_string()]);
        }
    }

    /// A command run as the service user.
    fn command(&self, program: &str) -> Command {
        let program = find(program).unwrap_or_else(|| PathBuf::from(program));
        let Some(user) = self.user else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={user}"));
        command.args(["--regid", run(&["id", "-g", user]).trim()]);
        command.args(["--init-groups", "--"]).arg(program);
        command.current_dir(self.path());
        command
    }

    /// Makes `ca.pem`, and `cert.pem` and `key.pem` for localhost and 127.0.0.1 signed by it.
    fn certify(&self) {
        let script = "set -e; cd \"$1\"; new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $new -keyout ca.key -out ca.pem -days 30 -subj '/CN=Test authority'
            openssl req $new -keyout key.pem -out cert.csr -subj /CN=localhost
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >ext
            openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                -days 20 -extfile ext -out cert.pem";
        run(&["bash", "-c", script, "certify", &self.path().display().to_string()]);
        for file in ["cert.pem", "key.pem"] {
            self.own(&self.path().join(file));
        }
    }
}

/// `command` in a process namespace of its own, which ends as a whole with its first process, so
/// that no daemon stays behind; and in a network namespace, if one is given.
fn contained(netns: Option<&str>, command: &Command) -> Command {
    let mut words: Vec<String> = Vec::new();
    if let Some(netns) = netns {
        words.extend(["ip", "netns", "exec", netns].map(str::to_owned));
    }
    words.extend(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned));
    // The first process stays root: the kernel forgets to kill one that becomes another user.
    words.extend(["bash", "-c", "\"$@\" & wait $!", "server"].map(str::to_owned));
    let mut contained = Command::new(&words[0]);
    contained.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        contained.env(key, value.unwrap_or_default());
    }
    if let Some(directory) = command.get_current_dir() {
        contained.current_dir(directory);
    }
    contained
}

/// A port that is free now. Not one of those that the kernel gives to outgoing connections, so
/// that no probe of another test takes it before the server does.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    loop {
        let offset = base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 20_000 + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
