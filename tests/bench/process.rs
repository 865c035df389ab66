//! A child process and what the kernel says it used.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Clock ticks of `/proc/PID/stat` per second; fixed in the kernel's interface.
const TICKS: f64 = 100.0;

/// A child that dies with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts this very program in another role and waits for its first line.
    pub(crate) fn own(words: &[&str]) -> (Self, String) {
        let program = std::env::current_exe().expect("a benchmark has a path");
        let mut child = Command::new(program)
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the benchmark starts itself");
        let stdout = child.stdout.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a first line");
        (Self(child), line.trim().to_owned())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of a process, in seconds: nanosecond grain from its threads' scheduler statistics.
pub(crate) fn cpu(id: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("the process lives");
    let nanos = |path: String| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0)
    };
    let threads: u64 =
        tasks.flatten().map(|it| nanos(format!("{}/schedstat", it.path().display()))).sum();
    // Threads that are gone are only in the ticks of the whole process.
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process lives");
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or(Vec::new(), |it| it.1.split(' ').collect());
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
    let whole = (ticks(11) + ticks(12)) / TICKS;
    let exact = Duration::from_nanos(threads).as_secs_f64();
    if whole - exact > 0.05 { whole } else { exact }
}

/// A size out of `/proc/PID/status`, in bytes.
pub(crate) fn memory(id: u32, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the process lives");
    let line = status.lines().find(|it| it.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// Forgets the highest resident size so far.
pub(crate) fn reset_peak(id: u32) {
    fs::write(format!("/proc/{id}/clear_refs"), "5").expect("clear_refs can be written");
}
