//! ZITADEL: notification policy, message texts and passwords, over REST, gRPC and gRPC-web.
//!
//! ```text
//! path → Rpc ─┐                     ┌→ render   (JSON)
//!             ├→ Command → Answer ──┼→ grpc     (frame, trailers)
//! media type ─┘     (or Fault)      └→ grpc_web (frames)
//! ```

pub(crate) mod render;

mod answer;
mod command;
mod context;
mod fault;
mod grpc;
mod grpc_web;
mod json;
mod password;
mod paths;
mod policy;
mod proto;
mod rpc;
mod serve;
mod text;
mod transport;
mod wire;

pub(super) use paths::{ENDPOINTS, GRPC};

use crate::api::failure::{Failure, FailureClass};
use crate::server::{Request, Response};
use fault::Fault;
use http::HeaderValue;
use transport::Transport;

/// A failure found before the call was, in the form of the call's transport.
pub(super) fn refuse(media: Option<&HeaderValue>, failure: &Failure) -> Response {
    let transport = Transport::of(media.and_then(|media| media.to_str().ok()));
    let is_unknown =
        matches!(failure.class, FailureClass::NotFound | FailureClass::MethodNotAllowed);
    if is_unknown && transport != Transport::Rest {
        return transport.refused(&Fault::unimplemented("unknown service or method"));
    }
    transport.refused(&Fault::from(failure.clone()))
}

/// Gives an answer after the body of a gRPC call, which its caller sends in any case.
pub(super) async fn after_body(request: Request, answer: Response) -> Response {
    if answer.status().is_success() {
        request.body.read(grpc::BODY_MAX).await.ok();
    }
    answer
}
