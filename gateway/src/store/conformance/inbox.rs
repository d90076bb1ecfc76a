//! Checks of inboxes: entries follow their deliveries, sync misses nothing, everything is bounded.

use uuid::Uuid;

use super::samples::{ACME, GLOBEX, two_organizations};
use super::{Checked, Place, apply, refused_as};
use crate::model::{
    DeliveryId, InboxMessage, InboxOutcome, InboxRecipient, InboxState, InboxStep, Millis,
    NotificationId, OrganizationId, UserId,
};
use crate::store::{Change, Expectation, InboxChange, InboxRow, Store};

const AT: Millis = Millis(1_700_000_000_000);
const ADA: UserId = UserId(1);
const BOB: UserId = UserId(2);

fn notification(number: u128) -> NotificationId {
    NotificationId(Uuid::from_u128(number))
}

fn delivery(number: u128) -> DeliveryId {
    DeliveryId(Uuid::from_u128(number))
}

fn put(number: u128, to: &[(UserId, &[u128])]) -> Change {
    let message = InboxMessage {
        notification: notification(number),
        org: ACME,
        content: format!("{{\"text\":\"{number}\"}}"),
        start_at: AT,
        created_at: AT,
        created_by: None,
    };
    let recipient = |(user, open): &(UserId, &[u128])| InboxRecipient {
        user: *user,
        open: open.iter().copied().map(delivery).collect(),
    };
    Change::Inbox(InboxChange::Put { message, to: to.iter().map(recipient).collect(), at: AT })
}

fn step(user: UserId, number: u128, of: u128, outcome: InboxOutcome) -> Change {
    let (notification, delivery) = (notification(number), delivery(of));
    Change::Inbox(InboxChange::Step(vec![InboxStep {
        user,
        notification,
        delivery,
        outcome,
        at: AT.plus(1),
    }]))
}

fn remove(user: UserId, number: u128) -> Change {
    let notification = notification(number);
    Change::Inbox(InboxChange::Remove { user, notification, at: AT, by: None })
}

async fn row(
    store: &dyn Store,
    user: UserId,
    number: u128,
) -> Result<Option<InboxRow>, crate::store::StoreError> {
    store.inbox_entry(user, notification(number)).await
}

async fn state(
    store: &dyn Store,
    user: UserId,
    number: u128,
) -> Result<Option<InboxState>, crate::store::StoreError> {
    Ok(row(store, user, number).await?.map(|row| row.entry.state))
}

fn ids(rows: &[InboxRow]) -> Vec<u128> {
    rows.iter().map(|row| row.notification.0.as_u128()).collect()
}

pub(super) async fn moves_entries_as_their_deliveries_go(store: &dyn Store) -> Checked {
    use InboxOutcome::{Delivered, Failed, Retry};
    apply(store, two_organizations(2)).await?;
    let all: &[(UserId, &[u128])] = &[(ADA, &[1, 2]), (BOB, &[]), (UserId(99), &[3])];
    apply(store, [put(7, all)]).await?;
    assert_eq!(state(store, ADA, 7).await?, Some(InboxState::Queued));
    assert_eq!(state(store, BOB, 7).await?, Some(InboxState::Sent), "an entry is all it gets");
    assert_eq!(state(store, UserId(99), 7).await?, None, "users may be gone");
    for (of, outcome, expected) in [
        (1, Failed, InboxState::Queued),
        (1, Failed, InboxState::Queued),
        (2, Retry, InboxState::Retry),
        (9, Failed, InboxState::Retry),
        (2, Failed, InboxState::Failed),
        (2, Delivered, InboxState::Failed),
    ] {
        apply(store, [step(ADA, 7, of, outcome)]).await?;
        assert_eq!(state(store, ADA, 7).await?, Some(expected), "{of} {outcome:?}");
    }
    let before = row(store, ADA, 7).await?;
    apply(store, [put(7, all), step(BOB, 7, 1, Failed), step(BOB, 8, 1, Delivered)]).await?;
    assert_eq!(row(store, ADA, 7).await?, before, "made again, it changes nothing");
    assert_eq!(state(store, BOB, 7).await?, Some(InboxState::Sent));
    apply(store, [put(8, &[(ADA, &[4, 5])]), step(ADA, 8, 4, Delivered)]).await?;
    apply(store, [step(ADA, 8, 5, Failed)]).await?;
    assert_eq!(state(store, ADA, 8).await?, Some(InboxState::Sent), "one success is enough");
    Ok(())
}

pub(super) async fn pages_and_syncs_inboxes_over_a_reopen(place: &impl Place) -> Checked {
    let store = place.open().await;
    apply(&*store, two_organizations(2)).await?;
    for number in 1..=4 {
        apply(&*store, [put(number, &[(ADA, &[]), (BOB, &[])])]).await?;
    }
    let head = store.inbox_head(ADA).await?;
    let page = store.inbox(ADA, ACME, None, 2).await?;
    assert_eq!(ids(&page), [4, 3]);
    assert_eq!(page[0].content.as_deref(), Some("{\"text\":\"4\"}"));
    assert_eq!(ids(&store.inbox(ADA, ACME, Some(notification(3)), 9).await?), [2, 1]);
    assert_eq!(store.inbox(ADA, GLOBEX, None, 9).await?, []);
    apply(&*store, [remove(ADA, 3)]).await?;
    let set = InboxChange::Set {
        user: ADA,
        notification: notification(1),
        state: InboxState::Read,
        at: AT,
        by: Some(Uuid::nil()),
    };
    apply(&*store, [Change::Inbox(set)]).await?;
    drop(store);
    let store = place.open().await;
    let changes = store.inbox_changes(ADA, ACME, head.revision, 9).await?;
    assert_eq!(ids(&changes), [3, 1], "in the order of the changes");
    assert!(changes[0].entry.is_removed && changes[0].content.is_none());
    assert_eq!(changes[1].entry.state, InboxState::Read);
    let after = changes[0].entry.revision;
    assert_eq!(ids(&store.inbox_changes(ADA, ACME, after, 1).await?), [1]);
    assert_eq!(ids(&store.inbox(ADA, ACME, None, 9).await?), [4, 2, 1]);
    assert_eq!(ids(&store.inbox(BOB, ACME, None, 9).await?), [4, 3, 2, 1], "everybody's own");
    apply(&*store, [put(3, &[(ADA, &[])])]).await?;
    assert_eq!(state(&*store, ADA, 3).await?, None, "a removed entry does not come back");
    Ok(())
}

pub(super) async fn guards_entries_by_their_revision(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    apply(store, [put(1, &[(ADA, &[])])]).await?;
    let expect =
        |revision| Change::Expect(Expectation::InboxRevision(ADA, notification(1), revision));
    apply(store, [expect(1), remove(ADA, 1)]).await?;
    let unmet = "the records are not as the change expects them: inbox_changed";
    refused_as(store.apply(vec![expect(1), remove(ADA, 1)]).await, unmet);
    Ok(())
}

pub(super) async fn bounds_inboxes_and_what_it_remembers_of_them(store: &dyn Store) -> Checked {
    const MAX: u128 = 1_000;
    apply(store, two_organizations(1)).await?;
    for start in (1..=MAX + 5).step_by(201) {
        apply(store, (start..start + 201).map(|number| put(number, &[(ADA, &[])]))).await?;
    }
    let head = store.inbox_head(ADA).await?;
    assert_eq!((head.live, head.removed), (1_000, 5));
    assert_eq!(state(store, ADA, 5).await?, None, "the oldest made room");
    assert_eq!(state(store, ADA, 6).await?, Some(InboxState::Sent));
    assert_eq!(head.forgotten, 0);
    apply(store, (6..=MAX + 5).map(|number| remove(ADA, number))).await?;
    let head = store.inbox_head(ADA).await?;
    assert_eq!((head.live, head.removed), (0, 1_000));
    let known = store.inbox_changes(ADA, ACME, head.forgotten, 2_000).await?;
    assert_eq!(known.len(), 1_000, "every removal since then is told");
    assert!(head.forgotten > 0);
    Ok(())
}

pub(super) async fn hides_notifications_once_and_not_for_ever(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    let timed = |ms: u128, number: u128| notification(ms << 80 | number);
    let hide = |org: OrganizationId, id, before| {
        let forget_before = Millis(before);
        Change::Inbox(InboxChange::Hide { org, notification: id, forget_before })
    };
    let (old, new) = (timed(1_000, 1), timed(2_000, 2));
    apply(store, [hide(ACME, old, 0)]).await?;
    assert_eq!(store.hidden(ACME, vec![new, old]).await?, [old]);
    assert_eq!(store.hidden(GLOBEX, vec![old]).await?, []);
    let again = store.apply(vec![hide(ACME, old, 0)]).await;
    refused_as(again, "the notification was used before or is not there");
    apply(store, [hide(ACME, new, 1_500)]).await?;
    assert_eq!(store.hidden(ACME, vec![new, old]).await?, [new]);
    Ok(())
}
