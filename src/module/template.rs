//! Text with references to captures, in the form of Go's `Regexp.Expand`.

/// Text in which `$1`, `${1}`, `$name` and `${name}` stand for captures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(String);

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
}
