//! Commits over several shards that stop between any two of their steps.

use super::*;
use crate::model::{InboxMessage, InboxRecipient, Millis, NotificationId, Secret};
use crate::store::conformance::samples::{
    ACME, GLOBEX, device, member, organization, two_organizations, user,
};
use crate::store::{Accounts, InboxChange, Inboxes};
use uuid::Uuid;

const ADA: UserId = UserId(1);

fn inbox() -> Change {
    let message = InboxMessage {
        notification: NotificationId(Uuid::from_u128(7)),
        org: ACME,
        content: String::from("text"),
        start_at: Millis(1),
        created_at: Millis(1),
        created_by: None,
    };
    let to = vec![InboxRecipient { user: ADA, open: Vec::new() }];
    Change::Inbox(InboxChange::Put { message, to, at: Millis(1) })
}

/// ACME with Ada, who has everything a user can have, and GLOBEX, in shards of their own.
async fn prepared(place: &Prefix) -> RedisStore {
    let store = place.store().await;
    assert_ne!(ShardId::of(ACME, place.shards), ShardId::of(GLOBEX, place.shards));
    let mut changes = two_organizations(1);
    changes.extend([device(1, 10), device(1, 11)].map(Change::PutDevice));
    changes.push(Change::PutPassword(ADA, Secret::new("$phc")));
    changes.push(Change::PutMembership(ACME, member(Uuid::nil(), 1, &["ops"])));
    changes.push(inbox());
    store.apply(changes).await.unwrap();
    store
}

async fn list(store: &RedisStore, org: OrganizationId) -> Vec<UserId> {
    let page = store.recipients(org, &Audience::Organization, None, 10).await.unwrap();
    for recipient in &page.recipients {
        assert_eq!(recipient.devices, [device(1, 10), device(1, 11)], "with every device");
    }
    page.recipients.into_iter().map(|recipient| recipient.user.id).collect()
}

/// The one organization that Ada is in, by every way to ask.
async fn home(store: &RedisStore) -> OrganizationId {
    let found = store.user(UserRef::Id(ADA)).await.unwrap().expect("she is somewhere");
    for which in [UserRef::Uuid(found.uuid), UserRef::Email(found.email.clone())] {
        assert_eq!(store.user(which).await.unwrap().as_ref(), Some(&found));
    }
    let (here, there) = if found.org == ACME { (ACME, GLOBEX) } else { (GLOBEX, ACME) };
    assert_eq!((list(store, here).await, list(store, there).await), (vec![ADA], vec![]));
    let counts = (store.count_users(here).await.unwrap(), store.count_users(there).await.unwrap());
    assert_eq!(counts, (1, 0));
    assert!(store.password(ADA).await.unwrap().is_some());
    let rows = store.inbox(ADA, ACME, None, 9).await.unwrap();
    let texts: Vec<_> = rows.into_iter().map(|row| row.content).collect();
    assert_eq!(texts, [Some(String::from("text"))], "she keeps what she was sent");
    found.org
}

fn transfer(org: OrganizationId) -> Vec<Change> {
    vec![Change::PutUser(User { name: String::from("Moved"), ..user(org, 1) })]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_in_one_organization_whatever_step_of_a_transfer_is_the_last() {
    let (_server, options) = server();
    let mut seen = Vec::new();
    for steps in 0.. {
        let place = Prefix::new(&options, 8);
        let first = prepared(&place).await;
        let left = &first.records.wire.steps_left;
        left.store(steps, Ordering::SeqCst);
        let answer = first.apply(transfer(GLOBEX)).await;
        // While nobody knows whether the commit goes on.
        let patient = place.store().await;
        let before = home(&patient).await;
        assert!(answer.is_err() || before == GLOBEX, "an answered transfer is not there");
        // And once somebody ended or finished it.
        let impatient = place.impatient().await;
        assert_eq!(home(&impatient).await, before, "it ends as it looked");
        seen.push(before);
        for org in [ACME, GLOBEX] {
            impatient.apply(transfer(org)).await.unwrap();
            assert_eq!((home(&impatient).await, home(&patient).await), (org, org));
        }
        impatient.records.wire.sweep().await.unwrap();
        assert_eq!(impatient.records.wire.sweep().await.unwrap(), 0, "a lock stays for ever");
        if answer.is_ok() && first.records.wire.steps_left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(seen.contains(&ACME) && seen.contains(&GLOBEX) && seen.len() > 5, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_taker_crashed_is_free_for_the_next() {
    let (_server, options) = server();
    for steps in 0..6 {
        let place = Prefix::new(&options, 8);
        let first = prepared(&place).await;
        first.records.wire.steps_left.store(steps, Ordering::SeqCst);
        let wanted = User { email: String::from("wanted@example.com"), ..user(ACME, 2) };
        let answer = first.apply(vec![Change::PutUser(wanted.clone())]).await;
        let second = place.impatient().await;
        let heir = User { email: wanted.email.clone(), ..user(GLOBEX, 3) };
        let taken = second.apply(vec![Change::PutUser(heir)]).await;
        let owner = second.user(UserRef::Email(wanted.email)).await.unwrap().expect("somebody");
        assert_eq!(owner.id, if taken.is_ok() { UserId(3) } else { UserId(2) });
        assert!(answer.is_err() || owner.id == UserId(2), "an answered change was lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_below_a_parent_of_another_shard_is_counted_once() {
    let (_server, options) = server();
    for steps in 0..6 {
        let place = Prefix::new(&options, 8);
        let first = prepared(&place).await;
        first.records.wire.steps_left.store(steps, Ordering::SeqCst);
        let below = Organization { parent: Some(ACME), ..organization(GLOBEX) };
        let answer = first.apply(vec![Change::PutOrganization(below.clone())]).await;
        let second = place.impatient().await;
        for _ in 0..2 {
            let globex = second.organization(OrganizationRef::Id(GLOBEX)).await.unwrap();
            let is_below = globex.and_then(|globex| globex.parent) == Some(ACME);
            let count = second.count_children(ACME).await.unwrap();
            let listed = second.children(ACME, 0, 9).await.unwrap().len() as u64;
            assert_eq!((count, listed), (u64::from(is_below), u64::from(is_below)));
            assert!(is_below || answer.is_err());
            second.apply(vec![Change::PutOrganization(below.clone())]).await.unwrap();
        }
    }
}
