//! Keys while their first request is undecided, and what a log's refusal means.

mod again;

use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;

use super::held::HeldJournal;
use super::*;
use crate::clock::SystemClock;
use crate::model::{AuditNote, Organization};
use crate::store::conformance::samples::organization;
use crate::store::disk::DiskStore;
use crate::store::{Change, Store, Version};

const ORG: OrganizationId = OrganizationId(101);

fn intake(dir: &Path) -> (Intake, Arc<HeldJournal>) {
    let journal = HeldJournal::open(&dir.join("journal"));
    let shared = Arc::clone(&journal) as Arc<dyn Journal>;
    (Intake::new(shared, Arc::new(SystemClock)), journal)
}

fn key() -> RequestKey {
    RequestKey::new(ORG, "/path", b"key", b"body").unwrap()
}

async fn first(intake: &Intake) -> Running {
    match intake.begin(key()).await.unwrap() {
        KeyState::First(running) => running,
        KeyState::Replay(answer) => unreachable!("{answer:?}"),
    }
}

/// Polls `work` once, as a server does before its caller leaves, then drops it.
async fn leave<T>(work: impl Future<Output = T>) {
    let mut work = Box::pin(work);
    let is_done = poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
    assert!(!is_done, "the commit was held");
}

/// Asks until the key is decided: the same request is answered as the first was.
async fn decided(intake: &Intake) -> KeyState {
    loop {
        match intake.begin(key()).await {
            Err(IntakeError::KeyBusy) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

fn record_change(changes: Vec<Change>) -> RecordChange {
    let audit = AuditNote {
        at: Millis(1),
        org: ORG,
        actor: String::from("organization:101"),
        peer: None,
        action: String::from("organization.rename"),
        object: String::from("organization:101"),
    };
    RecordChange { org: ORG, changes, audit, notifications: Vec::new() }
}

#[tokio::test]
async fn a_key_stays_taken_while_its_callers_append_is_undecided() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    let answer = Answer::plain(201, "done");
    {
        let running = first(&intake).await;
        let entry = crate::work::log_entry(intake.mint(), ORG, Millis(0), Version(1), &[]);
        let remember = [(running, answer.clone())];
        leave(intake.accept_all(ORG, vec![entry], &remember)).await;
    }
    assert_eq!(intake.begin(key()).await.unwrap_err(), IntakeError::KeyBusy);
    journal.hold(false);
    match decided(&intake).await {
        KeyState::Replay(first) => assert_eq!(first, answer),
        KeyState::First(_) => unreachable!("the request was made again"),
    }
}

#[tokio::test]
async fn a_key_stays_taken_while_its_callers_change_is_undecided() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    let store = DiskStore::open(dir.path()).unwrap();
    let answer = Answer::plain(201, "done");
    {
        let running = first(&intake).await;
        let change = record_change(vec![Change::PutOrganization(organization(ORG))]);
        leave(intake.change(&store, change, Some((&running, &answer)))).await;
    }
    assert_eq!(intake.begin(key()).await.unwrap_err(), IntakeError::KeyBusy);
    journal.hold(false);
    match decided(&intake).await {
        KeyState::Replay(first) => assert_eq!(first, answer),
        KeyState::First(_) => unreachable!("the request was made again"),
    }
}

#[tokio::test]
async fn a_key_is_free_again_after_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    journal.hold(false);
    let store = DiskStore::open(dir.path()).unwrap();
    {
        let running = first(&intake).await;
        let lost = Organization { parent: Some(OrganizationId(7)), ..organization(ORG) };
        let change = record_change(vec![Change::PutOrganization(lost)]);
        let answer = Answer::plain(201, "done");
        intake.change(&store, change, Some((&running, &answer))).await.unwrap_err();
    }
    drop(first(&intake).await);
}

#[tokio::test]
async fn without_its_key_a_request_is_refused_and_nothing_of_it_is_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    journal.fail_reads(1);
    assert_eq!(intake.begin(key()).await.unwrap_err(), IntakeError::Overloaded);
    drop(first(&intake).await);
}

#[tokio::test]
async fn a_change_that_a_closed_log_refused_is_not_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    let store = DiskStore::open(dir.path()).unwrap();
    journal.close().await;
    let change = record_change(vec![Change::PutOrganization(organization(ORG))]);
    let refused = intake.change(&store, change, None).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Intake(IntakeError::Failed)), "{refused:?}");
    let found = store.organization(crate::store::OrganizationRef::Id(ORG)).await.unwrap();
    assert_eq!(found, None);
}

#[tokio::test]
async fn a_change_too_large_for_the_log_is_told_apart_from_a_full_one() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, journal) = intake(dir.path());
    journal.hold(false);
    let store = DiskStore::open(dir.path()).unwrap();
    let large = Organization { name: "n".repeat(2 << 20), ..organization(ORG) };
    let change = record_change(vec![Change::PutOrganization(large)]);
    let refused = intake.change(&store, change, None).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Intake(IntakeError::TooLarge)), "{refused:?}");
    let change = record_change(vec![Change::PutOrganization(organization(ORG))]);
    intake.change(&store, change, None).await.unwrap();
    let found = store.organization(crate::store::OrganizationRef::Id(ORG)).await.unwrap();
    assert_eq!(found, Some(Arc::new(organization(ORG))));
}
