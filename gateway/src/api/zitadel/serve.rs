//! One call from its headers to its answer: who calls, for which organization, and what it asks.

use super::answer::Answer;
use super::command::{self, Command, Form};
use super::fault::Fault;
use super::grpc;
use super::rpc::{Needs, Rpc};
use super::transport::Transport;
use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::auth::Caller;
use crate::model::Organization;
use crate::server::Request;
use crate::store::OrganizationRef;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use std::sync::Arc;

const ORGANIZATION: HeaderName = HeaderName::from_static("x-zitadel-orgid");
/// Digits of an organization's number.
const NUMERIC_MAX: usize = 20;

/// Serves one call within the time its caller gives it.
pub(super) async fn serve(
    shared: &Shared,
    rpc: Rpc,
    transport: Transport,
    request: Request,
    parameter: Option<String>,
) -> Result<Answer, Fault> {
    let wait = match transport {
        Transport::Rest => Ok(None),
        _ => grpc::timeout(&request.headers),
    };
    let limit = wait.as_ref().ok().copied().flatten();
    let work = async {
        let access = access(shared, rpc, &request.headers).await?;
        wait?;
        let body = body(shared, rpc, transport, request).await?;
        let form = match transport {
            Transport::Rest => Form::Json(&body),
            _ => Form::Protobuf(grpc::unframe(&body)?),
        };
        perform(shared, access, command::read(rpc, form, parameter)?).await
    };
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Failure::new(FailureClass::Timeout, "the caller's time is over").into())
        }),
    }
}

/// Who calls, and the organization the call is about.
struct Access {
    caller: Arc<Caller>,
    organization: Arc<Organization>,
}

/// Authenticates, finds the organization, checks the right, in this order.
async fn access(shared: &Shared, rpc: Rpc, headers: &HeaderMap) -> Result<Option<Access>, Fault> {
    let needs = rpc.needs();
    if needs == Needs::Nothing {
        return Ok(None);
    }
    let caller = shared.caller(headers)?;
    shared.throttle(caller.organization)?;
    let organization = organization(shared, &caller, headers).await?;
    match needs {
        Needs::Nothing => {}
        Needs::Organization(permission) => drop(shared.require(&caller, permission).await?),
        Needs::Instance(permission) => drop(shared.require(&caller, permission).await?),
    }
    Ok(Some(Access { caller, organization }))
}

/// The organization of `x-zitadel-orgid`, or the caller's own. One that is not there and one the
/// caller may not act for are told apart by nothing.
async fn organization(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Arc<Organization>, Fault> {
    let mut sent = headers.get_all(ORGANIZATION).iter();
    let which = match (sent.next(), sent.next()) {
        (None, _) => OrganizationRef::Id(caller.organization),
        (Some(id), None) if id.is_empty() => OrganizationRef::Id(caller.organization),
        (Some(id), None) => {
            let id = id.to_str().map_err(|_| Fault::organization())?;
            let is_numeric = (1..=NUMERIC_MAX).contains(&id.len())
                && id.bytes().all(|digit| digit.is_ascii_digit());
            if !is_numeric {
                return Err(Fault::organization());
            }
            OrganizationRef::Numeric(id.to_owned())
        }
        (Some(_), Some(_)) => return Err(Fault::organization()),
    };
    match shared.reach(caller, which).await? {
        Some((organization, true)) => Ok(organization),
        _ => Err(Fault::organization()),
    }
}

/// The bytes of the request, or none where the form has its fields elsewhere.
async fn body(
    shared: &Shared,
    rpc: Rpc,
    transport: Transport,
    request: Request,
) -> Result<Bytes, Fault> {
    match transport {
        Transport::OtherMessages => Err(Fault::unimplemented("messages are protobuf")),
        Transport::Grpc(_) | Transport::GrpcWeb(_) => {
            let max = grpc::MESSAGE_MAX + 5;
            Ok(request.body.read(max).await.map_err(Failure::from)?)
        }
        Transport::Rest if Rpc::of_grpc_path(request.path()).is_some() => {
            let text = "send the call as application/grpc or application/grpc-web+proto";
            Err(Failure::new(FailureClass::UnsupportedMediaType, text).into())
        }
        Transport::Rest if !rpc.has_body() => Ok(Bytes::new()),
        Transport::Rest => {
            let says_nothing = !request.headers.contains_key(http::header::CONTENT_TYPE);
            if says_nothing && request.body.declared_len() == Some(0) {
                return Ok(Bytes::new());
            }
            Ok(shared.json_body(request).await?.1)
        }
    }
}

async fn perform(
    shared: &Shared,
    access: Option<Access>,
    command: Command,
) -> Result<Answer, Fault> {
    match (command, access) {
        (Command::Healthz, _) | (_, None) => Ok(Answer::Empty),
        (command, Some(access)) => Ok(Answer::Empty),
    }
}
