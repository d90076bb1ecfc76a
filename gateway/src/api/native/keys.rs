//! Opaque API keys: long-lived bearer tokens of an organization or of one of its users.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::native::account::{CREDENTIALS_MAX, NewCredential, administered, made};
use crate::api::route::Call;
use crate::api::shared::{Head, Turn};
use crate::api::signed::Signed;
use crate::api::{Answered, Shared, json, reply};
use crate::auth::opaque_key;
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{ApiKey, Millis, ObjectId, OrganizationId, UserId, UserStatus};
use crate::store::{Change, Expectation, StoreError, UserRef};
use bytes::Bytes;
use serde_json::{Value, json};

/// Ten years: longer keys are kept for ever by mistake.
const LIFETIME_MAX_MS: u64 = 10 * 365 * 86_400_000;

struct New {
    credential: NewCredential,
    user: Option<UserId>,
    expires_at: Option<Millis>,
}

impl New {
    fn parse(body: &[u8], now: Millis) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        fields.only(&["name", "permissions", "user", "expiresAt"], &mut faults);
        let credential = NewCredential::read(&fields, &mut faults);
        let user = fields.integer::<i64>("user", &mut faults).map(UserId);
        let expires_at = fields.integer::<u64>("expiresAt", &mut faults).map(Millis);
        if let Some(end) = expires_at {
            if end <= now {
                faults.add("expiresAt", "must be in the future, in milliseconds since 1970");
            } else if end > now.plus(LIFETIME_MAX_MS) {
                faults.add("expiresAt", "must be within ten years, in milliseconds since 1970");
            }
        }
        faults.into_result()?;
        Ok(Self { credential, user, expires_at })
    }
}

/// `POST /bugler/v1/organizations/{org}/keys`
pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let org = administered(&shared, &caller, params.get("org")).await?.id;
    let (head, body) = shared.json_body(request).await?;
    let new = New::parse(&body, shared.intake.now())?;
    let begun = match shared.turn(head.key(caller.organization, &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    check_user(&shared, org, new.user).await?;
    let fresh = opaque_key();
    let key = ApiKey {
        id: ObjectId(rand::random()),
        token: fresh.hash,
        org,
        user: new.user,
        name: new.credential.name,
        limited_to: new.credential.limited_to,
        created_at: shared.intake.now(),
        expires_at: new.expires_at,
    };
    let audit = shared.note(&head, &caller, org, "key.create", format!("key:{}", key.id));
    let shown = shown(&key);
    let expected = Change::Expect(Expectation::Keys(org, CREDENTIALS_MAX));
    let changes = vec![expected, Change::PutKey(key)];
    let change = RecordChange { org, changes, audit, notifications: Vec::new() };
    made(&shared, &begun, change, shown, ("key", &fresh.text, "keys")).await
}

async fn check_user(
    shared: &Shared,
    org: OrganizationId,
    user: Option<UserId>,
) -> Result<(), Failure> {
    let Some(user) = user else { return Ok(()) };
    let found = shared.store.user(UserRef::Id(user)).await?;
    if found.is_some_and(|user| user.org == org && user.status == UserStatus::Active) {
        return Ok(());
    }
    Err(Failure::field("user", "is no active user of the organization"))
}

fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id.to_string(),
        "name": key.name,
        "organization": key.org.0,
        "user": key.user.map(|user| user.0),
        "permissions": key.limited_to,
        "createdAt": key.created_at.to_rfc3339(),
        "expiresAt": key.expires_at.map(Millis::to_rfc3339),
    })
}

/// `GET /bugler/v1/organizations/{org}/keys`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(&shared, &caller, params.get("org")).await?;
    let keys = shared.store.keys(organization.id).await?;
    let keys: Vec<_> = keys.iter().map(shown).collect();
    Ok(Answered::Other(reply::json(200, json!({ "keys": keys }).to_string())))
}

fn unknown() -> Failure {
    Failure::new(FailureClass::NotFound, "no such key")
}

/// The key a path names.
async fn named(
    shared: &Shared,
    caller: &Signed,
    (org, id): (&str, &str),
) -> Result<ApiKey, Failure> {
    let organization = administered(shared, caller, org).await?;
    let id: ObjectId = id.parse().map_err(|_| unknown())?;
    shared.store.key_of(organization.id, id).await?.ok_or_else(unknown)
}

/// `GET /bugler/v1/organizations/{org}/keys/{id}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let key = named(&shared, &caller, (params.get("org"), params.get("id"))).await?;
    Ok(Answered::Other(reply::json(200, shown(&key).to_string())))
}

/// `DELETE /bugler/v1/organizations/{org}/keys/{id}`
pub(super) async fn remove(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let key = named(&shared, &caller, (params.get("org"), params.get("id"))).await?;
    let (org, object) = (key.org, format!("key:{}", key.id));
    let audit = shared.note(&Head::of(request), &caller, org, "key.remove", object);
    let changes = vec![Change::RemoveKey(org, key.id)];
    shared.remove(RecordChange { org, changes, audit, notifications: Vec::new() }).await
}

impl Shared {
    /// Makes a change that removes one thing; 204, or 404 if somebody else removed it meanwhile.
    pub(super) async fn remove(&self, change: RecordChange) -> Result<Answered, Failure> {
        match self.intake.change(self.store.as_ref(), change, None).await {
            Ok(()) => Ok(Answered::Other(reply::accepted(
                &Answer::plain(204, Bytes::new()),
                self.intake.journal().durability(),
                false,
            ))),
            Err(ChangeError::Store(StoreError::Missing { .. })) => {
                Err(Failure::new(FailureClass::NotFound, "it was removed already"))
            }
            Err(error) => Err(error.into()),
        }
    }
}
