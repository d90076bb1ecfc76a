//! What the handlers share: who calls, what it reaches, and the one way a notification is accepted.

use crate::api::failure::{Failure, FailureClass};
use crate::api::{Answered, Blynk, Hooks, Identity, NotificationStates, SendLimit, reply};
use crate::auth::{Caller, PasswordPool, TokenVerifier};
use crate::intake::{
    Answer, ChangeError, Class, Intake, KeyState, RecordChange, RequestKey, Running,
};
use crate::model::{AuditNote, Organization, OrganizationId};
use crate::rules::{Deployments, RuleEngine};
use crate::server::Request;
use crate::store::{OrganizationRef, Store, StoreError, TREE_DEPTH_MAX};
use crate::telemetry::metrics;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blynk documents a request limit of 2 MB.
pub const BLYNK_BODY_MAX: u64 = 2_000_000;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Sizes and names the API needs from the configuration.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    pub max_body: u64,
    pub bulk_max_body: u64,
    /// Printed in Jigx answers.
    pub region: String,
    /// How long the journal keeps what is done.
    pub retention: Duration,
}

/// What the handlers share.
#[derive(Debug)]
pub struct Shared {
    pub intake: Intake,
    pub store: Arc<dyn Store>,
    pub verifier: TokenVerifier,
    pub settings: ApiSettings,
    /// `None` lets every organization send as fast as it can.
    pub limit: Arc<ArcSwapOption<SendLimit>>,
    pub identity: Identity,
    pub blynk: Blynk,
    /// Has the last word on what callers may do.
    pub rules: Arc<dyn RuleEngine>,
    /// Rules that come by this API; a gateway may take none.
    pub deployments: Option<Arc<Deployments>>,
    /// Slack hooks and webhooks, for operations on subscriptions.
    pub hooks: Arc<dyn Hooks>,
    pub passwords: PasswordPool,
    /// What became of the notifications that Jigx lists.
    pub jigx: NotificationStates,
}

impl Shared {
    /// Counts one notification of `org` against its limit.
    pub(crate) fn throttle(&self, org: OrganizationId) -> Result<(), Failure> {
        let limit = self.limit.load();
        let Some(limit) = limit.as_deref() else { return Ok(()) };
        limit
            .take(org, Instant::now())
            .inspect_err(|_| metrics::admission_refused("rate", Class::Normal.as_str()))
    }

    /// An organization, and whether the caller may act on it: its own and those below it. `None`
    /// if there is no such one.
    pub(crate) async fn reach(
        &self,
        caller: &Caller,
        which: OrganizationRef,
    ) -> Result<Option<(Arc<Organization>, bool)>, Failure> {
        let found = self.store.organization(which).await?;
        // Absent ones cost the same walk, so that the time tells nothing either.
        let id = found.as_ref().map_or(OrganizationId(0), |organization| organization.id);
        let is_reached = self.is_within(id, caller.organization).await?;
        Ok(found.map(|organization| (organization, is_reached)))
    }

    /// True if `below` is `above` or one of its descendants.
    pub(crate) async fn is_within(
        &self,
        below: OrganizationId,
        above: OrganizationId,
    ) -> Result<bool, Failure> {
        let mut current = Some(below);
        for _ in 0..TREE_DEPTH_MAX {
            match current {
                None => return Ok(false),
                Some(id) if id == above => return Ok(true),
                Some(id) => {
                    let record = self.store.organization(OrganizationRef::Id(id)).await?;
                    current = record.and_then(|organization| organization.parent);
                }
            }
        }
        Ok(false)
    }

    /// Reads a JSON body.
    pub(crate) async fn json_body(&self, request: Request) -> Result<(Head, Bytes), Failure> {
        Self::json_body_of(request, self.settings.max_body).await
    }

    /// Reads a JSON body of at most `max` bytes.
    pub(crate) async fn json_body_of(request: Request, max: u64) -> Result<(Head, Bytes), Failure> {
        check_json_type(&request.headers)?;
        let Request { uri, headers, body, peer, .. } = request;
        let body = body.read(max).await?;
        Ok((Head { uri, headers, peer }, body))
    }

    /// Stores one notification and answers, or repeats the answer its key already got.
    pub(crate) async fn accept(
        &self,
        key: Option<RequestKey>,
        prepare: impl FnOnce() -> Result<(crate::model::Notification, Answer), Failure>,
    ) -> Result<Answered, Failure> {
        let durability = self.intake.journal().durability();
        let Some(key) = key else {
            let (notification, answer) = prepare()?;
            self.intake.accept(notification, None).await?;
            return Ok(Answered::Accepted(reply::accepted(&answer, durability, false)));
        };
        let running = match self.intake.begin(key).await? {
            KeyState::First(guard) => guard,
            KeyState::Replay(answer) => {
                return Ok(Answered::Replayed(reply::accepted(&answer, durability, true)));
            }
        };
        let (notification, answer) = prepare()?;
        self.intake.accept(notification, Some((&running, &answer))).await?;
        Ok(Answered::Accepted(reply::accepted(&answer, durability, false)))
    }
}

impl Shared {
    /// Begins a request that changes records: finds the answer its key already got, if it has one.
    pub(crate) async fn turn(&self, key: Option<RequestKey>) -> Result<Turn, Failure> {
        let durability = self.intake.journal().durability();
        let Some(key) = key else { return Ok(Turn::First(Begun::unkeyed())) };
        Ok(match self.intake.begin(key).await? {
            KeyState::First(running) => Turn::First(Begun { running: Some(running), tries: 0 }),
            KeyState::Replay(answer) => {
                Turn::Replay(Answered::Replayed(reply::accepted(&answer, durability, true)))
            }
        })
    }

    /// Does work whose repetition is not harmless once for a key, whether or not the caller waits
    /// for it, and remembers its answer. A failure is forgotten: the same may be asked again.
    pub(crate) async fn once(
        self: &Arc<Self>,
        org: OrganizationId,
        key: Option<RequestKey>,
        work: impl Future<Output = Result<Answer, Failure>> + Send + 'static,
    ) -> Result<Answered, Failure> {
        let begun = match self.turn(key).await? {
            Turn::Replay(answered) => return Ok(answered),
            Turn::First(begun) => begun,
        };
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move {
            let answer = work.await?;
            // What was done is durable whatever becomes of this.
            if let Some(running) = &begun.running
                && let Err(error) = shared.intake.remember(org, running, &answer).await
            {
                tracing::warn!(%error, "an answer could not be remembered for its Idempotency-Key");
            }
            Ok::<Answer, Failure>(answer)
        });
        let failed = |_| Failure::new(FailureClass::Internal, "the request was not worked out");
        let answer = task.await.map_err(failed)??;
        let durability = self.intake.journal().durability();
        Ok(Answered::Other(reply::accepted(&answer, durability, false)))
    }

    /// Makes a change and answers; `None` if the records changed since they were read, so that
    /// the caller should read them and decide again. Gives up after a few times.
    pub(crate) async fn change(
        &self,
        begun: &mut Begun,
        change: RecordChange,
        answer: Answer,
    ) -> Result<Option<Answered>, Failure> {
        match self.attempt(begun, change, &answer).await {
            Ok(answered) => Ok(Some(answered)),
            Err(ChangeError::Store(StoreError::Unmet { what }))
                if RETRIED.contains(&what) && begun.again() =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a change once and answers; what a refusal of the records means is for the caller.
    pub(crate) async fn attempt(
        &self,
        begun: &Begun,
        change: RecordChange,
        answer: &Answer,
    ) -> Result<Answered, ChangeError> {
        let remember = begun.running.as_ref().map(|running| (running, answer));
        self.intake.change(self.store.as_ref(), change, remember).await?;
        let durability = self.intake.journal().durability();
        Ok(Answered::Other(reply::accepted(answer, durability, false)))
    }

    /// A line for the audit trail.
    pub(crate) fn note(
        &self,
        head: &Head,
        caller: &Caller,
        org: OrganizationId,
        action: &str,
        object: String,
    ) -> AuditNote {
        let actor = caller.name();
        let (at, peer) = (self.intake.now(), Some(head.peer.ip().to_string()));
        AuditNote { at, org, actor, peer, action: action.to_owned(), object }
    }
}

/// Expectations that fail because somebody else was faster: reading again may help.
const RETRIED: [&str; 5] = [
    "user_changed",
    "sequence_changed",
    "inbox_changed",
    "subscription_changed",
    "membership_changed",
];
const TRIES_MAX: u8 = 8;

/// How a request that changes records begins.
pub(crate) enum Turn {
    First(Begun),
    Replay(Answered),
}

/// A request that changes records, under way; keeps its idempotency key to itself.
pub(crate) struct Begun {
    running: Option<Running>,
    tries: u8,
}

impl Begun {
    /// A request whose repeats are harmless.
    pub(crate) fn unkeyed() -> Self {
        Self { running: None, tries: 0 }
    }

    /// Counts another try; false once there were enough.
    pub(crate) fn again(&mut self) -> bool {
        let is_left = self.tries < TRIES_MAX;
        self.tries += u8::from(is_left);
        is_left
    }
}

/// What is left of a request once its body is read.
pub(crate) struct Head {
    uri: http::Uri,
    headers: HeaderMap,
    peer: SocketAddr,
}

impl Head {
    pub(crate) fn new(uri: http::Uri, headers: HeaderMap, peer: SocketAddr) -> Self {
        Self { uri, headers, peer }
    }

    /// The head of a request whose body means nothing.
    pub(crate) fn of(request: Request) -> Self {
        let Request { uri, headers, peer, .. } = request;
        Self { uri, headers, peer }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The request's `Idempotency-Key`, if it has one, in the scope of its organization and path.
    pub(crate) fn key(
        &self,
        org: OrganizationId,
        body: &[u8],
    ) -> Result<Option<RequestKey>, Failure> {
        let Some(key) = idempotency_key(&self.headers)? else { return Ok(None) };
        let path = self.uri.path().trim_end_matches('/');
        Ok(Some(RequestKey::new(org, path, key.as_bytes(), body)?))
    }
}

/// The one `Idempotency-Key`, if there is any.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Failure> {
    let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (sent.next(), sent.next()) {
        (key, None) => Ok(key),
        (_, Some(_)) => Err(Failure::field("Idempotency-Key", "is there more than once")),
    }
}

/// The one `Content-Type`; with several, two readers could each follow another.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(CONTENT_TYPE).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

/// Refuses a body that does not say it is JSON in UTF-8.
fn check_json_type(headers: &HeaderMap) -> Result<(), Failure> {
    let unsupported = || {
        let text = "send the body as Content-Type: application/json";
        Failure::new(FailureClass::UnsupportedMediaType, text)
    };
    let value = content_type(headers).ok_or_else(unsupported)?;
    let mut parts = value.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = media == "application/json"
        || media.starts_with("application/") && media.ends_with("+json");
    let is_utf8 = parts.all(|parameter| {
        let parameter = parameter.to_ascii_lowercase();
        match parameter.strip_prefix("charset=") {
            Some(charset) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
            None => true,
        }
    });
    if is_json && is_utf8 { Ok(()) } else { Err(unsupported()) }
}
