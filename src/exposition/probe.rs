//! The metrics of one probe: those of `blackbox_exporter` for TCP with the same names and
//! meaning, and what it does not tell.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::exposition::page::{Kind, Page};
use crate::outcome::{DialogueDetails, Phase, ProbeResult, Reason, TlsDetails};

/// Last chain expiry of certificates that nobody verified: the zero time of Go, which rules
/// written for `blackbox_exporter` expect.
const NO_CHAIN: i64 = -62_135_596_800;

pub(super) fn write(result: &ProbeResult, page: &mut Page<'_>) -> io::Result<()> {
    page.gauge(
        "probe_success",
        "Displays whether or not the probe was a success",
        result.outcome.is_success(),
    )?;
    page.gauge(
        "probe_duration_seconds",
        "Returns how long the probe took to complete in seconds",
        result.duration,
    )?;
    page.gauge("probe_timeout_seconds", "Returns the probe timeout in seconds", result.timeout)?;
    // A target whose text names no host and port was never looked up.
    if result.outcome.cause().is_none_or(|(reason, _)| reason != Reason::InvalidTarget) {
        resolution(result, page)?;
    }
    if let Some((reason, phase)) = result.outcome.cause() {
        let name = "probe_failure_info";
        page.family(
            name,
            Kind::Gauge,
            "Why, in which phase and where on the way the probe failed",
        )?;
        let place = reason.place();
        let labels =
            [("phase", phase.as_str()), ("reason", reason.as_str()), ("place", place.as_str())];
        page.sample(name, &labels, true);
    }
    phases(result, page)?;
    kernel(result, page)?;
    dialogue(result, page)?;
    result.tls.as_deref().map_or(Ok(()), |it| tls(it, page))
}

fn resolution(result: &ProbeResult, page: &mut Page<'_>) -> io::Result<()> {
    page.gauge(
        "probe_dns_lookup_time_seconds",
        "Returns the time taken for probe dns lookup in seconds",
        result.phases.resolve.unwrap_or_else(|| {
            // A lookup that failed took all the time there was.
            if result.peer.is_none() { result.duration } else { std::time::Duration::ZERO }
        }),
    )?;
    page.gauge(
        "probe_ip_protocol",
        "Specifies whether probe ip protocol is IP4 or IP6",
        result.peer.map_or(0_u32, |it| if it.is_ipv4() { 4 } else { 6 }),
    )?;
    page.gauge(
        "probe_ip_addr_hash",
        "Specifies the hash of IP address. It's useful to detect if the IP address changes.",
        result.peer.map_or(0, address_hash),
    )
}

/// FNV-1a of 32 bits over the bytes of the address, as `blackbox_exporter` has it.
fn address_hash(peer: SocketAddr) -> u32 {
    let fnv = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    match peer.ip() {
        IpAddr::V4(ip) => fnv(&ip.octets()),
        IpAddr::V6(ip) => fnv(&ip.octets()),
    }
}

fn phases(result: &ProbeResult, page: &mut Page<'_>) -> io::Result<()> {
    let name = "probe_phase_duration_seconds";
    page.family(name, Kind::Gauge, "Duration of each phase that completed")?;
    for phase in Phase::ALL {
        if let Some(duration) = result.phases.of(phase) {
            page.sample(name, &[("phase", phase.as_str())], duration);
        }
    }
    Ok(())
}

fn kernel(result: &ProbeResult, page: &mut Page<'_>) -> io::Result<()> {
    let Some(kernel) = result.kernel else { return Ok(()) };
    if let Some(rtt) = kernel.rtt {
        page.gauge(
            "probe_tcp_rtt_seconds",
            "Round trip of the handshake as the kernel measured it; of millisecond grain after a \
             retransmitted SYN",
            rtt,
        )?;
    }
    page.gauge(
        "probe_tcp_syn_retransmits",
        "SYNs that had to be sent again",
        kernel.syn_retransmits,
    )
}

fn dialogue(result: &ProbeResult, page: &mut Page<'_>) -> io::Result<()> {
    // Always there, as up to version 0.27 of blackbox_exporter: a rule on them needs no `or`.
    let none = DialogueDetails::default();
    let dialogue = result.dialogue.as_deref().unwrap_or(&none);
    page.gauge(
        "probe_failed_due_to_regex",
        "Indicates if probe failed due to regex",
        dialogue.failed_due_to_regex,
    )?;
    page.gauge(
        "probe_failed_due_to_bytes",
        "Indicates if probe failed due to bytes",
        dialogue.failed_due_to_bytes,
    )?;
    if let Some(step) = dialogue.step {
        page.gauge(
            "probe_failed_step",
            "The entry of query_response, counted from 0, in which the probe ended",
            step as u64,
        )?;
    }
    if let Some(labels) = &dialogue.labels {
        let name = "probe_expect_info";
        page.family(name, Kind::Gauge, "Explicit content matched")?;
        page.sample(name, &labels.as_slice(), true);
    }
    Ok(())
}

fn tls(tls: &TlsDetails, page: &mut Page<'_>) -> io::Result<()> {
    if let Some(expiry) = tls.earliest_expiry {
        page.gauge(
            "probe_ssl_earliest_cert_expiry",
            "Returns last SSL chain expiry in unixtime",
            expiry,
        )?;
        page.gauge(
            "probe_ssl_last_chain_expiry_timestamp_seconds",
            "Returns last SSL chain expiry in unixtime",
            tls.last_chain_expiry.unwrap_or(NO_CHAIN),
        )?;
    }
    if let Some(leaf) = &tls.leaf {
        let name = "probe_ssl_last_chain_info";
        page.family(name, Kind::Gauge, "Contains SSL leaf certificate information")?;
        let labels = [
            ("fingerprint_sha256", leaf.fingerprint_sha256.as_str()),
            ("subject", &leaf.subject),
            ("issuer", &leaf.issuer),
            ("subjectalternative", &leaf.subject_alternative),
            ("serialnumber", &leaf.serial_number),
        ];
        page.sample(name, &labels, true);
        page.gauge(
            "probe_ssl_leaf_not_before_timestamp_seconds",
            "Begin of the leaf certificate's validity in unixtime",
            leaf.not_before,
        )?;
        page.gauge(
            "probe_ssl_leaf_not_after_timestamp_seconds",
            "End of the leaf certificate's validity in unixtime",
            leaf.not_after,
        )?;
    }
    if let Some(version) = tls.version {
        let name = "probe_tls_version_info";
        page.family(name, Kind::Gauge, "Contains the TLS version used")?;
        page.sample(name, &[("version", version)], true);
    }
    Ok(())
}
