//! Making, changing and removing subscriptions.

use super::wire::{self, Create, Setup, Update};
use super::{Entered, enter, find};
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::Call;
use crate::api::shared::{Begun, Head, Turn};
use crate::api::{Answered, ExchangeError, Shared};
use crate::auth::Permission;
use crate::intake::{Answer, RecordChange};
use crate::model::{Endpoint, ObjectId, Secret, Subscription, TargetPolicy};
use crate::store::{Change, Expectation};
use crate::vault::Owner;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Subscriptions of one organization: each event is delivered to all of them.
const SUBSCRIPTIONS_MAX: u32 = 100;
const SECRET_BYTES: usize = 32;

/// `POST …/organizations/{org}/notifications`
pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let permission = Permission::SubscriptionCreate;
    let Entered { caller, organization } =
        enter(&shared, &request.headers, &params, permission).await?;
    let (head, body) = shared.json_body(request).await?;
    let org = organization.id;
    let key = head.key(org, &body)?;
    let create = Create::parse(&body, shared.hooks.as_ref())?;
    let mut begun = match shared.turn(key).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    // Before a code is spent that could not be used. Decided again with the change.
    let count = shared.store.all_subscriptions(org).await?.len();
    if count >= usize::try_from(SUBSCRIPTIONS_MAX).unwrap_or(usize::MAX) {
        return Err(too_many());
    }
    let id = ObjectId(rand::random());
    let endpoint = endpoint(&shared, Owner(org, id), create.setup).await?;
    let now = shared.intake.now();
    let new = Subscription {
        id,
        org,
        description: create.description,
        events: create.flags.wanted,
        unwanted: create.flags.unwanted,
        endpoint,
        policy: TargetPolicy::default(),
        enabled: true,
        created_at: now,
        updated_at: now,
    };
    let answer =
        Answer::plain(200, wire::answer(&wire::data(&new, &organization, shared.store.vault())));
    let audit =
        shared.note(&head, &caller, org, "subscription.create", format!("subscription:{}", new.id));
    let changes = vec![
        Change::Expect(Expectation::Subscriptions(org, SUBSCRIPTIONS_MAX)),
        Change::PutSubscription(new),
    ];
    let change = RecordChange { org, changes, audit, notifications: Vec::new() };
    match shared.change(&mut begun, change, answer).await {
        Ok(Some(answered)) => Ok(answered),
        // The only expectation is the number: somebody else took the last place.
        Ok(None) => Err(too_many()),
        Err(failure) if failure.class == FailureClass::Exists => Err(too_many()),
        Err(failure) => Err(failure),
    }
}

fn too_many() -> Failure {
    let problem = format!("has {SUBSCRIPTIONS_MAX} notifications; delete one first");
    Failure::field("organization", problem)
}

/// Where the new subscription's deliveries go, and with which secret.
async fn endpoint(shared: &Shared, owner: Owner, setup: Setup) -> Result<Endpoint, Failure> {
    let seal = |secret: &Secret| shared.store.vault().seal(owner, secret);
    match setup {
        Setup::Webhook { url } => {
            check_host(shared, &url).await?;
            let key = STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>());
            let secret = seal(&Secret::new(format!("whsec_{key}")));
            Ok(Endpoint::Webhook { url, secret, retired: None })
        }
        Setup::Slack { code, redirect_uri } => {
            let granted = shared.hooks.exchange(owner.0, &code, &redirect_uri).await;
            let hook = granted.map_err(not_exchanged)?;
            Ok(Endpoint::Slack { url: seal(&hook.url), team: hook.team, channel: hook.channel })
        }
    }
}

/// Refuses a URL whose host leads to where no webhook may go.
async fn check_host(shared: &Shared, url: &str) -> Result<(), Failure> {
    let refused = |problem| Failure::field("setup.webhook.url", format!("is refused: {problem}"));
    shared.hooks.check_host(url).await.map_err(refused)
}

fn not_exchanged(error: ExchangeError) -> Failure {
    let text = error.to_string();
    match error {
        ExchangeError::NotConfigured => Failure::new(FailureClass::Invalid, text),
        ExchangeError::Redirect => Failure::field("setup.slack.redirectUri", text),
        ExchangeError::Refused(_) | ExchangeError::Failed => {
            Failure::field("setup.slack.code", text)
        }
        ExchangeError::Busy => Failure::new(FailureClass::Overloaded, text),
    }
}

/// `PUT …/organizations/{org}/notifications/{id}`
///
/// It also takes up deliveries again that ended because the target said it was gone.
pub(super) async fn update(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let permission = Permission::SubscriptionUpdate;
    let Entered { caller, organization } =
        enter(&shared, &request.headers, &params, permission).await?;
    let mut old = find(&shared, &organization, &params).await?;
    let (head, body) = shared.json_body(request).await?;
    let org = organization.id;
    let mut begun = Begun::unkeyed();
    loop {
        let update = Update::parse(&body, &old, shared.hooks.as_ref())?;
        if let Some(url) = &update.url {
            check_host(&shared, url).await?;
        }
        let unchanged = unchanged(&old);
        let updated_at = shared.intake.now().max(old.updated_at.plus(1));
        let new = Subscription {
            description: update.description.or(old.description),
            events: update.flags.wanted,
            unwanted: update.flags.unwanted,
            endpoint: moved(old.endpoint, update.url),
            enabled: true,
            updated_at,
            ..old
        };
        let answer = Answer::plain(
            200,
            wire::answer(&wire::data(&new, &organization, shared.store.vault())),
        );
        let object = format!("subscription:{}", new.id);
        let audit = shared.note(&head, &caller, org, "subscription.update", object);
        let changes = vec![unchanged, Change::PutSubscription(new)];
        let change = RecordChange { org, changes, audit, notifications: Vec::new() };
        if let Some(answered) = shared.change(&mut begun, change, answer).await? {
            return Ok(answered);
        }
        old = find(&shared, &organization, &params).await?;
    }
}

/// Without this a change could bring back what was deleted meanwhile.
fn unchanged(one: &Subscription) -> Change {
    Change::Expect(Expectation::Subscription(one.org, one.id, one.updated_at))
}

/// The endpoint at its new place; the secret stays.
fn moved(endpoint: Endpoint, to: Option<String>) -> Endpoint {
    match (endpoint, to) {
        (Endpoint::Webhook { secret, retired, .. }, Some(url)) => {
            Endpoint::Webhook { url, secret, retired }
        }
        (endpoint, _) => endpoint,
    }
}

/// `DELETE …/organizations/{org}/notifications/{id}`
pub(super) async fn remove(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let permission = Permission::SubscriptionDelete;
    let Entered { caller, organization } =
        enter(&shared, &request.headers, &params, permission).await?;
    let head = Head::of(request);
    let org = organization.id;
    let mut begun = Begun::unkeyed();
    loop {
        let old = find(&shared, &organization, &params).await?;
        let object = format!("subscription:{}", old.id);
        let audit = shared.note(&head, &caller, org, "subscription.delete", object);
        let changes = vec![unchanged(&old), Change::RemoveSubscription(old.id)];
        let change = RecordChange { org, changes, audit, notifications: Vec::new() };
        let answer = Answer::plain(200, r#"{"status":true}"#);
        if let Some(answered) = shared.change(&mut begun, change, answer).await? {
            return Ok(answered);
        }
    }
}
