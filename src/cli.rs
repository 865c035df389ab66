//! The command line, in the conventions of Prometheus exporters.
//!
//! Only this module and `main` know clap. It turns words into [`Settings`] and does nothing else.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tracing::Level;

use crate::config;
use crate::http::url::{ExternalUrl, ListenAddress};
use crate::log::{self, LogSettings};
use crate::monitor::Shard;
use crate::settings::Settings;

pub mod healthcheck;
pub mod probe;
pub mod report;

/// A Prometheus exporter that tells whether TCP ports accept connections, and why not.
#[derive(Debug, Parser)]
#[command(
    name = "tcp_probe_exporter",
    version,
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Words {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Probes from the terminal, once or again and again, and says why a port is not open.
    Probe(probe::Words),
    /// Asks the exporter of this machine whether it is healthy. Takes its flags of the same name.
    Healthcheck(healthcheck::Words),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
    /// Prints the JSON schema of the configuration file, for editors.
    #[command(hide = true)]
    Schema,
}

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors what the user typed")]
struct Serve {
    /// Configuration file. Without it: the embedded modules and no monitors.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Check the configuration, and the file of --web.config.file if given: print a summary and
    /// everything that is wrong, and end.
    #[arg(long = "config.check", overrides_with = "no_config_check")]
    config_check: bool,
    #[arg(long = "no-config.check", hide = true)]
    no_config_check: bool,
    /// Reload the configuration when its files change.
    #[arg(long = "config.enable-auto-reload", overrides_with = "no_auto_reload")]
    auto_reload: bool,
    #[arg(long = "no-config.enable-auto-reload", hide = true)]
    no_auto_reload: bool,
    /// How often the files are looked at: seconds, or a duration as 30s.
    #[arg(
        long = "config.auto-reload-interval",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = seconds
    )]
    auto_reload_interval: Duration,
    /// Address to listen on; may be repeated.
    #[arg(
        long = "web.listen-address",
        value_name = "HOST:PORT",
        default_value = ":10115",
        value_parser = ListenAddress::parse
    )]
    listen: Vec<ListenAddress>,
    /// Take the listening sockets from systemd. Needs --web.external-url.
    #[arg(long = "web.systemd-socket", overrides_with = "no_systemd_socket")]
    systemd_socket: bool,
    #[arg(long = "no-web.systemd-socket", hide = true)]
    no_systemd_socket: bool,
    /// File with TLS and basic auth settings of the web server.
    #[arg(long = "web.config.file", value_name = "FILE", default_value = "")]
    web_config_file: String,
    /// The URL under which others reach this exporter, for links and redirects.
    #[arg(long = "web.external-url", value_name = "URL", default_value = "")]
    external_url: String,
    /// Prefix of all routes. Default: the path of --web.external-url.
    #[arg(long = "web.route-prefix", value_name = "PATH")]
    route_prefix: Option<String>,
    /// Seconds subtracted from the scrape timeout, to answer before Prometheus gives up.
    #[arg(
        long = "timeout-offset",
        value_name = "SECONDS",
        default_value_t = 0.5,
        allow_negative_numbers = true
    )]
    timeout_offset: f64,
    /// How many results of /probe are kept for the status page and /logs.
    #[arg(long = "history.limit", value_name = "COUNT", default_value_t = 100)]
    history_limit: u32,
    /// Least level of the log lines about single probes: debug, info, warn, error.
    #[arg(long = "log.prober", value_name = "LEVEL", default_value = "info")]
    log_prober: String,
    /// Least level of the log: debug, info, warn, error.
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info", value_parser = log::level)]
    log_level: Level,
    /// Form of the log: logfmt, json.
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        default_value = "logfmt",
        value_parser = clap::builder::NonEmptyStringValueParser::new().try_map(|it| it.parse::<log::Format>())
    )]
    log_format: log::Format,
    /// Which share of the monitors to probe, from 0.
    #[arg(long = "shard", value_name = "INDEX", default_value_t = 0)]
    shard: u32,
    /// Among how many exporters the monitors are shared out.
    #[arg(long = "total-shards", value_name = "COUNT", default_value = "1")]
    total_shards: NonZeroU32,
    /// Print the version and end.
    #[arg(long = "version")]
    version: bool,
}

/// What the user wants.
#[derive(Debug)]
pub enum Wish {
    /// Serve.
    Serve(Box<Settings>),
    /// Check the files and end.
    Check {
        /// The configuration.
        config_file: Option<PathBuf>,
        /// TLS and basic auth of the web server.
        web_config_file: Option<PathBuf>,
    },
    /// Probe from the terminal.
    Probe(probe::Words),
    /// Ask whether the exporter is healthy.
    Healthcheck(healthcheck::Words),
    /// Print this text and end well.
    Print(String),
}

/// A command line that cannot be followed.
#[derive(Debug, Eq, PartialEq)]
pub struct UsageError {
    /// One line.
    pub message: String,
    /// What the process ends with.
    pub exit_code: u8,
}

/// Reads the command line.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Wish, UsageError> {
    let words: Vec<OsString> = words.into_iter().collect();
    let exit_code = if words.get(1).is_some_and(|it| it == "probe") { 2 } else { 1 };
    let usage = |message: String| UsageError { message, exit_code };
    let Words { serve, command } = match Words::try_parse_from(words) {
        Ok(words) => words,
        Err(err) if err.kind() == ErrorKind::DisplayHelp => {
            return Ok(Wish::Print(err.to_string()));
        }
        Err(err) => return Err(usage(one_line(&err))),
    };
    match command {
        Some(Command::Probe(words)) => Ok(Wish::Probe(words)),
        Some(Command::Healthcheck(words)) => Ok(Wish::Healthcheck(words)),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut Words::command(),
                "tcp_probe_exporter",
                &mut script,
            );
            Ok(Wish::Print(String::from_utf8_lossy(&script).into_owned()))
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Words::command()).render(&mut page) {
                Ok(()) => Ok(Wish::Print(String::from_utf8_lossy(&page).into_owned())),
                Err(err) => Err(usage(err.to_string())),
            }
        }
        Some(Command::Schema) => Ok(Wish::Print(config::json_schema())),
        None if serve.version => Ok(Wish::Print(version())),
        None if serve.config_check => Ok(Wish::Check {
            web_config_file: serve.web_config_file(),
            config_file: serve.config_file,
        }),
        None => serve.settings().map(|it| Wish::Serve(Box::new(it))).map_err(usage),
    }
}

impl Serve {
    fn web_config_file(&self) -> Option<PathBuf> {
        Some(&self.web_config_file).filter(|file| !file.is_empty()).map(PathBuf::from)
    }

    fn settings(self) -> Result<Settings, String> {
        let shard = Shard::new(self.shard, self.total_shards).ok_or_else(|| {
            format!("--shard {} must be less than --total-shards {}", self.shard, self.total_shards)
        })?;
        let external_url = match self.external_url.as_str() {
            "" => None,
            url => {
                Some(ExternalUrl::parse(url).map_err(|err| format!("--web.external-url: {err}"))?)
            }
        };
        if self.systemd_socket && external_url.is_none() {
            return Err("--web.systemd-socket needs --web.external-url".to_owned());
        }
        let (probe, log_warning) = match log::level(&self.log_prober) {
            Ok(level) => (level, None),
            Err(err) => (Level::INFO, Some(format!("--log.prober: {err}; `info` is used"))),
        };
        let web_config_file = self.web_config_file();
        Ok(Settings {
            config_file: self.config_file,
            auto_reload: self.auto_reload.then_some(self.auto_reload_interval),
            listen: self.listen,
            systemd_socket: self.systemd_socket,
            web_config_file,
            external_url,
            route_prefix: self.route_prefix,
            timeout_offset_seconds: self.timeout_offset,
            history_limit: self.history_limit,
            log: LogSettings { format: self.log_format, level: self.log_level, probe },
            log_warning,
            shard,
        })
    }
}

/// Reads `30` or `30s`, the two ways in which people write the interval.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('s').unwrap_or(text).parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(format!("`{text}` is no number of seconds above 0")),
    }
}

/// clap explains itself over several lines; ours is one.
fn one_line(err: &clap::Error) -> String {
    let text = err.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraph: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

fn version() -> String {
    format!(
        "tcp_probe_exporter, version {} (branch: {}, revision: {})\n  \
         rust version:     {}\n  platform:         {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("BUILD_BRANCH").unwrap_or("unknown"),
        option_env!("BUILD_REVISION").unwrap_or("unknown"),
        option_env!("BUILD_RUSTC").unwrap_or(concat!("at least ", env!("CARGO_PKG_RUST_VERSION"))),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(words: &[&str]) -> Result<Wish, UsageError> {
        parse(["tcp_probe_exporter"].iter().chain(words).map(OsString::from))
    }

    fn settings(words: &[&str]) -> Settings {
        match wish(words) {
            Ok(Wish::Serve(settings)) => *settings,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_error(words: &[&str], expected: &str) {
        assert_eq!(wish(words).unwrap_err().message, expected);
    }

    #[test]
    fn the_definition_is_sound() {
        Words::command().debug_assert();
    }

    #[test]
    fn a_boolean_has_a_negation_and_takes_no_value() {
        assert!(settings(&["--config.enable-auto-reload"]).auto_reload.is_some());
        assert!(settings(&["--no-config.enable-auto-reload"]).auto_reload.is_none());
        check_error(
            &["--config.enable-auto-reload=true"],
            "unexpected value 'true' for '--config.enable-auto-reload' found; no more were expected",
        );
    }

    #[test]
    fn a_value_follows_a_blank_or_an_equals_sign() {
        for words in [&["--history.limit=7"][..], &["--history.limit", "7"]] {
            assert_eq!(settings(words).history_limit, 7);
        }
        let offset = settings(&["--timeout-offset", "-1.5"]).timeout_offset_seconds;
        assert_eq!(offset.to_string(), "-1.5");
    }

    #[test]
    fn the_reload_interval_is_seconds_with_or_without_a_unit() {
        for interval in ["5", "5s"] {
            let words = ["--config.enable-auto-reload", "--config.auto-reload-interval", interval];
            assert_eq!(settings(&words).auto_reload, Some(Duration::from_secs(5)));
        }
        check_error(
            &["--config.auto-reload-interval=0"],
            "invalid value '0' for '--config.auto-reload-interval <SECONDS>': \
             `0` is no number of seconds above 0",
        );
    }

    #[test]
    fn errors_are_one_line() {
        check_error(
            &["--history.limit=1", "--history.limit=2"],
            "the argument '--history.limit <COUNT>' cannot be used multiple times",
        );
        check_error(&["--no-such-flag"], "unexpected argument '--no-such-flag' found");
        check_error(&["stray"], "unrecognized subcommand 'stray'");
        check_error(
            &["--log.level=loud"],
            "invalid value 'loud' for '--log.level <LEVEL>': \
             `loud` is no log level, there are `debug`, `info`, `warn`, `error`",
        );
        check_error(
            &["--shard=2", "--total-shards=2"],
            "--shard 2 must be less than --total-shards 2",
        );
        check_error(&["--web.systemd-socket"], "--web.systemd-socket needs --web.external-url");
    }

    #[test]
    fn a_bad_level_of_the_probe_log_only_warns() {
        let settings = settings(&["--log.prober=loud"]);
        assert_eq!(settings.log.probe, Level::INFO);
        assert!(settings.log_warning.is_some());
    }

    #[test]
    fn several_listen_addresses() {
        let words = ["--web.listen-address=:1", "--web.listen-address", "[::1]:2"];
        let listen: Vec<String> = settings(&words).listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, [":1", "[::1]:2"]);
    }

    #[test]
    fn usage_errors_of_the_probe_command_end_with_2() {
        assert_eq!(wish(&["probe"]).unwrap_err().exit_code, 2);
        assert_eq!(wish(&["--bad"]).unwrap_err().exit_code, 1);
    }
}
