//! Taking back what waits: remembered for good, and brought forward exactly once.

use super::*;
use crate::journal::Cancellation;

pub(super) async fn run<F: Fixture>(make: &impl AsyncFn() -> F) {
    a_cancellation_is_remembered_and_told(make().await).await;
    what_waits_is_brought_forward_once(make().await).await;
    what_was_brought_forward_and_not_done_comes_again(make().await).await;
    what_is_over_or_foreign_is_not_brought_forward(make().await).await;
}

const OTHER: OrganizationId = OrganizationId(102);

/// Brings forward until something was, since timers may show up a moment after their commit.
async fn hurry(f: &impl Fixture, id: NotificationId, count: usize) {
    let journal = f.journal();
    let mut hurried = 0;
    for _ in 0..500 {
        hurried += journal.hurry(SHARD, ORG, id).await.expect("readable");
        if hurried >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(hurried, count);
}

async fn a_cancellation_is_remembered_and_told(mut f: impl Fixture) {
    let (canceled, other) = (entry("canceled", f.now()), entry("other", f.now()));
    let (id, other_id) = (canceled.notification, other.notification);
    put(&f, SHARD, vec![canceled, other]).await;
    assert!(!f.journal().is_canceled(id));
    let wish = Cancellation { notification: id, org: ORG, event: Bytes::from_static(b"told") };
    f.journal().cancel(SHARD, wish).expect("accepted").await.expect("committed");
    for _ in 0..3 {
        assert!(f.journal().is_canceled(id), "at once, and after a restart");
        assert!(!f.journal().is_canceled(other_id));
        let journal = f.journal();
        eventually("the wish is told", async || {
            let timeline = journal.timeline(ORG, id).await.expect("readable").expect("known");
            timeline.events == ["told"]
        })
        .await;
        drop(journal);
        f.crash().await;
    }
    let claims = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&claims), ["canceled", "other"], "who claims it ends it");
}

/// A root whose settlement leaves a repeat for later; answers the notification.
async fn with_follow_up(f: &impl Fixture, due: Millis) -> NotificationId {
    put(f, SHARD, vec![entry("root", f.now())]).await;
    let root = claim(f, SHARD, 1).await;
    let id = root[0].notification;
    let mut moved = settlement(&root[0]);
    let repeat = Entry { notification: id, kind: EntryKind::FollowUp, ..entry("repeat", due) };
    moved.follow_ups = vec![repeat];
    moved.events = vec![Bytes::from_static(b"moved")];
    settle(f, moved).await.expect("settled");
    id
}

async fn what_waits_is_brought_forward_once(mut f: impl Fixture) {
    let due = f.now().plus(3_600_000);
    for restarts in [false, true] {
        let id = with_follow_up(&f, due).await;
        put(&f, SHARD, vec![entry("bystander", due)]).await;
        if restarts {
            f.crash().await;
        }
        hurry(&f, id, 1).await;
        assert_eq!(f.journal().hurry(SHARD, ORG, id).await, Ok(0), "twice");
        let claims = claim(&f, SHARD, 10).await;
        assert_eq!(texts(&claims), ["repeat"]);
        assert_eq!(f.journal().hurry(SHARD, ORG, id).await, Ok(0), "while it is claimed");
        settle(&f, settlement(&claims[0])).await.expect("settled");
        assert_eq!(f.journal().hurry(SHARD, ORG, id).await, Ok(0), "after its end");
        nothing_to_claim(&f, SHARD).await;
    }
    let backlog = f.journal().backlog(SHARD);
    assert_eq!((backlog.pending, backlog.timers), (2, 2), "the bystanders");
    f.advance(Duration::from_millis(3_600_001)).await;
    let mut left = claim(&f, SHARD, 10).await;
    while left.len() < 2 {
        left.extend(claim(&f, SHARD, 10).await);
    }
    assert_eq!(texts(&left), ["bystander"; 2]);
    nothing_to_claim(&f, SHARD).await;
}

/// After its lease ran out a journal may keep the time it was brought forward to, or the one before:
/// asked again, it comes in both.
async fn what_was_brought_forward_and_not_done_comes_again(mut f: impl Fixture) {
    let id = with_follow_up(&f, f.now().plus(3_600_000)).await;
    let mut lapsed = None;
    for crashes in [false, true] {
        let journal = f.journal();
        let held = loop {
            journal.hurry(SHARD, ORG, id).await.expect("readable");
            let claim = journal.claim(SHARD, 10, &Unlimited);
            if let Ok(claims) = tokio::time::timeout(Duration::from_millis(60), claim).await {
                break claims.expect("claim answered");
            }
        };
        drop(journal);
        assert_eq!(texts(&held), ["repeat"]);
        if let Some(late) = lapsed.replace(settlement(&held[0])) {
            assert_eq!(settle(&f, late).await, Err(JournalError::Fenced));
        }
        f.advance(f.lease() + Duration::from_secs(1)).await;
        if crashes {
            f.crash().await;
        }
    }
    f.advance(Duration::from_hours(1)).await;
    let due = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&due), ["repeat"]);
    settle(&f, settlement(&due[0])).await.expect("settled");
    assert_eq!(f.journal().backlog(SHARD).pending, 0);
}

async fn what_is_over_or_foreign_is_not_brought_forward(f: impl Fixture) {
    let id = with_follow_up(&f, f.now().plus(3_600_000)).await;
    let unknown = NotificationId(Uuid::now_v7());
    assert_eq!(f.journal().hurry(SHARD, ORG, unknown).await, Ok(0));
    assert_eq!(f.journal().hurry(SHARD, OTHER, id).await, Ok(0));
    nothing_to_claim(&f, SHARD).await;
    hurry(&f, id, 1).await;
}
