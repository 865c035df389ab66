//! What a probe found. Pure: plain values, no clock, no I/O.
//!
//! A probe never fails: whatever happens is a [`ProbeResult`], whose [`Outcome`] has three values,
//! because a monitor that could not look has seen nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The part of a probe in which something happened; the `phase` label.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Turning the host into an address, the check of the target's own text included.
    Resolve,
    /// The TCP handshake.
    Connect,
    /// The TLS handshake, at once or after STARTTLS, verification included.
    Tls,
    /// The exchange after it: `query_response`, `hold`.
    Dialogue,
}

impl Phase {
    /// Every phase, in the order in which a probe passes through them.
    pub const ALL: [Self; 4] = [Self::Resolve, Self::Connect, Self::Tls, Self::Dialogue];

    /// The label value: an interface, so spelled by hand.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Dialogue => "dialogue",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a reason speaks against.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Against {
    /// The target or the way to it: the outcome is a failure.
    Target,
    /// The machine that looks: the outcome is inconclusive.
    Monitor,
}

/// Where on the way from the monitor to the service the fault is; the `place` label.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// The exporter's machine: its process, clock, limits, routes, firewall.
    Machine,
    /// The name servers that this machine asks.
    Resolver,
    /// The link of this machine, its gateway, the region's way out.
    Link,
    /// The routers and firewalls between the gateway and the host.
    Path,
    /// The target's host, or its own firewall.
    Host,
    /// What listens on the port.
    Service,
    /// The certificate that the service shows.
    Certificate,
    /// The target's name: its text, its records, the servers of its zone.
    Name,
}

impl Place {
    /// The label value: an interface, so spelled by hand.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Resolver => "resolver",
            Self::Link => "link",
            Self::Path => "path",
            Self::Host => "host",
            Self::Service => "service",
            Self::Certificate => "certificate",
            Self::Name => "name",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $against:ident, $place:ident, $advice:literal;)+) => {
        /// Why a probe did not succeed: the closed set of values of the `reason` label.
        ///
        /// Closed, because label values are an interface: alert rules match on them, and each
        /// new one is a new series. A reason belongs either to the target or to the monitor
        /// ([`Reason::against`]), never to both, so an outcome follows from its reason.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of this page.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The label value: an interface, so spelled by hand.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// Whom it speaks against.
            #[must_use]
            pub const fn against(self) -> Against {
                match self { $(Self::$name => Against::$against,)+ }
            }

            /// Where on the way the fault is.
            #[must_use]
            pub const fn place(self) -> Place {
                match self { $(Self::$name => Place::$place,)+ }
            }

            /// One sentence for the person on call: what it means, where to look.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

reasons! {
    /// The target's text names no host and port.
    InvalidTarget = "invalid_target", Target, Name,
        "Write the target as host:port, with brackets around an IPv6 address: [2001:db8::1]:5432.";
    /// The name does not exist.
    DnsNxdomain = "dns_nxdomain", Target, Name,
        "The name does not exist: check its spelling and its DNS record.";
    /// The name exists, without an address of a family the module may use.
    DnsNoAddress = "dns_no_address", Target, Name,
        "The name has no address of the wanted IP version: check preferred_ip_protocol and the DNS records.";
    /// The name servers answered with an error.
    DnsFailure = "dns_failure", Target, Name,
        "The name servers answered with an error (SERVFAIL, REFUSED): check the zone and the resolver.";
    /// No name server answered in time.
    DnsTimeout = "dns_timeout", Target, Name,
        "No name server answered in time, or so late that too little was left for the connect: check the zone's servers; other names do resolve here.";
    /// The peer's kernel answered with RST: nothing listens there.
    Refused = "refused", Target, Host,
        "The host answers but nothing listens on this port: check that the service runs and on which port and address.";
    /// A firewall answered with ICMP port unreachable.
    Rejected = "rejected", Target, Path,
        "A firewall rejects this port (ICMP port unreachable): allow this region's addresses.";
    /// A firewall answered with ICMP administratively prohibited.
    Prohibited = "prohibited", Target, Path,
        "A firewall prohibits the way (ICMP administratively prohibited): allow this region's addresses.";
    /// A router answered that it has no route to the network.
    NetUnreachable = "net_unreachable", Target, Path,
        "A router has no route to the network: check routing between this region and the host.";
    /// The neighbour or a router answered that the host cannot be reached.
    HostUnreachable = "host_unreachable", Target, Host,
        "The host does not answer on its network: check that it is on and connected.";
    /// Nothing came back before the deadline.
    Timeout = "timeout", Target, Path,
        "Nothing came back: the host is down or a firewall drops the packets. Allow this region's addresses, check routing; on a slow network raise the timeout.";
    /// The peer closed the connection before the probe was done with it.
    ClosedEarly = "closed_early", Target, Service,
        "The port accepts and then closes: a proxy without a living backend, a connection limit or an access list of the service.";
    /// The peer reset the connection before the probe was done with it.
    Reset = "reset", Target, Service,
        "The port accepts and then resets: the service or a device on the way cuts the connection.";
    /// The network answered with an error that has no reason of its own.
    NetworkError = "network_error", Target, Path,
        "The network answered with an unusual error: see the probe's log for its number.";
    /// The port is open though the module expects it to be shut.
    UnexpectedlyOpen = "unexpectedly_open", Target, Service,
        "The port accepts connections though it must be shut: check the firewall and what listens there.";
    /// The peer does not speak TLS.
    TlsNotTls = "tls_not_tls", Target, Service,
        "What answers does not speak TLS: check the port, or whether the service wants STARTTLS.";
    /// The certificate's issuer is not trusted, or its chain is incomplete.
    TlsUntrusted = "tls_untrusted", Target, Certificate,
        "The certificate is not trusted: check the issuer, the intermediate certificates sent and the module's ca_file.";
    /// A certificate of the chain has expired.
    TlsExpired = "tls_expired", Target, Certificate,
        "A certificate has expired: renew it and reload the service.";
    /// A certificate of the chain is not valid yet.
    TlsNotYetValid = "tls_not_yet_valid", Target, Certificate,
        "A certificate is not valid yet: check its dates and the clocks.";
    /// The certificate is for another name.
    TlsWrongName = "tls_wrong_name", Target, Certificate,
        "The certificate is for another name: check server_name and the certificate's alternative names.";
    /// The server wants a client certificate that the module does not offer, or refuses it.
    TlsClientCertificate = "tls_client_certificate", Target, Service,
        "The server wants a client certificate it accepts: set cert_file and key_file of the module.";
    /// Both sides speak TLS and found no common ground.
    TlsHandshake = "tls_handshake", Target, Service,
        "The TLS handshake failed: check the versions and ciphers that the server allows.";
    /// The TLS handshake did not finish before the deadline.
    TlsTimeout = "tls_timeout", Target, Service,
        "The port accepts but the TLS handshake does not finish: check the service behind the port.";
    /// The peer's answer does not match what the module expects.
    ExpectMismatch = "expect_mismatch", Target, Service,
        "The answer is not the expected one: another service may listen here, or the service is unwell.";
    /// The peer's answer matches the module's `reject`.
    ExpectRejected = "expect_rejected", Target, Service,
        "The service answered with a refusal: see the probe's log for its words.";
    /// The expected answer did not come before the deadline.
    ExpectTimeout = "expect_timeout", Target, Service,
        "The port accepts but the expected answer does not come: the service hangs or is overloaded.";
    /// The path does not acknowledge data, or swallows the peer's.
    Unacknowledged = "unacknowledged", Target, Path,
        "The handshake passed but data after it is lost on the path: check firewalls that inspect traffic, MTU and ICMP filtering (try ping -M do -s 1472), and asymmetric routes.";
    /// A firewall of the monitor's own machine rejects the connection.
    LocalFirewall = "local_firewall", Monitor, Machine,
        "This machine's own firewall rejects or drops the connection (OUTPUT): allow outgoing connections of the exporter.";
    /// The monitor's own machine has no route.
    LocalNoRoute = "local_no_route", Monitor, Machine,
        "This machine has no usable route to the address (none, or one of type prohibit, blackhole or unreachable): check ip route get, interfaces and addresses.";
    /// The gateway of the monitor's machine is silent, or the link to it is down.
    LocalGateway = "local_gateway", Monitor, Link,
        "This machine's gateway does not answer or its link is down: check the cable or virtual interface, the gateway and its address (ip neigh, ip link).";
    /// The resolver of the monitor's machine is absent, refuses, or answers nobody.
    LocalResolver = "local_resolver", Monitor, Resolver,
        "This machine's name servers are absent, refuse or answer nobody: check /etc/resolv.conf and the resolver it names.";
    /// The clock of the monitor's machine was set while it ran, so that dates cannot be judged.
    LocalClock = "local_clock", Monitor, Machine,
        "This machine's clock was set while the exporter ran, and the certificate's dates hold by one time and not by the other: correct the clock (NTP); if it is right now, restart the exporter.";
    /// The monitor lacks descriptors, ports, memory or permission.
    LocalResources = "local_resources", Monitor, Machine,
        "This machine is out of descriptors, ports, memory or permission: raise its limits or lower the load.";
    /// The monitor slept past the deadline.
    LocalStall = "local_stall", Monitor, Machine,
        "The exporter was stopped or starved during the probe, so that silence proves nothing: give its machine more CPU.";
    /// Every canary fails: the monitor is cut off.
    LocalIsolated = "local_isolated", Monitor, Link,
        "Every canary fails: this region is cut off from the network.";
    /// The module cannot be carried out here: a file or an address of its configuration is missing.
    LocalConfig = "local_config", Monitor, Machine,
        "The module cannot be carried out on this machine: check its certificate files and source address.";
    /// The access rules of the exporter refuse this target.
    LocalDenied = "local_denied", Monitor, Machine,
        "The exporter's access rules refuse this address: allow it under access, or remove the monitor.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a probe found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The port did what its module expects.
    Success,
    /// It did not, and the monitor could see so. Invariant: the reason is against the target.
    Failure(Reason, Phase),
    /// The monitor could not see. Invariant: the reason is against the monitor.
    Inconclusive(Reason, Phase),
}

impl Outcome {
    /// The label values of `outcome`, in the order of [`Outcome::index`].
    pub const NAMES: [&str; 3] = ["success", "failure", "inconclusive"];

    /// The outcome that a reason stands for.
    #[must_use]
    pub const fn because(reason: Reason, phase: Phase) -> Self {
        match reason.against() {
            Against::Target => Self::Failure(reason, phase),
            Against::Monitor => Self::Inconclusive(reason, phase),
        }
    }

    /// Why and where it was no success; `None` for a success.
    #[must_use]
    pub const fn cause(self) -> Option<(Reason, Phase)> {
        match self {
            Self::Success => None,
            Self::Failure(reason, phase) | Self::Inconclusive(reason, phase) => {
                Some((reason, phase))
            }
        }
    }

    /// Position in [`Outcome::NAMES`] and in arrays of counters, 0 to 2.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Success => 0,
            Self::Failure(..) => 1,
            Self::Inconclusive(..) => 2,
        }
    }

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Whether the port did what its module expects.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }

    /// Whether the monitor could not see.
    #[must_use]
    pub const fn is_inconclusive(self) -> bool {
        matches!(self, Self::Inconclusive(..))
    }
}

/// The ICMP error that ended a connect, from the socket's error queue
/// (`IP_RECVERR`, ip(7); `sock_extended_err` in `linux/errqueue.h`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IcmpError {
    /// Who sent it; our own address when this machine did.
    pub offender: Option<IpAddr>,
    /// ICMP or `ICMPv6` type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// The times of the phases that completed, and only of those.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PhaseTimes {
    /// Name to address; zero for a literal.
    pub resolve: Option<Duration>,
    /// TCP handshake by the wall clock.
    pub connect: Option<Duration>,
    /// TLS handshakes.
    pub tls: Option<Duration>,
    /// Dialogue and hold.
    pub dialogue: Option<Duration>,
}

impl PhaseTimes {
    /// The time of one phase, if it completed.
    #[must_use]
    pub const fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Resolve => self.resolve,
            Phase::Connect => self.connect,
            Phase::Tls => self.tls,
            Phase::Dialogue => self.dialogue,
        }
    }
}

/// What the kernel knows of the TCP handshake (`TCP_INFO`, tcp(7)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernelView {
    /// Round trip of the handshake; `None` after a retransmission, when the kernel timed something
    /// else.
    pub rtt: Option<Duration>,
    /// SYNs sent again; on a connect that timed out, those that nobody answered.
    pub syn_retransmits: u32,
}

/// What the TLS handshake showed, whether or not the certificates were believed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsDetails {
    /// `TLS 1.2` or `TLS 1.3`, once agreed.
    pub version: Option<&'static str>,
    /// Earliest `notAfter` among the certificates sent, Unix seconds.
    pub earliest_expiry: Option<i64>,
    /// Latest, over the verified chains, of each chain's earliest `notAfter`, Unix seconds;
    /// `None` when nothing was verified.
    pub last_chain_expiry: Option<i64>,
    /// `notBefore` and `notAfter` between which all certificates sent are valid, Unix seconds.
    pub validity: Option<(i64, i64)>,
    /// The leaf certificate.
    pub leaf: Option<LeafCertificate>,
}

/// The leaf certificate in the words of `probe_ssl_last_chain_info`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeafCertificate {
    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fingerprint_sha256: String,
    /// Subject in RFC 2253 form.
    pub subject: String,
    /// Issuer in RFC 2253 form.
    pub issuer: String,
    /// DNS alternative names joined by commas.
    pub subject_alternative: String,
    /// Serial number, lower-case hexadecimal of whole bytes.
    pub serial_number: String,
    /// `notBefore`, Unix seconds.
    pub not_before: i64,
    /// `notAfter`, Unix seconds.
    pub not_after: i64,
}

/// What the dialogue showed beyond its outcome.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DialogueDetails {
    /// An `expect` or `reject` decided against the peer.
    pub failed_due_to_regex: bool,
    /// An `expect_bytes` decided against the peer.
    pub failed_due_to_bytes: bool,
    /// The step, counted from 0, in which the dialogue ended early.
    pub step: Option<usize>,
    /// Labels of `probe_expect_info`, expanded, names unique; `None` if no entry with labels matched.
    pub labels: Option<Vec<(String, String)>>,
}

/// Everything one probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// The answer.
    pub outcome: Outcome,
    /// From start to answer, polite close excluded.
    pub duration: Duration,
    /// The part of that in which this process did not run.
    pub slept: Duration,
    /// Whether the outcome would be another one if this machine turned out to see nobody.
    pub rests_on_sight: bool,
    /// The timeout in force.
    pub timeout: Duration,
    /// Times of the completed phases.
    pub phases: PhaseTimes,
    /// The address that was tried, once there was one.
    pub peer: Option<SocketAddr>,
    /// The kernel's view of the handshake, once a socket was connecting.
    pub kernel: Option<KernelView>,
    /// The errno of the failed system call.
    pub errno: Option<i32>,
    /// The ICMP error behind it.
    pub icmp: Option<IcmpError>,
    /// TLS, if it was spoken.
    pub tls: Option<Box<TlsDetails>>,
    /// The dialogue, if the connection came up.
    pub dialogue: Option<Box<DialogueDetails>>,
    /// The cause in one line of bounded, printable text, for people and logs.
    pub detail: Option<Box<str>>,
    /// The access rule that denied the target.
    pub denied_by: Option<Arc<str>>,
}

impl ProbeResult {
    /// Whether the probe held its place for long without a success: the next one may again.
    #[must_use]
    pub fn waited_in_vain(&self) -> bool {
        self.outcome != Outcome::Success && self.duration >= self.timeout / 2
    }

    /// A result of nothing but its outcome; the prober fills in the rest.
    #[must_use]
    pub const fn new(outcome: Outcome, timeout: Duration) -> Self {
        Self {
            outcome,
            duration: Duration::ZERO,
            slept: Duration::ZERO,
            rests_on_sight: false,
            timeout,
            phases: PhaseTimes { resolve: None, connect: None, tls: None, dialogue: None },
            peer: None,
            kernel: None,
            errno: None,
            icmp: None,
            tls: None,
            dialogue: None,
            detail: None,
            denied_by: None,
        }
    }

    /// The latency to show people: the kernel's round trip where no SYN was sent again,
    /// since user space measures its own queue too; the wall clock otherwise. Only for a success.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        if !self.outcome.is_success() {
            return None;
        }
        match self.kernel {
            Some(KernelView { rtt: Some(rtt), syn_retransmits: 0 }) => Some(rtt),
            _ => self.phases.connect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_snake_case() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|it| it.as_str()).collect();
        for label in &labels {
            assert!(label.bytes().all(|it| it.is_ascii_lowercase() || it == b'_'), "{label}");
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn a_reason_against_the_monitor_is_local_and_inconclusive() {
        for &reason in Reason::ALL {
            let outcome = Outcome::because(reason, Phase::Connect);
            let local = reason.as_str().starts_with("local_");
            assert_eq!(matches!(outcome, Outcome::Inconclusive(..)), local, "{reason}");
        }
    }

    #[test]
    fn latency_is_the_kernels_unless_a_syn_was_lost() {
        let mut result = ProbeResult::new(Outcome::Success, Duration::from_secs(1));
        result.phases.connect = Some(Duration::from_millis(500));
        let rtt = Some(Duration::from_micros(30));
        result.kernel = Some(KernelView { rtt, syn_retransmits: 0 });
        assert_eq!(result.latency(), rtt);
        result.kernel = Some(KernelView { rtt, syn_retransmits: 1 });
        assert_eq!(result.latency(), Some(Duration::from_millis(500)));
        result.outcome = Outcome::because(Reason::Refused, Phase::Connect);
        assert_eq!(result.latency(), None);
    }
}
