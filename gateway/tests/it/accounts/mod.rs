//! One identity on every dialect: tokens, keys, clients, passwords, and what ends them.

mod command;
mod credentials;
mod passwords;
mod tokens;

use serde_json::{Value, json};

use crate::support::client::{Ask, Reply};
use crate::support::gateway::{Gateway, Home};
use crate::support::world::{self, CLIENT_SECRET, PASSWORD};

const ACME_CLIENT: &str = "oa2-client-id_acme";
/// A read of every dialect that any right caller of organization 101 may make.
const NATIVE_READ: &str = "/bugler/v1/organizations/101/audit";

fn home() -> Home {
    Home::new(world::directory()).set("store.segment=1MiB")
}

/// A token request of a client with right credentials.
fn token_ask(client: &str, form: &str) -> Ask {
    let body = format!("{form}&client_id={client}&client_secret={CLIENT_SECRET}");
    let mut ask =
        Ask::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
    ask.body = body.into();
    ask
}

/// The tokens of a grant that must work.
async fn grant(gateway: &Gateway, form: &str) -> Value {
    let reply = gateway.ask(&token_ask(ACME_CLIENT, form)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn log_in(gateway: &Gateway, email: &str, password: &str) -> Reply {
    let form = format!("grant_type=user_credentials&username={email}&password={password}");
    gateway.ask(&token_ask(ACME_CLIENT, &form)).await
}

/// The tokens of a user with the password everybody has at first.
async fn user_tokens(gateway: &Gateway, email: &str) -> Value {
    let reply = log_in(gateway, email, PASSWORD).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn access(tokens: &Value) -> &str {
    tokens["access_token"].as_str().expect("an access token")
}

async fn refresh(gateway: &Gateway, tokens: &Value) -> Reply {
    let token = tokens["refresh_token"].as_str().expect("a refresh token");
    let form = format!("grant_type=refresh_token&refresh_token={token}");
    gateway.ask(&token_ask(ACME_CLIENT, &form)).await
}

fn is_invalid_grant(reply: &Reply) -> bool {
    reply.status == 400 && reply.json()["error"] == "invalid_grant"
}

/// The status a token gets in each dialect, for something every organization's token may do.
async fn statuses(gateway: &Gateway, token: &str) -> Vec<u16> {
    let push = json!({ "userId": 102, "title": "t" }).to_string();
    let jigx = json!({ "content": { "text": "t" }, "scope": "ORG" }).to_string();
    let native = json!({ "to": { "users": [102] }, "title": "t" }).to_string();
    let asks = [
        Ask::post("/api/v1/organization/users/send-push-notification").json(push),
        Ask::post("/v2.0/tool/organizations/101/notifications").json(jigx),
        Ask::post("/bugler/v1/notifications").json(native),
        Ask::get(NATIVE_READ),
    ];
    let mut statuses = Vec::new();
    for ask in asks {
        statuses.push(gateway.ask(&ask.bearer(token)).await.status);
    }
    statuses
}

/// What organization 101's audit trail says was done, oldest first.
async fn actions(gateway: &Gateway, token: &str) -> Vec<String> {
    let reply = gateway.ask(&Ask::get(NATIVE_READ).bearer(token)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let records = reply.json()["records"].as_array().cloned().unwrap_or_default();
    records.iter().map(|record| record["action"].as_str().unwrap_or_default().to_owned()).collect()
}
