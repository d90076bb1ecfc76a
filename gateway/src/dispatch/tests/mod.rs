//! The dispatcher on a real journal and store, with providers and rules that do as told.

use super::*;
use crate::BoxFuture;
use crate::clock::TestClock;
use crate::journal::disk::{DiskJournal, DiskOptions};
use crate::journal::{Append, Books};
use crate::model::{
    Attempt, Audience, Content, Delivery, FinalState, Mail, Notification, NotificationId,
    OrganizationId, Outcome, Priority, Source, TimelineEvent, UserId,
};
use crate::rules::{NoRules, Plan, RouteItem, Routed, Step, Verdict};
use crate::store::disk::DiskStore;
use crate::store::{UserRef, directory};
use crate::work::Work;
use crate::work::decode_event;
use parking_lot::Mutex;
use serde_json::json;
use uuid::Uuid;

mod digest;
mod doubt;
mod fair;
mod inbox;
mod mail;
mod notices;
mod reach;
mod replay;

const START: Millis = Millis(1_700_000_000_000);
/// The event whose users also get entries in their inboxes.
const INBOXED: &str = "inboxed";
const ORG: OrganizationId = OrganizationId(101);

type Script = dyn Fn(&Delivery) -> Option<Outcome> + Send + Sync;

/// Answers each try as the script says; `None` never answers.
struct Scripted {
    name: ProviderName,
    script: Box<Script>,
    sent: Mutex<Vec<(String, u16)>>,
    bodies: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Provider for Scripted {
    fn name(&self) -> ProviderName {
        self.name
    }

    fn batch_max(&self) -> usize {
        16
    }

    fn in_flight_max(&self) -> usize {
        32
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (index, delivery) in batch.iter().enumerate() {
                self.sent.lock().push((delivery.target.key(), delivery.attempt));
                self.bodies.lock().push(delivery.notification.content.body.clone());
                let Some(outcome) = (self.script)(delivery) else {
                    std::future::pending::<()>().await;
                    return;
                };
                let attempt = Attempt {
                    outcome,
                    status: Some(200),
                    reason: None,
                    provider_id: None,
                    elapsed: Duration::from_millis(1),
                };
                report(index, attempt);
            }
        })
    }
}

type Answer = dyn Fn(&RouteItem) -> Verdict + Send + Sync;

struct Told(Box<Answer>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl RuleEngine for Told {
    fn route(&self, _now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        let answers =
            items.iter().map(|item| Routed { verdict: (self.0)(item), decisions: vec![] });
        let answers: Vec<_> = answers.collect();
        Box::pin(std::future::ready(answers))
    }
}

/// One dispatcher and everything around it.
struct World {
    dir: tempfile::TempDir,
    clock: TestClock,
    journal: Arc<DiskJournal>,
    store: Arc<DiskStore>,
    dispatcher: Option<Dispatcher>,
    push: Arc<Scripted>,
    webhook: Arc<Scripted>,
    slack: Option<Arc<Scripted>>,
    email: Option<Arc<Scripted>>,
    /// Deliveries that may wait in memory.
    queue: usize,
}

fn scripted(
    name: ProviderName,
    script: impl Fn(&Delivery) -> Option<Outcome> + Send + Sync + 'static,
) -> Arc<Scripted> {
    Arc::new(Scripted {
        name,
        script: Box::new(script),
        sent: Mutex::default(),
        bodies: Mutex::default(),
    })
}

impl World {
    async fn new(
        users: usize,
        rules: Arc<dyn RuleEngine>,
        push: impl Fn(&Delivery) -> Option<Outcome> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let clock = TestClock::at(START);
        let store = Arc::new(DiskStore::open(dir.path()).expect("store opens"));
        let users: Vec<_> = (1..=users)
            .map(|n| {
                json!({
                    "id": n, "organization": ORG.0, "role": 3, "status": "active",
                    "email": format!("user{n}@example.com"), "name": "A user",
                    "devices": [{"platform": "apns", "app": "main", "token": format!("{n:064x}")}],
                })
            })
            .collect();
        let document = json!({
            "organizations": [{"id": ORG.0, "name": "Acme"}],
            "users": users,
            "subscriptions": [{
                "organization": ORG.0, "type": "webhook", "url": "https://example.com/hook",
                "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "events": ["hooked"],
            }],
        });
        let document = document.to_string();
        let changes = directory::changes(document.as_bytes(), store.as_ref(), START).await;
        store.apply(changes.expect("valid document")).await.expect("directory applied");
        let journal = open(&dir, "journal", &clock);
        let push = scripted(ProviderName::Apns, push);
        let webhook = scripted(ProviderName::Webhook, |_| Some(Outcome::Delivered));
        let mut world = Self {
            dir,
            clock,
            journal,
            store,
            dispatcher: None,
            push,
            webhook,
            slack: None,
            email: None,
            queue: 64,
        };
        world.start(rules);
        world
    }

    fn start(&mut self, rules: Arc<dyn RuleEngine>) {
        let mut providers = Providers::default();
        let key = (ProviderName::Apns, String::from("main"));
        providers.push.insert(key, Arc::clone(&self.push) as Arc<dyn Provider>);
        providers.webhook = Some(Arc::clone(&self.webhook) as Arc<dyn Provider>);
        providers.slack = self.slack.clone().map(|slack| slack as Arc<dyn Provider>);
        providers.email = self.email.clone().map(|email| email as Arc<dyn Provider>);
        let settings = DispatchSettings {
            queue: self.queue,
            max_in_flight: 128,
            ..DispatchSettings::default()
        };
        self.dispatcher = Some(Dispatcher::start(DispatcherParts {
            journal: Arc::clone(&self.journal) as Arc<dyn Journal>,
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            rules,
            providers,
            clock: Arc::new(self.clock.clone()),
            settings,
        }));
    }

    /// Ends as a crash does, leaving everything claimed, and opens what is on disk.
    async fn crash(&mut self) {
        self.dispatcher.take().expect("running").drain(Duration::ZERO).await;
        self.journal.close().await;
        let home = self.dir.path();
        std::fs::create_dir(home.join("next")).expect("directory");
        for file in std::fs::read_dir(home.join("journal")).expect("listing") {
            let file = file.expect("entry");
            std::fs::copy(file.path(), home.join("next").join(file.file_name())).expect("copied");
        }
        self.journal = open(&self.dir, "next", &self.clock);
    }

    async fn accept(&self, audience: Audience, event: &str) -> NotificationId {
        self.accept_with(audience, event, None).await
    }

    async fn accept_with(
        &self,
        audience: Audience,
        event: &str,
        mail: Option<Mail>,
    ) -> NotificationId {
        let id = NotificationId(Uuid::now_v7());
        self.append(Notification { mail, ..self.notification(id, audience, event) }).await;
        id
    }

    fn notification(&self, id: NotificationId, audience: Audience, event: &str) -> Notification {
        let now = self.clock.now();
        Notification {
            id,
            org: ORG,
            source: Source::Native,
            event: event.to_owned(),
            audience,
            content: Content { title: String::from("t"), ..Content::default() },
            priority: Priority::default(),
            collapse_key: None,
            created_at: now,
            created_by: String::from("test"),
            start_at: now,
            expires_at: None,
            dialect_fields: String::new(),
            mail: None,
            inbox: event == INBOXED,
        }
    }

    async fn append(&self, notification: Notification) {
        let append = Append { entries: vec![Work::root(notification)], idempotency: Vec::new() };
        self.journal.append(ShardId(0), append).expect("accepted").await.expect("committed");
    }

    async fn events(&self, id: NotificationId) -> Vec<TimelineEvent> {
        let timeline = self.journal.timeline(ORG, id).await.expect("readable").expect("known");
        timeline.events.iter().map(|e| decode_event(e).expect("an event")).collect()
    }

    async fn finals(&self, id: NotificationId) -> Vec<FinalState> {
        self.events(id).await.iter().filter_map(|e| e.finished().map(|(_, s)| s)).collect()
    }

    /// Waits until `probe` holds, moving the clock by `step` in between.
    async fn until(&self, what: &str, step: Duration, probe: impl AsyncFn(&Self) -> bool) {
        for _ in 0..2_000 {
            if probe(self).await {
                return;
            }
            self.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never happened: {what}; books {:?}", self.books());
    }

    fn books(&self) -> Books {
        self.journal.books()
    }

    fn sent(&self) -> Vec<(String, u16)> {
        self.push.sent.lock().clone()
    }

    async fn settled(&self) {
        self.until("everything is settled", Duration::ZERO, async |w| {
            (0..w.journal.shards()).all(|s| w.journal.backlog(ShardId(s)).pending == 0)
        })
        .await;
    }
}

fn open(dir: &tempfile::TempDir, name: &str, clock: &TestClock) -> Arc<DiskJournal> {
    // The test clock leaps, so leases must outlast its leaps.
    let lease = Duration::from_hours(10_000);
    let options =
        DiskOptions { shards: 2, segment_bytes: 4 << 20, lease, ..DiskOptions::default() };
    let path = dir.path().join(name);
    Arc::new(DiskJournal::open(&path, options, Arc::new(clock.clone())).expect("journal opens"))
}

fn retry() -> Outcome {
    Outcome::Retry { after: None, cause: "status" }
}

fn users(ids: &[i64]) -> Audience {
    Audience::Users(ids.iter().copied().map(UserId).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_interested_subscriptions_each_get_it_once() {
    let world = World::new(2, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    let id = world.accept(users(&[1, 2, 99]), "hooked").await;
    world.settled().await;
    world.until("timeline", Duration::ZERO, async |w| w.finals(id).await.len() == 3).await;
    assert_eq!(world.finals(id).await, [FinalState::Delivered; 3]);
    assert_eq!(world.sent().len(), 2);
    assert_eq!(world.webhook.sent.lock().len(), 1);
    let expanded = world.events(id).await.into_iter().find_map(|event| match event {
        TimelineEvent::Expanded { deliveries, unknown_recipients, .. } => {
            Some((deliveries, unknown_recipients))
        }
        _ => None,
    });
    assert_eq!(expanded, Some((3, 1)));
    assert_eq!(world.books().finals, [3, 0, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_try_is_repeated_from_the_journal_with_the_same_id() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let world = World::new(1, Arc::new(NoRules), move |delivery| {
        log.lock().push(delivery.id);
        Some(if delivery.attempt < 3 { retry() } else { Outcome::Delivered })
    })
    .await;
    let id = world.accept(users(&[1]), "x").await;
    world
        .until("delivered", Duration::from_secs(2), async |w| !w.finals(id).await.is_empty())
        .await;
    assert_eq!(world.finals(id).await, [FinalState::Delivered]);
    let tries: Vec<_> = world.sent().into_iter().map(|(_, attempt)| attempt).collect();
    assert_eq!(tries, [1, 2, 3]);
    let mut ids = seen.lock().clone();
    ids.dedup();
    assert_eq!(ids.len(), 1, "every repeat carries the same delivery id");
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gone_device_is_removed_and_not_asked_again() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(Outcome::Gone { cause: "gone" })).await;
    let id = world.accept(users(&[1]), "x").await;
    world.settled().await;
    world.until("rejected", Duration::ZERO, async |w| w.finals(id).await.len() == 1).await;
    assert_eq!(world.finals(id).await, [FinalState::Rejected]);
    let user = world.store.user(UserRef::Id(UserId(1))).await.expect("readable");
    assert!(user.is_some(), "the user stays");
    let again = world.accept(users(&[1]), "x").await;
    world.settled().await;
    world.until("expanded", Duration::ZERO, async |w| !w.events(again).await.is_empty()).await;
    assert!(world.finals(again).await.is_empty());
    assert_eq!(world.sent().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_never_succeeds_ends_as_a_dead_letter() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(retry())).await;
    let id = world.accept(users(&[1]), "x").await;
    world.until("dead", Duration::from_mins(2), async |w| !w.finals(id).await.is_empty()).await;
    assert_eq!(world.finals(id).await, [FinalState::Dead]);
    assert_eq!(world.sent().len(), 8);
    let dead = world.journal.dead_letters(10).await.expect("readable");
    assert_eq!(dead.len(), 1);
    let copy = Work::decode(&dead[0].copy).expect("a copy that can be sent again");
    assert_eq!(copy.notification().id, id);
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_its_ttl_expires_unsent() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(retry())).await;
    let id = world.accept(users(&[1]), "x").await;
    world.until("expired", Duration::from_hours(5), async |w| !w.finals(id).await.is_empty()).await;
    assert_eq!(world.finals(id).await, [FinalState::Expired]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_hung_provider_goes_back_to_the_journal_and_stops_nobody_else() {
    let world = World::new(60, Arc::new(NoRules), |_| None).await;
    for user in 1..=60 {
        world.accept(users(&[user]), "x").await;
    }
    let hooked = world.accept(Audience::Subscriptions, "hooked").await;
    world
        .until("the webhook is delivered", Duration::from_millis(50), async |w| {
            w.finals(hooked).await.len() == 1
        })
        .await;
    let in_flight = world.dispatcher.as_ref().expect("running").in_flight();
    assert!(in_flight <= 48, "the lane has what its provider takes: {in_flight}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_suppress_and_hold() {
    let rules = Told(Box::new(|item: &RouteItem| match item.recipient.id.as_str() {
        "1" => Verdict::Drop { rule: String::from("r"), code: String::from("off") },
        "2" if item.notification.created_at == START => Verdict::HoldUntil(START.plus(60_000)),
        _ => Verdict::Deliver(Plan::all_targets(item.recipient.targets.len())),
    }));
    // Held once: the second question comes after the hold.
    let held = Arc::new(Mutex::new(false));
    let once = Arc::clone(&held);
    let rules = Told(Box::new(move |item: &RouteItem| {
        let verdict = (rules.0)(item);
        let is_hold = matches!(verdict, Verdict::HoldUntil(_));
        if is_hold && std::mem::replace(&mut *once.lock(), true) {
            return Verdict::Deliver(Plan::all_targets(1));
        }
        verdict
    }));
    let world = World::new(3, Arc::new(rules), |_| Some(Outcome::Delivered)).await;
    let id = world.accept(users(&[1, 2, 3]), "x").await;
    world.until("two finals", Duration::ZERO, async |w| w.finals(id).await.len() == 2).await;
    assert_eq!(world.sent().len(), 1, "one dropped, one held");
    world
        .until("the third", Duration::from_secs(10), async |w| w.finals(id).await.len() == 3)
        .await;
    assert_eq!(world.books().finals, [2, 0, 0, 1, 0, 0]);
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_steps_of_a_plan_go_out_only_if_the_first_did_not_arrive() {
    let rules = || {
        Told(Box::new(|item: &RouteItem| {
            let step = |target| Step { targets: vec![target], within_ms: 30_000 };
            let steps = (0..item.recipient.targets.len()).map(step).collect();
            let plan = Plan { steps, priority: None, collapse_key: None, expires_at: None };
            Verdict::Deliver(plan)
        }))
    };
    for (first_works, expected) in [(true, 1), (false, 2)] {
        let world = World::new(1, Arc::new(rules()), move |delivery| {
            let is_first = delivery.target.key().ends_with("-first");
            Some(if is_first || first_works {
                Outcome::Delivered
            } else {
                Outcome::Rejected { cause: "no" }
            })
        })
        .await;
        let document = json!({
            "users": [{
                "id": 1, "organization": ORG.0, "role": 3, "status": "active",
                "email": "user1@example.com", "name": "A user",
                "devices": [{"platform": "apns", "app": "main", "token": "ab".repeat(32)}],
            }],
        });
        let document = document.to_string();
        let changes = directory::changes(document.as_bytes(), world.store.as_ref(), START).await;
        world.store.apply(changes.expect("valid")).await.expect("second device");
        let id = world.accept(users(&[1]), "x").await;
        world
            .until("both settled", Duration::from_secs(5), async |w| w.finals(id).await.len() == 2)
            .await;
        assert_eq!(world.sent().len(), expected, "first works: {first_works}");
        world.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_audience_is_expanded_in_chunks_and_everybody_gets_it_once() {
    let world = World::new(600, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    world.accept(Audience::Organization, "x").await;
    // More than memory takes at once: the rest comes back from the journal a second later.
    let step = Duration::from_millis(50);
    world.until("all", step, async |w| w.books().finals.iter().sum::<u64>() == 600).await;
    let mut keys: Vec<_> = world.sent().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), world.sent().len()), (600, 600));
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_sends_again_only_what_had_no_result() {
    let answered = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&answered);
    let mut world = World::new(20, Arc::new(NoRules), move |delivery| match &delivery.target {
        Target::Apns { user, .. } if user.0 > 10 => None,
        target => {
            log.lock().push(target.key());
            Some(Outcome::Delivered)
        }
    })
    .await;
    let all: Vec<_> = (1..=20).collect();
    world.accept(users(&all), "x").await;
    world.until("ten are done", Duration::ZERO, async |w| w.books().finals[0] == 10).await;
    world.crash().await;
    world.push = scripted(ProviderName::Apns, |_| Some(Outcome::Delivered));
    world.start(Arc::new(NoRules));
    world.settled().await;
    let again = world.sent();
    assert_eq!(again.len(), 10, "{again:?}");
    assert!(again.iter().all(|(key, _)| !answered.lock().contains(key)), "{again:?}");
    assert_eq!(world.books().finals[0], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_panics_again_and_again_is_given_up_and_the_others_go_on() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let rules = Told(Box::new(move |item: &RouteItem| {
        if item.notification.event == "poison" {
            *count.lock() += 1;
            panic!("this rule engine is broken");
        }
        Verdict::Deliver(Plan::all_targets(item.recipient.targets.len()))
    }));
    let world = World::new(1, Arc::new(rules), |_| Some(Outcome::Delivered)).await;
    let poison = world.accept(users(&[1]), "poison").await;
    let good = world.accept(users(&[1]), "x").await;
    world.until("the good one", Duration::ZERO, async |w| w.finals(good).await.len() == 1).await;
    world.until("the poison", Duration::ZERO, async |w| w.finals(poison).await.len() == 1).await;
    assert_eq!(world.finals(poison).await, [FinalState::Dead]);
    assert!((3..=4).contains(&*asked.lock()), "three times alone, and once with others at most");
    let dead = world.journal.dead_letters(10).await.expect("readable");
    assert_eq!(Work::decode(&dead[0].copy).expect("its copy").notification().id, poison);
    world.settled().await;
}
