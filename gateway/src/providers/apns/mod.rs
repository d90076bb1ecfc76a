//! Apple Push Notification service: one team's key, one app's topic, a pool of HTTP/2 connections.

mod auth;
mod classify;
mod payload;
mod shelf;
#[cfg(test)]
mod tests;
mod tokens;

pub use shelf::TokenShelf;

use self::auth::{Kept, ProviderToken, TokenHolder};
use self::classify::{Classified, EXPIRED_PROVIDER_TOKEN, INVALID_PROVIDER_TOKEN, Meaning};
use self::tokens::{Standing, Tokens};
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Secret, Target};
use crate::providers::attempt::{self, Memo, push_failed, unsent};
use crate::providers::gate::Gate;
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Deadlines, Dialer, Http2Pool, NameCache, Origin, PoolLimits, SystemResolver,
};
use crate::providers::{Provider, ProviderError};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Deliveries per `send`: enough to fill a connection, few enough to settle often.
const BATCH_MAX: usize = 256;
/// Wait before the next try where nothing but our token was wrong.
const SOON: Duration = Duration::from_secs(1);

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
    /// The same for all apps, so that one key has one token.
    pub tokens: TokenShelf,
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
            tokens: TokenShelf::default(),
        }
    }
}

/// Sends to one app's devices.
#[derive(Debug)]
pub struct Apns {
    pool: Http2Pool,
    /// For tokens that may be wrong: a wrong one slows its connection down.
    suspects: Http2Pool,
    token: Arc<TokenHolder>,
    devices: Tokens,
    gate: Gate,
    bodies: Memo<Bytes>,
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
            resolver: Arc::new(NameCache::lasting(Arc::new(SystemResolver))),
            tls: tls::client_config(config.ca_pem.as_deref(), Protocol::Http2)?,
            protocol: Protocol::Http2,
            deadlines: config.deadlines,
        };
        let token =
            config.tokens.holder(&config.team_id, &config.key_id, &config.key_pem, &clock)?;
        Ok(Self {
            pool: Http2Pool::new(origin.clone(), dialer.clone(), config.limits),
            suspects: Http2Pool::new(origin, dialer, config.limits),
            token,
            devices: Tokens::default(),
            gate: Gate::default(),
            bodies: Memo::default(),
            topic,
            clock,
        })
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Apns { token: device, registered_at, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        let (device, now) = (device.reveal(), self.clock.now());
        let prepared = match payload::prepare(delivery, device, &self.topic, &self.bodies) {
            Ok(prepared) => prepared,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let payload::Prepared { path, headers, body } = prepared;
        let Ok(uri) = self.pool.origin().uri(path) else {
            return unsent(Outcome::Rejected { cause: "bad_token_format" });
        };
        let standing = self.devices.standing(device, *registered_at, now);
        if standing == Standing::Wrong {
            return unsent(Outcome::Rejected { cause: "bad_device_token" });
        }
        if let Some(refused) = self.gate.refuses() {
            return refused;
        }
        let token = self.token.current();
        let pool = if standing == Standing::Proven { &self.pool } else { &self.suspects };
        let started = Instant::now();
        let mut headers = Some(headers);
        let sent = pool.send_unless(classify::is_unprocessed, || {
            if self.clock.now() >= delivery.expires_at {
                return None;
            }
            let again = || payload::prepare(delivery, device, &self.topic, &self.bodies).ok();
            let headers = headers.take().or_else(|| again().map(|made| made.headers))?;
            let mut request = Request::new(body.clone());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers;
            request.headers_mut().insert(AUTHORIZATION, token.header.clone());
            Some(request)
        });
        let answer = match sent.await {
            Ok(answer) => answer,
            Err(failure) => return push_failed(failure, started.elapsed()),
        };
        let mut classified = classify::classify(&answer, *registered_at, self.clock.now());
        self.follow(&mut classified, &token, device, standing);
        classified.verdict.into_attempt(answer.status, started.elapsed())
    }

    /// Draws what conclusions an answer has for our own token, for the device's, and for others.
    fn follow(
        &self,
        classified: &mut Classified,
        token: &Arc<ProviderToken>,
        device: &str,
        standing: Standing,
    ) {
        let outcome = &mut classified.verdict.outcome;
        let mut renew = false;
        match (classified.meaning, *outcome) {
            (None, _) => self.devices.proved(device, standing),
            (Some(Meaning::Misplaced), Outcome::Rejected { cause })
                if self.devices.called_wrong(device, self.clock.now()) =>
            {
                *outcome = Outcome::Gone { cause };
            }
            (Some(Meaning::KeepToken), Outcome::Retry { after, cause }) => {
                match self.token.keep_old(token) {
                    Kept::Another => *outcome = Outcome::Retry { after: Some(SOON), cause },
                    Kept::WentBack => {
                        *outcome = Outcome::Retry { after: Some(SOON), cause };
                        // A connection that saw too many tokens takes none any more.
                        renew = true;
                    }
                    // The whole key is throttled: whoever asks now only makes it worse.
                    Kept::Nothing => self.gate.close(after.unwrap_or(SOON), cause),
                }
            }
            (_, Outcome::Retry { cause: EXPIRED_PROVIDER_TOKEN, .. })
                if !self.token.replace_expired(token) =>
            {
                // Apple calls a token stale that we made less than 20 minutes ago.
                *outcome = Outcome::Hold { cause: EXPIRED_PROVIDER_TOKEN };
            }
            (_, Outcome::Hold { cause: cause @ INVALID_PROVIDER_TOKEN })
                if self.token.replace_misdated(token) =>
            {
                *outcome = Outcome::Retry { after: Some(SOON), cause };
            }
            _ => {}
        }
        // Apple: on a revoked key, close all connections.
        if self.gate.note(*outcome) || renew {
            self.pool.renew_connections();
            self.suspects.renew_connections();
        }
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
        if self.gate.is_closed() {
            return 1;
        }
        // A pool that was never used says one: it may open its first connection.
        self.pool.permits() + self.suspects.permits() - 1
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(attempt::each(batch, report, |delivery| self.attempt(delivery)))
    }
}
