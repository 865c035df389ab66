//! A regular expression with the syntax and meaning of RE2, matched against bytes.
//!
//! Users bring expressions written for Go. They are translated, since the engine here differs in
//! small ways that would go unnoticed: `\d`, `\s`, `\w` and `\b` are ASCII, a brace that is no
//! repetition is itself, a class has no set operations, and a byte that is no UTF-8 counts as one
//! character for `.` and negated classes.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use regex::bytes::Regex;

/// Most repetitions of `x{n}`, as in RE2.
const MAX_REPEAT: u32 = 1000;
/// Names of `[:name:]`.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// A compiled expression and the text it came from.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    /// For text: every character is one of UTF-8.
    text: Regex,
    /// For bytes: what is no UTF-8 counts byte by byte, and `\xNN` is also that byte.
    bytes: Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(source: &str) -> Result<Self, String> {
        let compile = |raw| {
            let translated = Translation::of(source, raw)?;
            Regex::new(&translated).map_err(|err| match err {
                // The engine's message is a drawing; its last line says what is wrong.
                regex::Error::Syntax(text) => {
                    let last = text.lines().last().unwrap_or_default();
                    last.strip_prefix("error: ").unwrap_or(last).to_owned()
                }
                _ => "the expression is too large".to_owned(),
            })
        };
        Ok(Self { source: source.to_owned(), text: compile(false)?, bytes: compile(true)? })
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The compiled expression for a line.
    #[must_use]
    pub fn for_line(&self, line: &[u8]) -> &Regex {
        if std::str::from_utf8(line).is_ok() { &self.text } else { &self.bytes }
    }

    /// The compiled expression for bytes that are no text, where `\xNN` is that very byte.
    #[must_use]
    pub const fn for_bytes(&self) -> &Regex {
        &self.bytes
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// An expression on its way from one syntax to the other.
struct Translation<'a> {
    rest: Peekable<Chars<'a>>,
    /// Whether bytes that are no UTF-8 shall match.
    raw: bool,
    translated: String,
}

/// A character of a class, and whether it was written as a number.
#[derive(Clone, Copy)]
struct Member {
    character: char,
    by_number: bool,
}

/// What an escape stands for.
enum Escape {
    Member(Member),
    /// `\d` and its like: the inside of a class, and whether it is negated.
    Class(&'static str, bool),
    /// `\p{..}`, with its negation taken off.
    Property(String, bool),
    /// What has the same form and meaning in both syntaxes, or the given one.
    Assertion(&'static str),
    /// `\Q..\E`.
    Quoted(String),
}

impl<'a> Translation<'a> {
    fn of(source: &'a str, raw: bool) -> Result<String, String> {
        let rest = source.chars().peekable();
        let mut translation =
            Self { rest, raw, translated: String::with_capacity(source.len() * 2) };
        translation.run()?;
        Ok(translation.translated)
    }

    fn run(&mut self) -> Result<(), String> {
        // What a repetition would apply to; empty where there is nothing.
        let mut has_operand = false;
        let mut is_repeated = false;
        while let Some(character) = self.rest.next() {
            let repetition = match character {
                '*' | '+' | '?' => Some(character.to_string()),
                '{' => self.braces()?,
                _ => None,
            };
            if let Some(repetition) = repetition {
                if is_repeated {
                    return Err(format!("`{repetition}` after a repetition"));
                }
                if !has_operand {
                    return Err(format!("nothing to repeat before `{repetition}`"));
                }
                self.translated.push_str(&repetition);
                if self.rest.next_if_eq(&'?').is_some() {
                    self.translated.push('?');
                }
                is_repeated = true;
                continue;
            }
            is_repeated = false;
            has_operand = true;
            match character {
                '\\' => {
                    let escape = self.escape()?;
                    has_operand = self.push_escape(escape);
                }
                '[' => self.class()?,
                '(' => {
                    self.group()?;
                    has_operand = false;
                }
                '|' => {
                    self.translated.push('|');
                    has_operand = false;
                }
                '.' => self.either(".", &[(0x80, 0xff)]),
                ')' | '^' | '$' => self.translated.push(character),
                _ => self.literal(character),
            }
        }
        Ok(())
    }

    fn literal(&mut self, character: char) {
        if regex_syntax::is_meta_character(character) {
            self.translated.push('\\');
        }
        self.translated.push(character);
    }

    /// An expression, or in raw mode one of these bytes.
    fn either(&mut self, expression: &str, bytes: &[(u8, u8)]) {
        if !self.raw || bytes.is_empty() {
            self.translated.push_str(expression);
            return;
        }
        let _ = write!(self.translated, "(?:{expression}|(?-u:[");
        for (from, to) in bytes {
            let _ = write!(self.translated, "\\x{from:02x}-\\x{to:02x}");
        }
        self.translated.push_str("]))");
    }

    /// What stands behind `{`, if it is a repetition; otherwise the brace is itself.
    fn braces(&mut self) -> Result<Option<String>, String> {
        let mut ahead = self.rest.clone();
        let mut body = String::new();
        loop {
            match ahead.next() {
                Some('}') => break,
                Some(character) if character.is_ascii_digit() || character == ',' => {
                    body.push(character);
                }
                _ => return Ok(None),
            }
        }
        let (min, max) = match body.split_once(',') {
            None => (body.as_str(), Some(body.as_str())),
            Some((min, "")) => (min, None),
            Some((min, max)) => (min, Some(max)),
        };
        let is_number = |bound: &str| {
            !bound.is_empty() && !bound.contains(',') && (bound == "0" || !bound.starts_with('0'))
        };
        if !is_number(min) || !max.is_none_or(is_number) {
            return Ok(None);
        }
        let count = |bound: &str| bound.parse().ok().filter(|bound: &u32| *bound <= MAX_REPEAT);
        let in_order = match (count(min), max.map(count)) {
            (Some(_), None) => true,
            (Some(min), Some(Some(max))) => min <= max,
            _ => false,
        };
        if !in_order {
            return Err(format!("repetition `{{{body}}}` must go up, to at most {MAX_REPEAT}"));
        }
        self.rest = ahead;
        Ok(Some(format!("{{{body}}}")))
    }

    /// What stands behind `(`.
    fn group(&mut self) -> Result<(), String> {
        self.translated.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.translated.push('?');
        if self.rest.next_if_eq(&'P').is_some() && self.rest.peek() != Some(&'<') {
            return Err("after `(?P` only a name `<name>` may stand".to_owned());
        }
        if self.rest.next_if_eq(&'<').is_some() {
            if matches!(self.rest.peek(), Some('=' | '!')) {
                return Err("look-around is not supported".to_owned());
            }
            self.translated.push_str("P<");
            return Ok(());
        }
        loop {
            match self.rest.next() {
                Some(character @ ('i' | 'm' | 's' | 'U' | '-')) => self.translated.push(character),
                Some(character @ (':' | ')')) => {
                    self.translated.push(character);
                    return Ok(());
                }
                Some('=' | '!') => return Err("look-around is not supported".to_owned()),
                Some(character) => return Err(format!("`(?{character}` is no flag or group")),
                None => return Err("unclosed group".to_owned()),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<Escape, String> {
        let Some(character) = self.rest.next() else {
            return Err("a backslash at the end".to_owned());
        };
        let numbered = |code: u32| {
            char::from_u32(code)
                .map(|character| Escape::Member(Member { character, by_number: true }))
                .ok_or_else(|| format!("no character has the number {code:x}"))
        };
        let plain = |character| Ok(Escape::Member(Member { character, by_number: false }));
        match character {
            'd' => Ok(Escape::Class("0-9", false)),
            'D' => Ok(Escape::Class("0-9", true)),
            's' => Ok(Escape::Class("\\t\\n\\x0c\\r\\x20", false)),
            'S' => Ok(Escape::Class("\\t\\n\\x0c\\r\\x20", true)),
            'w' => Ok(Escape::Class("0-9A-Za-z_", false)),
            'W' => Ok(Escape::Class("0-9A-Za-z_", true)),
            'A' => Ok(Escape::Assertion("\\A")),
            'z' => Ok(Escape::Assertion("\\z")),
            'b' => Ok(Escape::Assertion("(?-u:\\b)")),
            'B' => Ok(Escape::Assertion("(?-u:\\B)")),
            'a' => plain('\x07'),
            'f' => plain('\x0c'),
            'n' => plain('\n'),
            'r' => plain('\r'),
            't' => plain('\t'),
            'v' => plain('\x0b'),
            'p' | 'P' => self.property(character == 'P'),
            'Q' => {
                let mut quoted = String::new();
                while let Some(character) = self.rest.next() {
                    if character == '\\' && self.rest.next_if_eq(&'E').is_some() {
                        break;
                    }
                    quoted.push(character);
                }
                Ok(Escape::Quoted(quoted))
            }
            'x' => numbered(self.hexadecimal()?),
            '0'..='7' => {
                if character != '0'
                    && !self.rest.peek().is_some_and(|character| ('0'..='7').contains(character))
                {
                    return Err("back-references are not supported".to_owned());
                }
                let mut code = character.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.rest.peek().and_then(|character| character.to_digit(8))
                    else {
                        break;
                    };
                    self.rest.next();
                    code = code * 8 + digit;
                }
                numbered(code)
            }
            _ if character.is_ascii() && !character.is_ascii_alphanumeric() => plain(character),
            _ => Err(format!("`\\{character}` is no escape")),
        }
    }

    fn hexadecimal(&mut self) -> Result<u32, String> {
        let wrong =
            || "after `\\x` two hexadecimal digits must stand, or some in braces".to_owned();
        let mut digits = String::new();
        if self.rest.next_if_eq(&'{').is_some() {
            loop {
                match self.rest.next() {
                    Some('}') => break,
                    Some(character) if character.is_ascii_hexdigit() && digits.len() < 8 => {
                        digits.push(character);
                    }
                    _ => return Err(wrong()),
                }
            }
        } else {
            for _ in 0..2 {
                digits.push(self.rest.next_if(char::is_ascii_hexdigit).ok_or_else(wrong)?);
            }
        }
        u32::from_str_radix(&digits, 16).map_err(|_| wrong())
    }

    /// What stands behind `\p`.
    fn property(&mut self, negated: bool) -> Result<Escape, String> {
        let mut name = String::new();
        match self.rest.next() {
            Some('{') => loop {
                match self.rest.next() {
                    Some('}') => break,
                    Some(character)
                        if character.is_ascii_alphanumeric() || "_^".contains(character) =>
                    {
                        name.push(character);
                    }
                    _ => return Err("`\\p{` without a name and `}`".to_owned()),
                }
            },
            Some(character) if character.is_ascii_alphabetic() => name.push(character),
            _ => return Err("`\\p` without a name".to_owned()),
        }
        match name.strip_prefix('^') {
            Some(name) => Ok(Escape::Property(name.to_owned(), !negated)),
            None => Ok(Escape::Property(name, negated)),
        }
    }

    /// Writes an escape outside of a class. Returns whether a repetition may follow.
    fn push_escape(&mut self, escape: Escape) -> bool {
        let all = [(0x80, 0xff)];
        match escape {
            Escape::Member(Member { character, by_number }) => {
                let byte = u8::try_from(u32::from(character))
                    .ok()
                    .filter(|byte| by_number && *byte >= 0x80);
                match byte {
                    Some(byte) => self.either(&format!("\\x{{{byte:x}}}"), &[(byte, byte)]),
                    None => self.literal(character),
                }
            }
            Escape::Class(class, false) => {
                let _ = write!(self.translated, "[{class}]");
            }
            Escape::Class(class, true) => self.either(&format!("[^{class}]"), &all),
            Escape::Property(name, false) => {
                let _ = write!(self.translated, "\\p{{{name}}}");
            }
            Escape::Property(name, true) => self.either(&format!("\\P{{{name}}}"), &all),
            Escape::Assertion(text) => self.translated.push_str(text),
            Escape::Quoted(text) => {
                for character in text.chars() {
                    self.literal(character);
                }
                return !text.is_empty();
            }
        }
        true
    }

    /// What stands behind `[`.
    fn class(&mut self) -> Result<(), String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut body = String::new();
        // The bytes from 0x80 that the class names, by number or by negation.
        let mut named = [false; 256];
        let mut is_first = true;
        loop {
            let Some(character) = self.rest.next() else {
                return Err("unclosed `[`".to_owned());
            };
            if character == ']' && !is_first {
                break;
            }
            is_first = false;
            if character == '['
                && self.rest.peek() == Some(&':')
                && let Some((name, rest)) = self.posix()?
            {
                let _ = write!(body, "[:{name}:]");
                if name.starts_with('^') {
                    named[0x80..].fill(true);
                }
                self.rest = rest;
                continue;
            }
            let from = match self.member(character)? {
                Escape::Member(member) => member,
                Escape::Class(class, is_negated) => {
                    if is_negated {
                        let _ = write!(body, "[^{class}]");
                        named[0x80..].fill(true);
                    } else {
                        body.push_str(class);
                    }
                    continue;
                }
                Escape::Property(name, is_negated) => {
                    let letter = if is_negated { 'P' } else { 'p' };
                    let _ = write!(body, "\\{letter}{{{name}}}");
                    named[0x80..].fill(is_negated);
                    continue;
                }
                Escape::Assertion(_) | Escape::Quoted(_) => {
                    return Err("such an escape cannot stand in a class".to_owned());
                }
            };
            let to = self.range_end(from)?;
            let (first, last) = (u32::from(from.character), u32::from(to.character));
            if last < first {
                return Err(format!("range `{}-{}` goes down", from.character, to.character));
            }
            let _ = write!(body, "\\x{{{first:x}}}-\\x{{{last:x}}}");
            if to.by_number {
                for (code, named) in (0_u32..).zip(&mut named).skip(0x80) {
                    *named |= (first..=last).contains(&code);
                }
            }
        }
        let mark = if negated { "^" } else { "" };
        let bytes: Vec<_> = (0x80..=0xff_u8)
            .filter(|byte| named[usize::from(*byte)] != negated)
            .map(|byte| (byte, byte))
            .collect();
        self.either(&format!("[{mark}{body}]"), &bytes);
        Ok(())
    }

    /// The end of a range that begins with this member; itself if it is none.
    fn range_end(&mut self, from: Member) -> Result<Member, String> {
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('-') || matches!(ahead.peek(), None | Some(']')) {
            return Ok(from);
        }
        self.rest = ahead;
        let Some(character) = self.rest.next() else { return Ok(from) };
        match self.member(character)? {
            Escape::Member(member) => Ok(member),
            _ => Err(format!("a range cannot end in a class after `{}-`", from.character)),
        }
    }

    fn member(&mut self, character: char) -> Result<Escape, String> {
        if character == '\\' {
            return self.escape();
        }
        Ok(Escape::Member(Member { character, by_number: false }))
    }

    /// The name of `[:name:]`, and what follows it; `None` if the bracket is itself.
    fn posix(&self) -> Result<Option<(String, Peekable<Chars<'a>>)>, String> {
        let mut ahead = self.rest.clone();
        ahead.next();
        let mut name = String::new();
        loop {
            match ahead.next() {
                Some(':') if ahead.next_if_eq(&']').is_some() => break,
                Some(character) => name.push(character),
                None => return Ok(None),
            }
        }
        if POSIX.contains(&name.strip_prefix('^').unwrap_or(&name)) {
            Ok(Some((name, ahead)))
        } else {
            Err(format!("there is no class `[:{name}:]`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's engine finds first in this text, or that it finds nothing.
    #[track_caller]
    fn check(pattern: &str, text: &[u8], expected: Option<&[u8]>) {
        let pattern = Pattern::parse(pattern).unwrap();
        let found = pattern.for_line(text).find(text).map(|found| found.as_bytes());
        let show = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.escape_ascii().to_string());
        assert_eq!(show(found), show(expected), "{pattern:?}");
    }

    #[track_caller]
    fn check_error(pattern: &str, expected: &str) {
        assert_eq!(Pattern::parse(pattern).unwrap_err(), expected);
    }

    #[test]
    fn plain_expressions_mean_what_they_mean() {
        check("^SSH-2.0-", b"SSH-2.0-OpenSSH", Some(b"SSH-2.0-"));
        check("(?i)ready|ok", b"is READY", Some(b"READY"));
        check("^220.*ESMTP (.*)$", b"220 mail ESMTP x", Some(b"220 mail ESMTP x"));
        check("a{2,3}?", b"aaaa", Some(b"aa"));
        check("(?P<a>x)(?<b>y)(?:z)", b"xyz", Some(b"xyz"));
        check("(?U)a+", b"aaa", Some(b"a"));
        check("", b"anything", Some(b""));
        check("$", b"", Some(b""));
    }

    #[test]
    fn a_byte_that_is_no_utf8_is_one_character() {
        check("^.b", b"\xffb", Some(b"\xffb"));
        check("^[^a]b", b"\xffb", Some(b"\xffb"));
        check(r"^\Db", b"\xffb", Some(b"\xffb"));
        check(r"^[\W]b", b"\xffb", Some(b"\xffb"));
        check(r"^\wb", b"\xffb", None);
        check(r"^[^\D]b", b"\xffb", None);
        check("^.{2}$", "éa".as_bytes(), Some("éa".as_bytes()));
        check("^.{3}$", "éa".as_bytes(), None);
    }

    #[test]
    fn perl_classes_are_ascii() {
        check(r"\d", "٣".as_bytes(), None);
        check(r"\w", "é".as_bytes(), None);
        check(r"\s", "\u{a0}".as_bytes(), None);
        check(r"\s", b"\x0b", None);
        check(r"[\d\s]+", b"a1 2b", Some(b"1 2"));
        check(r"\bfoo\b", "éfooé".as_bytes(), Some(b"foo"));
        check(r"\B.", b"ab", Some(b"b"));
    }

    #[test]
    fn braces_that_are_no_repetition_are_themselves() {
        check(r#"^{"a":{"#, br#"{"a":{"#, Some(br#"{"a":{"#));
        check("a{,5}", b"a{,5}", Some(b"a{,5}"));
        check("a{x}", b"a{x}", Some(b"a{x}"));
        check(r"\b{start}", b"{start}", None);
    }

    #[test]
    fn a_repeated_assertion_is_the_assertion() {
        check("^+OK", b"+OK ready", None);
        check("^+OK", b"OK ready", Some(b"OK"));
        check("^*a", b"ba", Some(b"a"));
    }

    #[test]
    fn classes_have_no_set_operations() {
        check("[[a]+", b"x[a", Some(b"[a"));
        check("[a&&b]+", b"a&b", Some(b"a&b"));
        check("[]a]+", b"]a", Some(b"]a"));
        check("[^]a]+", b"]bc", Some(b"bc"));
        check("[a-]+", b"a-", Some(b"a-"));
        check("[-a]+", b"a-", Some(b"a-"));
        check("[a~~b-]+", b"~-", Some(b"~-"));
        check("[[:alpha:]_]+", b"1a_", Some(b"a_"));
        check("[[:^alpha:]]+", b"a12", Some(b"12"));
        check("[[:alpha]+", b"[:alph", Some(b"[:alph"));
    }

    #[test]
    fn escapes_of_re2() {
        check(r"\Qa.b*\E+", b"a.b**", Some(b"a.b**"));
        check(r"\Q[x", b"[x", Some(b"[x"));
        check(r"\<a\>\_\-", b"<a>_-", Some(b"<a>_-"));
        check(r"\x41\x{42}\103\012", b"ABC\n", Some(b"ABC\n"));
        check(r"\x{e9}", "é".as_bytes(), Some("é".as_bytes()));
        check(r"\pL\p{Greek}\PL\p{^Greek}", "aα1b".as_bytes(), Some("aα1b".as_bytes()));
        check(r"[\pN\-]+", b"1-", Some(b"1-"));
        check(r"\A\a\f\n\r\t\v\z", b"\x07\x0c\n\r\t\x0b", Some(b"\x07\x0c\n\r\t\x0b"));
    }

    #[test]
    fn in_bytes_a_number_is_that_very_byte() {
        let find = |pattern: &str, bytes: &[u8]| {
            let pattern = Pattern::parse(pattern).unwrap();
            pattern.for_bytes().find(bytes).map(|found| found.range())
        };
        assert_eq!(find(r"(?s)^\xff\x00.\x80", b"\xff\x00\n\x80"), Some(0..4));
        assert_eq!(find(r"^[\x80-\x8f]{2}", b"\x81\x8f"), Some(0..2));
        assert_eq!(find(r"^[^\x80-\x8f]", b"\x81"), None);
        assert_eq!(find(r"^[^\x80-\x8f]", b"\x90"), Some(0..1));
        assert_eq!(find("(?s)^.{4}$", "éé".as_bytes()), Some(0..4));
        assert_eq!(find(r"^\xc3\xa9$", "é".as_bytes()), Some(0..2));
    }

    #[test]
    fn what_re2_refuses_is_refused_in_one_line() {
        check_error("*a", "nothing to repeat before `*`");
        check_error("a|*", "nothing to repeat before `*`");
        check_error("a**", "`*` after a repetition");
        check_error("a{2}{3}", "`{3}` after a repetition");
        check_error("a{1001}", "repetition `{1001}` must go up, to at most 1000");
        check_error("a{2,1}", "repetition `{2,1}` must go up, to at most 1000");
        check_error("(?=a)", "look-around is not supported");
        check_error("(?<!a)", "look-around is not supported");
        check_error("(?x)a", "`(?x` is no flag or group");
        check_error("(?P=n)", "after `(?P` only a name `<name>` may stand");
        check_error("(a", "unclosed group");
        check_error("a)", "unopened group");
        check_error("[a", "unclosed `[`");
        check_error("[z-a]", "range `z-a` goes down");
        check_error("[[:foo:]]", "there is no class `[:foo:]`");
        check_error(r"\1", "back-references are not supported");
        check_error(r"\C", r"`\C` is no escape");
        check_error(r"[a-\d]", "a range cannot end in a class after `a-`");
        check_error("\\", "a backslash at the end");
        check_error("((a{1000}){1000}){1000}", "the expression is too large");
    }

    #[test]
    fn no_text_makes_the_translation_panic() {
        let pieces = ["\\", "x", "{", "}", "[", "]", "^", "-", "(", "?", ")", "*", "1", "p", ":"];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    for fourth in pieces {
                        let text = [first, second, third, fourth].concat();
                        let _ = Translation::of(&text, true);
                    }
                }
            }
        }
    }
}
