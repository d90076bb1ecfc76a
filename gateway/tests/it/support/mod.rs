//! What the tests stand on: gateway processes, a world for them, a client, and patience.

pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod metrics;
pub(crate) mod receiver;
pub(crate) mod rules;
pub(crate) mod tokens;
pub(crate) mod world;

use std::time::{Duration, Instant};

/// Longest any single condition may take on a busy machine; a passing test never waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` until it has a value; `what` names the condition that did not come about.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "did not come about: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The result of `future`, which must come in time.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(PATIENCE, future).await;
    answered.unwrap_or_else(|_| unreachable!("did not come about: {what}"))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.expect("the clock is after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit 64 bits")
}
