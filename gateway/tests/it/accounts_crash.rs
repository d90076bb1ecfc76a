//! `kill -9` while users are made and invited: who was answered is there, and was told of once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use bugler_loadtest::twins::{TwinName, TwinSet};
use serde_json::{Value, json};

use crate::support::client::{Ask, Protocol};
use crate::support::gateway::{Gateway, Home};
use crate::support::world::add_hook;
use crate::support::{eventually, world};

const ROOT: &str = "/api/v1/organization";

/// What a client was told of one request.
#[derive(Debug)]
struct Answered {
    user: Value,
    email: String,
}

struct Run {
    home: Home,
    twins: TwinSet,
    token: String,
    answered: Vec<Answered>,
    next: AtomicUsize,
}

impl Run {
    async fn new() -> Self {
        let twins = world::twins().await;
        let mut directory = world::directory();
        let url = format!("{}/hooks/accounts", twins.webhook_url());
        add_hook(&mut directory, "webhook", &url, &["user.created", "user.invited"]);
        let home = world::home(&twins, directory)
            .set("limits.users_per_org=0")
            .set("limits.invites_per_day=0");
        let token = home.token(101).await;
        Self { home, twins, token, answered: Vec::new(), next: AtomicUsize::new(0) }
    }

    /// Invites mostly, and makes users with a password now and then, which takes its time.
    fn ask(&self) -> (String, Ask) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let email = format!("person{number}@example.com");
        let (path, body) = match number % 8 {
            0 => {
                ("users/create-in-org", json!({ "password": "mySecretPassword123", "orgId": 101 }))
            }
            _ => ("users/invite", json!({ "name": "Person" })),
        };
        let mut body = body;
        body["email"] = email.clone().into();
        body["roleId"] = 3.into();
        let ask = Ask::post(format!("{ROOT}/{path}")).bearer(&self.token).json(body.to_string());
        (email, ask)
    }

    /// One client: asks until the gateway is gone.
    async fn client(&self, gateway: &Gateway, done: &AtomicUsize) -> Vec<Answered> {
        let mut answered = Vec::new();
        loop {
            let (email, ask) = self.ask();
            let Ok(reply) = ask.exchange(Protocol::Http1, gateway.api).await else {
                return answered;
            };
            match reply.status {
                201 => {
                    answered.push(Answered { user: reply.json(), email });
                    done.fetch_add(1, Ordering::Relaxed);
                }
                // Too many passwords at once.
                429 => {}
                status => unreachable!("{status} {}", reply.text()),
            }
        }
    }

    /// What the lines of the audit trail are about.
    async fn trail(&self, gateway: &Gateway) -> Vec<String> {
        let (mut objects, mut after) = (Vec::new(), json!(0));
        while !after.is_null() {
            let path = format!("/bugler/v1/organizations/101/audit?limit=1000&after={after}");
            let page = gateway.ask(&Ask::get(path).bearer(&self.token)).await.json();
            let records = page["records"].as_array().expect("records");
            let object = |record: &Value| record["object"].as_str().expect("an object").to_owned();
            objects.extend(records.iter().map(object));
            after = page["next"].clone();
        }
        objects
    }

    /// Kills a gateway once it answered `enough`, while all clients go on asking.
    async fn life(&mut self, enough: usize) {
        let gateway = self.home.start().await;
        let done = AtomicUsize::new(0);
        let this = &*self;
        let clients = futures_util::future::join_all((0..8).map(|_| this.client(&gateway, &done)));
        let killer = async {
            eventually("enough are answered", async || {
                (done.load(Ordering::Relaxed) >= enough).then_some(())
            })
            .await;
            gateway.signal("KILL");
        };
        let (answered, ()) = tokio::join!(clients, killer);
        self.answered.extend(answered.into_iter().flatten());
        drop(gateway);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_answered_exists_and_was_told_of_once() {
    let mut run = Run::new().await;
    for enough in [60, 200, 5, 120] {
        run.life(enough).await;
    }
    let gateway = run.home.start().await;
    assert!(run.answered.len() >= 385, "{}", run.answered.len());
    for Answered { user, email } in &run.answered {
        let path = format!("{ROOT}/user?userId={}", user["id"]);
        let reply = gateway.ask(&Ask::get(path).bearer(&run.token)).await;
        assert_eq!(reply.status, 200, "{user}");
        assert_eq!((&reply.json(), &reply.json()["email"]), (user, &json!(email)));
    }
    gateway.drained().await;
    // Every user there, answered or not, has one notification, and one for nobody else.
    let path = format!("{ROOT}/users?size=1000&page=");
    let mut made = BTreeSet::new();
    for page in 0..10 {
        let reply = gateway.ask(&Ask::get(format!("{path}{page}")).bearer(&run.token)).await.json();
        let content = reply["content"].as_array().expect("content").clone();
        let is_new =
            |user: &&Value| user["email"].as_str().is_some_and(|email| email.starts_with("person"));
        made.extend(content.iter().filter(is_new).filter_map(|user| user["id"].as_i64()));
    }
    let receipts = run.twins.receipts_since(Some(TwinName::Webhook), 0);
    let notified: BTreeSet<_> =
        receipts.iter().filter(|r| r.succeeded()).filter_map(|r| r.notification.clone()).collect();
    assert_eq!(notified.len(), made.len(), "one notification for each user");
    let deliveries: BTreeSet<_> = receipts.iter().map(|receipt| &receipt.key).collect();
    assert_eq!(deliveries.len(), notified.len(), "repeats carry the same id");
    let mails = run.twins.receipts_since(Some(TwinName::Smtp), 0);
    let mut told = BTreeMap::<_, BTreeSet<_>>::new();
    for mail in mails.iter().filter(|receipt| receipt.succeeded()) {
        told.entry(&mail.target).or_default().insert(&mail.key);
    }
    assert!(told.values().all(|ids| ids.len() == 1), "somebody was invited twice: {told:#?}");
    for Answered { user, email } in &run.answered {
        let is_pending = user["status"] == "Pending";
        assert_eq!(told.contains_key(email), is_pending, "{email}");
    }
    // And the trail names each of them once.
    let trail = run.trail(&gateway).await;
    let named: BTreeSet<_> = trail.iter().cloned().collect();
    assert_eq!(named.len(), trail.len(), "a change was made twice");
    assert_eq!(named, made.iter().map(|id| format!("user:{id}")).collect());
}
