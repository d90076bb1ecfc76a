//! What the record store costs on this machine: run by hand, never judged.
//!
//! `cargo test --release -p bugler-gateway --lib store::disk::measure -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::*;
use crate::store::conformance::samples::{ACME, device, two_organizations, user};

const USERS: i64 = 100_000;
const CHANGES_PER_APPLY: i64 = 1_000;

fn show(what: &str, elapsed: Duration, count: u32) {
    let micros = elapsed.as_secs_f64() * 1e6 / f64::from(count);
    println!("{what}: {:.0}/s, {micros:.1} µs each", 1e6 / micros);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn the_record_store() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = Arc::new(DiskStore::open(dir.path()).unwrap());
    store.apply(two_organizations(0)).await.unwrap();

    let started = Instant::now();
    for first in (0..USERS).step_by(1_000) {
        let ids = first..first + CHANGES_PER_APPLY;
        let changes = ids.flat_map(|id| {
            [
                Change::PutUser(user(ACME, id)),
                Change::PutDevice(device(id, u128::from(id.unsigned_abs()))),
            ]
        });
        store.apply(changes.collect()).await.unwrap();
    }
    show("load users with a device, 1,000 per apply", started.elapsed(), 100_000);
    let file = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
    println!("file: {} MB", file / 1_000_000);

    for callers in [1, 16, 64, 256] {
        let rounds = 2_048 / callers;
        let started = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for _ in 0..rounds {
                        let id = i64::from(caller);
                        store.apply(vec![Change::PutUser(user(ACME, id))]).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        show(&format!("apply one change, {callers} callers"), started.elapsed(), 2_048);
    }

    for pass in ["first read", "second read"] {
        let started = Instant::now();
        for id in 50_000..60_000 {
            let email = UserRef::Email(format!("user-{id}@example.com"));
            assert!(store.user(email).await.unwrap().is_some());
        }
        show(&format!("user by e-mail, {pass}"), started.elapsed(), 10_000);
    }

    let (mut after, started) = (None, Instant::now());
    loop {
        let page = store.recipients(ACME, &Audience::Organization, after, 1_000).await.unwrap();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    show("page of 1,000 recipients", started.elapsed(), 100);

    let store = Arc::into_inner(store).unwrap();
    drop(store);
    let started = Instant::now();
    let store = DiskStore::open(dir.path()).unwrap();
    show("open after a clean stop", started.elapsed(), 1);
    store.apply(vec![Change::PutUser(user(ACME, 1))]).await.unwrap();
    let copy = tempfile::tempdir_in(".").unwrap();
    std::fs::copy(dir.path().join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    let started = Instant::now();
    drop(DiskStore::open(copy.path()).unwrap());
    show("open what a killed process left", started.elapsed(), 1);
}
