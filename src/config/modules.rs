//! `modules:` in the schema of `blackbox_exporter`, strict for TCP, lenient for other probers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::ModuleEntry;
use crate::config::duration::Signed;
use crate::config::read::{
    Fields, Place, Report, any_duration, boolean, bytes, choice, entries, items, text, word,
};
use crate::config::yaml::{Kind, Node, excerpt};
use crate::module::pattern::Pattern;
use crate::module::template::Template;
use crate::module::{
    Close, Expect, ExpectConnect, Family, Module, PemSource, Resolver, Send, Step, TlsSettings,
    TlsVersion,
};

/// Probers of `blackbox_exporter` beside TCP.
const OTHER_PROBERS: [&str; 6] = ["http", "icmp", "dns", "grpc", "unix", "websocket"];

/// Reads `modules:`.
pub(super) fn modules(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> BTreeMap<Arc<str>, ModuleEntry> {
    let mut modules = BTreeMap::new();
    for entry in entries(node, place, report).unwrap_or_default() {
        let place = place.key(entry.key);
        if entry.key.is_empty() {
            report.error(entry.line, &place, "the name of the module is empty");
            continue;
        }
        if let Some(read) = module(entry.key, entry.line, &entry.value, &place, report) {
            modules.insert(Arc::from(entry.key), read);
        }
    }
    modules
}

fn module(
    name: &str,
    line: u32,
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<ModuleEntry> {
    if node.is_null() {
        report.warn(line, place, "the module is empty: `/probe` answers 400 for it");
        return Some(ModuleEntry::Other { prober: String::new() });
    }
    let mut fields = Fields::open(node, place, report)?;
    let Some(prober_node) = fields.take("prober") else {
        report.error(line, place, "`prober` is missing: write `prober: tcp`");
        return None;
    };
    let prober = text(prober_node, &place.key("prober"), report)?;
    if OTHER_PROBERS.contains(&prober) {
        let message = format!(
            "this exporter has no prober `{prober}`: the module is skipped, `/probe` answers 400 \
             for it"
        );
        report.warn(line, place, message);
        return Some(ModuleEntry::Other { prober: prober.to_owned() });
    }
    if prober != "tcp" {
        let known = OTHER_PROBERS.into_iter().chain(["tcp"]);
        let remedy = report.nearest(prober, known).unwrap_or("tcp");
        let message = format!("unknown prober `{}`: write `{remedy}`", excerpt(prober));
        report.error(prober_node.line, &place.key("prober"), message);
        return None;
    }
    let errors = report.errors.len();
    let mut module = Module::connect(name);
    if let Some(node) = fields.take("timeout") {
        module.timeout =
            any_duration(node, &place.key("timeout"), report).and_then(Signed::positive);
    }
    if let Some(node) = fields.take("tcp") {
        tcp(&mut module, node, &place.key("tcp"), report);
    }
    for section in OTHER_PROBERS {
        if fields.take(section).is_some() {
            let message = "the section is ignored, since the prober is `tcp`";
            report.warn(line, &place.key(section), message);
        }
    }
    fields.close(place, report);
    (report.errors.len() == errors).then(|| ModuleEntry::Tcp(Arc::new(module)))
}

fn tcp(module: &mut Module, node: &Node<'_>, place: &Place<'_>, report: &mut Report) {
    let Some(mut fields) = Fields::open(node, place, report) else { return };
    addresses(module, &mut fields, place, report);
    if let Some(node) = fields.take("tls") {
        module.tls = boolean(node, &place.key("tls"), report).unwrap_or_default();
    }
    if let Some(node) = fields.take("tls_config") {
        let settings = tls_settings(node, &place.key("tls_config"), report);
        module.tls_settings = Arc::new(settings.unwrap_or_default());
    }
    if let Some(node) = fields.take("query_response") {
        let place = place.key("query_response");
        let nodes = items(node, &place, report).unwrap_or_default();
        for (index, node) in nodes.iter().enumerate() {
            let step = step(node, &place.index(index), report).unwrap_or_default();
            module.query_response.push(step);
        }
        starttls_once(module, nodes, &place, report);
        labels_once(module, nodes, &place, report);
    }
    endings(module, &mut fields, place, report);
    fields.close(place, report);
}

/// Which address of a name, from which address, asked of whom.
fn addresses(module: &mut Module, fields: &mut Fields<'_>, place: &Place<'_>, report: &mut Report) {
    if let Some(node) = fields.take("preferred_ip_protocol") {
        let place = place.key("preferred_ip_protocol");
        match text(node, &place, report) {
            Some("ip6" | "") | None => {}
            Some("ip4") => module.preferred_family = Family::V4,
            Some(_) => {
                let message = format!(
                    "{} counts as `ip4`, as anything but `ip6` does: write `ip4` or `ip6`",
                    node.describe()
                );
                report.warn(node.line, &place, message);
                module.preferred_family = Family::V4;
            }
        }
    }
    if let Some(node) = fields.take("ip_protocol_fallback") {
        module.family_fallback =
            boolean(node, &place.key("ip_protocol_fallback"), report).unwrap_or_default();
    }
    if let Some(node) = fields.take("source_ip_address") {
        let place = place.key("source_ip_address");
        let text = text(node, &place, report).unwrap_or_default();
        if !text.is_empty() {
            if text.parse::<IpAddr>().is_err() {
                let message = format!(
                    "{} is no IP address, so every probe will be inconclusive",
                    node.describe()
                );
                report.warn(node.line, &place, message);
            }
            module.source_address = Some(text.to_owned());
        }
    }
    if let Some(node) = fields.take("resolver") {
        module.resolver = resolver(node, &place.key("resolver"), report).unwrap_or_default();
    }
}

fn resolver(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Resolver> {
    let Kind::List(nodes) = &node.kind else {
        let word = text(node, place, report)?;
        return match word {
            "builtin" => Some(Resolver::Builtin),
            "system" => Some(Resolver::System),
            _ => {
                let message = format!(
                    "{} is no resolver: write `builtin`, `system` or a list of addresses",
                    node.describe()
                );
                report.error(node.line, place, message);
                None
            }
        };
    };
    let mut servers = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let place = place.index(index);
        let Some(text) = text(node, &place, report) else { continue };
        let server = text
            .parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
        match server {
            Ok(server) => servers.push(server),
            Err(_) => {
                let message = format!(
                    "{} is no name server: write an IP address, perhaps with a port",
                    node.describe()
                );
                report.error(node.line, &place, message);
            }
        }
    }
    if nodes.is_empty() {
        report.error(node.line, place, "the list is empty: write `builtin` or an address");
    }
    Some(Resolver::Servers(servers))
}

/// What goes beyond `blackbox_exporter`: how the connection begins, lasts and ends.
fn endings(module: &mut Module, fields: &mut Fields<'_>, place: &Place<'_>, report: &mut Report) {
    if let Some(node) = fields.take("close") {
        let choices = [Close::Fin, Close::Reset].map(|it| (it.as_str(), it));
        module.close = choice(node, &place.key("close"), report, &choices).unwrap_or_default();
    }
    if let Some(node) = fields.take("hold") {
        module.hold = any_duration(node, &place.key("hold"), report).and_then(Signed::positive);
    }
    let Some(node) = fields.take("expect_connect") else { return };
    let place = place.key("expect_connect");
    let choices = [
        ExpectConnect::Open,
        ExpectConnect::Refused,
        ExpectConnect::Timeout,
        ExpectConnect::Closed,
    ]
    .map(|it| (it.as_str(), it));
    let Some(expected) = choice(node, &place, report, &choices) else { return };
    module.expect_connect = expected;
    if expected != ExpectConnect::Open && !module.is_connect_only() {
        let message = format!(
            "a port expected to be `{}` has nobody to talk to: remove `tls`, `query_response` \
             and `hold`",
            expected.as_str()
        );
        report.error(node.line, &place, message);
    }
}

fn step(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Step> {
    let mut fields = Fields::open(node, place, report)?;
    let mut step = Step { expect: expect(&mut fields, place, report), ..Step::default() };
    if let Some(node) = fields.take("reject") {
        let place = place.key("reject");
        step.reject = pattern(node, &place, report);
        if fields.take("expect").is_none() && fields.take("expect_stream").is_none() {
            let message = "`reject` only works beside `expect` or `expect_stream`: add one";
            report.error(node.line, &place, message);
        }
    }
    if let Some(node) = fields.take("labels") {
        let place = place.key("labels");
        step.labels = labels(node, &place, report);
        if fields.take("expect").is_none() && fields.take("expect_stream").is_none() {
            let message = "`labels` without `expect` are ignored: add an `expect`";
            report.warn(node.line, &place, message);
        }
    }
    if let Some(node) = fields.take("send") {
        step.send = send(node, &place.key("send"), report);
    }
    if let Some(node) = fields.take("send_bytes") {
        let place = place.key("send_bytes");
        let sent = match &node.kind {
            Kind::Plain(text) | Kind::Quoted(text) => unescape(text, node, &place, report),
            Kind::Binary(_) | Kind::List(_) | Kind::Map(_) => raw(node, &place, report),
        };
        let sent = sent.unwrap_or_default();
        if fields.take("send").is_some() {
            let message = "`send` and `send_bytes` are mutually exclusive: remove one";
            report.error(node.line, &place, message);
        } else if !sent.is_empty() {
            step.send = Some(Send::Bytes(sent));
        }
    }
    if let Some(node) = fields.take("starttls") {
        step.starttls = boolean(node, &place.key("starttls"), report).unwrap_or_default();
    }
    fields.close(place, report);
    Some(step)
}

/// What a step waits for; at most one form.
fn expect(fields: &mut Fields<'_>, place: &Place<'_>, report: &mut Report) -> Option<Expect> {
    let mut found: Vec<(&'static str, Option<Expect>)> = Vec::new();
    for key in ["expect", "expect_stream", "expect_bytes"] {
        let Some(node) = fields.take(key) else { continue };
        let place = place.key(key);
        let expect = match key {
            "expect" => pattern(node, &place, report).map(Expect::Line),
            "expect_stream" => pattern(node, &place, report).map(Expect::Stream),
            _ => raw(node, &place, report).filter(|it| !it.is_empty()).map(Expect::Bytes),
        };
        if let Some((first, _)) = found.first() {
            let message = format!("`{first}` and `{key}` are mutually exclusive: remove one");
            report.error(node.line, &place, message);
        }
        found.push((key, expect));
    }
    found.into_iter().next().and_then(|(_, expect)| expect)
}

fn pattern(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Pattern> {
    let source = text(node, place, report)?;
    match Pattern::parse(source) {
        Ok(pattern) => Some(pattern),
        Err(err) => {
            let message = format!("`{}` is no regular expression of RE2: {err}", excerpt(source));
            report.error(node.line, place, message);
            None
        }
    }
}

/// What a step sends as a line. Binary data that is no text goes out as it is, with the line
/// feed that `send` always adds.
fn send(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Send> {
    if let Kind::Binary(data) = &node.kind
        && std::str::from_utf8(data).is_err()
    {
        let mut data = data.to_vec();
        data.push(b'\n');
        return Some(Send::Bytes(data));
    }
    let text = text(node, place, report)?;
    (!text.is_empty()).then(|| Send::Line(Template::new(text.to_owned())))
}

/// Bytes as a text with escapes for those that cannot be typed.
fn unescape(
    text: &str,
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        data.extend_from_slice(before.as_bytes());
        let (byte, length) = match after.as_bytes() {
            [b'r', ..] => (Some(b'\r'), 1),
            [b'n', ..] => (Some(b'\n'), 1),
            [b't', ..] => (Some(b'\t'), 1),
            [b'0', ..] => (Some(0), 1),
            [b'\\', ..] => (Some(b'\\'), 1),
            [b'x', high, low, ..] => (hex_pair(*high, *low), 3),
            _ => (None, 0),
        };
        let Some(byte) = byte else {
            let message = format!(
                "`\\{}` is no escape: write `\\xNN`, `\\r`, `\\n`, `\\t`, `\\0` or `\\\\`",
                after.chars().take(1).collect::<String>().escape_debug()
            );
            report.error(node.line, place, message);
            return None;
        };
        data.push(byte);
        rest = &after[length..];
    }
    data.extend_from_slice(rest.as_bytes());
    Some(data)
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |it: u8| char::from(it).to_digit(16).and_then(|it| u8::try_from(it).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Bytes as a text, as `!!binary`, or as `{hex: "00 ff"}`.
fn raw(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<Vec<u8>> {
    let Kind::Map(_) = &node.kind else { return bytes(node, place, report) };
    let mut fields = Fields::open(node, place, report)?;
    let hex = fields.take("hex");
    fields.close(place, report);
    let Some(hex) = hex else {
        report.error(node.line, place, "`hex` is missing: write `{hex: \"00 ff\"}`");
        return None;
    };
    let place = place.key("hex");
    let digits = text(hex, &place, report)?;
    let decoded = unhex(digits);
    if decoded.is_none() {
        let message = format!("{} is no hexadecimal: write `00 ff 1a`", hex.describe());
        report.error(hex.line, &place, message);
    }
    decoded
}

/// Pairs of hexadecimal digits, blanks between them as one likes.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|it| !it.is_ascii_whitespace()).collect();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| hex_pair(pair[0], pair[1])).collect()
}

fn labels(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<Vec<(String, Template)>> {
    let mut labels = Vec::new();
    for (index, node) in items(node, place, report)?.iter().enumerate() {
        let place = place.index(index);
        let Some(mut fields) = Fields::open(node, &place, report) else { continue };
        let name = match fields.take("name") {
            Some(node) => label_name(node, &place.key("name"), report),
            None => {
                report.error(node.line, &place, "`name` is missing: write `name: version`");
                None
            }
        };
        let value = match fields.take("value") {
            Some(node) => text(node, &place.key("value"), report),
            None => Some(""),
        };
        fields.close(&place, report);
        if let (Some(name), Some(value)) = (name, value) {
            labels.push((name, Template::new(value.to_owned())));
        }
    }
    Some(labels)
}

/// The name of a label, in the form that every version of Prometheus takes.
pub(super) fn label_name(
    node: &Node<'_>,
    place: &Place<'_>,
    report: &mut Report,
) -> Option<String> {
    let name = text(node, place, report)?;
    if let Some(message) = label_fault(name) {
        report.error(node.line, place, message);
        return None;
    }
    Some(name.to_owned())
}

/// What is wrong with the name of a label.
pub(super) fn label_fault(name: &str) -> Option<String> {
    let letter = |it: char| it.is_ascii_alphabetic() || it == '_';
    let form = name.starts_with(letter) && name.chars().all(|it| letter(it) || it.is_ascii_digit());
    if !form {
        return Some(format!(
            "`{}` is no label name: write letters, digits and `_`, no digit first",
            excerpt(name)
        ));
    }
    name.starts_with("__").then(|| {
        format!("`{}` begins with `__`, which is Prometheus's own: rename it", excerpt(name))
    })
}

fn starttls_once(module: &Module, nodes: &[Node<'_>], place: &Place<'_>, report: &mut Report) {
    let mut seen = false;
    let steps = module.query_response.iter().enumerate();
    for (index, _) in steps.filter(|(_, it)| it.starttls) {
        let line = nodes[index].line;
        let step = place.index(index);
        let place = step.key("starttls");
        if module.tls {
            let message = "`starttls` on a connection that is TLS from the start: remove it, or \
                           `tls: true`";
            report.error(line, &place, message);
        } else if seen {
            let message = "a second `starttls`: TLS can begin only once, remove one";
            report.error(line, &place, message);
        }
        seen = true;
    }
}

/// All labels of a module end up on one series, so a name may be used once.
fn labels_once(module: &Module, nodes: &[Node<'_>], place: &Place<'_>, report: &mut Report) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, step) in module.query_response.iter().enumerate() {
        for (name, _) in step.labels.iter().flatten() {
            if seen.contains(&name.as_str()) {
                let step = place.index(index);
                let message = format!("label `{name}` is given twice in this module: rename one");
                report.error(nodes[index].line, &step.key("labels"), message);
            }
            seen.push(name);
        }
    }
}

fn tls_settings(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<TlsSettings> {
    let mut fields = Fields::open(node, place, report)?;
    let mut settings = TlsSettings {
        ca: pem(&mut fields, ["ca", "ca_file", "ca_ref"], place, report),
        cert: pem(&mut fields, ["cert", "cert_file", "cert_ref"], place, report),
        key: pem(&mut fields, ["key", "key_file", "key_ref"], place, report),
        ..TlsSettings::default()
    };
    if settings.cert.is_some() != settings.key.is_some() {
        let (given, missing) =
            if settings.cert.is_some() { ("cert", "key") } else { ("key", "cert") };
        let message = format!("`{given}` without `{missing}`: a client certificate needs both");
        report.error(fields.line, place, message);
    }
    if let Some(node) = fields.take("server_name") {
        let name = text(node, &place.key("server_name"), report).unwrap_or_default();
        settings.server_name = (!name.is_empty()).then(|| name.to_owned());
    }
    if let Some(node) = fields.take("insecure_skip_verify") {
        settings.insecure_skip_verify =
            boolean(node, &place.key("insecure_skip_verify"), report).unwrap_or_default();
    }
    if let Some(node) = fields.take("min_version") {
        settings.min_version = tls_version(node, &place.key("min_version"), report);
    }
    if let Some(node) = fields.take("max_version") {
        let place = place.key("max_version");
        settings.max_version = tls_version(node, &place, report);
        match settings.max_version {
            Some(most) if most < settings.min_version.unwrap_or(TlsVersion::Tls10) => {
                let message = "`max_version` is below `min_version`: every handshake will fail";
                report.warn(node.line, &place, message);
            }
            Some(TlsVersion::Tls10 | TlsVersion::Tls11) => {
                let message = "this exporter speaks TLS 1.2 and 1.3: every handshake will fail";
                report.warn(node.line, &place, message);
            }
            Some(TlsVersion::Tls12 | TlsVersion::Tls13) | None => {}
        }
    }
    fields.close(place, report);
    Some(settings)
}

/// One of inline text, file and reference.
fn pem(
    fields: &mut Fields<'_>,
    [inline, file, reference]: [&'static str; 3],
    place: &Place<'_>,
    report: &mut Report,
) -> Option<PemSource> {
    let mut found: Option<PemSource> = None;
    for key in [inline, file, reference] {
        let Some(node) = fields.take(key) else { continue };
        let place = place.key(key);
        let Some(text) = text(node, &place, report) else { continue };
        if text.is_empty() {
            continue;
        }
        if found.is_some() {
            let message = format!(
                "at most one of `{inline}`, `{file}` and `{reference}` can be given: remove one"
            );
            report.error(node.line, &place, message);
            continue;
        }
        let text = text.to_owned();
        found = Some(if key == inline {
            PemSource::Inline(text)
        } else if key == file {
            PemSource::File(PathBuf::from(text))
        } else {
            let message = "this exporter has no secret manager, so every probe will be \
                           inconclusive: name a file";
            report.warn(node.line, &place, message);
            PemSource::Reference(text)
        });
    }
    found
}

fn tls_version(node: &Node<'_>, place: &Place<'_>, report: &mut Report) -> Option<TlsVersion> {
    let text = word(node, place, report)?;
    let version = TlsVersion::ALL.into_iter().find(|it| it.as_str() == text);
    if version.is_none() {
        let message = format!("unknown TLS version {}: write `TLS12` or `TLS13`", node.describe());
        report.error(node.line, place, message);
    }
    version
}
