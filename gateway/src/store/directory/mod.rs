//! The import document: organizations, users, roles, subscriptions, clients as JSON, turned into changes.
//!
//! ```json
//! {"organizations": [{"id": 101, "name": "Acme", "slug": "acme", "tz": "Europe/Berlin"}],
//!  "roles": [{"id": 4, "organization": 101, "name": "Auditor", "permissions": ["ORG_VIEW"]}],
//!  "users": [{"id": 7, "organization": 101, "email": "ada@example.com", "name": "Ada", "role": 1,
//!    "devices": [{"platform": "apns", "app": "main", "token": "…"}],
//!    "memberships": [{"solution": "<uuid>", "groups": ["ops"]}]}],
//!  "subscriptions": [{"organization": 101, "type": "webhook", "url": "https://…", "events": ["*"]}],
//!  "clients": [{"organization": 101, "id": "oa2-client-id_…", "name": "shop", "secret": "…"}]}
//! ```
//!
//! Importing adds and replaces, never removes. An optional field that is absent keeps what the
//! store has; a new record gets a default. Names in the other dialects are minted once and kept,
//! and the ids of devices and subscriptions follow from their content, so the same document
//! imported twice changes nothing the second time.

use std::fmt;

use super::{Change, Store, StoreError};
use crate::model::{Millis, OrganizationId, Role, RoleId};

mod document;
mod fields;
pub mod names;
mod resolve;

#[cfg(test)]
mod tests;

/// Most problems one error lists; the rest are only counted.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// One thing wrong with an import document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as `users[3].email`; `line 2 column 7` when the document is not JSON.
    pub path: String,
    pub problem: String,
}

/// Everything wrong with an import document. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, Problem { path, problem }) in self.0.iter().enumerate() {
            if count == PROBLEMS_SHOWN_MAX {
                return write!(f, "\nand {} more", self.0.len().saturating_sub(count));
            }
            let line_break = if count == 0 { "" } else { "\n" };
            write!(f, "{line_break}{path}: {problem}")?;
        }
        Ok(())
    }
}

/// Why an import document cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// One line for each problem.
    #[error("{0}")]
    Invalid(Problems),
    #[error("the directory could not be compared with the store")]
    Store(#[from] StoreError),
}

/// The changes that bring `store` to what `document` says: apply them as one.
///
/// `now` becomes the creation time of new records. The store may refuse the changes if another
/// apply takes a name in between.
///
/// # Errors
/// Every problem of the document at once: first those it has by itself, then, if there are none,
/// those it has with what the store already holds.
pub async fn changes(
    document: &[u8],
    store: &dyn Store,
    now: Millis,
) -> Result<Vec<Change>, DirectoryError> {
    let document = document::parse(document).map_err(DirectoryError::Invalid)?;
    resolve::changes(document, store, now).await
}

/// The roles every organization starts with: 1 Admin, 2 Staff, 3 User.
#[must_use]
pub fn built_in_roles(org: OrganizationId) -> [Role; 3] {
    const STAFF: [&str; 4] =
        ["ORG_VIEW", "ORG_VIEW_USERS", "ORG_INVITE_USERS", "notification.send"];
    const ADMIN: [&str; 24] = [
        "ORG_SWITCH",
        "OWN_ORG_EDIT",
        "ORG_CREATE",
        "ORG_VIEW",
        "ORG_EDIT",
        "ORG_DELETE",
        "ORG_INVITE_USERS",
        "ORG_VIEW_USERS",
        "ORG_EDIT_USERS",
        "ORG_DELETE_USERS",
        "ROLE_CREATE",
        "ROLE_VIEW",
        "ROLE_EDIT",
        "ROLE_DELETE",
        "TRANSFER_USER",
        "notification.send",
        "base.organization.notification.list",
        "base.organization.notification.get",
        "base.organization.notification.create",
        "base.organization.notification.update",
        "base.organization.notification.delete",
        "policy.read",
        "policy.write",
        "policy.delete",
    ];
    let role = |id, name: &str, permissions: &[&str]| Role {
        id: RoleId(id),
        org,
        name: String::from(name),
        permissions: permissions.iter().map(|permission| String::from(*permission)).collect(),
    };
    [role(1, "Admin", &ADMIN), role(2, "Staff", &STAFF), role(3, "User", &[])]
}
