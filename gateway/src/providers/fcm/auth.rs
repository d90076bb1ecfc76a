//! The OAuth 2 access token FCM wants: JWT bearer grant, one flight at a time, renewed early.

use crate::clock::Clock;
use crate::model::Millis;
use crate::providers::ProviderError;
use crate::providers::transport::{Answer, Body, Failure, Http1Pool, Origin, path_of};
use arc_swap::ArcSwapOption;
use fcm_v1::auth::ServiceAccountKey;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use url::{Host, Url};

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Google accepts assertions of at most an hour.
const ASSERTION_S: u64 = 3600;
/// Part of a token's life after which it is renewed, in percent.
const RENEW_AT_PERCENT: u64 = 80;
/// Life of a token whose server names none, and the bounds of what a server may name.
const LIFE_DEFAULT_S: u64 = 3600;
const LIFE_MAX_S: u64 = 24 * 3600;
/// First pause after a failed fetch; doubles up to the maximum.
const PAUSE_MIN_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 60_000;

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: Option<u64>,
}

/// Why no token could be fetched. Carries no part of an answer: it may hold a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrantError {
    #[error("the assertion cannot be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("the token endpoint cannot be reached")]
    Transport(#[source] Failure),
    #[error("the token endpoint answered {0}: check the service account key and the clock")]
    Refused(StatusCode),
    #[error("the token endpoint's answer holds no usable token")]
    Unreadable,
    #[error("the last fetch failed a moment ago")]
    Pausing,
}

impl GrantError {
    /// True if the endpoint is only slow, busy or away, and the credential may be right.
    fn is_passing(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Refused(status) => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            Self::Sign(_) | Self::Unreadable | Self::Pausing => false,
        }
    }
}

/// Why there is no token now.
#[derive(Debug)]
pub(super) struct NoToken {
    pub(super) error: GrantError,
    /// When to ask again, where that may help by itself.
    pub(super) wait: Option<Duration>,
}

/// A token as the header value every request carries.
#[derive(Debug)]
pub(super) struct AccessToken {
    pub(super) header: HeaderValue,
    pub(super) fetched_at: Millis,
    renew_at: Millis,
    ends_at: Millis,
}

/// Turn of the one that fetches; remembers the last failure so that those who queued behind a
/// failed fetch do not repeat it one after the other.
#[derive(Debug, Default)]
struct Flight {
    pause_ms: u64,
    is_passing: bool,
    /// By the steady clock: a wall clock set back must not make the pause longer.
    not_before: Millis,
}

/// The one holder of a service account's token.
#[derive(Clone)]
pub(super) struct TokenSource(Arc<Shared>);

struct Shared {
    email: String,
    token_uri: String,
    origin: Origin,
    path: PathAndQuery,
    key: EncodingKey,
    header: Header,
    http: Http1Pool,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<AccessToken>,
    flight: Mutex<Flight>,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSource").field("email", &self.0.email).finish_non_exhaustive()
    }
}

impl TokenSource {
    /// A source for `account` that fetches over `http`. Clear text is accepted for a token
    /// endpoint on this machine only: the assertion is a credential.
    pub(super) fn new(
        account: ServiceAccountKey,
        http: Http1Pool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ProviderError> {
        let refuse = || ProviderError::field("token_uri", "must be https, or http on loopback");
        let url = Url::parse(&account.token_uri).map_err(|_| refuse())?;
        let local = match url.host() {
            Some(Host::Ipv4(v4)) => v4.is_loopback(),
            Some(Host::Ipv6(v6)) => v6.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err(refuse());
        }
        let origin = Origin::of(&url).map_err(|_| refuse())?;
        let path = path_of(&url).map_err(|_| refuse())?;
        let fail = |source| ProviderError::Key { field: "private_key", source };
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes()).map_err(fail)?;
        let mut header = Header::new(Algorithm::RS256);
        header.kid = account.private_key_id;
        let shared = Shared {
            email: account.client_email,
            token_uri: account.token_uri,
            origin,
            path,
            key,
            header,
            http,
            clock,
            current: ArcSwapOption::empty(),
            flight: Mutex::default(),
        };
        // Signing once proves that the key is one for RS256.
        shared.assertion().map_err(fail)?;
        Ok(Self(Arc::new(shared)))
    }

    /// The token to use now. A token past 80 % of its life is renewed by one task while callers
    /// go on with it; without a living token callers wait for the one fetch under way.
    pub(super) async fn current(&self) -> Result<Arc<AccessToken>, NoToken> {
        let now = self.0.clock.now();
        if let Some(token) = self.0.current.load_full()
            && now < token.ends_at
        {
            if now >= token.renew_at {
                self.renew_behind(&token);
            }
            return Ok(token);
        }
        self.0.fetch(None).await
    }

    /// Called when FCM no longer accepts `used`: the next caller fetches another.
    pub(super) fn discard(&self, used: &Arc<AccessToken>) {
        let current = self.0.current.load();
        if current.as_ref().is_some_and(|token| Arc::ptr_eq(token, used)) {
            self.0.current.compare_and_swap(&*current, None);
        }
    }

    #[cfg(test)]
    pub(super) fn holds(&self, header: &str) -> bool {
        self.0.current.load().as_ref().is_some_and(|token| token.header == header)
    }

    fn renew_behind(&self, old: &Arc<AccessToken>) {
        // A fetch under way holds the turn; this one would only repeat it.
        if self.0.flight.try_lock().is_err() {
            return;
        }
        let (shared, old) = (Arc::clone(&self.0), Arc::clone(old));
        drop(tokio::spawn(async move {
            match shared.fetch(Some(&old)).await {
                Ok(_) | Err(NoToken { error: GrantError::Pausing, .. }) => {}
                Err(NoToken { error, .. }) => {
                    tracing::warn!(%error, "cannot renew the FCM access token")
                }
            }
        }));
    }
}

impl Shared {
    /// Fetches a token unless one other than `old` arrived while waiting for the turn.
    async fn fetch(&self, old: Option<&Arc<AccessToken>>) -> Result<Arc<AccessToken>, NoToken> {
        let mut flight = self.flight.lock().await;
        let now = self.clock.now();
        if let Some(token) = self.current.load_full()
            && now < token.ends_at
            && old.is_none_or(|old| !Arc::ptr_eq(old, &token))
        {
            return Ok(token);
        }
        let left = flight.not_before.since(self.clock.steady());
        if left > 0 {
            let wait = flight.is_passing.then(|| Duration::from_millis(left));
            return Err(NoToken { error: GrantError::Pausing, wait });
        }
        match self.request().await {
            Ok(token) => {
                *flight = Flight::default();
                let token = Arc::new(token);
                self.current.store(Some(Arc::clone(&token)));
                Ok(token)
            }
            Err(error) => {
                flight.pause_ms = (flight.pause_ms * 2).clamp(PAUSE_MIN_MS, PAUSE_MAX_MS);
                flight.not_before = self.clock.steady().plus(flight.pause_ms);
                flight.is_passing = error.is_passing();
                let wait = flight.is_passing.then(|| Duration::from_millis(flight.pause_ms));
                Err(NoToken { error, wait })
            }
        }
    }

    async fn request(&self) -> Result<AccessToken, GrantError> {
        let assertion = self.assertion().map_err(GrantError::Sign)?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", GRANT)
            .append_pair("assertion", &assertion)
            .finish();
        let mut request = Request::new(Body::from(form));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.path.clone());
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        let answer = self.http.send(&self.origin, request).await.map_err(GrantError::Transport)?;
        read_grant(&answer, self.clock.now())
    }

    fn assertion(&self) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = self.clock.wall().0 / 1000;
        let claims = Assertion {
            iss: &self.email,
            scope: SCOPE,
            aud: &self.token_uri,
            iat,
            exp: iat.saturating_add(ASSERTION_S),
        };
        encode(&self.header, &claims, &self.key)
    }
}

fn read_grant(answer: &Answer, now: Millis) -> Result<AccessToken, GrantError> {
    if !answer.status.is_success() {
        return Err(GrantError::Refused(answer.status));
    }
    let grant: Grant = serde_json::from_slice(&answer.body).map_err(|_| GrantError::Unreadable)?;
    let life_ms = grant.expires_in.unwrap_or(LIFE_DEFAULT_S).min(LIFE_MAX_S) * 1000;
    if grant.access_token.is_empty() || life_ms == 0 {
        return Err(GrantError::Unreadable);
    }
    let mut header = HeaderValue::try_from(format!("Bearer {}", grant.access_token))
        .map_err(|_| GrantError::Unreadable)?;
    header.set_sensitive(true);
    Ok(AccessToken {
        header,
        fetched_at: now,
        renew_at: now.plus(life_ms / 100 * RENEW_AT_PERCENT),
        ends_at: now.plus(life_ms),
    })
}
