//! Generated questions: from a seed, always the same, of all the kinds rules tell apart.

use crate::model::{Millis, Priority, ProviderName};
use crate::rules::At;
use crate::rules::input::{
    Baseline, Input, NotificationText, PlanText, PrincipalText, RecipientText, StepText,
    TargetText, WholeTarget,
};
use crate::rules::{Hook, LastOutcome, PrincipalKind, RecipientKind};
use serde_json::json;
use uuid::Uuid;

/// Monday, 5 January 2026, 00:00 UTC.
const START: u64 = 1_767_571_200_000;
/// From one batch to the next.
const STEP_MS: u64 = 7 * 60_000;

/// A source of questions for one hook.
#[derive(Debug)]
pub(super) struct Traffic {
    state: u64,
    hook: Hook,
    now: u64,
}

impl Traffic {
    pub(super) fn new(seed: u64, hook: Hook) -> Self {
        Self { state: seed, hook, now: START }
    }

    /// `count` questions of one organization at one instant; the next batch is minutes later.
    pub(super) fn batch(&mut self, count: usize) -> Vec<Input> {
        self.now += STEP_MS;
        let org = [101, 102, 103][self.below(3)].to_string();
        (0..count).map(|_| self.one(&org)).collect()
    }

    fn one(&mut self, org: &str) -> Input {
        let now = Some(At(Millis(self.now)));
        if self.hook == Hook::Authorize {
            return Input { hook: Some(self.hook), now, ..self.request(org) };
        }
        let recipient = self.recipient(org);
        let plan = PlanText::Steps(vec![StepText::Targets((0..recipient.targets.len()).collect())]);
        let input = Input {
            hook: Some(self.hook),
            now,
            notification: self.notification(org),
            recipient,
            ..Input::default()
        };
        if self.hook == Hook::Transform {
            return shown(input);
        }
        let last_outcome = self.pick(&[None, None, None, Some(LastOutcome::Unregistered)]);
        let attempt = Some(if last_outcome.is_some() { 2 } else { 1 });
        Input { plan: Some(plan), attempt, last_outcome, ..input }
    }

    fn notification(&mut self, org: &str) -> NotificationText {
        let events = ["push.direct", "build", "device.alert", "certificateWillExpire", "marketing"];
        let bodies = [
            "Your build is done",
            "call +380 44 123 45 67 or ann@example.com",
            "card 4111 1111 1111 1111",
            "IBAN DE89 3704 0044 0532 0130 00, thanks",
            "",
        ];
        let life = self.pick(&[None, Some(3_600_000), Some(86_400_000)]);
        NotificationText {
            id: Some(Uuid::from_u64_pair(self.next(), self.next()).to_string()),
            org_id: Some(org.to_owned()),
            event_type: Some(self.pick(&events).to_owned()),
            title: self.pick(&["Hello", "Alert", "Sale"]).to_owned(),
            body: self.pick(&bodies).to_owned(),
            priority: self.pick(&[
                Priority::Low,
                Priority::Normal,
                Priority::Normal,
                Priority::High,
                Priority::Critical,
            ]),
            created_at: Some(At(Millis(self.now))),
            expires_at: life.map(|life| At(Millis(self.now + life))),
            data: self.pick(&[None, Some(7)]).map(|n| json!({ "device": { "id": n } })),
            ..NotificationText::default()
        }
    }

    fn recipient(&mut self, org: &str) -> RecipientText {
        let zones = ["Europe/Kyiv", "America/New_York", "Asia/Tokyo", "Pacific/Auckland"];
        let tz = self.pick(&[true, true, true, true, false]).then(|| self.pick(&zones).to_owned());
        let count = 1 + self.below(4);
        RecipientText {
            kind: Some(self.pick(&[
                RecipientKind::User,
                RecipientKind::User,
                RecipientKind::Subscription,
            ])),
            id: Some(self.below(400).to_string()),
            org_id: Some(org.to_owned()),
            tz,
            targets: (0..count).map(|number| self.target(number)).collect(),
            ..RecipientText::default()
        }
    }

    fn target(&mut self, number: usize) -> TargetText {
        let channel = self.pick(&ProviderName::ALL);
        let app = if channel == ProviderName::Email { "email" } else { "main" };
        TargetText::Whole(WholeTarget {
            channel,
            handle: format!("{}:{number}", channel.as_str()),
            app: app.to_owned(),
            last_ok_at: None,
            recent_failures: self.pick(&[0, 0, 0, 1, 6]),
        })
    }

    fn request(&mut self, org: &str) -> Input {
        let rights = ["ORG_INVITE_USERS", "ORG_VIEW_USERS", "subscription.create", "ORG_SWITCH"];
        let held: Vec<String> =
            rights.iter().filter(|_| self.below(2) == 0).map(ToString::to_string).collect();
        let home = self.pick(&["101", "101", "102"]).to_owned();
        let kind = self.pick(&[PrincipalKind::User, PrincipalKind::User, PrincipalKind::Service]);
        let id = self.below(400).to_string();
        let actions = ["users.invite", "users.view", "users.role.set", "notification.send"];
        Input {
            principal: Some(PrincipalText {
                kind,
                id: id.clone(),
                org_id: home,
                roles: Vec::new(),
                permissions: held,
            }),
            action: Some(self.pick(&actions).to_owned()),
            org_id: Some(org.to_owned()),
            resource_id: self.pick(&[None, Some(())]).map(|()| id),
            required: vec![self.pick(&rights).to_owned()],
            baseline: Some(self.pick(&[Baseline::Allow, Baseline::Deny])),
            ..Input::default()
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A payload is one channel's; a mail's is nothing that a notification alone says.
fn shown(input: Input) -> Input {
    let first = input.recipient.targets.first();
    let is_mail =
        matches!(first, Some(TargetText::Whole(target)) if target.channel == ProviderName::Email);
    let text = &input.notification;
    let payload = is_mail.then(|| json!({ "subject": text.title, "text": text.body }));
    Input { payload, ..input }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_questions_and_another_gives_others() {
        for hook in Hook::ALL {
            let batch = |seed| Traffic::new(seed, hook).batch(50);
            assert_eq!(batch(1), batch(1));
            assert_ne!(batch(1), batch(2));
            assert!(Input::batch(hook, &batch(1)).is_ok());
        }
    }

    #[test]
    fn a_question_survives_being_written_and_read() {
        for hook in Hook::ALL {
            for input in Traffic::new(3, hook).batch(50) {
                let text = serde_json::to_string(&input).unwrap();
                assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), input);
            }
        }
    }
}
