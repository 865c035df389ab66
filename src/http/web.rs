//! The web configuration file: TLS, passwords, headers and rate of the server, in the format of
//! Prometheus' exporter-toolkit. Read again when it changes; a file that is wrong then leaves the
//! old one in force.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_yaml::Mapping;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::http::answer::{Body, text};
use crate::http::passwords::Passwords;
use crate::http::shares::Client;
use crate::http::tls::{self, TlsServerConfig};

/// How often the file, and those it names, are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    basic_auth_users: Mapping,
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

/// A file, and what it looked like when it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Stamp {
    path: PathBuf,
    seen: Option<(u64, std::time::SystemTime, u64)>,
}

impl Stamp {
    fn of(path: PathBuf) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let seen =
            fs::metadata(&path).ok().and_then(|it| Some((it.len(), it.modified().ok()?, it.ino())));
        Self { path, seen }
    }

    fn is_current(&self) -> bool {
        Self::of(self.path.clone()) == *self
    }
}

/// What a file says, ready for use.
#[derive(Default)]
struct Settings {
    stamps: Vec<Stamp>,
    tls: Option<TlsAcceptor>,
    /// Names with their bcrypt hashes.
    users: Vec<(String, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    bucket: Option<Bucket>,
}

/// The web configuration in force.
#[derive(Default)]
pub struct Web {
    path: Option<PathBuf>,
    settings: ArcSwap<Settings>,
    passwords: Passwords,
}

impl fmt::Debug for Web {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Web {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let settings = path.map(Settings::load).transpose()?.unwrap_or_default();
        Ok(Self {
            path: path.map(Path::to_owned),
            settings: ArcSwap::from_pointee(settings),
            passwords: Passwords::default(),
        })
    }

    /// Follows changes of the file for ever.
    pub async fn watch(self: Arc<Self>) {
        let Some(path) = self.path.clone() else { return };
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let (this, path) = (Arc::clone(&self), path.clone());
            // Files may be on a disk that hangs.
            let _ = tokio::task::spawn_blocking(move || this.follow(&path)).await;
        }
    }

    fn follow(&self, path: &Path) {
        let old = self.settings.load();
        if old.stamps.iter().all(Stamp::is_current) {
            return;
        }
        match Settings::load(path) {
            Ok(settings) => {
                self.settings.store(Arc::new(settings));
                info!("web configuration reloaded");
            }
            Err(err) => {
                error!(error = err, "error reloading web configuration, the old one stays");
                // Told once: the files as they are now count as seen.
                let mut settings = old.renewed();
                for stamp in &mut settings.stamps {
                    *stamp = Stamp::of(stamp.path.clone());
                }
                self.settings.store(Arc::new(settings));
            }
        }
    }

    /// How to speak TLS; `None` for plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<TlsAcceptor> {
        self.settings.load().tls.clone()
    }

    /// Whether only users with a password, or clients with a certificate, get an answer.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        !self.settings.load().users.is_empty()
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
        let settings = self.settings.load_full();
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
        for (name, value) in &self.settings.load().headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

impl Settings {
    fn load(path: &Path) -> Result<Self, String> {
        let place = |err: String| format!("{}: {err}", path.display());
        let content = String::from_utf8(read(path)?).map_err(|err| place(err.to_string()))?;
        let file: Option<File> =
            serde_yaml::from_str(&content).map_err(|err| place(err.to_string()))?;
        let mut settings =
            Self::build(file.unwrap_or_default(), path.parent().unwrap_or(Path::new("")))
                .map_err(place)?;
        settings.stamps.push(Stamp::of(path.to_owned()));
        Ok(settings)
    }

    fn build(file: File, directory: &Path) -> Result<Self, String> {
        let File { tls_server_config, http_server_config, basic_auth_users, rate_limit } = file;
        let mut stamps = Vec::new();
        let tls = tls_server_config
            .filter(|it| !it.is_empty())
            .map(|it| {
                stamps.extend(it.files(directory).map(Stamp::of));
                tls::acceptor(&it, directory, http_server_config.http2)
            })
            .transpose()
            .map_err(|err| format!("tls_server_config.{err}"))?;
        let users = pairs(&basic_auth_users, "basic_auth_users")?;
        for (user, hash) in &users {
            if hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(format!("basic_auth_users.{user}: is no bcrypt hash"));
            }
        }
        let headers = pairs(&http_server_config.headers, "http_server_config.headers")?
            .iter()
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;
        Ok(Self { stamps, tls, users, headers, bucket: Bucket::new(&rate_limit)? })
    }

    /// The same, with a full bucket.
    fn renewed(&self) -> Self {
        Self {
            stamps: self.stamps.clone(),
            tls: self.tls.clone(),
            users: self.users.clone(),
            headers: self.headers.clone(),
            bucket: self.bucket.as_ref().map(Bucket::renewed),
        }
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
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
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

    fn renewed(&self) -> Self {
        let state = Mutex::new((f64::from(self.burst), Instant::now()));
        Self { burst: self.burst, interval: self.interval, state }
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

/// Reads a file of bearable size, named in the error. A pipe, whose reading could last for ever,
/// is none.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let place = |err: &dyn std::fmt::Display| format!("`{}`: {err}", path.display());
    let metadata = fs::metadata(path).map_err(|err: io::Error| place(&err))?;
    if !metadata.is_file() {
        return Err(place(&"it is no regular file"));
    }
    if metadata.len() > MAX_FILE {
        return Err(place(&"it is larger than 1 MiB"));
    }
    fs::read(path).map_err(|err| place(&err))
}

/// Largest file that is read: thousands of users, or a long chain of certificates.
const MAX_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, expected: &str) {
        let file: Result<Option<File>, _> = serde_yaml::from_str(yaml);
        let built = file
            .map_err(|err| err.to_string())
            .and_then(|it| Settings::build(it.unwrap_or_default(), Path::new("/nowhere")));
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
        let expected = Some(("user".to_owned(), "pass:word".to_owned()));
        assert_eq!(read("Basic dXNlcjpwYXNzOndvcmQ="), expected);
        assert_eq!(read("basic dXNlcjpwYXNzOndvcmQ="), expected);
        for bad in ["Basic", "Basic !", "Bearer x", "Basic dXNlcg=="] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
