//! Each operation asks for its own right, and for no other.

use serde_json::{Value, json};

use crate::support::client::Ask;
use crate::support::gateway::Home;
use crate::support::world;

const PREFIX: &str = "base.organization.notification.";
const RIGHTS: [&str; 5] = ["list", "get", "create", "update", "delete"];

/// User 301 has the first right and no other, and so on.
fn directory() -> Value {
    let mut directory = world::directory();
    let numbered = || (1..).zip(RIGHTS);
    directory["roles"] = numbered()
        .map(|(number, right)| {
            json!({ "id": 10 + number, "organization": 101, "name": right,
                    "permissions": [format!("{PREFIX}{right}")] })
        })
        .collect();
    let users = directory["users"].as_array_mut().expect("users");
    users.extend(numbered().map(|(number, right)| {
        json!({ "id": 300 + number, "organization": 101, "role": 10 + number, "status": "active",
                "email": format!("{right}@example.com"), "name": right })
    }));
    world::add_known_hooks(&mut directory);
    directory
}

#[tokio::test]
async fn each_operation_asks_for_its_own_right() {
    let home = Home::new(directory()).set("store.segment=1MiB");
    let gateway = home.start().await;
    let all = "/v1/organizations/acme/notifications";
    let known = format!("{all}/{}", world::WEBHOOK);
    let absent = format!("{all}/0123456789abcdef01234567");
    let body = json!({ "type": "webhook", "events": {},
                       "setup": { "webhook": { "url": "https://hooks.example.com/x" } } });
    for (user, right) in (301..).zip(RIGHTS) {
        let token = home.user_token(101, user).await;
        for (method, path, asks_for, status) in [
            ("GET", all, "list", 200),
            ("GET", known.as_str(), "get", 200),
            ("POST", all, "create", 200),
            ("PUT", absent.as_str(), "update", 404),
            ("DELETE", absent.as_str(), "delete", 404),
        ] {
            let ask = Ask::new(method, path).bearer(&token);
            let ask = if method == "GET" { ask } else { ask.json(body.to_string()) };
            let reply = gateway.ask(&ask).await;
            let expected = if asks_for == right { status } else { 403 };
            assert_eq!(reply.status, expected, "{right}: {method} {path}: {}", reply.text());
        }
    }
}
