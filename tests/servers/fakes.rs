//! Presets whose servers Debian does not package, against peers that check every byte and answer
//! as recorded in the protocols' documents.

use harness::Listener;
use harness::listener::Visitor;

use crate::{assert_failure, assert_success, exporter};

/// `OP_MSG` with `{isMaster: 1, $db: "admin"}`, put together by the rules of BSON.
fn is_master() -> Vec<u8> {
    let mut document = Vec::new();
    document.extend(b"\x10isMaster\0");
    document.extend(1_i32.to_le_bytes());
    document.extend(b"\x02$db\0");
    document.extend(6_i32.to_le_bytes());
    document.extend(b"admin\0");
    message(1, 0, &bson(&document))
}

fn bson(fields: &[u8]) -> Vec<u8> {
    let length = i32::try_from(fields.len() + 5).expect("short");
    [&length.to_le_bytes(), fields, b"\0"].concat()
}

fn message(id: i32, response_to: i32, document: &[u8]) -> Vec<u8> {
    let length = i32::try_from(16 + 4 + 1 + document.len()).expect("short");
    let mut bytes = Vec::new();
    for number in [length, id, response_to, 2013, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.push(0);
    bytes.extend(document);
    bytes
}

#[test]
fn mongodb_is_asked_in_its_own_words() {
    let exporter = exporter(None);
    let peer = Listener::serve(([127, 0, 0, 1], 0).into(), |visitor: &mut Visitor| {
        let question = is_master();
        if visitor.read_until(question.len()) && visitor.received() == question {
            let mut answer = b"\x08ismaster\0\x01".to_vec();
            answer.extend(b"\x10maxWireVersion\0\x15\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f");
            visitor.write(&message(77, 1, &bson(&answer)));
        }
        visitor.read_to_end();
    });

    assert_success(&exporter, &peer.target(), "mongodb");

    assert_eq!(peer.visits()[0].bytes, is_master());
    // Before version 3.6 the server does not know the message and hangs up.
    let old = Listener::serve(([127, 0, 0, 1], 0).into(), |visitor: &mut Visitor| {
        visitor.read();
    });
    let metrics = exporter.probe(&old.target(), "mongodb");
    assert_failure(&metrics, "mongodb", &["dialogue"], &["closed_early", "expect_mismatch"]);
}

/// PRELOGIN as MS-TDS 2.2.6.5 has it: a header, the list of options, their values.
fn prelogin(kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    let mut values = Vec::new();
    for (token, value) in options {
        let offset = u16::try_from(options.len() * 5 + 1 + values.len()).expect("short");
        list.push(*token);
        list.extend(offset.to_be_bytes());
        list.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        values.extend(*value);
    }
    let length = u16::try_from(8 + list.len() + 1 + values.len()).expect("short");
    let [high, low] = length.to_be_bytes();
    [&[kind, 1, high, low, 0, 0, 1, 0], &list[..], &[0xff], &values[..]].concat()
}

#[test]
fn mssql_is_asked_in_its_own_words() {
    let exporter = exporter(None);
    let question = prelogin(0x12, &[(0, &[0; 6]), (1, &[0])]);
    let wanted = question.clone();
    let peer = Listener::serve(([127, 0, 0, 1], 0).into(), move |visitor: &mut Visitor| {
        if visitor.read_until(wanted.len()) && visitor.received() == wanted {
            visitor.write(&prelogin(0x04, &[(0, &[16, 0, 16, 139, 0, 0]), (1, &[1])]));
        }
        visitor.read_to_end();
    });

    assert_success(&exporter, &peer.target(), "mssql");

    assert_eq!(peer.visits()[0].bytes, question);
}
