//! Several nodes on the same records.

use std::collections::BTreeSet;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;

use super::*;
use crate::model::{Device, Millis, Platform, Secret, UserStatus};
use crate::store::conformance::samples::{
    ACME, GLOBEX, device, organization, two_organizations, user,
};
use crate::store::{Accounts, Expectation, SortBy, UserSearch};
use tokio::task::JoinSet;

async fn nodes(place: &Prefix) -> Vec<Arc<RedisStore>> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Arc::new(place.store().await));
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
    assert!(place.store().await.is_revoked("session"));
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
async fn an_imported_id_from_beyond_the_sequence_moves_no_sequence() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let store = place.store().await;
    store.apply(two_organizations(3)).await.unwrap();
    let before = store.next_user();
    for far in [(1 << 61) + 300, (1 << 53) + 1] {
        store.apply(vec![Change::PutUser(user(ACME, far))]).await.unwrap();
    }
    let organization = OrganizationId((1 << 30) + 300);
    let far = Organization { parent: None, ..self::organization(organization) };
    store.apply(vec![Change::PutOrganization(far)]).await.unwrap();
    let org = store.next_organization();
    assert!(org.0 < 1 << 20, "{org}");
    let mut given = BTreeSet::from([before]);
    for other in [&store, &place.store().await] {
        for _ in 0..600 {
            let id = other.next_user();
            assert!(id.0 > 3 && id.0 < 1 << 20 && given.insert(id), "{id}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_the_sequence_ids_are_drawn_and_none_is_of_an_import() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let store = place.store().await;
    store.apply(two_organizations(0)).await.unwrap();
    let last = OrganizationId((1 << 30) - 3);
    store.apply(vec![Change::PutOrganization(organization(last))]).await.unwrap();
    let given: BTreeSet<_> = (0..50).map(|_| store.next_organization()).collect();
    assert_eq!(given.len(), 50);
    assert!(given.iter().all(|id| *id > last), "{given:?}");
    assert!(place.store().await.next_organization() > last);
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

/// Polls `work` so often, and answers what came of it by then.
async fn poll_times<T>(work: &mut (impl Future<Output = T> + Unpin), times: usize) -> Option<T> {
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        work.poll_unpin(context).map(Some)
    })
    .await
}

fn search_for(text: &str) -> UserSearch {
    let text = String::from(text);
    UserSearch { text, sort: SortBy::Id, descending: false, offset: 0, limit: 9 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_changed_before_one_that_was_given_up() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;
    nodes[1].search_users(ACME, search_for("")).await.unwrap();
    for polls in 1.. {
        let name = format!("Renamed {polls}.");
        let renamed = User { name: name.clone(), ..user(ACME, 2) };
        nodes[0].apply(vec![Change::PutUser(renamed)]).await.unwrap();
        let mut given_up = nodes[1].search_users(ACME, search_for(&name));
        let is_done = poll_times(&mut given_up, polls).await.is_some();
        drop(given_up);
        let found = nodes[1].search_users(ACME, search_for(&name)).await.unwrap();
        assert_eq!(found.total, 1, "after {polls} polls");
        if is_done {
            assert!(polls > 3, "it was never given up in the middle");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_moves_while_an_index_is_built_is_in_it() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let nodes = nodes(&place).await;
    let below = Organization { parent: Some(ACME), ..organization(GLOBEX) };
    nodes[0].apply(vec![Change::PutOrganization(below)]).await.unwrap();
    for polls in 1.. {
        let mut is_done = false;
        for (from, to) in [(ACME, GLOBEX), (GLOBEX, ACME)] {
            nodes[0].apply(vec![Change::PutUser(user(from, 2))]).await.unwrap();
            let fresh = place.store().await;
            let mut search = fresh.search_users(ACME, search_for(&user(ACME, 2).email));
            let early = poll_times(&mut search, polls).await;
            nodes[0].apply(vec![Change::PutUser(user(to, 2))]).await.unwrap();
            is_done |= early.is_some();
            let found = match early {
                Some(found) => found.unwrap(),
                None => search.await.unwrap(),
            };
            assert_eq!(found.total, 1, "after {polls} polls");
        }
        if is_done {
            assert!(polls > 4, "nobody moved in the middle");
            break;
        }
    }
}

#[tokio::test]
async fn an_organization_that_waits_takes_no_place_from_others() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let store = place.store().await;
    store.apply(two_organizations(1)).await.unwrap();
    let rename = |org| {
        vec![Change::PutOrganization(Organization {
            name: String::from("New"),
            ..organization(org)
        })]
    };
    // Nothing else runs on this thread until something is awaited: all of them wait.
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for _ in 0..400 {
        let mut apply = store.apply(rename(ACME));
        match apply.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => waiting.push(apply),
            Poll::Ready(answer) => {
                let error = answer.unwrap_err();
                assert!(error.is_away(), "an error that says to ask again: {error:?}");
                refused += 1;
            }
        }
    }
    assert_eq!((waiting.len(), refused), (256, 144));
    store.apply(rename(GLOBEX)).await.unwrap();
    for apply in waiting {
        apply.await.unwrap();
    }
    store.apply(rename(ACME)).await.unwrap();
}
