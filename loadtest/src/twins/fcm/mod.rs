//! The FCM twin: the v1 send endpoint and Google's token endpoint on one listener.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};
use uuid::Uuid;

use super::TwinName;
use super::credentials::Credentials;
use super::reference;
use super::reply::{Call, json as json_answer};
use super::stage::{Judged, Magic, Twin};
use crate::wall;

mod message;
mod oauth;
mod quota;

pub(crate) use oauth::TokenIssuer;
use quota::Quota;

const TOKEN_PATH: &str = "/token";
const FCM_ERROR_TYPE: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";

pub(crate) struct FcmTwin {
    send_path: String,
    project: String,
    tokens: TokenIssuer,
    quota: Option<Quota>,
}

/// An error of the send endpoint.
struct Refusal {
    code: u16,
    /// FCM's own code, in the details; none for errors of the layers before FCM.
    error_code: Option<&'static str>,
    message: String,
}

impl Refusal {
    fn invalid(message: String) -> Self {
        Self { code: 400, error_code: Some("INVALID_ARGUMENT"), message }
    }

    fn name(&self) -> String {
        match self.error_code {
            Some("INVALID_ARGUMENT") => format!("INVALID_ARGUMENT: {}", self.message),
            Some(error_code) => error_code.to_owned(),
            None => format!("{}: {}", status_name(self.code), self.message),
        }
    }
}

impl FcmTwin {
    pub(crate) fn new(
        credentials: &Credentials,
        tokens: TokenIssuer,
        per_minute: Option<u32>,
    ) -> Self {
        let project = credentials.fcm_project_id.clone();
        let send_path = format!("/v1/projects/{project}/messages:send");
        Self { send_path, project, tokens, quota: per_minute.map(Quota::new) }
    }

    fn check(&self, call: &Call, payload: Option<&Value>) -> Result<(), Refusal> {
        let refuse =
            |code, message: &str| Refusal { code, error_code: None, message: message.into() };
        if call.path() != self.send_path {
            return Err(refuse(404, "no such project or method"));
        }
        if call.method != Method::POST {
            return Err(refuse(405, "the method is POST"));
        }
        let bearer = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
        if !bearer.is_some_and(|token| self.tokens.is_valid(token, wall::unix_ms())) {
            return Err(refuse(401, "Request had invalid authentication credentials."));
        }
        if !call.has_content_type("application/json") {
            return Err(Refusal::invalid("the content type is not JSON".into()));
        }
        let payload = payload.ok_or_else(|| Refusal::invalid("the body is not JSON".into()))?;
        message::check(payload).map_err(Refusal::invalid)
    }

    fn judge_send(&self, call: &Call) -> Judged {
        let payload: Option<Value> = serde_json::from_slice(&call.body).ok();
        let mut refused = self.check(call, payload.as_ref()).err();
        let mut wait_s = None;
        if refused.is_none() {
            wait_s = self.quota.as_ref().and_then(Quota::take);
        }
        if wait_s.is_some() {
            let message = String::from("the project's quota is used up");
            refused = Some(Refusal { code: 429, error_code: Some("QUOTA_EXCEEDED"), message });
        }
        let message = payload.as_ref().and_then(|payload| payload.get("message"));
        let text = |pointer: &str| message.and_then(|message| message.pointer(pointer)?.as_str());
        let target = ["/token", "/topic", "/condition"].into_iter().find_map(text);
        let notification = message.and_then(reference::notification);
        let key = ["/android/notification/tag", "/name"].into_iter().find_map(text);
        let name = format!("projects/{}/messages/{}", self.project, Uuid::new_v4().simple());
        Judged {
            twin: TwinName::Fcm,
            key: key.map(str::to_owned).or_else(|| notification.clone()).unwrap_or_default(),
            target: target.unwrap_or_default().to_owned(),
            notification,
            credentials: None,
            magic: target.and_then(magic),
            answer: match &refused {
                Some(refusal) => with_wait(envelope(refusal), wait_s),
                None => json_answer(200, &json!({ "name": name })),
            },
            refused: refused.map(|refusal| refusal.name()),
        }
    }

    fn judge_token(&self, call: &Call) -> Judged {
        let issued = self.tokens.exchange(call, wall::unix_s());
        let (refused, answer) = match issued {
            Ok(grant) => (None, json_answer(200, &grant)),
            Err(refusal) => {
                (Some(refusal.description.to_owned()), json_answer(refusal.code, &refusal.body()))
            }
        };
        Judged {
            twin: TwinName::FcmToken,
            key: String::new(),
            target: TOKEN_PATH.to_owned(),
            notification: None,
            refused,
            answer,
            magic: None,
            credentials: None,
        }
    }
}

impl Twin for FcmTwin {
    fn judge(&self, call: &Call) -> Judged {
        if call.path() == TOKEN_PATH { self.judge_token(call) } else { self.judge_send(call) }
    }

    fn failure(
        &self,
        judged: &Judged,
        code: u16,
        reason: Option<&str>,
    ) -> (Response<Bytes>, String) {
        if judged.twin == TwinName::FcmToken {
            let reason = reason.unwrap_or("invalid_grant");
            let body = json!({ "error": reason, "error_description": "injected by the twin" });
            return (json_answer(code, &body), reason.to_owned());
        }
        let error_code = reason.unwrap_or(match code {
            400 => "INVALID_ARGUMENT",
            401 => "THIRD_PARTY_AUTH_ERROR",
            403 => "SENDER_ID_MISMATCH",
            404 | 410 => "UNREGISTERED",
            429 => "QUOTA_EXCEEDED",
            503 => "UNAVAILABLE",
            _ => "INTERNAL",
        });
        // FCM has no 410: a plan written for all providers means its 404.
        let code = if code == 410 { 404 } else { code };
        (error_envelope(code, Some(error_code), "injected by the twin"), error_code.to_owned())
    }
}

fn magic(token: &str) -> Option<Magic> {
    if token.starts_with("unregistered") {
        Some(Magic::Always(Magic::status(404, "UNREGISTERED")))
    } else if token.starts_with("mismatch") {
        Some(Magic::Always(Magic::status(403, "SENDER_ID_MISMATCH")))
    } else if token.starts_with("throttle") {
        Some(Magic::throttle(429, "QUOTA_EXCEEDED"))
    } else if token.starts_with("slow") {
        Some(Magic::slow())
    } else if token.starts_with("flaky") {
        Some(Magic::Once(Magic::status(503, "UNAVAILABLE")))
    } else {
        None
    }
}

fn with_wait(mut answer: Response<Bytes>, wait_s: Option<u64>) -> Response<Bytes> {
    if let Some(wait_s) = wait_s {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    }
    answer
}

fn envelope(refusal: &Refusal) -> Response<Bytes> {
    error_envelope(refusal.code, refusal.error_code, &refusal.message)
}

fn error_envelope(code: u16, error_code: Option<&str>, message: &str) -> Response<Bytes> {
    let status = status_name(code);
    let mut error = json!({ "code": code, "message": message, "status": status });
    if let Some(error_code) = error_code {
        error["details"] = json!([{ "@type": FCM_ERROR_TYPE, "errorCode": error_code }]);
    }
    json_answer(code, &json!({ "error": error }))
}

/// Google's canonical name of a status.
fn status_name(code: u16) -> &'static str {
    match code {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        405 => "UNIMPLEMENTED",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
