//! Every right by its name, those that only one dialect knows too: who may give what to whom.

use super::{Permission, PermissionSet};
use crate::model::Role;
use std::collections::BTreeSet;

/// Names of rights, canonical where they have such a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights(BTreeSet<String>);

impl Rights {
    /// What a role grants.
    #[must_use]
    pub fn of_role(role: &Role) -> Self {
        role.permissions.iter().map(String::as_str).collect()
    }

    /// Only those that a token limited to `limit` has: never one that a single dialect knows.
    #[must_use]
    pub fn within(mut self, limit: PermissionSet) -> Self {
        self.0.retain(|name| Permission::named(name).is_some_and(|named| limit.contains(named)));
        self
    }

    /// True if every right of `other` is among these.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// True if these are all of `other` and more.
    #[must_use]
    pub fn exceed(&self, other: &Self) -> bool {
        self.cover(other) && self != other
    }

    /// True if the right called `name` is among these.
    #[must_use]
    pub fn hold(&self, name: &str) -> bool {
        self.0.contains(&canonical(name))
    }
}

impl<'a> FromIterator<&'a str> for Rights {
    fn from_iter<T: IntoIterator<Item = &'a str>>(names: T) -> Self {
        Self(names.into_iter().map(canonical).collect())
    }
}

impl Extend<Permission> for Rights {
    fn extend<T: IntoIterator<Item = Permission>>(&mut self, permissions: T) {
        self.0.extend(permissions.into_iter().map(|one| one.as_str().to_owned()));
    }
}

fn canonical(name: &str) -> String {
    Permission::named(name).map_or_else(|| name.to_owned(), |known| known.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(names: &[&str]) -> Rights {
        names.iter().copied().collect()
    }

    #[test]
    fn a_right_is_the_same_under_each_of_its_names() {
        assert_eq!(rights(&["ORG_VIEW_USERS", "ROLE_EDIT"]), rights(&["user.view", "ROLE_EDIT"]));
        assert!(rights(&["user.view"]).hold("ORG_VIEW_USERS"));
        assert!(rights(&["ORG_VIEW_USERS"]).hold("user.view"));
        assert!(!rights(&["ORG_VIEW_USERS"]).hold("ORG_VIEW"));
    }

    #[test]
    fn rights_of_one_dialect_count_like_any_other() {
        let (few, more) = (rights(&["user.edit"]), rights(&["user.edit", "ROLE_EDIT"]));
        assert!(!few.cover(&more) && more.cover(&few));
        assert!(more.exceed(&few) && !few.exceed(&more) && !more.exceed(&more));
        assert!(!rights(&["ROLE_EDIT"]).exceed(&few), "others are not more");
    }

    #[test]
    fn a_limit_leaves_no_right_of_one_dialect() {
        let limit: PermissionSet =
            [Permission::UserEdit, Permission::UserView].into_iter().collect();
        let left = rights(&["ORG_EDIT_USERS", "ROLE_EDIT", "policy.read"]).within(limit);
        assert_eq!(left, rights(&["user.edit"]));
    }
}
