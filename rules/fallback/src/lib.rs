//! Tries a recipient's phones first, and Slack, webhooks and mail only if none of them answers in time.
//!
//! Settings: `after` (default `30s`), how long a phone may take; `failures` (default 5), after how many
//! in a row a phone counts as dead.

use bugler_rules_sdk::prelude::*;

const AFTER_MS: u32 = 30_000;
const FAILURES: u16 = 5;

#[route]
fn fallback(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let (push, rest) = (item.plan_where(Target::is_push), item.plan_where(|t| !t.is_push()));
    if push.steps.is_empty() || rest.steps.is_empty() {
        return abstain("one_kind");
    }
    let (Ok(after), Ok(failures)) =
        (cx.millis("after", AFTER_MS), cx.setting("failures", FAILURES))
    else {
        return abstain("bad_setting");
    };
    let is_dead = |index: u32| {
        let target = item.targets().get(index as usize);
        target.is_some_and(|target| target.recent_failures >= failures)
    };
    if item.last_outcome() == Some(Outcome::Unregistered) || push.targets().all(is_dead) {
        return deliver(rest, "push_dead");
    }
    deliver(push.then_after(after, rest), "push_first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::bindings::router::Decision;
    use bugler_rules_sdk::testing::{FakeHost, notification, one, user};

    fn ask(settings: &[(&str, &str)], recipient: Recipient) -> Routed {
        FakeHost::at("12:00", settings).ask(fallback, notification("alarm"), recipient)
    }

    fn steps(answer: &Routed) -> Vec<(Vec<u32>, u32)> {
        let Decision::Deliver(plan) = &answer.decision else { panic!("{answer:?}") };
        plan.steps.iter().map(|step| (step.targets.clone(), step.within_ms)).collect()
    }

    #[test]
    fn goes_to_phones_first_and_to_the_rest_after_the_deadline() {
        let answer =
            ask(&[], user(&[Channel::Slack, Channel::Apns, Channel::Webhook, Channel::Fcm]));
        assert_eq!(steps(&answer), [(vec![1, 3], 30_000), (vec![0, 2], 0)]);
        let sooner = ask(&[("after", "2s")], user(&[Channel::Apns, Channel::Slack]));
        assert_eq!(steps(&sooner), [(vec![0], 2_000), (vec![1], 0)]);
    }

    #[test]
    fn leaves_a_recipient_with_one_kind_of_target_alone() {
        assert_eq!(ask(&[], user(&[Channel::Apns, Channel::Fcm])), abstain("one_kind"));
        assert_eq!(ask(&[], user(&[Channel::Slack])), abstain("one_kind"));
    }

    #[test]
    fn does_not_wait_for_dead_phones() {
        let mut recipient = user(&[Channel::Apns, Channel::Slack]);
        recipient.targets[0].recent_failures = 5;
        let answer = ask(&[], recipient.clone());
        assert_eq!((answer.why.code.as_str(), steps(&answer)), ("push_dead", vec![(vec![1], 0)]));
        assert_eq!(steps(&ask(&[("failures", "6")], recipient)).len(), 2);
    }

    #[test]
    fn does_not_wait_again_for_a_phone_that_is_gone() {
        let mut batch = one(notification("alarm"), user(&[Channel::Apns, Channel::Slack]));
        batch.items[0].last_outcome = Some(Outcome::Unregistered);
        let host = FakeHost::at("12:00", &[]);
        let answer = bugler_rules_sdk::guest::answer_with(&host, &batch, fallback).remove(0);
        assert_eq!(answer.why.code, "push_dead");
    }

    #[test]
    fn keeps_the_plan_with_a_setting_it_cannot_read() {
        let answer = ask(&[("after", "soon")], user(&[Channel::Apns, Channel::Slack]));
        assert_eq!(answer, abstain("bad_setting"));
    }
}
