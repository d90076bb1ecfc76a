//! What went wrong with a ZITADEL call: a gRPC code, a text and, where the product has one, its id.

use super::proto::{
    Any, ERROR_DETAIL_TYPE, ErrorDetail, RETRY_INFO_TYPE, RetryDelay, Status, WholeSeconds,
};
use crate::api::failure::{Failure, FailureClass};
use crate::store::StoreError;
use prost::Message;
use std::borrow::Cow;

/// `google.rpc.Code`, as far as it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    Unimplemented,
    Internal,
    Unavailable,
    Unauthenticated,
}

impl Code {
    pub(super) fn number(self) -> i32 {
        match self {
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Aborted => 10,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Failure::from(error).into()
    }
}

/// A failed call, before a transport gives it a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The status and headers of the REST form.
    pub(super) failure: Failure,
    pub(super) code: Code,
    /// Clients tell failures of one code apart by it; empty where the product has none.
    pub(super) id: &'static str,
    text: Cow<'static, str>,
}

impl Fault {
    /// A failure the product gives an id.
    pub(super) fn named(
        class: FailureClass,
        code: Code,
        id: &'static str,
        text: &'static str,
    ) -> Self {
        let failure = Failure { retry_after_s: None, ..Failure::new(class, text) };
        Self { failure, code, id, text: Cow::Borrowed(text) }
    }

    /// A request that breaks the rules of its message.
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Failure::new(FailureClass::Invalid, text).into()
    }

    /// A call or a form of it that is not served.
    pub(super) fn unimplemented(text: &'static str) -> Self {
        Self::named(FailureClass::NotFound, Code::Unimplemented, "", text)
    }

    /// `x-zitadel-orgid`, or the caller's own organization, is not one it may act for.
    pub(super) fn organization() -> Self {
        let text = "Organisation doesn't exist";
        Self::named(FailureClass::Forbidden, Code::PermissionDenied, "AUTH-Bs7Ds", text)
    }

    /// The text with the id behind it, as callers see it.
    pub(super) fn message(&self) -> String {
        if self.id.is_empty() {
            self.text.to_string()
        } else {
            format!("{} ({})", self.text, self.id)
        }
    }

    /// What travels beside the message, if there is an id.
    pub(super) fn detail(&self) -> Option<ErrorDetail> {
        let named = !self.id.is_empty();
        named.then(|| ErrorDetail { id: self.id.to_owned(), message: self.text.to_string() })
    }

    /// The whole of it as gRPC clients decode it.
    pub(super) fn status(&self) -> Status {
        let any = |detail: ErrorDetail| Any {
            type_url: ERROR_DETAIL_TYPE.to_owned(),
            value: detail.encode_to_vec(),
        };
        let retry = |seconds: u32| {
            let retry_delay = Some(WholeSeconds { seconds: i64::from(seconds) });
            let value = RetryDelay { retry_delay }.encode_to_vec();
            Any { type_url: RETRY_INFO_TYPE.to_owned(), value }
        };
        let mut details: Vec<_> = self.detail().map(any).into_iter().collect();
        details.extend(self.failure.retry_after_s.map(retry));
        Status { code: self.code.number(), message: self.message(), details }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let own = || Cow::Owned(failure.detail.clone());
        let fixed = |code, text| (code, "", Cow::Borrowed(text));
        let (code, id, text) = match failure.class {
            FailureClass::Invalid
            | FailureClass::TooLarge
            | FailureClass::UriTooLong
            | FailureClass::HeadersTooLarge
            | FailureClass::UnsupportedMediaType => (Code::InvalidArgument, "", own()),
            FailureClass::NoToken => fixed(Code::Unauthenticated, "auth header missing"),
            FailureClass::BadToken => {
                (Code::Unauthenticated, "AUTH-7fs1e", Cow::Borrowed("Errors.Token.Invalid"))
            }
            FailureClass::Forbidden => {
                let text = Cow::Borrowed("No matching permissions found");
                (Code::PermissionDenied, "AUTH-5mWD2", text)
            }
            FailureClass::NotFound => fixed(Code::NotFound, "Not Found"),
            FailureClass::MethodNotAllowed => fixed(Code::Unimplemented, "Method Not Allowed"),
            FailureClass::Conflict | FailureClass::Exists => (Code::Aborted, "", own()),
            FailureClass::KeyReused => (Code::FailedPrecondition, "", own()),
            FailureClass::Timeout => fixed(Code::DeadlineExceeded, "request timed out"),
            FailureClass::Throttled => fixed(Code::ResourceExhausted, "too many requests"),
            FailureClass::Overloaded | FailureClass::Uncertain => {
                fixed(Code::Unavailable, "service unavailable")
            }
            FailureClass::Internal => fixed(Code::Internal, "internal error"),
        };
        Self { code, id, text, failure }
    }
}
