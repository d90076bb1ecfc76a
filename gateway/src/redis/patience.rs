//! Asking again at a start, where nobody waits and a refusal would end the process.

use super::error::RedisError;
use std::time::Duration;
use tokio::time::Instant;

/// A replica that hangs for a moment, or a failover: a start outlasts both.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// For what may be asked for twice.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
}

impl Patience {
    #[must_use]
    pub fn begin() -> Self {
        Self { until: Instant::now() + LIMIT }
    }

    /// Waits a moment if it is to be asked again.
    ///
    /// # Errors
    /// `error` itself: it is known that nothing happened, or it was asked for long enough.
    pub async fn after(&self, error: RedisError) -> Result<(), RedisError> {
        if !error.is_unknown() || Instant::now() >= self.until {
            return Err(error);
        }
        tracing::warn!(%error, "a start asks redis again");
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
