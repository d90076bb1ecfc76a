//! Which dialect owns a path, and what a path and method mean.

use crate::api::failure::Failure;
use crate::api::{applivery, blynk, jigx, native, zitadel};
use crate::server::Response;
use http::Method;

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
    pub(super) fn of(path: &str) -> Self {
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

    pub(super) fn render(self, failure: &Failure) -> Response {
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
pub(super) enum Route {
    JigxCreate,
    BlynkPush,
    NativeSend,
    NativeBatch,
    NativeTimeline,
    OpenApi,
}

impl Route {
    pub(super) const ALL: [Self; 6] = [
        Self::JigxCreate,
        Self::BlynkPush,
        Self::NativeSend,
        Self::NativeBatch,
        Self::NativeTimeline,
        Self::OpenApi,
    ];

    pub(super) fn dialect(self) -> Dialect {
        match self {
            Self::JigxCreate => Dialect::Jigx,
            Self::BlynkPush => Dialect::Blynk,
            Self::NativeSend | Self::NativeBatch | Self::NativeTimeline | Self::OpenApi => {
                Dialect::Native
            }
        }
    }

    /// Method and path patterns.
    pub(super) fn patterns(self) -> (Method, &'static [&'static str]) {
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
            Self::OpenApi => (Method::GET, &["/openapi.json", "/openapi/{document}"]),
        }
    }
}

/// Metric label.
pub(super) fn label_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Jigx => "jigx",
        Dialect::Applivery => "applivery",
        Dialect::Blynk => "blynk",
        Dialect::Zitadel => "zitadel",
        Dialect::Native => "native",
    }
}

pub(super) fn method_label(method: &Method) -> &'static str {
    if method == Method::GET { "GET" } else { "POST" }
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
