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
mod native;
mod zitadel;

#[cfg(test)]
mod tests;

use crate::BoxFuture;
use crate::api::failure::{Failure, FailureClass};
use crate::auth::{Caller, Permission, PermissionSet, Scope, TokenVerifier, bearer};
use crate::intake::{Answer, Intake, KeyState, RequestKey};
use crate::model::{Organization, OrganizationId, User, UserStatus};
use crate::server::{Refusal, Request, Response, Service};
use crate::store::{OrganizationRef, Store, UserRef};
use crate::telemetry::metrics::{IntakeMetrics, RouteMetrics};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Blynk documents a request limit of 2 MB.
pub const BLYNK_BODY_MAX: u64 = 2_000_000;
/// Organizations above the one a token names; the tree is at most this deep.
const TREE_DEPTH_MAX: usize = 16;

/// Sizes and names the API needs from the configuration.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    pub max_body: u64,
    pub bulk_max_body: u64,
    /// Printed in Jigx answers.
    pub region: String,
}

/// What the handlers share.
#[derive(Debug)]
pub struct Shared {
    pub intake: Intake,
    pub store: Arc<dyn Store>,
    pub verifier: TokenVerifier,
    pub settings: ApiSettings,
}

/// A family of paths with its own bodies and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Jigx,
    Applivery,
    Blynk,
    Zitadel,
    Native,
}

impl Dialect {
    /// The dialect that owns `path`; what nobody owns is answered by the native API.
    fn of(path: &str) -> Self {
        let under = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        if under("/v2.0/tool") || under("/tool") {
            Self::Jigx
        } else if under("/v1/organizations") {
            Self::Applivery
        } else if under("/api/v1") {
            Self::Blynk
        } else if under("/management/v1") || under("/admin/v1") {
            Self::Zitadel
        } else {
            Self::Native
        }
    }

    fn render(self, failure: &Failure) -> Response {
        match self {
            Self::Jigx => jigx::render::render(failure),
            Self::Applivery => applivery::render::render(failure),
            Self::Blynk => blynk::render::render(failure),
            Self::Zitadel => zitadel::render::render(failure),
            Self::Native => native::render::render(failure),
        }
    }
}

/// What a path and method mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    JigxCreate,
    BlynkPush,
    NativeSend,
    NativeBatch,
    NativeTimeline,
}

impl Route {
    const ALL: [Self; 5] = [
        Self::JigxCreate,
        Self::BlynkPush,
        Self::NativeSend,
        Self::NativeBatch,
        Self::NativeTimeline,
    ];

    fn dialect(self) -> Dialect {
        match self {
            Self::JigxCreate => Dialect::Jigx,
            Self::BlynkPush => Dialect::Blynk,
            Self::NativeSend | Self::NativeBatch | Self::NativeTimeline => Dialect::Native,
        }
    }

    /// Method and path patterns.
    fn patterns(self) -> (Method, &'static [&'static str]) {
        match self {
            Self::JigxCreate => (
                Method::POST,
                &[
                    "/v2.0/tool/organizations/{org}/notifications",
                    "/tool/organizations/{org}/notifications",
                ],
            ),
            Self::BlynkPush => {
                (Method::POST, &["/api/v1/organization/users/send-push-notification"])
            }
            Self::NativeSend => (Method::POST, &["/bugler/v1/notifications"]),
            Self::NativeBatch => (Method::POST, &["/bugler/v1/notifications:batch"]),
            Self::NativeTimeline => (
                Method::GET,
                &["/bugler/v1/notifications/{id}", "/bugler/v1/notifications/{id}/trace"],
            ),
        }
    }
}

/// Serves every dialect on one port.
pub struct Api {
    shared: Arc<Shared>,
    routes: matchit::Router<Vec<(Method, Route)>>,
    metrics: Vec<(Route, Arc<RouteMetrics>)>,
    intake_metrics: IntakeByDialect,
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
        Self { shared: Arc::new(shared), routes, metrics, intake_metrics }
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

fn methods(served: &[(Method, Route)]) -> String {
    served.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ")
}

fn label_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Jigx => "jigx",
        Dialect::Applivery => "applivery",
        Dialect::Blynk => "blynk",
        Dialect::Zitadel => "zitadel",
        Dialect::Native => "native",
    }
}

fn method_label(method: &Method) -> &'static str {
    if method == Method::GET { "GET" } else { "POST" }
}

/// Percent-decoding of one path segment; `None` if it is not UTF-8 or decodes to a separator.
fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    let is_safe = !text.chars().any(|c| c.is_control() || c == '/');
    is_safe.then_some(text)
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
        let shared = Arc::clone(&self.shared);
        let metrics = self.metrics.iter().find(|(known, _)| *known == route);
        let metrics = metrics.map(|(_, metrics)| Arc::clone(metrics));
        let intake = match dialect {
            Dialect::Jigx => &self.intake_metrics.jigx,
            Dialect::Blynk => &self.intake_metrics.blynk,
            Dialect::Applivery | Dialect::Zitadel | Dialect::Native => &self.intake_metrics.native,
        };
        let intake = Arc::clone(intake);
        Box::pin(async move {
            let answered = match route {
                Route::JigxCreate => jigx::create(&shared, request, &parameter).await,
                Route::BlynkPush => blynk::push(&shared, request).await,
                Route::NativeSend => native::send(&shared, request).await,
                Route::NativeBatch => native::batch(shared, request, Arc::clone(&intake)).await,
                Route::NativeTimeline => native::timeline(&shared, request, &parameter).await,
            };
            let response = match answered {
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

impl Shared {
    /// Who calls.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Failure> {
        Ok(self.verifier.verify(bearer(headers)?)?)
    }

    /// The user behind a user-scoped token, with what its role grants now. `None` for an
    /// organization's token, which is not limited by roles.
    pub(crate) async fn user(
        &self,
        caller: &Caller,
    ) -> Result<Option<(User, PermissionSet)>, Failure> {
        let Scope::User(id) = caller.scope else { return Ok(None) };
        let found = self.store.user(UserRef::Id(id)).await?;
        // Transferred and suspended users keep their tokens and lose what these open.
        let is_current =
            |user: &User| user.org == caller.organization && user.status != UserStatus::Suspended;
        let Some(user) = found.filter(is_current) else {
            return Err(Failure::new(FailureClass::BadToken, "the token's user is gone"));
        };
        let role = self.store.role(user.org, user.role).await?;
        let granted = match role {
            Some(role) => PermissionSet::of_names(role.permissions.iter().map(String::as_str)),
            None => PermissionSet::of_default_role(user.role).unwrap_or_default(),
        };
        Ok(Some((user, granted)))
    }

    /// Refuses a caller that lacks `permission`; answers its user, if it is one.
    pub(crate) async fn require(
        &self,
        caller: &Caller,
        permission: Permission,
    ) -> Result<Option<User>, Failure> {
        let found = self.user(caller).await?;
        let granted = found.as_ref().map_or_else(PermissionSet::all, |(_, granted)| *granted);
        if caller.may(permission, granted) {
            return Ok(found.map(|(user, _)| user));
        }
        let text = format!("this needs the permission {}", permission.as_str());
        Err(Failure::new(FailureClass::Forbidden, text))
    }

    /// An organization, and whether the caller may act on it: its own and those below it. `None`
    /// if there is no such one.
    pub(crate) async fn reach(
        &self,
        caller: &Caller,
        which: OrganizationRef,
    ) -> Result<Option<(Organization, bool)>, Failure> {
        let Some(organization) = self.store.organization(which).await? else { return Ok(None) };
        let reached = self.is_within(organization.id, caller.organization).await?;
        Ok(Some((organization, reached)))
    }

    /// True if `below` is `above` or one of its descendants.
    pub(crate) async fn is_within(
        &self,
        below: OrganizationId,
        above: OrganizationId,
    ) -> Result<bool, Failure> {
        let mut current = Some(below);
        for _ in 0..TREE_DEPTH_MAX {
            match current {
                None => return Ok(false),
                Some(id) if id == above => return Ok(true),
                Some(id) => {
                    let record = self.store.organization(OrganizationRef::Id(id)).await?;
                    current = record.and_then(|organization| organization.parent);
                }
            }
        }
        Ok(false)
    }

    /// Reads a JSON body.
    pub(crate) async fn json_body(&self, request: Request) -> Result<Bytes, Failure> {
        check_json_type(&request.headers)?;
        Ok(request.body.read(self.settings.max_body).await?)
    }

    /// Looks up the request's `Idempotency-Key`, if it has one.
    pub(crate) fn request_key(
        org: OrganizationId,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<RequestKey>, Failure> {
        let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        if keys.next().is_some() {
            return Err(Failure::field("Idempotency-Key", "is there more than once"));
        }
        Ok(Some(RequestKey::new(org, path, key.as_bytes(), body)?))
    }

    /// Stores one notification and answers, or repeats the answer its key already got.
    pub(crate) async fn accept(
        &self,
        key: Option<RequestKey>,
        prepare: impl FnOnce() -> Result<(crate::model::Notification, Answer), Failure>,
    ) -> Result<Answered, Failure> {
        let durability = self.intake.journal().durability();
        let Some(key) = key else {
            let (notification, answer) = prepare()?;
            self.intake.accept(notification, None).await?;
            return Ok(Answered::Accepted(reply::accepted(&answer, durability, false)));
        };
        let _running = match self.intake.begin(key).await? {
            KeyState::First(guard) => guard,
            KeyState::Replay(answer) => {
                return Ok(Answered::Replayed(reply::accepted(&answer, durability, true)));
            }
        };
        let (notification, answer) = prepare()?;
        self.intake.accept(notification, Some((key, &answer))).await?;
        Ok(Answered::Accepted(reply::accepted(&answer, durability, false)))
    }
}

/// The one `Content-Type`; with several, two readers could each follow another.
fn content_type(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(CONTENT_TYPE).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

/// Refuses a body that does not say it is JSON in UTF-8.
fn check_json_type(headers: &HeaderMap) -> Result<(), Failure> {
    let unsupported = || {
        let text = "send the body as Content-Type: application/json";
        Failure::new(FailureClass::UnsupportedMediaType, text)
    };
    let value = content_type(headers).ok_or_else(unsupported)?;
    let mut parts = value.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = media == "application/json"
        || media.starts_with("application/") && media.ends_with("+json");
    let is_utf8 = parts.all(|parameter| {
        let parameter = parameter.to_ascii_lowercase();
        match parameter.strip_prefix("charset=") {
            Some(charset) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
            None => true,
        }
    });
    if is_json && is_utf8 { Ok(()) } else { Err(unsupported()) }
}
