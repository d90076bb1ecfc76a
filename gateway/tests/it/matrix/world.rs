//! Two organizations apart and one below the first, every kind of caller, and objects of both.

use super::rules::{Dialect, Thing};
use crate::support::client::{Ask, Reply};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Home};
use crate::support::world::{ACME, BRANCH, RIVAL, SOLUTION};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const MEMBER: &str = "182c2ba7-7a44-4f1c-a7a2-7f0d5e1f64b1";
const RIVAL_MEMBER: &str = "5e0f2f0a-6c0e-4d0f-9d51-0b8f4f3c2a77";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    Nobody,
    Garbage,
    Organization,
    /// The token of an organization below.
    Branch,
    /// The token of an organization apart.
    Rival,
    Admin,
    Staff,
    User,
    Suspended,
}

impl Caller {
    pub(super) const ALL: [Self; 9] = [
        Self::Nobody,
        Self::Garbage,
        Self::Organization,
        Self::Branch,
        Self::Rival,
        Self::Admin,
        Self::Staff,
        Self::User,
        Self::Suspended,
    ];
}

/// Whose thing an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Own,
    Foreign,
    Absent,
}

pub(super) struct World {
    pub(super) gateway: Gateway,
    tokens: HashMap<Caller, String>,
    things: Mutex<HashMap<(Thing, Side), String>>,
    count: AtomicU64,
    // The gateway's files go with it.
    _home: Home,
}

impl World {
    pub(super) async fn start() -> Self {
        let home = Home::new(directory());
        let gateway = home.start().await;
        let tokens = HashMap::from([
            (Caller::Garbage, String::from("garbage")),
            (Caller::Organization, home.token(101).await),
            (Caller::Branch, home.token(102).await),
            (Caller::Rival, home.token(201).await),
            (Caller::Admin, home.user_token(101, 101).await),
            (Caller::Staff, home.user_token(101, 103).await),
            (Caller::User, home.user_token(101, 102).await),
            (Caller::Suspended, home.user_token(101, 104).await),
        ]);
        let (things, count) = (Mutex::default(), AtomicU64::new(0));
        Self { gateway, tokens, things, count, _home: home }
    }

    pub(super) fn token(&self, caller: Caller) -> Option<&str> {
        self.tokens.get(&caller).map(String::as_str)
    }

    pub(super) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// An organization's id in a dialect's form.
    pub(super) fn organization(dialect: Dialect, side: Side) -> &'static str {
        match (dialect, side) {
            (Dialect::Jigx, Side::Own) => ACME,
            (Dialect::Jigx, Side::Foreign) => RIVAL,
            (Dialect::Jigx, Side::Absent) => "00000000-0000-4000-8000-000000000000",
            (Dialect::Applivery, Side::Own) => "acme",
            (Dialect::Applivery, Side::Foreign) => "rival",
            (Dialect::Applivery, Side::Absent) => "nobody",
            (Dialect::Zitadel, Side::Own) => "69629023906488334",
            (Dialect::Zitadel, Side::Foreign) => "79629023906488334",
            (Dialect::Zitadel, Side::Absent) => "99629023906488334",
            (Dialect::Blynk | Dialect::Native, Side::Own) => "101",
            (Dialect::Blynk | Dialect::Native, Side::Foreign) => "201",
            (Dialect::Blynk | Dialect::Native, Side::Absent) => "999",
        }
    }

    /// A member in Jigx's form.
    pub(super) fn member(side: Side) -> &'static str {
        match side {
            Side::Own => MEMBER,
            Side::Foreign => RIVAL_MEMBER,
            Side::Absent => "00000000-0000-4000-8000-000000000001",
        }
    }

    /// A user by number. A fresh one may be changed without harm to later requests.
    pub(super) async fn user(&self, side: Side, fresh: bool) -> String {
        match side {
            Side::Own if fresh => {
                let body = json!({
                    "email": format!("fresh{}@example.com", self.number()), "orgId": 101, "roleId": 3,
                    "password": "correct horse battery staple",
                });
                let path = "/api/v1/organization/users/create-in-org";
                self.made(Caller::Organization, path, &body).await["id"].to_string()
            }
            Side::Own => String::from("105"),
            Side::Foreign => String::from("202"),
            Side::Absent => String::from("909090"),
        }
    }

    /// The id of a thing; the same one each time unless it is to be fresh.
    pub(super) async fn thing(&self, thing: Thing, side: Side, fresh: bool) -> String {
        let known = self.things.lock().get(&(thing, side)).cloned();
        if let Some(known) = known.filter(|_| !fresh) {
            return known;
        }
        let id = match side {
            Side::Absent => absent(thing).to_owned(),
            Side::Own => self.make(thing, Caller::Organization, side).await,
            Side::Foreign => self.make(thing, Caller::Rival, side).await,
        };
        if !fresh {
            self.things.lock().insert((thing, side), id.clone());
        }
        id
    }

    async fn make(&self, thing: Thing, caller: Caller, side: Side) -> String {
        let of = |dialect| Self::organization(dialect, side);
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        let native = format!("/bugler/v1/organizations/{}", of(Dialect::Native));
        match thing {
            Thing::Inbox | Thing::SolutionMember => String::new(),
            Thing::JigxNotification => {
                let path = format!("/tool/organizations/{}/notifications", of(Dialect::Jigx));
                let body = json!({ "scope": "ORG", "content": { "text": "t" } });
                text(&self.made(caller, &path, &body).await["notificationId"])
            }
            Thing::InboxEntry => self.inbox_entry(caller, side).await,
            Thing::Subscription => {
                let path = format!("/v1/organizations/{}/notifications", of(Dialect::Applivery));
                let body = json!({ "type": "webhook", "events": {},
                    "setup": { "webhook": { "url": "https://hooks.example.com/x" } } });
                text(&self.made(caller, &path, &body).await["data"]["id"])
            }
            Thing::Client => {
                let (path, body) = (format!("{native}/clients"), json!({ "name": "c" }));
                text(&self.made(caller, &path, &body).await["id"])
            }
            Thing::Key => {
                let (path, body) = (format!("{native}/keys"), json!({ "name": "k" }));
                text(&self.made(caller, &path, &body).await["id"])
            }
            Thing::Timeline => {
                let body = json!({ "to": { "subscriptions": true }, "title": "t" });
                text(&self.made(caller, "/bugler/v1/notifications", &body).await["id"])
            }
        }
    }

    async fn inbox_entry(&self, caller: Caller, side: Side) -> String {
        let organization = Self::organization(Dialect::Jigx, side);
        let email = if side == Side::Own { "member@example.com" } else { "rival2@example.com" };
        let path = format!("/tool/organizations/{organization}/notifications");
        let body = json!({ "scope": "USR", "emails": [email], "content": { "text": "t" } });
        let id = self.made(caller, &path, &body).await["notificationId"].clone();
        let id = id.as_str().expect("an id");
        let member = Self::member(side);
        let entry =
            format!("/tool/organizations/{organization}/members/{member}/notifications/{id}");
        let ask = Ask::get(entry).bearer(self.token(caller).expect("a token"));
        eventually("the notification is in the inbox and final", async || {
            let reply = self.gateway.ask(&ask).await;
            let is_final = reply.status == 200 && reply.json()["state"] != "QUEUED";
            is_final.then_some(())
        })
        .await;
        id.to_owned()
    }

    async fn made(&self, caller: Caller, path: &str, body: &Value) -> Value {
        let ask = Ask::post(path).bearer(self.token(caller).expect("a token"));
        let reply: Reply = self.gateway.ask(&ask.json(body.to_string())).await;
        assert!((200..300).contains(&reply.status), "{path}: {} {}", reply.status, reply.text());
        reply.json()
    }

    /// How many lines the audit trails have, and how many notifications were accepted.
    pub(super) async fn left_behind(&self) -> u64 {
        let mut count = self.gateway.accepted().await;
        for (caller, org) in
            [(Caller::Organization, 101), (Caller::Branch, 102), (Caller::Rival, 201)]
        {
            let path = format!("/bugler/v1/organizations/{org}/audit/verify");
            let ask = Ask::get(path).bearer(self.token(caller).expect("a token"));
            let reply = self.gateway.ask(&ask).await.json();
            assert_eq!((&reply["valid"], &reply["next"]), (&json!(true), &Value::Null), "{reply}");
            count += reply["records"].as_u64().expect("a count");
        }
        count
    }
}

fn absent(thing: Thing) -> &'static str {
    match thing {
        Thing::Subscription | Thing::Key => "0123456789abcdef01234567",
        Thing::Client => "oa2-client-id_00000000000000000000000000000000",
        Thing::JigxNotification
        | Thing::Inbox
        | Thing::InboxEntry
        | Thing::SolutionMember
        | Thing::Timeline => "00000000-0000-4000-8000-000000000002",
    }
}

fn directory() -> Value {
    let user = |id: i64, org: i32, role: i32, email: &str, uuid: Option<&str>| {
        let mut user = json!({
            "id": id, "organization": org, "role": role, "status": "active", "email": email,
            "name": format!("User {id}"), "memberships": [{ "solution": SOLUTION, "groups": [] }],
        });
        if let Some(uuid) = uuid {
            user["uuid"] = uuid.into();
        }
        user
    };
    json!({
        "organizations": [
            { "id": 101, "name": "Acme Corp", "slug": "acme", "uuid": ACME,
              "numeric": "69629023906488334" },
            { "id": 102, "name": "Acme Branch", "parent": 101, "uuid": BRANCH },
            { "id": 201, "name": "Rival", "slug": "rival", "uuid": RIVAL,
              "numeric": "79629023906488334" },
        ],
        "users": [
            user(101, 101, 1, "admin@example.com", None),
            user(102, 101, 3, "user@example.com", None),
            user(103, 101, 2, "staff@example.com", None),
            { "id": 104, "organization": 101, "role": 1, "status": "suspended",
              "email": "gone@example.com", "name": "Suspended Admin" },
            user(105, 101, 3, "member@example.com", Some(MEMBER)),
            user(201, 201, 1, "rival@example.com", None),
            user(202, 201, 3, "rival2@example.com", Some(RIVAL_MEMBER)),
        ],
    })
}
