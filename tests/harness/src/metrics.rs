//! Reads the classic text and OpenMetrics expositions, so that tests ask for values and not for
//! substrings.

use std::collections::BTreeMap;

/// One line of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All samples of an exposition, in its order, and the text itself for messages.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub samples: Vec<Sample>,
    pub text: String,
}

impl Metrics {
    /// Panics on a line that is neither a comment nor a sample.
    #[track_caller]
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|it| !it.is_empty() && !it.starts_with('#'))
            .map(|it| sample(it).unwrap_or_else(|| panic!("not a sample: `{it}` in\n{text}")))
            .collect();
        Self { samples, text: text.to_owned() }
    }

    /// The value of the first sample of this name that carries at least these labels.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.find(name, labels).map(|it| it.value)
    }

    /// The value of a label of the first sample of this name.
    #[must_use]
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.find(name, &[])?.labels.get(label).map(String::as_str)
    }

    #[must_use]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Sample> {
        self.samples.iter().filter(|it| it.name == name).find(|sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|it| it == value))
        })
    }

    /// All samples of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |it| it.name == name)
    }

    /// `probe_success`, or a panic that shows everything.
    #[track_caller]
    #[must_use]
    pub fn is_success(&self) -> bool {
        match self.value("probe_success", &[]) {
            Some(value) => value > 0.5,
            None => panic!("no probe_success in\n{}", self.text),
        }
    }

    /// The phase and reason of `probe_failure_info`.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, &str)> {
        let sample = self.find("probe_failure_info", &[])?;
        Some((sample.labels.get("phase")?, sample.labels.get("reason")?))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.trim().to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label value up to its closing quote, unescaped, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(concat!(
            "# HELP a b\n",
            "a 1\n",
            "b{x=\"1\",y=\"say \\\"hi, {you}\\\"\\n\",} 2.5 1700000000\n",
            "b{x=\"2\"} +Inf # {trace=\"z\"} 1\n",
        ));

        assert_eq!(metrics.value("a", &[]), Some(1.0));
        assert_eq!(metrics.value("b", &[("x", "2")]), Some(f64::INFINITY));
        assert_eq!(metrics.value("b", &[("y", "say \"hi, {you}\"\n")]), Some(2.5));
        assert_eq!(metrics.value("b", &[("x", "3")]), None);
        assert_eq!(metrics.label("b", "x"), Some("1"));
    }
}
