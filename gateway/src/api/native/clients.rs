//! OAuth clients of an organization: made here or in Blynk's form, listed, removed.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::native::account::{CREDENTIALS_MAX, NewCredential, administered, made};
use crate::api::route::Call;
use crate::api::shared::{Head, Turn};
use crate::api::signed::Signed;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared, json, reply};
use crate::auth::{Caller, client_id, client_secret};
use crate::intake::{RecordChange, RequestKey};
use crate::model::{Client, OrganizationId};
use crate::store::{Change, Expectation, OrganizationRef};
use serde_json::{Value, json};

/// `POST /bugler/v1/organizations/{org}/clients`
pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(&shared, &caller, params.get("org")).await?;
    let (head, body) = shared.json_body(request).await?;
    let parsed = json::body(&body)?;
    let fields = Fields::of_body(&parsed)?;
    let mut faults = Faults::default();
    fields.only(&["name", "permissions"], &mut faults);
    let new = NewCredential::read(&fields, &mut faults);
    faults.into_result()?;
    let key = head.key(caller.organization, &body)?;
    make(&shared, &head, &caller, (organization.id, new), key).await
}

/// `POST /api/v1/organization/oauth/clients/create`, in Blynk's envelope.
pub(crate) async fn create_for_blynk(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.blynk.request(caller.organization)?;
    shared.throttle(caller.organization)?;
    caller.require_every_right().await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let parsed = json::body(&body)?;
    let fields = Fields::of_body(&parsed)?;
    let mut faults = Faults::default();
    let new = NewCredential::read(&fields, &mut faults);
    let org = fields.integer::<i32>("orgId", &mut faults).map(OrganizationId);
    faults.into_result()?;
    let org = org.unwrap_or(caller.organization);
    let Some((organization, true)) = shared.reach(&caller, OrganizationRef::Id(org)).await? else {
        let text = "Organization is not found or you don't have access to it.";
        return Err(Failure::new(FailureClass::NotFound, text));
    };
    let key = head.key(caller.organization, &body)?;
    make(&shared, &head, &caller, (organization.id, new), key).await
}

async fn make(
    shared: &Shared,
    head: &Head,
    caller: &Caller,
    new: (OrganizationId, NewCredential),
    key: Option<RequestKey>,
) -> Result<Answered, Failure> {
    let (org, new) = new;
    let begun = match shared.turn(key).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    let secret = client_secret();
    let client = Client {
        id: client_id(),
        org,
        name: new.name,
        secret: secret.hash,
        limited_to: new.limited_to,
        created_at: shared.intake.now(),
    };
    let audit = shared.note(head, caller, org, "client.create", format!("client:{}", client.id));
    let shown = shown(&client);
    let expected = Change::Expect(Expectation::Clients(org, CREDENTIALS_MAX));
    let changes = vec![expected, Change::PutClient(client)];
    let change = RecordChange { org, changes, audit, notifications: Vec::new() };
    made(shared, &begun, change, shown, ("secret", &secret.text, "clients")).await
}

fn shown(client: &Client) -> Value {
    json!({
        "id": client.id,
        "name": client.name,
        "orgId": client.org.0,
        "permissions": client.limited_to,
        "createdAt": client.created_at.to_rfc3339(),
    })
}

/// `GET /bugler/v1/organizations/{org}/clients`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(&shared, &caller, params.get("org")).await?;
    let clients = shared.store.clients(organization.id).await?;
    let clients: Vec<_> = clients.iter().map(shown).collect();
    Ok(Answered::Other(reply::json(200, json!({ "clients": clients }).to_string())))
}

/// The client a path names.
async fn named(
    shared: &Shared,
    caller: &Signed,
    (org, id): (&str, &str),
) -> Result<Client, Failure> {
    let organization = administered(shared, caller, org).await?;
    let found = shared.store.client(id).await?.filter(|client| client.org == organization.id);
    found.ok_or_else(|| Failure::new(FailureClass::NotFound, "no such client"))
}

/// `GET /bugler/v1/organizations/{org}/clients/{id}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let client = named(&shared, &caller, (params.get("org"), params.get("id"))).await?;
    Ok(Answered::Other(reply::json(200, shown(&client).to_string())))
}

/// `DELETE /bugler/v1/organizations/{org}/clients/{id}`: its tokens stop working with it.
pub(super) async fn remove(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let client = named(&shared, &caller, (params.get("org"), params.get("id"))).await?;
    let object = format!("client:{}", client.id);
    let audit = shared.note(&Head::of(request), &caller, client.org, "client.remove", object);
    let end = shared.identity.forgotten_at(shared.intake.now());
    let org = client.org;
    let changes =
        vec![Change::RemoveClient(org, client.id.clone()), Change::Revoke(client.id, end)];
    shared.remove(RecordChange { org, changes, audit, notifications: Vec::new() }).await
}
