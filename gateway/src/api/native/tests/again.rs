//! What ended is sent again: page by page, once for a key, to whom it still reaches.

use super::*;
use crate::journal::{Append, Resolution, Settlement, Unlimited};
use crate::model::{
    Audience, Content, DeliveryId, FinalState, Notification, NotificationId, Part, Priority,
    ProviderName, Source, TargetRef, TimelineEvent,
};
use crate::store::conformance::samples;
use crate::work::{Work, encode_event};
use std::collections::BTreeSet;
use uuid::Uuid;

/// More than one request sends again.
const MANY: usize = 1_005;

fn notification(now: Millis, audience: Audience) -> Notification {
    Notification {
        id: NotificationId(Uuid::now_v7()),
        org: ORG,
        source: Source::Native,
        event: String::from("e"),
        audience,
        content: Content::default(),
        priority: Priority::Normal,
        collapse_key: None,
        created_at: now,
        created_by: String::from("test"),
        start_at: now,
        expires_at: None,
        dialect_fields: String::new(),
        mail: None,
        inbox: false,
    }
}

fn hooks(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("webhook:{number:024x}")).collect()
}

impl World {
    /// A notification whose deliveries to `targets` all ended in `state`.
    async fn ended(
        &self,
        audience: Audience,
        targets: &[String],
        state: FinalState,
    ) -> NotificationId {
        let at = self.clock.now();
        let notification = notification(at, audience);
        let (id, root) = (notification.id, Work::root(notification.clone()));
        let append = Append { entries: vec![root], idempotency: Vec::new() };
        self.journal.append(self.shard, append).unwrap().await.unwrap();
        let claims = self.journal.claim(self.shard, 1, &Unlimited).await.unwrap();
        let expanded = TimelineEvent::Expanded {
            at,
            part: Part::Root,
            deliveries: u32::try_from(targets.len()).unwrap(),
            unknown_recipients: 0,
            no_device: 0,
            more: false,
        };
        let (mut events, mut resolved, mut dead) =
            (vec![encode_event(&expanded)], Vec::new(), Vec::new());
        for target in targets {
            let delivery = DeliveryId::derive(id, target);
            resolved.push((delivery, Resolution::Final(state)));
            let (target, cause) = (target.clone(), String::from("c"));
            events.push(encode_event(&TimelineEvent::Settled {
                at,
                delivery,
                target,
                state,
                cause,
            }));
            let subscription = ObjectId([0; 12]);
            let work = Work::Retry {
                notification: notification.clone(),
                target: TargetRef::Subscription { provider: ProviderName::Webhook, subscription },
                attempts: 1,
                overrides: crate::work::Overrides::default(),
            };
            dead.extend((state == FinalState::Dead).then(|| (delivery, work.encode())));
        }
        let settlement = Settlement {
            claim: claims[0].id,
            notification: id,
            org: ORG,
            resolved,
            events,
            follow_ups: Vec::new(),
            dead,
            done: true,
        };
        self.journal.settle(self.shard, vec![settlement]).unwrap().await.unwrap();
        let all = targets.len() + 1;
        while self.journal.events_after(ORG, id, None, all).await.unwrap().len() < all {
            tokio::task::yield_now().await;
        }
        id
    }

    /// A bearer token of the organization itself.
    async fn bearer(&self) -> Secret {
        let Fresh { text, hash } = opaque_key();
        let key = ApiKey {
            id: ObjectId([9; 12]),
            token: hash,
            org: ORG,
            user: None,
            name: String::from("its own"),
            limited_to: None,
            created_at: self.clock.now(),
            expires_at: None,
        };
        self.store.apply(vec![Change::PutKey(key)]).await.unwrap();
        text
    }

    /// Status, body, and whether it is an answer given before.
    async fn ask(
        &self,
        (bearer, key): (&Secret, Option<&'static str>),
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value, bool) {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {}", bearer.reveal())).unwrap();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(key.map(|key| {
            let name = http::HeaderName::from_static("idempotency-key");
            (name, HeaderValue::from_static(key))
        }));
        let request = Request {
            method: if body.is_some() { Method::POST } else { Method::GET },
            uri: Uri::try_from(path).unwrap(),
            headers,
            body: Body::given(body.map(|body| body.to_string()).unwrap_or_default()),
            id: RequestId::mint(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let response = self.api.call(request).await;
        let is_replay = response.headers().contains_key("idempotent-replayed");
        let ReplyBody::Full(bytes) = response.body() else { unreachable!("a whole body") };
        (response.status().as_u16(), serde_json::from_slice(bytes).unwrap(), is_replay)
    }
}

fn texts(value: &Value) -> BTreeSet<String> {
    let values = value.as_array().expect("a list").iter();
    values.map(|one| one.as_str().expect("a text").to_owned()).collect()
}

/// The deliveries that outcomes list of a notification, page by page.
async fn outcomes(world: &World, bearer: &Secret, id: NotificationId) -> Vec<String> {
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/bugler/v1/outcomes?notification={id}&limit=200{after}");
        let (status, page, _) = world.ask((bearer, None), &path, None).await;
        assert_eq!(status, 200, "{page}");
        let lines = page["outcomes"].as_array().expect("a list");
        seen.extend(lines.iter().map(|one| one["delivery"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next"].as_str() else { return seen };
        after = format!("&after={next}");
    }
}

#[tokio::test]
async fn a_resend_of_more_than_a_thousand_goes_on_where_the_last_answer_ended() {
    let world = world().await;
    let bearer = world.bearer().await;
    let id = world.ended(Audience::Subscriptions, &hooks(MANY), FinalState::Rejected).await;
    let all = outcomes(&world, &bearer, id).await;
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (MANY, MANY));
    let path = format!("/bugler/v1/notifications/{id}/resend");
    let (mut sent, mut pages, mut body) = (BTreeSet::new(), Vec::new(), json!({}));
    loop {
        let (status, answer, _) = world.ask((&bearer, None), &path, Some(body)).await;
        assert_eq!((status, &answer["refused"]), (200, &json!([])), "{answer}");
        let page = texts(&answer["resent"]);
        pages.push(page.len());
        sent.extend(page);
        let Some(next) = answer["next"].as_str() else { break };
        body = json!({ "after": next });
    }
    assert_eq!((pages, sent.len()), (vec![1_000, MANY - 1_000], MANY));
    let waiting = world.journal.backlog_of(world.shard, ORG);
    assert_eq!(waiting.pending, MANY as u64);
    // Once the index shows it, none of them has an end any more.
    while !outcomes(&world, &bearer, id).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let (status, ..) = world.ask((&bearer, None), &path, Some(json!({ "after": "x" }))).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_is_sent_again_under_a_key_is_answered_once_more_and_not_sent() {
    let world = world().await;
    let bearer = world.bearer().await;
    let targets = hooks(2);
    let id = world.ended(Audience::Subscriptions, &targets, FinalState::Dead).await;
    let resend = format!("/bugler/v1/notifications/{id}/resend");
    let named = json!({ "targets": targets[..1].to_vec() });
    let other = DeliveryId::derive(id, &targets[1]).to_string();
    let replay = String::from("/bugler/v1/dead-letters/replay");
    let listed = json!({ "deliveries": [other] });
    let others = [json!({ "dryRun": true }), json!({ "filter": {}, "dryRun": true })];
    let both = [(resend, named, 1), (replay, listed, 2)];
    for ((path, body, waiting), other) in both.into_iter().zip(others) {
        let keyed = (&bearer, Some("k"));
        let first = world.ask(keyed, &path, Some(body.clone())).await;
        assert_eq!((first.0, first.2), (200, false), "{}", first.1);
        let again = world.ask(keyed, &path, Some(body.clone())).await;
        assert_eq!((again.0, &again.1, again.2), (200, &first.1, true));
        let (reused, ..) = world.ask(keyed, &path, Some(other)).await;
        assert_eq!(reused, 422, "{path}");
        assert_eq!(world.journal.backlog_of(world.shard, ORG).pending, waiting, "{path}");
    }
}

#[tokio::test]
async fn nothing_of_a_canceled_notification_is_sent_again_and_its_dead_letters_stay() {
    let world = world().await;
    let bearer = world.bearer().await;
    let targets = hooks(2);
    let id = world.ended(Audience::Subscriptions, &targets, FinalState::Dead).await;
    let other = world.ended(Audience::Subscriptions, &targets[..1], FinalState::Dead).await;
    let path = format!("/bugler/v1/notifications/{id}/cancel");
    assert_eq!(world.ask((&bearer, None), &path, Some(json!({}))).await.0, 200);
    let sent = [
        (String::from("/bugler/v1/dead-letters/replay"), json!({ "filter": {} }), "replayed"),
        (format!("/bugler/v1/notifications/{id}/resend"), json!({}), "resent"),
    ];
    for (number, (path, body, word)) in sent.into_iter().enumerate() {
        let (_, answer, _) = world.ask((&bearer, None), &path, Some(body)).await;
        let refused = answer["refused"].as_array().expect("a list");
        assert_eq!(refused.len(), 2, "{answer}");
        assert!(refused.iter().all(|one| one["reason"] == "canceled"), "{answer}");
        let others = answer[word].as_array().map(Vec::len);
        assert_eq!(others, Some(1 - number), "only the replay finds {other}: {answer}");
    }
    let list = async || world.ask((&bearer, None), "/bugler/v1/dead-letters", None).await.1;
    let letters = list().await;
    let letters = letters["deadLetters"].as_array().expect("a list");
    let ours = letters.iter().filter(|one| one["notification"] == id.to_string().as_str());
    assert_eq!(ours.count(), 2, "{letters:?}");
    let absent = format!("/bugler/v1/notifications/{}/cancel", NotificationId(Uuid::now_v7()));
    assert_eq!(world.ask((&bearer, None), &absent, Some(json!({}))).await.0, 404);
}

#[tokio::test]
async fn a_device_is_found_however_many_recipients_come_before_its_owner() {
    const USERS: i64 = 17_000;
    let world = world().await;
    let bearer = world.bearer().await;
    let mut changes: Vec<_> =
        (1_000..1_000 + USERS).map(|id| Change::PutUser(samples::user(ORG, id))).collect();
    let last = samples::device(1_000 + USERS - 1, 1);
    let target = format!("apns:{}", last.id.0);
    changes.push(Change::PutDevice(last));
    world.store.apply(changes).await.unwrap();
    let gone = format!("apns:{}", Uuid::from_u128(77));
    let targets = [target, gone];
    let id = world.ended(Audience::Organization, &targets, FinalState::Rejected).await;
    let path = format!("/bugler/v1/notifications/{id}/resend");
    let (_, answer, _) = world.ask((&bearer, None), &path, Some(json!({ "dryRun": true }))).await;
    let [found, lost] = targets.map(|target| DeliveryId::derive(id, &target).to_string());
    assert_eq!(answer["resent"], json!([found]), "{answer}");
    assert_eq!(answer["refused"], json!([{ "delivery": lost, "reason": "target_removed" }]));
}
