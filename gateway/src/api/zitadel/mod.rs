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
mod fault;
mod grpc;
mod grpc_web;
mod json;
mod proto;
mod rpc;
mod serve;
mod transport;
mod wire;

use crate::BoxFuture;
use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::percent_decode;
use crate::api::shared::content_type;
use crate::server::{Request, Response};
use crate::telemetry::metrics::RouteMetrics;
use fault::Fault;
use http::header::ALLOW;
use http::{HeaderValue, Method};
use rpc::Rpc;
use std::sync::Arc;
use std::time::Instant;
use transport::Transport;

/// Serves everything under ZITADEL's paths.
pub(crate) struct Zitadel {
    routes: matchit::Router<Vec<(Method, Rpc)>>,
    metrics: Vec<(Rpc, Arc<RouteMetrics>)>,
}

/// Why a path and method are no call.
enum Unknown {
    Path,
    /// With the methods the path has.
    Method(String),
}

impl Zitadel {
    pub(crate) fn new() -> Self {
        let mut table: Vec<(&str, Vec<(Method, Rpc)>)> = Vec::new();
        let mut metrics = Vec::new();
        for rpc in Rpc::ALL {
            let (method, pattern) = rpc.patterns();
            let label = if method == Method::GET { "GET" } else { "POST" };
            metrics.push((rpc, Arc::new(RouteMetrics::new("zitadel", pattern, label))));
            match table.iter_mut().find(|(known, _)| *known == pattern) {
                Some((_, methods)) => methods.push((method, rpc)),
                None => table.push((pattern, vec![(method, rpc)])),
            }
        }
        let mut routes = matchit::Router::new();
        for (pattern, methods) in table {
            // The patterns are constants; a clash is caught by the route test.
            routes.insert(pattern, methods).ok();
        }
        Self { routes, metrics }
    }

    pub(crate) fn call(
        &self,
        shared: &Arc<Shared>,
        request: Request,
    ) -> BoxFuture<'static, Response> {
        let started = Instant::now();
        let transport = Transport::of(content_type(&request.headers));
        let (rpc, parameter) = match self.find(&request.method, request.path()) {
            Ok(found) => found,
            Err(unknown) => return Box::pin(std::future::ready(refuse(transport, &unknown))),
        };
        let metrics = self.metrics.iter().find(|(known, _)| *known == rpc);
        let metrics = metrics.map(|(_, metrics)| Arc::clone(metrics));
        let shared = Arc::clone(shared);
        Box::pin(async move {
            let response = match serve::serve(&shared, rpc, transport, request, parameter).await {
                Ok(answer) => transport.answered(&answer),
                Err(fault) => transport.refused(&fault),
            };
            if let Some(metrics) = metrics {
                metrics.answered(response.status().as_u16(), started.elapsed());
            }
            response
        })
    }

    /// The call of a method and path, with the path's parameter.
    fn find(&self, method: &Method, path: &str) -> Result<(Rpc, Option<String>), Unknown> {
        if let Some(rpc) = Rpc::of_grpc_path(path) {
            let is_post = *method == Method::POST;
            return if is_post { Ok((rpc, None)) } else { Err(Unknown::Method("POST".to_owned())) };
        }
        let found = self.routes.at(path).map_err(|_| Unknown::Path)?;
        let parameter = found.params.iter().next().map(|(_, text)| percent_decode(text));
        let parameter = parameter.map(|text| text.ok_or(Unknown::Path)).transpose()?;
        let rpc = found.value.iter().find(|(known, _)| known == method).map(|(_, rpc)| *rpc);
        let methods = || {
            let names: Vec<_> = found.value.iter().map(|(method, _)| method.as_str()).collect();
            Unknown::Method(names.join(", "))
        };
        Ok((rpc.ok_or_else(methods)?, parameter))
    }
}

/// A refusal of the server itself, in the form of the call's transport.
pub(crate) fn refuse_call(media: Option<&HeaderValue>, failure: &Failure) -> Response {
    let transport = Transport::of(media.and_then(|media| media.to_str().ok()));
    transport.refused(&Fault::from(failure.clone()))
}

fn refuse(transport: Transport, unknown: &Unknown) -> Response {
    if transport != Transport::Rest {
        return transport.refused(&Fault::unimplemented("unknown service or method"));
    }
    match unknown {
        Unknown::Path => {
            transport.refused(&Failure::new(FailureClass::NotFound, "no such route").into())
        }
        Unknown::Method(methods) => {
            let text = format!("this path serves {methods}");
            let failure = Failure::new(FailureClass::MethodNotAllowed, text);
            let mut response = transport.refused(&failure.into());
            // RFC 9110 section 15.5.6: a 405 says what is allowed.
            let allow = HeaderValue::try_from(methods).ok();
            response.headers_mut().extend(allow.map(|methods| (ALLOW, methods)));
            response
        }
    }
}
