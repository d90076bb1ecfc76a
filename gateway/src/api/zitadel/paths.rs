//! The paths of every call: REST, where method and path say what is asked, and gRPC.

use super::rpc::Rpc;
use super::serve::serve;
use crate::api::route::{Call, Endpoint, Work};
use http::Method;

/// REST. gRPC is answered there too, as the product's page lists it.
pub(in crate::api) const ENDPOINTS: &[Endpoint] = &[
    endpoint(Method::GET, &["/management/v1/healthz"], |call| run(call, Rpc::Healthz)),
    endpoint(Method::GET, &["/management/v1/orgs/me"], |call| run(call, Rpc::GetMyOrg)),
    endpoint(Method::GET, &["/management/v1/policies/notification"], |call| {
        run(call, Rpc::GetPolicy)
    }),
    endpoint(Method::GET, &["/management/v1/policies/default/notification"], |call| {
        run(call, Rpc::GetDefaultPolicy)
    }),
    endpoint(Method::POST, &["/management/v1/policies/notification"], |call| {
        run(call, Rpc::AddPolicy)
    }),
    endpoint(Method::PUT, &["/management/v1/policies/notification"], |call| {
        run(call, Rpc::UpdatePolicy)
    }),
    endpoint(Method::DELETE, &["/management/v1/policies/notification"], |call| {
        run(call, Rpc::ResetPolicy)
    }),
    endpoint(Method::GET, &["/management/v1/text/message/password_change/{language}"], |call| {
        run(call, Rpc::GetText)
    }),
    endpoint(
        Method::GET,
        &["/management/v1/text/default/message/password_change/{language}"],
        |call| run(call, Rpc::GetDefaultText),
    ),
    endpoint(Method::PUT, &["/management/v1/text/message/password_change/{language}"], |call| {
        run(call, Rpc::SetText)
    }),
    endpoint(Method::DELETE, &["/management/v1/text/message/password_change/{language}"], |call| {
        run(call, Rpc::ResetText)
    }),
    endpoint(Method::POST, &["/management/v1/users/{user_id}/password"], |call| {
        run(call, Rpc::SetPassword)
    }),
    endpoint(Method::GET, &["/admin/v1/healthz"], |call| run(call, Rpc::Healthz)),
    endpoint(Method::GET, &["/admin/v1/policies/notification"], |call| {
        run(call, Rpc::AdminGetPolicy)
    }),
    endpoint(Method::POST, &["/admin/v1/policies/notification"], |call| {
        run(call, Rpc::AdminAddPolicy)
    }),
    endpoint(Method::PUT, &["/admin/v1/policies/notification"], |call| {
        run(call, Rpc::AdminUpdatePolicy)
    }),
];

/// gRPC and gRPC-web.
pub(in crate::api) const GRPC: &[Endpoint] = &[
    endpoint(Method::POST, &["/zitadel.management.v1.ManagementService/Healthz"], |call| {
        run(call, Rpc::Healthz)
    }),
    endpoint(Method::POST, &["/zitadel.management.v1.ManagementService/GetMyOrg"], |call| {
        run(call, Rpc::GetMyOrg)
    }),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/GetNotificationPolicy"],
        |call| run(call, Rpc::GetPolicy),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/GetDefaultNotificationPolicy"],
        |call| run(call, Rpc::GetDefaultPolicy),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/AddCustomNotificationPolicy"],
        |call| run(call, Rpc::AddPolicy),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/UpdateCustomNotificationPolicy"],
        |call| run(call, Rpc::UpdatePolicy),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/ResetNotificationPolicyToDefault"],
        |call| run(call, Rpc::ResetPolicy),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/GetCustomPasswordChangeMessageText"],
        |call| run(call, Rpc::GetText),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/GetDefaultPasswordChangeMessageText"],
        |call| run(call, Rpc::GetDefaultText),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/SetCustomPasswordChangeMessageCustomText"],
        |call| run(call, Rpc::SetText),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/ResetCustomPasswordChangeMessageTextToDefault"],
        |call| run(call, Rpc::ResetText),
    ),
    endpoint(
        Method::POST,
        &["/zitadel.management.v1.ManagementService/SetHumanPassword"],
        |call| run(call, Rpc::SetPassword),
    ),
    endpoint(Method::POST, &["/zitadel.admin.v1.AdminService/Healthz"], |call| {
        run(call, Rpc::Healthz)
    }),
    endpoint(Method::POST, &["/zitadel.admin.v1.AdminService/GetNotificationPolicy"], |call| {
        run(call, Rpc::AdminGetPolicy)
    }),
    endpoint(Method::POST, &["/zitadel.admin.v1.AdminService/AddNotificationPolicy"], |call| {
        run(call, Rpc::AdminAddPolicy)
    }),
    endpoint(Method::POST, &["/zitadel.admin.v1.AdminService/UpdateNotificationPolicy"], |call| {
        run(call, Rpc::AdminUpdatePolicy)
    }),
];

const fn endpoint(
    method: Method,
    patterns: &'static [&'static str],
    work: fn(Call) -> Work,
) -> Endpoint {
    Endpoint { method, patterns, work }
}

fn run(call: Call, rpc: Rpc) -> Work {
    Box::pin(serve(call, rpc))
}
