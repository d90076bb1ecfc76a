//! Firebase Cloud Messaging v1: one service account, one project, a pool of HTTP/2 connections.

mod auth;
mod classify;
mod payload;
#[cfg(test)]
mod tests;

use self::auth::TokenSource;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Secret, Target};
use crate::providers::attempt::{self, unsent};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Body, Deadlines, Dialer, Http1Pool, Http2Pool, IdleLimits, Origin, PoolLimits, SystemResolver,
};
use crate::providers::{Provider, ProviderError};
use fcm_v1::auth::ServiceAccountKey;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use std::sync::Arc;
use std::time::Instant;

/// Deliveries per `send`: enough to fill a connection, few enough to settle often.
const BATCH_MAX: usize = 256;
/// A token refused when younger than this is not stale: the account has lost its right.
const TOKEN_YOUNG_MS: u64 = 60_000;

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
        }
    }
}

/// Sends to one project's devices.
#[derive(Debug)]
pub struct Fcm {
    pool: Http2Pool,
    tokens: TokenSource,
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
                resolver: Arc::new(SystemResolver),
                tls: tls::client_config(config.ca_pem.as_deref(), protocol)?,
                protocol,
                deadlines: config.deadlines,
            })
        };
        let http = Http1Pool::new(dialer(Protocol::Http1)?, IdleLimits::default());
        let tokens = TokenSource::new(account, http, Arc::clone(&clock))?;
        let pool = Http2Pool::new(origin, dialer(Protocol::Http2)?, config.limits);
        Ok(Self { pool, tokens, uri, clock })
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Fcm { token: device, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        let body = match payload::prepare(delivery, device.reveal(), self.clock.now()) {
            Ok(body) => body,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let started = Instant::now();
        let token = match self.tokens.current().await {
            Ok(token) => token,
            Err(error) => {
                tracing::debug!(%error, "no FCM access token");
                let mut held = unsent(Outcome::Hold { cause: "oauth" });
                held.reason = Some(error.to_string());
                held.elapsed = started.elapsed();
                return held;
            }
        };
        let answer = self
            .pool
            .send(|| {
                let mut request = Request::new(Body::new(body.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = self.uri.clone();
                let headers = request.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(AUTHORIZATION, token.header.clone());
                request
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return failure.into_attempt(started.elapsed()),
        };
        let now = self.clock.now();
        let verdict = classify::classify(&answer, now).unwrap_or_else(|mut refused| {
            if now.since(token.fetched_at) < TOKEN_YOUNG_MS {
                refused.outcome = Outcome::Hold { cause: "unauthenticated" };
            } else {
                self.tokens.discard(&token);
            }
            refused
        });
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
        self.pool.permits()
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(attempt::each(batch, report, |delivery| self.attempt(delivery)))
    }
}
