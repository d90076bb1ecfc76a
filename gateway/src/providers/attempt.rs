//! Runs a batch and turns answers into attempts: what the providers share.

use crate::model::{Attempt, Delivery, Notification, Outcome, Priority};
use crate::providers::transport::Failure;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Least wait after an outage of a push service, as Apple asks.
pub(super) const OUTAGE_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Longest `Attempt::reason`, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 256;

/// Starts `attempt` for every delivery of `batch` at once and reports each as it ends. Permits and
/// deadlines inside `attempt` bound what really runs.
pub(super) async fn each<'a, F>(
    batch: &'a [Delivery],
    report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    attempt: impl Fn(&'a Delivery) -> F,
) where
    F: Future<Output = Attempt> + Send + 'a,
{
    let mut running: FuturesUnordered<_> = batch
        .iter()
        .enumerate()
        // A block that waits for what it holds would be twice as large, and each is copied to its place.
        .map(|(index, delivery)| attempt(delivery).map(move |attempt| (index, attempt)))
        .collect();
    while let Some((index, attempt)) = running.next().await {
        report(index, attempt);
    }
}

/// A verdict about a delivery that never left this machine.
pub(super) fn unsent(outcome: Outcome) -> Attempt {
    Attempt { outcome, status: None, reason: None, provider_id: None, elapsed: Duration::ZERO }
}

/// The attempt that `failure` makes of a push.
pub(super) fn push_failed(failure: Failure, elapsed: Duration) -> Attempt {
    // The yes came; what was lost of its body is an id at most.
    if let Failure::Unanswered { cause, status: Some(200) } = failure {
        return accepted(cause, 200, elapsed);
    }
    failure.into_attempt(elapsed)
}

/// The attempt of a receiver that said yes with `status` and broke off after it.
pub(super) fn accepted(cause: &'static str, status: u16, elapsed: Duration) -> Attempt {
    Attempt {
        outcome: Outcome::Delivered,
        status: Some(status),
        reason: Some(String::from(cause)),
        provider_id: None,
        elapsed,
    }
}

/// What was made last of a notification, for its next delivery: they come one after another.
#[derive(Debug)]
pub(super) struct Memo<T>(Mutex<Option<(Arc<Notification>, Priority, T)>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Memo<T> {
    /// What `make` makes of `delivery`'s notification at its priority, made once for both.
    pub(super) fn of<E>(
        &self,
        delivery: &Delivery,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if let Some((notification, priority, made)) = &*self.0.lock()
            && Arc::ptr_eq(notification, &delivery.notification)
            && *priority == delivery.priority
        {
            return Ok(made.clone());
        }
        let made = make()?;
        let kept = (Arc::clone(&delivery.notification), delivery.priority, made.clone());
        *self.0.lock() = Some(kept);
        Ok(made)
    }
}

/// What a provider's answer came to, before the time it took is known.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) reason: Option<String>,
    pub(super) provider_id: Option<String>,
}

impl Verdict {
    pub(super) fn of(outcome: Outcome, reason: Option<String>) -> Self {
        Self { outcome, reason: reason.map(shorten), provider_id: None }
    }

    pub(super) fn into_attempt(self, status: StatusCode, elapsed: Duration) -> Attempt {
        Attempt {
            outcome: self.outcome,
            status: Some(status.as_u16()),
            reason: self.reason,
            provider_id: self.provider_id.map(shorten),
            elapsed,
        }
    }
}

/// Cuts remote text to what a timeline keeps, on a character boundary, and drops control
/// characters that would forge log lines.
pub(super) fn shorten(text: String) -> String {
    if text.len() <= REASON_BYTES_MAX && !text.contains(char::is_control) {
        return text;
    }
    let mut short = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        short.push(c);
    }
    short
}

/// Part of a webhook's or a hook's body that is worth a timeline line: its first words, if text.
pub(super) fn words(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..REASON_BYTES_MAX).unwrap_or(body));
    let text = text.trim();
    (!text.is_empty()).then(|| shorten(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_text_is_cut_on_a_character_boundary_and_loses_control_characters() {
        let cut = shorten("é".repeat(200));
        assert_eq!(cut.len(), 256);
        assert_eq!(shorten("a\r\nb".into()), "ab");
        assert_eq!(shorten("short".into()), "short");
    }

    #[test]
    fn a_wrong_certificate_names_no_wait_that_would_close_the_whole_app() {
        let failure = Failure::NotSent { cause: "tls_certificate", detail: None };
        let attempt = push_failed(failure, Duration::from_millis(3));
        assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "tls_certificate" });
    }

    #[test]
    fn words_of_a_binary_or_empty_body_do_no_harm() {
        assert_eq!(words(b"  \n"), None);
        assert_eq!(words(b"no_service\n").as_deref(), Some("no_service"));
        assert!(words(&[0xff; 4096]).is_some_and(|w| w.len() <= REASON_BYTES_MAX));
    }
}
