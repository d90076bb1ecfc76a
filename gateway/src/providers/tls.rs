//! TLS for every outgoing connection: public roots plus an optional CA, always verified.

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;

/// The protocol a connection must speak; offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// The ALPN word (RFC 7301).
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// For libraries that take the process's default: the same one as everywhere here.
pub fn install_default() {
    // Only the first one counts; it is always this one.
    aws_lc_rs::default_provider().install_default().ok();
}

/// The CA file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA file holds no PEM certificate")]
    Empty,
    #[error("the CA file is damaged: re-export it as PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("a certificate of the CA file cannot be used as a root")]
    Root(#[source] rustls::Error),
    #[error("the TLS library offers no usable protocol version")]
    Versions(#[source] rustls::Error),
}

/// Client settings for `protocol`: TLS 1.2 or 1.3, server certificate verified against the public
/// roots and every certificate in `ca_pem`. There is no switch to skip verification.
///
/// The cryptography provider is named here because several may be linked into one binary.
pub fn client_config(
    ca_pem: Option<&[u8]>,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = ca_pem {
        let public = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(TlsError::Pem)?).map_err(TlsError::Root)?;
        }
        if roots.len() == public {
            return Err(TlsError::Empty);
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_certificate_is_an_error() {
        assert!(matches!(client_config(Some(b"hello"), Protocol::Http1), Err(TlsError::Empty)));
    }

    #[test]
    fn a_damaged_ca_file_is_an_error() {
        let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(client_config(Some(pem), Protocol::Http2), Err(TlsError::Root(_))));
    }

    #[test]
    fn without_a_ca_file_the_public_roots_serve_and_the_protocol_is_offered() {
        let config = client_config(None, Protocol::Http2).unwrap();
        assert_eq!(config.alpn_protocols, vec![b"h2".to_vec()]);
    }
}
