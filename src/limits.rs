//! Every bound of the program that guards it against others, in one place, and how many things
//! may happen at once. The table in SECURITY.md is made from here.

use std::fmt;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A bound, as the table shows it.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The name of its constant.
    pub name: &'static str,
    /// How much.
    pub value: Value,
    /// What it bounds, and why so.
    pub why: &'static str,
}

/// How much, with its unit.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A number of things.
    Count(usize),
    /// Bytes.
    Bytes(usize),
    /// Bytes of a file.
    File(u64),
    /// Time.
    Time(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        let size = match *self {
            Self::File(bytes) => Self::Bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
            other => other,
        };
        match size {
            Self::File(bytes) => write!(f, "{bytes} bytes"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Bytes(bytes) if bytes % MIB == 0 => write!(f, "{} MiB", bytes / MIB),
            Self::Bytes(bytes) if bytes % KIB == 0 => write!(f, "{} KiB", bytes / KIB),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Time(time) if time.subsec_nanos() == 0 => write!(f, "{} s", time.as_secs()),
            Self::Time(time) => write!(f, "{} ms", time.as_millis()),
        }
    }
}

/// A mebibyte.
const MIB: u64 = 1024 * 1024;

/// Makes a constant and a row of the table of each line.
macro_rules! bounds {
    ($($(#[doc = $why:literal])+ $name:ident: $kind:ident = $value:expr;)+) => {
        $($(#[doc = $why])+ pub const $name: bounds!(@type $kind) = $value;)+
        /// Every bound above.
        pub const BOUNDS: &[Bound] = &[$(Bound {
            name: stringify!($name),
            value: Value::$kind($name),
            why: concat!($($why),+),
        },)+];
    };
    (@type Time) => { Duration };
    (@type File) => { u64 };
    (@type $count:ident) => { usize };
}

bounds! {
    /// Connections of clients at once, if the descriptor limit allows that many.
    MAX_CONNECTIONS: Count = 4096;
    /// Connections that wait in the kernel to be accepted.
    ACCEPT_QUEUE: Count = 4096;
    /// A TLS handshake of a client.
    HANDSHAKE_WITHIN: Time = Duration::from_secs(10);
    /// From the connection to the end of the first request's head.
    FIRST_REQUEST_WITHIN: Time = Duration::from_secs(10);
    /// From an answer to the next request: longer than common scrape intervals.
    NEXT_REQUEST_WITHIN: Time = Duration::from_secs(95);
    /// The head of a request.
    HEAD_BYTES: Bytes = 16 * 1024;
    /// Header fields of a request.
    HEAD_FIELDS: Count = 64;
    /// Requests at once on one HTTP/2 connection.
    MAX_STREAMS: Count = 16;
    /// Long answers at once, such as that of `/metrics`: made, or waiting for their clients.
    MAX_ANSWERS: Count = 64;
    /// How long a request for such an answer waits for a place.
    ANSWER_PLACE_WITHIN: Time = Duration::from_secs(5);
    /// A piece of a long answer.
    PIECE_BYTES: Bytes = 64 * 1024;
    /// Pieces that are made before the client has taken the first.
    MAX_PIECES: Count = 4;
    /// From one piece of an answer to the next, else the connection ends.
    PIECE_TAKEN_WITHIN: Time = Duration::from_secs(15);
    /// From the first byte of an answer to its last, whatever else the connection does.
    ANSWER_TAKEN_WITHIN: Time = Duration::from_secs(60);
    /// How long running requests may go on after SIGTERM.
    DRAINED_WITHIN: Time = Duration::from_secs(15);
    /// Probes on demand at once, if the descriptor limit allows that many.
    MAX_ON_DEMAND: Count = 4096;
    /// A probe on demand, whatever its client wishes, if its module sets no `timeout`.
    ON_DEMAND_WITHIN: Time = Duration::from_secs(120);
    /// What one probe may write down for its readers.
    JOURNAL_BYTES: Bytes = 16 * 1024;
    /// All kept results of probes on demand.
    HISTORY_BYTES: Bytes = 8 * 1024 * 1024;
    /// Passwords that wait for their check, which takes a tenth of a second of a core.
    MAX_PASSWORDS: Count = 64;
    /// Good passwords that need no second check.
    KNOWN_PASSWORDS: Count = 100;
    /// Bad passwords that need no second check.
    WRONG_PASSWORDS: Count = 100;
    /// Clients remembered for a wrong password.
    MAX_SUSPECTS: Count = 1024;
    /// For how long: the passwords of others are checked first.
    SUSPECT_FOR: Time = Duration::from_secs(60);
    /// Failures that are explained at once, by a path and counter-checks, if the descriptor limit allows that many.
    MAX_EXPLANATIONS: Count = 4;
    /// Explanations that begin within a minute, at most a quarter of them of targets that are up.
    EXPLANATIONS_A_MINUTE: Count = 60;
    /// Failures that wait to be explained.
    MAX_UNEXPLAINED: Count = 512;
    /// Sockets that one explanation holds at once.
    EXPLANATION_SOCKETS: Count = 8;
    /// Targets remembered for a probe on demand that waited in vain.
    MAX_SUSPECT_TARGETS: Count = 4096;
    /// For how long: they get at most three quarters of the places.
    SUSPECT_TARGET_FOR: Time = Duration::from_secs(300);
    /// Sockets of ended probes that wait for their peer to close.
    MAX_LINGERING: Count = 4096;
    /// A file in PEM form: some thousands of certificates.
    PEM_BYTES: File = 16 * MIB;
    /// What one load may have read before it may read no further file.
    LOAD_BYTES: File = 256 * MIB;
    /// Entries of a directory that are looked at.
    DIRECTORY_ENTRIES: Count = 10_000;
    /// Loads of files at once, of one kind: only file systems that hang bring it there.
    LOAD_THREADS: Count = 64;
    /// Files to send, and settings of TLS, that are kept.
    WATCHED_FILES: Count = 1024;
    /// How long a first version of a file is waited for.
    FIRST_LOAD_WITHIN: Time = Duration::from_secs(5);
    /// How long a newer version is waited for by a probe that could do with the old one.
    NEWS_WITHIN: Time = Duration::from_millis(500);
    /// A configuration file or a file of monitors: hundreds of thousands of them.
    CONFIG_BYTES: File = 64 * MIB;
    /// Files that the globs of a configuration may find.
    MONITOR_FILES: Count = 10_000;
    /// Nesting of a configuration file.
    YAML_DEPTH: Count = 64;
    /// Values of a configuration file, aliases counted each time.
    YAML_NODES: Count = 5_000_000;
    /// Targets of a configuration.
    MAX_TARGETS: Count = 1_000_000;
    /// How long a start waits for its files.
    CONFIG_WITHIN: Time = Duration::from_secs(60);
    /// How long a reload waits for them.
    RELOAD_WITHIN: Time = Duration::from_secs(20);
    /// A web configuration: thousands of users.
    WEB_CONFIG_BYTES: File = MIB;
    /// All names that are remembered: about 60,000 with one address each.
    NAME_CACHE_BYTES: Bytes = 8 * 1024 * 1024;
    /// Longest that a name is kept which nobody asks for: between this and twice as long.
    NAME_IDLE: Time = Duration::from_secs(10 * 60);
    /// Longest that an answer of a name server is believed.
    NAME_TTL: Time = Duration::from_secs(24 * 60 * 60);
    /// Longest that a name is believed not to exist.
    NO_NAME_TTL: Time = Duration::from_secs(30);
    /// Addresses of a name that are kept.
    NAME_ADDRESSES: Count = 64;
    /// Name servers of a list that are asked.
    NAME_SERVERS: Count = 8;
    /// Aliases that are followed from one name to the next.
    NAME_ALIASES: Count = 8;
    /// Rounds of questions for one name, whatever `attempts` says.
    NAME_ROUNDS: Count = 6;
    /// `/etc/hosts`.
    HOSTS_BYTES: File = 16 * MIB;
    /// `/etc/resolv.conf`.
    RESOLV_CONF_BYTES: File = MIB;
    /// Threads inside `getaddrinfo`, which cannot be interrupted.
    SYSTEM_LOOKUPS: Count = 64;
    /// A line of a peer, and all that it sent and no step has consumed.
    HELD_BYTES: Bytes = 64 * 1024;
    /// What a probe reads from a peer that never comes to the point.
    RECEIVED_BYTES: Bytes = 4 * 1024 * 1024;
    /// What is scanned for a pattern whenever bytes come; beyond that they are gathered for 10 ms first.
    FREELY_SCANNED: Bytes = 1024 * 1024;
    /// How long after its deadline a probe may read what had come by then.
    READ_LATE: Time = Duration::from_millis(50);
    /// A label whose value a peer chooses.
    LABEL_BYTES: Bytes = 4096;
    /// A file that a module sends.
    SENT_FILE_BYTES: File = 64 * 1024;
    /// How long a probe waits to learn whether it reached our own listener.
    ACCEPTED_WITHIN: Time = Duration::from_millis(20);
    /// What a message quotes of a peer.
    QUOTED_BYTES: Bytes = 200;
    /// The cause of a failure.
    CAUSE_BYTES: Bytes = 500;
    /// What is read off a peer that goes on sending after its probe has ended.
    LEFTOVER_BYTES: Bytes = 64 * 1024;
    /// Certificates from that of a server to an anchor.
    CHAIN_LENGTH: Count = 8;
    /// Steps in the search for chains, since cross-signed issuers multiply them.
    CHAIN_STEPS: Count = 1000;
    /// A text of a certificate that is shown.
    CERTIFICATE_TEXT_BYTES: Bytes = 4096;
    /// Addresses of a name that a monitor probes, if it asks for all.
    PROBED_ADDRESSES: Count = 64;
    /// How long scheduled probes may go on after SIGTERM.
    LAST_PROBES_WITHIN: Time = Duration::from_secs(10);
    /// Routes and neighbours that are remembered of this machine, of each kind.
    WAYS_KEPT: Count = 4096;
    /// Lines of the log that wait to be written; further ones are lost.
    LOG_LINES: Count = 1024;
    /// Descriptors that are neither connections nor probes: standard streams, event queues,
    /// signals, listeners, configuration and certificate files, name look-ups.
    RESERVED_DESCRIPTORS: Count = 26;
}

/// Believed where the system does not tell.
const DEFAULT_DESCRIPTORS: usize = 1024;

/// Bounds on what happens at once. Together they fit the descriptor limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections of clients.
    pub connections: usize,
    /// Probes on demand.
    pub on_demand: usize,
    /// Scheduled probes.
    pub scheduled: usize,
    /// Sockets of ended probes that wait for their peer to close.
    pub lingering: usize,
    /// Failures that are explained.
    pub explanations: usize,
}

impl Limits {
    /// Shares out a number of descriptors: a quarter for clients, an eighth for probes on demand
    /// with a second descriptor each for their names, a sixteenth for connections that wait for
    /// their peer to close, up to a sixteenth for explanations, the rest for the schedule.
    #[must_use]
    pub fn of(descriptors: usize) -> Self {
        let usable = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(16);
        let connections = (usable / 4).min(MAX_CONNECTIONS);
        let on_demand = (usable / 8).min(MAX_ON_DEMAND);
        let lingering = (usable / 16).min(MAX_LINGERING);
        let explanations = (usable / 16 / EXPLANATION_SOCKETS).min(MAX_EXPLANATIONS);
        let explaining = explanations * EXPLANATION_SOCKETS;
        let scheduled = usable - connections - 2 * on_demand - lingering - explaining;
        Self { connections, on_demand, scheduled, lingering, explanations }
    }

    /// Raises the soft descriptor limit of this process to the hard one and shares it out.
    #[must_use]
    pub fn raise() -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return Self::of(DEFAULT_DESCRIPTORS);
        };
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        let granted = if raised { hard } else { soft };
        Self::of(usize::try_from(granted).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn everything_together_fits_the_descriptors() {
        for descriptors in [42, 64, 100, 1024, 20_000, 1 << 20, usize::MAX] {
            let Limits { connections, on_demand, scheduled, lingering, explanations } =
                Limits::of(descriptors);
            let probes = 2 * on_demand + scheduled + explanations * EXPLANATION_SOCKETS;
            let others = connections + lingering + RESERVED_DESCRIPTORS;
            assert!(probes + others <= descriptors);
            assert!(connections > 0 && on_demand > 0 && scheduled > 0, "{descriptors}");
        }
        let few =
            Limits { connections: 9, on_demand: 4, scheduled: 19, lingering: 2, explanations: 0 };
        assert_eq!(Limits::of(64), few);
    }

    /// The rows between the marks of SECURITY.md.
    fn table() -> String {
        let mut table = String::from("| bound | value | what it bounds |\n|---|---|---|\n");
        for Bound { name, value, why } in BOUNDS {
            let why = why.trim();
            let _ = writeln!(table, "| `{name}` | {value} | {why} |");
        }
        table
    }

    #[test]
    fn the_table_of_bounds_in_security_md_is_fresh() {
        let document = include_str!("../SECURITY.md");
        let (_, rest) = document.split_once("<!-- bounds -->\n").expect("the first mark");
        let (shown, _) = rest.split_once("<!-- end of bounds -->").expect("the last mark");
        let table = table();
        assert!(shown == table, "put this between the marks of SECURITY.md:\n{table}");
    }
}
