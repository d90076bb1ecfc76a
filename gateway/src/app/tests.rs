//! What a crash left in the journal, as a start finds it.

use std::path::Path;

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::journal::disk::{DiskJournal, DiskOptions};
use crate::journal::{Append, Entry, EntryKind};
use crate::model::{NotificationId, OrganizationId, PolicyOwner, ShardId};
use crate::store::Version;
use crate::store::disk::DiskStore;
use crate::work::log_entry;

const ORG: OrganizationId = OrganizationId(101);

fn journal(dir: &Path) -> DiskJournal {
    let options = DiskOptions { shards: 1, segment_bytes: 1 << 20, ..DiskOptions::default() };
    DiskJournal::open(&dir.join("journal"), options, Arc::new(SystemClock)).unwrap()
}

fn change(number: u64) -> Entry {
    let changes = [Change::Count(PolicyOwner::Organization(ORG))];
    let id = NotificationId(Uuid::from_u128(u128::from(number)));
    log_entry(id, ORG, Millis(0), Version(number), &changes)
}

#[tokio::test]
async fn changes_of_a_newer_release_refuse_the_start_and_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = (journal(dir.path()), DiskStore::open(dir.path()).unwrap());
    let newer = Entry { payload: Bytes::from_static(&[0xee; 40]), ..change(2) };
    assert_eq!(newer.kind, EntryKind::Change);
    let entries = vec![change(1), newer, change(3)];
    let append = Append { entries, idempotency: Vec::new() };
    journal.append(ShardId(0), append).unwrap().await.unwrap();
    let refused = redo(&journal, &store).await.unwrap_err();
    assert!(matches!(refused, AppError::UnreadableChanges { count: 1 }), "{refused:?}");
    assert!(refused.to_string().contains("start the release that wrote them"), "{refused}");
    let owner = PolicyOwner::Organization(ORG);
    let sequence = crate::store::Accounts::sequence(&store, owner).await.unwrap();
    assert_eq!(sequence, 0, "later changes were made without the one before them");
}

#[tokio::test]
async fn changes_the_records_miss_are_made_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = (journal(dir.path()), DiskStore::open(dir.path()).unwrap());
    let append = Append { entries: vec![change(2), change(1)], idempotency: Vec::new() };
    journal.append(ShardId(0), append).unwrap().await.unwrap();
    redo(&journal, &store).await.unwrap();
    redo(&journal, &store).await.unwrap();
    let owner = PolicyOwner::Organization(ORG);
    assert_eq!(crate::store::Accounts::sequence(&store, owner).await.unwrap(), 2);
}

#[test]
fn the_configuration_takes_the_names_of_the_rules_that_are_shipped() {
    assert!(crate::rules::shipped_rules().eq(crate::config::SHIPPED_RULES));
}
