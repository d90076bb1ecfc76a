//! The provider seam: one delivery in, one attempt out, for APNs, FCM, Slack, webhooks and mail.
//!
//! A provider owns its connections and credentials and nothing else: retries, lanes and outcomes
//! belong to `dispatch`. `classify.rs` of each provider is the only place that maps a remote
//! answer to an `Outcome`; endpoint and CA of each are configuration.

use crate::BoxFuture;
use crate::model::{Attempt, Delivery, ProviderName};

pub mod apns;
pub mod email;
pub mod fcm;
pub mod guard;
pub mod retry_after;
pub mod slack;
pub mod swap;
pub mod tls;
pub mod transport;
pub mod webhook;

mod attempt;
mod error;
#[cfg(test)]
mod fixture;
mod gate;

pub use error::ProviderError;

/// Sends deliveries of one provider and credential.
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Which provider this is.
    fn name(&self) -> ProviderName;

    /// Most deliveries the dispatcher should hand over in one `send`.
    fn batch_max(&self) -> usize;

    /// Most deliveries that may be in flight at once, over all batches, right now.
    fn in_flight_max(&self) -> usize;

    /// Tries each delivery of `batch` once and reports each result, by its index, as it comes in.
    ///
    /// Every index is reported exactly once before the future resolves. The future bounds its own
    /// time (connect, TLS, answer and body together). Dropping it leaves unreported deliveries
    /// with an unknown outcome.
    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()>;
}
