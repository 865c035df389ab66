//! Pages for people.

use std::fmt::{self, Write as _};

use crate::http::App;

/// The page at `/`.
#[must_use]
pub fn index(app: &App) -> String {
    let mut page = "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
        <title>tcp_probe_exporter</title></head>\n<body>\n<h1>tcp_probe_exporter</h1>\n\
        <p><a href=\"metrics\">Metrics</a></p>\n<p><a href=\"config\">Configuration</a></p>\n\
        <h2>Recent probes</h2>\n<table>\n\
        <tr><th>Module<th>Target<th>Result<th>Time<th>Log\n"
        .to_owned();
    for entry in app.history.entries() {
        let result = match entry.finding.outcome.cause() {
            None => "Success".to_owned(),
            Some((reason, phase)) => format!("<strong>Failure</strong> {reason} ({phase})"),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td>{result}<td>{}<td><a href=\"logs?id={}\">Log</a>",
            Escaped(&entry.module.name),
            Escaped(&entry.target),
            crate::log::time(entry.at),
            entry.id,
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

/// Text inside HTML.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for it in self.0.chars() {
            match it {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&#34;")?,
                '\'' => f.write_str("&#39;")?,
                it => f.write_char(it)?,
            }
        }
        Ok(())
    }
}
