//! What the native operations on accounts share: the organization a path names, and credentials' fields.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::shared::Begun;
use crate::api::signed::Signed;
use crate::api::{Answered, Shared, reply};
use crate::auth::{Caller, Permission};
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{Organization, OrganizationId, Secret};
use crate::store::{OrganizationRef, StoreError};
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// Characters of a credential's name.
const NAME_MAX: usize = 100;
/// Credentials of each kind an organization may have.
pub(crate) const CREDENTIALS_MAX: u32 = 100;

/// An organization in any of its four forms. A form of one kind is never taken for another.
pub(in crate::api) fn organization_ref(text: &str) -> OrganizationRef {
    if let Ok(id) = text.parse::<i32>()
        && text.bytes().all(|byte| byte.is_ascii_digit())
    {
        return OrganizationRef::Id(OrganizationId(id));
    }
    if let Ok(uuid) = text.parse::<Uuid>() {
        return OrganizationRef::Uuid(uuid);
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(object) => OrganizationRef::ObjectId(object),
        Err(_) if is_number => OrganizationRef::Numeric(text.to_owned()),
        Err(_) => OrganizationRef::Slug(text.to_owned()),
    }
}

/// The organization a path names, for a caller that may manage its credentials.
///
/// # Errors
/// 404 for foreign and absent ones alike, then 403.
pub(super) async fn administered(
    shared: &Shared,
    caller: &Signed,
    named: &str,
) -> Result<Arc<Organization>, Failure> {
    let organization = reached(shared, caller, named).await?;
    caller.require_every_right().await?;
    Ok(organization)
}

/// The organization a path names, if the caller reaches it; 404 for all others alike.
pub(super) async fn reached(
    shared: &Shared,
    caller: &Caller,
    named: &str,
) -> Result<Arc<Organization>, Failure> {
    match shared.reach(caller, organization_ref(named)).await? {
        Some((organization, true)) => Ok(organization),
        _ => Err(Failure::new(FailureClass::NotFound, "no such organization")),
    }
}

/// The name and limit of a new credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewCredential {
    pub(crate) name: String,
    /// Canonical names; `None` is no limit.
    pub(crate) limited_to: Option<Vec<String>>,
}

impl NewCredential {
    pub(crate) fn read(fields: &Fields<'_>, faults: &mut Faults) -> Self {
        let name = fields.required_text("name", NAME_MAX, faults).unwrap_or_default();
        if fields.get("name").is_some() && name.trim().is_empty() && !faults.concern("name") {
            faults.add("name", "must not be empty");
        }
        let listed = fields
            .get("permissions")
            .and_then(|_| fields.texts("permissions", Permission::ALL.len(), NAME_MAX, faults));
        let mut limited_to = listed.as_ref().map(|_| Vec::new());
        for (number, name) in listed.iter().flatten().enumerate() {
            match Permission::named(name) {
                Some(permission) => {
                    limited_to.iter_mut().for_each(|all| all.push(permission.as_str().to_owned()));
                }
                None => faults.add(format!("permissions[{number}]"), "is not a known permission"),
            }
        }
        Self { name: name.to_owned(), limited_to }
    }
}

/// Makes a credential. The answer shows its secret under `name`; what is remembered for a repeat
/// lies on disk, and the secret is not in it. `many` is what the organization may have too many of.
pub(super) async fn made(
    shared: &Shared,
    begun: &Begun,
    change: RecordChange,
    mut shown: Value,
    (name, secret, many): (&str, &Secret, &str),
) -> Result<Answered, Failure> {
    let remembered = Answer::plain(201, shown.to_string());
    match shared.attempt(begun, change, &remembered).await {
        Ok(_) => {}
        Err(ChangeError::Store(StoreError::Unmet { .. })) => {
            let text = format!("the organization has {CREDENTIALS_MAX} {many}; remove one first");
            return Err(Failure::new(FailureClass::Exists, text));
        }
        Err(error) => return Err(error.into()),
    }
    shown[name] = secret.reveal().into();
    let answer = Answer::plain(201, shown.to_string());
    let durability = shared.intake.journal().durability();
    Ok(Answered::Other(reply::accepted(&answer, durability, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_has_four_forms() {
        let slug = |text: &str| OrganizationRef::Slug(text.to_owned());
        for (text, form) in [
            ("101", OrganizationRef::Id(OrganizationId(101))),
            ("69629023906488334", OrganizationRef::Numeric(String::from("69629023906488334"))),
            ("acme", slug("acme")),
            ("-1", slug("-1")),
            ("+1", slug("+1")),
            ("", slug("")),
        ] {
            assert_eq!(organization_ref(text), form, "{text}");
        }
        let uuid = "09e431b3-1e59-4c2d-9a35-6a3f4d1b7c55";
        assert_eq!(organization_ref(uuid), OrganizationRef::Uuid(uuid.parse().unwrap()));
        let object = "5f1d7a8b9c0d1e2f3a4b5c6d";
        assert_eq!(organization_ref(object), OrganizationRef::ObjectId(object.parse().unwrap()));
    }
}
