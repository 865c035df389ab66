//! `modules:` in the schema of `blackbox_exporter`, strict for TCP, lenient for other probers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::ModuleEntry;
use crate::config::read::{Report, YamlPath, read};
use crate::config::scalar::{Bytes, Expression, OneOrMany, Text, unescape};
use crate::config::schema::{LabelKeys, ModuleKeys, StepKeys, TcpKeys, TlsKeys};
use crate::config::yaml::excerpt;
use crate::module::template::Template;
use crate::module::{
    Expect, ExpectConnect, Family, Module, PemSource, Resolver, Send, Step, TlsSettings, TlsVersion,
};
use crate::secret::Secret;

/// Probers of `blackbox_exporter` beside TCP.
const OTHER_PROBERS: [&str; 6] = ["http", "icmp", "dns", "grpc", "unix", "websocket"];

/// Reads `modules:`.
pub(super) fn modules(path: &YamlPath<'_>, report: &mut Report) -> BTreeMap<Arc<str>, ModuleEntry> {
    let mut modules = BTreeMap::new();
    for name in path.keys(report) {
        let path = path.key(name);
        if name.is_empty() {
            report.error(&path, "the name of the module is empty: write one");
        } else if let Some(module) = module(name, &path, report) {
            modules.insert(Arc::from(name), module);
        }
    }
    modules
}

fn module(name: &str, path: &YamlPath<'_>, report: &mut Report) -> Option<ModuleEntry> {
    if path.node().is_none() {
        report.warn(path, "the module is empty: `/probe` answers 400 for it");
        return Some(ModuleEntry::Other { prober: String::new() });
    }
    let prober_path = path.key("prober");
    let prober = prober_path.node().and_then(|node| node.text());
    if let Some(prober) = prober.filter(|prober| OTHER_PROBERS.contains(prober)) {
        let message = format!(
            "this exporter has no prober `{prober}`: the module is skipped, `/probe` answers 400 \
             for it"
        );
        report.warn(path, message);
        return Some(ModuleEntry::Other { prober: prober.to_owned() });
    }
    match prober {
        Some("tcp") => {}
        Some(prober) => {
            let known = OTHER_PROBERS.into_iter().chain(["tcp"]);
            let remedy = report.nearest(prober, known).unwrap_or("tcp");
            let message = format!("unknown prober `{}`: write `{remedy}`", excerpt(prober));
            report.error(&prober_path, message);
            return None;
        }
        None if path.lacks("prober") && path.is_map() => {
            report.error(path, "`prober` is missing: write `prober: tcp`");
        }
        None => {}
    }
    let keys: ModuleKeys = read(path, report)?;
    let mut module = Module::connect(name);
    module.timeout = keys.timeout.and_then(|limit| limit.0);
    if let Some(keys) = keys.tcp {
        tcp(&mut module, keys, &path.key("tcp"), report);
    }
    for section in OTHER_PROBERS.into_iter().filter(|section| !path.lacks(section)) {
        report.warn(&path.key(section), "the section is ignored, since the prober is `tcp`");
    }
    Some(ModuleEntry::Tcp(Arc::new(module)))
}

fn tcp(module: &mut Module, keys: TcpKeys, path: &YamlPath<'_>, report: &mut Report) {
    match keys.preferred_ip_protocol.as_ref().map(|Text(text)| &**text) {
        Some("ip6" | "") | None => {}
        Some("ip4") => module.preferred_family = Family::V4,
        Some(other) => {
            let message = format!(
                "`{}` counts as `ip4`, as anything but `ip6` does: write `ip4` or `ip6`",
                excerpt(other)
            );
            report.warn(&path.key("preferred_ip_protocol"), message);
            module.preferred_family = Family::V4;
        }
    }
    if let Some(flag) = keys.ip_protocol_fallback {
        module.family_fallback = flag.0;
    }
    if let Some(Text(address)) = keys.source_ip_address.filter(|Text(text)| !text.is_empty()) {
        if address.parse::<IpAddr>().is_err() {
            let message = format!(
                "`{}` is not an IP address, so every probe will be inconclusive: write one",
                excerpt(&address)
            );
            report.warn(&path.key("source_ip_address"), message);
        }
        module.source_address = Some(address);
    }
    if let Some(keys) = keys.resolver {
        module.resolver = resolver(keys, &path.key("resolver"), report);
    }
    module.tls = keys.tls.is_some_and(|flag| flag.0);
    if let Some(keys) = keys.tls_config {
        module.tls_settings = Arc::new(tls_settings(keys, &path.key("tls_config"), report));
    }
    let steps_path = path.key("query_response");
    for (index, keys) in keys.query_response.into_iter().flatten().enumerate() {
        let step = step(keys, &steps_path.index(index), report);
        module.query_response.push(step);
    }
    starttls_once(module, &steps_path, report);
    labels_once(module, &steps_path, report);
    module.close = keys.close.map(|choice| choice.0).unwrap_or_default();
    module.hold = keys.hold.and_then(|limit| limit.0);
    module.expect_connect = keys.expect_connect.map(|choice| choice.0).unwrap_or_default();
    if module.expect_connect != ExpectConnect::Open && !module.is_connect_only() {
        let message = format!(
            "nothing can be sent to a port expected to be `{}`: remove `tls`, `query_response` \
             and `hold`",
            module.expect_connect.as_str()
        );
        report.error(&path.key("expect_connect"), message);
    }
}

fn resolver(keys: OneOrMany<Text>, path: &YamlPath<'_>, report: &mut Report) -> Resolver {
    let servers = match keys {
        OneOrMany::One(Text(word)) => {
            return match &*word {
                "builtin" => Resolver::Builtin,
                "system" => Resolver::System,
                _ => {
                    let message = format!(
                        "unknown resolver `{}`: write `builtin`, `system` or a list of addresses",
                        excerpt(&word)
                    );
                    report.error(path, message);
                    Resolver::default()
                }
            };
        }
        OneOrMany::Many(servers) => servers,
    };
    if path.node().is_some_and(|node| node.items().is_empty()) {
        report.error(path, "the list is empty: write `builtin` or an address");
    }
    let mut addresses = Vec::new();
    for (index, Text(text)) in servers.iter().enumerate() {
        let server = text
            .parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
        match server {
            Ok(server) => addresses.push(server),
            Err(_) => {
                let message = format!(
                    "invalid name server `{}`: write an IP address, perhaps with a port",
                    excerpt(text)
                );
                report.error(&path.index(index), message);
            }
        }
    }
    Resolver::Servers(addresses)
}

fn step(keys: StepKeys, path: &YamlPath<'_>, report: &mut Report) -> Step {
    exclusive(&["expect", "expect_stream", "expect_bytes"], path, report);
    exclusive(&["send", "send_file", "send_bytes", "send_bytes_file"], path, report);
    let waits = !path.lacks("expect") || !path.lacks("expect_stream");
    if !waits && !path.lacks("reject") {
        let message = "`reject` only works beside `expect` or `expect_stream`: add one";
        report.error(&path.key("reject"), message);
    }
    if !waits && !path.lacks("labels") {
        let message = "`labels` without `expect` are ignored: add an `expect`";
        report.warn(&path.key("labels"), message);
    }
    let pattern = |expression: Option<Expression>| expression.map(|expression| expression.0);
    let expect = pattern(keys.expect)
        .map(Expect::Line)
        .or_else(|| pattern(keys.expect_stream).map(Expect::Stream))
        .or_else(|| keys.expect_bytes.map(raw).filter(|it| !it.is_empty()).map(Expect::Bytes));
    let file = |file: Option<Text>, ends_line| {
        let path = file.map(|text| text.0).filter(|path| !path.is_empty());
        path.map(|path| Send::File { path: PathBuf::from(path), ends_line })
    };
    let send = keys
        .send
        .and_then(|text| send(text.expose()))
        .or_else(|| send_bytes(keys.send_bytes?.expose(), &path.key("send_bytes"), report))
        .or_else(|| file(keys.send_file, true))
        .or_else(|| file(keys.send_bytes_file, false));
    Step {
        expect,
        reject: pattern(keys.reject),
        labels: keys.labels.map(|keys| labels(keys, &path.key("labels"), report)),
        send,
        starttls: keys.starttls.is_some_and(|flag| flag.0),
    }
}

/// At most one of several keys may be given.
fn exclusive(keys: &[&str], path: &YamlPath<'_>, report: &mut Report) {
    let mut given = keys.iter().filter(|key| !path.lacks(key));
    let Some(first) = given.next() else { return };
    for key in given {
        let message = format!("`{first}` and `{key}` are mutually exclusive: remove one");
        report.error(&path.key(key), message);
    }
}

fn raw(bytes: Bytes) -> Vec<u8> {
    match bytes {
        Bytes::Text(text) => text.into_bytes(),
        Bytes::Raw(bytes) => bytes,
    }
}

/// What a step sends as a line. Binary data that is no text goes out as it is, with the line
/// feed that `send` always adds.
fn send(bytes: &Bytes) -> Option<Send> {
    match bytes {
        Bytes::Text(text) => {
            (!text.is_empty()).then(|| Send::Line(Template::new(text.clone()).into()))
        }
        Bytes::Raw(bytes) => Some(Send::Bytes([bytes, &b"\n"[..]].concat().into())),
    }
}

/// What a step sends as bytes.
fn send_bytes(bytes: &Bytes, path: &YamlPath<'_>, report: &mut Report) -> Option<Send> {
    let bytes = match bytes {
        Bytes::Raw(bytes) => bytes.clone(),
        Bytes::Text(text) => unescape(text).unwrap_or_else(|message| {
            report.error(path, message);
            Vec::new()
        }),
    };
    (!bytes.is_empty()).then(|| Send::Bytes(bytes.into()))
}

fn labels(
    keys: Vec<LabelKeys>,
    path: &YamlPath<'_>,
    report: &mut Report,
) -> Vec<(String, Template)> {
    let mut labels = Vec::new();
    for (index, label) in keys.into_iter().enumerate() {
        let path = path.index(index);
        if path.lacks("name") {
            report.error(&path, "`name` is missing: write `name: version`");
        }
        if let Some(name) = label.name {
            let value = label.value.map(|text| text.0).unwrap_or_default();
            labels.push((name.0, Template::new(value)));
        }
    }
    labels
}

fn starttls_once(module: &Module, path: &YamlPath<'_>, report: &mut Report) {
    let mut seen = false;
    let steps = module.query_response.iter().enumerate();
    for (index, _) in steps.filter(|(_, step)| step.starttls) {
        let path = path.index(index);
        let path = path.key("starttls");
        if module.tls {
            let message = "`starttls` on a connection that is TLS from the start: remove it, or \
                           `tls: true`";
            report.error(&path, message);
        } else if seen {
            let message = "a second `starttls`: TLS can begin only once, remove one";
            report.error(&path, message);
        }
        seen = true;
    }
}

/// All labels of a module end up on one series, so a name may be used once.
fn labels_once(module: &Module, path: &YamlPath<'_>, report: &mut Report) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, step) in module.query_response.iter().enumerate() {
        for (name, _) in step.labels.iter().flatten() {
            if seen.contains(&name.as_str()) {
                let step = path.index(index);
                let message = format!("label `{name}` is given twice in this module: rename one");
                report.error(&step.key("labels"), message);
            }
            seen.push(name);
        }
    }
}

fn tls_settings(keys: TlsKeys, path: &YamlPath<'_>, report: &mut Report) -> TlsSettings {
    let mut pem = |names: [&str; 3], inline: Option<Secret<Text>>, others: [Option<Text>; 2]| {
        pem(names, inline, others, path, report)
    };
    let settings = TlsSettings {
        ca: pem(["ca", "ca_file", "ca_ref"], keys.ca.map(Secret::new), [keys.ca_file, keys.ca_ref]),
        cert: pem(
            ["cert", "cert_file", "cert_ref"],
            keys.cert.map(Secret::new),
            [keys.cert_file, keys.cert_ref],
        ),
        key: pem(["key", "key_file", "key_ref"], keys.key, [keys.key_file, keys.key_ref]),
        server_name: keys.server_name.map(|text| text.0).filter(|name| !name.is_empty()),
        insecure_skip_verify: keys.insecure_skip_verify.is_some_and(|flag| flag.0),
        min_version: keys.min_version.map(|choice| choice.0),
        max_version: keys.max_version.map(|choice| choice.0),
    };
    if settings.cert.is_some() != settings.key.is_some() {
        let (given, missing) =
            if settings.cert.is_some() { ("cert", "key") } else { ("key", "cert") };
        let message = format!(
            "`{given}` without `{missing}`: a client certificate needs both, add `{missing}_file`"
        );
        report.error(path, message);
    }
    let max_path = path.key("max_version");
    match settings.max_version {
        Some(max) if max < settings.min_version.unwrap_or(TlsVersion::Tls10) => {
            let message = "`max_version` is below `min_version`: every handshake will fail";
            report.warn(&max_path, message);
        }
        Some(TlsVersion::Tls10 | TlsVersion::Tls11) => {
            let message = "this exporter speaks TLS 1.2 and 1.3: every handshake will fail";
            report.warn(&max_path, message);
        }
        Some(TlsVersion::Tls12 | TlsVersion::Tls13) | None => {}
    }
    settings
}

/// One of inline text, file and reference.
fn pem(
    names: [&str; 3],
    text: Option<Secret<Text>>,
    [in_file, in_manager]: [Option<Text>; 2],
    path: &YamlPath<'_>,
    report: &mut Report,
) -> Option<PemSource> {
    let given = |text: Option<Text>| text.map(|text| text.0).filter(|text| !text.is_empty());
    let text = text.map(|text| text.map(|Text(text)| text));
    let sources = [
        text.filter(|text| !text.expose().is_empty()).map(PemSource::Inline),
        given(in_file).map(|path| PemSource::File(PathBuf::from(path))),
        given(in_manager).map(PemSource::Reference),
    ];
    let [inline, file, reference] = names;
    let mut found: Option<PemSource> = None;
    for (name, source) in names.into_iter().zip(sources) {
        let Some(source) = source else { continue };
        if found.is_some() {
            let message = format!(
                "at most one of `{inline}`, `{file}` and `{reference}` can be given: remove one"
            );
            report.error(&path.key(name), message);
            continue;
        }
        if name == reference {
            let message = "this exporter has no secret manager, so every probe will be \
                           inconclusive: name a file";
            report.warn(&path.key(name), message);
        }
        found = Some(source);
    }
    found
}
