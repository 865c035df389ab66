//! Faults that need an exporter of their own: its clock, its log, its memory, its files.

use std::fmt::Write as _;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::process::Process;
use harness::{Exporter, Listener, Metrics, http, wait_until};

use crate::{EXPORTER, LIMIT, MIB, assert_well, memory};

const TARGETS: usize = 5;

fn config(listeners: &[Listener]) -> String {
    let mut text = "defaults: {interval: 500ms, timeout: 400ms, confirm: {failures: 2, retry_interval: 100ms}}\nmonitors:\n".to_owned();
    for (index, it) in listeners.iter().enumerate() {
        let _ = writeln!(text, "  - {{name: t{index}, host: 127.0.0.1, port: {}}}", it.port());
    }
    text
}

fn listeners() -> Vec<Listener> {
    (0..TARGETS).map(|_| Listener::silent()).collect()
}

fn page(address: SocketAddr) -> Metrics {
    let response = http::request(address, "GET", "/metrics", &[], b"").expect("an answer");
    Metrics::parse(&response.text())
}

fn sum(page: &Metrics, outcome: &str) -> f64 {
    let all = page.all("tcp_monitor_probes_total").filter(|it| it.labels["outcome"] == outcome);
    all.map(|it| it.value).sum()
}

/// Waits until every target is up and was probed `more` times more than now; returns how long
/// that took and asserts that nobody was ever blamed.
#[track_caller]
fn wait_probes(address: SocketAddr, what: &str, more: f64) -> Duration {
    let begin = Instant::now();
    let before = sum(&page(address), "success");
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let wanted = before + more * TARGETS as f64;
    let page = wait_until(LIMIT, || {
        let page = page(address);
        let up = page.all("tcp_monitor_up").filter(|it| it.value > 0.5).count();
        let seen = sum(&page, "success");
        if up == TARGETS && seen >= wanted {
            Ok(page)
        } else {
            Err(format!("{up} up, {seen} of {wanted} probes"))
        }
    });
    let failures = sum(&page, "failure");
    assert!(failures < 0.5, "{what}: {failures} failures");
    begin.elapsed()
}

/// An exporter started by `words` in front of it, on a port of our choice.
fn started(directory: &Path, words: &[&str], config: &str) -> (Process, SocketAddr) {
    let file = directory.join("config.yml");
    std::fs::write(&file, config).expect("a file");
    let address = harness::ClosedPort::new().address();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(EXPORTER);
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--web.listen-address={address}")).arg("--log.prober=debug");
    let process = Process::start_command(directory, command);
    wait_until(LIMIT, || TcpStream::connect(address).map_err(|err| err.to_string()));
    (process, address)
}

#[test]
fn a_clock_that_jumps_disturbs_nobody() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    let library = [library, "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"]
        .into_iter()
        .find(|it| Path::new(it).exists());
    let Some(library) = library else {
        assert!(std::env::var_os("CI").is_none_or(|it| it != "true"), "libfaketime is missing");
        eprintln!("SKIPPED a_clock_that_jumps_disturbs_nobody: no libfaketime");
        return;
    };
    let listeners = listeners();
    let home = tempfile::tempdir().expect("a directory");
    let clock = home.path().join("clock");
    std::fs::write(&clock, "+0").expect("a file");
    let exporter = Exporter::new(EXPORTER)
        .config(&config(&listeners))
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        // Only the wall clock jumps, as it does in nature.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start();
    wait_probes(exporter.address(), "before", 2.0);
    let last = || {
        let page = page(exporter.address());
        page.value("tcp_monitor_last_probe_timestamp_seconds", &[]).expect("probed")
    };
    for jump in ["+1d", "+0", "-1d", "-30d", "+3650d", "+0"] {
        let before = last();
        std::fs::write(&clock, jump).expect("a file");
        let took = wait_probes(exporter.address(), jump, 3.0);
        let after = last();
        eprintln!(
            "clock set to {jump}: shown time moved by {:.0} s, three more probes of each after {took:?}",
            after - before
        );
        assert!(took < Duration::from_secs(20), "{jump}: {took:?}");
        for path in ["/", "/api/v1/targets", "/logs"] {
            assert!(exporter.get(path).status < 500, "{path}");
        }
    }
    assert_well(&exporter);
}

#[test]
fn a_log_that_cannot_be_written_is_lost_and_nothing_else() {
    let listeners = listeners();
    let home = tempfile::tempdir().expect("a directory");
    // A full disk; a reader that is gone; a reader that does not read.
    for (what, script) in [
        ("disk full", "exec \"$@\" 2>/dev/full"),
        ("log closed", "exec \"$@\" 2>&-"),
        (
            "reader gone",
            "mkfifo gone; cat gone >/dev/null & exec 3>gone; kill $!; exec \"$@\" 2>&3 3>&-",
        ),
        (
            "reader asleep",
            "mkfifo asleep; setpriv --pdeathsig KILL sleep 1000 <asleep & exec \"$@\" 2>asleep",
        ),
    ] {
        let script = format!("cd '{}'; {script}", home.path().display());
        let words = ["bash", "-c", &script, "log"];
        let (mut process, address) = started(home.path(), &words, &config(&listeners));
        wait_probes(address, what, 2.0);
        // Many lines: a pipe holds 64 KiB.
        let target = listeners[0].target();
        let begin = Instant::now();
        for _ in 0..1000 {
            let path = format!("/probe?target={target}");
            let response = http::request(address, "GET", &path, &[], b"").expect("an answer");
            assert_eq!(response.status, 200, "{what}");
        }
        let took = wait_probes(address, what, 2.0);
        eprintln!(
            "{what}: 1,000 probes on demand in {:?}, schedule goes on after {took:?}",
            begin.elapsed()
        );
        process.signal(nix::sys::signal::Signal::SIGTERM);
        let status = process.wait(LIMIT);
        assert!(status.success(), "{what}: {status}");
    }
}

/// A control group for memory, where version 1 is mounted.
struct Confined(PathBuf);

impl Confined {
    fn new(limit: u64) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/hardening-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let this = Self(path);
        std::fs::write(this.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(this)
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        wait_until(LIMIT, || std::fs::remove_dir(&self.0).map_err(|err| err.to_string()));
    }
}

#[test]
fn little_memory_is_enough_whatever_is_asked() {
    let Some(confined) = Confined::new(96 * MIB) else {
        eprintln!("SKIPPED little_memory_is_enough_whatever_is_asked: no control group");
        return;
    };
    let listeners = listeners();
    let endless = Listener::serve(SocketAddr::from(([127, 0, 0, 1], 0)), |visitor| {
        while visitor.stream.write_all(&[b'x'; 16000]).is_ok() {}
    });
    let modules = "modules: {never: {prober: tcp, timeout: 1s, tcp: {query_response: [{expect: '^never$'}]}}}\n";
    let exporter = Exporter::new(EXPORTER)
        .config(&format!("{modules}{}", config(&listeners)))
        .flag("--history.limit=1000")
        .start();
    std::fs::write(confined.0.join("cgroup.procs"), exporter.id().to_string()).expect("a group");
    let address = exporter.address();
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let (exporter, endless) = (&exporter, &endless);
            scope.spawn(move || {
                for round in 0..20 {
                    let path = match (thread + round) % 4 {
                        0 => "/metrics".to_owned(),
                        1 => "/".to_owned(),
                        2 => "/logs".to_owned(),
                        _ => format!("/probe?module=never&debug=true&target={}", endless.target()),
                    };
                    let status = exporter.get(&path).status;
                    assert!(status < 500 || status == 503, "{path}: {status}");
                }
            });
        }
    });
    wait_probes(address, "96 MiB", 2.0);
    let failed = std::fs::read_to_string(confined.0.join("memory.max_usage_in_bytes"));
    eprintln!(
        "within 96 MiB: most in use {} KiB, resident now {} KiB",
        failed.unwrap_or_default().trim().parse().unwrap_or(0) / 1024,
        memory(&exporter) / 1024
    );
    assert_well(&exporter);
    drop(exporter);
}

#[test]
fn a_watched_file_may_become_anything() {
    let listeners = listeners();
    let good = config(&listeners);
    let exporter = Exporter::new(EXPORTER)
        .config(&good)
        .flags(&["--config.enable-auto-reload", "--config.auto-reload-interval=1s"])
        .start();
    let address = exporter.address();
    let file = exporter.directory().join("config.yml");
    wait_probes(address, "before", 1.0);
    let successful = || {
        page(address)
            .value("tcp_probe_exporter_config_last_reload_successful", &[])
            .expect("a value")
            > 0.5
    };
    let aside = exporter.directory().join("aside");
    let write = |text: &[u8]| std::fs::write(&file, text).expect("a file");
    let (half, binary) = (&good.as_bytes()[..good.len() / 2 + 7], (0..=255).collect::<Vec<u8>>());
    let deep = "[".repeat(100_000);
    let cases: [(&str, &dyn Fn()); 10] = [
        ("truncated to nothing", &|| write(b"")),
        ("cut in the middle", &|| write(half)),
        ("binary", &|| write(&binary)),
        ("nested without end", &|| write(deep.as_bytes())),
        ("deleted", &|| std::fs::remove_file(&file).expect("a file")),
        ("a directory", &|| {
            std::fs::remove_file(&file).expect("a file");
            std::fs::create_dir(&file).expect("a directory");
        }),
        ("a link to itself", &|| {
            std::fs::remove_file(&file).expect("a file");
            std::os::unix::fs::symlink(&file, &file).expect("a link");
        }),
        ("a pipe that nobody writes", &|| {
            std::fs::remove_file(&file).expect("a file");
            harness::process::run(&["mkfifo", &file.display().to_string()]);
        }),
        ("an endless device", &|| {
            std::fs::remove_file(&file).expect("a file");
            std::os::unix::fs::symlink("/dev/zero", &file).expect("a link");
        }),
        ("a file of 1 GiB of nothing", &|| {
            let file = std::fs::File::create(&file).expect("a file");
            file.set_len(1 << 30).expect("a size");
        }),
    ];
    for (what, spoil) in cases {
        let before = memory(&exporter);
        spoil();
        let begin = Instant::now();
        wait_until(LIMIT, || if successful() { Err("not noticed".to_owned()) } else { Ok(()) });
        let noticed = begin.elapsed();
        wait_probes(address, what, 2.0);
        let growth = memory(&exporter).saturating_sub(before);
        assert!(growth < 64 * MIB, "{what}: {growth}");
        // Put back as a careful tool does.
        std::fs::write(&aside, &good).expect("a file");
        if file.is_dir() {
            std::fs::remove_dir(&file).expect("a directory");
        }
        std::fs::rename(&aside, &file).expect("a file");
        let begin = Instant::now();
        wait_until(LIMIT, || if successful() { Ok(()) } else { Err(exporter.log()) });
        eprintln!(
            "configuration {what}: noticed after {noticed:?}, good again after {:?}",
            begin.elapsed()
        );
        wait_probes(address, what, 1.0);
    }
    assert!(file.metadata().is_ok_and(|it| it.permissions().mode() > 0));
    // Rewritten all the time, half of it broken: what is good is taken, nothing is lost.
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(5) {
        write(half);
        sleep(Duration::from_millis(3));
        write(good.as_bytes());
        sleep(Duration::from_millis(3));
        rounds += 1;
    }
    wait_until(LIMIT, || if successful() { Ok(()) } else { Err(exporter.log()) });
    wait_probes(address, "rewritten", 2.0);
    eprintln!("configuration rewritten {rounds} times in 5 s: fine");
    assert_well(&exporter);
}
