//! A gate in front of a whole app or project: closed while asking again would only do harm.

use crate::model::{Attempt, Outcome};
use crate::providers::attempt::unsent;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Refused credentials in a row, without a success between, that close the gate: one refusal may
/// be a mishap of one of the provider's servers.
const REFUSALS_MAX: u32 = 3;
/// How long a refused credential is left alone.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

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
    outcome: Outcome,
}

impl Gate {
    /// True while nothing may be sent.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed.is_some_and(|closed| Instant::now() < closed.until)
    }

    /// What a delivery gets instead of being sent; `None` where the gate is open.
    pub(super) fn refuses(&self) -> Option<Attempt> {
        let closed = self.0.lock().closed?;
        let left = closed.until.saturating_duration_since(Instant::now());
        let outcome = match closed.outcome {
            _ if left.is_zero() => return None,
            Outcome::Retry { cause, .. } => Outcome::Retry { after: Some(left), cause },
            other => other,
        };
        Some(unsent(outcome))
    }

    /// Closes it for `pause`: everybody was asked to stay away.
    pub(super) fn close(&self, pause: Duration, cause: &'static str) {
        Self::shut(&mut self.0.lock(), pause, Outcome::Retry { after: None, cause });
    }

    /// Takes note of what an answer said of our credential; true if that closed the gate.
    pub(super) fn note(&self, outcome: Outcome) -> bool {
        let mut state = self.0.lock();
        match outcome {
            Outcome::Delivered => state.refusals = 0,
            Outcome::Hold { cause } => {
                state.refusals = state.refusals.saturating_add(1);
                if state.refusals >= REFUSALS_MAX {
                    let was_open = state.closed.is_none_or(|c| c.until <= Instant::now());
                    Self::shut(&mut state, REFUSED_PAUSE, Outcome::Hold { cause });
                    return was_open;
                }
            }
            _ => {}
        }
        false
    }

    fn shut(state: &mut State, pause: Duration, outcome: Outcome) {
        let until = Instant::now() + pause;
        if state.closed.is_none_or(|closed| closed.until < until) {
            state.closed = Some(Closed { until, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_refused_three_times_in_a_row_closes_the_gate_and_a_success_starts_over() {
        let gate = Gate::default();
        let refused = Outcome::Hold { cause: "forbidden" };
        for outcome in [refused, refused, Outcome::Delivered, refused, refused] {
            gate.note(outcome);
        }
        assert!(!gate.is_closed() && gate.refuses().is_none());
        gate.note(refused);
        assert_eq!(gate.refuses().map(|attempt| attempt.outcome), Some(refused));
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
