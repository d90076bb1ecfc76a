//! The token endpoint's tokens: good everywhere, single use where said, and gone when they must be.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    ACME_CLIENT, NATIVE_READ, access, actions, grant, home, is_invalid_grant, log_in, refresh,
    statuses, token_ask, user_tokens,
};
use crate::support::client::Ask;
use crate::support::world::CLIENT_SECRET;

const CLIENT: &str = "grant_type=client_credentials";

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three segments");
    let json = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}

#[tokio::test]
async fn a_clients_token_is_good_in_every_dialect() {
    let home = home();
    let gateway = home.start().await;
    let tokens = grant(&gateway, CLIENT).await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [204, 201, 201, 200]);
    let claims = claims(access(&tokens));
    assert_eq!(claims["org"], 101);
    assert_eq!(claims["scope"], "org");
    assert_eq!(claims["sub"], ACME_CLIENT);
    assert!(claims["jti"].is_string() && claims["exp"].is_u64(), "{claims}");
}

#[tokio::test]
async fn a_users_token_is_the_user_and_its_log_in_is_noted() {
    let home = home();
    let gateway = home.start().await;
    let tokens = user_tokens(&gateway, "staff@example.com").await;
    let claims = claims(access(&tokens));
    assert_eq!((&claims["org"], &claims["scope"]), (&json!(101), &json!("user")));
    assert_eq!(claims["sub"], "103");
    let admin = home.token(101).await;
    assert_eq!(actions(&gateway, &admin).await, ["user.login"]);
    // A user has its role's rights only.
    let read = Ask::get(NATIVE_READ).bearer(access(&tokens));
    assert_eq!(gateway.ask(&read).await.status, 403);
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_second_use_ends_the_whole_log_in() {
    let home = home();
    let gateway = home.start().await;
    for form in
        [CLIENT, "grant_type=user_credentials&username=username@jigx.com&password=wombat-74-teapot"]
    {
        let other = grant(&gateway, form).await;
        let first = grant(&gateway, form).await;
        let second = refresh(&gateway, &first).await;
        assert_eq!(second.status, 200, "{}", second.text());
        let second = second.json();
        let third = refresh(&gateway, &second).await.json();
        for tokens in [&first, &second, &third] {
            let read = Ask::get(NATIVE_READ).bearer(access(tokens));
            assert_eq!(gateway.ask(&read).await.status, 200, "good until then");
        }
        assert!(is_invalid_grant(&refresh(&gateway, &first).await), "used before");
        for tokens in [&first, &second, &third] {
            let read = Ask::get(NATIVE_READ).bearer(access(tokens));
            assert_eq!(gateway.ask(&read).await.status, 401, "the family is gone");
            assert!(is_invalid_grant(&refresh(&gateway, tokens).await));
        }
        let read = Ask::get(NATIVE_READ).bearer(access(&other));
        assert_eq!(gateway.ask(&read).await.status, 200, "another log-in goes on");
    }
}

#[tokio::test]
async fn of_many_uses_at_once_at_most_one_gets_tokens() {
    let home = home();
    let gateway = home.start().await;
    let tokens = grant(&gateway, CLIENT).await;
    let replies = join_all((0..8).map(|_| refresh(&gateway, &tokens))).await;
    let good = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(good, 1, "{:?}", replies.iter().map(|r| r.status).collect::<Vec<_>>());
    for reply in replies.iter().filter(|reply| reply.status == 200) {
        let read = Ask::get(NATIVE_READ).bearer(access(&reply.json()));
        assert_eq!(gateway.ask(&read).await.status, 401, "the winner is cut off, too");
    }
}

#[tokio::test]
async fn a_refresh_token_belongs_to_its_client_and_survives_kill_9() {
    let home = home();
    let gateway = home.start().await;
    let tokens = grant(&gateway, CLIENT).await;
    let used = grant(&gateway, CLIENT).await;
    assert_eq!(refresh(&gateway, &used).await.status, 200);
    let token = tokens["refresh_token"].as_str().expect("a refresh token");
    let form = format!("grant_type=refresh_token&refresh_token={token}");
    for client in ["oa2-client-id_branch", "oa2-client-id_rival"] {
        assert!(is_invalid_grant(&gateway.ask(&token_ask(client, &form)).await), "{client}");
    }
    gateway.kill();
    let gateway = home.start().await;
    assert_eq!(refresh(&gateway, &tokens).await.status, 200, "not used up by others");
    assert!(is_invalid_grant(&refresh(&gateway, &used).await), "a use is not forgotten");
}

#[tokio::test]
async fn a_narrowed_token_has_that_right_only() {
    let home = home();
    let gateway = home.start().await;
    let tokens = grant(&gateway, &format!("{CLIENT}&scope=notification.send")).await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [204, 201, 201, 403]);
    assert!(tokens["refresh_token"].is_null());
    let viewer = gateway.ask(&token_ask("oa2-client-id_viewer", CLIENT)).await.json();
    assert_eq!(statuses(&gateway, access(&viewer)).await, [403, 403, 403, 403]);
    let token = viewer["refresh_token"].as_str().expect("a refresh token");
    let form = format!("grant_type=refresh_token&refresh_token={token}");
    let next = gateway.ask(&token_ask("oa2-client-id_viewer", &form)).await.json();
    assert_eq!(statuses(&gateway, access(&next)).await, [403, 403, 403, 403], "never more");
}

#[tokio::test]
async fn a_client_that_guesses_waits_and_others_do_not() {
    let home = home();
    let gateway = home.start().await;
    for client in [ACME_CLIENT, "nobody-at-all"] {
        let guess = |secret: String| {
            let pair = format!("{client}:{secret}");
            let basic = base64::engine::general_purpose::STANDARD.encode(pair);
            Ask::post(format!("/oauth2/token?{CLIENT}"))
                .header("authorization", &format!("Basic {basic}"))
        };
        let mut statuses = HashMap::<u16, usize>::new();
        for number in 0..20 {
            let reply = gateway.ask(&guess(format!("guess-{number}"))).await;
            *statuses.entry(reply.status).or_default() += 1;
        }
        assert_eq!(statuses, HashMap::from([(400, 5), (429, 15)]), "{client}");
        let right = gateway.ask(&guess(CLIENT_SECRET.to_owned())).await;
        assert_eq!(right.status, 429, "a right guess does not count, either");
        let wait: u64 = right.header("retry-after").expect("seconds").parse().expect("a number");
        assert!((1..=61).contains(&wait), "{wait}");
        assert_eq!(right.json()["error"], "temporarily_unavailable");
    }
    let other = gateway.ask(&token_ask("oa2-client-id_branch", CLIENT)).await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn a_flood_of_log_ins_is_refused_and_others_are_served() {
    let home = home();
    let gateway = home.start().await;
    let names: Vec<_> = (0..120).map(|number| format!("user{number}@example.com")).collect();
    let asks = names.iter().map(|name| log_in(&gateway, name, "wrong-wrong-wrong"));
    let token = home.token(101).await;
    let (replies, meanwhile) = tokio::join!(join_all(asks), statuses(&gateway, &token));
    assert_eq!(meanwhile, [204, 201, 201, 200]);
    let refused = replies.iter().filter(|reply| reply.status == 429).count();
    assert!((1..replies.len()).contains(&refused), "{refused} of {}", replies.len());
    for reply in &replies {
        match reply.status {
            429 => assert!(reply.header("retry-after").is_some()),
            _ => assert!(is_invalid_grant(reply), "{}", reply.text()),
        }
    }
}

#[tokio::test]
async fn a_refresh_says_for_whom_as_its_grant_did() {
    let home = home();
    let gateway = home.start().await;
    let user = "grant_type=user_credentials&username=username@jigx.com&password=wombat-74-teapot";
    for (form, own, other) in [(CLIENT, "org", "user"), (user, "user", "org")] {
        let tokens = grant(&gateway, form).await;
        let token = tokens["refresh_token"].as_str().expect("a refresh token");
        let with = |scope: &str| {
            let form = format!("grant_type=refresh_token&refresh_token={token}&scope={scope}");
            token_ask(ACME_CLIENT, &form)
        };
        let wider = gateway.ask(&with(other)).await;
        assert_eq!((wider.status, &wider.json()["error"]), (400, &json!("invalid_request")));
        let next = gateway.ask(&with(own)).await;
        assert_eq!(next.status, 200, "not used up: {}", next.text());
        assert!(next.json()["refresh_token"].is_string(), "it was not narrowed");
        let token = next.json()["refresh_token"].as_str().expect("text").to_owned();
        let form =
            format!("grant_type=refresh_token&refresh_token={token}&scope={own}%20user.view");
        let narrowed = gateway.ask(&token_ask(ACME_CLIENT, &form)).await;
        assert_eq!(narrowed.status, 200, "{}", narrowed.text());
        assert!(narrowed.json()["refresh_token"].is_null());
    }
}

#[tokio::test]
async fn tokens_count_as_requests_of_the_organization_once_the_client_is_proven() {
    let home = home().set("limits.per_org=1/m");
    let gateway = home.start().await;
    for _ in 0..3 {
        let guess = format!("/oauth2/token?{CLIENT}&client_id={ACME_CLIENT}&client_secret=wrong");
        assert_eq!(
            gateway.ask(&Ask::post(guess)).await.status,
            400,
            "costs the organization nothing"
        );
    }
    grant(&gateway, CLIENT).await;
    let refused = gateway.ask(&token_ask(ACME_CLIENT, CLIENT)).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let other = gateway.ask(&token_ask("oa2-client-id_rival", CLIENT)).await;
    assert_eq!(other.status, 200, "others have their own");
}
