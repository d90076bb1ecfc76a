//! When a delivery is tried again, and when it is given up.

use crate::dispatch::finish::PANICKED;
use crate::model::{Attempt, FinalState, Millis, Outcome, ProviderName};
use std::time::Duration;

/// Longest wait a provider's Retry-After can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Waits after "our credential is wrong": nobody gains from asking sooner.
const HOLD: Duration = Duration::from_mins(1);
/// Apple: try a 5xx again after 15 minutes, and back off.
const APPLE_FIRST: Duration = Duration::from_mins(15);
/// The cause of a push that met a certificate which is not right: it stays so for a while.
const DISTRUSTED: &str = "tls_certificate";
/// Added to a provider's own wait, at random up to this, so that waiters do not return at once.
const UPWARD: Duration = Duration::from_secs(1);
/// A delivery whose tries end in a panic is given up after this many.
const PANICS_MAX: u16 = 3;
/// Causes that are Apple closing a connection, not failing.
const APPLE_CLOSING: &str = "shutdown";

/// Delays between tries.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Push and Slack: doubling from here, full jitter.
    pub base: Duration,
    pub cap: Duration,
    pub attempts_max: u16,
    /// Pushes: first wait after a 5xx of Apple's, and every wait after a certificate that is not
    /// right.
    pub outage: Duration,
    /// Webhooks: one delay per try, with `jitter` as a share of it either way.
    pub webhook: Vec<Duration>,
    /// Mail: the same, and never sooner than this, whatever is asked.
    pub email: Vec<Duration>,
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let minutes = |m| Duration::from_mins(m);
        Self {
            base: Duration::from_secs(1),
            cap: minutes(15),
            attempts_max: 8,
            outage: APPLE_FIRST,
            // Standard Webhooks' example schedule: 75 h 35 m in all.
            webhook: vec![
                Duration::from_secs(5),
                minutes(5),
                minutes(30),
                minutes(120),
                minutes(300),
                minutes(600),
                minutes(840),
                minutes(1200),
                minutes(1440),
            ],
            // RFC 5321 4.5.4.1: soon twice, then less and less often. 15 h 42 m 30 s in all.
            email: vec![
                Duration::from_secs(30),
                minutes(2),
                minutes(10),
                minutes(30),
                minutes(60),
                minutes(120),
                minutes(240),
                minutes(480),
            ],
            jitter: 0.2,
        }
    }
}

/// A delivery that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub provider: ProviderName,
    /// Tries so far, this one included.
    pub made: u16,
    pub expires_at: Millis,
}

/// What to do with a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Final(FinalState),
    /// The target is gone: final, and its record goes too.
    Gone,
    Again(Millis),
}

impl RetryPolicy {
    /// Decides after a try that ended at `now`. `random` is uniform in 0..1.
    #[must_use]
    pub fn after(&self, delivery: Tried, attempt: &Attempt, now: Millis, random: f64) -> Next {
        let Tried { provider, made, expires_at } = delivery;
        let asked = match attempt.outcome {
            Outcome::Delivered => return Next::Final(FinalState::Delivered),
            Outcome::Rejected { .. } => return Next::Final(FinalState::Rejected),
            Outcome::Withheld { .. } => return Next::Final(FinalState::Suppressed),
            Outcome::Gone { .. } => return Next::Gone,
            Outcome::Retry { after, .. } => after,
            Outcome::Unknown { cause: PANICKED } if made >= PANICS_MAX => {
                return Next::Final(FinalState::Dead);
            }
            Outcome::Unknown { .. } => None,
            Outcome::Hold { .. } => Some(HOLD),
        };
        // Nobody's tries are used up by a credential that is ours.
        let is_held = matches!(attempt.outcome, Outcome::Hold { .. });
        let made = if is_held && provider != ProviderName::Email { 1 } else { made };
        let scheduled = match provider {
            ProviderName::Webhook => self.scheduled(&self.webhook, made, random),
            ProviderName::Email => self.scheduled(&self.email, made, random),
            ProviderName::Apns | ProviderName::Fcm | ProviderName::Slack => {
                (made < self.attempts_max).then(|| {
                    if is_apple_failing(provider, attempt) {
                        self.apple(made, random)
                    } else if is_distrusted(provider, attempt) {
                        self.outage + UPWARD.mul_f64(random)
                    } else {
                        self.backoff(made, random)
                    }
                })
            }
        };
        let Some(scheduled) = scheduled else { return Next::Final(FinalState::Dead) };
        // The pause that Apple's page names for every 5xx, not a wait that this answer named.
        let asked =
            asked.filter(|wait| !(is_apple_failing(provider, attempt) && *wait == APPLE_FIRST));
        let wait = asked.map_or(scheduled, |asked| {
            if asked > RETRY_AFTER_MAX {
                tracing::info!(
                    provider = provider.as_str(),
                    asked_s = asked.as_secs(),
                    "a provider asked for more than an hour; an hour it is"
                );
            }
            asked.min(RETRY_AFTER_MAX) + UPWARD.mul_f64(random)
        });
        // A relay names no wait of its own, so its schedule must not run out within minutes.
        let wait = if provider == ProviderName::Email { wait.max(scheduled) } else { wait };
        let again = now.plus(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        if again >= expires_at { Next::Final(FinalState::Expired) } else { Next::Again(again) }
    }

    fn scheduled(&self, schedule: &[Duration], made: u16, random: f64) -> Option<Duration> {
        let delay = schedule.get(usize::from(made.saturating_sub(1)))?;
        Some(delay.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0)))
    }

    fn backoff(&self, made: u16, random: f64) -> Duration {
        // Full jitter: anything from nothing to the ceiling.
        doubled(self.base, made).min(self.cap).mul_f64(random)
    }

    /// 15 min doubling to an hour, and up to a tenth more.
    fn apple(&self, made: u16, random: f64) -> Duration {
        doubled(self.outage, made).min(RETRY_AFTER_MAX).mul_f64(1.0 + 0.1 * random)
    }
}

fn doubled(base: Duration, made: u16) -> Duration {
    base.saturating_mul(1 << u32::from(made.saturating_sub(1)).min(20))
}

/// A 5xx of Apple's that is no connection being closed.
fn is_apple_failing(provider: ProviderName, attempt: &Attempt) -> bool {
    let is_closing = matches!(attempt.outcome, Outcome::Retry { cause: APPLE_CLOSING, .. });
    provider == ProviderName::Apns && !is_closing && attempt.status.is_some_and(|s| s >= 500)
}

/// A push that was kept from a server which could not prove who it is.
fn is_distrusted(provider: ProviderName, attempt: &Attempt) -> bool {
    matches!(provider, ProviderName::Apns | ProviderName::Fcm)
        && matches!(attempt.outcome, Outcome::Retry { cause: DISTRUSTED, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);
    const FAR: Millis = Millis(u64::MAX);

    fn tried(provider: ProviderName, made: u16) -> Tried {
        Tried { provider, made, expires_at: FAR }
    }

    fn attempt(outcome: Outcome) -> Attempt {
        let elapsed = Duration::from_millis(3);
        Attempt { outcome, status: None, reason: None, provider_id: None, elapsed }
    }

    fn retry(after: Option<u64>) -> Attempt {
        let after = after.map(Duration::from_secs);
        attempt(Outcome::Retry { after, cause: "status" })
    }

    #[test]
    fn final_answers_end_a_delivery() {
        let policy = RetryPolicy::default();
        let after =
            |outcome| policy.after(tried(ProviderName::Apns, 1), &attempt(outcome), NOW, 0.5);
        assert_eq!(after(Outcome::Delivered), Next::Final(FinalState::Delivered));
        assert_eq!(after(Outcome::Gone { cause: "x" }), Next::Gone);
        assert_eq!(after(Outcome::Rejected { cause: "x" }), Next::Final(FinalState::Rejected));
    }

    #[test]
    fn push_backs_off_exponentially_up_to_the_cap_and_then_dies() {
        let policy = RetryPolicy::default();
        let at =
            |made, random| policy.after(tried(ProviderName::Fcm, made), &retry(None), NOW, random);
        assert_eq!(at(1, 1.0), Next::Again(NOW.plus(1_000)));
        assert_eq!(at(4, 1.0), Next::Again(NOW.plus(8_000)));
        assert_eq!(at(4, 0.5), Next::Again(NOW.plus(4_000)));
        assert_eq!(at(4, 0.0), Next::Again(NOW), "full jitter");
        assert_eq!(at(8, 1.0), Next::Final(FinalState::Dead));
    }

    #[test]
    fn webhooks_follow_their_schedule_with_jitter() {
        let policy = RetryPolicy::default();
        let at = |made, random| {
            policy.after(tried(ProviderName::Webhook, made), &retry(None), NOW, random)
        };
        assert_eq!(at(1, 0.5), Next::Again(NOW.plus(5_000)));
        assert_eq!(at(2, 0.0), Next::Again(NOW.plus(240_000)));
        assert_eq!(at(2, 1.0), Next::Again(NOW.plus(360_000)));
        assert_eq!(at(10, 0.5), Next::Final(FinalState::Dead));
    }

    #[test]
    fn mail_follows_its_schedule_even_if_less_is_asked() {
        let policy = RetryPolicy::default();
        let at =
            |made, asked| policy.after(tried(ProviderName::Email, made), &retry(asked), NOW, 0.5);
        assert_eq!(at(1, None), Next::Again(NOW.plus(30_000)));
        assert_eq!(at(1, Some(60)), Next::Again(NOW.plus(60_500)));
        assert_eq!(at(3, Some(60)), Next::Again(NOW.plus(600_000)));
        assert_eq!(at(9, None), Next::Final(FinalState::Dead));
        let hold = attempt(Outcome::Hold { cause: "auth_refused" });
        let held = policy.after(tried(ProviderName::Email, 8), &hold, NOW, 0.5);
        assert_eq!(held, Next::Again(NOW.plus(8 * 3_600_000)), "a wrong password for a night");
    }

    #[test]
    fn a_providers_wait_is_a_floor_of_at_most_an_hour() {
        let policy = RetryPolicy::default();
        let at = |after| policy.after(tried(ProviderName::Slack, 1), &retry(after), NOW, 0.0);
        assert_eq!(at(Some(30)), Next::Again(NOW.plus(30_000)));
        assert_eq!(at(Some(1_000_000)), Next::Again(NOW.plus(3_600_000)));
    }

    #[test]
    fn apple_is_left_alone_for_a_quarter_of_an_hour_after_a_5xx() {
        let policy = RetryPolicy::default();
        let at = |made, status, cause, after: Option<u64>| {
            let after = after.map(Duration::from_secs);
            let failed =
                Attempt { status: Some(status), ..attempt(Outcome::Retry { after, cause }) };
            policy.after(tried(ProviderName::Apns, made), &failed, NOW, 0.0)
        };
        let minutes = |n: u64| Next::Again(NOW.plus(n * 60_000));
        assert_eq!(at(1, 500, "internal_server_error", None), minutes(15));
        assert_eq!(at(2, 503, "service_unavailable", None), minutes(30));
        assert_eq!(at(7, 503, "service_unavailable", None), minutes(60));
        assert_eq!(at(2, 500, "http_5xx", Some(15 * 60)), minutes(30), "the pause is not fixed");
        assert_eq!(at(1, 503, "shutdown", Some(1)), Next::Again(NOW.plus(1_000)));
        assert_eq!(at(1, 503, "service_unavailable", Some(30)), Next::Again(NOW.plus(30_000)));
        assert_eq!(at(1, 429, "too_many_requests", None), Next::Again(NOW));
    }

    #[test]
    fn a_push_that_met_a_wrong_certificate_waits_as_long_as_an_outage_and_a_hook_by_its_schedule() {
        let policy = RetryPolicy::default();
        let wrong = attempt(Outcome::Retry { after: None, cause: DISTRUSTED });
        let at = |provider, made| policy.after(tried(provider, made), &wrong, NOW, 0.0);
        for provider in [ProviderName::Apns, ProviderName::Fcm] {
            assert_eq!(at(provider, 1), Next::Again(NOW.plus(15 * 60_000)));
            assert_eq!(at(provider, 7), Next::Again(NOW.plus(15 * 60_000)));
        }
        assert_eq!(at(ProviderName::Webhook, 1), Next::Again(NOW.plus(4_000)));
    }

    #[test]
    fn a_credential_that_is_ours_uses_up_no_tries() {
        let policy = RetryPolicy::default();
        let hold = attempt(Outcome::Hold { cause: "invalid_provider_token" });
        let next = policy.after(tried(ProviderName::Apns, 100), &hold, NOW, 0.0);
        assert_eq!(next, Next::Again(NOW.plus(60_000)));
    }

    #[test]
    fn what_panics_three_times_is_given_up() {
        let policy = RetryPolicy::default();
        let at = |made| {
            let panicked = attempt(Outcome::Unknown { cause: PANICKED });
            policy.after(tried(ProviderName::Webhook, made), &panicked, NOW, 0.5)
        };
        assert!(matches!(at(2), Next::Again(_)));
        assert_eq!(at(3), Next::Final(FinalState::Dead));
    }

    #[test]
    fn nothing_is_retried_past_its_expiry() {
        let policy = RetryPolicy::default();
        let short = Tried { expires_at: NOW.plus(59_000), ..tried(ProviderName::Apns, 1) };
        let next = policy.after(short, &retry(Some(60)), NOW, 0.0);
        assert_eq!(next, Next::Final(FinalState::Expired));
    }
}
