//! Mail beside push: who gets it, what rules make of it, and what a refused mailbox costs.

use super::*;
use crate::model::{ProviderName, UserStatus};

fn letter() -> Mail {
    let text = |text: &str| text.to_owned();
    Mail {
        subject: text("s"),
        pre_header: text(""),
        title: text("t"),
        greeting: text("g"),
        text: text("x"),
        button: None,
        footer: text(""),
    }
}

/// A world with a relay. Users 1 and 2 have a device, 90 has none and is pending.
async fn world(rules: Arc<dyn RuleEngine>, outcome: Outcome) -> World {
    let mut world = World::new(2, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    let document = json!({
        "users": [{
            "id": 90, "organization": ORG.0, "role": 3, "status": "pending",
            "email": "pending@example.com", "name": "Somebody invited",
        }],
    });
    let document = document.to_string();
    let changes = directory::changes(document.as_bytes(), world.store.as_ref(), START).await;
    world.store.apply(changes.expect("valid")).await.expect("another user");
    let user = world.store.user(UserRef::Id(UserId(90))).await.expect("readable").expect("there");
    assert_eq!(user.status, UserStatus::Pending);
    world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
    world.email = Some(scripted(ProviderName::Email, move |_| Some(outcome)));
    world.start(rules);
    world
}

impl World {
    fn mailed(&self) -> Vec<String> {
        let email = self.email.as_ref().expect("a relay");
        let mut keys: Vec<_> = email.sent.lock().iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    }

    /// Deliveries and recipients without any, as the timeline has them.
    async fn expanded(&self, id: NotificationId) -> (u32, u32) {
        let events = self.events(id).await;
        let found = events.into_iter().find_map(|event| match event {
            TimelineEvent::Expanded { deliveries, no_device, .. } => Some((deliveries, no_device)),
            _ => None,
        });
        found.expect("it was expanded")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_gets_the_mail_besides_the_push_and_those_without_devices_too() {
    let world = world(Arc::new(NoRules), Outcome::Delivered).await;
    let all = users(&[1, 2, 90]);
    let id = world.accept_with(all.clone(), "user.invited", Some(letter())).await;
    world.settled().await;
    world.until("five finals", Duration::ZERO, async |w| w.finals(id).await.len() == 5).await;
    assert_eq!(world.mailed(), ["email:1", "email:2", "email:90"]);
    assert_eq!(world.sent().len(), 2);
    assert_eq!(world.expanded(id).await, (5, 0));
    // Most notifications carry no mail.
    let id = world.accept(all, "x").await;
    world.settled().await;
    world.until("two finals", Duration::ZERO, async |w| w.finals(id).await.len() == 2).await;
    assert_eq!(world.mailed().len(), 3);
    assert_eq!(world.expanded(id).await, (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_nothing_is_said_of_mail() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    let id = world.accept_with(users(&[1]), "user.invited", Some(letter())).await;
    world.settled().await;
    world.until("a final", Duration::ZERO, async |w| w.finals(id).await.len() == 1).await;
    assert_eq!(world.expanded(id).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_refused_costs_its_delivery_and_not_the_user() {
    for outcome in [Outcome::Rejected { cause: "mailbox_refused" }, Outcome::Gone { cause: "x" }] {
        let world = world(Arc::new(NoRules), outcome).await;
        for round in 1..=2 {
            let id = world.accept_with(users(&[90]), "user.invited", Some(letter())).await;
            world.settled().await;
            world.until("a final", Duration::ZERO, async |w| w.finals(id).await.len() == 1).await;
            assert_eq!(world.finals(id).await, [FinalState::Rejected]);
            assert_eq!(world.mailed().len(), round);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_must_wait_goes_out_again_by_the_schedule_of_mail() {
    let world = world(Arc::new(NoRules), retry()).await;
    let id = world.accept_with(users(&[90]), "user.invited", Some(letter())).await;
    world.until("dead", Duration::from_mins(5), async |w| !w.finals(id).await.is_empty()).await;
    assert_eq!(world.finals(id).await, [FinalState::Dead]);
    assert_eq!(world.mailed().len(), 9, "one try and eight waits");
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_see_a_mailbox_as_a_target_of_its_own() {
    let mail_only = Told(Box::new(|item: &RouteItem| {
        let is_mail = |(_, target): &(usize, &crate::rules::TargetView)| {
            target.provider == ProviderName::Email && target.app == "email"
        };
        let targets = item.recipient.targets.iter().enumerate().filter(is_mail);
        let targets = targets.map(|(index, _)| index).collect();
        let steps = vec![Step { targets, within_ms: 0 }];
        let plan = Plan { steps, priority: None, collapse_key: None, expires_at: None };
        Verdict::Deliver(plan)
    }));
    let world = world(Arc::new(mail_only), Outcome::Delivered).await;
    let id = world.accept_with(users(&[1]), "user.invited", Some(letter())).await;
    world.settled().await;
    world.until("two finals", Duration::ZERO, async |w| w.finals(id).await.len() == 2).await;
    assert_eq!((world.mailed().len(), world.sent().len()), (1, 0));
    let mut finals = world.finals(id).await;
    finals.sort();
    assert_eq!(finals, [FinalState::Delivered, FinalState::Suppressed]);
}
