//! A new password: old tokens end, the user is told, and the trail shows it.

use serde_json::json;

use super::{NATIVE_READ, access, actions, home, is_invalid_grant, log_in, refresh, user_tokens};
use crate::support::client::Ask;
use crate::support::world::PASSWORD;

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
}
