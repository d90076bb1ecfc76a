//! Where Redis is, and how patient we are with it.

use super::class::Class;
use crate::model::Secret;
use std::time::Duration;

/// How to reach Redis and what to ask of it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host:port`, or `rediss://` for TLS. One for a single server; for a
    /// cluster some of its nodes.
    pub urls: Vec<String>,
    pub is_cluster: bool,
    /// Instead of what the URL may name.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// Authorities in PEM for `rediss://`; the usual ones if unset.
    pub ca_pem: Option<Vec<u8>>,
    /// In front of every key, before the hash tag.
    pub prefix: String,
    /// For one connection, with TLS and login.
    pub connect_timeout: Duration,
    /// For one operation; after it what was sent is unknown.
    pub timeout: Duration,
    /// Copies on other nodes that a write must have before it is answered.
    pub replicas: u32,
    /// How long to wait for these copies.
    pub replicas_timeout: Duration,
    /// Servers whose settings give less are refused.
    pub require: Option<Class>,
}

impl RedisOptions {
    /// One server at `url`.
    #[must_use]
    pub fn single(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into()], ..Self::default() }
    }

    /// The cluster that the nodes at `urls` belong to.
    #[must_use]
    pub fn cluster(urls: Vec<String>) -> Self {
        Self { urls, is_cluster: true, ..Self::default() }
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            is_cluster: false,
            user: None,
            password: None,
            ca_pem: None,
            prefix: String::from("bugler:"),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            replicas: 0,
            replicas_timeout: Duration::from_millis(200),
            require: None,
        }
    }
}

/// Without the URLs: they may carry a password.
impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("nodes", &self.urls.len())
            .field("is_cluster", &self.is_cluster)
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
