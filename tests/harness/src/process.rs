//! Child processes that never outlive the test, and whose output can be read while they run.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PATIENCE, wait_until};

/// A running program, its output going to one file. Dropping it kills it.
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts `words` (a program and its arguments), output and errors into `directory`.
    #[track_caller]
    pub fn start(directory: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::start_command(directory, command)
    }

    /// Starts `command` with output and errors into `directory`; for those that need environment
    /// or a working directory.
    #[track_caller]
    pub fn start_command(directory: &Path, command: Command) -> Self {
        Self::start_with(directory, &command, Stdio::null())
    }

    /// The same, with a way to write to its standard input.
    #[track_caller]
    pub fn start_listening(directory: &Path, command: &Command) -> (Self, ChildStdin) {
        let mut this = Self::start_with(directory, command, Stdio::piped());
        let input = this.child.stdin.take().expect("piped");
        (this, input)
    }

    #[track_caller]
    fn start_with(directory: &Path, command: &Command, input: Stdio) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let output = directory.join(format!("{name}.output"));
        let file = File::create(&output).expect("output file");
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]);
        bound.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(key, value),
                None => bound.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            bound.current_dir(directory);
        }
        bound.stdin(input);
        bound.stdout(file.try_clone().expect("output file"));
        bound.stderr(file);
        let child = spawn(bound).unwrap_or_else(|err| panic!("cannot start `{name}`: {err}"));
        Self { child, name, output }
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has written so far to standard output and standard error.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Sends `signal`; one that comes too late is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Whether it still runs; if not, how it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait_until(limit, || {
            self.ended().ok_or_else(|| format!("`{}` still runs: {}", self.name, self.output()))
        })
    }

    /// Asks `condition` with what it has written so far until it answers; panics with the output
    /// if the program ends before that.
    #[track_caller]
    pub fn wait_output<T>(&mut self, mut condition: impl FnMut(&str) -> Option<T>) -> T {
        wait_until(PATIENCE * 2, || {
            let ended = self.ended();
            let output = self.output();
            if let Some(value) = condition(&output) {
                return Ok(value);
            }
            if let Some(status) = ended {
                panic!(
                    "`{}` ended with {status} (signal {:?}): {output}",
                    self.name,
                    status.signal()
                );
            }
            Err(format!("`{}` says: {output}", self.name))
        })
    }
}

impl Process {
    /// Kills it, if it still runs.
    pub fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|it| it.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("--- output of `{}`:\n{}", self.name, self.output());
        }
    }
}

/// Spawns `command` from a thread that lives as long as the test's process. The kernel delivers
/// a parent-death signal when the spawning *thread* ends, and a thread of a test ends with it,
/// while a server may be shared by several tests.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = mpsc::channel();
    spawner.lock().expect("spawner").send((command, answer)).expect("spawner lives for ever");
    child.recv().expect("spawner answers every order")
}

/// Runs `words` to its end and returns standard output; panics with its errors if it fails.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|err| panic!("cannot run `{}`: {err}", words[0]));
    assert!(
        output.status.success(),
        "`{}` failed with {}: {}{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where `program` is, looking into the system directories too, which are not on everyone's path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|it| it.join(program)).find(|it| it.is_file())
}
