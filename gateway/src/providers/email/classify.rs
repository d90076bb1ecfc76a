//! What became of a mail, by the step of the dialogue that ended it.

use crate::model::Outcome;
use crate::providers::attempt::Verdict;
use std::time::Duration;

/// Least wait after "busy" or greylisting. Relays that greylist take nothing before it.
const DEFERRED_WAIT: Duration = Duration::from_mins(1);

/// A step of the dialogue (RFC 5321, RFC 3207, RFC 4954).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Greeting,
    Hello,
    Starttls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The message up to its final dot, and the answer to it.
    Message,
}

/// What ended a dialogue early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The relay answered, and not with yes.
    Refused { step: Step, code: u16, enhanced: Option<String> },
    /// No answer, or none that can be read. `is_complete` if the final dot had left by then.
    Broken { cause: &'static str, is_complete: bool },
    /// The relay is not what the configuration says, or cannot prove that it is.
    Misfit { cause: &'static str },
    /// This mail cannot be sent to a relay like this one.
    Unfit { cause: &'static str },
}

impl Trouble {
    /// Before anything of a message left.
    pub(super) fn broken(cause: &'static str) -> Self {
        Self::Broken { cause, is_complete: false }
    }

    /// True if nothing can have been taken and another connection may do better at once: the relay
    /// had closed this one while it lay idle.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Refused { step, code, .. } => *step == Step::Mail && *code == 421,
            Self::Broken { cause, is_complete } => !is_complete && *cause == LOST,
            Self::Misfit { .. } | Self::Unfit { .. } => false,
        }
    }

    /// True if the connection is in step and can take another message after a reset.
    pub(super) fn is_in_step(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code != 421,
            Self::Unfit { .. } => true,
            Self::Broken { .. } | Self::Misfit { .. } => false,
        }
    }
}

/// The cause of a connection that ended where an answer should have come.
pub(super) const LOST: &str = "connection_lost";

/// What `trouble` means for the delivery, and the reply code if there was one.
///
/// The relay's own words stay out: they repeat the recipient's address. The enhanced status code
/// (RFC 3463) says the same without it.
pub(super) fn classify(trouble: Trouble) -> (Verdict, Option<u16>) {
    match trouble {
        Trouble::Refused { step, code, enhanced } => {
            (Verdict::of(refused(step, code), enhanced), Some(code))
        }
        Trouble::Broken { cause, is_complete } => {
            // After the final dot the mail may be on its way although nobody said so.
            let outcome = if is_complete {
                Outcome::Unknown { cause }
            } else {
                Outcome::Retry { after: None, cause }
            };
            (Verdict::of(outcome, None), None)
        }
        Trouble::Misfit { cause } => (Verdict::of(Outcome::Hold { cause }, None), None),
        Trouble::Unfit { cause } => (Verdict::of(Outcome::Rejected { cause }, None), None),
    }
}

fn refused(step: Step, code: u16) -> Outcome {
    let retry = |cause| Outcome::Retry { after: None, cause };
    match (step, code) {
        (_, 421) => retry("relay_closing"),
        (Step::Greeting | Step::Hello, 400..=499) => retry("relay_busy"),
        (Step::Greeting | Step::Hello, _) => Outcome::Hold { cause: "relay_refused" },
        (Step::Starttls, 400..=499) => retry("tls_unavailable"),
        (Step::Starttls, _) => Outcome::Hold { cause: "no_starttls" },
        (Step::Auth, 400..=499) => retry("auth_unavailable"),
        (Step::Auth, _) => Outcome::Hold { cause: "auth_refused" },
        // Mailbox busy, greylisted, over a rate or out of space: all ask for patience.
        (_, 450..=452) => Outcome::Retry { after: Some(DEFERRED_WAIT), cause: "deferred" },
        (_, 400..=499) => retry("relay_busy"),
        // RFC 4954: the relay wants a password, or a better one, whatever was just said.
        (_, 530 | 534 | 535 | 538) => Outcome::Hold { cause: "auth_required" },
        (Step::Mail, _) => Outcome::Hold { cause: "sender_refused" },
        // The user stays: a mailbox may come back, and there are other ways to reach them.
        (Step::Rcpt, 500..=599) => Outcome::Rejected { cause: "mailbox_refused" },
        (Step::Data | Step::Message, 500..=599) => Outcome::Rejected { cause: "message_refused" },
        // 2yz and 3yz where they make no sense.
        (Step::Rcpt | Step::Data | Step::Message, _) => retry("unexpected_answer"),
    }
}

/// The enhanced status code that `text`, the words of a reply, begins with.
pub(super) fn enhanced(text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.');
    let is_number = |part: &str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_code = matches!(parts.next(), Some("2" | "4" | "5"))
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_none();
    is_code.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enhanced_status_code_is_kept_of_a_reply() {
        assert_eq!(enhanced("5.1.1 <a@example.com>: unknown").as_deref(), Some("5.1.1"));
        assert_eq!(enhanced("4.7.650 slow").as_deref(), Some("4.7.650"));
        for text in ["", "a@example.com", "5.1", "5.1.1.1 x", "3.1.1", "5.1.1000", "5..1"] {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }

    #[test]
    fn a_reply_that_makes_no_sense_is_no_delivery() {
        for step in [Step::Rcpt, Step::Data, Step::Message] {
            let outcome = refused(step, 354);
            assert_eq!(outcome, Outcome::Retry { after: None, cause: "unexpected_answer" });
        }
    }

    #[test]
    fn only_a_complete_message_can_have_been_taken() {
        let of = |is_complete| classify(Trouble::Broken { cause: LOST, is_complete }).0.outcome;
        assert_eq!(of(false), Outcome::Retry { after: None, cause: LOST });
        assert_eq!(of(true), Outcome::Unknown { cause: LOST });
    }
}
