//! A new password: old tokens end, the user is told, and the trail shows it.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{NATIVE_READ, access, actions, home, is_invalid_grant, log_in, refresh, user_tokens};
use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home};
use crate::support::world::{self, PASSWORD};

const NEW: &str = "kV7-pLq2-new";

fn set(user: i64, token: &str, current: Option<&str>) -> Ask {
    let mut body = json!({ "password": NEW });
    if let Some(current) = current {
        body["currentPassword"] = current.into();
    }
    Ask::post(format!("/bugler/v1/users/{user}/password")).bearer(token).json(body.to_string())
}

#[tokio::test]
async fn a_new_password_ends_every_token_from_before() {
    let home = home();
    let gateway = home.start().await;
    let tokens = user_tokens(&gateway, "username@jigx.com").await;
    let others = user_tokens(&gateway, "username@jigx.com").await;
    let reply = gateway.ask(&set(101, access(&tokens), Some(PASSWORD))).await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    for tokens in [&tokens, &others] {
        let read = Ask::get(NATIVE_READ).bearer(access(tokens));
        assert_eq!(gateway.ask(&read).await.status, 401);
        assert!(is_invalid_grant(&refresh(&gateway, tokens).await));
    }
    assert!(is_invalid_grant(&log_in(&gateway, "username@jigx.com", PASSWORD).await));
    assert_eq!(log_in(&gateway, "username@jigx.com", NEW).await.status, 200);
    gateway.kill();
    let gateway = home.start().await;
    assert_eq!(log_in(&gateway, "username@jigx.com", NEW).await.status, 200);
}

#[tokio::test]
async fn the_user_is_told_once_and_the_trail_is_a_chain() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let ask = set(103, &admin, None).key("one-change");
    for _ in 0..3 {
        assert_eq!(gateway.ask(&ask).await.status, 204);
    }
    assert_eq!(gateway.accepted().await, 1, "one change, one notification");
    assert_eq!(actions(&gateway, &admin).await, ["user.password"]);
    gateway.drained().await;
    let chain = gateway.ask(&Ask::get(format!("{NATIVE_READ}/verify")).bearer(&admin)).await;
    assert_eq!((&chain.json()["valid"], &chain.json()["records"]), (&json!(true), &json!(1)));
    let trail = gateway.ask(&Ask::get(NATIVE_READ).bearer(&admin)).await.json();
    let record = &trail["records"][0];
    assert_eq!(record["actor"], "organization:101");
    assert_eq!(record["object"], "user:103");
    assert_eq!(record["peer"], "127.0.0.1");
    assert_ne!(record["before"], record["after"]);
}

#[tokio::test]
async fn the_trail_is_read_in_pages() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    for _ in 0..5 {
        assert_eq!(gateway.ask(&set(103, &admin, None)).await.status, 204);
    }
    let mut after = json!(0);
    let mut versions = Vec::new();
    loop {
        let ask = Ask::get(format!("{NATIVE_READ}?limit=2&after={after}")).bearer(&admin);
        let page = gateway.ask(&ask).await.json();
        let records = page["records"].as_array().expect("records");
        versions.extend(records.iter().map(|record| record["version"].as_u64().expect("a number")));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(versions.len(), 5);
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let mut verified = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let path = format!("{NATIVE_READ}/verify?limit=2&after={after}");
        let chain = gateway.ask(&Ask::get(path).bearer(&admin)).await.json();
        assert_eq!(chain["valid"], true, "{chain}");
        verified.push(chain["records"].as_u64().expect("a number"));
        after = chain["next"].clone();
    }
    assert_eq!(verified, [2, 2, 1]);
    let nowhere = format!("{NATIVE_READ}/verify?after={}", versions[4] + 1);
    assert_eq!(gateway.ask(&Ask::get(nowhere).bearer(&admin)).await.status, 400);
}

/// Users 106 and 107 with roles of their own: 4 edits users, 5 has a right besides that only one
/// dialect knows.
fn editors() -> Home {
    let mut directory = world::directory();
    let role = |id: i32, permissions: &[&str]| {
        json!({ "id": id, "organization": 101, "name": format!("Role {id}"),
                "permissions": permissions })
    };
    directory["roles"] =
        json!([role(4, &["ORG_EDIT_USERS"]), role(5, &["user.edit", "ROLE_EDIT"])]);
    let users = directory["users"].as_array_mut().expect("users");
    users.extend([(106, 4), (107, 5)].map(|(id, role)| {
        json!({ "id": id, "organization": 101, "role": role, "status": "active",
                "email": format!("u{id}@example.com"), "name": format!("User {id}") })
    }));
    Home::new(directory).set("store.segment=1MiB")
}

/// The status that each dialect with such an operation gives to setting a user's password.
async fn sets(gateway: &Gateway, token: &str, user: i64) -> [bool; 2] {
    let native = gateway.ask(&set(user, token, None)).await;
    let body = json!({ "password": NEW }).to_string();
    let path = format!("/management/v1/users/{user}/password");
    let zitadel = gateway.ask(&Ask::post(path).bearer(token).json(body)).await;
    assert!([204, 403].contains(&native.status), "{user}: {}", native.text());
    assert!([200, 403].contains(&zitadel.status), "{user}: {}", zitadel.text());
    [native.status == 204, zitadel.status == 200]
}

#[tokio::test]
async fn nobody_sets_the_password_of_who_may_more() {
    let home = editors();
    let gateway = home.start().await;
    let limited = |user: Option<i64>| {
        home.signer().changed(|_, claims| {
            claims["perms"] = json!(["user.edit"]);
            if let Some(user) = user {
                claims["sub"] = user.to_string().into();
                claims["scope"] = "user".into();
            }
        })
    };
    let owner = json!({ "email": "owner@example.com", "name": "O", "firstName": "O",
                        "lastName": "O", "userRole": "OWNER", "password": PASSWORD });
    let path = "/tool/organizations/101/members";
    let all = home.token(101).await;
    let made = gateway.ask(&Ask::post(path).bearer(&all).json(owner.to_string())).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let search = "/api/v1/organization/search/users?query=owner@";
    let found = gateway.ask(&Ask::get(search).bearer(&all)).await.json();
    let owner = found["content"][0]["id"].as_i64().expect("the owner is found");
    let role_4 = home.user_token(101, 106).await;
    let admin = home.user_token(101, 101).await;
    for (token, own, may) in [
        // Nobody above a right to edit users: not Staff, nor who is an owner in one dialect only.
        (limited(None), 0, &[102, 106][..]),
        (limited(Some(101)), 101, &[102, 106]),
        (role_4, 106, &[102]),
        (admin, 101, &[102, 103, 106, 107, owner]),
    ] {
        for user in [102, 103, 106, 107, owner].into_iter().filter(|user| *user != own) {
            let expected = [may.contains(&user); 2];
            assert_eq!(sets(&gateway, &token, user).await, expected, "{may:?} and user {user}");
        }
    }
}

/// What would be stored of a body if anybody could try passwords against it as fast as they like.
fn quick_hash(key: &str, body: &str) -> Vec<u8> {
    let width = (key.len() as u64).to_be_bytes();
    let hash = Sha256::new().chain_update(width).chain_update(key).chain_update(body).finalize();
    hash.iter().take(16).copied().collect()
}

fn journal(home: &Home) -> Vec<u8> {
    let segments = std::fs::read_dir(home.store().join("journal")).expect("the journal is there");
    let files = segments.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    files.flat_map(|path| std::fs::read(path).expect("a file can be read")).collect()
}

#[tokio::test]
async fn what_is_stored_of_a_repeatable_request_cannot_be_tried_quickly() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let with = |path: &str, body: serde_json::Value| (path.to_owned(), body.to_string());
    let blynk = "/api/v1/organization/users";
    let person = json!({ "email": "a@example.com", "password": NEW });
    let placed = json!({ "email": "b@example.com", "password": NEW, "orgId": 101, "roleId": 3 });
    let member =
        |email: &str| json!({ "email": email, "name": "N", "firstName": "F", "lastName": "L" });
    let mut known = member("c@example.com");
    known["password"] = NEW.into();
    let requests = [
        with("/bugler/v1/users/102/password", json!({ "password": NEW })),
        with("/management/v1/users/102/password", json!({ "password": NEW })),
        with(&format!("{blynk}/create"), person),
        with(&format!("{blynk}/create-in-org"), placed),
        with("/tool/organizations/101/members", known),
        // Without a password there is nothing to guess; that these are found shows the search works.
        with("/tool/organizations/101/members", member("d@example.com")),
        with("/bugler/v1/organizations/101/keys", json!({ "name": "k" })),
    ];
    for (number, (path, body)) in requests.iter().enumerate() {
        let ask = Ask::post(path).bearer(&admin).json(body.clone()).key(&format!("key-{number}"));
        let first = gateway.ask(&ask).await;
        assert!((200..300).contains(&first.status), "{path}: {}", first.text());
        let again = gateway.ask(&ask).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{path}");
    }
    drop(gateway);
    let journal = journal(&home);
    for (number, (path, body)) in requests.iter().enumerate() {
        let hash = quick_hash(&format!("key-{number}"), body);
        let is_found = journal.windows(hash.len()).any(|window| window == hash);
        assert_eq!(is_found, !body.contains(NEW), "{path}");
    }
}
