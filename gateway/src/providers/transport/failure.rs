//! What went wrong on the way, told apart by one question: can the receiver have the request?

use crate::model::{Attempt, Outcome};
use crate::providers::attempt::unsent;
use std::error::Error;
use std::time::Duration;

/// Every connection says that it processed nothing and wants no more.
pub(super) const REFUSED: &str = "refused";
/// No stream became free in time.
pub(super) const SATURATED: &str = "saturated";
/// The request's time was over before it could leave.
pub(super) const LATE: &str = "late";
/// Wait after the connections themselves kept a request back.
const KEPT_BACK_PAUSE: Duration = Duration::from_millis(500);

/// A request that got no complete answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing of the request can have been processed: safe to send again.
    #[error("not sent: {cause}")]
    NotSent { cause: &'static str, detail: Option<String> },
    /// The request left and no complete answer came back.
    #[error("no answer: {cause}")]
    Unanswered { cause: &'static str, status: Option<u16> },
    /// The guard refuses the address the name resolves to.
    #[error("the target's address is not allowed")]
    Blocked,
}

impl Failure {
    pub(super) fn not_sent(cause: &'static str) -> Self {
        Self::NotSent { cause, detail: None }
    }

    pub(super) fn not_sent_because(cause: &'static str, error: &dyn Error) -> Self {
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text.push_str(": ");
            text.push_str(&source.to_string());
        }
        Self::NotSent { cause, detail: Some(text) }
    }

    pub(super) fn unanswered(cause: &'static str, status: Option<http::StatusCode>) -> Self {
        Self::Unanswered { cause, status: status.map(|s| s.as_u16()) }
    }

    /// True if no head of an answer came in time.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Unanswered { cause: "timeout", .. })
    }

    /// True if the head of an answer came, but not its end.
    pub(super) fn has_status(&self) -> bool {
        matches!(self, Self::Unanswered { status: Some(_), .. })
    }

    /// The same failure without its detail, for targets whose owner must not learn from it what
    /// our network looks like.
    #[must_use]
    pub fn without_detail(self) -> Self {
        match self {
            Self::NotSent { cause, .. } => Self::not_sent(cause),
            other => other,
        }
    }

    /// The attempt this failure makes.
    #[must_use]
    pub fn into_attempt(self, elapsed: Duration) -> Attempt {
        // No try of this delivery: the peer says that it processed nothing, or nothing left.
        let kept_back = |after, cause| unsent(Outcome::Retry { after: Some(after), cause });
        match self {
            Self::NotSent { cause: cause @ (REFUSED | SATURATED), .. } => {
                return kept_back(KEPT_BACK_PAUSE, cause);
            }
            // The dispatcher lets it expire.
            Self::NotSent { cause: LATE, .. } => return kept_back(Duration::ZERO, LATE),
            _ => {}
        }
        let (outcome, status, reason) = match self {
            Self::NotSent { cause, detail } => {
                (Outcome::Retry { after: None, cause }, None, detail)
            }
            Self::Unanswered { cause, status } => (Outcome::Unknown { cause }, status, None),
            Self::Blocked => (Outcome::Rejected { cause: "target_blocked" }, None, None),
        };
        let reason = reason.map(crate::providers::attempt::shorten);
        Attempt { outcome, status, reason, provider_id: None, elapsed }
    }
}

/// Whether an error of an HTTP/2 exchange proves that the peer did not process the request.
///
/// A GOAWAY from the peer ends only streams above its last processed one with this error (others
/// end with an I/O error), and REFUSED_STREAM says it in so many words (RFC 9113, 8.7).
pub(super) fn proves_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}
