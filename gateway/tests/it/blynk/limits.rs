//! What plans limit: requests, invitations, levels and organizations, and answers to be repeated.

use serde_json::{Value, json};

use super::{PASSWORD, World, message};
use crate::support::client::Ask;

fn invitation(number: usize) -> Value {
    json!({ "email": format!("i{number}@example.com"), "name": "John", "roleId": 3 })
}

#[tokio::test]
async fn requests_beyond_the_organizations_number_wait() {
    let world = World::new(&["limits.blynk_requests=10/h"]).await;
    for _ in 0..9 {
        assert_eq!(world.get("/profile").await.status, 200);
    }
    assert_eq!(world.get("/user?userId=x").await.status, 400, "refusals count, too");
    let refused = world.get("/profile").await;
    assert_eq!((refused.status, message(&refused).as_str()), (429, "Too many requests"));
    let wait: u32 = refused.header("retry-after").and_then(|s| s.parse().ok()).expect("seconds");
    assert!((300..=433).contains(&wait), "{wait}");
    // Before rights and bodies are looked at.
    assert_eq!(world.post("/users/create", &json!([])).await.status, 429);
    let member = world.home.user_token(101, 102).await;
    let ask = Ask::get("/api/v1/organization/users").bearer(&member);
    assert_eq!(world.gateway.ask(&ask).await.status, 429, "users share their organization's");
    let rival = world.home.token(201).await;
    let ask = Ask::get("/api/v1/organization/profile").bearer(&rival);
    assert_eq!(world.gateway.ask(&ask).await.status, 200, "others have their own");
    let nobody = Ask::get("/api/v1/organization/profile");
    assert_eq!(world.gateway.ask(&nobody).await.status, 401, "authentication comes first");
}

#[tokio::test]
async fn a_day_has_so_many_invitations() {
    let world = World::new(&["limits.invites_per_day=3"]).await;
    let used = json!({ "email": "driver@example.com", "name": "John", "roleId": 3 });
    assert_eq!(world.post("/users/invite", &used).await.status, 400);
    for number in 0..2 {
        assert_eq!(world.post("/users/invite", &invitation(number)).await.status, 201);
    }
    let register = json!({ "email": "r@example.com" });
    assert_eq!(world.post("/users/register", &register).await.status, 201);
    let refused = world.post("/users/invite", &invitation(3)).await;
    assert_eq!((refused.status, message(&refused).as_str()), (429, "Too many requests"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(world.total("/search/users?query=i3@").await, 0, "nothing is stored");
}

#[tokio::test]
async fn the_tree_has_so_many_levels_and_branches() {
    let world = World::new(&["limits.sub_organizations=3"]).await;
    let two = world.organization(101).await;
    let three = world.organization(two).await;
    let four = world.organization(three).await;
    let body = json!({ "name": "Too deep", "type": "BRANCH", "parentId": four });
    let refused = world.post("/create", &body).await;
    assert_eq!(refused.status, 400);
    assert_eq!(message(&refused), "The organization hierarchy has at most 4 levels.");
    // The second of the tests' directory and the first here are two.
    world.organization(101).await;
    let body = json!({ "name": "Too many", "type": "BRANCH" });
    let refused = world.post("/create", &body).await;
    assert_eq!(refused.status, 400);
    let sentence = "The organization has reached its limit of sub-organizations.";
    assert_eq!(message(&refused), sentence);
    // Personal organizations are no branches.
    let body = json!({ "email": "p@example.com", "password": PASSWORD });
    assert_eq!(world.post("/users/create", &body).await.status, 201);
}

#[tokio::test]
async fn personal_organizations_do_not_go_on_below_each_other() {
    let world = World::new(&[]).await;
    let mut token = world.token.clone();
    let mut made = 0;
    for number in 0..5 {
        let body = json!({ "email": format!("p{number}@example.com"), "password": PASSWORD });
        let ask = Ask::post("/api/v1/organization/users/create").bearer(&token);
        let reply = world.gateway.ask(&ask.json(body.to_string())).await;
        if reply.status != 201 {
            assert_eq!(message(&reply), "The organization hierarchy has at most 4 levels.");
            break;
        }
        made += 1;
        let org = reply.json()["orgId"].as_i64().and_then(|org| i32::try_from(org).ok());
        token = world.home.token(org.expect("an int32")).await;
    }
    assert_eq!(made, 2);
}

#[tokio::test]
async fn every_post_answers_its_idempotency_key_again() {
    let world = World::new(&[]).await;
    let person = |email: &str| json!({ "email": email, "password": PASSWORD });
    let mut in_org = person("b@example.com");
    in_org["orgId"] = 101.into();
    in_org["roleId"] = 3.into();
    for (path, body) in [
        ("/users/create", person("a@example.com")),
        ("/users/create-in-org", in_org),
        ("/users/invite", invitation(1)),
        ("/users/register", json!({ "email": "c@example.com" })),
        ("/users/transfer", json!({ "userId": 103, "targetOrgId": 102, "roleId": 2 })),
        ("/users/fcm-token/register", json!({ "userId": 102, "token": "t" })),
        ("/create", json!({ "name": "Acme Field", "type": "BRANCH" })),
    ] {
        let ask = world.post_ask(path, &body).key("key-1");
        let first = world.gateway.ask(&ask).await;
        assert!((200..300).contains(&first.status), "{path}: {}", first.text());
        assert_eq!(first.header("idempotent-replayed"), None, "{path}");
        let again = world.gateway.ask(&ask).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{path}");
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{path}");
        assert_eq!(again.header("bugler-invitation-token"), None, "{path}: shown once");
        let mut other = body.clone();
        other["ignored"] = 1.into();
        let reused = world.gateway.ask(&world.post_ask(path, &other).key("key-1")).await;
        assert_eq!(reused.status, 422, "{path}");
    }
}
