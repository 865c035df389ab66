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
    /// Time.
    Time(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        match *self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Bytes(bytes) if bytes % MIB == 0 => write!(f, "{} MiB", bytes / MIB),
            Self::Bytes(bytes) if bytes % KIB == 0 => write!(f, "{} KiB", bytes / KIB),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Time(time) if time.subsec_nanos() == 0 => write!(f, "{} s", time.as_secs()),
            Self::Time(time) => write!(f, "{} ms", time.as_millis()),
        }
    }
}

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
