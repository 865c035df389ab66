//! Text with references to captures, in the form of Go's `Regexp.Expand`.

use regex::bytes::Captures;

/// Text in which `$1`, `${1}`, `$name` and `${name}` stand for captures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(String);

/// What a reference names.
enum Reference<'a> {
    Index(usize),
    Name(&'a str),
}

impl Template {
    /// Takes a text as it is; malformed references stay.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text with the captures in the place of the references.
    ///
    /// The longest name counts, so `$1x` is the capture `1x`. What did not take part in the
    /// match, or does not exist, is empty; `$$` is a dollar sign; a malformed reference stays.
    #[must_use]
    pub fn expand(&self, captures: &Captures<'_>) -> Vec<u8> {
        let mut expanded = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            expanded.extend_from_slice(before.as_bytes());
            if let Some(after) = after.strip_prefix('$') {
                expanded.push(b'$');
                rest = after;
            } else if let Some((reference, after)) = reference(after) {
                let capture = match reference {
                    Reference::Index(index) => captures.get(index),
                    Reference::Name(name) => captures.name(name),
                };
                expanded.extend_from_slice(capture.map_or(&[], |capture| capture.as_bytes()));
                rest = after;
            } else {
                expanded.push(b'$');
                rest = after;
            }
        }
        expanded.extend_from_slice(rest.as_bytes());
        expanded
    }
}

/// Reads what stands behind a `$`, and what follows it.
fn reference(text: &str) -> Option<(Reference<'_>, &str)> {
    let (braced, body) = match text.strip_prefix('{') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let end = body
        .find(|character: char| !character.is_alphanumeric() && character != '_')
        .unwrap_or(body.len());
    let (name, after) = body.split_at(end);
    if name.is_empty() {
        return None;
    }
    let after = if braced { after.strip_prefix('}')? } else { after };
    let is_index =
        name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    let reference = if is_index {
        // A number that no expression has as many groups for.
        Reference::Index(name.parse().unwrap_or(usize::MAX))
    } else {
        Reference::Name(name)
    };
    Some((reference, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, expected: &str) {
        let regex = regex::bytes::Regex::new(r"^(\w+) (?P<second>\w+)( never)?").unwrap();
        let captures = regex.captures(b"220 mail ready").unwrap();
        let expanded = Template::new(template.to_owned()).expand(&captures);
        assert_eq!(String::from_utf8(expanded).unwrap(), expected);
    }

    #[test]
    fn references_become_captures() {
        check("<$1> <${1}> <$second> <${second}> <$0>", "<220> <220> <mail> <mail> <220 mail>");
        check("${1}x", "220x");
    }

    #[test]
    fn the_longest_name_counts() {
        check("[$1x] [$second_]", "[] []");
    }

    #[test]
    fn what_is_not_there_is_empty() {
        check("[$3] [$9] [$nothing] [${99999999999999999999}] [$01]", "[] [] [] [] []");
    }

    #[test]
    fn dollars_and_malformed_references_stay() {
        check("$$1 $ $- ${ ${} ${1 ${1-} $", "$1 $ $- ${ ${} ${1 ${1-} $");
    }
}
