//! The OAuth v2 code exchange: one request that turns an authorization code into a hook.

use crate::model::Secret;
use crate::providers::ProviderError;
use crate::providers::guard::{Guard, GuardPolicy};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Answer, Body, Deadlines, Dialer, Http1Pool, IdleLimits, Origin, SystemResolver, path_of,
};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use serde::Deserialize;
use std::fmt;
use url::{Url, form_urlencoded};

/// Slack's own address of the exchange.
pub const ENDPOINT: &str = "https://slack.com/api/oauth.v2.access";
/// The path of an endpoint that is written without one.
const ACCESS_PATH: &str = "/api/oauth.v2.access";
/// Longest team and channel name kept, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Slack's words about a code that its sender can do something about ("oauth.v2.access", errors).
/// The others are about the app's own credentials.
const CODE_WORDS: [&str; 8] = [
    "invalid_code",
    "bad_redirect_uri",
    "code_already_used",
    "code_expired",
    "invalid_scope",
    "oauth_authorization_url_mismatch",
    "access_denied",
    "preview_feature_not_available",
];

/// A Slack app.
#[derive(Clone, Debug)]
pub struct SlackAppConfig {
    /// [`ENDPOINT`], or a stand-in for it.
    pub endpoint: Url,
    pub client_id: String,
    pub client_secret: Secret,
    /// The only redirect URIs taken; empty leaves the judgement to Slack.
    pub allowed_redirects: Vec<String>,
    /// As for hooks: what it hands out is judged by the same rules.
    pub allow_http: bool,
    pub allow_private: bool,
    pub ca_pem: Option<Vec<u8>>,
    pub deadlines: Deadlines,
}

/// Exchanges codes for hooks.
pub struct SlackApp {
    origin: Origin,
    path: PathAndQuery,
    client_id: String,
    client_secret: Secret,
    allowed_redirects: Vec<String>,
    guard: Guard,
    http: Http1Pool,
}

impl fmt::Debug for SlackApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlackApp").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// A hook and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub url: Secret,
    pub team: String,
    pub channel: String,
}

/// Why a code gave no hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the redirect URI is not allowed")]
    Redirect,
    /// Slack's word about the code.
    #[error("slack refused the code: {0}")]
    Refused(&'static str),
    /// No answer, or none that can be used; the log says which.
    #[error("slack gave no usable answer")]
    Failed,
}

#[derive(Deserialize)]
struct Access {
    ok: bool,
    error: Option<String>,
    team: Option<Team>,
    incoming_webhook: Option<Hook>,
}

#[derive(Deserialize)]
struct Team {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Hook {
    url: String,
    channel: Option<String>,
}

impl SlackApp {
    /// Checks the configuration. Opens no socket.
    pub fn new(config: SlackAppConfig) -> Result<Self, ProviderError> {
        let broken = |_| ProviderError::field("endpoint", "must be an http or https URL");
        let origin = Origin::of(&config.endpoint).map_err(broken)?;
        let path = match config.endpoint.path() {
            "" | "/" => PathAndQuery::from_static(ACCESS_PATH),
            _ => path_of(&config.endpoint).map_err(broken)?,
        };
        let dialer = Dialer {
            resolver: std::sync::Arc::new(SystemResolver),
            tls: tls::client_config(config.ca_pem.as_deref(), Protocol::Http1)?,
            protocol: Protocol::Http1,
            deadlines: config.deadlines,
        };
        let guard = Guard::new(GuardPolicy {
            allow_http: config.allow_http,
            allow_loopback: config.allow_private,
            ..GuardPolicy::default()
        });
        let http = Http1Pool::new(dialer, IdleLimits::default());
        let SlackAppConfig { client_id, client_secret, allowed_redirects, .. } = config;
        Ok(Self { origin, path, client_id, client_secret, allowed_redirects, guard, http })
    }

    /// Exchanges `code`, which was asked for with `redirect_uri`. Slack takes each code once.
    pub async fn exchange(&self, code: &str, redirect_uri: &str) -> Result<Grant, GrantError> {
        let allowed = &self.allowed_redirects;
        if !allowed.is_empty() && !allowed.iter().any(|one| one == redirect_uri) {
            return Err(GrantError::Redirect);
        }
        let failed = |why: &str| {
            tracing::warn!(why, "a Slack code was not exchanged");
            GrantError::Failed
        };
        let answer = self.http.send(&self.origin, self.request(code, redirect_uri)).await;
        let answer = answer.map_err(|_| failed("slack did not answer"))?;
        let access = read(&answer).ok_or_else(|| failed("the answer is not Slack's"))?;
        if !access.ok {
            let said = access.error.unwrap_or_default();
            let known = CODE_WORDS.into_iter().find(|word| *word == said);
            return Err(known.map_or_else(
                || failed("slack refused the app: check client_id and client_secret"),
                GrantError::Refused,
            ));
        }
        let hook = access
            .incoming_webhook
            .ok_or_else(|| failed("the app was not granted the incoming-webhook scope"))?;
        if self.guard.check_url(&hook.url).is_err() {
            return Err(failed("the hook's URL is not allowed"));
        }
        Ok(Grant {
            url: Secret::new(hook.url),
            team: shortened(access.team.and_then(|team| team.name)),
            channel: shortened(hook.channel),
        })
    }

    fn request(&self, code: &str, redirect_uri: &str) -> Request<Body> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.reveal())
            .finish();
        let mut request = Request::new(Body::new(form.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.path.clone());
        let headers = request.headers_mut();
        let media = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, media);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        request
    }
}

/// Slack says in the body whether it said yes, nearly always with status 200.
fn read(answer: &Answer) -> Option<Access> {
    if answer.truncated {
        return None;
    }
    let access: Access = serde_json::from_slice(&answer.body).ok()?;
    (answer.status.is_success() || !access.ok).then_some(access)
}

fn shortened(name: Option<String>) -> String {
    let kept = name.unwrap_or_default();
    kept.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}
