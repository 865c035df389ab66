//! `tcp_probe_exporter probe`: the prober at a terminal.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use crate::access::Access;
use crate::address::{self, Address};
use crate::cli::report::{self, Colour, Statistics};
use crate::config::{self, Config, ModuleEntry};
use crate::diagnosis::outcome_of;
use crate::evidence::Event;
use crate::explainer::look::{Failure, counter_check};
use crate::explanation::{Explanation, Question};
use crate::limits::Limits;
use crate::module::Module;
use crate::monitor::{Monitor, Target};
use crate::outcome::{Phase, ProbeResult, Reason};
use crate::prober::journal::Journal;
use crate::prober::{Probe, Prober};

/// Probes at once. More would measure this machine, not the network.
const AT_ONCE: usize = 128;
/// Most targets of one call: every port of a host.
const MAX_TARGETS: usize = 65_536;
/// From this many targets on, closed ports are summed up instead of listed.
const MANY: usize = 24;
/// The timeout where neither the flag nor the module sets one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  tcp_probe_exporter probe db.example.com:5432
  tcp_probe_exporter probe db.example.com:22,3306,8000-8010 '[2001:db8::1]:443'
  tcp_probe_exporter probe --module=postgresql --count=10 db.example.com:5432
  tcp_probe_exporter probe --diagnose db.example.com:5432,22
  tcp_probe_exporter probe --json mail.example.com:25 | jq .reason
  tcp_probe_exporter probe --config.file=exporter.yml --monitor=orders-db
  tcp_probe_exporter probe --config.file=exporter.yml --all

Exit codes: 0 if all probes succeed, 1 if some fail, 2 if none fails and some are inconclusive, or
if the command cannot be carried out.";

/// The words after `probe`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command")]
pub struct Words {
    /// What to probe: HOST:PORT, with more ports as HOST:22,80 or HOST:8000-8010.
    #[arg(
        required_unless_present_any = ["monitor", "all"],
        value_name = "HOST:PORT[,PORT|-PORT]"
    )]
    targets: Vec<String>,
    /// Probe what the configuration says of a monitor, with its module and timeout; may be
    /// repeated. Needs --config.file.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["targets", "module", "all"],
        requires = "config_file"
    )]
    monitor: Vec<String>,
    /// Probe every monitor of the configuration, likewise.
    #[arg(long, conflicts_with_all = ["targets", "module"], requires = "config_file")]
    all: bool,
    /// How to probe: a module of the configuration. Default: `tcp_connect`.
    #[arg(long, short, value_name = "NAME")]
    module: Option<String>,
    /// Bound of each probe, as 5s or 500ms. Default: the monitor's or the module's, else 5s.
    #[arg(long, short, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// How often to probe; 0 for until interrupted.
    #[arg(long, short, value_name = "COUNT", default_value_t = 1)]
    count: u64,
    /// Time between two rounds.
    #[arg(long, short, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Follow the path to each target, router by router. Needs no privileges.
    #[arg(long)]
    trace: bool,
    /// Explain each failure: follow the path, and probe again with one thing changed (source port,
    /// segment size, address, other ports given of the same host).
    #[arg(long)]
    diagnose: bool,
    /// Print one JSON object per probe.
    #[arg(long)]
    json: bool,
    /// Configuration file with the module. Without it: the embedded modules.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,
}

/// Reads `500ms`, `5s`, `2m`, `1.5s`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => 0.0,
    };
    let seconds = number.parse::<f64>().unwrap_or(0.0) * factor;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|timeout| !timeout.is_zero() && seconds <= 86_400.0)
        .ok_or_else(|| {
            format!("`{text}` is no duration above 0 and up to a day: write 500ms or 5s")
        })
}

/// One thing to probe, and what became of it so far.
struct Item {
    name: String,
    address: Result<Address, String>,
    module: Arc<Module>,
    timeout: Duration,
    statistics: Statistics,
}

/// Reads `host:port`, `host:port,port` and `host:port-port`.
fn expand(text: &str) -> Vec<(String, Result<Address, String>)> {
    let single = |text: &str| vec![(text.to_owned(), Address::parse(text))];
    let Some((host, ports)) = text.rsplit_once(':') else { return single(text) };
    if address::port(ports).is_ok() {
        return single(text);
    }
    let mut expanded = Vec::new();
    for part in ports.split(',') {
        match part.split_once('-') {
            Some((first, last)) if address::port(part).is_err() => {
                let range = address::port(first)
                    .and_then(|first| Ok(first..=address::port(last)?))
                    .ok()
                    .filter(|range| !first.is_empty() && !last.is_empty() && !range.is_empty());
                match range {
                    Some(range) => {
                        expanded.extend(range.flat_map(|port| single(&format!("{host}:{port}"))));
                    }
                    None => {
                        let error = format!("`{part}` is no range of ports: write 8000-8010");
                        expanded.push((format!("{host}:{part}"), Err(error)));
                    }
                }
            }
            Some(_) | None => expanded.extend(single(&format!("{host}:{part}"))),
        }
        if expanded.len() > MAX_TARGETS {
            break;
        }
    }
    expanded
}

/// Probes and prints. The exit code is 0 if all ports are open, 1 if some are not, 2 if the
/// command cannot be followed or nothing worse happened than that this machine could not look.
#[must_use]
pub fn run(words: &Words) -> ExitCode {
    match prepare(words).and_then(Session::run) {
        Ok([_, 0, 0]) => ExitCode::SUCCESS,
        Ok([_, 0, _]) => ExitCode::from(2),
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            let _ = writeln!(io::stderr().lock(), "tcp_probe_exporter: error: {message}");
            ExitCode::from(2)
        }
    }
}

struct Session<'a> {
    words: &'a Words,
    items: Vec<Item>,
    /// Advice that was given: once per reason.
    advised: BTreeSet<Reason>,
    prober: Arc<Prober>,
    access: Access,
    colour: Colour,
    width: usize,
}

fn prepare(words: &Words) -> Result<Session<'_>, String> {
    let loaded = Config::load_in_time(words.config_file.as_deref()).map_err(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })?;
    let items = if words.all || !words.monitor.is_empty() {
        configured(words, &loaded.config)?
    } else {
        by_hand(words, &loaded.config)?
    };
    if items.len() > MAX_TARGETS {
        return Err(format!("{} targets are too many, {MAX_TARGETS} fit", items.len()));
    }
    if let Some(error) = items.iter().find_map(|item| item.address.as_ref().err()) {
        return Err(error.clone());
    }
    Ok(Session {
        width: items.iter().map(|item| item.name.chars().count()).max().unwrap_or_default(),
        colour: if io::stdout().is_terminal() { Colour::On } else { Colour::Off },
        prober: Arc::default(),
        access: Access::unrestricted(),
        advised: BTreeSet::new(),
        items,
        words,
    })
}

/// The targets on the command line.
fn by_hand(words: &Words, config: &Config) -> Result<Vec<Item>, String> {
    let name = words.module.as_deref().unwrap_or("tcp_connect");
    let module = match config.modules.get(name) {
        Some(ModuleEntry::Tcp(module)) => module,
        Some(ModuleEntry::Other { prober }) => {
            return Err(format!(
                "module `{name}` is for the prober `{prober}`: this exporter probes TCP only"
            ));
        }
        None => {
            let names: Vec<&str> = config.modules.keys().map(|name| &**name).collect();
            return Err(format!("no module `{name}`, there are {}", names.join(", ")));
        }
    };
    let timeout = words.timeout.or(module.timeout).unwrap_or(DEFAULT_TIMEOUT);
    let item = |(name, address)| Item {
        name,
        address,
        module: Arc::clone(module),
        timeout,
        statistics: Statistics::default(),
    };
    Ok(words.targets.iter().flat_map(|text| expand(text)).map(item).collect())
}

/// The targets of the monitors that are asked for, probed as the schedule would.
fn configured(words: &Words, config: &Config) -> Result<Vec<Item>, String> {
    for name in &words.monitor {
        if !config.monitors.iter().any(|monitor| *monitor.name == **name) {
            let names = config.monitors.iter().map(|monitor| &*monitor.name);
            let near = config::nearest(name, names);
            let near = near.map(|near| format!(": did you mean `{near}`?"));
            return Err(format!("no monitor is called `{name}`{}", near.unwrap_or_default()));
        }
    }
    let wanted = |monitor: &&Arc<Monitor>| {
        words.all || words.monitor.iter().any(|name| **name == *monitor.name)
    };
    let item = |target: Target| {
        let (monitor, address) = (&target.monitor, target.address.clone());
        let place = address.to_string();
        Item {
            name: if *monitor.name == *place { place } else { format!("{} {place}", monitor.name) },
            address: Ok(address),
            module: Arc::clone(&monitor.module),
            timeout: words.timeout.unwrap_or(monitor.timeout),
            statistics: Statistics::default(),
        }
    };
    let items: Vec<Item> =
        config.monitors.iter().filter(wanted).flat_map(Monitor::targets).map(item).collect();
    if items.is_empty() {
        return Err("no monitors are configured: add some under `monitors`".to_owned());
    }
    Ok(items)
}

impl Session<'_> {
    /// Returns how many probes had each outcome.
    fn run(mut self) -> Result<[u64; 3], String> {
        let at_once = AT_ONCE.min(Limits::raise().scheduled);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|err| format!("cannot start the runtime: {err}"))?;
        let prober = Arc::clone(&self.prober);
        let ended = runtime.block_on(async {
            let ended = tokio::select! {
                ended = self.rounds(at_once) => ended,
                () = prober.run_beside() => Ok(()),
                // Interrupted by the user, who wants to see what there is.
                _ = tokio::signal::ctrl_c() => Ok(()),
            };
            prober.drain().await;
            ended
        });
        runtime.shutdown_background();
        let mut all = Statistics::default();
        for item in &self.items {
            all.merge(&item.statistics);
        }
        // A reader that left early, `head` for one, is no error.
        let _ = ended.and_then(|()| self.close(&all));
        Ok(all.outcomes())
    }

    async fn rounds(&mut self, at_once: usize) -> io::Result<()> {
        let many = self.is_scan();
        let progress = many && !self.words.json && io::stderr().is_terminal();
        let mut round = 0;
        loop {
            let begin = Instant::now();
            let looker = Looker {
                prober: &self.prober,
                access: &self.access,
                items: &self.items,
                trace: self.words.trace,
                diagnose: self.words.diagnose,
            };
            let looks = self.items.iter().map(|item| looker.look(item));
            let mut results = stream::iter(looks).buffered(at_once).enumerate();
            let mut found = Vec::with_capacity(self.items.len());
            while let Some((index, (result, explanation))) = results.next().await {
                if progress && index % 16 == 0 {
                    let _ = write!(io::stderr().lock(), "\r{index}/{} ", self.items.len());
                }
                let Item { name, module, .. } = &self.items[index];
                let text = if self.words.json {
                    format!("{}\n", report::object(name, &module.name, &result, &explanation))
                } else if many && !result.outcome.is_success() {
                    String::new()
                } else {
                    let cause = result.outcome.cause();
                    let advise = cause.is_some_and(|(reason, _)| self.advised.insert(reason));
                    let explanation = report::explanation(&explanation);
                    report::lines(name, self.width, &result, advise, self.colour) + &explanation
                };
                print(&text, progress)?;
                found.push(result);
            }
            drop(results);
            for (item, result) in self.items.iter_mut().zip(&found) {
                item.statistics.add(result);
            }
            round += 1;
            if round == self.words.count {
                return Ok(());
            }
            sleep_until(begin + self.words.interval).await;
        }
    }

    /// Whether closed ports are summed up: many that nobody configured.
    fn is_scan(&self) -> bool {
        let configured = self.words.all || !self.words.monitor.is_empty();
        !configured && self.items.len() >= MANY
    }

    /// What is said at the end: statistics of several rounds, the sum of many targets.
    fn close(&self, all: &Statistics) -> io::Result<()> {
        if self.words.json {
            return Ok(());
        }
        if self.is_scan() {
            let [open, failed, inconclusive] = all.outcomes();
            let total = open + failed + inconclusive;
            print(&format!("{}: {open} open\n", report::counted(total, "probe")), false)?;
            for (reason, count) in all.reasons() {
                print(&format!("{count:>6} {reason}: {}\n", reason.advice()), false)?;
            }
        } else if self.words.count != 1 {
            for item in &self.items {
                print(&item.statistics.lines(&item.name), false)?;
            }
        }
        Ok(())
    }
}

/// What is needed to look at a target.
#[derive(Clone, Copy)]
struct Looker<'a> {
    prober: &'a Prober,
    access: &'a Access,
    items: &'a [Item],
    trace: bool,
    diagnose: bool,
}

impl<'a> Looker<'a> {
    fn probe_of(self, item: &'a Item) -> Option<Probe<'a>> {
        let (address, access) = (item.address.as_ref().ok()?, self.access);
        Some(Probe { address, module: &item.module, hostname: None, timeout: item.timeout, access })
    }

    /// Probes a target, follows the path to it, and probes it again with one thing changed, as far
    /// as the words ask for that.
    async fn look(self, item: &'a Item) -> (ProbeResult, Explanation) {
        let mut explanation = Explanation::default();
        let Some(probe) = self.probe_of(item) else {
            let outcome = outcome_of(Event::InvalidTarget, Phase::Resolve);
            return (ProbeResult::new(outcome, item.timeout), explanation);
        };
        let result = self.prober.probe(probe, &mut Journal::off()).await;
        let Some(peer) = result.peer else { return (result, explanation) };
        let question = Question::about(result.outcome).filter(|_| self.diagnose);
        if self.trace || question == Some(Question::Where) {
            explanation.path = self.prober.trace(peer, &probe).await.ok().map(Arc::new);
        }
        if let Some(question) = question {
            let others = self.items.iter().filter_map(|other| self.probe_of(other));
            let others: Vec<Probe<'_>> = others
                .filter(|other| other.address.host == probe.address.host)
                .filter(|other| other.address.port != probe.address.port)
                .collect();
            let failure = Failure { question, peer, probe, others: &others };
            counter_check(self.prober, &failure, &mut explanation).await;
        }
        (result, explanation)
    }
}

/// To standard output; first wipes the progress off the terminal.
fn print(text: &str, progress: bool) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    if progress {
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let shown: Vec<String> = expand(text)
            .into_iter()
            .map(|(_, address)| address.map_or_else(|err| err, |address| address.to_string()))
            .collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn ports_are_lists_and_ranges() {
        check("db:22", &["db:22"]);
        check("db:ssh,80", &["db:22", "db:80"]);
        check("[::1]:22,8000-8002", &["[::1]:22", "[::1]:8000", "[::1]:8001", "[::1]:8002"]);
        check("db:http-alt", &["db:8080"]);
        check("db:9-8", &["`9-8` is no range of ports: write 8000-8010"]);
        check("db:1-", &["`1-` is no range of ports: write 8000-8010"]);
        check("db", &["`db` has no port: write host:port"]);
        assert_eq!(expand("db:1-65535").len(), 65_535);
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5000), ("1.5s", 1500), ("2", 2000), ("1m", 60_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0s", "-1s", "5x", "s", "nan", "inf", "100h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
