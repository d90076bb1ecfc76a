//! The HTTP dialects: which one owns a path, what it serves there, and how it says no.
//!
//! Order of refusals in every dialect: unknown route, no or bad token, organization, body.

pub(crate) mod failure;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod query;
pub(crate) mod reply;

mod applivery;
mod bearer;
mod blynk;
mod documents;
mod hooks;
mod identity;
mod jigx;
mod judged;
mod language;
mod limit;
mod native;
mod notice;
mod oauth;
mod passwords;
mod route;
mod screen;
mod shared;
mod signed;
mod tries;
mod zitadel;

#[cfg(test)]
mod tests;

pub use blynk::{Blynk, BlynkSettings};
pub use hooks::{ExchangeError, Hooks, NoHooks, SlackHook, Trial};
pub use identity::{Identity, IdentitySettings};
pub use jigx::States as NotificationStates;
pub use limit::SendLimit;
pub use route::operations;
pub use shared::{ApiSettings, BLYNK_BODY_MAX, Shared};

use crate::BoxFuture;
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::{Call, Dialect, Endpoint, Params, label_of, method_label, percent_decode};
use crate::api::screen::Load;
use crate::server::{Refusal, Request, Response, Service};
use crate::telemetry::metrics::{IntakeMetrics, RouteMetrics};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// Serves every dialect on one port.
pub struct Api {
    shared: Arc<Shared>,
    routes: matchit::Router<Vec<Served>>,
    intake_metrics: IntakeByDialect,
}

/// One operation of a path.
#[derive(Clone)]
struct Served {
    endpoint: &'static Endpoint,
    load: Load,
    metrics: Arc<RouteMetrics>,
}

struct IntakeByDialect {
    jigx: Arc<IntakeMetrics>,
    blynk: Arc<IntakeMetrics>,
    native: Arc<IntakeMetrics>,
}

impl Api {
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        let mut table: Vec<(&str, Vec<Served>)> = Vec::new();
        for (dialect, endpoint) in route::endpoints() {
            let label = endpoint.patterns.first().copied().unwrap_or_default();
            let method = method_label(&endpoint.method);
            let metrics = Arc::new(RouteMetrics::new(label_of(dialect), label, method));
            for pattern in endpoint.patterns {
                let load = Load::of(dialect, &endpoint.method, pattern);
                let served = Served { endpoint, load, metrics: Arc::clone(&metrics) };
                match table.iter_mut().find(|(known, _)| known == pattern) {
                    Some((_, all)) => all.push(served),
                    None => table.push((pattern, vec![served])),
                }
            }
        }
        let mut routes = matchit::Router::new();
        for (pattern, served) in table {
            // The patterns are constants; a clash is caught by the route test.
            routes.insert(pattern, served).ok();
        }
        let intake_metrics = IntakeByDialect {
            jigx: Arc::new(IntakeMetrics::new(label_of(Dialect::Jigx))),
            blynk: Arc::new(IntakeMetrics::new(label_of(Dialect::Blynk))),
            native: Arc::new(IntakeMetrics::new(label_of(Dialect::Native))),
        };
        Self { shared: Arc::new(shared), routes, intake_metrics }
    }

    /// The operation a request asks for, with its path parameters.
    fn route(&self, method: &Method, path: &str) -> Result<(&Served, Params), Failure> {
        let dialect = Dialect::of(path);
        let trimmed = match dialect {
            // These two products answer with and without one slash at the end.
            Dialect::Jigx | Dialect::Applivery => path.strip_suffix('/').unwrap_or(path),
            Dialect::Blynk | Dialect::Zitadel | Dialect::Oauth | Dialect::Native => path,
        };
        let unknown = || Failure::new(FailureClass::NotFound, "no such route");
        let found = self.routes.at(trimmed).map_err(|_| unknown())?;
        let mut params = Params::default();
        for (name, value) in found.params.iter() {
            params.0.push((name.to_owned(), percent_decode(value).ok_or_else(unknown)?));
        }
        let served = found.value.iter().find(|served| served.endpoint.method == *method);
        let wrong_method = || {
            let text = format!("this path serves {}", methods(found.value));
            Failure::new(FailureClass::MethodNotAllowed, text)
        };
        served.map(|served| (served, params)).ok_or_else(wrong_method)
    }

    fn allowed(&self, path: &str) -> Option<(HeaderName, HeaderValue)> {
        let found = self.routes.at(path).ok()?;
        Some((ALLOW, HeaderValue::try_from(methods(found.value)).ok()?))
    }
}

/// Does `call` unless its head is enough to refuse it.
async fn screened(
    dialect: Dialect,
    endpoint: &'static Endpoint,
    load: Load,
    call: Call,
) -> Result<Answered, Failure> {
    let Err(failure) = call.shared.screen(load, &call.request).await else {
        return (endpoint.work)(call).await;
    };
    if dialect != Dialect::Zitadel {
        return Err(failure);
    }
    // Rendered here: only the head tells which of its transports the call came by.
    call.intake.rejected(failure.class.code());
    let refused = dialect.refuse(call.request.headers.get(CONTENT_TYPE), &failure);
    Ok(Answered::Other(zitadel::after_body(call.request, refused).await))
}

fn methods(served: &[Served]) -> String {
    served.iter().map(|served| served.endpoint.method.as_str()).collect::<Vec<_>>().join(", ")
}

impl Service for Api {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let started = Instant::now();
        let media = request.headers.get(CONTENT_TYPE);
        let dialect = Dialect::of_request(request.path(), media);
        if dialect == Dialect::Jigx && request.method == Method::OPTIONS {
            return Box::pin(std::future::ready(dialect.finish(jigx::preflight())));
        }
        let (served, params) = match self.route(&request.method, request.path()) {
            Ok(found) => found,
            Err(failure) => {
                let mut response = dialect.refuse(media, &failure);
                if response.status() == StatusCode::METHOD_NOT_ALLOWED {
                    // RFC 9110 section 15.5.6: a 405 says what is allowed.
                    response.headers_mut().extend(self.allowed(request.path()));
                }
                if dialect == Dialect::Zitadel {
                    return Box::pin(zitadel::after_body(request, response));
                }
                return Box::pin(std::future::ready(dialect.finish(response)));
            }
        };
        let metrics = Arc::clone(&served.metrics);
        let intake = match dialect {
            Dialect::Jigx => &self.intake_metrics.jigx,
            Dialect::Blynk => &self.intake_metrics.blynk,
            Dialect::Applivery | Dialect::Zitadel | Dialect::Oauth | Dialect::Native => {
                &self.intake_metrics.native
            }
        };
        let intake = Arc::clone(intake);
        let shared = Arc::clone(&self.shared);
        let call = Call { shared, request, params, intake: Arc::clone(&intake) };
        let load = served.load;
        let work = if load != Load::Nothing && call.shared.intake.admission().is_pressed() {
            Box::pin(screened(dialect, served.endpoint, load, call))
        } else {
            (served.endpoint.work)(call)
        };
        Box::pin(async move {
            let response = match work.await {
                Ok(Answered::Accepted(response)) => {
                    intake.accepted(1);
                    response
                }
                Ok(Answered::Replayed(response)) => {
                    intake.replayed();
                    response
                }
                Ok(Answered::Other(response)) => response,
                Err(failure) => {
                    intake.rejected(failure.class.code());
                    dialect.render(&failure)
                }
            };
            metrics.answered(response.status().as_u16(), started.elapsed());
            dialect.finish(response)
        })
    }

    fn refuse(&self, path: &str, media: Option<&HeaderValue>, refusal: &Refusal) -> Response {
        let dialect = Dialect::of_request(path, media);
        dialect.finish(dialect.refuse(media, &Failure::from(refusal)))
    }
}

/// A good answer, by what it means for the counters.
pub(crate) enum Answered {
    Accepted(Response),
    Replayed(Response),
    Other(Response),
}
