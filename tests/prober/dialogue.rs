//! What becomes of the exchange.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use tcp_probe_exporter::module::pattern::Pattern;
use tcp_probe_exporter::module::template::Template;
use tcp_probe_exporter::module::{Expect, Module, Send, Step};
use tcp_probe_exporter::outcome::{Outcome, Phase, ProbeResult, Reason};

use crate::{SILENCE, TIMEOUT, failure, peer, probe, say};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn line(text: &str) -> Step {
    Step { expect: Some(Expect::Line(pattern(text))), ..Step::default() }
}

fn stream(text: &str) -> Step {
    Step { expect: Some(Expect::Stream(pattern(text))), ..Step::default() }
}

fn bytes(bytes: &[u8]) -> Step {
    Step { expect: Some(Expect::Bytes(bytes.to_vec())), ..Step::default() }
}

fn template(text: &str) -> Template {
    Template::new(text.to_owned())
}

fn with_send(step: Step, text: &str) -> Step {
    Step { send: Some(Send::Line(template(text).into())), ..step }
}

fn module(query_response: Vec<Step>) -> Module {
    Module { query_response, ..Module::connect("m") }
}

/// What becomes of these steps if the peer says this and then waits to be left alone.
async fn against(steps: Vec<Step>, says: &'static [u8]) -> ProbeResult {
    let address = peer(move |stream| {
        say(&stream, says);
        let _ = crate::read_all(&stream);
    });
    probe(&address.to_string(), &module(steps), TIMEOUT).await
}

/// The same, with a peer that closes after its words.
async fn against_closing(steps: Vec<Step>, says: &'static [u8]) -> ProbeResult {
    let address = peer(move |stream| {
        say(&stream, says);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = crate::read_all(&stream);
    });
    probe(&address.to_string(), &module(steps), TIMEOUT).await
}

#[track_caller]
fn check(result: &ProbeResult, reason: Reason, regex: bool, bytes: bool) {
    assert_eq!(result.outcome, failure(reason, Phase::Dialogue), "{result:?}");
    let dialogue = result.dialogue.as_ref().unwrap();
    assert_eq!((dialogue.failed_due_to_regex, dialogue.failed_due_to_bytes), (regex, bytes));
    assert_eq!(result.phases.dialogue, None);
}

#[tokio::test]
async fn lines_are_skipped_until_one_matches() {
    let result = against(vec![line("^250 ready$")], b"250-hello\r\n250 ready\r\n").await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.phases.dialogue.is_some());
}

#[tokio::test]
async fn the_last_line_needs_no_line_end() {
    let result = against_closing(vec![line("^bye$")], b"hello\nbye").await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
}

#[tokio::test]
async fn another_answer_is_a_mismatch_and_none_is_closed_early() {
    let result = against_closing(vec![line("^220")], b"HTTP/1.1 400 Bad Request\r\n").await;
    check(&result, Reason::ExpectMismatch, true, false);
    assert!(result.detail.unwrap().contains("HTTP/1.1 400 Bad Request"));
    let result = against_closing(vec![line("^220")], b"").await;
    check(&result, Reason::ClosedEarly, true, false);
}

#[tokio::test]
async fn silence_is_a_timeout_and_not_a_mismatch() {
    let address = peer(|stream| {
        say(&stream, b"100 wait\r\nnot yet");
        let _ = crate::read_all(&stream);
    });
    let result = probe(&address.to_string(), &module(vec![line("^220")]), SILENCE).await;
    check(&result, Reason::ExpectTimeout, false, false);
    assert!(result.detail.unwrap().contains("not yet"));
}

#[tokio::test]
async fn a_line_that_the_module_rejects_ends_the_wait() {
    let step = Step { reject: Some(pattern("^4")), ..line("^220") };
    let result = against(vec![step], b"hello\r\n421 too busy\r\n").await;
    check(&result, Reason::ExpectRejected, true, false);
    assert!(result.detail.unwrap().contains("421 too busy"));
}

#[tokio::test]
async fn captures_are_sent_back_with_a_line_feed() {
    let (done, answer) = mpsc::channel();
    let address = peer(move |mut stream| {
        say(&stream, b"PING :abc123\r\n");
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).unwrap();
        done.send(answer.to_vec()).unwrap();
        say(&stream, b"ok\n");
        let _ = crate::read_all(&stream);
    });
    let steps = vec![with_send(line("^PING :([^ ]+)"), "PONG $1 ${1}"), line("ok")];
    let result = probe(&address.to_string(), &module(steps), TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(answer.recv_timeout(TIMEOUT).unwrap(), b"PONG abc123 a");
}

#[tokio::test]
async fn text_without_an_expect_is_sent_as_it_is() {
    let (done, got) = mpsc::channel();
    let address = peer(move |stream| done.send(crate::read_all(&stream)).unwrap());
    let send = |send| Step { send: Some(send), ..Step::default() };
    let steps = vec![
        send(Send::Line(template("cost $1").into())),
        send(Send::Line(template("").into())),
        send(Send::Bytes(b"\x00\xff$1".to_vec().into())),
    ];
    let result = probe(&address.to_string(), &module(steps), TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(got.recv_timeout(TIMEOUT).unwrap().unwrap(), b"cost $1\n\x00\xff$1");
}

#[tokio::test]
async fn lines_and_bytes_share_what_came() {
    let steps = vec![line("^hello"), bytes(b"\x01\x02"), stream("^.\\d"), line("^rest$")];
    let result = against(steps, b"hello\n\x01\x02x7rest\n").await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
}

#[tokio::test]
async fn bytes_may_come_in_pieces_and_the_first_wrong_one_decides() {
    let address = peer(|mut stream: TcpStream| {
        for byte in b"SSH-2.0" {
            stream.write_all(&[*byte]).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        let _ = crate::read_all(&stream);
    });
    let result = probe(&address.to_string(), &module(vec![bytes(b"SSH-2.0")]), TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    let result = against(vec![bytes(b"SSH-2.0-and-more")], b"SSX").await;
    check(&result, Reason::ExpectMismatch, false, true);
    let result = against_closing(vec![bytes(b"SSH-2.0")], b"SSH").await;
    check(&result, Reason::ClosedEarly, false, false);
}

#[tokio::test]
async fn a_stream_is_searched_whatever_the_lines() {
    let result = against(vec![stream("(?s)^..\\n.\\x00b"), line("^rest$")], b"a\n\nc\x00brest\n");
    let result = result.await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    let step = Step { reject: Some(pattern("(?s)^\\x00E")), ..stream("^\\x01") };
    let result = against(vec![step], b"\x00ERROR").await;
    check(&result, Reason::ExpectRejected, true, false);
    let result = against_closing(vec![stream("^\\x01")], b"other").await;
    check(&result, Reason::ExpectMismatch, true, false);
}

#[tokio::test]
async fn labels_of_all_steps_come_together_as_valid_text() {
    let labelled = |step, labels: &[(&str, &str)]| Step {
        labels: Some(labels.iter().map(|(it, text)| ((*it).to_owned(), template(text))).collect()),
        ..step
    };
    let steps = vec![
        labelled(line("^SSH-([0-9.]+)-(.*)"), &[("protocol", "v$1"), ("software", "$2")]),
        labelled(line("^(.)"), &[("first", "$1"), ("software", "again")]),
        line("never"),
    ];
    let result = against_closing(steps, b"SSH-2.0-open\xff\n\xfe\n").await;
    assert_eq!(result.outcome, failure(Reason::ClosedEarly, Phase::Dialogue), "{result:?}");
    let dialogue = result.dialogue.unwrap();
    assert_eq!(dialogue.step, Some(2));
    let labels = dialogue.labels.unwrap();
    let labels: Vec<_> = labels.iter().map(|(it, value)| (it.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("protocol", "v2.0"), ("software", "again"), ("first", "\u{fffd}")]);
}

#[tokio::test]
async fn a_line_without_end_is_a_mismatch_that_needs_bounded_memory() {
    let address = peer(|mut stream| while stream.write_all(&[b'a'; 16_384]).is_ok() {});
    let result = probe(&address.to_string(), &module(vec![line("b")]), TIMEOUT).await;
    check(&result, Reason::ExpectMismatch, false, false);
}

#[tokio::test]
async fn lines_without_end_are_a_mismatch() {
    let address = peer(|mut stream| while stream.write_all(&b"a line\n".repeat(10_000)).is_ok() {});
    let result = probe(&address.to_string(), &module(vec![line("b")]), TIMEOUT).await;
    assert_eq!(result.outcome, failure(Reason::ExpectMismatch, Phase::Dialogue));
}

#[tokio::test]
async fn a_peer_that_resets_is_told_from_one_that_closes() {
    let address = peer(|stream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let result = probe(&address.to_string(), &module(vec![line("220")]), TIMEOUT).await;
    // The reset may even come before the connect was seen to succeed.
    let reason = result.outcome.cause().map(|(reason, _)| reason);
    assert_eq!(reason, Some(Reason::Reset), "{result:?}");
}

#[tokio::test]
async fn hold_finds_a_port_that_accepts_and_then_closes() {
    let holding = |hold| Module { hold: Some(hold), ..Module::connect("m") };
    let address = peer(drop);
    let result = probe(&address.to_string(), &holding(TIMEOUT), TIMEOUT).await;
    assert_eq!(result.outcome, failure(Reason::ClosedEarly, Phase::Dialogue), "{result:?}");

    let address = peer(|mut stream| while stream.write_all(&[b'a'; 16_384]).is_ok() {});
    let result = probe(&address.to_string(), &holding(TIMEOUT), TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");

    let address = peer(|stream| {
        say(&stream, b"a banner is no matter");
        let _ = crate::read_all(&stream);
    });
    let hold = Duration::from_millis(100);
    let result = probe(&address.to_string(), &holding(hold), TIMEOUT).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.phases.dialogue.unwrap() >= hold);
}

#[tokio::test]
async fn a_peer_that_drips_is_left_at_the_deadline() {
    for (step, drop) in
        [(line("^220"), b"2\0".as_slice()), (stream("^220"), b"2\0"), (bytes(&[b'2'; 8000]), b"2")]
    {
        let address = peer(move |mut stream: TcpStream| {
            while stream.write_all(drop).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let result = probe(&address.to_string(), &module(vec![step]), SILENCE).await;
        check(&result, Reason::ExpectTimeout, false, false);
        assert!(result.duration < TIMEOUT);
    }
}

/// Numbers that look random and are the same in every run (a linear congruential generator).
fn garbage(seed: u64) -> impl Iterator<Item = u8> {
    std::iter::successors(Some(seed), |it| {
        Some(it.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    })
    .map(|it| it.to_be_bytes()[0])
}

#[tokio::test]
async fn garbage_has_an_outcome() {
    let labelled = Step {
        labels: Some(vec![("all".to_owned(), template("$0$1${x}"))]),
        reject: Some(pattern("\\x00{3}")),
        ..with_send(line("(?P<x>.)[^a]"), "$0")
    };
    let steps = vec![labelled, stream("(?s)\\xff.*\\x00"), bytes(b"x"), line("^$")];
    for seed in 0..100 {
        let address = peer(move |stream| {
            let length = usize::try_from(seed).unwrap() * 50;
            // Some line ends more than chance would give.
            let words: Vec<u8> =
                garbage(seed).map(|it| if it < 8 { b'\n' } else { it }).take(length).collect();
            say(&stream, &words);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = crate::read_all(&stream);
        });
        let result = probe(&address.to_string(), &module(steps.clone()), TIMEOUT).await;
        assert!(!result.outcome.is_inconclusive(), "{seed}: {result:?}");
        assert!(result.duration < TIMEOUT, "{seed}: {result:?}");
        let detail = result.detail.unwrap_or_default();
        assert!(detail.len() < 1000 && !detail.contains(char::is_control), "{detail}");
    }
}

/// Processor time of this thread, which carries out the probe.
fn processor_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).unwrap().into()
}

#[tokio::test]
async fn a_peer_that_always_has_something_to_say_gets_no_more_time() {
    let address = peer(|mut stream| while stream.write_all(&b"x\n".repeat(2048)).is_ok() {});
    let begin = std::time::Instant::now();
    let timeout = Duration::from_millis(300);
    let result = probe(&address.to_string(), &module(vec![line("^never$")]), timeout).await;
    let took = begin.elapsed();
    assert!(took < timeout * 4, "{took:?}: {result:?}");
    let (reason, phase) = result.outcome.cause().unwrap();
    assert_eq!(phase, Phase::Dialogue);
    // A quick machine reads all that a probe may read before the time is over.
    assert!(matches!(reason, Reason::ExpectTimeout | Reason::ExpectMismatch), "{result:?}");
}

#[tokio::test]
async fn small_pieces_without_end_cost_little_processor_time() {
    const PIECES: usize = 60_000;
    let address = peer(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        for _ in 0..PIECES {
            if stream.write_all(b"x").is_err() {
                return;
            }
            // Lets it be read before the next one comes.
            std::thread::sleep(Duration::from_micros(20));
        }
        say(&stream, b"end");
        let _ = crate::read_all(&stream);
    });
    let before = processor_time();
    let result = probe(&address.to_string(), &module(vec![stream("x+end")]), TIMEOUT * 3).await;
    let spent = processor_time().saturating_sub(before);
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    println!("{spent:?} of {:?}", result.duration);
    assert!(spent < result.duration / 2, "{spent:?} of {:?}", result.duration);
}
