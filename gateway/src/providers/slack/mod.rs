//! Slack incoming webhooks: the hook's URL is the credential, paced at one message a second.

mod classify;
mod oauth;
mod pacing;
mod payload;
#[cfg(test)]
mod tests;

pub use oauth::{ENDPOINT as ACCESS_ENDPOINT, Grant, GrantError, SlackApp, SlackAppConfig};

use self::pacing::Pacing;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Target};
use crate::providers::attempt::{self, unsent};
use crate::providers::guard::{Guard, GuardError, GuardPolicy};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{
    Body, Deadlines, Dialer, Http1Pool, IdleLimits, Origin, path_of,
};
use crate::providers::{Provider, ProviderError};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Instant;

/// Deliveries per `send`. Small: a hook takes one a second anyway.
const BATCH_MAX: usize = 16;

/// How Slack hooks may be reached.
#[derive(Clone, Debug)]
pub struct SlackConfig {
    /// Also `http` hooks.
    pub allow_http: bool,
    /// Also hooks on this machine, for a twin. Other private addresses stay forbidden.
    pub allow_private: bool,
    /// A CA to trust besides the public ones.
    pub ca_pem: Option<Vec<u8>>,
    pub deadlines: Deadlines,
    pub idle: IdleLimits,
    /// Deliveries in flight over all hooks.
    pub in_flight_max: usize,
}

impl Default for SlackConfig {
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_private: false,
            ca_pem: None,
            deadlines: Deadlines::default(),
            idle: IdleLimits::default(),
            in_flight_max: 64,
        }
    }
}

/// Sends to Slack channels.
#[derive(Debug)]
pub struct Slack {
    guard: Guard,
    http: Http1Pool,
    pacing: Pacing,
    in_flight_max: usize,
    clock: Arc<dyn Clock>,
}

impl Slack {
    /// Checks the configuration. Opens no socket.
    pub fn new(config: SlackConfig, clock: Arc<dyn Clock>) -> Result<Self, ProviderError> {
        let guard = Guard::new(GuardPolicy {
            allow_http: config.allow_http,
            allow_loopback: config.allow_private,
            ..GuardPolicy::default()
        });
        let dialer = Dialer {
            resolver: Arc::new(guard.clone()),
            tls: tls::client_config(config.ca_pem.as_deref(), Protocol::Http1)?,
            protocol: Protocol::Http1,
            deadlines: config.deadlines,
        };
        let http = Http1Pool::new(dialer, config.idle);
        let in_flight_max = config.in_flight_max.max(1);
        Ok(Self { guard, http, pacing: Pacing::default(), in_flight_max, clock })
    }

    /// Judges a hook's URL when a subscription is made.
    pub fn check_url(&self, url: &str) -> Result<(), GuardError> {
        self.guard.check_url(url).map(drop)
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Slack { url: hook, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        if hook.reveal().is_empty() {
            return unsent(Outcome::Hold { cause: "bad_secret" });
        }
        let Ok(url) = self.guard.check_url(hook.reveal()) else {
            return unsent(Outcome::Rejected { cause: "target_blocked" });
        };
        let (Ok(origin), Ok(path)) = (Origin::of(&url), path_of(&url)) else {
            return unsent(Outcome::Rejected { cause: "bad_url" });
        };
        let body = match payload::prepare(delivery) {
            Ok(body) => body,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let hook = fingerprint(hook.reveal());
        match self.pacing.book(hook, tokio::time::Instant::now()) {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(wait) => {
                return unsent(Outcome::Retry { after: Some(wait), cause: "paced" });
            }
        }
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(path);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let started = Instant::now();
        let in_time = || self.clock.now() < delivery.expires_at;
        let answer = match self.http.send_while(&origin, request, in_time).await {
            Ok(answer) => answer,
            Err(failure) => return failure.without_detail().into_attempt(started.elapsed()),
        };
        let verdict = classify::classify(&answer, self.clock.wall());
        if let Outcome::Retry { after: Some(wait), .. } = verdict.outcome {
            self.pacing.hold(hook, wait, tokio::time::Instant::now());
        }
        verdict.into_attempt(answer.status, started.elapsed())
    }
}

/// Names a hook in the pacing table without keeping its URL, which is a credential.
fn fingerprint(url: &str) -> [u8; 16] {
    let mut short = [0u8; 16];
    for (to, from) in short.iter_mut().zip(Sha256::digest(url.as_bytes())) {
        *to = from;
    }
    short
}

impl Provider for Slack {
    fn name(&self) -> ProviderName {
        ProviderName::Slack
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(attempt::each(batch, report, |delivery| self.attempt(delivery)))
    }
}
