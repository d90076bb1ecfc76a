//! Many at once: one wins, and no limit is exceeded.

use serde_json::json;

use super::{PASSWORD, World, count, id_of, message};
use crate::support::client::Ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_creations_of_one_address_make_one_user() {
    let world = World::new(&[]).await;
    let body = json!({ "email": "Unique@example.com", "password": PASSWORD });
    let ask = world.post_ask("/users/create", &body);
    let replies = world.all(std::iter::repeat_n(ask, 50)).await;
    assert_eq!(count(&replies, 201), 1, "{replies:#?}");
    // Passwords are hashed a few at a time, and a queue for that has an end.
    assert_eq!(count(&replies, 200) + count(&replies, 429), 49, "{replies:#?}");
    let made = replies.iter().find(|reply| reply.status == 201).map(id_of);
    assert!(replies.iter().filter(|reply| reply.status == 200).all(|r| Some(id_of(r)) == made));
    assert_eq!(world.total("/search/users?query=unique@example.com").await, 1);
    let again = world.post("/users/create", &body).await;
    assert_eq!((again.status, Some(id_of(&again))), (200, made));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_users_share_one_place_for_their_organizations() {
    let world = World::new(&["limits.invites_per_day=0"]).await;
    let asks = (0..30).map(|number| {
        world.post_ask("/users/register", &json!({ "email": format!("p{number}@example.com") }))
    });
    let replies = world.all(asks.collect::<Vec<_>>()).await;
    assert_eq!(count(&replies, 201), 30, "{replies:#?}");
    let found = world.get("/search?query=clients%20organizations").await.json();
    assert_eq!(found["totalElements"], 1, "{found:#}");
    let place = &found["content"][0];
    assert_eq!(place["parentOrganizationId"], 101);
    let below = format!("/sub-organizations?orgId={}", place["id"]);
    assert_eq!(world.total(&below).await, 30);
    let mut orgs: Vec<_> = replies.iter().map(|r| r.json()["orgId"].as_i64()).collect();
    orgs.sort_unstable();
    orgs.dedup();
    assert_eq!(orgs.len(), 30, "everybody is at home");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namesakes_made_at_once_all_get_a_name_of_their_own() {
    let world = World::new(&[]).await;
    let body = json!({ "name": "Acme Field", "type": "BRANCH" });
    let ask = world.post_ask("/create", &body);
    let replies = world.all(std::iter::repeat_n(ask, 40)).await;
    assert_eq!(count(&replies, 201), 40, "{replies:#?}");
    assert_eq!(world.total("/search?query=acme%20field").await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_seat_is_taken_once() {
    let world = World::new(&["limits.users_per_org=26"]).await;
    let (from, to) = (world.organization(101).await, world.organization(101).await);
    let mut users = Vec::new();
    for number in 0..20 {
        users.push(world.user_in(from, 3, &format!("mover{number}@example.com")).await);
    }
    for number in 0..25 {
        world.user_in(to, 3, &format!("there{number}@example.com")).await;
    }
    let asks = users.iter().map(|user| {
        let body = json!({ "userId": user, "targetOrgId": to, "roleId": 3 });
        world.post_ask("/users/transfer", &body)
    });
    let replies = world.all(asks.collect::<Vec<_>>()).await;
    assert_eq!(count(&replies, 200), 1, "{replies:#?}");
    assert_eq!(count(&replies, 400), 19, "{replies:#?}");
    let full = replies.iter().find(|reply| reply.status == 400).map(message);
    let sentence = "The destination organization must not exceed its user limit";
    assert_eq!(full.as_deref(), Some(sentence));
    let total = async |org: i64| {
        let token = world.home.token(i32::try_from(org).expect("an int32")).await;
        let ask = Ask::get("/api/v1/organization/users").bearer(&token);
        world.gateway.ask(&ask).await.json()["totalElements"].as_u64()
    };
    assert_eq!((total(from).await, total(to).await), (Some(19), Some(26)));
    let body =
        json!({ "email": "late@example.com", "password": PASSWORD, "orgId": to, "roleId": 3 });
    let refused = world.post("/users/create-in-org", &body).await;
    assert_eq!((refused.status, message(&refused).contains("user limit")), (400, true));
    let body = json!({ "email": "late@example.com", "name": "Late", "orgId": to, "roleId": 3 });
    assert_eq!(world.post("/users/invite", &body).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_administrators_cannot_both_go() {
    let world = World::new(&[]).await;
    for round in 0..5 {
        let org = world.organization(101).await;
        let mut pair = Vec::new();
        for name in ["a", "b"] {
            pair.push(world.user_in(org, 1, &format!("{name}{round}@example.com")).await);
        }
        let asks = pair.iter().map(|user| {
            let path = format!("/api/v1/organization/users/role?userId={user}&roleId=3");
            Ask::new("PUT", path).bearer(&world.token)
        });
        let replies = world.all(asks.collect::<Vec<_>>()).await;
        assert_eq!((count(&replies, 200), count(&replies, 403)), (1, 1), "{replies:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_as_many_devices_as_it_may_and_registers_them_again() {
    let world = World::new(&["limits.per_org=100000/s", "limits.blynk_requests=100000/s"]).await;
    let ask = |number: usize| {
        let body = json!({ "userId": 102, "token": format!("token-{number}") });
        world.post_ask("/users/fcm-token/register", &body)
    };
    let replies = world.all((0..110).map(ask).collect::<Vec<_>>()).await;
    assert_eq!((count(&replies, 204), count(&replies, 400)), (100, 10), "{replies:#?}");
    let full = replies.iter().find(|reply| reply.status == 400).map(message);
    assert_eq!(full.as_deref(), Some("A user has at most 100 devices."));
    let there = replies.iter().position(|reply| reply.status == 204).expect("one is registered");
    assert_eq!(world.gateway.ask(&ask(there)).await.status, 204, "it is no other device");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_seat_is_taken_once_by_members_too() {
    let world = World::new(&["limits.users_per_org=10"]).await;
    let before = world.total("/users").await;
    let asks = (0..12).map(|number| {
        let body = json!({ "email": format!("m{number}@example.com"), "name": "N",
                           "firstName": "F", "lastName": "L" });
        let ask = Ask::post("/tool/organizations/101/members").bearer(&world.token);
        ask.json(body.to_string())
    });
    let replies = world.all(asks.collect::<Vec<_>>()).await;
    let free = usize::try_from(10 - before).expect("few");
    assert_eq!((count(&replies, 201), count(&replies, 400)), (free, 12 - free), "{replies:#?}");
    assert_eq!(world.total("/users").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_membership_that_come_at_once_lose_nothing() {
    let world = World::new(&[]).await;
    let solution = "22222222-2222-4333-8444-555555555555";
    let path = format!("/tool/organizations/101/solutions/{solution}/members/102");
    let put = |number: usize| {
        let body = json!({ "userRole": "USER", "groups": [format!("g{number}")] });
        Ask::new("PUT", &path).bearer(&world.token).json(body.to_string())
    };
    let patch = || {
        let body = json!({ "userRole": "MAKER" });
        Ask::new("PATCH", &path).bearer(&world.token).json(body.to_string())
    };
    for round in 0..20 {
        assert_eq!(world.gateway.ask(&put(1_000 + round)).await.status, 200);
        let replies = world.all([put(round), patch()]).await;
        assert_eq!(count(&replies, 200), 2, "{replies:#?}");
        // Whichever came last, the groups are those that were put.
        let members = format!("/tool/organizations/101/solutions/{solution}/members");
        let listed = world.gateway.ask(&Ask::get(members).bearer(&world.token)).await.json();
        assert_eq!(listed["items"][0]["groups"], json!([format!("g{round}")]), "{listed}");
    }
}
