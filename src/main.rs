//! The command line in, an exit code out.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use listenfd::ListenFd;
use tcp_probe_exporter::cli::report::counted;
use tcp_probe_exporter::cli::{self, UsageError, Wish};
use tcp_probe_exporter::config::{Config, Loaded};
use tcp_probe_exporter::config_handle::warn_of;
use tcp_probe_exporter::http::web::Web;
use tcp_probe_exporter::settings::Settings;
use tcp_probe_exporter::{log, run};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Wish::Serve(settings)) => match log::start(settings.log) {
            Ok(log) => {
                let ended = serve(*settings);
                if let Err(message) = &ended {
                    error!("{message}");
                }
                log.finish();
                if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(err) => {
                say(&format!("tcp_probe_exporter: error: cannot start the log: {err}"));
                ExitCode::FAILURE
            }
        },
        Ok(Wish::Check { config_file, web_config_file }) => {
            check(config_file.as_deref(), web_config_file.as_deref())
        }
        Ok(Wish::Probe(words)) => cli::probe::run(&words),
        Ok(Wish::Healthcheck(words)) => cli::healthcheck::run(&words),
        Ok(Wish::Print(text)) => print(&text),
        Err(UsageError { message, exit_code }) => {
            say(&format!("tcp_probe_exporter: error: {message}, try --help"));
            ExitCode::from(exit_code)
        }
    }
}

fn serve(settings: Settings) -> Result<(), String> {
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    if let Some(warning) = &settings.log_warning {
        warn!("{warning}");
    }
    let Loaded { config, warnings } = Config::load_in_time(settings.config_file.as_deref())
        .map_err(|diagnostics| {
            for diagnostic in diagnostics {
                error!(error = %diagnostic, "configuration");
            }
            "error loading config".to_owned()
        })?;
    warn_of(&warnings);
    let web = Web::load(settings.web_config_file.as_deref())
        .map_err(|err| format!("error loading web configuration: {err}"))?;
    let listeners = if settings.systemd_socket {
        handed_over().map_err(|err| format!("cannot take sockets from systemd: {err}"))?
    } else {
        settings
            .listen
            .iter()
            .map(|listener| {
                listener.bind().map_err(|err| format!("cannot listen on {listener}: {err}"))
            })
            .collect::<Result<_, _>>()?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|err| format!("cannot start the runtime: {err}"))?;
    let result = runtime.block_on(async {
        let first = Signals::new().map_err(|err| format!("cannot wait for signals: {err}"))?;
        let second = Signals::new().map_err(|err| format!("cannot wait for signals: {err}"))?;
        let shutdown = async {
            first.wait(1).await;
            info!("shutting down, once more to end at once");
        };
        tokio::select! {
            ended = run(settings, config, web, listeners, shutdown) => ended.map_err(|err| err.to_string()),
            () = second.wait(2) => Ok(()),
        }
    });
    // A look-up of a name or a file may hang on its thread; the end does not wait for it.
    runtime.shutdown_background();
    result
}

/// The listening sockets that systemd hands over.
fn handed_over() -> io::Result<Vec<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        if let Some(listener) = sockets.take_tcp_listener(index)? {
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
    }
    if listeners.is_empty() {
        return Err(io::Error::other("there are none; start it through a socket unit"));
    }
    Ok(listeners)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self, count: usize) {
        for _ in 0..count {
            tokio::select! {
                _ = self.terminate.recv() => (),
                _ = self.interrupt.recv() => (),
            }
        }
    }
}

/// Both files are looked at, whatever is wrong with the first.
fn check(config_file: Option<&Path>, web_config_file: Option<&Path>) -> ExitCode {
    let web = Web::load(web_config_file);
    if let Err(message) = &web {
        say(&format!("error: {message}"));
    }
    match Config::load_in_time(config_file) {
        Ok(Loaded { config, warnings }) => {
            for warning in warnings {
                say(&format!("warning: {warning}"));
            }
            if web.is_err() {
                return ExitCode::FAILURE;
            }
            let targets: usize =
                config.monitors.iter().map(|monitor| monitor.endpoints.len()).sum();
            print(&format!(
                "the configuration is good: {}, {} with {}\n",
                counted(config.modules.len(), "module"),
                counted(config.monitors.len(), "monitor"),
                counted(targets, "target"),
            ))
        }
        Err(diagnostics) => {
            for diagnostic in diagnostics {
                say(&format!("error: {diagnostic}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// To standard output; a reader that left early is no error.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
