//! The certificate authority of a set of twins, and the server certificates it issues, good and bad.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What is wrong with the certificate of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    #[default]
    Good,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// Issued for `elsewhere.example`.
    WrongHost,
    /// Issued by itself.
    SelfSigned,
    /// Issued by an authority nobody knows.
    UnknownAuthority,
}

/// What twins may be called besides their address.
const NAMES: &str = "*.twins.test";

/// A certificate authority that lives as long as its twins.
pub(crate) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pki")
    }
}

/// A word that names no kind of certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no certificate is called {0:?}; use good, expired, not-yet-valid, wrong-host, self-signed or \
     unknown-authority"
)]
pub struct UnknownCertificate(pub String);

impl FromStr for Certificate {
    type Err = UnknownCertificate;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(match word {
            "good" => Self::Good,
            "expired" => Self::Expired,
            "not-yet-valid" => Self::NotYetValid,
            "wrong-host" => Self::WrongHost,
            "self-signed" => Self::SelfSigned,
            "unknown-authority" => Self::UnknownAuthority,
            other => return Err(UnknownCertificate(other.to_owned())),
        })
    }
}

/// Making keys or certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("the twins' certificates could not be made")]
    Certificate(#[from] rcgen::Error),
    #[error("the twins' certificates do not suit the TLS library")]
    Tls(#[from] rustls::Error),
}

impl Pki {
    pub(crate) fn generate() -> Result<Self, PkiError> {
        Ok(Self { authority: authority("Bugler twins")? })
    }

    /// The authority's certificate, which clients of the twins must trust.
    pub(crate) fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// TLS for a listener on `host` and `localhost` that offers `alpn`.
    pub(crate) fn server_config(
        &self,
        host: IpAddr,
        certificate: Certificate,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, PkiError> {
        let (chain, key) = self.issue(host, certificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn issue(
        &self,
        host: IpAddr,
        certificate: Certificate,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let names = match certificate {
            Certificate::WrongHost => vec!["elsewhere.example".to_owned()],
            _ => vec!["localhost".to_owned(), host.to_string(), NAMES.to_owned()],
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "Bugler twin");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        match certificate {
            Certificate::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Certificate::NotYetValid => params.not_before = date_time_ymd(4000, 1, 1),
            _ => {}
        }
        let key = KeyPair::generate()?;
        let leaf = match certificate {
            Certificate::SelfSigned => params.self_signed(&key)?,
            Certificate::UnknownAuthority => params.signed_by(&key, &*authority("Nobody")?)?,
            _ => params.signed_by(&key, &self.authority)?,
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![leaf.der().clone()], key))
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, PkiError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}
