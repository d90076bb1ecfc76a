//! Refusals of new work from a request's head alone, while something presses.

use crate::api::Shared;
use crate::api::failure::Failure;
use crate::api::route::Dialect;
use crate::intake::{Asked, Class};
use crate::server::Request;
use http::{HeaderMap, HeaderName, Method};

/// `bulk`, `normal` or `critical`; anything else counts as not said.
const PRIORITY: HeaderName = HeaderName::from_static("bugler-priority");
/// How the paths of operations end that send notifications.
const SENDS: [&str; 6] = [
    "/notifications",
    "/notifications:batch",
    "/send-push-notification",
    "/events",
    "/resend",
    "/replay",
];
/// How the names of ZITADEL's calls begin that only read.
const READS: [&str; 3] = ["Get", "List", "Healthz"];

/// What an operation adds to the work of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Reads only.
    Nothing,
    /// A change of records, which may send something as well.
    Change,
    Sends,
    /// Sends in bulk.
    Bulk,
}

impl Load {
    pub(super) fn of(dialect: Dialect, method: &Method, pattern: &str) -> Self {
        let name = pattern.rsplit('/').next().unwrap_or_default();
        let is_call = pattern.starts_with("/zitadel.");
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
            || is_call && READS.iter().any(|read| name.starts_with(read))
        {
            return Self::Nothing;
        }
        let sends = *method == Method::POST
            && dialect != Dialect::Applivery
            && SENDS.iter().any(|end| pattern.ends_with(end));
        match sends {
            true if pattern.ends_with(":batch") => Self::Bulk,
            true => Self::Sends,
            false => Self::Change,
        }
    }
}

/// The class of a request: what it says, or what its operation is.
pub(super) fn class_of(headers: &HeaderMap, load: Load) -> Class {
    let said = headers.get(PRIORITY).and_then(|value| value.to_str().ok()).and_then(Class::named);
    said.unwrap_or(if load == Load::Bulk { Class::Bulk } else { Class::Normal })
}

impl Shared {
    /// Refuses a request that adds too much, before its body is read. Who cannot be told by the
    /// head passes: the operation refuses it, or looks again once it knows.
    pub(super) async fn screen(&self, load: Load, request: &Request) -> Result<(), Failure> {
        let Ok(caller) = self.caller(&request.headers).await else { return Ok(()) };
        let asked = Asked {
            org: caller.organization,
            class: class_of(&request.headers, load),
            sends: matches!(load, Load::Sends | Load::Bulk),
            bytes: request.body.declared_len().unwrap_or(0),
        };
        Ok(self.intake.admit(&asked)?)
    }
}

#[cfg(test)]
mod tests;
