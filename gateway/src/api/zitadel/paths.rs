//! The paths of every call: REST, where method and path say what is asked, and gRPC.

use super::rpc::Rpc;
use super::serve::serve;
use crate::api::route::{Call, Endpoint, Work};
use http::Method;

/// REST. gRPC is answered there too, as the product's page lists it.
pub(in crate::api) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/healthz"],
        work: |call| run(call, Rpc::Healthz),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/orgs/me"],
        work: |call| run(call, Rpc::GetMyOrg),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/policies/notification"],
        work: |call| run(call, Rpc::GetPolicy),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/policies/default/notification"],
        work: |call| run(call, Rpc::GetDefaultPolicy),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/management/v1/policies/notification"],
        work: |call| run(call, Rpc::AddPolicy),
    },
    Endpoint {
        method: Method::PUT,
        patterns: &["/management/v1/policies/notification"],
        work: |call| run(call, Rpc::UpdatePolicy),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &["/management/v1/policies/notification"],
        work: |call| run(call, Rpc::ResetPolicy),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/text/message/password_change/{language}"],
        work: |call| run(call, Rpc::GetText),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/management/v1/text/default/message/password_change/{language}"],
        work: |call| run(call, Rpc::GetDefaultText),
    },
    Endpoint {
        method: Method::PUT,
        patterns: &["/management/v1/text/message/password_change/{language}"],
        work: |call| run(call, Rpc::SetText),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &["/management/v1/text/message/password_change/{language}"],
        work: |call| run(call, Rpc::ResetText),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/management/v1/users/{user_id}/password"],
        work: |call| run(call, Rpc::SetPassword),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/admin/v1/healthz"],
        work: |call| run(call, Rpc::Healthz),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/admin/v1/policies/notification"],
        work: |call| run(call, Rpc::AdminGetPolicy),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/admin/v1/policies/notification"],
        work: |call| run(call, Rpc::AdminAddPolicy),
    },
    Endpoint {
        method: Method::PUT,
        patterns: &["/admin/v1/policies/notification"],
        work: |call| run(call, Rpc::AdminUpdatePolicy),
    },
];

/// gRPC and gRPC-web.
pub(in crate::api) const GRPC: &[Endpoint] = &[
    grpc(&["/zitadel.management.v1.ManagementService/Healthz"], |call| run(call, Rpc::Healthz)),
    grpc(&["/zitadel.management.v1.ManagementService/GetMyOrg"], |call| run(call, Rpc::GetMyOrg)),
    grpc(&["/zitadel.management.v1.ManagementService/GetNotificationPolicy"], |call| {
        run(call, Rpc::GetPolicy)
    }),
    grpc(&["/zitadel.management.v1.ManagementService/GetDefaultNotificationPolicy"], |call| {
        run(call, Rpc::GetDefaultPolicy)
    }),
    grpc(&["/zitadel.management.v1.ManagementService/AddCustomNotificationPolicy"], |call| {
        run(call, Rpc::AddPolicy)
    }),
    grpc(&["/zitadel.management.v1.ManagementService/UpdateCustomNotificationPolicy"], |call| {
        run(call, Rpc::UpdatePolicy)
    }),
    grpc(&["/zitadel.management.v1.ManagementService/ResetNotificationPolicyToDefault"], |call| {
        run(call, Rpc::ResetPolicy)
    }),
    grpc(
        &["/zitadel.management.v1.ManagementService/GetCustomPasswordChangeMessageText"],
        |call| run(call, Rpc::GetText),
    ),
    grpc(
        &["/zitadel.management.v1.ManagementService/GetDefaultPasswordChangeMessageText"],
        |call| run(call, Rpc::GetDefaultText),
    ),
    grpc(
        &["/zitadel.management.v1.ManagementService/SetCustomPasswordChangeMessageCustomText"],
        |call| run(call, Rpc::SetText),
    ),
    grpc(
        &["/zitadel.management.v1.ManagementService/ResetCustomPasswordChangeMessageTextToDefault"],
        |call| run(call, Rpc::ResetText),
    ),
    grpc(&["/zitadel.management.v1.ManagementService/SetHumanPassword"], |call| {
        run(call, Rpc::SetPassword)
    }),
    grpc(&["/zitadel.admin.v1.AdminService/Healthz"], |call| run(call, Rpc::Healthz)),
    grpc(&["/zitadel.admin.v1.AdminService/GetNotificationPolicy"], |call| {
        run(call, Rpc::AdminGetPolicy)
    }),
    grpc(&["/zitadel.admin.v1.AdminService/AddNotificationPolicy"], |call| {
        run(call, Rpc::AdminAddPolicy)
    }),
    grpc(&["/zitadel.admin.v1.AdminService/UpdateNotificationPolicy"], |call| {
        run(call, Rpc::AdminUpdatePolicy)
    }),
];

const fn grpc(patterns: &'static [&'static str], work: fn(Call) -> Work) -> Endpoint {
    Endpoint { method: Method::POST, patterns, work }
}

fn run(call: Call, rpc: Rpc) -> Work {
    Box::pin(serve(call, rpc))
}
