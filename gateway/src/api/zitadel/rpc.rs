//! The calls that are served, and the right each needs.

use crate::auth::Permission;

/// What a caller must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Not even a token.
    Nothing,
    /// A right in the organization the call is about.
    Organization(Permission),
    /// A right on the whole server.
    Instance(Permission),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rpc {
    Healthz,
    GetMyOrg,
    GetPolicy,
    GetDefaultPolicy,
    AddPolicy,
    UpdatePolicy,
    ResetPolicy,
    GetText,
    GetDefaultText,
    SetText,
    ResetText,
    SetPassword,
    AdminGetPolicy,
    AdminAddPolicy,
    AdminUpdatePolicy,
}

impl Rpc {
    /// Every call, for tables.
    #[cfg(test)]
    pub(super) const ALL: [Self; 15] = [
        Self::Healthz,
        Self::GetMyOrg,
        Self::GetPolicy,
        Self::GetDefaultPolicy,
        Self::AddPolicy,
        Self::UpdatePolicy,
        Self::ResetPolicy,
        Self::GetText,
        Self::GetDefaultText,
        Self::SetText,
        Self::ResetText,
        Self::SetPassword,
        Self::AdminGetPolicy,
        Self::AdminAddPolicy,
        Self::AdminUpdatePolicy,
    ];

    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Healthz => Needs::Nothing,
            Self::GetMyOrg => Needs::Organization(Permission::UserView),
            Self::GetPolicy | Self::GetDefaultPolicy | Self::GetText | Self::GetDefaultText => {
                Needs::Organization(Permission::PolicyRead)
            }
            Self::AddPolicy | Self::UpdatePolicy | Self::SetText => {
                Needs::Organization(Permission::PolicyWrite)
            }
            Self::ResetPolicy | Self::ResetText => Needs::Organization(Permission::PolicyDelete),
            Self::SetPassword => Needs::Organization(Permission::UserEdit),
            Self::AdminGetPolicy => Needs::Instance(Permission::PolicyRead),
            Self::AdminAddPolicy | Self::AdminUpdatePolicy => {
                Needs::Instance(Permission::PolicyWrite)
            }
        }
    }
}
