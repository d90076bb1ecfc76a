//! A provider that may be replaced while it is used: by one with other credentials.

use super::Provider;
use crate::BoxFuture;
use crate::model::{Attempt, Delivery, ProviderName};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Sends with whatever provider it holds when a batch begins.
#[derive(Debug)]
pub struct Swap(ArcSwap<Arc<dyn Provider>>);

impl Swap {
    #[must_use]
    pub fn new(first: Arc<dyn Provider>) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// From the next batch on `next` is used; what is on its way ends with the one before, whose
    /// connections close with it.
    pub fn replace(&self, next: Arc<dyn Provider>) {
        self.0.store(Arc::new(next));
    }
}

impl Provider for Swap {
    fn name(&self) -> ProviderName {
        self.0.load().name()
    }

    fn batch_max(&self) -> usize {
        self.0.load().batch_max()
    }

    fn in_flight_max(&self) -> usize {
        self.0.load().in_flight_max()
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        let provider = self.0.load_full();
        Box::pin(async move { provider.send(batch, report).await })
    }
}
