//! Records while Redis does not answer, dies, forgets scripts or takes no writes.

use std::time::Duration;

use super::*;
use crate::model::{Millis, PolicyOwner};
use crate::store::conformance::samples::{ACME, GLOBEX, two_organizations, user};
use crate::store::{Accounts, LogStep};
use bugler_loadtest::redis::Persistence;

const OWNER: PolicyOwner = PolicyOwner::Organization(ACME);

fn impatient(options: &RedisOptions) -> RedisOptions {
    RedisOptions { timeout: Duration::from_millis(100), ..options.clone() }
}

/// A move between two shards, counted once.
fn counted(org: OrganizationId) -> Vec<Change> {
    vec![Change::Count(OWNER), Change::PutUser(user(org, 1))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_made_once() {
    let (server, options) = server();
    let server = Arc::new(server);
    let place = Prefix::new(&impatient(&options), 8);
    let store = Arc::new(place.store().await);
    store.apply(two_organizations(1)).await.unwrap();
    for (round, org) in [(1, GLOBEX), (2, ACME), (3, ACME)] {
        let frozen = Arc::clone(&server);
        // Called when everything is read and nothing is written.
        let freeze: LogStep = Box::new(move |_| {
            frozen.freeze();
            Ok(Box::pin(async { Ok(()) }))
        });
        let applying = Arc::clone(&store);
        let apply = tokio::spawn(async move { applying.apply_logged(counted(org), freeze).await });
        // Once a read gave up, the commit was tried in vain as well.
        while store.user(UserRef::Id(UserId(1))).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!apply.is_finished());
        server.thaw();
        apply.await.unwrap().unwrap();
        assert_eq!(store.sequence(OWNER).await.unwrap(), round);
        let found = store.user(UserRef::Id(UserId(1))).await.unwrap().unwrap();
        assert_eq!(found.org, org);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_killed_server_and_nothing_is_made_twice() {
    let persistence = Persistence::Always;
    let server = Server::start(ServerOptions { persistence, ..ServerOptions::default() });
    let mut server = server.expect("redis-server starts");
    let options = RedisOptions::single(server.url());
    let place = Prefix::new(&options, 8);
    let store = Arc::new(place.store().await);
    store.apply(two_organizations(1)).await.unwrap();
    let mut made = 0;
    for round in 0..3 {
        let applying = Arc::clone(&store);
        let work = tokio::spawn(async move {
            let (mut answered, mut asked) = (0u64, 0u64);
            loop {
                asked += 1;
                let org = if asked % 2 == 0 { ACME } else { GLOBEX };
                match applying.apply(counted(org)).await {
                    Ok(_) => answered += 1,
                    Err(error) => return (answered, asked, error.is_away()),
                }
            }
        });
        while store.sequence(OWNER).await.unwrap() < made + 5 {
            tokio::task::yield_now().await;
        }
        server.kill();
        let (answered, asked, is_away) = work.await.unwrap();
        assert!(is_away, "an error that says to ask again");
        server.restart().unwrap();
        let other = place.impatient().await;
        let found = other.sequence(OWNER).await.unwrap();
        assert!(found >= made + answered, "round {round}: {found} < {made} + {answered}");
        assert!(found <= made + asked, "round {round}: {found} > {made} + {asked}");
        // Without a restart of its own the first one goes on.
        while store.apply(counted(ACME)).await.is_err() {
            tokio::task::yield_now().await;
        }
        made = store.sequence(OWNER).await.unwrap();
        assert!(made > found);
    }
    let both = [ACME, GLOBEX].map(|org| store.count_users(org));
    let [acme, globex] = both;
    assert_eq!((acme.await.unwrap(), globex.await.unwrap()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_or_scripts_refuses_whole_changes_or_none() {
    let (server, options) = server();
    let place = Prefix::new(&options, 8);
    let store = place.store().await;
    store.apply(two_organizations(1)).await.unwrap();
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    store.apply(counted(GLOBEX)).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = store.apply(counted(ACME)).await.unwrap_err();
    assert!(refused.is_away(), "{refused:?}");
    assert_eq!(store.sequence(OWNER).await.unwrap(), 1, "reads go on");
    let found = store.user(UserRef::Id(UserId(1))).await.unwrap().unwrap();
    assert_eq!(found.org, GLOBEX);
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    store.apply(counted(ACME)).await.unwrap();
    assert_eq!(store.sequence(OWNER).await.unwrap(), 2);
    assert!(store.records.wire.sweep().await.unwrap() == 0, "locks of what was refused stay");
    let forgotten = store.apply(vec![Change::Forget(Millis(1))]).await;
    assert!(forgotten.is_ok());
}
