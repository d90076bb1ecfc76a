//! What changes made stale in memory.

use crate::model::{Millis, OrganizationId, RoleId, UserId};
use crate::store::UserRef;

/// What one commit made stale.
#[derive(Debug, Default)]
pub(in crate::store) struct Touched {
    /// Organizations that were put; all cached ones go, since each has five names.
    pub(in crate::store) organizations: Vec<OrganizationId>,
    /// Organizations with another name or parent than before, and their parents before.
    pub(in crate::store) reshaped: Vec<(OrganizationId, Option<OrganizationId>)>,
    pub(in crate::store) roles: Vec<(OrganizationId, RoleId)>,
    pub(in crate::store) users: Vec<UserRef>,
    pub(in crate::store) devices: Vec<UserId>,
    pub(in crate::store) subscriptions: Vec<OrganizationId>,
    pub(in crate::store) revoked: Vec<(String, Millis)>,
    pub(in crate::store) unrevoked: Vec<String>,
}

impl Touched {
    /// What both made stale.
    pub(in crate::store) fn add(&mut self, more: Self) {
        self.organizations.extend(more.organizations);
        self.reshaped.extend(more.reshaped);
        self.roles.extend(more.roles);
        self.users.extend(more.users);
        self.devices.extend(more.devices);
        self.subscriptions.extend(more.subscriptions);
        self.revoked.extend(more.revoked);
        self.unrevoked.extend(more.unrevoked);
    }
}
