//! Several nodes on the same records.

use std::collections::BTreeSet;

use super::*;
use crate::model::{Device, Millis, Platform, Secret, UserStatus};
use crate::store::conformance::samples::{
    ACME, GLOBEX, device, organization, two_organizations, user,
};
use crate::store::{Accounts, Expectation, SortBy, UserSearch};
use tokio::task::JoinSet;

async fn nodes(place: &Prefix) -> Vec<Arc<RedisStore>> {
    let mut nodes = Vec::new();
    for node in ["a", "b", "c"] {
        nodes.push(Arc::new(place.store(node).await));
    }
    nodes[0].apply(two_organizations(3)).await.unwrap();
    nodes
}

/// Has every node make every one of `changes` at once; answers how many were made.
async fn race(nodes: &[Arc<RedisStore>], changes: Vec<Vec<Change>>) -> usize {
    let mut callers = JoinSet::new();
    for (number, changes) in changes.into_iter().enumerate() {
        let node = Arc::clone(&nodes[number % nodes.len()]);
        callers.spawn(async move {
            match node.apply(changes).await {
                Ok(_) => true,
                Err(StoreError::Backend(error)) => panic!("{error}"),
                Err(_) => false,
            }
        });
    }
    callers.join_all().await.into_iter().filter(|made| *made).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_hold_holds_when_nodes_race() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;

    let seat =
        |id| vec![Change::Expect(Expectation::Seats(ACME, 4)), Change::PutUser(user(ACME, id))];
    assert_eq!(race(&nodes, (10..40).map(seat).collect()).await, 1, "one seat is left");
    assert_eq!(nodes[1].count_users(ACME).await.unwrap(), 4);

    let named = |id: i64| {
        let org = if id % 2 == 0 { ACME } else { GLOBEX };
        vec![Change::PutUser(User { email: String::from("one@example.com"), ..user(org, id) })]
    };
    assert_eq!(race(&nodes, (100..130).map(named).collect()).await, 1, "one gets the name");

    let claim = |number: i64| {
        let token = Secret::new("the same token");
        let platform = Platform::Apns;
        let number = u128::from(number.unsigned_abs());
        let of = i64::try_from(number % 3).unwrap() + 1;
        vec![Change::ClaimDevice(Device { token, platform, ..device(of, number) })]
    };
    assert_eq!(race(&nodes, (200..230).map(claim).collect()).await, 30);
    let mut holders = 0;
    for id in 1..=3 {
        holders += nodes[2].devices(UserId(id)).await.unwrap().len();
    }
    assert_eq!(holders, 1, "one device has the token");

    let use_up = |id: i32| {
        let renamed = Organization { name: format!("{id}"), ..organization(GLOBEX) };
        vec![Change::PutOrganization(renamed)]
    };
    assert_eq!(race(&nodes, (0..30).map(use_up).collect()).await, 30, "the last one wins");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_never_store_a_loop_of_parents_between_them() {
    let (_server, options) = server();
    for _ in 0..5 {
        let place = Prefix::new(&options, 8);
        let nodes = nodes(&place).await;
        let ids: Vec<OrganizationId> = (301..=304).map(OrganizationId).collect();
        let below = |id: OrganizationId, parent| {
            Change::PutOrganization(Organization { parent, ..organization(id) })
        };
        let [a, b, c, d] = [ids[0], ids[1], ids[2], ids[3]];
        nodes[0].apply(ids.iter().map(|id| below(*id, None)).collect()).await.unwrap();
        nodes[0].apply(vec![below(b, Some(c)), below(d, Some(a))]).await.unwrap();
        let made = race(&nodes, vec![vec![below(a, Some(b))], vec![below(c, Some(d))]]).await;
        assert_eq!(made, 1, "both together are a loop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_nodes_move_about_is_always_somewhere() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;
    let mut movers = JoinSet::new();
    for (number, node) in nodes.iter().enumerate() {
        let node = Arc::clone(node);
        movers.spawn(async move {
            for round in 0..15 {
                let org = if (number + round) % 2 == 0 { ACME } else { GLOBEX };
                node.apply(vec![Change::PutUser(user(org, 1))]).await.unwrap();
            }
        });
    }
    let mut looks = 0;
    while movers.try_join_next().is_none() {
        for which in [UserRef::Id(UserId(1)), UserRef::Email(user(ACME, 1).email)] {
            let found = nodes[looks % 3].user(which).await.unwrap();
            assert!(found.is_some(), "nowhere at look {looks}");
        }
        looks += 1;
    }
    movers.join_all().await;
    let found = nodes[0].user(UserRef::Id(UserId(1))).await.unwrap().unwrap();
    let other = if found.org == ACME { GLOBEX } else { ACME };
    let count = |org| nodes[1].count_users(org);
    let both = count(ACME).await.unwrap() + count(GLOBEX).await.unwrap();
    assert_eq!(both, 3);
    let gone = nodes[2].recipients(other, &Audience::Users(vec![UserId(1)]), None, 9).await;
    assert_eq!(gone.unwrap().unknown, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_learns_what_one_revoked_and_finds_what_one_changed() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;
    let later = Millis(SystemClock.now().0 + 60_000);
    nodes[0].apply(vec![Change::Revoke(String::from("session"), later)]).await.unwrap();
    assert!(nodes[0].is_revoked("session"), "its own node knows at once");
    while !nodes.iter().all(|node| node.is_revoked("session")) {
        tokio::task::yield_now().await;
    }
    assert!(place.store("late").await.is_revoked("session"));
    let text = String::from("renamed");
    let search = UserSearch { text, sort: SortBy::Id, descending: false, offset: 0, limit: 9 };
    assert_eq!(nodes[1].search_users(ACME, search.clone()).await.unwrap().total, 0);
    let status = UserStatus::Suspended;
    let renamed = User { name: String::from("Renamed"), status, ..user(ACME, 2) };
    nodes[0].apply(vec![Change::PutUser(renamed.clone())]).await.unwrap();
    let found = nodes[1].search_users(ACME, search).await.unwrap();
    assert_eq!((found.users, found.total), (vec![renamed], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_give_out_no_id_twice() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;
    let mut given = BTreeSet::new();
    for round in 0..3_000 {
        for node in &nodes {
            let id = node.next_user();
            assert!(given.insert(id), "{id} a second time, in round {round}");
        }
        // A block that runs out is followed by the next, which takes a moment.
        tokio::task::yield_now().await;
    }
    assert!(given.iter().all(|id| id.0 > 3), "ids of stored users");
}
