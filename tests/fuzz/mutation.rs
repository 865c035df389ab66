//! Well-formed texts, damaged in places.

use proptest::prelude::*;

/// What is put into a text: syntax of YAML, URLs, expressions and HTTP, and what breaks readers.
const TOKENS: &[&str] = &[
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "  ",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "&a",
    "*a",
    "<<: *a",
    "|",
    ">",
    "!!binary ",
    "!!str ",
    "'",
    "\"",
    "\\",
    "~",
    "null",
    "true",
    "yes",
    "0",
    "-1",
    "1e999",
    "99999999999999999999",
    "0x1f",
    ".nan",
    "1d",
    "5ms",
    "100y",
    "%",
    "%00",
    "%zz",
    "\u{feff}",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}",
    "é",
    "\u{10ffff}",
    "(",
    ")",
    "(?i)",
    "(?P<n>",
    "*",
    "+",
    "?",
    "{1000}",
    "{2,1}",
    "[^",
    "[[:alpha:]]",
    "\\Q",
    "\\E",
    "\\b",
    "\\x{10FFFF}",
    "\\pL",
    "^",
    "$",
    "${1}",
    "$1",
    "${",
    "::1",
    "127.0.0.1",
    "10.0.0.0/8",
    ":65535",
    "*.example.com",
    "---",
    "...",
    "? ",
    "%YAML 1.2\n",
    "modules:",
    "monitors:",
    "tcp:",
    "prober: tcp",
    "timeout: 1s",
    "target=",
    "&",
    ";",
    "=",
    "HTTP/1.1",
    "\r\n\r\n",
    "Host: a\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "/../",
    "//",
    "?",
    "/-/healthy",
];

/// What happens to a text at one place.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Insert(&'static str),
    /// Some bytes from here on are gone.
    Delete(u8),
    /// Some bytes from here on are there twice.
    Double(u8),
    /// The text ends here.
    Cut,
    Byte(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => proptest::sample::select(TOKENS).prop_map(Edit::Insert),
        3 => any::<u8>().prop_map(Edit::Delete),
        2 => any::<u8>().prop_map(Edit::Double),
        1 => Just(Edit::Cut),
        2 => any::<u8>().prop_map(Edit::Byte),
    ]
}

/// One of the seeds with a few edits, as bytes that need not be text.
pub(crate) fn damaged(seeds: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<u32>(), edit()), 0..6);
    (proptest::sample::select(seeds), edits).prop_map(|(seed, edits)| {
        let mut bytes = seed.into_bytes();
        for (place, edit) in edits {
            let at = place as usize % (bytes.len() + 1);
            match edit {
                Edit::Insert(token) => drop(bytes.splice(at..at, token.bytes())),
                Edit::Delete(count) => {
                    let end = bytes.len().min(at + usize::from(count));
                    drop(bytes.drain(at..end));
                }
                Edit::Double(count) => {
                    let end = bytes.len().min(at + usize::from(count));
                    let piece = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                Edit::Cut => bytes.truncate(at),
                Edit::Byte(byte) => bytes.insert(at, byte),
            }
        }
        bytes
    })
}
