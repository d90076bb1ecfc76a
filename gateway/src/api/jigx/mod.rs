//! Jigx: organization notifications under `/v2.0/tool` and `/tool`.

pub(crate) mod render;
mod wire;

use crate::api::failure::{Failure, FailureClass};
use crate::api::route::{Call, Endpoint};
use crate::api::{Answered, Shared};
use crate::auth::{Caller, Permission};
use crate::intake::Answer;
use crate::model::{Millis, Notification, ObjectId, Organization, Source};
use crate::store::OrganizationRef;
use http::Method;
use std::sync::Arc;
use uuid::Uuid;
use wire::Create;

/// What Jigx's paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::POST,
    patterns: &[
        "/v2.0/tool/organizations/{org}/notifications",
        "/tool/organizations/{org}/notifications",
    ],
    work: |call| Box::pin(create(call)),
}];

/// `POST …/organizations/{org}/notifications`
async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = find_organization(&shared, &caller, params.get("org")).await?;
    let author = author(&shared, &caller, &organization).await?;
    let (head, body) = shared.json_body(request).await?;
    let key = head.key(organization.id, &body)?;
    let now = shared.intake.now();
    shared
        .accept(key, || {
            let create = Create::parse(&body, now)?;
            let id = shared.intake.mint();
            let region = &shared.settings.region;
            let answer = Answer {
                status: 201,
                notification: id,
                body: create.answer(id, &organization, region, author, now).into(),
            };
            let notification = Notification {
                id,
                org: organization.id,
                source: Source::Jigx,
                event: String::from("notification.jigx"),
                dialect_fields: create.own_fields(),
                mail: None,
                inbox: true,
                collapse_key: None,
                created_at: now,
                created_by: author.to_string(),
                start_at: create.start_at.unwrap_or(now),
                expires_at: None,
                priority: crate::model::Priority::default(),
                content: create.content(),
                audience: create.audience,
            };
            Ok((notification, answer))
        })
        .await
}

/// The organization in Jigx's form (uuid) or any other; 404 if unknown, 403 if out of reach.
async fn find_organization(
    shared: &Shared,
    caller: &Caller,
    text: &str,
) -> Result<Arc<Organization>, Failure> {
    let unknown = || Failure::new(FailureClass::NotFound, "no such organization");
    for which in forms(text) {
        match shared.reach(caller, which).await? {
            Some((organization, true)) => return Ok(organization),
            Some((_, false)) => {
                let text = "the organization is not yours";
                return Err(Failure::new(FailureClass::Forbidden, text));
            }
            None => {}
        }
    }
    Err(unknown())
}

/// What an organization id in a path may mean, Jigx's own form first.
fn forms(text: &str) -> Vec<OrganizationRef> {
    let mut forms = Vec::new();
    forms.extend(Uuid::parse_str(text).ok().map(OrganizationRef::Uuid));
    forms.extend(text.parse().ok().map(OrganizationRef::Id));
    forms.extend(text.parse::<ObjectId>().ok().map(OrganizationRef::ObjectId));
    if text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()) {
        forms.push(OrganizationRef::Numeric(text.to_owned()));
    }
    forms.push(OrganizationRef::Slug(text.to_owned()));
    forms
}

/// The uuid that `createdBy` prints; refuses members whose role may not send.
async fn author(
    shared: &Shared,
    caller: &Caller,
    organization: &Organization,
) -> Result<Uuid, Failure> {
    if let Some(user) = shared.require(caller, Permission::NotificationSend).await? {
        return Ok(user.uuid);
    }
    let own = shared.store.organization(OrganizationRef::Id(caller.organization)).await?;
    Ok(own.map_or(organization.uuid, |own| own.uuid))
}

/// Effective start: what was asked for, but never before now.
fn not_before(now: Millis, asked: Millis) -> Millis {
    asked.max(now)
}
