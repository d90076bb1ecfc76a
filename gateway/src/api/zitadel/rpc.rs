//! The calls that are served: their names in gRPC, their paths in REST, and the right each needs.

use crate::auth::Permission;
use http::Method;

/// A gRPC service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    Management,
    Admin,
}

impl Package {
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Management => "zitadel.management.v1.ManagementService",
            Self::Admin => "zitadel.admin.v1.AdminService",
        }
    }
}

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
    AdminHealthz,
    AdminGetPolicy,
    AdminAddPolicy,
    AdminUpdatePolicy,
}

impl Rpc {
    pub(super) const ALL: [Self; 16] = [
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
        Self::AdminHealthz,
        Self::AdminGetPolicy,
        Self::AdminAddPolicy,
        Self::AdminUpdatePolicy,
    ];

    /// Service and method, as the descriptors name them.
    pub(super) fn grpc_name(self) -> (Package, &'static str) {
        let management = |name| (Package::Management, name);
        let admin = |name| (Package::Admin, name);
        match self {
            Self::Healthz => management("Healthz"),
            Self::GetMyOrg => management("GetMyOrg"),
            Self::GetPolicy => management("GetNotificationPolicy"),
            Self::GetDefaultPolicy => management("GetDefaultNotificationPolicy"),
            Self::AddPolicy => management("AddCustomNotificationPolicy"),
            Self::UpdatePolicy => management("UpdateCustomNotificationPolicy"),
            Self::ResetPolicy => management("ResetNotificationPolicyToDefault"),
            Self::GetText => management("GetCustomPasswordChangeMessageText"),
            Self::GetDefaultText => management("GetDefaultPasswordChangeMessageText"),
            Self::SetText => management("SetCustomPasswordChangeMessageCustomText"),
            Self::ResetText => management("ResetCustomPasswordChangeMessageTextToDefault"),
            Self::SetPassword => management("SetHumanPassword"),
            Self::AdminHealthz => admin("Healthz"),
            Self::AdminGetPolicy => admin("GetNotificationPolicy"),
            Self::AdminAddPolicy => admin("AddNotificationPolicy"),
            Self::AdminUpdatePolicy => admin("UpdateNotificationPolicy"),
        }
    }

    /// The call of that path, `/package.Service/Method`.
    pub(super) fn of_grpc_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        Self::ALL.into_iter().find(|rpc| {
            let (package, name) = rpc.grpc_name();
            package.service() == service && name == method
        })
    }

    /// Method and path of the REST form; a path has at most one parameter.
    pub(super) fn patterns(self) -> (Method, &'static str) {
        let policy = "/management/v1/policies/notification";
        let text = "/management/v1/text/message/password_change/{language}";
        let instance = "/admin/v1/policies/notification";
        match self {
            Self::Healthz => (Method::GET, "/management/v1/healthz"),
            Self::GetMyOrg => (Method::GET, "/management/v1/orgs/me"),
            Self::GetPolicy => (Method::GET, policy),
            Self::GetDefaultPolicy => (Method::GET, "/management/v1/policies/default/notification"),
            Self::AddPolicy => (Method::POST, policy),
            Self::UpdatePolicy => (Method::PUT, policy),
            Self::ResetPolicy => (Method::DELETE, policy),
            Self::GetText => (Method::GET, text),
            Self::GetDefaultText => {
                (Method::GET, "/management/v1/text/default/message/password_change/{language}")
            }
            Self::SetText => (Method::PUT, text),
            Self::ResetText => (Method::DELETE, text),
            Self::SetPassword => (Method::POST, "/management/v1/users/{user_id}/password"),
            Self::AdminHealthz => (Method::GET, "/admin/v1/healthz"),
            Self::AdminGetPolicy => (Method::GET, instance),
            Self::AdminAddPolicy => (Method::POST, instance),
            Self::AdminUpdatePolicy => (Method::PUT, instance),
        }
    }

    /// True if the REST form has its fields in a body; the others ignore one.
    pub(super) fn has_body(self) -> bool {
        matches!(self.patterns().0, Method::POST | Method::PUT)
    }

    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Healthz | Self::AdminHealthz => Needs::Nothing,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_grpc_path_and_no_other() {
        for rpc in Rpc::ALL {
            let (package, name) = rpc.grpc_name();
            assert_eq!(Rpc::of_grpc_path(&format!("/{}/{name}", package.service())), Some(rpc));
        }
        for path in [
            "/zitadel.management.v1.ManagementService/AddNotificationPolicy",
            "/zitadel.management.v1.ManagementService/addCustomNotificationPolicy",
            "/zitadel.management.v1.ManagementService/AddCustomNotificationPolicy/",
            "/zitadel.management.v1.ManagementService/",
            "/zitadel.management.v1.ManagementService",
            "zitadel.management.v1.ManagementService/Healthz",
            "//Healthz",
            "/",
            "",
        ] {
            assert_eq!(Rpc::of_grpc_path(path), None, "{path}");
        }
    }
}
