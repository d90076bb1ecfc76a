//! Why a provider could not be built from its configuration.

use super::tls::TlsError;

/// A configuration that cannot work. Found at start, before any socket is opened.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A plain value is unusable; `rule` says what it must be.
    #[error("{field} {rule}")]
    Field { field: &'static str, rule: &'static str },
    /// The CA file cannot be used.
    #[error("ca_pem cannot be used")]
    Tls(#[from] TlsError),
    /// The signing key cannot be used; the key itself is never part of the text.
    #[error("{field} is not a private key of the expected kind")]
    Key {
        field: &'static str,
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    /// The service account file is not the JSON that the console downloads.
    #[error("service_account_json is not a service account key as the Firebase console exports it")]
    ServiceAccount,
}

impl ProviderError {
    pub(crate) fn field(field: &'static str, rule: &'static str) -> Self {
        Self::Field { field, rule }
    }
}
