//! Digests: collected in the journal, sent as one, and one recorded end for each that was collected.

use super::*;
use crate::rules::{Digest, Hook, RecipientKind, Shown, TransformItem, Transformed};

const FLUSH_MS: u64 = 60_000;

/// Collects everything for users under one key, `max_items` at most.
fn collecting(max_items: u16) -> Arc<dyn RuleEngine> {
    Arc::new(Told(Box::new(move |item| {
        if item.recipient.kind != RecipientKind::User {
            return Verdict::Deliver(Plan::all_targets(item.recipient.targets.len()));
        }
        let flush_at = START.plus(FLUSH_MS);
        Verdict::Digest(Digest { key: String::from("k"), flush_at, max_items })
    })))
}

impl World {
    async fn titled(&self, title: &str) -> NotificationId {
        let id = NotificationId(Uuid::now_v7());
        let content =
            Content { title: title.to_owned(), body: title.to_owned(), ..Content::default() };
        let notification = Notification { content, ..self.notification(id, users(&[1]), "x") };
        self.append(notification).await;
        id
    }

    async fn held(&self, id: NotificationId) {
        self.until("held", Duration::ZERO, async |w| {
            w.events(id).await.iter().any(|event| matches!(event, TimelineEvent::Held { .. }))
        })
        .await;
    }

    async fn ends(&self, ids: &[NotificationId]) -> Vec<Vec<FinalState>> {
        let mut ends = Vec::new();
        for id in ids {
            ends.push(self.finals(*id).await);
        }
        ends
    }

    async fn all_ended(&self, ids: &[NotificationId]) {
        let step = Duration::from_secs(10);
        self.until("all ended", step, async |w| {
            w.ends(ids).await.iter().all(|ends| !ends.is_empty())
        })
        .await;
    }
}

fn count(ends: &[Vec<FinalState>], state: FinalState) -> usize {
    assert!(ends.iter().all(|ends| ends.len() == 1), "one end each: {ends:?}");
    ends.iter().filter(|ends| ends[0] == state).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_due_together_goes_out_as_one_and_each_has_one_end() {
    let world = World::new(1, collecting(100), |_| Some(Outcome::Delivered)).await;
    let mut ids = Vec::new();
    for title in ["first", "second", "third"] {
        let id = world.titled(title).await;
        world.held(id).await;
        ids.push(id);
    }
    assert_eq!(world.sent(), []);
    world.all_ended(&ids).await;
    let ends = world.ends(&ids).await;
    assert_eq!(count(&ends, FinalState::Delivered), 1);
    assert_eq!(count(&ends, FinalState::Suppressed), 2);
    assert_eq!(world.sent().len(), 1);
    let body = world.push.bodies.lock()[0].clone();
    assert!(body.contains("2 more:"), "{body}");
    for title in ["first", "second", "third"] {
        assert!(body.contains(title), "{title}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_digest_goes_out_before_its_time() {
    let world = World::new(1, collecting(3), |_| Some(Outcome::Delivered)).await;
    let mut ids = Vec::new();
    for title in ["first", "second", "third"] {
        let id = world.titled(title).await;
        world.held(id).await;
        ids.push(id);
    }
    world.until("sent", Duration::ZERO, async |w| w.sent().len() == 1).await;
    let body = world.push.bodies.lock()[0].clone();
    assert!(body.starts_with("third") && body.contains("first") && body.contains("second"));
    world.all_ended(&ids).await;
    let ends = world.ends(&ids).await;
    assert_eq!(count(&ends, FinalState::Delivered), 1);
    assert_eq!(count(&ends, FinalState::Suppressed), 2);
    assert_eq!(world.sent().len(), 1, "the others went with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_survives_a_crash() {
    let mut world = World::new(1, collecting(100), |_| Some(Outcome::Delivered)).await;
    let mut ids = Vec::new();
    for title in ["first", "second"] {
        let id = world.titled(title).await;
        world.held(id).await;
        ids.push(id);
    }
    world.crash().await;
    world.start(collecting(100));
    world.all_ended(&ids).await;
    let ends = world.ends(&ids).await;
    assert_eq!(count(&ends, FinalState::Delivered), 1);
    assert_eq!(world.sent().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_canceled_is_not_named() {
    let world = World::new(1, collecting(100), |_| Some(Outcome::Delivered)).await;
    let (first, second) = (world.titled("first").await, world.titled("second").await);
    world.held(first).await;
    world.held(second).await;
    let cancellation = crate::journal::Cancellation {
        notification: first,
        org: ORG,
        event: crate::work::encode_event(&TimelineEvent::Canceled {
            at: world.clock.now(),
            by: String::from("test"),
        }),
    };
    world.journal.cancel(ShardId(0), cancellation).expect("taken").await.expect("committed");
    world.all_ended(&[first, second]).await;
    assert_eq!(world.push.bodies.lock().as_slice(), ["second"]);
}

/// Leaves routes alone and answers payloads.
#[derive(Debug)]
struct Shaping(fn(&TransformItem) -> Shown);

impl RuleEngine for Shaping {
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        NoRules.route(now, items)
    }

    fn has(&self, hook: Hook, _org: OrganizationId) -> bool {
        hook == Hook::Transform
    }

    fn transform(
        &self,
        _now: Millis,
        items: Vec<TransformItem>,
    ) -> BoxFuture<'_, Vec<Transformed>> {
        let answer = |item| Transformed { shown: (self.0)(item), decisions: Vec::new() };
        Box::pin(std::future::ready(items.iter().map(answer).collect()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_goes_out_as_the_rules_left_it() {
    let redact = |_: &TransformItem| Shown::Payload(r#"{"title":"t","body":"•••"}"#.into());
    let world = World::new(1, Arc::new(Shaping(redact)), |_| Some(Outcome::Delivered)).await;
    let id = world.titled("secret").await;
    world.settled().await;
    world.all_ended(&[id]).await;
    assert_eq!(world.push.bodies.lock().as_slice(), ["•••"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_payload_ends_as_suppressed_and_reaches_nobody() {
    let drop = |_: &TransformItem| Shown::Drop { rule: "r".into(), code: "c".into() };
    let world = World::new(1, Arc::new(Shaping(drop)), |_| Some(Outcome::Delivered)).await;
    let id = world.titled("x").await;
    world.all_ended(&[id]).await;
    assert_eq!(world.finals(id).await, [FinalState::Suppressed]);
    assert_eq!(world.sent(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_whose_required_rule_fails_waits_and_never_goes_out_unjudged() {
    let fail = |_: &TransformItem| Shown::Failed { rule: "r".into(), kind: "trap" };
    let world = World::new(1, Arc::new(Shaping(fail)), |_| Some(Outcome::Delivered)).await;
    let id = world.titled("x").await;
    world
        .until("held", Duration::ZERO, async |w| {
            w.events(id).await.iter().any(|event| {
            matches!(event, TimelineEvent::Attempted { cause: Some(c), .. } if c == "rule_failed")
        })
        })
        .await;
    assert_eq!((world.sent(), world.finals(id).await), (Vec::new(), Vec::new()));
}
