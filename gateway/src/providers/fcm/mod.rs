//! Firebase Cloud Messaging v1: one service account, one project, a pool of HTTP/2 connections.

mod auth;
mod classify;
mod pace;
mod payload;
#[cfg(test)]
mod tests;

use self::auth::{NoToken, TokenSource};
use self::classify::Scope;
use self::pace::Pace;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Secret, Target};
use crate::providers::attempt::{self, push_failed, unsent};
use crate::providers::gate::Gate;
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Deadlines, Dialer, Http1Pool, Http2Pool, IdleLimits, NameCache, Origin, PoolLimits,
    SystemResolver,
};
use crate::providers::{Provider, ProviderError};
use fcm_v1::auth::ServiceAccountKey;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Deliveries per `send`: enough to fill a connection, few enough to settle often.
const BATCH_MAX: usize = 256;
/// A token refused when younger than this is not stale: the account has lost its right.
const TOKEN_YOUNG_MS: u64 = 60_000;
/// Longest wait for the project's pace inside an attempt; beyond it the dispatcher waits.
const PACE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Four fifths of the 600,000 messages a minute that Google allows a project.
const PER_SECOND: u32 = 8_000;

/// What one app needs to push through FCM.
#[derive(Clone, Debug)]
pub struct FcmConfig {
    /// Origin to connect to; `http://` means HTTP/2 in clear text, for a twin on this machine.
    pub endpoint: String,
    /// The service account key as the Firebase console exports it. Its `token_uri` is used.
    pub service_account_json: Secret,
    /// The project to send to, if not the service account's own.
    pub project_id: Option<String>,
    /// A CA to trust besides the public ones, for both the endpoint and the token endpoint.
    pub ca_pem: Option<Vec<u8>>,
    pub limits: PoolLimits,
    pub deadlines: Deadlines,
    /// Messages per second at full speed, which a minute of sending leads up to; `None` is without
    /// bound.
    pub per_second: Option<u32>,
}

impl FcmConfig {
    /// Google's production endpoint and the default bounds.
    #[must_use]
    pub fn new(service_account_json: Secret) -> Self {
        Self {
            endpoint: String::from("https://fcm.googleapis.com:443"),
            service_account_json,
            project_id: None,
            ca_pem: None,
            limits: PoolLimits::default(),
            deadlines: Deadlines::default(),
            per_second: Some(PER_SECOND),
        }
    }
}

/// Sends to one project's devices.
#[derive(Debug)]
pub struct Fcm {
    pool: Http2Pool,
    tokens: TokenSource,
    /// Closed while the project is throttled or its credential refused.
    gate: Gate,
    pace: Option<Pace>,
    uri: Uri,
    clock: Arc<dyn Clock>,
}

impl Fcm {
    /// Checks the configuration. Opens no socket.
    pub fn new(config: FcmConfig, clock: Arc<dyn Clock>) -> Result<Self, ProviderError> {
        let origin = Origin::parse(&config.endpoint)
            .map_err(|_| ProviderError::field("endpoint", "must be an origin like https://host"))?;
        let account: ServiceAccountKey = serde_json::from_str(config.service_account_json.reveal())
            .map_err(|_| ProviderError::ServiceAccount)?;
        let bad_project = || ProviderError::field("project_id", "must be a Firebase project id");
        let project =
            config.project_id.or_else(|| account.project_id.clone()).ok_or_else(bad_project)?;
        // The id goes into the path: anything else could change its meaning.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:_".contains(&b);
        if project.is_empty() || project.len() > 128 || !project.bytes().all(plain) {
            return Err(bad_project());
        }
        let path = http::uri::PathAndQuery::from_maybe_shared(format!(
            "/v1/projects/{project}/messages:send"
        ))
        .map_err(|_| bad_project())?;
        let uri = origin.uri(path).map_err(|_| bad_project())?;
        let dialer = |protocol| -> Result<Dialer, ProviderError> {
            Ok(Dialer {
                resolver: Arc::new(NameCache::lasting(Arc::new(SystemResolver))),
                tls: tls::client_config(config.ca_pem.as_deref(), protocol)?,
                protocol,
                deadlines: config.deadlines,
            })
        };
        let http = Http1Pool::new(dialer(Protocol::Http1)?, IdleLimits::default());
        let tokens = TokenSource::new(account, http, Arc::clone(&clock))?;
        let pool = Http2Pool::new(origin, dialer(Protocol::Http2)?, config.limits);
        let pace = Pace::new(config.per_second, tokio::time::Instant::now());
        Ok(Self { pool, tokens, gate: Gate::default(), pace, uri, clock })
    }

    /// Waits for the project's turn; the attempt it makes instead if that is too far off.
    async fn turn(&self) -> Result<(), Attempt> {
        if let Some(refused) = self.gate.refuses() {
            return Err(refused);
        }
        let Some(pace) = &self.pace else { return Ok(()) };
        match pace.book(tokio::time::Instant::now(), PACE_WAIT_MAX) {
            Ok(wait) if wait.is_zero() => Ok(()),
            Ok(wait) => {
                tokio::time::sleep(wait).await;
                // The project may have been throttled meanwhile.
                self.gate.refuses().map_or(Ok(()), Err)
            }
            Err(wait) => Err(unsent(Outcome::Retry { after: Some(wait), cause: "paced" })),
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Fcm { token: device, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        if let Err(instead) = self.turn().await {
            return instead;
        }
        // After the wait: it says how long the message may be kept.
        let body = match payload::prepare(delivery, device.reveal(), self.clock.now()) {
            Ok(body) => body,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let started = Instant::now();
        let token = match self.tokens.current().await {
            Ok(token) => token,
            Err(NoToken { error, wait }) => {
                tracing::debug!(%error, "no FCM access token");
                // An endpoint that is only away says nothing against the credential.
                let mut held = match wait {
                    Some(wait) => {
                        let cause = "oauth_unavailable";
                        self.gate.close(wait, cause);
                        unsent(Outcome::Retry { after: Some(wait), cause })
                    }
                    None => unsent(Outcome::Hold { cause: "oauth" }),
                };
                held.reason = Some(error.to_string());
                held.elapsed = started.elapsed();
                return held;
            }
        };
        let answer = self
            .pool
            .send(|| {
                if self.clock.now() >= delivery.expires_at {
                    return None;
                }
                let mut request = Request::new(body.clone());
                *request.method_mut() = Method::POST;
                *request.uri_mut() = self.uri.clone();
                let headers = request.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(AUTHORIZATION, token.header.clone());
                Some(request)
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return push_failed(failure, started.elapsed()),
        };
        let now = self.clock.now();
        let classified = classify::classify(&answer, self.clock.wall());
        let mut verdict = classified.verdict;
        match (classified.scope, verdict.outcome) {
            (Scope::Delivery, _) => {}
            (Scope::Project, Outcome::Retry { after: Some(wait), cause }) => {
                self.gate.close(wait, cause);
                if let Some(pace) = &self.pace {
                    pace.restart(tokio::time::Instant::now() + wait);
                }
            }
            (Scope::AccessToken, _) if now.since(token.fetched_at) < TOKEN_YOUNG_MS => {
                verdict.outcome = Outcome::Hold { cause: "unauthenticated" };
            }
            (Scope::AccessToken, _) => self.tokens.discard(&token),
            (Scope::Project, _) => {}
        }
        self.gate.note(verdict.outcome);
        verdict.into_attempt(answer.status, started.elapsed())
    }
}

impl Provider for Fcm {
    fn name(&self) -> ProviderName {
        ProviderName::Fcm
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn in_flight_max(&self) -> usize {
        if self.gate.is_closed() { 1 } else { self.pool.permits() }
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(attempt::each(batch, report, |delivery| self.attempt(delivery)))
    }
}
