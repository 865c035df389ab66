//! `tcp_probe_exporter healthcheck`: asks the exporter of this machine whether it is healthy, for
//! containers, which have no other program to ask with.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::access::Access;
use crate::address::Address;
use crate::http::url::{ListenAddress, RoutePrefix};
use crate::http::web::Web;
use crate::module::pattern::Pattern;
use crate::module::{Expect, Module, Send, Step, TlsSettings};
use crate::outcome::ProbeResult;
use crate::prober::journal::Journal;
use crate::prober::{Probe, Prober};
use crate::secret::Secret;

/// A server that takes longer than this is not healthy.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The words after `healthcheck`: the flags of the exporter that say where it listens.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 if it is healthy, 1 if not.")]
pub struct Words {
    /// The address that the exporter listens on.
    #[arg(
        long = "web.listen-address",
        value_name = "HOST:PORT",
        default_value = ":10115",
        value_parser = ListenAddress::parse
    )]
    listen: ListenAddress,
    /// Its file with TLS settings.
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Its prefix of all routes.
    #[arg(long = "web.route-prefix", value_name = "PATH", default_value = "")]
    route_prefix: String,
}

/// Asks, and says what is wrong.
#[must_use]
pub fn run(words: &Words) -> ExitCode {
    match ask(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr().lock(), "tcp_probe_exporter: unhealthy: {message}");
            ExitCode::FAILURE
        }
    }
}

fn ask(words: &Words) -> Result<(), String> {
    let web = Web::load(words.web_config_file.as_deref())?;
    let path = format!("{}-/healthy", RoutePrefix::new(&words.route_prefix).as_str());
    let module = request(&path, web.tls().is_some())?;
    let address = Address::parse(&words.listen.local())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| format!("cannot start the runtime: {err}"))?;
    let prober = Arc::new(Prober::default());
    let access = Access::unrestricted();
    let probe = Probe {
        address: &address,
        module: &module,
        hostname: None,
        timeout: TIMEOUT,
        access: &access,
    };
    let mut journal = Journal::off();
    let result: Option<ProbeResult> = runtime.block_on(async {
        tokio::select! {
            result = prober.probe(probe, &mut journal) => Some(result),
            () = prober.run_beside() => None,
        }
    });
    runtime.shutdown_background();
    let Some(result) = result else { return Err("the probe came to no end".to_owned()) };
    match result.outcome.cause() {
        None => Ok(()),
        Some((reason, phase)) => {
            let detail = result.detail.as_deref().unwrap_or_default();
            Err(format!("{address}: {reason} in {phase}: {detail}"))
        }
    }
}

/// One request of HTTP as an exchange. A server that asks for a password is alive.
fn request(path: &str, tls: bool) -> Result<Module, String> {
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = Pattern::parse(r"^HTTP/1\.1 (200|401) ")?;
    let ask = Step { send: Some(Send::Bytes(Secret::new(text.into_bytes()))), ..Step::default() };
    let hear = Step { expect: Some(Expect::Line(answer)), ..Step::default() };
    // Its certificate is for others: this is the same machine.
    let settings = TlsSettings { insecure_skip_verify: true, ..TlsSettings::default() };
    Ok(Module {
        tls,
        tls_settings: Arc::new(settings),
        query_response: vec![ask, hear],
        ..Module::connect("healthcheck")
    })
}
