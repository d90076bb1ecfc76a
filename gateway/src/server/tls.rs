//! The server's side of TLS: certificate and key from PEM files, HTTP/2 and HTTP/1.1 by ALPN.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate can be read from {path}: it must be a PEM file with the chain")]
    Certificate {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("no private key can be read from {path}: it must be a PEM file")]
    Key {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("certificate and private key do not work together")]
    Mismatch(#[source] rustls::Error),
}

/// A configuration for TLS 1.2 and 1.3 without early data, client certificates or renegotiation.
///
/// # Errors
/// When a file cannot be read, or key and certificate do not match.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |source| TlsError::Certificate { path: certificate.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsError::Key { path: key.to_owned(), source })?;
    from_parts(chain, key).map_err(TlsError::Mismatch)
}

/// The same from parts already read.
///
/// # Errors
/// When key and certificate do not match.
pub fn from_parts(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A replayed 0-RTT POST would be a second notification.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
