//! The routers between this machine and a target. Pure: plain values, no clock, no I/O.
//!
//! A path is evidence, never a verdict: a router that does not answer may still forward, since
//! many limit or suppress ICMP (RFC 1812 4.3.2.8). What counts is where answers end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::outcome::IcmpError;

/// Hops that one trace asks at most: longer than the paths of the Internet are.
pub const MAX_HOPS: u8 = 30;
/// So many silent hops in a row end a trace.
pub const MAX_SILENT_HOPS: usize = 3;

/// A router that answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Router {
    /// Its address towards this machine.
    pub address: IpAddr,
    /// From the SYN to its answer.
    pub round_trip: Duration,
}

/// How a trace ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathEnd {
    /// The target accepted the connection.
    Open,
    /// The target refused the connection with a reset.
    Refused,
    /// A router or host answered that it does not forward or deliver, and which ICMP error it sent.
    Rejected(IcmpError),
    /// The same routers answered again and again.
    Loop,
    /// [`MAX_SILENT_HOPS`] hops in a row did not answer.
    Silent,
    /// [`MAX_HOPS`] hops answered and none was the target.
    TooLong,
    /// This machine could not send; its errno.
    Local(i32),
}

impl PathEnd {
    /// Whether the target itself answered.
    #[must_use]
    pub const fn is_reached(self) -> bool {
        matches!(self, Self::Open | Self::Refused)
    }

    /// The word for JSON and labels: an interface, so spelled by hand.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Rejected(_) => "rejected",
            Self::Loop => "loop",
            Self::Silent => "silent",
            Self::TooLong => "too_long",
            Self::Local(_) => "local_error",
        }
    }
}

/// The way of one flow (addresses and ports fixed) to a target at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// The target.
    pub peer: SocketAddr,
    /// One entry per hop, the nearest first; `None` did not answer. Silent hops behind the last
    /// router are left out.
    pub hops: Vec<Option<Router>>,
    /// How the trace ended.
    pub end: PathEnd,
}

impl Path {
    /// Takes the hops in the order of their distance.
    #[must_use]
    pub fn new(peer: SocketAddr, mut hops: Vec<Option<Router>>, end: PathEnd) -> Self {
        if !end.is_reached() {
            let last = hops.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            hops.truncate(last);
        }
        Self { peer, hops, end }
    }

    /// Where an earlier path went on after a router at which this one ends: the next router that
    /// answered then, or the target.
    #[must_use]
    pub fn went_on(&self, earlier: &Self) -> Option<IpAddr> {
        let last = self.last_router()?;
        let mut hops = earlier.hops.iter().flatten().map(|router| router.address);
        hops.by_ref().find(|address| *address == last)?;
        let target = earlier.end.is_reached().then(|| earlier.peer.ip());
        hops.next().or(target)
    }

    /// The last router that answered: on a path that ends before its target, the place behind
    /// which to look. The sender of the ICMP error where there is one.
    #[must_use]
    pub fn last_router(&self) -> Option<IpAddr> {
        if let PathEnd::Rejected(IcmpError { offender: Some(offender), .. }) = self.end {
            return Some(offender);
        }
        self.hops.iter().rev().flatten().next().map(|router| router.address)
    }
}

/// Whether hops that came so far are a loop: one router stands at two places with another router
/// between them, twice over. One router at neighbouring places is not: some count a hop twice.
#[must_use]
pub fn is_loop(hops: &[Option<Router>]) -> bool {
    let address = |index: usize| hops[index].map(|router| router.address);
    let Some(last) = hops.len().checked_sub(1) else { return false };
    let Some(newest) = address(last) else { return false };
    let earlier: Vec<usize> = (0..last).filter(|&index| address(index) == Some(newest)).collect();
    let apart = |from: usize, to: usize| {
        (from + 1..to).any(|index| address(index).is_some_and(|between| between != newest))
    };
    matches!(earlier[..], [.., first, second] if apart(first, second) && apart(second, last))
}

impl fmt::Display for Path {
    /// One sentence: where the path ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops = self.hops.len();
        let plural = if hops == 1 { "" } else { "s" };
        match (self.end, self.last_router()) {
            (PathEnd::Open, _) => write!(f, "reaches {} after {hops} router{plural}", self.peer),
            (PathEnd::Refused, _) => {
                write!(f, "reaches {} after {hops} router{plural}, which refuses", self.peer.ip())
            }
            (PathEnd::Rejected(IcmpError { kind, code, .. }), Some(router)) => {
                write!(f, "stops at {router}: it answers ICMP type {kind} code {code}")
            }
            (PathEnd::Rejected(IcmpError { kind, code, .. }), None) => {
                write!(f, "stops with ICMP type {kind} code {code} of an unknown sender")
            }
            (PathEnd::Loop, Some(router)) => write!(f, "loops at {router}"),
            (PathEnd::Loop | PathEnd::TooLong | PathEnd::Silent, None) => {
                f.write_str("no router answers")
            }
            (PathEnd::TooLong, Some(router)) => {
                write!(f, "does not end within {MAX_HOPS} hops, the last is {router}")
            }
            (PathEnd::Silent, Some(router)) => {
                write!(f, "stops after {router} (hop {hops}): nothing answers behind it")
            }
            (PathEnd::Local(errno), _) => {
                write!(f, "unknown: {}", nix::errno::Errno::from_raw(errno).desc())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hops by the last byte of their address; `0` did not answer.
    fn hops(bytes: &[u8]) -> Vec<Option<Router>> {
        let router = |&byte: &u8| {
            (byte != 0).then(|| Router {
                address: IpAddr::from([10, 0, 0, byte]),
                round_trip: Duration::from_millis(1),
            })
        };
        bytes.iter().map(router).collect()
    }

    fn path(bytes: &[u8], end: PathEnd) -> Path {
        Path::new("192.0.2.1:443".parse().unwrap(), hops(bytes), end)
    }

    #[track_caller]
    fn check(path: &Path, last: Option<&str>, sentence: &str) {
        assert_eq!(path.last_router(), last.map(|text| text.parse().unwrap()), "{path}");
        assert_eq!(path.to_string(), sentence);
    }

    #[test]
    fn a_path_says_where_it_ends() {
        let icmp = |offender: Option<&str>| {
            let offender = offender.map(|text| text.parse().unwrap());
            PathEnd::Rejected(IcmpError { offender, kind: 3, code: 13 })
        };
        check(
            &path(&[1, 2], PathEnd::Open),
            Some("10.0.0.2"),
            "reaches 192.0.2.1:443 after 2 routers",
        );
        check(
            &path(&[1], PathEnd::Refused),
            Some("10.0.0.1"),
            "reaches 192.0.2.1 after 1 router, which refuses",
        );
        check(
            &path(&[1, 2], icmp(Some("10.0.0.3"))),
            Some("10.0.0.3"),
            "stops at 10.0.0.3: it answers ICMP type 3 code 13",
        );
        check(&path(&[], icmp(None)), None, "stops with ICMP type 3 code 13 of an unknown sender");
        check(
            &path(&[1, 0, 3, 0, 0, 0], PathEnd::Silent),
            Some("10.0.0.3"),
            "stops after 10.0.0.3 (hop 3): nothing answers behind it",
        );
        check(&path(&[0, 0, 0], PathEnd::Silent), None, "no router answers");
        check(&path(&[1, 2, 1, 2, 1], PathEnd::Loop), Some("10.0.0.1"), "loops at 10.0.0.1");
        check(
            &path(&[7; 30], PathEnd::TooLong),
            Some("10.0.0.7"),
            "does not end within 30 hops, the last is 10.0.0.7",
        );
        check(&path(&[], PathEnd::Local(101)), None, "unknown: Network is unreachable");
    }

    #[test]
    fn an_earlier_path_says_where_it_went_on() {
        let (broken, whole) = (path(&[1, 2], PathEnd::Silent), path(&[1, 2, 0, 4], PathEnd::Open));
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!(broken.went_on(&whole), ip("10.0.0.4"));
        assert_eq!(path(&[1, 2, 0, 4], PathEnd::Silent).went_on(&whole), ip("192.0.2.1"));
        assert_eq!(path(&[1, 9], PathEnd::Silent).went_on(&whole), None, "another way");
        assert_eq!(broken.went_on(&broken), None);
    }

    #[test]
    fn silent_hops_before_the_target_are_kept_and_behind_the_last_router_not() {
        assert_eq!(path(&[1, 0, 0], PathEnd::Open).hops.len(), 3);
        assert_eq!(path(&[1, 0, 0], PathEnd::Silent).hops.len(), 1);
    }

    #[test]
    fn a_loop_is_two_rounds_over_another_router() {
        for (bytes, expected) in [
            (&[][..], false),
            (&[1, 1, 1], false),
            (&[1, 2, 1], false),
            (&[1, 2, 1, 2], false),
            (&[1, 2, 1, 2, 1], true),
            (&[1, 2, 3, 2, 3, 2], true),
            (&[1, 2, 3, 2, 3, 4], false),
            (&[1, 0, 1, 0, 1], false),
            (&[1, 2, 1, 1], false),
            (&[1, 2, 1, 2, 0], false),
            (&[1, 0, 2, 1, 0, 2, 1], true),
        ] {
            assert_eq!(is_loop(&hops(bytes)), expected, "{bytes:?}");
        }
    }
}
