//! Scheme, host and port of a server: what a connection belongs to.

use http::HeaderValue;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use url::{Host, Url};

/// A configured endpoint that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("must be a URL such as https://host:443")]
    Malformed,
    #[error("must be a plain origin: no path, query, user name or password")]
    NotPlain,
}

/// A server to connect to. Cheap to clone once made.
#[derive(Clone, Debug)]
pub struct Origin {
    secure: bool,
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    authority: Authority,
    shown: HeaderValue,
    key: Arc<OriginKey>,
}

/// Scheme, host and port: equal for origins that share connections.
pub(super) type OriginKey = (bool, String, u16);

impl Origin {
    /// Parses a configured endpoint, which has no path of its own.
    pub fn parse(endpoint: &str) -> Result<Self, OriginError> {
        let url = Url::parse(endpoint).map_err(|_| OriginError::Malformed)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(OriginError::NotPlain);
        }
        Self::of(&url)
    }

    /// The origin of `url`.
    pub fn of(url: &Url) -> Result<Self, OriginError> {
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(OriginError::Malformed),
        };
        let port = url.port_or_known_default().ok_or(OriginError::Malformed)?;
        let host = match url.host().ok_or(OriginError::Malformed)? {
            // A name with the root's dot is the same server, but not the same certificate name.
            Host::Domain(name) => name.trim_end_matches('.').to_owned(),
            Host::Ipv4(v4) => v4.to_string(),
            Host::Ipv6(v6) => v6.to_string(),
        };
        let server_name = ServerName::try_from(host.clone()).map_err(|_| OriginError::Malformed)?;
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = match url.port() {
            Some(port) => Authority::from_maybe_shared(format!("{shown}:{port}")),
            None => Authority::from_maybe_shared(shown),
        };
        let authority = authority.map_err(|_| OriginError::Malformed)?;
        let shown =
            HeaderValue::try_from(authority.as_str()).map_err(|_| OriginError::Malformed)?;
        let key = Arc::new((secure, host.clone(), port));
        Ok(Self { secure, host, port, server_name, authority, shown, key })
    }

    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of `:authority`.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The same as the value of `Host`.
    pub(super) fn shown(&self) -> &HeaderValue {
        &self.shown
    }

    /// The absolute URI of `path` here.
    pub fn uri(&self, path: PathAndQuery) -> Result<Uri, http::Error> {
        let scheme = if self.secure { Scheme::HTTPS } else { Scheme::HTTP };
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query(path).build()
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// Distinguishes origins in a map of idle connections.
    pub(super) fn key(&self) -> &Arc<OriginKey> {
        &self.key
    }
}

/// Path and query of `url` in the form a request line carries.
pub(crate) fn path_of(url: &Url) -> Result<PathAndQuery, OriginError> {
    let text = url
        .query()
        .map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    PathAndQuery::from_maybe_shared(text).map_err(|_| OriginError::Malformed)
}
