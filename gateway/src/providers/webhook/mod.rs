//! Webhooks: signed as Standard Webhooks, guarded against requests into our own network.

mod classify;
mod payload;
mod places;
mod sign;
#[cfg(test)]
mod tests;

pub use sign::SecretError;

use self::places::Places;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Target};
use crate::providers::attempt::{self, Memo, unsent};
use crate::providers::guard::{Guard, GuardError, GuardPolicy};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{Body, Deadlines, Dialer, Failure, Http1Pool, IdleLimits};
use crate::providers::{Provider, ProviderError};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::coop::unconstrained;

/// Deliveries per `send`.
const BATCH_MAX: usize = 64;
/// Header fields of a request, with those that the transport adds.
const HEADERS: usize = 7;

/// How webhooks may be sent.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Also `http` targets.
    pub allow_http: bool,
    /// Also targets on this machine, for development and tests. Other private addresses stay
    /// forbidden.
    pub allow_private: bool,
    /// Our own public names and the ports we listen on: no webhook may point back at us.
    pub own_hosts: Vec<String>,
    pub own_ports: Vec<u16>,
    /// A CA to trust besides the public ones.
    pub ca_pem: Option<Vec<u8>>,
    pub deadlines: Deadlines,
    pub idle: IdleLimits,
    /// Deliveries in flight over all targets.
    pub in_flight_max: usize,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_private: false,
            own_hosts: Vec::new(),
            own_ports: Vec::new(),
            ca_pem: None,
            deadlines: Deadlines::default(),
            idle: IdleLimits::default(),
            in_flight_max: 256,
        }
    }
}

/// Sends to customers' own servers.
#[derive(Debug)]
pub struct Webhook {
    guard: Guard,
    http: Http1Pool,
    bodies: Memo<Bytes>,
    places: Places,
    in_flight_max: usize,
    clock: Arc<dyn Clock>,
}

impl Webhook {
    /// Checks the configuration. Opens no socket.
    pub fn new(config: WebhookConfig, clock: Arc<dyn Clock>) -> Result<Self, ProviderError> {
        let guard = Guard::new(GuardPolicy {
            allow_http: config.allow_http,
            allow_loopback: config.allow_private,
            own_hosts: config.own_hosts.clone(),
            own_ports: config.own_ports.clone(),
        });
        Self::with_guard(config, guard, clock)
    }

    /// As `new`, with a guard that has its own resolver.
    pub fn with_guard(
        config: WebhookConfig,
        guard: Guard,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ProviderError> {
        let dialer = Dialer {
            resolver: Arc::new(guard.clone()),
            tls: tls::client_config(config.ca_pem.as_deref(), Protocol::Http1)?,
            protocol: Protocol::Http1,
            deadlines: config.deadlines,
        };
        let http = Http1Pool::new(dialer, config.idle);
        let in_flight_max = config.in_flight_max.max(1);
        Ok(Self {
            guard,
            http,
            bodies: Memo::default(),
            places: Places::default(),
            in_flight_max,
            clock,
        })
    }

    /// Judges a URL when a subscription is made, with the rules each delivery meets later.
    pub fn check_url(&self, url: &str) -> Result<(), GuardError> {
        self.guard.check_url(url).map(drop)
    }

    /// Judges where a URL leads right now, when a subscription is made. A name that cannot be
    /// resolved passes: each connection is judged again.
    pub async fn check_host(&self, url: &str) -> Result<(), GuardError> {
        let url = self.guard.check_url(url)?;
        match self.guard.resolve_pinned(&url).await {
            Ok(_) | Err(GuardError::Unresolved) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Judges a secret when a subscription is made.
    pub fn check_secret(secret: &str) -> Result<(), SecretError> {
        sign::key(secret).map(drop)
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Webhook { url, secret, retired, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        let place = match self.places.of(url, &self.guard) {
            Ok(place) => place,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let Ok(key) = sign::key(secret.reveal()) else {
            return unsent(Outcome::Hold { cause: "bad_secret" });
        };
        let now = self.clock.now();
        let retired = retired.as_ref().filter(|(_, until)| now < *until);
        let retired = retired.and_then(|(secret, _)| sign::key(secret.reveal()).ok());
        let keys = [Some(key), retired];
        let body = match self.bodies.of(delivery, || payload::prepare(delivery)) {
            Ok(body) => body,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let request = self.request(delivery, &keys, Uri::from(place.path.clone()), body);
        let started = Instant::now();
        let in_time = || self.clock.now() < delivery.expires_at;
        match self.http.send_while(&place.origin, request, in_time).await {
            Ok(answer) => {
                let verdict = classify::classify(&answer, self.clock.wall());
                verdict.into_attempt(answer.status, started.elapsed())
            }
            // The status is the answer; a body that drips or breaks off takes nothing back.
            Err(Failure::Unanswered { cause, status: Some(status @ 200..=299) }) => {
                attempt::accepted(cause, status, started.elapsed())
            }
            Err(failure) => failure.without_detail().into_attempt(started.elapsed()),
        }
    }

    fn request(
        &self,
        delivery: &Delivery,
        keys: &sign::Keys,
        uri: Uri,
        body: Bytes,
    ) -> Request<Body> {
        // Constant over all tries of this delivery; receivers drop what they have seen.
        let id = format!("msg_{}", delivery.id);
        // Fresh for each try; receivers refuse old ones as replays.
        let timestamp = self.clock.wall().0 / 1000;
        let signature = sign::sign(keys, &id, timestamp, &body);
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("Bugler"));
        let id = HeaderValue::try_from(id).expect("a prefix and a UUID are header characters");
        headers.insert(HeaderName::from_static("webhook-id"), id);
        headers.insert(HeaderName::from_static("webhook-timestamp"), timestamp.into());
        headers.insert(HeaderName::from_static("webhook-signature"), signature);
        request
    }
}

impl Provider for Webhook {
    fn name(&self) -> ProviderName {
        ProviderName::Webhook
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
        // A whole batch is one task, which gives way after each has been looked at once: what one of
        // them may do is bounded, and a budget for all would only have the later ones woken again.
        Box::pin(attempt::each(batch, report, |delivery| unconstrained(self.attempt(delivery))))
    }
}
