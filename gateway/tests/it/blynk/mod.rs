//! Blynk's operations together: races, reach in the tree, limits, and what changes cause.

mod effects;
mod limits;
mod races;
mod reach;

use bugler_loadtest::twins::TwinSet;
use serde_json::{Value, json};

use crate::support::client::{Ask, Reply};
use crate::support::gateway::{Gateway, Home};
use crate::support::world;

const ROOT: &str = "/api/v1/organization";
/// The password of every user made here.
const PASSWORD: &str = "mySecretPassword123";

/// A gateway and the token of organization 101.
struct World {
    twins: TwinSet,
    home: Home,
    gateway: Gateway,
    token: String,
}

impl World {
    async fn new(settings: &[&str]) -> Self {
        Self::with(|_, _| {}, settings).await
    }

    async fn with(change: impl FnOnce(&mut Value, &TwinSet), settings: &[&str]) -> Self {
        let (twins, home, gateway, token) = world::start(change, settings, "").await;
        Self { twins, home, gateway, token }
    }

    async fn get(&self, path: &str) -> Reply {
        self.gateway.ask(&Ask::get(format!("{ROOT}{path}")).bearer(&self.token)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.gateway.ask(&self.post_ask(path, body)).await
    }

    fn post_ask(&self, path: &str, body: &Value) -> Ask {
        Ask::post(format!("{ROOT}{path}")).bearer(&self.token).json(body.to_string())
    }

    async fn role(&self, user: i64, role: i32) -> Reply {
        let path = format!("{ROOT}/users/role?userId={user}&roleId={role}");
        self.gateway.ask(&Ask::new("PUT", path).bearer(&self.token)).await
    }

    /// Answers every request of `asks`, all sent at once.
    async fn all(&self, asks: impl IntoIterator<Item = Ask>) -> Vec<Reply> {
        let asks: Vec<_> = asks.into_iter().collect();
        let sent = asks.iter().map(|ask| self.gateway.ask(ask));
        futures_util::future::join_all(sent).await
    }

    /// A new user of an organization; its id.
    async fn user_in(&self, org: i64, role: i32, email: &str) -> i64 {
        let body = json!({ "email": email, "password": PASSWORD, "orgId": org, "roleId": role });
        let reply = self.post("/users/create-in-org", &body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        id_of(&reply)
    }

    /// A new organization directly below `parent`; its id.
    async fn organization(&self, parent: i64) -> i64 {
        let body = json!({ "name": "Acme Field", "type": "BRANCH", "parentId": parent });
        let reply = self.post("/create", &body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        id_of(&reply)
    }

    async fn total(&self, path: &str) -> u64 {
        let reply = self.get(path).await;
        reply.json()["totalElements"].as_u64().expect("a page has a total")
    }
}

fn id_of(reply: &Reply) -> i64 {
    reply.json()["id"].as_i64().expect("an id")
}

fn count(replies: &[Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().expect("a message").to_owned()
}
