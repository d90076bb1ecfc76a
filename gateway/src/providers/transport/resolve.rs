//! Names to addresses: a seam, so that hostile resolvers can be tested.

use crate::BoxFuture;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why a name gave no usable address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the name cannot be resolved")]
    Failed(#[source] io::Error),
    #[error("the name leads to an address that is not allowed")]
    Blocked,
}

/// Turns a name, or an address in text form, into socket addresses.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of `host`, at least one. Called once per new connection.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>>;
}

/// The machine's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
                .await
                .map_err(ResolveError::Failed)?
                .collect();
            if found.is_empty() {
                return Err(ResolveError::Failed(io::ErrorKind::NotFound.into()));
            }
            Ok(found)
        })
    }
}
