//! Why the server refuses a request by itself, before any dialect has looked at it.

use http::StatusCode;

/// A refusal that holds for every dialect; the service only renders it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request breaks HTTP; the text says how, without the caller's bytes.
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("the method is not allowed")]
    MethodNotAllowed,
    #[error("nothing is served at this path")]
    NotFound,
    #[error("the request target is too long")]
    UriTooLong,
    #[error("the request has too many or too large header fields")]
    HeadersTooLarge,
    #[error("the content encoding or type is not supported")]
    UnsupportedMediaType,
    #[error("the request body is too large")]
    TooLarge,
    #[error("the server is busy, try again in {retry_after_s} s")]
    Overloaded { retry_after_s: u32 },
    #[error("the request body took too long to arrive")]
    Timeout,
    #[error("the server failed to answer")]
    Internal,
}

impl Refusal {
    /// The status every dialect but gRPC answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Metric label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::MethodNotAllowed => "method",
            Self::NotFound => "not_found",
            Self::UriTooLong => "uri",
            Self::HeadersTooLarge => "headers",
            Self::UnsupportedMediaType => "media_type",
            Self::TooLarge => "body",
            Self::Overloaded { .. } => "overload",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}
