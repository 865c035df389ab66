//! Whatever a probe found is written so that every reader of the formats understands it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::Metrics;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use proptest::prelude::*;
use prost::Message as _;
use tcp_probe_exporter::exposition::{self, Format};
use tcp_probe_exporter::outcome::{
    DialogueDetails, KernelView, LeafCertificate, Outcome, Phase, ProbeResult, Reason, TlsDetails,
};

use crate::fuzz;

/// Pages for the readers that are programs of their own, which are slow to start.
const SAMPLED: usize = 40;

/// The rules of the formats that can be checked without a parser of others: each family once and
/// together, its TYPE before its samples, no sample twice, the end mark where it belongs.
#[track_caller]
pub(crate) fn assert_readable(text: &str, format: Format) {
    let metrics = Metrics::parse(text);
    let mut seen = std::collections::HashSet::new();
    for it in &metrics.samples {
        assert!(
            seen.insert((it.name.clone(), format!("{:?}", it.labels))),
            "twice: {it:?}\n{text}"
        );
    }
    let mut types: HashMap<&str, usize> = HashMap::new();
    let mut current = "";
    for (number, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, _) = rest.split_once(' ').expect("a type");
            assert!(types.insert(name, number).is_none(), "family twice: {name}\n{text}");
            current = name;
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current), "`{line}` is not of `{current}`\n{text}");
        }
    }
    assert!(text.ends_with('\n'), "{text}");
    assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics, "{text}");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,30}",
        any::<String>(),
        proptest::sample::select(vec![
            "", "\"", "\\", "\n", "\\\"\n", "} 1\nx 2", "\u{0}", "\u{feff}", "é", "# EOF\n", "$${}"
        ])
        .prop_map(str::to_owned),
    ]
}

prop_compose! {
    fn tls()(
        version in proptest::option::of(proptest::sample::select(vec!["TLS 1.2", "TLS 1.3"])),
        earliest_expiry in any::<Option<i64>>(),
        last_chain_expiry in any::<Option<i64>>(),
        leaf in proptest::option::of((text(), text(), text(), text(), any::<(i64, i64)>())),
    ) -> TlsDetails {
        TlsDetails {
            validity: None,
            version, earliest_expiry, last_chain_expiry,
            leaf: leaf.map(|(subject, issuer, subject_alternative, serial_number, (not_before, not_after))| LeafCertificate {
                fingerprint_sha256: "ab".repeat(32), subject, issuer, subject_alternative, serial_number, not_before, not_after,
            }),
        }
    }
}

prop_compose! {
    fn result()(
        reason in proptest::option::of(0..Reason::ALL.len()),
        times in any::<[Option<u32>; 4]>(),
        duration in any::<u32>(),
        kernel in proptest::option::of((any::<Option<u32>>(), any::<u32>())),
        tls in proptest::option::of(tls()),
        labels in proptest::option::of(proptest::collection::btree_map("[a-z][a-z0-9]{0,10}", text(), 0..4)),
        flags in any::<(bool, bool, Option<usize>)>(),
        detail in proptest::option::of(text()),
        peer in any::<Option<std::net::IpAddr>>(),
    ) -> ProbeResult {
        let outcome = reason.map_or(Outcome::Success, |it| Outcome::because(Reason::ALL[it], Phase::Connect));
        let mut result = ProbeResult::new(outcome, Duration::from_secs(5));
        let [resolve, connect, tls_time, dialogue] = times.map(|it| it.map(|it| Duration::from_micros(it.into())));
        result.phases.resolve = resolve;
        result.phases.connect = connect;
        result.phases.tls = tls_time;
        result.phases.dialogue = dialogue;
        result.duration = Duration::from_micros(duration.into());
        result.kernel = kernel.map(|(rtt, syn_retransmits)| KernelView {
            rtt: rtt.map(|it| Duration::from_micros(it.into())), syn_retransmits,
        });
        result.tls = tls.map(Box::new);
        result.peer = peer.map(|it| (it, 1).into());
        result.dialogue = Some(Box::new(DialogueDetails {
            failed_due_to_regex: flags.0, failed_due_to_bytes: flags.1, step: flags.2,
            labels: labels.map(|it| it.into_iter().collect()),
        }));
        result.detail = detail.map(Into::into);
        result
    }
}

#[test]
fn whatever_was_found_is_read_back() {
    let sampled = RefCell::new((Vec::new(), Vec::new()));
    fuzz("exposition", &result(), |result| {
        // Of an inconclusive probe nothing is exposed.
        if result.outcome.is_inconclusive() {
            return Ok(());
        }
        let text = |format| String::from_utf8(exposition::probe(&result, format)).expect("text");
        let (classic, open) = (text(Format::Classic), text(Format::OpenMetrics));
        let protobuf = exposition::probe(&result, Format::Protobuf);
        prop_assert_eq!(&rewritten(&protobuf), &protobuf);
        assert_readable(&classic, Format::Classic);
        assert_readable(&open, Format::OpenMetrics);
        // What was captured comes back as it was.
        let labels = result.dialogue.as_ref().and_then(|it| it.labels.clone());
        for text in [&classic, &open] {
            let metrics = Metrics::parse(text);
            let info = metrics.find("probe_expect_info", &[]);
            if let (Some(labels), Some(info)) = (&labels, info) {
                for (name, value) in labels {
                    prop_assert_eq!(info.labels.get(name), Some(value), "{}", text);
                }
            }
        }
        let mut sampled = sampled.borrow_mut();
        if sampled.0.len() < SAMPLED {
            sampled.0.push(classic);
            sampled.1.push(open);
        }
        Ok(())
    });
    let (classic, open) = sampled.into_inner();
    if harness::installed("whatever_was_found_is_read_back", &["promtool"]) {
        for page in &classic {
            let (status, output) = ask(&["promtool", "check", "metrics"], page);
            // Its advice about names is not about what is readable.
            assert!(status, "{output}\n{page}");
        }
        eprintln!("promtool read {} pages", classic.len());
    }
    let script = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        pages = sys.stdin.buffer.read().decode().split('\\x1e')\n\
        for page in pages:\n    list(parse(page))\n\
        print(len(pages))\n";
    // Debian's Python, whatever else is on the path.
    let python = "/usr/bin/python3";
    let (status, _) = ask(&[python, "-c", "import prometheus_client"], "");
    if status {
        let pages: Vec<_> = open.iter().filter(|it| !it.contains('\u{1e}')).cloned().collect();
        let (status, output) = ask(&[python, "-c", script], &pages.join("\u{1e}"));
        assert!(status, "{output}");
        eprintln!("a strict parser of OpenMetrics read {} pages", output.trim());
    } else {
        let strict = std::env::var_os("CI").is_some_and(|it| it == "true");
        assert!(!strict, "python3-prometheus-client is missing");
        eprintln!("SKIPPED the OpenMetrics parser: no python3-prometheus-client");
    }
}

/// A protobuf page as its own messages write it.
fn rewritten(mut page: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    while !page.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut page).expect("a family");
        family.encode_length_delimited(&mut written).expect("room");
    }
    written
}

fn ask(words: &[&str], input: &str) -> (bool, String) {
    let child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return (false, format!("no {}", words[0])) };
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
