//! The web configuration file: TLS, passwords, headers and rate of the server, in the format of
//! Prometheus' exporter-toolkit. Read again when it changes; a file that is wrong then leaves the
//! old one in force, and so does one that protects less: an emptied or cut file looks the same.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_yaml::Mapping;
use tokio_rustls::TlsAcceptor;

use crate::files::{LoadThreads, Sources, Watched};
use crate::http::answer::{Body, text};
use crate::http::passwords::Passwords;
use crate::http::shares::Client;
use crate::http::tls::{self, TlsServerConfig};
use crate::limits::WEB_CONFIG_BYTES;
use crate::secret::Secret;
use crate::telemetry::Telemetry;

/// The headers that may be set.
const HEADERS: [&str; 5] = [
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Content-Security-Policy",
];

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<TlsServerConfig>,
    http_server_config: HttpServerConfig,
    basic_auth_users: Secret<Mapping>,
    rate_limit: RateLimit,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpServerConfig {
    http2: bool,
    headers: Mapping,
}

impl Default for HttpServerConfig {
    fn default() -> Self {
        Self { http2: true, headers: Mapping::new() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RateLimit {
    burst: u32,
    interval: Option<String>,
}

/// What a file says, ready for use.
#[derive(Default)]
struct Settings {
    tls: Option<TlsAcceptor>,
    /// Names with their bcrypt hashes.
    users: Vec<(String, Secret<String>)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    bucket: Option<Bucket>,
    /// What holds strangers off, in the words of the file.
    protections: Vec<&'static str>,
}

/// The web configuration in force.
#[derive(Default)]
pub struct Web {
    file: Option<Watched<Settings>>,
    /// Without a file: no protection, no headers.
    plain: Arc<Settings>,
    passwords: Passwords,
}

impl fmt::Debug for Web {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Web {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path.map(Path::to_owned) else { return Ok(Self::default()) };
        let file =
            Watched::new("web configuration", &LoadThreads::default(), move |sources, old| {
                Settings::load(&path, old, sources)
            });
        file.start().map_err(|err| err.to_string())?;
        Ok(Self { file: Some(file), ..Self::default() })
    }

    /// Follows changes of the file for ever.
    pub async fn watch(self: Arc<Self>, telemetry: Arc<Telemetry>) {
        let Some(file) = &self.file else { return };
        file.watch(|err| telemetry.web_reloaded(err.is_none())).await;
    }

    fn settings(&self) -> Arc<Settings> {
        let in_force = self.file.as_ref().and_then(Watched::current);
        in_force.unwrap_or_else(|| Arc::clone(&self.plain))
    }

    /// How to speak TLS; `None` for plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<TlsAcceptor> {
        self.settings().tls.clone()
    }

    /// Whether only users with a password, or clients with a certificate, get an answer.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        !self.settings().users.is_empty()
    }

    /// Judges who asks, and how often.
    ///
    /// # Errors
    /// The answer that says no.
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        client: Client,
    ) -> Result<(), Box<Response<Body>>> {
        let settings = self.settings();
        if settings.bucket.as_ref().is_some_and(|it| !it.take(Instant::now())) {
            return Err(Box::new(text(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests\n")));
        }
        if settings.users.is_empty() {
            return Ok(());
        }
        let verdict = match credentials(headers) {
            Some((user, password)) => {
                self.passwords.check(&settings.users, &user, &password, client).await
            }
            None => Some(false),
        };
        match verdict {
            Some(true) => Ok(()),
            Some(false) => {
                let mut response = text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
                let basic = HeaderValue::from_static("Basic");
                response.headers_mut().insert(WWW_AUTHENTICATE, basic);
                Err(Box::new(response))
            }
            None => {
                let busy = "too many passwords wait to be checked\n";
                Err(Box::new(text(StatusCode::SERVICE_UNAVAILABLE, busy)))
            }
        }
    }

    /// Adds the headers that the file asks for.
    pub fn decorate(&self, response: &mut Response<Body>) {
        for (name, value) in &self.settings().headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

impl Settings {
    fn load(path: &Path, old: Option<&Self>, sources: &mut Sources) -> Result<Self, String> {
        let place = |err: String| format!("{}: {err}", path.display());
        let content = sources.read(path, WEB_CONFIG_BYTES).map_err(|err| place(err.to_string()))?;
        let content = String::from_utf8(content).map_err(|err| place(err.to_string()))?;
        let file: Option<File> =
            serde_yaml::from_str(&content).map_err(|err| place(err.to_string()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let settings = Self::build(file.unwrap_or_default(), directory, sources).map_err(place)?;
        settings.check_protections(old).map_err(place)?;
        Ok(settings)
    }

    /// A file that was emptied or cut is still well-formed, and would open the server.
    fn check_protections(&self, old: Option<&Self>) -> Result<(), String> {
        let old = old.map_or(&[][..], |old| &old.protections);
        let lost: Vec<&str> =
            old.iter().filter(|word| !self.protections.contains(word)).copied().collect();
        if lost.is_empty() {
            return Ok(());
        }
        let lost = lost.join("`, `");
        Err(format!("`{lost}` in force but no longer in the file: restart to remove protection"))
    }

    fn build(file: File, directory: &Path, sources: &mut Sources) -> Result<Self, String> {
        let File { tls_server_config, http_server_config, basic_auth_users, rate_limit } = file;
        let tls_config = tls_server_config.filter(|config| !config.is_empty());
        let tls = tls_config
            .as_ref()
            .map(|config| tls::acceptor(config, directory, http_server_config.http2, sources))
            .transpose()
            .map_err(|err| format!("tls_server_config.{err}"))?;
        let users = pairs(basic_auth_users.expose(), "basic_auth_users")?;
        for (user, hash) in &users {
            if hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(format!("basic_auth_users.{user}: is no bcrypt hash"));
            }
        }
        let users: Vec<_> =
            users.into_iter().map(|(user, hash)| (user, Secret::new(hash))).collect();
        let headers = pairs(&http_server_config.headers, "http_server_config.headers")?
            .iter()
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;
        let bucket = Bucket::new(&rate_limit)?;
        let mut protections = tls_config.as_ref().map_or(Vec::new(), TlsServerConfig::protections);
        protections.extend((!users.is_empty()).then_some("basic_auth_users"));
        protections.extend(bucket.is_some().then_some("rate_limit"));
        Ok(Self { tls, users, headers, bucket, protections })
    }
}

/// The pairs of a mapping of texts. Its reader has refused duplicate keys.
fn pairs(mapping: &Mapping, path: &str) -> Result<Vec<(String, String)>, String> {
    mapping
        .iter()
        .map(|(key, value)| {
            let key = key.as_str().ok_or_else(|| format!("{path}: a key is no text"))?;
            let value = value.as_str().ok_or_else(|| format!("{path}.{key}: is no text"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let path = format!("http_server_config.headers.{name}");
    let Some(known) = HEADERS.iter().find(|it| it.eq_ignore_ascii_case(name)) else {
        return Err(format!("{path}: cannot be set, only `{}`", HEADERS.join("`, `")));
    };
    let allowed: &[&str] = match *known {
        "X-Content-Type-Options" => &["nosniff"],
        "X-Frame-Options" => &["deny", "sameorigin"],
        _ => &[],
    };
    if !allowed.is_empty() && !allowed.iter().any(|it| it.eq_ignore_ascii_case(value)) {
        return Err(format!("{path}: must be `{}`", allowed.join("` or `")));
    }
    let value = HeaderValue::from_str(value).map_err(|_| format!("{path}: is no header value"))?;
    let name = HeaderName::from_bytes(known.as_bytes()).map_err(|err| format!("{path}: {err}"))?;
    Ok((name, value))
}

/// User and password of `Authorization: Basic`.
fn credentials(headers: &HeaderMap) -> Option<(String, Secret<String>)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned().into()))
}

/// A token bucket over all requests.
struct Bucket {
    burst: u32,
    /// Time in which one token comes back.
    interval: Duration,
    /// Tokens, and when they were counted.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new(limit: &RateLimit) -> Result<Option<Self>, String> {
        let Some(text) = &limit.interval else { return Ok(None) };
        let interval = go_duration(text)
            .ok_or_else(|| format!("rate_limit.interval: `{text}` is no duration: write `1s`"))?;
        if interval.is_zero() {
            return Ok(None);
        }
        if limit.burst == 0 {
            return Err("rate_limit.burst: must be at least 1".to_owned());
        }
        let state = Mutex::new((f64::from(limit.burst), Instant::now()));
        Ok(Some(Self { burst: limit.burst, interval, state }))
    }

    fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, counted) = *state;
        let come_back =
            now.saturating_duration_since(counted).as_secs_f64() / self.interval.as_secs_f64();
        let tokens = (tokens + come_back).min(f64::from(self.burst));
        let enough = tokens >= 1.0;
        *state = (if enough { tokens - 1.0 } else { tokens }, now);
        enough
    }
}

/// Reads `1s`, `250ms`, `1m30s`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| it.is_ascii_alphabetic())?;
        let number: f64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].find(|it: char| !it.is_ascii_alphabetic());
        let (unit, after) = rest[digits..].split_at(letters.unwrap_or(rest.len() - digits));
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = after;
    }
    (!text.is_empty()).then_some(())?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, expected: &str) {
        let file: Result<Option<File>, _> = serde_yaml::from_str(yaml);
        let built = file.map_err(|err| err.to_string()).and_then(|file| {
            let directory = Path::new("/nowhere");
            Settings::build(file.unwrap_or_default(), directory, &mut Sources::default())
        });
        assert_eq!(built.map_or_else(|err| err, |_| "good".to_owned()), expected, "{yaml}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("", "good");
        check("http_server_config: {headers: {X-Frame-Options: deny}}", "good");
        check(
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "http_server_config.headers.X-Frame-Options: must be `deny` or `sameorigin`",
        );
        check(
            "http_server_config: {headers: {Server: me}}",
            "http_server_config.headers.Server: cannot be set, only `Strict-Transport-Security`, \
             `X-Content-Type-Options`, `X-Frame-Options`, `X-XSS-Protection`, \
             `Content-Security-Policy`",
        );
        check("basic_auth_users: {a: secret}", "basic_auth_users.a: is no bcrypt hash");
        check("rate_limit: {interval: 1s}", "rate_limit.burst: must be at least 1");
        check(
            "rate_limit: {interval: x, burst: 1}",
            "rate_limit.interval: `x` is no duration: write `1s`",
        );
        check("tls_server_config: {}", "good");
        check(
            "tls_server_config: {cert_file: a}",
            "tls_server_config.key: missing, give `key` or `key_file`",
        );
        check(
            "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
            "tls_server_config.min_version: `TLS10` is not spoken here, `TLS12`, `TLS13` are",
        );
        check(
            "tls_server_config: {cert_file: a, key_file: b}",
            "tls_server_config.cert: `/nowhere/a`: No such file or directory (os error 2)",
        );
    }

    #[test]
    fn a_reload_takes_no_protection_away() {
        let settings = |yaml: &str| {
            let file: Option<File> = serde_yaml::from_str(yaml).unwrap();
            let directory = Path::new("/nowhere");
            Settings::build(file.unwrap_or_default(), directory, &mut Sources::default()).unwrap()
        };
        let hash = bcrypt::hash("secret", 4).unwrap();
        let users = format!("basic_auth_users: {{a: '{hash}'}}\n");
        let both = format!("{users}rate_limit: {{interval: 1s, burst: 9}}\n");
        let (none, users, both) = (settings(""), settings(&users), settings(&both));
        for (old, new) in [(&none, &none), (&none, &both), (&users, &both), (&both, &both)] {
            assert_eq!(new.check_protections(Some(old)), Ok(()));
        }
        let check = |new: &Settings, lost: &str| {
            let expected = format!(
                "`{lost}` in force but no longer in the file: restart to remove protection"
            );
            assert_eq!(new.check_protections(Some(&both)), Err(expected));
        };
        check(&none, "basic_auth_users`, `rate_limit");
        check(&users, "rate_limit");
        assert_eq!(none.check_protections(None), Ok(()));
    }

    #[test]
    fn unknown_and_duplicate_keys_are_refused() {
        for yaml in
            ["nonsense: 1", "tls_server_config: {certfile: a}", "basic_auth_users: {a: b, a: c}"]
        {
            assert!(serde_yaml::from_str::<File>(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn a_bucket_refills() {
        let limit = RateLimit { burst: 2, interval: Some("1s".to_owned()) };
        let bucket = Bucket::new(&limit).unwrap().unwrap();
        let start = Instant::now() + Duration::from_secs(1);
        let after = |seconds| start + Duration::from_secs(seconds);
        let taken: Vec<bool> = [0, 0, 0, 1, 1, 9, 9, 9].map(|it| bucket.take(after(it))).to_vec();
        assert_eq!(taken, [true, true, false, true, false, true, true, false]);
    }

    #[test]
    fn credentials_are_read() {
        let read = |value: &str| {
            credentials(&HeaderMap::from_iter([(
                AUTHORIZATION,
                HeaderValue::from_str(value).unwrap(),
            )]))
        };
        let expected = Some(("user".to_owned(), "pass:word".to_owned().into()));
        assert_eq!(read("Basic dXNlcjpwYXNzOndvcmQ="), expected);
        assert_eq!(read("basic dXNlcjpwYXNzOndvcmQ="), expected);
        for bad in ["Basic", "Basic !", "Bearer x", "Basic dXNlcg=="] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
