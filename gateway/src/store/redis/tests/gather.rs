//! Reads that go to Redis together.

use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;

use super::*;
use crate::store::conformance::samples::{ACME, GLOBEX, organization, two_organizations};
use tokio::task::JoinSet;

/// Scripts that the server has run.
fn scripts(server: &Server) -> u64 {
    let stats = server.ask(&["INFO", "commandstats"]).expect("the server answers").text();
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(name))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    ["cmdstat_evalsha:calls=", "cmdstat_eval:calls="].into_iter().filter_map(calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_are_answered_by_few_questions() {
    let (server, options) = server();
    let store = Prefix::new(&options, 1).store().await;
    store.apply(two_organizations(3)).await.unwrap();

    let before = scripts(&server);
    let of = |number: usize| if number.is_multiple_of(2) { ACME } else { GLOBEX };
    let reads = (0..1_000).map(|number| store.organization(OrganizationRef::Id(of(number))));
    for (number, found) in join_all(reads).await.into_iter().enumerate() {
        assert_eq!(found.unwrap().map(|found| found.id), Some(of(number)));
    }
    let asked = scripts(&server) - before;
    assert!(asked < 200, "1,000 reads at once were {asked} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_what_was_stored_before_it_however_many_ask() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 1);
    let (writer, reader) = (place.store().await, Arc::new(place.store().await));
    writer.apply(two_organizations(3)).await.unwrap();

    let is_over = Arc::new(AtomicBool::new(false));
    let mut others = JoinSet::new();
    for _ in 0..32 {
        let (reader, is_over) = (Arc::clone(&reader), Arc::clone(&is_over));
        others.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                reader.organization(OrganizationRef::Id(ACME)).await.unwrap();
            }
        });
    }
    for number in 0..200 {
        let name = format!("Organization, the {number}th time");
        let renamed = Organization { name: name.clone(), ..organization(ACME) };
        writer.apply(vec![Change::PutOrganization(renamed)]).await.unwrap();
        let found = reader.organization(OrganizationRef::Id(ACME)).await.unwrap();
        assert_eq!(found.map(|found| found.name.clone()), Some(name));
    }
    is_over.store(true, Ordering::SeqCst);
    others.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_while_asking_takes_nobody_along() {
    let (_server, options) = server();
    let store = Arc::new(Prefix::new(&options, 1).store().await);
    store.apply(two_organizations(3)).await.unwrap();

    for _ in 0..50 {
        let gone: Vec<_> = (0..8)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.organization(OrganizationRef::Id(ACME)).await })
            })
            .collect();
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        let found = store.organization(OrganizationRef::Id(GLOBEX)).await.unwrap();
        assert_eq!(found.map(|found| found.id), Some(GLOBEX));
    }
}
