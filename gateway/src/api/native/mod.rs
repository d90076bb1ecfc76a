//! The native API under `/bugler/v1`: send one, send many, follow one.

pub(super) mod account;
mod again;
mod audit;
mod batch;
mod clients;
mod dead;
mod events;
mod invitation;
mod keys;
mod outcomes;
mod password;
pub(crate) mod render;
mod rulelog;
mod rules;
mod rulesettings;
mod select;
mod timeline;
mod wire;

#[cfg(test)]
mod tests;

use crate::api::failure::{Failure, FailureClass};
use crate::api::route::{Call, Endpoint};
use crate::api::signed::Signed;
use crate::api::{Answered, Shared};
use crate::auth::{Caller, Permission};
use crate::intake::Answer;
use crate::model::OrganizationId;
use crate::store::OrganizationRef;
use http::Method;
use wire::Wire;

pub(super) use clients::create_for_blynk as create_client_for_blynk;

/// What the native paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/notifications"],
        work: |call| Box::pin(send(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/notifications:batch"],
        work: |call| Box::pin(batch::batch(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/notifications/{id}", "/bugler/v1/notifications/{id}/trace"],
        work: |call| Box::pin(timeline::timeline(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/notifications/{id}/resend"],
        work: |call| Box::pin(again::resend(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/notifications/{id}/cancel"],
        work: |call| Box::pin(again::cancel(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/outcomes"],
        work: |call| Box::pin(outcomes::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/dead-letters"],
        work: |call| Box::pin(dead::list(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/dead-letters/replay"],
        work: |call| Box::pin(dead::replay(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/dead-letters/discard"],
        work: |call| Box::pin(dead::discard(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/dead-letters/{id}"],
        work: |call| Box::pin(dead::show(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/organizations/{org}/clients"],
        work: |call| Box::pin(clients::create(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/clients"],
        work: |call| Box::pin(clients::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/clients/{id}"],
        work: |call| Box::pin(clients::get(call)),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &["/bugler/v1/organizations/{org}/clients/{id}"],
        work: |call| Box::pin(clients::remove(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/organizations/{org}/events"],
        work: |call| Box::pin(events::raise(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/organizations/{org}/keys"],
        work: |call| Box::pin(keys::create(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/keys"],
        work: |call| Box::pin(keys::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/keys/{id}"],
        work: |call| Box::pin(keys::get(call)),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &["/bugler/v1/organizations/{org}/keys/{id}"],
        work: |call| Box::pin(keys::remove(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/audit"],
        work: |call| Box::pin(audit::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/audit/verify"],
        work: |call| Box::pin(audit::verify(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules"],
        work: |call| Box::pin(rules::list(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/organizations/{org}/rules"],
        work: |call| Box::pin(rules::deploy(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}"],
        work: |call| Box::pin(rules::get(call)),
    },
    Endpoint {
        method: Method::PATCH,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}"],
        work: |call| Box::pin(rules::change(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/component"],
        work: |call| Box::pin(rules::component(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/config"],
        work: |call| Box::pin(rulesettings::get(call)),
    },
    Endpoint {
        method: Method::PATCH,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/config"],
        work: |call| Box::pin(rulesettings::change(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/decisions"],
        work: |call| Box::pin(rulelog::decisions(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/logs"],
        work: |call| Box::pin(rulelog::logs(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/capture"],
        work: |call| Box::pin(rulelog::captured(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/capture"],
        work: |call| Box::pin(rulelog::capture(call)),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &["/bugler/v1/organizations/{org}/rules/{rule}/capture"],
        work: |call| Box::pin(rulelog::end_capture(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/invitations/accept"],
        work: |call| Box::pin(invitation::accept(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/bugler/v1/users/{id}/password"],
        work: |call| Box::pin(password::set(call)),
    },
];

/// `POST /bugler/v1/notifications`
async fn send(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let created_by = sender(&caller).await?;
    let (head, body) = shared.json_body(request).await?;
    let wire = Wire::parse(&body)?;
    let org = organization(&shared, &caller, wire.organization.map(|named| named.0)).await?;
    let key = head.key(org, &body)?;
    shared
        .accept(key, || {
            let id = shared.intake.mint();
            let notification = wire.into_notification(id, org, &created_by, shared.intake.now())?;
            let text = format!("{{\"id\":\"{id}\",\"state\":\"queued\"}}");
            let answer = Answer { status: 201, notification: id, body: text.into() };
            Ok((notification, answer))
        })
        .await
}

/// Checks that the caller may send; answers what `created by` records.
async fn sender(caller: &Signed) -> Result<String, Failure> {
    caller.require(Permission::NotificationSend).await?;
    Ok(caller.name())
}

/// The organization a request is for: the caller's own, or a named one within its reach.
async fn organization(
    shared: &Shared,
    caller: &Caller,
    named: Option<i32>,
) -> Result<OrganizationId, Failure> {
    let id = named.map_or(caller.organization, OrganizationId);
    match shared.reach(caller, OrganizationRef::Id(id)).await? {
        Some((organization, true)) => Ok(organization.id),
        // Foreign and absent organizations look the same.
        Some((_, false)) | None => {
            let text = "no such organization, or it is not within reach of this token";
            Err(Failure::new(FailureClass::NotFound, text))
        }
    }
}
