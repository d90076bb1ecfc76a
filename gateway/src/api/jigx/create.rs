//! `POST …/organizations/{org}/notifications`: one notification, now or later.

use super::who::{Who, rank, uuid_of};
use super::wire::{Create, shown};
use super::{enter, state::State};
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::Call;
use crate::api::{Answered, Shared, json};
use crate::intake::Answer;
use crate::model::{MemberRole, Notification, OrganizationId, Priority, Source};
use serde_json::Value;
use uuid::Uuid;

const EVENT: &str = "notification.jigx";

pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    let read = shared.json_body(request).await;
    // What is wrong with it is said only to who may send and asks for the first time.
    let parsed = match &read {
        Ok((_, body)) => json::body(body),
        Err(failure) => Err(failure.clone()),
    };
    let solution = parsed.as_ref().ok().and_then(solution_of);
    if !who.may_send() {
        require_of_solution(&shared, &who, organization.id, solution).await?;
    }
    let (head, body) = read?;
    if who.may_send()
        && let Some(solution) = solution
    {
        refuse_denied(&shared, &who, organization.id, solution).await?;
    }
    let key = head.key(organization.id, &body)?;
    let now = shared.intake.now();
    shared
        .accept(key, || {
            let create = Create::of(&parsed?, now)?;
            let id = shared.intake.mint();
            let notification = Notification {
                id,
                org: organization.id,
                source: Source::Jigx,
                event: String::from(EVENT),
                dialect_fields: create.own_fields(),
                mail: None,
                inbox: true,
                collapse_key: None,
                created_at: now,
                created_by: who.uuid.to_string(),
                start_at: create.start_at.unwrap_or(now),
                expires_at: None,
                priority: Priority::default(),
                content: create.content(),
                audience: create.audience,
            };
            let place = (organization.as_ref(), shared.settings.region.as_str());
            let body = shown(&notification, place, (State::Queued.as_str(), now)).to_string();
            Ok((notification, Answer { status: 201, notification: id, body: body.into() }))
        })
        .await
}

/// The solution that a body for one of its scopes names.
fn solution_of(body: &Value) -> Option<Uuid> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let is_scoped = matches!(text("scope"), Some("SLN" | "SLN_GRP"));
    is_scoped.then(|| text("solutionId").and_then(uuid_of)).flatten()
}

/// Makers of a solution may send to it, whatever they are in the organization.
async fn require_of_solution(
    shared: &Shared,
    who: &Who,
    org: OrganizationId,
    solution: Option<Uuid>,
) -> Result<(), Failure> {
    if let Some(solution) = solution
        && who.may_send_to(shared, org, solution).await?
    {
        return Ok(());
    }
    who.require_send().await
}

async fn refuse_denied(
    shared: &Shared,
    who: &Who,
    org: OrganizationId,
    solution: Uuid,
) -> Result<(), Failure> {
    let role = who.in_solution(shared, org, solution).await?;
    if rank(role) > rank(MemberRole::Deny) {
        return Ok(());
    }
    Err(Failure::new(FailureClass::Forbidden, "this member is shut out of the solution"))
}
