//! Applivery: organization notifications, which are subscriptions of Slack channels and webhooks.

pub(crate) mod events;
pub(crate) mod render;

mod change;
mod list;
mod trial;
mod wire;

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::native::account::organization_ref;
use crate::api::route::{Endpoint, Params};
use crate::api::signed::Signed;
use crate::auth::Permission;
use crate::model::{Organization, Subscription};
use crate::store::OrganizationRef;
use http::{HeaderMap, Method};
use std::sync::Arc;

const ALL: &[&str] = &["/v1/organizations/{org}/notifications"];
const ONE: &[&str] = &["/v1/organizations/{org}/notifications/{id}"];

/// What these paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: Method::POST, patterns: ALL, work: |call| Box::pin(change::create(call)) },
    Endpoint { method: Method::GET, patterns: ALL, work: |call| Box::pin(list::list(call)) },
    Endpoint { method: Method::GET, patterns: ONE, work: |call| Box::pin(list::get(call)) },
    Endpoint { method: Method::PUT, patterns: ONE, work: |call| Box::pin(change::update(call)) },
    Endpoint { method: Method::DELETE, patterns: ONE, work: |call| Box::pin(change::remove(call)) },
    Endpoint {
        method: Method::POST,
        patterns: &["/v1/organizations/{org}/notifications/{id}/test"],
        work: |call| Box::pin(trial::test(call)),
    },
];

/// Who calls, and the organization it acts on.
struct Entered {
    caller: Signed,
    organization: Arc<Organization>,
}

/// Lets a caller with `permission` in to the organization of the path.
///
/// # Errors
/// 401, 429, 404 for foreign and absent organizations alike, 403; in this order.
async fn enter(
    shared: &Shared,
    headers: &HeaderMap,
    params: &Params,
    permission: Permission,
) -> Result<Entered, Failure> {
    let caller = shared.caller(headers).await?;
    shared.throttle(caller.organization)?;
    let mut found = None;
    for form in forms(params.get("org")) {
        if let Some((organization, true)) = shared.reach(&caller, form).await? {
            found = Some(organization);
            break;
        }
    }
    let organization = found.ok_or_else(not_found)?;
    let refusal = || {
        let text = format!("this needs the permission {}", permission.as_str());
        Failure::new(FailureClass::Forbidden, text)
    };
    let asked = (permission.as_str(), caller.may(permission));
    caller.judge(asked, organization.id, refusal).await?;
    Ok(Entered { caller, organization })
}

/// What an organization id in a path may mean, Applivery's own forms first.
fn forms(text: &str) -> Vec<OrganizationRef> {
    let is_form = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if text.len() < 3 || !text.bytes().all(is_form) {
        return Vec::new();
    }
    let mut forms = Vec::new();
    forms.extend(text.parse().ok().map(OrganizationRef::ObjectId));
    forms.push(OrganizationRef::Slug(text.to_owned()));
    // Numbers and uuids of the other dialects fit the pattern of a slug and never are one.
    let other = organization_ref(text);
    if !forms.contains(&other) {
        forms.push(other);
    }
    forms
}

/// The subscription of the path.
async fn find(
    shared: &Shared,
    organization: &Organization,
    params: &Params,
) -> Result<Subscription, Failure> {
    let id = params.get("id").parse().map_err(|_| not_found())?;
    shared.store.subscription(organization.id, id).await?.ok_or_else(not_found)
}

fn not_found() -> Failure {
    Failure::new(FailureClass::NotFound, "no such entity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OrganizationId;

    #[test]
    fn an_organization_is_named_in_its_own_forms_first() {
        let slug = |text: &str| OrganizationRef::Slug(text.to_owned());
        assert_eq!(forms("acme-2"), [slug("acme-2")]);
        let hex = "5F1d7a8b9c0d1e2f3a4b5c6d";
        let object = OrganizationRef::ObjectId(hex.parse().expect("24 hexadecimal digits"));
        assert_eq!(forms(hex), [object, slug(hex)]);
        assert_eq!(forms("101"), [slug("101"), OrganizationRef::Id(OrganizationId(101))]);
        for bad in ["", "ab", "a_b", "a b", "acme\n", "acme.", "äcme", "-\\-x"] {
            assert_eq!(forms(bad), [], "{bad:?}");
        }
    }
}
