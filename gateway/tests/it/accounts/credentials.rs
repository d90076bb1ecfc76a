//! Opaque keys and clients: shown once, good everywhere, gone at once.

use serde_json::{Value, json};

use super::{access, actions, grant, home, is_invalid_grant, refresh, statuses};
use crate::support::client::Ask;
use crate::support::gateway::Gateway;

const KEYS: &str = "/bugler/v1/organizations/101/keys";
const CLIENTS: &str = "/bugler/v1/organizations/101/clients";

async fn make(gateway: &Gateway, token: &str, path: &str, body: Value) -> Value {
    let reply = gateway.ask(&Ask::post(path).bearer(token).json(body.to_string())).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_key_is_good_in_every_dialect_until_it_is_removed() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let made = make(&gateway, &admin, KEYS, json!({ "name": "deploy" })).await;
    let key = made["key"].as_str().expect("the key");
    assert_eq!(key.len(), 47, "bgl_ and 256 bits");
    assert_eq!(statuses(&gateway, key).await, [204, 201, 201, 200]);
    // BEARER, as one dialect writes it.
    let ask = Ask::get(KEYS).header("authorization", &format!("BEARER {key}"));
    let listed = gateway.ask(&ask).await;
    assert_eq!(listed.status, 200);
    assert!(!listed.text().contains(key), "a key is shown once");
    let one = format!("{KEYS}/{}", made["id"].as_str().expect("an id"));
    assert_eq!(gateway.ask(&Ask::get(&one).bearer(&admin)).await.json()["name"], "deploy");
    assert_eq!(gateway.ask(&Ask::new("DELETE", &one).bearer(&admin)).await.status, 204);
    assert_eq!(statuses(&gateway, key).await, [401; 4]);
    assert_eq!(gateway.ask(&Ask::new("DELETE", &one).bearer(&admin)).await.status, 404);
    let audited: Vec<_> = actions(&gateway, &admin).await;
    assert_eq!(audited, ["key.create", "key.remove"]);
}

#[tokio::test]
async fn keys_have_no_more_rights_than_they_were_given() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let body = json!({ "name": "sender", "permissions": ["notification.send"] });
    let limited = make(&gateway, &admin, KEYS, body).await;
    let limited = limited["key"].as_str().expect("the key");
    assert_eq!(statuses(&gateway, limited).await, [204, 201, 201, 403]);
    let body = json!({ "name": "hers", "user": 101 });
    let hers = make(&gateway, &admin, KEYS, body).await;
    let hers = hers["key"].as_str().expect("the key");
    // A user may not push in one dialect, and else has its role's rights.
    assert_eq!(statuses(&gateway, hers).await, [403, 201, 201, 200]);
    let more = Ask::post(KEYS).bearer(limited).json(json!({ "name": "more" }).to_string());
    assert_eq!(gateway.ask(&more).await.status, 403, "a limited key makes no other");
}

#[tokio::test]
async fn secrets_are_nowhere_on_disk_and_a_repeat_does_not_show_them() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let ask = |path: &str| {
        let body = json!({ "name": "deploy" }).to_string();
        Ask::post(path).bearer(&admin).key("once").json(body)
    };
    let mut secrets = Vec::new();
    for (path, name) in [(KEYS, "key"), (CLIENTS, "secret")] {
        let first = gateway.ask(&ask(path)).await;
        assert_eq!(first.status, 201, "{}", first.text());
        let again = gateway.ask(&ask(path)).await;
        assert_eq!(again.status, 201, "{}", again.text());
        assert_eq!(first.json()["id"], again.json()["id"], "made once");
        assert!(again.json()[name].is_null(), "the secret is not remembered");
        secrets.push(first.json()[name].as_str().expect("a secret").to_owned());
    }
    let tokens = grant(&gateway, "grant_type=client_credentials").await;
    secrets.push(tokens["refresh_token"].as_str().expect("a token").to_owned());
    let log = gateway.log().join("\n");
    drop(gateway);
    let mut files = vec![home.store()];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        read += 1;
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in {}", path.display());
        }
    }
    assert!(read > 2, "the journal and the records were read");
    assert!(secrets.iter().all(|secret| !log.contains(secret)), "a secret is in the log");
}

#[tokio::test]
async fn a_removed_client_takes_its_tokens_with_it() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let tokens = grant(&gateway, "grant_type=client_credentials").await;
    let user = super::user_tokens(&gateway, "username@jigx.com").await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [204, 201, 201, 200]);
    let one = format!("{CLIENTS}/{}", super::ACME_CLIENT);
    assert_eq!(gateway.ask(&Ask::new("DELETE", &one).bearer(&admin)).await.status, 204);
    assert_eq!(statuses(&gateway, access(&tokens)).await, [401; 4]);
    assert_eq!(statuses(&gateway, access(&user)).await, [401; 4]);
    let refused = refresh(&gateway, &tokens).await;
    assert!(!is_invalid_grant(&refused) && refused.json()["error"] == "invalid_client");
    gateway.kill();
    let gateway = home.start().await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [401; 4], "not forgotten by a restart");
}

#[tokio::test]
async fn a_new_client_gets_tokens_at_once() {
    let home = home();
    let gateway = home.start().await;
    let admin = home.token(101).await;
    let path = "/api/v1/organization/oauth/clients/create";
    let made = make(&gateway, &admin, path, json!({ "name": "shop" })).await;
    let (id, secret) = (made["id"].as_str().expect("id"), made["secret"].as_str().expect("secret"));
    assert!(id.starts_with("oa2-client-id_") && id.len() == 46, "{id}");
    let query = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    let reply = gateway.ask(&Ask::post(format!("/oauth2/token?{query}"))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(statuses(&gateway, access(&reply.json())).await, [204, 201, 201, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_made_at_once_as_many_are_as_there_may_be() {
    let home = home().set("limits.per_org=100000/s");
    let gateway = home.start().await;
    let admin = home.token(101).await;
    // Two clients of the directory's are there already.
    for (path, free) in [(KEYS, 100), (CLIENTS, 98)] {
        let ask = Ask::post(path).bearer(&admin).json(json!({ "name": "one of many" }).to_string());
        let sent = (0..free + 10).map(|_| gateway.ask(&ask));
        let replies = futures_util::future::join_all(sent).await;
        let count = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
        assert_eq!((count(201), count(409)), (free, 10), "{path}");
        let made = replies.iter().find(|reply| reply.status == 201).expect("one was made");
        assert!(made.header("bugler-durability").is_some(), "{path}");
        let refused = replies.iter().find(|reply| reply.status == 409).expect("one was refused");
        assert_eq!(refused.header("bugler-error"), Some("BGL-1411"), "{path}");
    }
}
