//! Sending again at the quota: what has room, and of the rest that it had none.

use super::*;
use crate::journal::{Resolution, Settlement, Unlimited};
use crate::model::{DeliveryId, FinalState, Notification, ProviderName, Source, TargetRef};
use crate::work::Overrides;

fn notification() -> Notification {
    Notification::due(NotificationId(Uuid::now_v7()), ORG, Source::Native, "e", Millis(1))
}

/// Dead letters of one notification, once the index shows them.
async fn dead(journal: &HeldJournal, count: u8) -> Vec<DeliveryId> {
    let notification = notification();
    let entries = vec![Work::root(notification.clone())];
    let append = Append { entries, idempotency: Vec::new() };
    journal.append(ShardId(0), append).unwrap().await.unwrap();
    let claims = journal.claim(ShardId(0), 1, &Unlimited).await.unwrap();
    let dead = (0..count).map(|number| {
        let subscription = crate::model::ObjectId([number; 12]);
        let target = TargetRef::Subscription { provider: ProviderName::Webhook, subscription };
        let delivery = DeliveryId::derive(notification.id, &target.key());
        let (notification, overrides) = (notification.clone(), Overrides::default());
        (delivery, Work::Retry { notification, target, attempts: 1, overrides }.encode())
    });
    let dead: Vec<_> = dead.collect();
    let ids: Vec<_> = dead.iter().map(|(delivery, _)| *delivery).collect();
    let settlement = Settlement {
        claim: claims[0].id,
        notification: notification.id,
        org: ORG,
        resolved: ids.iter().map(|id| (*id, Resolution::Final(FinalState::Dead))).collect(),
        events: Vec::new(),
        follow_ups: Vec::new(),
        dead,
        done: true,
    };
    journal.settle(ShardId(0), vec![settlement]).unwrap().await.unwrap();
    kept(journal, ids.len()).await;
    ids
}

/// Waits until so many dead letters are kept.
async fn kept(journal: &HeldJournal, count: usize) {
    while journal.dead_kept().await.unwrap() != count as u64 {
        tokio::task::yield_now().await;
    }
}

fn asked() -> Again {
    let pace = Pace { start: Millis(1_000), per_second: 10 };
    Again { org: ORG, by: String::from("test"), pace, dry_run: false }
}

#[tokio::test]
async fn a_replay_keeps_to_the_quota_and_leaves_what_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let journal = HeldJournal::open(&dir.path().join("journal"));
    journal.hold(false);
    let shared = Arc::clone(&journal) as Arc<dyn Journal>;
    let backlog = BacklogQuota { entries: 120, bytes: 0 };
    let intake = Intake::limited(shared, Arc::new(SystemClock), AdmissionLimits { backlog });
    let ids = dead(&journal, 250).await;
    let done = intake.replay(&asked(), ids.clone()).await.unwrap();
    assert_eq!(done.amended, ids[..100]);
    assert_eq!(done.last_due, Some(Millis(1_000 + 99 * 100)), "of those that are sent again");
    assert_eq!(done.refused.len(), 150);
    assert!(done.refused.iter().all(|(_, why)| *why == Refused::NoRoom));
    kept(&journal, 150).await;
    // Without room for any, it is the request that is refused.
    let refused = intake.replay(&asked(), ids.clone()).await.unwrap_err();
    assert!(matches!(refused, IntakeError::Backlog { .. }), "{refused:?}");
    assert_eq!(journal.backlog_of(ShardId(0), ORG).pending, 100);
    // To give up takes no room.
    let given_up = intake.discard(&asked(), ids[100..].to_vec()).await.unwrap();
    assert_eq!(given_up.amended, ids[100..]);
    kept(&journal, 0).await;
}
