//! Text in PEM form: certificates and keys, as the prober and the web server read them.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Every certificate of a text. An empty text, one without certificates and one that ends within
/// a certificate are refused.
///
/// # Errors
/// What is wrong, without a name.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|err| format!("damaged PEM: {err}"))?;
    if certificates.is_empty() {
        return Err("no certificate in PEM form".to_owned());
    }
    Ok(certificates)
}

/// The first private key of a text.
///
/// # Errors
/// What is wrong, without a name.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|err| format!("no private key: {err}"))
}
