//! A regular expression with the syntax and meaning of RE2, matched against bytes.

/// A compiled expression and the text it came from.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    regex: regex::bytes::Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// One line: the expression and what is wrong with it.
    pub fn parse(source: &str) -> Result<Self, String> {
        let regex = regex::bytes::Regex::new(source).map_err(|err| err.to_string())?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The compiled expression.
    #[must_use]
    pub const fn regex(&self) -> &regex::bytes::Regex {
        &self.regex
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
