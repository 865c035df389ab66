//! What name servers said to one question, and what follows from it. Pure.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::evidence::{Event, Lookup};
use crate::outcome::IcmpError;

/// Response codes (RFC 1035, section 4.1.1).
pub(super) const SERVFAIL: u16 = 2;
pub(super) const REFUSED: u16 = 5;

/// All that came of one question.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Inquiry {
    /// `db.example. AAAA`.
    pub(super) question: String,
    /// What is known at last.
    pub(super) answer: Option<Answer>,
    /// The servers that gave no answer to it.
    pub(super) servers: Vec<Asked>,
    /// This process slept through the end.
    pub(super) stalled: bool,
}

/// What a name has, by a server's word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Invariant: not empty.
    Addresses(Box<[IpAddr]>),
    /// The name does not exist.
    NoName,
    /// The name exists and has no such record.
    NoRecord,
}

/// What one server made of the question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) server: SocketAddr,
    /// Since it was first asked.
    pub(super) took: Duration,
    pub(super) said: Said,
}

/// How a server failed to answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    /// A response code that is an error.
    Error {
        code: u16,
        /// It says so to everybody: the control question got the same and nobody anything better.
        to_everybody: bool,
    },
    /// ICMP port unreachable: nothing listens there.
    Refused(Option<IcmpError>),
    /// Another ICMP error.
    Unreachable(i32, Option<IcmpError>),
    /// This machine could not send the question.
    Unsent(i32),
    /// The answer was too long for UDP, and TCP did not bring it.
    Truncated,
    /// Nothing that answers the question.
    Silence {
        /// Datagrams that were no answer to it.
        garbage: u32,
        /// Another question was answered after this one was last sent.
        answered_others: bool,
    },
}

impl Inquiry {
    /// How it ended, if not with an address.
    ///
    /// In this order: what the name's zone says; that this process slept; a server that answers
    /// others and has an error or nothing for this name; what this machine lacked; and else no
    /// server answers anybody.
    pub(super) fn event(&self) -> Event {
        match self.answer {
            Some(Answer::NoName) => return Event::Lookup(Lookup::NoSuchName),
            Some(Answer::NoRecord | Answer::Addresses(_)) => {
                return Event::Lookup(Lookup::NoAddress);
            }
            None => (),
        }
        if self.stalled {
            return Event::Overslept;
        }
        let events = self.servers.iter().map(|asked| asked.said.event());
        events.max_by_key(|event| weight(*event)).unwrap_or(Event::Lookup(Lookup::NoResolver))
    }

    /// The number of the error of this machine, if that was the reason.
    pub(super) fn errno(&self) -> Option<i32> {
        self.servers.iter().find_map(|asked| match asked.said {
            Said::Unsent(errno) => Some(errno),
            _ => None,
        })
    }

    /// One line: each server with what it said.
    pub(super) fn detail(&self) -> String {
        let question = &self.question;
        match self.answer {
            Some(Answer::Addresses(_)) => return format!("`{question}`: found"),
            Some(Answer::NoName) => return format!("`{question}`: no such name"),
            Some(Answer::NoRecord) => return format!("`{question}`: no such record"),
            None if self.stalled => {
                return format!("`{question}`: this process slept past the deadline");
            }
            None => (),
        }
        let mut text = format!("`{question}`: ");
        for (index, asked) in self.servers.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let _ = write!(text, "{separator}{asked}");
        }
        if self.servers.is_empty() {
            text.push_str("no name server to ask");
        }
        text
    }
}

impl Said {
    fn event(self) -> Event {
        match self {
            Self::Error { to_everybody: false, .. } => Event::Lookup(Lookup::Failed),
            Self::Silence { answered_others: true, .. } => Event::Lookup(Lookup::Unanswered),
            Self::Unsent(
                errno @ (libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL),
            ) => Event::CallFailed(errno),
            Self::Error { to_everybody: true, .. }
            | Self::Refused(_)
            | Self::Unreachable(..)
            | Self::Unsent(_)
            | Self::Truncated
            | Self::Silence { answered_others: false, .. } => Event::Lookup(Lookup::NoResolver),
        }
    }
}

/// Of several servers the one counts that knows most of the name; then what this machine lacked.
const fn weight(event: Event) -> u8 {
    match event {
        Event::Lookup(Lookup::Failed) => 3,
        Event::Lookup(Lookup::Unanswered) => 2,
        Event::CallFailed(_) => 1,
        _ => 0,
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, took, said } = self;
        let errno = std::io::Error::from_raw_os_error;
        match *said {
            Said::Error { code, to_everybody } => {
                let name = match code {
                    1 => "FORMERR",
                    SERVFAIL => "SERVFAIL",
                    4 => "NOTIMP",
                    REFUSED => "REFUSED",
                    _ => "error",
                };
                write!(f, "{server} answered {name} (code {code})")?;
                if to_everybody { f.write_str(", as it does to any question") } else { Ok(()) }
            }
            Said::Refused(_) => write!(f, "nothing listens on {server} (ICMP port unreachable)"),
            Said::Unreachable(number, _) => {
                write!(f, "{server} is unreachable: {}", errno(number))
            }
            Said::Unsent(number) => write!(f, "cannot ask {server}: {}", errno(number)),
            Said::Truncated => {
                write!(f, "{server} sent a truncated answer and does not serve it over TCP")
            }
            Said::Silence { garbage, answered_others } => {
                write!(f, "{server} did not answer within {took:.1?}")?;
                if garbage > 0 {
                    write!(f, " ({garbage} datagrams that answer something else)")?;
                }
                f.write_str(if answered_others {
                    ", though it answers other questions"
                } else {
                    ", nor any other question"
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inquiry(said: &[Said]) -> Inquiry {
        let server = "192.0.2.53:53".parse().unwrap();
        let asked = |said: &Said| Asked { server, took: Duration::from_secs(2), said: *said };
        Inquiry {
            question: "db.example. A".to_owned(),
            servers: said.iter().map(asked).collect(),
            ..Inquiry::default()
        }
    }

    const RESOLVER: Event = Event::Lookup(Lookup::NoResolver);
    const TIMEOUT: Event = Event::Lookup(Lookup::Unanswered);
    const FAILURE: Event = Event::Lookup(Lookup::Failed);
    const SILENT: Said = Said::Silence { garbage: 0, answered_others: false };
    const SILENT_ABOUT_IT: Said = Said::Silence { garbage: 2, answered_others: true };
    const FAILS: Said = Said::Error { code: SERVFAIL, to_everybody: false };
    const FAILS_ALL: Said = Said::Error { code: REFUSED, to_everybody: true };
    const NOBODY: Said = Said::Refused(None);
    const FAR: Said = Said::Unreachable(libc::EHOSTUNREACH, None);

    #[test]
    fn what_the_servers_said_decides() {
        for (said, expected) in [
            (&[][..], RESOLVER),
            (&[SILENT], RESOLVER),
            (&[NOBODY], RESOLVER),
            (&[FAR], RESOLVER),
            (&[Said::Truncated], RESOLVER),
            (&[FAILS_ALL], RESOLVER),
            (&[Said::Unsent(libc::ENETUNREACH)], RESOLVER),
            (&[Said::Unsent(libc::EMFILE)], Event::CallFailed(libc::EMFILE)),
            (&[Said::Unsent(libc::EPERM)], RESOLVER),
            (&[SILENT_ABOUT_IT], TIMEOUT),
            (&[FAILS], FAILURE),
            // One that answers others outweighs all that do not.
            (&[SILENT, NOBODY, FAR, SILENT_ABOUT_IT], TIMEOUT),
            (&[NOBODY, FAILS], FAILURE),
            (&[SILENT_ABOUT_IT, FAILS], FAILURE),
            (&[SILENT, NOBODY, FAILS_ALL], RESOLVER),
            (&[SILENT, Said::Unsent(libc::ENFILE)], Event::CallFailed(libc::ENFILE)),
            (
                &[Said::Unsent(libc::EACCES), Said::Unsent(libc::ENOMEM)],
                Event::CallFailed(libc::ENOMEM),
            ),
            (&[Said::Unsent(libc::ENOBUFS), SILENT_ABOUT_IT], TIMEOUT),
        ] {
            assert_eq!(inquiry(said).event(), expected, "{said:?}");
        }
    }

    #[test]
    fn what_the_zone_says_counts_first_and_a_stall_before_silence() {
        for (answer, expected) in [
            (Some(Answer::NoName), Event::Lookup(Lookup::NoSuchName)),
            (Some(Answer::NoRecord), Event::Lookup(Lookup::NoAddress)),
            (None, Event::Overslept),
        ] {
            let inquiry = Inquiry { answer, stalled: true, ..inquiry(&[SILENT]) };
            assert_eq!(inquiry.event(), expected, "{inquiry:?}");
        }
        assert_eq!(inquiry(&[SILENT, Said::Unsent(libc::EPERM)]).errno(), Some(libc::EPERM));
        assert_eq!(inquiry(&[SILENT]).errno(), None);
    }

    #[test]
    fn the_detail_names_every_server_and_what_it_did() {
        assert_eq!(
            inquiry(&[SILENT_ABOUT_IT, NOBODY, FAILS_ALL]).detail(),
            "`db.example. A`: 192.0.2.53:53 did not answer within 2.0s (2 datagrams that answer \
             something else), though it answers other questions; nothing listens on 192.0.2.53:53 \
             (ICMP port unreachable); 192.0.2.53:53 answered REFUSED (code 5), as it does to any \
             question"
        );
        assert_eq!(inquiry(&[]).detail(), "`db.example. A`: no name server to ask");
    }
}
