//! Hosts of our own: network namespaces joined by virtual cables, with their own firewalls.
//!
//! They need root. Where that is missing, a test that asked [`Netns::available`] is skipped.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::process::run;
use crate::skip;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up. Dropping it deletes it.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Whether namespaces can be made here; if not, `test` is to be skipped (loudly).
    #[must_use]
    pub fn available(test: &str) -> bool {
        if !crate::installed(test, &["ip", "nft"]) {
            return false;
        }
        let name = unique("try");
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {
                run(&["ip", "netns", "del", &name]);
                true
            }
            Ok(output) => skip(
                test,
                &format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()),
            ),
            Err(err) => skip(test, &format!("no namespaces: {err}")),
        }
    }

    /// A namespace whose name begins with `name` and is used by nobody else.
    #[track_caller]
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name = unique(name);
        run(&["ip", "netns", "add", &name]);
        let this = Self { name };
        this.note();
        this.run(&["ip", "link", "set", "lo", "up"]);
        this
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the name where `tests/run` looks for what was left behind.
    fn note(&self) {
        let Some(list) = std::env::var_os("TESTS_NAMESPACES") else { return };
        let file = File::options().append(true).create(true).open(list);
        let written = file.and_then(|mut file| writeln!(file, "{}", self.name));
        written.expect("the list of namespaces");
    }

    /// A directory whose files programs in here see in the place of those of `/etc`. It goes with
    /// the namespace.
    #[track_caller]
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        let etc = Path::new("/etc/netns").join(&self.name);
        std::fs::create_dir_all(&etc).expect("a directory");
        etc
    }

    /// Lays a cable between two namespaces and returns the device's name at both ends. Each pair
    /// in `addresses` is what the ends get, with prefix: `("10.9.0.1/24", "10.9.0.2/24")`, or
    /// IPv6 alike, which is usable at once because duplicate address detection is off.
    #[track_caller]
    pub fn link(&self, other: &Self, addresses: &[(&str, &str)]) -> String {
        let device = format!("veth{}", COUNT.fetch_add(1, Ordering::Relaxed));
        #[rustfmt::skip]
        run(&[
            "ip", "link", "add", &device, "netns", &self.name,
            "type", "veth", "peer", "name", &device, "netns", &other.name,
        ]);
        for (mine, theirs) in addresses {
            self.address(&device, mine);
            other.address(&device, theirs);
        }
        self.run(&["ip", "link", "set", &device, "up"]);
        other.run(&["ip", "link", "set", &device, "up"]);
        device
    }

    /// Gives `device` a further address, usable at once.
    #[track_caller]
    pub fn address(&self, device: &str, address: &str) {
        let mut words = vec!["ip", "address", "add", address, "dev", device];
        if address.contains(':') {
            words.push("nodad");
        }
        self.run(&words);
    }

    /// Runs a command inside to its end; returns its output, panics if it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.name], words].concat())
    }

    /// Loads firewall rules (in `nft`'s own language) inside.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        self.feed(&["nft", "-f", "-"], rules);
    }

    /// Carries out commands of `ip` inside, one a line, without that word: `link set lo up`.
    #[track_caller]
    pub fn ip(&self, commands: &str) {
        self.feed(&["ip", "-batch", "-"], commands);
    }

    /// Runs a command inside that reads `text`; panics if it fails.
    #[track_caller]
    fn feed(&self, words: &[&str], text: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("a reader");
        let output = child.wait_with_output().expect("a program");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} refused this: {errors}\n{text}");
    }

    /// Runs `body` in a thread inside: the sockets it opens belong to this namespace for ever.
    #[track_caller]
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        within(Some(&self.name), body)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
        let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(&self.name));
    }
}

/// Runs `body` inside the namespace of this name, or right here if there is none.
#[track_caller]
pub fn within<T: Send>(netns: Option<&str>, body: impl FnOnce() -> T + Send) -> T {
    let Some(name) = netns else { return body() };
    let file = File::open(format!("/run/netns/{name}")).expect("namespace");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // Only this thread moves, and it ends with `body`.
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter namespace");
            body()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Words before a program that make it see `etc` as `/etc`; after `ip netns exec`, which gives it
/// a view of the file system of its own.
pub(crate) fn with_etc(etc: &Path) -> [String; 4] {
    let script = "mount --bind \"$0\" /etc && exec \"$@\"";
    ["sh".to_owned(), "-c".to_owned(), script.to_owned(), etc.display().to_string()]
}

fn unique(name: &str) -> String {
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::Listener;

    #[test]
    fn a_host_takes_its_files_along() {
        if !Netns::available("a_host_takes_its_files_along") {
            return;
        }
        let host = Netns::new("files");
        let etc = host.etc();
        std::fs::write(etc.join("hosts"), "127.0.0.9 here.test\n").unwrap();
        assert!(host.run(&["cat", "/etc/hosts"]).contains("here.test"));
        drop(host);
        assert!(!etc.exists());
    }

    #[test]
    fn hosts_reach_each_other_until_a_firewall_says_no() {
        if !Netns::available("hosts_reach_each_other_until_a_firewall_says_no") {
            return;
        }
        let (near, far) = (Netns::new("near"), Netns::new("far"));
        near.link(&far, &[("10.99.0.1/24", "10.99.0.2/24"), ("fd00:99::1/64", "fd00:99::2/64")]);
        for address in ["10.99.0.2:0", "[fd00:99::2]:0"] {
            let peer =
                far.within(|| Listener::serve(address.parse().unwrap(), |it| it.read_to_end()));
            near.within(|| TcpStream::connect(peer.address())).unwrap();

            far.nft(
                "table inet t { chain input { type filter hook input priority 0; \
                 meta l4proto tcp reject with tcp reset; }; }",
            );
            assert!(near.within(|| TcpStream::connect(peer.address())).is_err());

            far.nft("delete table inet t");
        }
    }
}
