//! The HTTP dialects: which one owns a path, what it serves there, and how it says no.
//!
//! Order of refusals in every dialect: unknown route, no or bad token, organization, body.

pub(crate) mod failure;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod reply;

mod applivery;
mod blynk;
mod jigx;
mod limit;
mod native;
mod route;
mod shared;
mod zitadel;

#[cfg(test)]
mod tests;

pub use limit::SendLimit;
pub use shared::{ApiSettings, BLYNK_BODY_MAX, Shared};

use crate::BoxFuture;
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::{Dialect, Route, label_of, method_label, percent_decode};
use crate::openapi::Documents;
use crate::server::{Refusal, Request, Response, Service};
use crate::telemetry::metrics::{IntakeMetrics, RouteMetrics};
use http::header::ALLOW;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// Serves every dialect on one port.
pub struct Api {
    shared: Arc<Shared>,
    routes: matchit::Router<Vec<(Method, Route)>>,
    metrics: Vec<(Route, Arc<RouteMetrics>)>,
    intake_metrics: IntakeByDialect,
    documents: Documents,
}

struct IntakeByDialect {
    jigx: Arc<IntakeMetrics>,
    blynk: Arc<IntakeMetrics>,
    native: Arc<IntakeMetrics>,
}

impl Api {
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        let mut table: Vec<(&str, Vec<(Method, Route)>)> = Vec::new();
        let mut metrics = Vec::new();
        for route in Route::ALL {
            let (method, patterns) = route.patterns();
            for pattern in patterns {
                match table.iter_mut().find(|(known, _)| known == pattern) {
                    Some((_, methods)) => methods.push((method.clone(), route)),
                    None => table.push((pattern, vec![(method.clone(), route)])),
                }
            }
            let label = patterns.first().copied().unwrap_or_default();
            let dialect = label_of(route.dialect());
            metrics
                .push((route, Arc::new(RouteMetrics::new(dialect, label, method_label(&method)))));
        }
        let mut routes = matchit::Router::new();
        for (pattern, methods) in table {
            // The patterns are constants of this file; a clash is caught by the route test.
            routes.insert(pattern, methods).ok();
        }
        let intake_metrics = IntakeByDialect {
            jigx: Arc::new(IntakeMetrics::new(label_of(Dialect::Jigx))),
            blynk: Arc::new(IntakeMetrics::new(label_of(Dialect::Blynk))),
            native: Arc::new(IntakeMetrics::new(label_of(Dialect::Native))),
        };
        let documents = Documents::get();
        Self { shared: Arc::new(shared), routes, metrics, intake_metrics, documents }
    }

    /// The route of a request, with its path parameter.
    fn route(&self, method: &Method, path: &str) -> Result<(Route, String), Failure> {
        let dialect = Dialect::of(path);
        let trimmed = match dialect {
            // These two products answer with and without one slash at the end.
            Dialect::Jigx | Dialect::Applivery => path.strip_suffix('/').unwrap_or(path),
            Dialect::Blynk | Dialect::Zitadel | Dialect::Native => path,
        };
        let unknown = || Failure::new(FailureClass::NotFound, "no such route");
        let found = self.routes.at(trimmed).map_err(|_| unknown())?;
        let parameter = found.params.iter().next().map_or("", |(_, value)| value);
        let parameter = percent_decode(parameter).ok_or_else(unknown)?;
        let route = found.value.iter().find(|(known, _)| known == method);
        let wrong_method = || {
            let text = format!("this path serves {}", methods(found.value));
            Failure::new(FailureClass::MethodNotAllowed, text)
        };
        route.map(|(_, route)| (*route, parameter)).ok_or_else(wrong_method)
    }

    fn allowed(&self, path: &str) -> Option<(HeaderName, HeaderValue)> {
        let found = self.routes.at(path).ok()?;
        Some((ALLOW, HeaderValue::try_from(methods(found.value)).ok()?))
    }
}

/// Every method and path pattern that is served, for whoever compares documents with them.
pub fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    Route::ALL.into_iter().flat_map(|route| {
        let (method, patterns) = route.patterns();
        patterns.iter().map(move |pattern| (method.clone(), *pattern))
    })
}

fn methods(served: &[(Method, Route)]) -> String {
    served.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ")
}

impl Api {
    /// The handler's future, each route's in a box of its own size: one for all would be as large
    /// as the largest, and moved for every request.
    fn work(
        &self,
        route: Route,
        request: Request,
        parameter: String,
        intake: &Arc<IntakeMetrics>,
    ) -> BoxFuture<'static, Result<Answered, Failure>> {
        let shared = Arc::clone(&self.shared);
        match route {
            Route::JigxCreate => Box::pin(jigx::create(shared, request, parameter)),
            Route::BlynkPush => Box::pin(blynk::push(shared, request)),
            Route::NativeSend => Box::pin(native::send(shared, request)),
            Route::NativeBatch => Box::pin(native::batch(shared, request, Arc::clone(intake))),
            Route::NativeTimeline => Box::pin(native::timeline(shared, request, parameter)),
            Route::OpenApi => {
                let found = self.documents.reply(request.path(), &request.headers);
                let answer = found.map(Answered::Other).ok_or_else(|| {
                    Failure::new(FailureClass::NotFound, "no document has this name")
                });
                Box::pin(std::future::ready(answer))
            }
        }
    }
}

impl Service for Api {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let started = Instant::now();
        let dialect = Dialect::of(request.path());
        let (route, parameter) = match self.route(&request.method, request.path()) {
            Ok(found) => found,
            Err(failure) => {
                let mut response = dialect.render(&failure);
                if response.status() == StatusCode::METHOD_NOT_ALLOWED {
                    // RFC 9110 section 15.5.6: a 405 says what is allowed.
                    response.headers_mut().extend(self.allowed(request.path()));
                }
                return Box::pin(std::future::ready(response));
            }
        };
        let metrics = self.metrics.iter().find(|(known, _)| *known == route);
        let metrics = metrics.map(|(_, metrics)| Arc::clone(metrics));
        let intake = match dialect {
            Dialect::Jigx => &self.intake_metrics.jigx,
            Dialect::Blynk => &self.intake_metrics.blynk,
            Dialect::Applivery | Dialect::Zitadel | Dialect::Native => &self.intake_metrics.native,
        };
        let intake = Arc::clone(intake);
        let work = self.work(route, request, parameter, &intake);
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
            if let Some(metrics) = metrics {
                metrics.answered(response.status().as_u16(), started.elapsed());
            }
            response
        })
    }

    fn refuse(&self, path: &str, refusal: &Refusal) -> Response {
        Dialect::of(path).render(&Failure::from(refusal))
    }
}

/// A good answer, by what it means for the counters.
pub(crate) enum Answered {
    Accepted(Response),
    Replayed(Response),
    Other(Response),
}
