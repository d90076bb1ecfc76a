//! Which dialect owns a path, and what a path and method mean.

use crate::BoxFuture;
use crate::api::failure::Failure;
use crate::api::{Answered, Shared, applivery, blynk, jigx, native, oauth, zitadel};
use crate::server::{Request, Response};
use crate::telemetry::metrics::IntakeMetrics;
use http::{HeaderValue, Method};
use std::sync::Arc;

/// How every media type of gRPC and gRPC-web begins.
const GRPC: &[u8] = b"application/grpc";
/// How the paths of ZITADEL's gRPC begin.
const GRPC_PATHS: &str = "/zitadel.";

/// A family of paths with its own bodies and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Jigx,
    Applivery,
    Blynk,
    Zitadel,
    Oauth,
    Native,
}

impl Dialect {
    /// The dialect that owns `path`; what nobody owns is answered by the native API.
    pub(super) fn of(path: &str) -> Self {
        let under = |prefix| is_under(path, prefix);
        if under("/v2.0/tool") || under("/tool") {
            Self::Jigx
        } else if under("/v1/organizations") {
            Self::Applivery
        } else if under("/api/v1") {
            Self::Blynk
        } else if under("/management/v1") || under("/admin/v1") || path.starts_with(GRPC_PATHS) {
            Self::Zitadel
        } else if under("/oauth2") {
            Self::Oauth
        } else {
            Self::Native
        }
    }

    /// Adds what every answer of the dialect carries.
    pub(super) fn finish(self, mut response: Response) -> Response {
        if self == Self::Jigx {
            jigx::open_to_pages(response.headers_mut());
        }
        response
    }

    /// The dialect that owns a request: gRPC on paths nobody owns is ZITADEL's to refuse.
    pub(super) fn of_request(path: &str, media: Option<&HeaderValue>) -> Self {
        match Self::of(path) {
            Self::Native if is_grpc(media) && !is_under(path, "/bugler") => Self::Zitadel,
            dialect => dialect,
        }
    }

    /// A failure that no handler found: a call may speak more than its dialect's JSON.
    pub(super) fn refuse(self, media: Option<&HeaderValue>, failure: &Failure) -> Response {
        match self {
            Self::Zitadel => zitadel::refuse(media, failure),
            _ => self.render(failure),
        }
    }

    pub(super) fn render(self, failure: &Failure) -> Response {
        match self {
            Self::Jigx => jigx::render::render(failure),
            Self::Applivery => applivery::render::render(failure),
            Self::Blynk => blynk::render::render(failure),
            Self::Zitadel => zitadel::render::render(failure),
            Self::Oauth => oauth::render::render(failure),
            Self::Native => native::render::render(failure),
        }
    }
}

fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_grpc(media: Option<&HeaderValue>) -> bool {
    let start = media.and_then(|media| media.as_bytes().get(..GRPC.len()));
    start.is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
}

/// A handler's answer in the making.
pub(crate) type Work = BoxFuture<'static, Result<Answered, Failure>>;

/// One operation: what calls it, and what does it.
pub(crate) struct Endpoint {
    pub method: Method,
    /// The first one names the operation in metrics and documents; the others are its aliases.
    pub patterns: &'static [&'static str],
    /// Each handler's future is boxed in its own size: one for all would be as large as the
    /// largest, and moved for every request.
    pub work: fn(Call) -> Work,
}

/// A request on its way to its handler.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub request: Request,
    pub params: Params,
    pub intake: Arc<IntakeMetrics>,
}

/// The decoded path parameters, by name.
#[derive(Debug, Default)]
pub(crate) struct Params(pub(super) Vec<(String, String)>);

impl Params {
    /// The parameter called `name`; empty if the pattern has none of that name.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }
}

/// Every operation of every dialect.
pub(super) fn endpoints() -> impl Iterator<Item = (Dialect, &'static Endpoint)> {
    let of = |dialect, all: &'static [Endpoint]| all.iter().map(move |one| (dialect, one));
    of(Dialect::Jigx, jigx::ENDPOINTS)
        .chain(of(Dialect::Applivery, applivery::ENDPOINTS))
        .chain(of(Dialect::Blynk, blynk::ENDPOINTS))
        .chain(of(Dialect::Zitadel, zitadel::ENDPOINTS))
        .chain(of(Dialect::Zitadel, zitadel::GRPC))
        .chain(of(Dialect::Blynk, oauth::BLYNK_ENDPOINTS))
        .chain(of(Dialect::Oauth, oauth::ENDPOINTS))
        .chain(of(Dialect::Native, native::ENDPOINTS))
}

/// Method and path pattern of every REST operation, aliases too: what the served documents must
/// list.
pub fn operations() -> impl Iterator<Item = (Method, &'static str)> {
    let of = |one: &'static Endpoint| one.patterns.iter().map(|path| (one.method.clone(), *path));
    endpoints().map(|(_, one)| one).flat_map(of).filter(|(_, path)| !path.starts_with(GRPC_PATHS))
}

/// Metric label.
pub(super) fn label_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Jigx => "jigx",
        Dialect::Applivery => "applivery",
        Dialect::Blynk => "blynk",
        Dialect::Zitadel => "zitadel",
        Dialect::Oauth => "oauth",
        Dialect::Native => "native",
    }
}

pub(super) fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "POST",
    }
}

/// Percent-decoding of one path segment; `None` if it is not UTF-8 or decodes to a separator.
pub(super) fn percent_decode(segment: &str) -> Option<String> {
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
