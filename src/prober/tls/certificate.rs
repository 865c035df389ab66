//! Certificates in the words of `probe_ssl_last_chain_info`, and how long chains last.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::*;

use crate::limits::{CERTIFICATE_TEXT_BYTES, CHAIN_LENGTH, CHAIN_STEPS};
use crate::outcome::LeafCertificate;
use crate::prober::journal;

/// What is kept of a certificate to follow paths. Its signature is the verifier's business.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    der: Box<[u8]>,
    subject: Box<[u8]>,
    issuer: Box<[u8]>,
    subject_key: Option<Box<[u8]>>,
    authority_key: Option<Box<[u8]>>,
    not_before: i64,
    pub(super) not_after: i64,
}

impl Link {
    /// Reads a certificate.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut subject_key = None;
        let mut authority_key = None;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(it) => subject_key = Some(it.0.into()),
                ParsedExtension::AuthorityKeyIdentifier(it) => {
                    authority_key = it.key_identifier.as_ref().map(|it| it.0.into());
                }
                _ => (),
            }
        }
        Some(Self {
            der: der.as_ref().into(),
            subject: certificate.subject().as_raw().into(),
            issuer: certificate.issuer().as_raw().into(),
            subject_key,
            authority_key,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Whether this is that very certificate.
    pub(super) fn is(&self, der: &CertificateDer<'_>) -> bool {
        *self.der == **der
    }

    /// Whether its dates allow it now.
    pub(super) const fn is_valid(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is not valid yet.
    pub(super) const fn is_early(&self, now: i64) -> bool {
        now < self.not_before
    }

    fn may_be_issued_by(&self, issuer: &Self) -> bool {
        let keys_differ = matches!(
            (&self.authority_key, &issuer.subject_key),
            (Some(wanted), Some(found)) if wanted != found
        );
        self.issuer == issuer.subject && !keys_differ
    }
}

/// From when until when all of these are valid.
pub(super) fn validity(chain: &[Link]) -> Option<(i64, i64)> {
    let from = chain.iter().map(|link| link.not_before).max()?;
    let until = chain.iter().map(|link| link.not_after).min()?;
    Some((from, until))
}

/// The latest, over all valid paths from the leaf to an anchor, of each path's earliest end.
pub(super) fn last_chain_expiry(chain: &[Link], anchors: &[Link], now: i64) -> Option<i64> {
    let leaf = chain.first()?;
    let mut steps = CHAIN_STEPS;
    let mut path = vec![leaf];
    best(&mut path, chain, anchors, now, i64::MAX, &mut steps)
}

fn best<'a>(
    path: &mut Vec<&'a Link>,
    chain: &'a [Link],
    anchors: &'a [Link],
    now: i64,
    earliest: i64,
    steps: &mut usize,
) -> Option<i64> {
    let last = *path.last()?;
    if *steps == 0 || path.len() > CHAIN_LENGTH || !last.is_valid(now) {
        return None;
    }
    *steps -= 1;
    let earliest = earliest.min(last.not_after);
    if anchors.contains(last) {
        return Some(earliest);
    }
    let mut found = None;
    for issuer in anchors.iter().chain(chain) {
        if last.may_be_issued_by(issuer) && !path.contains(&issuer) {
            path.push(issuer);
            found = found.max(best(path, chain, anchors, now, earliest, steps));
            path.pop();
        }
    }
    found
}

/// The leaf in words.
pub(super) fn describe(der: &CertificateDer<'_>) -> Option<LeafCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names
        .iter()
        .flat_map(|it| &it.value.general_names)
        .filter_map(|it| match it {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    let serial = certificate.raw_serial();
    let zeros = serial.iter().take_while(|it| **it == 0).count();
    Some(LeafCertificate {
        fingerprint_sha256: hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref()),
        subject: bearable(&name(certificate.subject())),
        issuer: bearable(&name(certificate.issuer())),
        subject_alternative: bearable(&names.join(",")),
        serial_number: hex(&serial[zeros..]),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

/// Text of a stranger, short enough for a label and harmless to terminals.
fn bearable(text: &str) -> String {
    let cut = (0..=CERTIFICATE_TEXT_BYTES).rfind(|it| text.is_char_boundary(*it)).unwrap_or(0);
    let more = if cut < text.len() { "…" } else { "" };
    format!("{}{more}", text.get(..cut).unwrap_or(text).replace(journal::moves_text, "\u{fffd}"))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Attributes with a short name, in the order in which Go writes them.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.17", "POSTALCODE"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.8", "ST"),
    ("2.5.4.7", "L"),
    ("2.5.4.11", "OU"),
    ("2.5.4.10", "O"),
    ("2.5.4.6", "C"),
];

/// A name in RFC 2253 form as Go writes it: the known attributes in a fixed order, the values
/// of one joined by `+`, of a single-valued one the last; then the others, last first, as
/// hexadecimal.
fn name(name: &X509Name<'_>) -> String {
    let attributes: Vec<(String, String)> =
        name.iter_attributes().map(|it| (it.attr_type().to_id_string(), value(it))).collect();
    let mut parts = Vec::new();
    for (oid, short) in SHORT {
        let mut values: Vec<_> =
            attributes.iter().filter(|(it, _)| it == oid).map(|(_, value)| value).collect();
        if matches!(short, "SERIALNUMBER" | "CN") {
            values.drain(..values.len().saturating_sub(1));
            values.retain(|it| !it.is_empty());
        }
        let values: Vec<_> =
            values.into_iter().map(|it| format!("{short}={}", escaped(it))).collect();
        if !values.is_empty() {
            parts.push(values.join("+"));
        }
    }
    for (oid, value) in attributes.iter().rev() {
        if SHORT.iter().all(|(it, _)| it != oid) {
            parts.push(format!("{oid}=#{}", hex(&encoded(value))));
        }
    }
    parts.join(",")
}

/// The text of a value, whatever its string type.
fn value(attribute: &AttributeTypeAndValue<'_>) -> String {
    if let Ok(text) = attribute.as_str() {
        return text.to_owned();
    }
    let bytes = attribute.as_slice();
    match attribute.attr_value().tag() {
        // BMPString: UTF-16, big endian.
        x509_parser::asn1_rs::Tag::BmpString => {
            let units = bytes.chunks_exact(2).map(|it| u16::from_be_bytes([it[0], it[1]]));
            char::decode_utf16(units).map(|it| it.unwrap_or('\u{fffd}')).collect()
        }
        // TeletexString, which everybody fills with Latin-1.
        x509_parser::asn1_rs::Tag::TeletexString => {
            bytes.iter().map(|it| char::from(*it)).collect()
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (index, it) in value.char_indices() {
        let escape = match it {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => index == 0 || index + 1 == value.len(),
            '#' => index == 0,
            _ => false,
        };
        if escape {
            text.push('\\');
        }
        text.push(it);
    }
    text
}

/// DER of a string: `PrintableString` if it can be one, else `UTF8String`.
fn encoded(value: &str) -> Vec<u8> {
    let is_printable = |it: u8| it.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&it);
    let tag = if value.bytes().all(is_printable) { 0x13 } else { 0x0c };
    let length = value.len();
    let mut der = vec![tag];
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        der.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|it| **it == 0).count();
        let significant = &bytes[zeros..];
        der.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        der.extend_from_slice(significant);
    }
    der.extend_from_slice(value.as_bytes());
    der
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(fill: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        fill(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_leaf_in_the_words_of_go() {
        let der = certificate(|it| {
            let name = &mut it.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, "Acme, Inc");
            name.push(DnType::OrganizationalUnitName, "Unit+1");
            name.push(DnType::CommonName, "srv one");
            name.push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "a@b");
            it.serial_number = Some(vec![0x0a, 0xff].into());
            it.subject_alt_names = vec![
                rcgen::SanType::DnsName("a.test".try_into().unwrap()),
                rcgen::SanType::IpAddress([127, 0, 0, 1].into()),
                rcgen::SanType::DnsName("b.test".try_into().unwrap()),
            ];
        });

        let leaf = describe(&der).unwrap();

        let subject = "CN=srv one,OU=Unit\\+1,O=Acme\\, Inc,C=DE,\
                       1.2.840.113549.1.9.1=#0c03614062";
        assert_eq!(leaf.subject, subject);
        assert_eq!(leaf.issuer, subject);
        assert_eq!(leaf.serial_number, "0aff");
        assert_eq!(leaf.subject_alternative, "a.test,b.test");
        assert_eq!(leaf.fingerprint_sha256.len(), 64);
        assert!(leaf.not_before < leaf.not_after);
    }

    #[test]
    fn a_leading_zero_of_the_serial_is_only_its_sign() {
        let der = certificate(|it| it.serial_number = Some(vec![0x80, 0x01].into()));
        assert_eq!(describe(&der).unwrap().serial_number, "8001");
    }

    #[test]
    fn blanks_and_hashes_are_escaped_at_the_ends() {
        assert_eq!(escaped(" a b "), "\\ a b\\ ");
        assert_eq!(escaped("#a#"), "\\#a#");
        assert_eq!(escaped("ü;<>\"\\"), "ü\\;\\<\\>\\\"\\\\");
    }

    #[test]
    fn other_string_types_are_text_too() {
        let der = certificate(|it| {
            let bmp = rcgen::string::BmpString::try_from("Grün").unwrap();
            it.distinguished_name.push(DnType::CommonName, DnValue::BmpString(bmp));
        });
        assert_eq!(describe(&der).unwrap().subject, "CN=Grün");
    }

    fn link(subject: &str, issuer: &str, not_after: i64) -> Link {
        Link {
            der: format!("{subject}{issuer}{not_after}").into_bytes().into(),
            subject: subject.as_bytes().into(),
            issuer: issuer.as_bytes().into(),
            subject_key: None,
            authority_key: None,
            not_before: 0,
            not_after,
        }
    }

    #[test]
    fn the_chain_that_lasts_longest_counts_by_its_shortest_link() {
        let chain =
            [link("leaf", "ca", 90), link("ca", "old root", 80), link("ca", "new root", 70)];
        let anchors = [link("old root", "old root", 50), link("new root", "new root", 1000)];
        assert_eq!(last_chain_expiry(&chain, &anchors, 10), Some(70));
        assert_eq!(last_chain_expiry(&chain, &anchors[..1], 10), Some(50));
        assert_eq!(last_chain_expiry(&chain, &anchors, 60), Some(70));
        assert_eq!(last_chain_expiry(&chain, &anchors[..1], 60), None);
        assert_eq!(last_chain_expiry(&chain, &[], 10), None);
    }

    #[test]
    fn an_intermediate_or_the_leaf_may_be_the_anchor() {
        let chain = [link("leaf", "ca", 90), link("ca", "root", 80)];
        assert_eq!(last_chain_expiry(&chain, &chain[1..], 10), Some(80));
        assert_eq!(last_chain_expiry(&chain, &chain[..1], 10), Some(90));
    }

    #[test]
    fn issuers_in_a_circle_have_an_end() {
        let chain: Vec<_> = (0..30).map(|it| link("ca", "ca", 100 + it)).collect();
        assert_eq!(last_chain_expiry(&chain, &[], 10), None);
    }
}
