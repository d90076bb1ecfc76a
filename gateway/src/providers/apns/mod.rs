//! Apple Push Notification service: one team's key, one app's topic, a pool of HTTP/2 connections.

mod auth;
mod classify;
mod payload;
#[cfg(test)]
mod tests;

use self::auth::TokenHolder;
use self::classify::EXPIRED_PROVIDER_TOKEN;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Secret, Target};
use crate::providers::attempt::{self, unsent};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Body, Deadlines, Dialer, Http2Pool, Origin, PoolLimits, SystemResolver,
};
use crate::providers::{Provider, ProviderError};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request};
use std::sync::Arc;
use std::time::Instant;

/// Deliveries per `send`: enough to fill a connection, few enough to settle often.
const BATCH_MAX: usize = 256;

/// What one app needs to push through APNs.
#[derive(Clone, Debug)]
pub struct ApnsConfig {
    /// Origin to connect to; `http://` means HTTP/2 in clear text, for a twin on this machine.
    pub endpoint: String,
    /// 10 characters, from the developer account.
    pub team_id: String,
    /// 10 characters, the id of the signing key.
    pub key_id: String,
    /// The `.p8` file: a PKCS#8 P-256 key in PEM.
    pub key_pem: Secret,
    /// The app's bundle id.
    pub topic: String,
    /// A CA to trust besides the public ones.
    pub ca_pem: Option<Vec<u8>>,
    pub limits: PoolLimits,
    pub deadlines: Deadlines,
}

impl ApnsConfig {
    /// Apple's production endpoint and the default bounds.
    #[must_use]
    pub fn new(team_id: String, key_id: String, key_pem: Secret, topic: String) -> Self {
        Self {
            endpoint: String::from("https://api.push.apple.com:443"),
            team_id,
            key_id,
            key_pem,
            topic,
            ca_pem: None,
            limits: PoolLimits::default(),
            deadlines: Deadlines::default(),
        }
    }
}

/// Sends to one app's devices.
#[derive(Debug)]
pub struct Apns {
    pool: Http2Pool,
    token: TokenHolder,
    topic: HeaderValue,
    clock: Arc<dyn Clock>,
}

impl Apns {
    /// Checks the configuration and signs the first token. Opens no socket.
    pub fn new(config: ApnsConfig, clock: Arc<dyn Clock>) -> Result<Self, ProviderError> {
        let origin = Origin::parse(&config.endpoint)
            .map_err(|_| ProviderError::field("endpoint", "must be an origin like https://host"))?;
        let identifier = |text: &str| {
            !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic())
        };
        if !identifier(&config.topic) {
            return Err(ProviderError::field("topic", "must be the app's bundle id"));
        }
        if !identifier(&config.team_id) || !identifier(&config.key_id) {
            return Err(ProviderError::field("team_id and key_id", "must be Apple's identifiers"));
        }
        let topic = HeaderValue::try_from(config.topic)
            .map_err(|_| ProviderError::field("topic", "must be the app's bundle id"))?;
        let dialer = Dialer {
            resolver: Arc::new(SystemResolver),
            tls: tls::client_config(config.ca_pem.as_deref(), Protocol::Http2)?,
            protocol: Protocol::Http2,
            deadlines: config.deadlines,
        };
        let token =
            TokenHolder::new(config.team_id, config.key_id, &config.key_pem, Arc::clone(&clock))?;
        Ok(Self { pool: Http2Pool::new(origin, dialer, config.limits), token, topic, clock })
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Apns { token: device, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        let prepared = match payload::prepare(delivery, device.reveal(), &self.topic) {
            Ok(prepared) => prepared,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let Ok(uri) = self.pool.origin().uri(prepared.path) else {
            return unsent(Outcome::Rejected { cause: "bad_token_format" });
        };
        let token = self.token.current();
        let started = Instant::now();
        let answer = self
            .pool
            .send(|| {
                let mut request = Request::new(Body::new(prepared.body.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = uri.clone();
                *request.headers_mut() = prepared.headers.clone();
                request.headers_mut().insert(AUTHORIZATION, token.header.clone());
                request
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return failure.into_attempt(started.elapsed()),
        };
        let mut verdict = classify::classify(&answer, self.clock.now());
        let expired =
            matches!(verdict.outcome, Outcome::Retry { cause: EXPIRED_PROVIDER_TOKEN, .. });
        if expired && !self.token.replace_expired(&token) {
            // Apple calls a token stale that we made less than 20 minutes ago.
            verdict.outcome = Outcome::Hold { cause: EXPIRED_PROVIDER_TOKEN };
        }
        verdict.into_attempt(answer.status, started.elapsed())
    }
}

impl Provider for Apns {
    fn name(&self) -> ProviderName {
        ProviderName::Apns
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
