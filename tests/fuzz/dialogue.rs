//! Any dialogue with any peer, over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::Address;
use tcp_probe_exporter::config::{Config, ModuleEntry};
use tcp_probe_exporter::exposition::{self, Format};
use tcp_probe_exporter::module::Module;
use tcp_probe_exporter::prober::journal::{Journal, Level};
use tcp_probe_exporter::prober::{Probe, Prober};

use crate::exposition::assert_readable;
use crate::fuzz;

/// Dialogues that are tried.
const MODULES: usize = 100;
/// How long they may take to load, on a machine that is busy with everything else.
const LOADING: Duration = Duration::from_secs(10);

/// Steps as a file has them.
fn step() -> impl Strategy<Value = String> {
    let steps = [
        "{expect: '^220 (.*)$', send: 'EHLO ${1}'}",
        "{expect: '.'}",
        "{expect: '(?P<n>\\d+)', labels: [{name: a, value: '${n}$0'}]}",
        "{send: HELO}",
        "{send: ''}",
        "{expect_bytes: 'ok'}",
        "{expect_bytes: {hex: '00ff'}}",
        "{send_bytes: {hex: '00ff80'}}",
        "{expect: '^$'}",
        "{expect: '\\x00'}",
        "{expect: never}",
        "{expect: '.', reject: 'no'}",
        "{expect: '(.*)(.*)(.*)', send: '${3}${2}${1}$9'}",
        "{starttls: true}",
    ];
    proptest::sample::select(steps.to_vec()).prop_map(str::to_owned)
}

/// What a peer says, piece by piece.
fn speech() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let line = proptest::sample::select(vec![
        &b"220 hi\r\n"[..],
        b"ok",
        b"no\n",
        b"\n",
        b"\r",
        b"\0\xff",
        b"250-a\r\n250 b\r\n",
        b"42\n",
        b"\xff\xfe\n",
        b"\x16\x03\x03\x00\x02\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ]);
    let piece = prop_oneof![
        line.prop_map(<[u8]>::to_vec),
        proptest::collection::vec(any::<u8>(), 0..64),
        (any::<u8>(), 0..20_000_usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    proptest::collection::vec(piece, 0..6)
}

/// Modules with random steps, loaded once, since that takes longer than a probe.
/// Those that contradict themselves are refused.
fn modules() -> Vec<Arc<Module>> {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("c.yml");
    let strategy = (proptest::collection::vec(step(), 0..5), any::<(bool, bool, bool)>());
    let mut runner = TestRunner::default();
    let mut modules = Vec::new();
    let begin = Instant::now();
    while modules.len() < MODULES && (modules.len() < 10 || begin.elapsed() < LOADING) {
        let (steps, (tls, hold, reset)) = strategy.new_tree(&mut runner).expect("steps").current();
        let steps = steps.join(", ");
        let hold = if hold { "hold: 5ms, " } else { "" };
        let close = if reset { "close: reset, " } else { "" };
        let text = format!(
            "modules: {{m: {{prober: tcp, timeout: 60ms, tcp: {{tls: {tls}, {hold}{close}tls_config: {{insecure_skip_verify: true}}, query_response: [{steps}]}}}}}}\n"
        );
        std::fs::write(&file, text).expect("a file");
        let Ok(loaded) = Config::load(Some(&file)) else { continue };
        if let Some(ModuleEntry::Tcp(module)) = loaded.config.modules.get("m") {
            modules.push(Arc::clone(module));
        }
    }
    modules
}

#[test]
fn any_dialogue_with_any_peer_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = Address::parse(&listener.local_addr().expect("bound").to_string()).expect("one");
    let next: &'static Mutex<(Vec<Vec<u8>>, u8)> = Box::leak(Box::default());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (speech, end) = next.lock().expect("a speech").clone();
            std::thread::spawn(move || speak(stream, &speech, end));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let prober = Prober::default();
    let access = Access::default();
    let strategy = (proptest::sample::select(modules()), speech(), 0..4_u8);
    fuzz("dialogue", &strategy, |(module, speech, end)| {
        *next.lock().expect("a speech") = (speech, end);
        let timeout = Duration::from_millis(60);
        let probe =
            Probe { address: &address, module: &module, hostname: None, timeout, access: &access };
        let mut journal = Journal::bounded(Level::Debug, 16 * 1024);
        let begin = Instant::now();
        let result = runtime.block_on(prober.probe(probe, &mut journal));
        prop_assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        prop_assert!(
            result.detail.as_ref().is_none_or(|it| !it.contains(char::is_control)),
            "{:?}",
            result
        );
        let noted: usize = journal.lines().iter().map(|it| it.message.len()).sum();
        prop_assert!(noted <= 17 * 1024, "{}", noted);
        for format in [Format::Classic, Format::OpenMetrics] {
            let page = String::from_utf8(exposition::probe(&result, format)).expect("text");
            assert_readable(&page, format);
        }
        Ok(())
    });
}

fn speak(mut stream: TcpStream, speech: &[Vec<u8>], end: u8) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    for piece in speech {
        if stream.write_all(piece).is_err() {
            return;
        }
        if end == 3 {
            let _ = stream.read(&mut [0; 256]);
        }
    }
    match end {
        0 => (),
        1 => {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        _ => {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}
