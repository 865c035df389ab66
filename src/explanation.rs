//! What a path and counter-checks say of a confirmed failure. Pure: plain values, no clock, no I/O.
//!
//! A counter-check is the same probe with one thing changed. What answers then and did not before
//! is a hint at the cause, and never a verdict. Each hint asks for numbers that neither loss nor a
//! target that came back meanwhile bring about.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::outcome::{Outcome, Phase, Reason};
use crate::path::Path;

/// Source ports from which a target is asked.
pub const FLOWS: u32 = 12;

/// So many of them must have been seen to their end, so that numbers can be compared.
const ENOUGH_FLOWS: u32 = FLOWS * 2 / 3;

/// What of a failure can be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// Nothing answers, or a router does: where does the path end, and for whom?
    Where,
    /// The host refuses: does another address of the name accept?
    WhichAddress,
    /// The handshake passes and what follows does not: is it the size of the packets?
    WhichSize,
}

impl Question {
    /// The question that an outcome leaves open, if a path or a counter-check can answer it.
    #[must_use]
    pub const fn about(outcome: Outcome) -> Option<Self> {
        let Outcome::Failure(reason, phase) = outcome else { return None };
        match (phase, reason) {
            (Phase::Connect, Reason::Refused) => Some(Self::WhichAddress),
            (
                Phase::Connect,
                Reason::Timeout
                | Reason::Rejected
                | Reason::Prohibited
                | Reason::NetUnreachable
                | Reason::HostUnreachable
                | Reason::NetworkError,
            ) => Some(Self::Where),
            (
                Phase::Tls | Phase::Dialogue,
                Reason::Unacknowledged | Reason::TlsTimeout | Reason::ExpectTimeout,
            ) => Some(Self::WhichSize),
            _ => None,
        }
    }
}

/// The one thing in which a counter-check differs from the probe that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing: does it still fail?
    Nothing,
    /// The source port, so that routers with several equal ways may choose another.
    SourcePort,
    /// Segments of 536 bytes, which pass where larger ones are lost.
    SegmentSize,
    /// Another address of the same name.
    Address(IpAddr),
    /// Another port of the same host that is watched.
    Port(u16),
}

impl Change {
    /// The word for JSON: an interface, so spelled by hand.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::SourcePort => "source_port",
            Self::SegmentSize => "segment_size",
            Self::Address(_) => "address",
            Self::Port(_) => "port",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the same again"),
            Self::SourcePort => f.write_str("from other source ports"),
            Self::SegmentSize => f.write_str("with segments of 536 bytes"),
            Self::Address(ip) => write!(f, "at {ip}"),
            Self::Port(port) => write!(f, "port {port} of the same host"),
        }
    }
}

/// How often a counter-check was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CounterCheck {
    /// What was changed.
    pub change: Change,
    /// Connections that were tried. Those for which this machine lacked something do not count.
    pub asked: u32,
    /// How many of them were answered.
    pub answered: u32,
    /// How many of those by the first SYN.
    pub at_first: u32,
}

impl CounterCheck {
    /// Nothing asked so far.
    #[must_use]
    pub const fn new(change: Change) -> Self {
        Self { change, asked: 0, answered: 0, at_first: 0 }
    }

    /// Takes one connection into account: `None` was not answered, else how many SYNs were sent
    /// again.
    pub fn note(&mut self, answer: Option<u32>) {
        self.asked += 1;
        self.answered += u32::from(answer.is_some());
        self.at_first += u32::from(answer == Some(0));
    }

    const fn silent(&self) -> u32 {
        self.asked - self.answered
    }
}

impl fmt::Display for CounterCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { change, asked, answered, at_first } = self;
        write!(f, "{change}: {answered} of {asked} answered")?;
        if at_first < answered {
            write!(f, ", {at_first} at the first SYN")?;
        }
        Ok(())
    }
}

/// What the numbers point at: a closed set, since its words are an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hint {
    /// Some flows always pass and others never: one of several equal ways is dead.
    PartialPath {
        /// Flows that never passed.
        dead: u32,
        /// All of them.
        of: u32,
    },
    /// Small segments pass and large ones do not.
    MtuBlackHole,
    /// The name answers at an address of the other IP version only.
    OneFamily(IpAddr),
    /// Another address of the name answers.
    OneAddress(IpAddr),
    /// Connections are taken late or not at all, while another port takes each at once.
    ListenQueueFull {
        /// Connections that were not taken at the first SYN.
        late: u32,
        /// All of them.
        of: u32,
    },
    /// Nothing answers at this port, and another port of the same host does.
    HostAnswersElsewhere(u16),
}

impl Hint {
    /// Every word, in the order in which they are tried.
    pub const NAMES: [&'static str; 6] = [
        "partial_path",
        "mtu_black_hole",
        "one_family",
        "one_address",
        "listen_queue_full",
        "host_answers_elsewhere",
    ];

    /// The label value: an interface, so spelled by hand.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[match self {
            Self::PartialPath { .. } => 0,
            Self::MtuBlackHole => 1,
            Self::OneFamily(_) => 2,
            Self::OneAddress(_) => 3,
            Self::ListenQueueFull { .. } => 4,
            Self::HostAnswersElsewhere(_) => 5,
        }]
    }

    /// What the counter-checks of a failure at `ip` point at, if at anything.
    #[must_use]
    pub fn of(ip: IpAddr, checks: &[CounterCheck]) -> Option<Self> {
        let find = |wanted: &Change| checks.iter().find(|check| check.change == *wanted);
        let flows = find(&Change::SourcePort);
        if let Some(flows) = flows
            && flows.asked >= ENOUGH_FLOWS
            && flows.silent() > 0
            && flows.at_first > 0
            && flows.at_first == flows.answered
        {
            return Some(Self::PartialPath { dead: flows.silent(), of: flows.asked });
        }
        let ports = checks.iter().filter_map(|check| match check.change {
            Change::Port(port) => Some((port, check)),
            _ => None,
        });
        // Half of them: loss that costs a port so many would cost the other port some too.
        if let Some(flows) = flows
            && flows.asked >= ENOUGH_FLOWS
            && flows.answered > flows.at_first
            && (flows.asked - flows.at_first) * 2 >= flows.asked
            && ports
                .clone()
                .any(|(_, port)| port.asked >= ENOUGH_FLOWS && port.at_first == port.asked)
        {
            return Some(Self::ListenQueueFull {
                late: flows.asked - flows.at_first,
                of: flows.asked,
            });
        }
        // From here on it counts that the probe itself failed before the others and after them.
        if find(&Change::Nothing).is_none_or(|same| same.asked < 2 || same.answered > 0) {
            return None;
        }
        if find(&Change::SegmentSize).is_some_and(|small| small.asked > 0 && small.silent() == 0) {
            return Some(Self::MtuBlackHole);
        }
        let answering = |same_family: bool| {
            checks.iter().find_map(|check| match check.change {
                Change::Address(other)
                    if check.answered > 0 && (other.is_ipv4() == ip.is_ipv4()) == same_family =>
                {
                    Some(other)
                }
                _ => None,
            })
        };
        if let Some(other) = answering(true) {
            return Some(Self::OneAddress(other));
        }
        if let Some(other) = answering(false) {
            return Some(Self::OneFamily(other));
        }
        let mut ports = ports.filter(|(_, check)| check.asked > 0 && check.silent() == 0);
        ports.next().map(|(port, _)| Self::HostAnswersElsewhere(port))
    }
}

impl fmt::Display for Hint {
    /// One sentence with the numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartialPath { dead, of } => write!(
                f,
                "{dead} of {of} flows never pass and the others always do: one of several equal ways \
                 (a member of a bundle, a router of a pair) is dead"
            ),
            Self::MtuBlackHole => f.write_str(
                "with segments of 536 bytes the probe succeeds: large packets are lost on the path and the ICMP \
                 that should say so is filtered",
            ),
            Self::OneFamily(ip) => {
                let (good, bad) = if ip.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
                write!(f, "over {good} ({ip}) the probe succeeds: only {bad} fails")
            }
            Self::OneAddress(ip) => write!(f, "another address of the name, {ip}, answers"),
            Self::ListenQueueFull { late, of } => write!(
                f,
                "{late} of {of} connections were not taken at the first SYN, while another port of the host takes each \
                 at once: the service accepts too slowly and its listen queue is full"
            ),
            Self::HostAnswersElsewhere(port) => write!(
                f,
                "the host answers at port {port}: a firewall drops this port, or the service takes no connections"
            ),
        }
    }
}

/// All that was found out about one failure.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explanation {
    /// The way to the target, if that was in question.
    pub path: Option<Arc<Path>>,
    /// What was tried otherwise.
    pub checks: Box<[CounterCheck]>,
    /// What that points at.
    pub hint: Option<Hint>,
}

impl fmt::Display for Explanation {
    /// One line: where the path ends, and the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, &self.hint) {
            (Some(path), Some(hint)) => write!(f, "{path}; {}: {hint}", hint.as_str()),
            (Some(path), None) => write!(f, "{path}"),
            (None, Some(hint)) => write!(f, "{}: {hint}", hint.as_str()),
            (None, None) => f.write_str("nothing that was changed made a difference"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn check(change: Change, asked: u32, answered: u32, at_first: u32) -> CounterCheck {
        CounterCheck { change, asked, answered, at_first }
    }

    #[track_caller]
    fn hint(checks: &[CounterCheck], expected: Option<Hint>) {
        assert_eq!(Hint::of(ip("192.0.2.1"), checks), expected, "{checks:?}");
    }

    fn still_fails() -> CounterCheck {
        check(Change::Nothing, 2, 0, 0)
    }

    #[test]
    fn flows_that_always_pass_beside_flows_that_never_do_are_a_partial_path() {
        let flows = |answered, at_first| check(Change::SourcePort, FLOWS, answered, at_first);
        hint(&[flows(9, 9)], Some(Hint::PartialPath { dead: 3, of: 12 }));
        hint(&[flows(1, 1)], Some(Hint::PartialPath { dead: 11, of: 12 }));
        hint(&[flows(12, 12)], None);
        hint(&[flows(0, 0)], None);
        // Loss: some pass at the second try.
        hint(&[flows(11, 9)], None);
        hint(&[flows(9, 0)], None);
        hint(&[check(Change::SourcePort, 5, 4, 4)], None);
    }

    #[test]
    fn what_still_fails_and_succeeds_with_one_change_is_hinted_at() {
        let small = check(Change::SegmentSize, 1, 1, 1);
        hint(&[still_fails(), small.clone()], Some(Hint::MtuBlackHole));
        hint(&[still_fails(), check(Change::SegmentSize, 1, 0, 0)], None);
        // It came back meanwhile, or nobody has looked twice.
        hint(&[check(Change::Nothing, 2, 1, 1), small.clone()], None);
        hint(&[check(Change::Nothing, 1, 0, 0), small.clone()], None);
        hint(&[small], None);

        let v6 = check(Change::Address(ip("2001:db8::1")), 1, 1, 1);
        let v4 = |answered| check(Change::Address(ip("192.0.2.2")), 1, answered, answered);
        hint(&[still_fails(), v4(0), v6.clone()], Some(Hint::OneFamily(ip("2001:db8::1"))));
        hint(&[still_fails(), v4(1), v6], Some(Hint::OneAddress(ip("192.0.2.2"))));
        hint(&[still_fails(), v4(0)], None);

        let port = check(Change::Port(22), 3, 3, 3);
        hint(&[still_fails(), port.clone()], Some(Hint::HostAnswersElsewhere(22)));
        hint(&[still_fails(), check(Change::Port(22), 3, 2, 2)], None);
        hint(&[check(Change::Nothing, 2, 2, 2), port], None);
    }

    #[test]
    fn a_full_listen_queue_takes_half_of_the_connections_late_and_its_neighbour_all_at_once() {
        let slow = |answered, at_first| check(Change::SourcePort, FLOWS, answered, at_first);
        let other = |at_first| check(Change::Port(22), FLOWS, FLOWS, at_first);
        let full = Some(Hint::ListenQueueFull { late: 8, of: 12 });
        hint(&[slow(9, 4), other(12)], full);
        hint(&[slow(9, 4), other(11)], None);
        hint(&[slow(12, 9), other(12)], None);
        hint(&[slow(9, 4)], None);
    }

    #[test]
    fn only_what_a_path_can_explain_is_a_question() {
        let about = |reason, phase| Question::about(Outcome::because(reason, phase));
        assert_eq!(about(Reason::Timeout, Phase::Connect), Some(Question::Where));
        assert_eq!(about(Reason::Prohibited, Phase::Connect), Some(Question::Where));
        assert_eq!(about(Reason::Refused, Phase::Connect), Some(Question::WhichAddress));
        assert_eq!(about(Reason::TlsTimeout, Phase::Tls), Some(Question::WhichSize));
        for (reason, phase) in [
            (Reason::DnsTimeout, Phase::Resolve),
            (Reason::TlsExpired, Phase::Tls),
            (Reason::ExpectMismatch, Phase::Dialogue),
            (Reason::LocalGateway, Phase::Connect),
        ] {
            assert_eq!(about(reason, phase), None, "{reason}");
        }
        assert_eq!(Question::about(Outcome::Success), None);
    }

    #[test]
    fn every_hint_has_its_word_and_its_sentence() {
        let hints = [
            Hint::PartialPath { dead: 1, of: 2 },
            Hint::MtuBlackHole,
            Hint::OneFamily(ip("2001:db8::1")),
            Hint::OneAddress(ip("192.0.2.2")),
            Hint::ListenQueueFull { late: 1, of: 2 },
            Hint::HostAnswersElsewhere(22),
        ];
        for (hint, name) in hints.into_iter().zip(Hint::NAMES) {
            assert_eq!(hint.as_str(), name);
            let explanation = Explanation { hint: Some(hint), ..Explanation::default() };
            assert!(explanation.to_string().starts_with(name), "{explanation}");
        }
        assert_eq!(
            Hint::OneFamily(ip("2001:db8::1")).to_string(),
            "over IPv6 (2001:db8::1) the probe succeeds: only IPv4 fails"
        );
        assert_eq!(
            check(Change::SourcePort, 12, 9, 7).to_string(),
            "from other source ports: 9 of 12 answered, 7 at the first SYN"
        );
    }
}
