//! The Slack twin: incoming webhooks with their plain-text answers, and the OAuth v2 code exchange.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::TwinName;
use super::credentials::Credentials;
use super::reference;
use super::reply::{Call, json as json_answer, text};
use super::stage::{Judged, Magic, Twin};

const ACCESS_PATH: &str = "/api/oauth.v2.access";
const AUTHORIZE_PATH: &str = "/oauth/v2/authorize";
/// Codes nobody asked for at the authorize page are taken when they begin so.
const FREE_CODE_PREFIX: &str = "twin-code";
const TEXT_CHARS_MAX: usize = 40_000;
const CODES_MAX: usize = 10_000;
const CHANNELS_MAX: usize = 100_000;

pub(crate) struct SlackTwin {
    client_id: String,
    client_secret: String,
    /// Where the webhook URLs it hands out point to, as `https://host:port`.
    origin: String,
    /// Least time between two messages of one webhook, with a burst of one.
    interval: Option<Duration>,
    /// Codes given out, with their redirect URI; used ones are none.
    codes: Mutex<HashMap<String, Option<String>>>,
    next_at: Mutex<HashMap<String, Instant>>,
}

impl SlackTwin {
    pub(crate) fn new(
        credentials: &Credentials,
        origin: String,
        interval: Option<Duration>,
    ) -> Self {
        Self {
            client_id: credentials.slack_client_id.clone(),
            client_secret: credentials.slack_client_secret.clone(),
            origin,
            interval,
            codes: Mutex::default(),
            next_at: Mutex::default(),
        }
    }

    fn judge_message(&self, call: &Call) -> Judged {
        let path = call.path().to_owned();
        let payload = message(call);
        let refused = check_message(call, payload.as_ref()).err();
        let wait = if refused.is_none() { self.wait_s(&path) } else { None };
        let answer = match (refused, wait) {
            (Some((code, reason)), _) => text(code, reason),
            (None, Some(wait_s)) => {
                let mut answer = text(429, "rate_limited");
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
                answer
            }
            (None, None) => text(200, "ok"),
        };
        Judged {
            twin: TwinName::Slack,
            key: path.clone(),
            notification: payload.as_ref().and_then(reference::notification),
            refused: refused
                .map(|(_, reason)| reason.to_owned())
                .or_else(|| wait.map(|_| "rate_limited".to_owned())),
            answer,
            magic: magic(&path),
            credentials: None,
            target: path,
        }
    }

    /// Seconds until the webhook may be used again; none when it may be used now.
    fn wait_s(&self, path: &str) -> Option<u64> {
        let interval = self.interval?;
        let now = Instant::now();
        let mut next_at = self.next_at.lock();
        if next_at.len() >= CHANNELS_MAX {
            next_at.retain(|_, at| *at > now);
        }
        match next_at.get(path) {
            Some(at) if *at > now => Some((*at - now).as_secs() + 1),
            _ => {
                next_at.insert(path.to_owned(), now + interval);
                None
            }
        }
    }

    fn judge_oauth(&self, call: &Call) -> Judged {
        let granted =
            if call.path() == AUTHORIZE_PATH { self.authorize(call) } else { self.exchange(call) };
        let (refused, answer) = match granted {
            Ok(answer) => (None, answer),
            // Slack answers 200 to every call it understood; the body tells.
            Err(error) => {
                (Some(error.to_owned()), json_answer(200, &json!({ "ok": false, "error": error })))
            }
        };
        Judged {
            twin: TwinName::SlackOauth,
            key: String::new(),
            target: call.path().to_owned(),
            notification: None,
            refused,
            answer,
            magic: None,
            credentials: None,
        }
    }

    /// The page a user approves the app on: approves at once and redirects back with a code.
    fn authorize(&self, call: &Call) -> Result<Response<Bytes>, &'static str> {
        let query: HashMap<_, _> =
            form_urlencoded::parse(call.uri.query().unwrap_or_default().as_bytes()).collect();
        if query.get("client_id").is_none_or(|id| *id != self.client_id) {
            return Err("invalid_client_id");
        }
        let redirect_uri = query.get("redirect_uri").ok_or("bad_redirect_uri")?;
        let mut back = Url::parse(redirect_uri).map_err(|_| "bad_redirect_uri")?;
        let code = format!("code-{}", Uuid::new_v4().simple());
        back.query_pairs_mut().append_pair("code", &code);
        if let Some(state) = query.get("state") {
            back.query_pairs_mut().append_pair("state", state);
        }
        let mut codes = self.codes.lock();
        if codes.len() >= CODES_MAX {
            codes.clear();
        }
        codes.insert(code, Some(redirect_uri.to_string()));
        let mut answer = text(302, "");
        let location = HeaderValue::try_from(back.as_str()).map_err(|_| "bad_redirect_uri")?;
        answer.headers_mut().insert(header::LOCATION, location);
        Ok(answer)
    }

    fn exchange(&self, call: &Call) -> Result<Response<Bytes>, &'static str> {
        if call.method != Method::POST {
            return Err("invalid_http_method");
        }
        if !call.has_content_type("application/x-www-form-urlencoded") {
            return Err("invalid_post_type");
        }
        let mut form: HashMap<String, String> =
            form_urlencoded::parse(&call.body).into_owned().collect();
        if let Some((id, secret)) = basic_credentials(call) {
            form.entry("client_id".to_owned()).or_insert(id);
            form.entry("client_secret".to_owned()).or_insert(secret);
        }
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("client_id") != self.client_id {
            return Err("invalid_client_id");
        }
        if field("client_secret") != self.client_secret {
            return Err("bad_client_secret");
        }
        self.redeem(field("code"), field("redirect_uri"))?;
        Ok(json_answer(200, &self.grant()))
    }

    fn redeem(&self, code: &str, redirect_uri: &str) -> Result<(), &'static str> {
        let mut codes = self.codes.lock();
        match codes.get(code) {
            Some(None) => return Err("code_already_used"),
            Some(Some(wanted)) if wanted != redirect_uri => return Err("bad_redirect_uri"),
            Some(Some(_)) => {}
            None if !code.starts_with(FREE_CODE_PREFIX) => return Err("invalid_code"),
            None if Url::parse(redirect_uri).is_err() => return Err("bad_redirect_uri"),
            None => {}
        }
        codes.insert(code.to_owned(), None);
        Ok(())
    }

    fn grant(&self) -> Value {
        let hook = Uuid::new_v4().simple().to_string();
        let url = format!("{}/services/T0TWIN001/B0TWIN001/{hook}", self.origin);
        json!({
            "ok": true,
            "access_token": format!("xoxb-twin-{hook}"),
            "token_type": "bot",
            "scope": "incoming-webhook",
            "bot_user_id": "U0TWINBOT",
            "app_id": "A0TWIN001",
            "team": { "id": "T0TWIN001", "name": "Twin Workspace" },
            "enterprise": null,
            "authed_user": { "id": "U0TWIN001" },
            "incoming_webhook": {
                "channel": "#twin",
                "channel_id": "C0TWIN001",
                "configuration_url": format!("{}/services/B0TWIN001", self.origin),
                "url": url,
            },
        })
    }
}

impl Twin for SlackTwin {
    fn judge(&self, call: &Call) -> Judged {
        match call.path() {
            ACCESS_PATH | AUTHORIZE_PATH => self.judge_oauth(call),
            _ => self.judge_message(call),
        }
    }

    fn failure(
        &self,
        judged: &Judged,
        code: u16,
        reason: Option<&str>,
    ) -> (Response<Bytes>, String) {
        let reason = reason.unwrap_or(match code {
            400 => "invalid_payload",
            403 => "action_prohibited",
            404 => "channel_not_found",
            410 => "channel_is_archived",
            429 => "rate_limited",
            500 => "rollup_error",
            _ => "internal_error",
        });
        let answer = match judged.twin {
            TwinName::SlackOauth => json_answer(code, &json!({ "ok": false, "error": reason })),
            _ => text(code, reason),
        };
        (answer, reason.to_owned())
    }
}

fn message(call: &Call) -> Option<Value> {
    if call.has_content_type("application/x-www-form-urlencoded") {
        let (_, payload) =
            form_urlencoded::parse(&call.body).find(|(name, _)| name == "payload")?;
        return serde_json::from_str(&payload).ok();
    }
    serde_json::from_slice(&call.body).ok()
}

fn check_message(call: &Call, payload: Option<&Value>) -> Result<(), (u16, &'static str)> {
    let parts: Vec<&str> = call.path().split('/').collect();
    let [_, "services", team, app, secret] = parts[..] else { return Err((404, "no_service")) };
    if !team.starts_with('T') || !app.starts_with('B') || secret.is_empty() {
        return Err((404, "no_service"));
    }
    if call.method != Method::POST {
        return Err((405, "invalid_http_method"));
    }
    let is_known_type = call.has_content_type("application/json")
        || call.has_content_type("application/x-www-form-urlencoded");
    let payload = payload.filter(|payload| payload.is_object() && is_known_type);
    let payload = payload.ok_or((400, "invalid_payload"))?;
    let list = |name: &str| payload.get(name).and_then(Value::as_array);
    let text = payload.get("text").and_then(Value::as_str);
    if text.is_some_and(|text| text.chars().count() > TEXT_CHARS_MAX) {
        return Err((400, "msg_too_long"));
    }
    let has_content = text.is_some_and(|text| !text.is_empty())
        || ["blocks", "attachments"].into_iter().filter_map(list).any(|list| !list.is_empty());
    if has_content { Ok(()) } else { Err((400, "no_text")) }
}

fn basic_credentials(call: &Call) -> Option<(String, String)> {
    let encoded = call.header("authorization")?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// Targets made for tests, by the last part of the path.
fn magic(path: &str) -> Option<Magic> {
    let secret = path.rsplit('/').next().unwrap_or_default();
    if secret.starts_with("archived") {
        Some(Magic::Always(Magic::status(410, "channel_is_archived")))
    } else if secret.starts_with("throttle") {
        Some(Magic::throttle(429, "rate_limited"))
    } else if secret.starts_with("slow") {
        Some(Magic::slow())
    } else if secret.starts_with("flaky") {
        Some(Magic::Once(Magic::status(500, "rollup_error")))
    } else {
        None
    }
}
