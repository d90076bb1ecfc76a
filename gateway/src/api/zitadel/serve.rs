//! One call from its request to its answer, whatever its transport.

use super::answer::Answer;
use super::command::{self, Command, Form};
use super::context::{self, Context};
use super::fault::Fault;
use super::policy::Edit;
use super::rpc::{Needs, Rpc};
use super::transport::Transport;
use super::{grpc, password, policy, text};
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::Call;
use crate::api::shared::{Head, content_type};
use crate::api::{Answered, Shared, reply};
use crate::server::{Request, Response};
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use std::time::Duration;

/// Serves one call. What goes wrong is rendered here: only here its transport is known.
pub(super) async fn serve(call: Call, rpc: Rpc) -> Result<Answered, Failure> {
    let Call { shared, request, params, intake } = call;
    let transport = Transport::of(content_type(&request.headers));
    let parameter = params.0.into_iter().next().map(|(_, value)| value);
    let asked = Asked { rpc, transport, parameter };
    let answered = match wait(transport, &request) {
        Ok(None) => work(&shared, asked, request, None).await,
        Ok(Some(limit)) => {
            let work = tokio::time::timeout(limit, work(&shared, asked, request, None));
            work.await.unwrap_or_else(|_| {
                Err(Failure::new(FailureClass::Timeout, "the caller's time is over").into())
            })
        }
        Err(fault) => work(&shared, asked, request, Some(fault)).await,
    };
    Ok(match answered {
        Ok(Answered::Accepted(response)) => Answered::Accepted(transport.framed(response)),
        Ok(Answered::Replayed(response)) => Answered::Replayed(transport.framed(response)),
        Ok(Answered::Other(response)) => Answered::Other(transport.framed(response)),
        Err(fault) => {
            intake.rejected(fault.failure.class.code());
            Answered::Other(transport.refused(&fault))
        }
    })
}

struct Asked {
    rpc: Rpc,
    transport: Transport,
    /// What the path names, if it names anything.
    parameter: Option<String>,
}

fn wait(transport: Transport, request: &Request) -> Result<Option<Duration>, Fault> {
    if transport == Transport::Rest { Ok(None) } else { grpc::timeout(&request.headers) }
}

/// In the order of refusals: caller, organization, right, body. `malformed` is a fault of the
/// headers that counts as one of the body.
async fn work(
    shared: &Shared,
    asked: Asked,
    request: Request,
    malformed: Option<Fault>,
) -> Result<Answered, Fault> {
    let Asked { rpc, transport, parameter } = asked;
    // A repeated POST of REST may carry a key; gRPC has no other method.
    let may_repeat = request.method == Method::POST;
    let headers = request.headers.clone();
    // gRPC-web's clients send the body after the head, whatever is answered: if it is not read, an
    // HTTP/1 connection is reset and the answer lost with it.
    let early = match transport {
        Transport::Rest => Err(request),
        _ => Ok(call_body(transport, request).await),
    };
    let access = match rpc.needs() {
        Needs::Nothing => None,
        needs => Some(context::access(shared, needs, &headers).await?),
    };
    malformed.map_or(Ok(()), Err)?;
    let (head, body) = match early {
        Ok(read) => read?,
        Err(request) => rest_body(shared, request).await?,
    };
    let form = match transport {
        Transport::Rest => Form::Json(&body),
        _ => Form::Protobuf(grpc::unframe(&body)?),
    };
    let command = command::read(rpc, form, parameter)?;
    let Some(access) = access else {
        return Ok(Answered::Other(plain(transport, &Answer::Empty)));
    };
    let org = access.organization.id;
    let key = match &command {
        _ if !may_repeat => None,
        Command::SetPassword { .. } => shared.slow_key(&head, org, &body).await?,
        _ => head.key(org, &body)?,
    };
    perform(&Context { shared, access, head, key, transport }, command).await
}

/// A good answer that accepts nothing.
pub(super) fn plain(transport: Transport, answer: &Answer) -> Response {
    reply::json(200, transport.encode(answer))
}

/// The head and the bytes of a call by gRPC.
async fn call_body(transport: Transport, request: Request) -> Result<(Head, Bytes), Fault> {
    let Request { uri, headers, body, peer, .. } = request;
    let body = body.read(grpc::BODY_MAX).await.map_err(Failure::from)?;
    if transport == Transport::OtherMessages {
        return Err(Fault::unimplemented("messages are protobuf"));
    }
    Ok((Head::new(uri, headers, peer), body))
}

/// The head and the bytes of a call by REST; none where it has its fields elsewhere.
async fn rest_body(shared: &Shared, request: Request) -> Result<(Head, Bytes), Fault> {
    if request.path().starts_with("/zitadel.") {
        let text = "send the call as application/grpc or application/grpc-web+proto";
        return Err(Failure::new(FailureClass::UnsupportedMediaType, text).into());
    }
    let has_fields = matches!(request.method, Method::POST | Method::PUT);
    let says_nothing =
        !request.headers.contains_key(CONTENT_TYPE) && request.body.declared_len() == Some(0);
    if !has_fields || says_nothing {
        return Ok((Head::of(request), Bytes::new()));
    }
    Ok(shared.json_body(request).await?)
}

async fn perform(context: &Context<'_>, command: Command) -> Result<Answered, Fault> {
    match command {
        Command::Healthz => Ok(context.read(&Answer::Empty)),
        Command::GetMyOrg => context.my_organization().await,
        Command::GetPolicy => policy::get(context).await,
        Command::GetDefaultPolicy => policy::get_default(context).await,
        Command::AddPolicy { password_change } => {
            policy::edit(context, Edit::Add(password_change)).await
        }
        Command::UpdatePolicy { password_change } => {
            policy::edit(context, Edit::Update(password_change)).await
        }
        Command::ResetPolicy => policy::edit(context, Edit::Reset).await,
        Command::AddDefaultPolicy { password_change } => {
            policy::edit_default(context, Edit::Add(password_change)).await
        }
        Command::UpdateDefaultPolicy { password_change } => {
            policy::edit_default(context, Edit::Update(password_change)).await
        }
        Command::GetText { language } => text::get(context, language).await,
        Command::GetDefaultText { language } => text::get_default(context, language).await,
        Command::SetText { language, slots } => text::set(context, language, *slots).await,
        Command::ResetText { language } => text::reset(context, language).await,
        Command::SetPassword { user, password } => password::set(context, user, &password).await,
    }
}
