//! A gate in front of a whole app or project: closed while asking again would only do harm.

use crate::model::{Attempt, Outcome};
use crate::providers::attempt::unsent;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Refused credentials in a row, without a success between, after which the credential itself is
/// doubted: one refusal may be a mishap of one of the provider's servers.
const REFUSALS_MAX: u32 = 3;

/// Closed for a time, with the reason.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    closed: Option<Closed>,
    refusals: u32,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    until: Instant,
    cause: &'static str,
}

impl Gate {
    /// True while nothing may be sent.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed.is_some_and(|closed| Instant::now() < closed.until)
    }

    /// What a delivery gets instead of being sent; `None` where the gate is open.
    pub(super) fn refuses(&self) -> Option<Attempt> {
        let Closed { until, cause } = self.0.lock().closed?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| unsent(Outcome::Retry { after: Some(left), cause }))
    }

    /// Closes it for `pause`: everybody was asked to stay away.
    pub(super) fn close(&self, pause: Duration, cause: &'static str) {
        let until = Instant::now() + pause;
        let mut state = self.0.lock();
        if state.closed.is_none_or(|closed| closed.until < until) {
            state.closed = Some(Closed { until, cause });
        }
    }

    /// Takes note of what an answer said of our credential; true where it was refused so often that
    /// connections opened with it are worth closing. How long it is left alone is the dispatcher's
    /// to decide.
    pub(super) fn note(&self, outcome: Outcome) -> bool {
        let mut state = self.0.lock();
        match outcome {
            Outcome::Delivered => state.refusals = 0,
            Outcome::Hold { .. } => {
                state.refusals = state.refusals.saturating_add(1);
                return state.refusals == REFUSALS_MAX;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_doubted_once_at_its_third_refusal_in_a_row_and_a_success_starts_over() {
        let gate = Gate::default();
        let refused = Outcome::Hold { cause: "forbidden" };
        let noted = [refused, refused, Outcome::Delivered, refused, refused, refused, refused]
            .map(|outcome| gate.note(outcome));
        assert_eq!(noted, [false, false, false, false, false, true, false]);
    }

    #[tokio::test]
    async fn a_closed_gate_names_what_is_left_and_a_shorter_pause_does_not_open_it() {
        let gate = Gate::default();
        gate.close(Duration::from_secs(60), "quota_exceeded");
        gate.close(Duration::ZERO, "later");
        let Some(Attempt { outcome: Outcome::Retry { after: Some(left), cause }, .. }) =
            gate.refuses()
        else {
            panic!("the gate is open");
        };
        assert_eq!(cause, "quota_exceeded");
        assert!(left > Duration::ZERO && left <= Duration::from_secs(60));
        let open = Gate::default();
        open.close(Duration::ZERO, "now");
        assert!(open.refuses().is_none() && !open.is_closed());
    }
}
