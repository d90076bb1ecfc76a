//! The webhook twin: any path, with the signature of Standard Webhooks checked where a secret is known.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Response};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;

use super::TwinName;
use super::reference;
use super::reply::{Call, text};
use super::stage::{Judged, Magic, Twin};
use crate::wall;

/// Standard Webhooks: a time stamp may be off by five minutes.
const SKEW_S_MAX: u64 = 300;
const SECRET_PREFIX: &str = "whsec_";

/// A secret that cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret is not base64 after whsec_; register it as the gateway shows it")]
pub struct InvalidSecret;

/// Secrets by path, shared by the plain and the TLS listener.
#[derive(Default)]
pub(crate) struct Secrets(Mutex<HashMap<String, Vec<u8>>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    pub(crate) fn register(&self, path: &str, secret: &str) -> Result<(), InvalidSecret> {
        let encoded = secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret);
        let key = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        self.0.lock().insert(path.to_owned(), key);
        Ok(())
    }
}

pub(crate) struct WebhookTwin {
    secrets: Arc<Secrets>,
}

impl WebhookTwin {
    pub(crate) fn new(secrets: Arc<Secrets>) -> Self {
        Self { secrets }
    }

    fn check(&self, call: &Call, now_s: u64) -> Result<(), &'static str> {
        if call.method != Method::POST {
            return Err("method is not POST");
        }
        let secrets = self.secrets.0.lock();
        let Some(key) = secrets.get(call.path()) else { return Ok(()) };
        let id = call.header("webhook-id").filter(|id| !id.is_empty());
        let id = id.ok_or("webhook-id is missing")?;
        let timestamp = call.header("webhook-timestamp").ok_or("webhook-timestamp is missing")?;
        let at_s: u64 = timestamp.parse().map_err(|_| "webhook-timestamp is not in seconds")?;
        if at_s.abs_diff(now_s) > SKEW_S_MAX {
            return Err("webhook-timestamp is too far off");
        }
        let signatures = call.header("webhook-signature").ok_or("webhook-signature is missing")?;
        let mut mac =
            Hmac::<Sha256>::new_from_slice(key).map_err(|_| "the registered secret is unusable")?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", &call.body] {
            mac.update(part);
        }
        let is_signed = |signature: &str| {
            let signature =
                signature.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
            signature.is_some_and(|signature| mac.clone().verify_slice(&signature).is_ok())
        };
        if signatures.split(' ').any(is_signed) {
            Ok(())
        } else {
            Err("webhook-signature is wrong")
        }
    }
}

impl Twin for WebhookTwin {
    fn judge(&self, call: &Call) -> Judged {
        let refused = self.check(call, wall::unix_s()).err();
        let payload: Option<Value> = serde_json::from_slice(&call.body).ok();
        Judged {
            twin: TwinName::Webhook,
            key: call.header("webhook-id").unwrap_or_default().to_owned(),
            target: call.path().to_owned(),
            notification: payload.as_ref().and_then(reference::notification),
            answer: match refused {
                Some("method is not POST") => text(405, "method is not POST"),
                Some(reason) => text(401, reason),
                None => text(200, "ok"),
            },
            refused: refused.map(str::to_owned),
            magic: magic(call.path()),
            credentials: None,
        }
    }

    fn failure(&self, _: &Judged, code: u16, reason: Option<&str>) -> (Response<Bytes>, String) {
        let reason = reason.unwrap_or("injected by the twin");
        (text(code, reason), reason.to_owned())
    }
}

/// Targets made for tests, by the last part of the path.
fn magic(path: &str) -> Option<Magic> {
    match path.rsplit('/').next().unwrap_or_default() {
        "gone" => Some(Magic::Always(Magic::status(410, "gone"))),
        "throttle" => Some(Magic::throttle(429, "slow down")),
        "slow" => Some(Magic::slow()),
        "flaky" => Some(Magic::Once(Magic::status(503, "try again"))),
        _ => None,
    }
}
