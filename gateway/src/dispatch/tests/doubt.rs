//! Reading what happened while the journal cannot be read for a while: nothing is concluded from that.

use super::*;
use crate::dispatch::finish::any_delivered;
use crate::dispatch::job::{PLANNED, marker};
use crate::dispatch::shard::planned;
use crate::intake::held::HeldJournal;
use crate::journal::{Claim, Journal, Resolution, Settlement, Unlimited};
use crate::model::{DeliveryId, Part, ShardId, TargetRef};
use crate::work::encode_event;
use bytes::Bytes;
use std::path::Path;

const SHARD: ShardId = ShardId(0);

fn target() -> TargetRef {
    let subscription = crate::model::ObjectId([1; 12]);
    TargetRef::Subscription { provider: ProviderName::Webhook, subscription }
}

fn notification() -> Notification {
    Notification::due(NotificationId(Uuid::now_v7()), ORG, Source::Native, "e", START)
}

/// A journal in which a notification was claimed, and `event` told of it with `resolution`.
async fn told(
    dir: &Path,
    event: impl Fn(DeliveryId) -> TimelineEvent,
    resolution: impl Fn(DeliveryId) -> (DeliveryId, Resolution),
) -> (Arc<HeldJournal>, Notification, Claim) {
    let journal = HeldJournal::open(dir);
    journal.hold(false);
    let notification = notification();
    let append =
        Append { entries: vec![Work::root(notification.clone())], idempotency: Vec::new() };
    journal.append(SHARD, append).expect("accepted").await.expect("durable");
    let claims = journal.claim(SHARD, 1, &Unlimited).await.expect("claimed");
    let delivery = DeliveryId::derive(notification.id, &target().key());
    let settlement = Settlement {
        claim: claims[0].id,
        notification: notification.id,
        org: ORG,
        resolved: vec![resolution(delivery)],
        events: vec![encode_event(&event(delivery))],
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: false,
    };
    journal.settle(SHARD, vec![settlement]).expect("held").await.expect("durable");
    let events = async || {
        let timeline = journal.timeline(ORG, notification.id).await.expect("readable");
        timeline.map_or_else(Vec::<Bytes>::new, |timeline| timeline.events)
    };
    while events().await.is_empty() {
        tokio::task::yield_now().await;
    }
    let [claim] = <[_; 1]>::try_from(claims).expect("one");
    (journal, notification, claim)
}

#[tokio::test]
async fn an_earlier_step_is_not_taken_as_lost_because_nobody_can_read_what_became_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let event = |delivery| TimelineEvent::Settled {
        at: START,
        delivery,
        target: target().key(),
        state: FinalState::Delivered,
        cause: String::from("test"),
    };
    let resolution = |delivery| (delivery, Resolution::Final(FinalState::Delivered));
    let (journal, notification, _) = told(dir.path(), event, resolution).await;
    tokio::time::pause();
    journal.fail_reads(3);
    assert!(any_delivered(journal.as_ref(), &notification, &[target()]).await);
    let other = TargetRef::Subscription {
        provider: ProviderName::Webhook,
        subscription: crate::model::ObjectId([2; 12]),
    };
    assert!(!any_delivered(journal.as_ref(), &notification, &[other]).await);
}

#[tokio::test]
async fn a_plan_is_looked_for_until_it_can_be_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let to = vec![(crate::work::Overrides::default(), vec![target()])];
    let event = |_| TimelineEvent::Planned { part: Part::Root, after: None, to: to.clone() };
    let resolution = |_| (marker(NotificationId(Uuid::nil()), PLANNED), Resolution::Moved);
    let (journal, _, claim) = told(dir.path(), event, resolution).await;
    tokio::time::pause();
    journal.fail_reads(1_000);
    let found = planned(journal.as_ref(), &claim, ((Part::Root, None), None)).await;
    assert_eq!(found.map(|plan| plan.len()), Some(1));
}
