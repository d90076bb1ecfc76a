//! New members of an organization: with a password, invited, or neither; roles and shut doors.

use serde_json::{Value, json};

use super::World;
use crate::support::client::{Ask, Reply};

const ORG: &str = "/v2.0/tool/organizations/101";

impl World {
    async fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let mut ask = Ask::new(method, format!("{ORG}{path}")).bearer(token);
        if let Some(body) = body {
            ask = ask.json(body.to_string());
        }
        self.gateway.ask(&ask).await
    }

    /// Makes a member with this role; answers a token of it.
    async fn member(&self, name: &str, role: &str) -> (String, String) {
        let email = format!("{name}@example.com");
        let body = json!({
            "email": email, "name": name, "firstName": "F", "lastName": "L", "userRole": role,
            "password": "kV7#pLq2-new",
        });
        let reply = self.ask_as(&self.token, "POST", "/members", Some(body)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let made = reply.json();
        assert_eq!((&made["email"], &made["userRole"]), (&json!(email), &json!(role)));
        let uuid = made["userId"].as_str().expect("an uuid").to_owned();
        // Ids are given out in order, so the newest member has the highest one.
        for number in (202..216).rev() {
            let token = self.home.user_token(101, number).await;
            let path = format!("/members/{uuid}/notifications");
            let own = self.ask_as(&token, "GET", &path, None).await;
            if own.status != 401 {
                return (uuid, token);
            }
        }
        unreachable!("no token is {name}'s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_open_what_the_contract_says_and_nothing_else() {
    let world = World::new(|_, _| {}, &[]).await;
    let send = || Some(json!({ "content": { "text": "t" }, "scope": "ORG" }));
    let someone = |n: &str| {
        let email = format!("{n}@example.com");
        Some(json!({ "email": email, "name": "n", "firstName": "f", "lastName": "l" }))
    };
    for (role, sends, invites) in [
        ("OWNER", 201, 201),
        ("ADMIN", 201, 201),
        ("MAKER", 201, 403),
        ("USER", 403, 403),
        ("DENY", 403, 403),
    ] {
        let (uuid, token) = world.member(&role.to_lowercase(), role).await;
        let ask = async |method: &str, path: &str, body: Option<Value>| {
            world.ask_as(&token, method, path, body).await.status
        };
        assert_eq!(ask("POST", "/notifications", send()).await, sends, "{role}");
        let reads = if sends == 201 { 200 } else { 403 };
        assert_eq!(ask("GET", "/notifications", None).await, reads, "{role}");
        assert_eq!(ask("GET", "/members/101/notifications", None).await, reads, "{role}");
        let own = if role == "DENY" { 403 } else { 200 };
        assert_eq!(ask("GET", &format!("/members/{uuid}/notifications"), None).await, own);
        let new = someone(&format!("by-{role}"));
        assert_eq!(ask("POST", "/members", new).await, invites, "{role}");
        let up = Some(json!({ "userRole": "OWNER" }));
        let solution = format!("/solutions/{}/members/102", crate::support::world::SOLUTION);
        let gives = if role == "OWNER" { 200 } else { 403 };
        assert_eq!(ask("PUT", &solution, up).await, gives, "{role}");
        let down = Some(json!({ "userRole": "USER" }));
        assert_eq!(world.ask_as(&world.token, "PUT", &solution, down).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_one_member() {
    let world = World::new(|_, _| {}, &[]).await;
    let body = json!({
        "email": "new@example.com", "name": "New", "firstName": "N", "lastName": "W",
        "invite": { "language": "uk" },
    });
    let ask = || {
        let ask = Ask::post(format!("{ORG}/members")).bearer(&world.token);
        ask.json(body.to_string()).key("member-1")
    };
    let (first, second) = (world.gateway.ask(&ask()).await, world.gateway.ask(&ask()).await);
    assert_eq!((first.status, second.status), (201, 201), "{}", first.text());
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    let again = world.ask_as(&world.token, "POST", "/members", Some(body)).await;
    assert_eq!(again.status, 409);
    let metrics = world.gateway.accepted().await;
    assert_eq!(metrics, 1, "one invitation");
}
