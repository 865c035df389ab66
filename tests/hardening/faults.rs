//! Faults of the monitor's own machine: whatever breaks here, no target is blamed for it.
//!
//! One fleet of targets that are well all the time, one fault after the other. `COMPARE=1` runs
//! `blackbox_exporter` beside, through the same faults.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::name_server::{Question, Reply};
use harness::process::{Process, find};
use harness::{Exporter, Metrics, NameServer, Netns, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::{EXPORTER, LIMIT, assert_well};

/// Where the targets are.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Where nothing is: a canary that is dead, beside one that is well.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 77);
/// How long each fault lasts: several intervals, timeouts and confirmations.
const LASTS: Duration = Duration::from_secs(4);
const LITERALS: usize = 10;
const NAMES: usize = 5;
const MODULE: &str = "modules: {m: {prober: tcp, timeout: 800ms, tcp: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}}}\n";

/// Two hosts, a cable between them, a name server, targets that are well.
struct Arena {
    near: Netns,
    far: Netns,
    device: String,
    dns: NameServer,
    ports: Vec<u16>,
    exporter: Exporter,
    blackbox: Option<(Process, SocketAddr)>,
    _home: tempfile::TempDir,
}

/// What a series of probes said.
#[derive(Clone, Debug, Default)]
struct Tally {
    good: u32,
    /// The target was blamed.
    blamed: u32,
    why: BTreeSet<String>,
    /// No verdict: an error, or no answer at all.
    none: u32,
}

fn right(_: &Question) -> Reply {
    Reply::address(IpAddr::V4(FAR))
}

fn compares() -> bool {
    std::env::var_os("COMPARE").is_some_and(|it| it == "1")
}

impl Arena {
    fn new() -> Self {
        let (near, far) = (Netns::new("faults"), Netns::new("targets"));
        let device = near.link(&far, &[("10.78.0.1/24", "10.78.0.2/24")]);
        // `ip netns exec` puts the files of this directory in the place of those in /etc.
        let etc = near.etc();
        let conf = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        std::fs::write(etc.join("resolv.conf"), conf).expect("a file");
        let local = SocketAddr::from(([127, 0, 0, 1], 53));
        let dns = near.within(|| NameServer::at(local, right));
        let ports = (0..=LITERALS + NAMES)
            .map(|_| {
                let listener = far.within(|| TcpListener::bind((FAR, 0)).expect("bind"));
                let port = listener.local_addr().expect("bound").port();
                std::thread::spawn(move || for _ in listener.incoming() {});
                port
            })
            .collect::<Vec<_>>();
        let mut config = format!(
            "{MODULE}defaults: {{module: m, interval: 1s, timeout: 800ms, confirm: {{failures: 2, retry_interval: 200ms}}}}\n\
             canaries: [{{target: \"{NOWHERE}:1\", module: m}}, {{target: \"canary.test:{}\", module: m}}]\nmonitors:\n",
            ports[LITERALS + NAMES]
        );
        for (index, target) in targets(&ports).iter().enumerate() {
            let (host, port) = target.split_once(':').expect("a port");
            let _ = writeln!(config, "  - {{name: t{index}, host: {host}, port: {port}}}");
        }
        let exporter =
            Exporter::new(EXPORTER).config(&config).netns(&near).limit("--nofile=4096").start();
        let home = tempfile::tempdir().expect("a directory");
        let blackbox = compares().then(|| blackbox(&near, home.path()));
        Self { near, far, device, dns, ports, exporter, blackbox, _home: home }
    }

    fn metrics(&self) -> Metrics {
        wait_until(LIMIT, || {
            let text = self.ask(self.exporter.address(), "/metrics").ok_or("no answer")?;
            Ok(Metrics::parse(&text.1))
        })
    }

    /// One request, from a port that no fault takes away.
    fn ask(&self, address: SocketAddr, path: &str) -> Option<(u16, String)> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        self.near.within(|| {
            let mut stream = loop {
                let port = 50_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 15_000;
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
                let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                if socket.bind(&own.into()).is_ok() {
                    socket.connect_timeout(&address.into(), Duration::from_secs(2)).ok()?;
                    break TcpStream::from(socket);
                }
            };
            stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok()?;
            let text = String::from_utf8_lossy(&answer).into_owned();
            let status = text.get(9..12)?.parse().ok()?;
            let body = text.split_once("\r\n\r\n")?.1.to_owned();
            // Chunk sizes stand on lines of their own and are no samples.
            let sample = |it: &&str| it.starts_with('#') || it.contains(' ');
            Some((status, body.lines().filter(sample).collect::<Vec<_>>().join("\n")))
        })
    }

    /// Probes every target on demand, all at once, again and again while `lasts` lasts.
    fn probe_on_demand(&self, address: SocketAddr, lasts: Duration) -> Tally {
        let begin = Instant::now();
        let mut tally = Tally::default();
        while begin.elapsed() < lasts {
            let answers: Vec<_> = std::thread::scope(|scope| {
                let running: Vec<_> = targets(&self.ports)
                    .into_iter()
                    .map(|it| {
                        let path = format!("/probe?module=m&target={it}");
                        scope.spawn(move || self.ask(address, &path))
                    })
                    .collect();
                running.into_iter().map(|it| it.join().expect("no panic")).collect()
            });
            for answer in answers {
                match answer {
                    Some((200, text)) if text.contains("\nprobe_success 1") => tally.good += 1,
                    Some((200, text)) if text.contains("\nprobe_success 0") => {
                        tally.blamed += 1;
                        let why = text.lines().find(|it| it.starts_with("probe_failure_info"));
                        why.map(|it| tally.why.insert(it.to_owned()));
                    }
                    _ => tally.none += 1,
                }
            }
            sleep(Duration::from_millis(100));
        }
        tally
    }

    fn ids(&self) -> Vec<u32> {
        let blackbox = self.blackbox.as_ref().map(|(process, _)| process.id());
        [self.exporter.id()].into_iter().chain(blackbox).collect()
    }

    fn all_up(&self) -> Result<(), String> {
        let page = self.metrics();
        let up = page.all("tcp_monitor_up").filter(|it| it.value > 0.5).count();
        if up == LITERALS + NAMES { Ok(()) } else { Err(format!("{up} up")) }
    }

    /// Injects a fault, looks, takes it away, and waits until everything is seen again.
    fn suffer(&self, rows: &mut Vec<String>, what: &str, begin: impl FnOnce(), end: impl FnOnce()) {
        wait_until(LIMIT, || self.all_up());
        let last_changes = |page: &Metrics| -> Vec<(String, String)> {
            page.all("tcp_monitor_last_change_timestamp_seconds")
                .map(|it| (it.labels["monitor"].clone(), it.value.to_string()))
                .collect()
        };
        let count = |page: &Metrics, outcome: &str| -> f64 {
            page.all("tcp_monitor_probes_total")
                .filter(|it| it.labels["outcome"] == outcome)
                .map(|it| it.value)
                .sum()
        };
        let before = self.metrics();
        begin();
        let (ours, theirs) = std::thread::scope(|scope| {
            let theirs = self
                .blackbox
                .as_ref()
                .map(|(_, address)| scope.spawn(move || self.probe_on_demand(*address, LASTS)));
            let ours = self.probe_on_demand(self.exporter.address(), LASTS);
            (ours, theirs.map(|it| it.join().expect("no panic")))
        });
        end();
        let ended = Instant::now();
        let seen = self.metrics();
        // Recovered: every target was seen by its schedule again.
        wait_until(LIMIT, || {
            let page = self.metrics();
            let fresh = page
                .all("tcp_monitor_probes_total")
                .filter(|it| it.labels["outcome"] == "success")
                .filter(|it| {
                    let labels = [("monitor", &*it.labels["monitor"]), ("outcome", "success")];
                    seen.value("tcp_monitor_probes_total", &labels)
                        .is_some_and(|old| it.value > old)
                })
                .count();
            if fresh == LITERALS + NAMES { Ok(()) } else { Err(format!("{fresh} seen again")) }
        });
        let recovered = ended.elapsed();
        let after = self.metrics();
        let changed = last_changes(&before)
            .iter()
            .zip(last_changes(&after))
            .filter(|(a, b)| **a != *b)
            .count();
        let failures = count(&after, "failure") - count(&before, "failure");
        let inconclusive = count(&after, "inconclusive") - count(&before, "inconclusive");
        let mut row = format!(
            "| {what} | {changed} | {failures} | {inconclusive} | {:.1} s | {} of {} |",
            recovered.as_secs_f64(),
            ours.blamed,
            ours.blamed + ours.good + ours.none,
        );
        if let Some(theirs) = theirs {
            let _ = write!(
                row,
                " {} of {} |",
                theirs.blamed,
                theirs.blamed + theirs.good + theirs.none
            );
        }
        eprintln!("{row} {:?}", ours.why);
        assert_eq!(changed, 0, "{what}: a verdict changed: {}", self.exporter.log());
        assert_eq!(ours.blamed, 0, "{what}: on demand a target was blamed: {:?}", ours.why);
        rows.push(row);
    }
}

fn targets(ports: &[u16]) -> Vec<String> {
    let literals = ports[..LITERALS].iter().map(|port| format!("{FAR}:{port}"));
    let names = ports[LITERALS..LITERALS + NAMES].iter().map(|port| format!("n{port}.test:{port}"));
    literals.chain(names).collect()
}

fn blackbox(near: &Netns, home: &std::path::Path) -> (Process, SocketAddr) {
    let program = find("prometheus-blackbox-exporter").expect("installed to compare with");
    let config = home.join("blackbox.yml");
    std::fs::write(&config, MODULE.replace("ip_protocol_fallback: false", "tls: false"))
        .expect("a file");
    let address = SocketAddr::from(([127, 0, 0, 1], 9115));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", near.name()]).arg(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut process = Process::start_command(home, command);
    process.wait_output(|_| near.within(|| TcpStream::connect(address)).ok());
    (process, address)
}

fn limit(id: u32, limit: &str) {
    let _ = Command::new("prlimit").args(["--pid", &id.to_string(), limit]).status();
}

/// A control group for the processor, where version 1 is mounted.
pub(crate) struct Starved(PathBuf);

impl Starved {
    /// A hundredth of a processor.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Self::within(name, 100)
    }

    /// A millisecond of a processor in so many.
    pub(crate) fn within(name: &str, period_ms: u32) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/cpu/{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let this = Self(path);
        std::fs::write(this.0.join("cpu.cfs_period_us"), format!("{period_ms}000")).ok()?;
        std::fs::write(this.0.join("cpu.cfs_quota_us"), "1000").ok()?;
        Some(this)
    }

    pub(crate) fn add(&self, id: u32) {
        let _ = std::fs::write(self.0.join("cgroup.procs"), id.to_string());
    }

    pub(crate) fn release(id: u32) {
        let _ = std::fs::write("/sys/fs/cgroup/cpu/cgroup.procs", id.to_string());
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Descriptors and ports run out.
fn resources(arena: &Arena, rows: &mut Vec<String>) {
    let near = |words: &[&str]| drop(arena.near.run(words));
    arena.suffer(
        rows,
        "no descriptors left",
        || {
            for id in arena.ids() {
                let open = std::fs::read_dir(format!("/proc/{id}/fd")).expect("it lives").count();
                limit(id, &format!("--nofile={}:4096", open + 4));
            }
        },
        || arena.ids().into_iter().for_each(|id| limit(id, "--nofile=4096:4096")),
    );
    arena.suffer(
        rows,
        "no local ports left",
        || {
            near(&["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=0"]);
            near(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40000"]);
        },
        || near(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=30000 48000"]),
    );
}

/// The network of this host breaks.
fn network(arena: &Arena, rows: &mut Vec<String>) {
    let device = arena.device.clone();
    let near = |words: &[&str]| drop(arena.near.run(words));
    let far = |words: &[&str]| drop(arena.far.run(words));
    let back = || {
        near(&["ip", "link", "set", &device, "up"]);
    };
    arena.suffer(rows, "interface down", || near(&["ip", "link", "set", &device, "down"]), back);
    arena.suffer(
        rows,
        "no route",
        || near(&["ip", "route", "del", "10.78.0.0/24", "dev", &device]),
        || near(&["ip", "route", "add", "10.78.0.0/24", "dev", &device]),
    );
    arena.suffer(
        rows,
        "cable cut, a canary is configured",
        || far(&["ip", "link", "set", &device, "down"]),
        || far(&["ip", "link", "set", &device, "up"]),
    );
    arena.suffer(
        rows,
        "own address replaced by another",
        || {
            near(&["ip", "address", "flush", "dev", &device]);
            sleep(Duration::from_secs(1));
            near(&["ip", "address", "add", "10.78.0.9/24", "dev", &device]);
        },
        || (),
    );
    let table = |action: &str| {
        arena.near.nft(&format!(
            "table ip f {{ chain output {{ type filter hook output priority 0; ip daddr {FAR} {action};\n}}; }}"
        ));
    };
    let open = || arena.near.nft("delete table ip f");
    arena.suffer(
        rows,
        "own firewall rejects",
        || table("reject with icmp type admin-prohibited"),
        open,
    );
    arena.suffer(rows, "own firewall drops, a canary is configured", || table("drop"), open);
}

/// The name server breaks, or lies.
fn name_server(arena: &Arena, rows: &mut Vec<String>) {
    let turn = |reply: fn(&Question) -> Reply| arena.dns.turn(reply);
    let well = || arena.dns.turn(right);
    arena.suffer(rows, "name server silent, a canary by name", || turn(|_| Reply::Silence), well);
    arena.suffer(rows, "name server fails, a canary by name", || turn(|_| Reply::Code(2)), well);
    arena.suffer(
        rows,
        "name server denies every name, a canary by name",
        || turn(|_| Reply::Code(3)),
        well,
    );
    arena.suffer(
        rows,
        "name server answers nonsense, a canary by name",
        || turn(|_| Reply::Bytes(vec![0xff; 600])),
        well,
    );
    arena.suffer(
        rows,
        "forged answers with wrong ids, a canary by name",
        || turn(|_| Reply::WrongId(Box::new(Reply::address([10, 78, 0, 66].into())))),
        well,
    );
    arena.suffer(
        rows,
        "name server slow by 300 ms",
        || turn(|question| Reply::Late(Duration::from_millis(300), Box::new(right(question)))),
        well,
    );
}

/// The process does not get to run.
fn process(arena: &Arena, rows: &mut Vec<String>) {
    let all = |signal| {
        for id in arena.ids() {
            let _ = nix::sys::signal::kill(Pid::from_raw(id.cast_signed()), signal);
        }
    };
    arena.suffer(
        rows,
        "process stopped for 3 s",
        || {
            // Requests are under way when it stops.
            let (signal, ids) = (Signal::SIGCONT, arena.ids());
            all(Signal::SIGSTOP);
            std::thread::spawn(move || {
                sleep(Duration::from_secs(3));
                for id in ids {
                    let _ = nix::sys::signal::kill(Pid::from_raw(id.cast_signed()), signal);
                }
            });
        },
        || all(Signal::SIGCONT),
    );
    match Starved::new("hardening") {
        Some(starved) => arena.suffer(
            rows,
            "1 % of a processor",
            || arena.ids().into_iter().for_each(|it| starved.add(it)),
            || arena.ids().into_iter().for_each(Starved::release),
        ),
        None => eprintln!("SKIPPED starvation: no control groups of version 1"),
    }
}

#[test]
fn no_fault_of_ours_changes_a_verdict() {
    if !Netns::available("no_fault_of_ours_changes_a_verdict") {
        return;
    }
    // Side by side, since a fault is mostly waiting. A machine without faults is the control.
    let (here, beyond) = std::thread::scope(|scope| {
        let here = scope.spawn(|| {
            suffered(|arena, rows| {
                arena.suffer(rows, "nothing at all", || (), || ());
                resources(arena, rows);
                network(arena, rows);
            })
        });
        let beyond = scope.spawn(|| {
            suffered(|arena, rows| {
                name_server(arena, rows);
                process(arena, rows);
            })
        });
        (here.join().expect("no verdict changed"), beyond.join().expect("no verdict changed"))
    });
    let head = "| fault | verdicts changed | failures counted | inconclusive | seen again after | `/probe` blamed the target |";
    let theirs = if compares() { " blackbox_exporter blamed it |" } else { "" };
    eprintln!("\n{head}{theirs}\n{}\n{}", here.join("\n"), beyond.join("\n"));
}

#[test]
fn a_target_that_drops_is_blamed_while_a_canary_answers() {
    if !Netns::available("a_target_that_drops_is_blamed_while_a_canary_answers") {
        return;
    }
    let arena = Arena::new();
    wait_until(LIMIT, || arena.all_up());
    let port = arena.ports[0];
    arena.far.nft(&format!(
        "table ip f {{ chain input {{ type filter hook input priority 0; tcp dport {port} drop;\n}}; }}"
    ));
    let path = format!("/probe?module=m&target={FAR}:{port}");
    let (status, page) = arena.ask(arena.exporter.address(), &path).expect("an answer");
    assert_eq!(status, 200, "{page}");
    let page = Metrics::parse(&page);
    assert_eq!(page.label("probe_failure_info", "reason"), Some("timeout"));
    // On schedule too, and a dead canary holds up nothing.
    let page = wait_until(LIMIT, || {
        let page = arena.metrics();
        let failures = [("monitor", "t0"), ("outcome", "failure")];
        let seen = page.value("tcp_monitor_probes_total", &failures);
        if seen > Some(4.0) { Ok(page) } else { Err(format!("{seen:?} failures")) }
    });
    assert_eq!(page.value("tcp_monitor_up", &[("monitor", "t0")]), Some(0.0));
    assert_eq!(page.value("tcp_probe_exporter_runs_skipped_total", &[]), Some(0.0));
    assert_eq!(page.value("tcp_probe_exporter_isolated", &[]), Some(0.0));
}

/// What a fleet of its own went through.
fn suffered(faults: impl FnOnce(&Arena, &mut Vec<String>)) -> Vec<String> {
    let arena = Arena::new();
    let mut rows = Vec::new();
    faults(&arena, &mut rows);
    assert_well(&arena.exporter);
    rows
}
