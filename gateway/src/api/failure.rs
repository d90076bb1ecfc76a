//! What went wrong with a request, before any dialect gives it a shape.

use crate::auth::AuthError;
use crate::intake::{ChangeError, IntakeError};
use crate::server::{BodyError, Refusal};
use crate::store::StoreError;

/// The closed list of ways a request fails. Each dialect renders every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureClass {
    Invalid,
    /// No bearer token was sent.
    NoToken,
    /// A token was sent and is not good.
    BadToken,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// The same `Idempotency-Key` is being worked on.
    Conflict,
    /// The same `Idempotency-Key` came with another body.
    KeyReused,
    /// What the request would make is there already, or changed while it was worked on.
    Exists,
    TooLarge,
    UriTooLong,
    HeadersTooLarge,
    UnsupportedMediaType,
    Timeout,
    Throttled,
    Overloaded,
    /// The journal failed while it stored the request, and a restart may find it.
    Uncertain,
    Internal,
}

impl FailureClass {
    /// Every class, for tables.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 18] = [
        Self::Invalid,
        Self::NoToken,
        Self::BadToken,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::KeyReused,
        Self::Exists,
        Self::TooLarge,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::UnsupportedMediaType,
        Self::Timeout,
        Self::Throttled,
        Self::Overloaded,
        Self::Uncertain,
        Self::Internal,
    ];

    /// The status every REST dialect uses unless its documents say otherwise.
    #[must_use]
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NoToken | Self::BadToken => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::Conflict | Self::Exists => 409,
            Self::TooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::KeyReused => 422,
            Self::Throttled => 429,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::Overloaded | Self::Uncertain => 503,
        }
    }

    /// The code in `Bugler-Error`, explained by `bugler explain`.
    #[must_use]
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Invalid => "BGL-1400",
            Self::NoToken => "BGL-1401",
            Self::BadToken => "BGL-1402",
            Self::Forbidden => "BGL-1403",
            Self::NotFound => "BGL-1404",
            Self::MethodNotAllowed => "BGL-1405",
            Self::Timeout => "BGL-1408",
            Self::Conflict => "BGL-1410",
            Self::KeyReused => "BGL-1409",
            Self::Exists => "BGL-1411",
            Self::TooLarge => "BGL-1413",
            Self::UriTooLong => "BGL-1414",
            Self::UnsupportedMediaType => "BGL-1415",
            Self::Throttled => "BGL-1429",
            Self::HeadersTooLarge => "BGL-1431",
            Self::Internal => "BGL-5000",
            Self::Overloaded => "BGL-5003",
            Self::Uncertain => "BGL-5004",
        }
    }
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldFault {
    /// `content.text`, `emails[3]`; empty for the body as a whole.
    pub path: String,
    pub problem: String,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub class: FailureClass,
    /// A sentence for the caller, where the dialect has room for one.
    pub detail: String,
    pub fields: Vec<FieldFault>,
    pub retry_after_s: Option<u32>,
}

impl Failure {
    #[must_use]
    pub(crate) fn new(class: FailureClass, detail: impl Into<String>) -> Self {
        let retry_after_s = match class {
            FailureClass::Throttled
            | FailureClass::Overloaded
            | FailureClass::Uncertain
            | FailureClass::Conflict => Some(1),
            _ => None,
        };
        Self { class, detail: detail.into(), fields: Vec::new(), retry_after_s }
    }

    /// A request to make again after some seconds.
    #[must_use]
    pub(crate) fn later(class: FailureClass, detail: String, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..Self::new(class, detail) }
    }

    /// A request whose body or parameters break the dialect's rules.
    #[must_use]
    pub(crate) fn invalid(fields: Vec<FieldFault>) -> Self {
        let detail = fields.iter().map(describe).collect::<Vec<_>>().join("; ");
        Self { fields, ..Self::new(FailureClass::Invalid, detail) }
    }

    /// A request with one wrong field.
    #[must_use]
    pub(crate) fn field(path: &str, problem: impl Into<String>) -> Self {
        Self::invalid(vec![FieldFault { path: path.to_owned(), problem: problem.into() }])
    }
}

fn describe(fault: &FieldFault) -> String {
    if fault.path.is_empty() {
        fault.problem.clone()
    } else {
        format!("{} {}", fault.path, fault.problem)
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::new(FailureClass::NoToken, "a bearer token is required"),
            AuthError::Invalid(_) => {
                Self::new(FailureClass::BadToken, "the bearer token is not valid or has expired")
            }
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::from(&Refusal::from(error))
    }
}

impl From<IntakeError> for Failure {
    fn from(error: IntakeError) -> Self {
        let class = match error {
            IntakeError::BadKey => return Self::field("Idempotency-Key", error.to_string()),
            IntakeError::KeyReused => FailureClass::KeyReused,
            IntakeError::KeyBusy => FailureClass::Conflict,
            IntakeError::Overloaded => FailureClass::Overloaded,
            IntakeError::Shed { retry_after_s } | IntakeError::NoRoom { retry_after_s } => {
                return Self::later(FailureClass::Overloaded, error.to_string(), retry_after_s);
            }
            IntakeError::Backlog { retry_after_s } => {
                return Self::later(FailureClass::Throttled, error.to_string(), retry_after_s);
            }
            IntakeError::TooLarge => FailureClass::TooLarge,
            IntakeError::Failed => FailureClass::Overloaded,
            IntakeError::Uncertain => FailureClass::Uncertain,
        };
        Self::new(class, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_away() {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(%error, "records cannot be reached");
            return Self::new(FailureClass::Overloaded, "records cannot be reached; ask again");
        }
        tracing::error!(error = %crate::telemetry::chain(&error), "records could not be read or written");
        Self::new(FailureClass::Internal, "records are not available")
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Intake(error) => error.into(),
            ChangeError::Store(StoreError::Conflict { field }) => {
                Self::new(FailureClass::Exists, format!("{field} is already in use"))
            }
            ChangeError::Store(StoreError::Unmet { .. }) => {
                let text = "the record was changed by another request; read it and try again";
                Self::new(FailureClass::Exists, text)
            }
            ChangeError::Store(StoreError::Used { what }) => {
                Self::new(FailureClass::Exists, format!("{what} was used before"))
            }
            ChangeError::Store(other) => other.into(),
        }
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        let class = match refusal {
            Refusal::BadRequest(_) => FailureClass::Invalid,
            Refusal::MethodNotAllowed => FailureClass::MethodNotAllowed,
            Refusal::UriTooLong => FailureClass::UriTooLong,
            Refusal::HeadersTooLarge => FailureClass::HeadersTooLarge,
            Refusal::UnsupportedMediaType => FailureClass::UnsupportedMediaType,
            Refusal::TooLarge => FailureClass::TooLarge,
            Refusal::Timeout => FailureClass::Timeout,
            Refusal::Overloaded { .. } => FailureClass::Overloaded,
            Refusal::NotFound => FailureClass::NotFound,
            Refusal::Internal => FailureClass::Internal,
        };
        let mut failure = Self::new(class, refusal.to_string());
        if let Refusal::Overloaded { retry_after_s } = refusal {
            failure.retry_after_s = Some(*retry_after_s);
        }
        failure
    }
}
