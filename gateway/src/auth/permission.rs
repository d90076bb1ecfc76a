//! The rights there are, and their names in each dialect.

/// One right. The bit is its place in a stored [`PermissionSet`] and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    NotificationSend,
    SubscriptionList,
    SubscriptionGet,
    SubscriptionCreate,
    SubscriptionUpdate,
    SubscriptionDelete,
    UserView,
    UserInvite,
    UserEdit,
    UserTransfer,
    PolicyRead,
    PolicyWrite,
    PolicyDelete,
}

impl Permission {
    pub const ALL: [Self; 13] = [
        Self::NotificationSend,
        Self::SubscriptionList,
        Self::SubscriptionGet,
        Self::SubscriptionCreate,
        Self::SubscriptionUpdate,
        Self::SubscriptionDelete,
        Self::UserView,
        Self::UserInvite,
        Self::UserEdit,
        Self::UserTransfer,
        Self::PolicyRead,
        Self::PolicyWrite,
        Self::PolicyDelete,
    ];

    /// The canonical name, as roles store it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotificationSend => "notification.send",
            Self::SubscriptionList => "subscription.list",
            Self::SubscriptionGet => "subscription.get",
            Self::SubscriptionCreate => "subscription.create",
            Self::SubscriptionUpdate => "subscription.update",
            Self::SubscriptionDelete => "subscription.delete",
            Self::UserView => "user.view",
            Self::UserInvite => "user.invite",
            Self::UserEdit => "user.edit",
            Self::UserTransfer => "user.transfer",
            Self::PolicyRead => "policy.read",
            Self::PolicyWrite => "policy.write",
            Self::PolicyDelete => "policy.delete",
        }
    }

    /// The name in the dialect that documents this right, if one does: Applivery's for
    /// subscriptions, Blynk's for users, ZITADEL's (the canonical one) for policies.
    #[must_use]
    pub fn dialect_name(self) -> Option<&'static str> {
        match self {
            Self::NotificationSend => None,
            Self::SubscriptionList => Some("base.organization.notification.list"),
            Self::SubscriptionGet => Some("base.organization.notification.get"),
            Self::SubscriptionCreate => Some("base.organization.notification.create"),
            Self::SubscriptionUpdate => Some("base.organization.notification.update"),
            Self::SubscriptionDelete => Some("base.organization.notification.delete"),
            Self::UserView => Some("ORG_VIEW_USERS"),
            Self::UserInvite => Some("ORG_INVITE_USERS"),
            Self::UserEdit => Some("ORG_EDIT_USERS"),
            Self::UserTransfer => Some("TRANSFER_USER"),
            Self::PolicyRead | Self::PolicyWrite | Self::PolicyDelete => Some(self.as_str()),
        }
    }

    /// The right called `name`, canonically or in its dialect; exact, as permissions must be.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name || p.dialect_name() == Some(name))
    }

    fn bit(self) -> u32 {
        1 << match self {
            Self::NotificationSend => 0,
            Self::SubscriptionList => 1,
            Self::SubscriptionGet => 2,
            Self::SubscriptionCreate => 3,
            Self::SubscriptionUpdate => 4,
            Self::SubscriptionDelete => 5,
            Self::UserView => 6,
            Self::UserInvite => 7,
            Self::UserEdit => 8,
            Self::UserTransfer => 9,
            Self::PolicyRead => 10,
            Self::PolicyWrite => 11,
            Self::PolicyDelete => 12,
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermissionSet(u32);

impl PermissionSet {
    /// Every right there is.
    #[must_use]
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// The rights among `names`. Other names are rights of a later release or of another system
    /// and grant nothing.
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(Permission::named).collect()
    }

    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// The rights in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The canonical names, in the order of [`Permission::ALL`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p)).map(Permission::as_str)
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        Self(permissions.into_iter().fold(0, |bits, p| bits | p.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_own_right() {
        for permission in Permission::ALL {
            assert_eq!(Permission::named(permission.as_str()), Some(permission));
            if let Some(name) = permission.dialect_name() {
                assert_eq!(Permission::named(name), Some(permission));
            }
        }
        assert_eq!(Permission::named("org_view_users"), None);
        assert_eq!(PermissionSet::all().names().count(), Permission::ALL.len());
    }

    #[test]
    fn unknown_names_grant_nothing() {
        let set = PermissionSet::of_names(["TRANSFER_USER", "policy.read", "root", ""]);
        assert_eq!(set.names().collect::<Vec<_>>(), ["user.transfer", "policy.read"]);
        assert!(!set.and(PermissionSet::default()).contains(Permission::PolicyRead));
    }
}
