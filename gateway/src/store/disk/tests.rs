//! The embedded store against the shared suite, damaged files and other processes.

use std::path::Path;

use super::*;
use crate::model::{Millis, ObjectId};
use crate::store::conformance::{self, Place};
use tempfile::TempDir;
use uuid::Uuid;

impl Place for TempDir {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(DiskStore::open(self.path()).unwrap()) as Arc<dyn Store> })
    }
}

fn organization() -> Organization {
    Organization {
        profile: crate::model::OrganizationProfile::default(),
        id: OrganizationId(101),
        uuid: Uuid::from_u128(1),
        object_id: ObjectId([1; 12]),
        slug: String::from("acme-of-the-north"),
        numeric: String::from("69629023906488334"),
        name: String::from("Acme"),
        parent: None,
        tz: String::from("UTC"),
        created_at: Millis(0),
    }
}

async fn with_one_organization(dir: &Path) -> DiskStore {
    let store = DiskStore::open(dir).unwrap();
    store.apply(vec![Change::PutOrganization(organization())]).await.unwrap();
    store
}

/// The whole chain of causes, as a log line shows it.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn the_embedded_store_keeps_every_promise_of_the_seam() {
    conformance::run(async || tempfile::tempdir().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_open_elsewhere_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _open = DiskStore::open(dir.path()).unwrap();
    let refused = told(&DiskStore::open(dir.path()).unwrap_err());
    assert!(refused.contains("records.redb is open in another process"), "{refused}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_its_name_and_the_way_out() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 4] = [
        |file| file[..512].fill(0xab),
        |file| file.truncate(100),
        |file| *file = b"not a database at all".to_vec(),
        |file| file[..4096].fill(0),
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        drop(with_one_organization(dir.path()).await);
        let path = dir.path().join(FILE_NAME);
        let mut file = std::fs::read(&path).unwrap();
        damage(&mut file);
        std::fs::write(&path, file).unwrap();
        let refused = told(&DiskStore::open(dir.path()).unwrap_err());
        assert!(refused.contains("records.redb is damaged: restore it"), "{refused}");
    }
}

/// A store whose one organization has a flipped bit.
async fn with_a_flipped_bit(dir: &Path) -> DiskStore {
    drop(with_one_organization(dir).await);
    let path = dir.join(FILE_NAME);
    let mut file = std::fs::read(&path).unwrap();
    let name = b"Acme\0\x03UTC";
    let found: Vec<usize> = (0..file.len()).filter(|at| file[*at..].starts_with(name)).collect();
    assert!(!found.is_empty(), "the record is stored as expected");
    for at in found {
        file[at] ^= 1;
    }
    std::fs::write(&path, file).unwrap();
    DiskStore::open(dir).unwrap()
}

#[tokio::test]
async fn a_record_with_a_flipped_bit_is_named_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_a_flipped_bit(dir.path()).await;
    let which = OrganizationRef::Slug(organization().slug);
    let refused = told(&store.organization(which).await.unwrap_err());
    assert!(refused.contains("records.redb is damaged"), "{refused}");
    assert!(refused.contains("table organizations"), "{refused}");
}

#[tokio::test]
async fn a_logged_change_that_meets_damage_is_refused_and_not_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_a_flipped_bit(dir.path()).await;
    let renamed = || Organization { name: String::from("Renamed"), ..organization() };
    let logged = || vec![(Version(9), vec![Change::PutOrganization(renamed())])];
    // Asked twice: had the first time left it out, the second would skip it as made.
    for _ in 0..2 {
        let refused = told(&store.redo(logged()).await.unwrap_err());
        assert!(refused.contains("records.redb is damaged"), "{refused}");
    }
    let version = store.apply(vec![Change::Forget(Millis(0))]).await.unwrap();
    assert!(version < Version(9), "the records count a change that was not made");
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = DiskStore::open(dir.path()).unwrap();
        let transaction = store.records.database.begin_write().unwrap();
        let mut draft = Draft::open(&transaction).unwrap();
        draft.put(Table::Meta, META_FORMAT, &[FORMAT + 1]).unwrap();
        drop(draft);
        transaction.commit().unwrap();
    }
    let refused = told(&DiskStore::open(dir.path()).unwrap_err());
    let format = format!("has record format {}", FORMAT + 1);
    assert!(refused.contains(&format), "{refused}");
}

#[tokio::test]
async fn an_answered_apply_survives_a_process_that_never_closes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let open = with_one_organization(dir.path()).await;
    // A copy of the file at this moment is what a killed process leaves behind.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    let survivor = DiskStore::open(copy.path()).unwrap();
    let found = survivor.organization(OrganizationRef::Id(OrganizationId(101))).await.unwrap();
    assert_eq!(found, Some(organization().into()));
    drop(open);
}

#[tokio::test]
async fn a_logged_change_that_a_killed_process_lost_is_made_again_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let open = with_one_organization(dir.path()).await;
    let renamed = || Organization { name: String::from("Renamed"), ..organization() };
    let changes = || vec![Change::PutOrganization(renamed())];
    let version = open.apply_logged(changes(), Box::new(|_| Ok(Box::pin(async { Ok(()) })))).await;
    let version = version.unwrap();
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    let which = || OrganizationRef::Id(OrganizationId(101));
    {
        let survivor = DiskStore::open(copy.path()).unwrap();
        let found = survivor.organization(which()).await.unwrap();
        assert_eq!(found, Some(organization().into()), "only the log has the change");
        survivor.redo(vec![(version, changes())]).await.unwrap();
        let again = tempfile::tempdir().unwrap();
        std::fs::copy(copy.path().join(FILE_NAME), again.path().join(FILE_NAME)).unwrap();
        let second = DiskStore::open(again.path()).unwrap();
        let found = second.organization(which()).await.unwrap();
        assert_eq!(found, Some(renamed().into()), "once redone it is on disk");
    }
    drop(open);
    let closed = DiskStore::open(dir.path()).unwrap();
    let found = closed.organization(which()).await.unwrap();
    assert_eq!(found, Some(renamed().into()), "closing writes what is only logged");
}

#[tokio::test]
async fn queued_applies_are_made_even_if_their_callers_leave() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).unwrap();
    {
        let mut apply = store.apply(vec![Change::PutOrganization(organization())]);
        // One poll queues the changes; then the caller goes away.
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(apply.as_mut().poll(context).is_ready())
        });
        polled.await;
    }
    drop(store);
    let store = DiskStore::open(dir.path()).unwrap();
    let found = store.organization(OrganizationRef::Id(OrganizationId(101))).await.unwrap();
    assert_eq!(found, Some(organization().into()));
}

#[test]
fn the_data_directory_must_be_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = told(&DiskStore::open(&file).unwrap_err());
    assert!(refused.contains("cannot create the data directory"), "{refused}");
}

#[test]
fn the_stored_form_of_version_2_stays_readable() {
    // Raise the record version before changing a stored type.
    let stored = concat!(
        "02ca01100000000000000000000000000000000101010101010101010101010111",
        "61636d652d6f662d7468652d6e6f72746811363936323930323339303634383833",
        "33340441636d65000355544300010000000100650051d4",
    );
    let bytes = tables::encode(Table::Organizations, &organization()).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, stored);
    let read: Organization = tables::decode(Table::Organizations, &bytes).unwrap();
    assert_eq!(read, organization());
}
