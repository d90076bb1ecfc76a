//! The native API under `/bugler/v1`: send one, send many, follow one.

mod batch;
pub(crate) mod render;
mod timeline;
mod wire;

pub(super) use batch::batch;
pub(super) use timeline::timeline;

use crate::api::failure::{Failure, FailureClass};
use crate::api::{Answered, Shared};
use crate::auth::{Caller, Permission};
use crate::intake::Answer;
use crate::model::OrganizationId;
use crate::server::Request;
use crate::store::OrganizationRef;
use std::sync::Arc;
use wire::Wire;

/// `POST /bugler/v1/notifications`
pub(super) async fn send(shared: Arc<Shared>, request: Request) -> Result<Answered, Failure> {
    let caller = shared.caller(&request.headers)?;
    shared.throttle(caller.organization)?;
    let created_by = sender(&shared, &caller).await?;
    let (head, body) = shared.json_body(request).await?;
    let wire = Wire::parse(&body)?;
    let org = organization(&shared, &caller, wire.organization).await?;
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
async fn sender(shared: &Shared, caller: &Caller) -> Result<String, Failure> {
    let user = shared.require(caller, Permission::NotificationSend).await?;
    Ok(user.map_or_else(
        || format!("organization:{}", caller.organization),
        |user| format!("user:{}", user.id),
    ))
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
