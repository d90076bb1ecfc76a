//! What a run sends: where to, how much, how fast, in which dialect.

use std::time::Duration;

use url::Url;

/// How requests are made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One notification in each request.
    Single(Dialect),
    /// Native bulk: one notification in each NDJSON line.
    Bulk { lines_per_request: u32 },
}

impl Mode {
    pub(crate) fn notifications_per_request(&self) -> u32 {
        match self {
            Self::Single(_) => 1,
            Self::Bulk { lines_per_request } => *lines_per_request,
        }
    }
}

/// The dialect of single requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v2.0/tool/organizations/{org}/notifications`, by e-mail address.
    Jigx { organization: String },
    /// `POST /api/v1/organization/users/send-push-notification`, by user id.
    Blynk,
    /// `POST /bugler/v1/notifications`, by user id.
    Native,
}

/// Users `first..=last` in turn; as e-mail addresses `user<n>@<domain>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipients {
    pub first: u64,
    pub last: u64,
    pub domain: String,
}

impl Recipients {
    /// The user that notification `seq` is for.
    #[must_use]
    pub fn user(&self, seq: u64) -> u64 {
        self.first + seq % (self.last - self.first + 1)
    }
}

impl Default for Recipients {
    fn default() -> Self {
        Self { first: 1, last: 1, domain: "example.com".to_owned() }
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No request is planned after this time; those under way are waited for.
    After(Duration),
    /// After so many notifications.
    Total(u64),
}

/// One run.
#[derive(Clone)]
pub struct LoadPlan {
    /// Origin of the gateway, as `http://127.0.0.1:2845`.
    pub url: String,
    /// Bearer token.
    pub token: String,
    pub mode: Mode,
    /// Connections, each with one request under way.
    pub connections: usize,
    pub stop: Stop,
    /// Notifications per second, open loop; as fast as answers come when none.
    pub rate: Option<f64>,
    pub recipients: Recipients,
    /// Bytes of the text of each notification, at least 26.
    pub text_bytes: usize,
    /// Sequence number of the first notification; runs against one set of twins must not overlap.
    pub first_seq: u64,
    /// Whether each request carries an `Idempotency-Key`.
    pub idempotency_keys: bool,
    /// Longest wait for a connection, and for an answer.
    pub timeout: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:2845".to_owned(),
            token: String::new(),
            mode: Mode::Single(Dialect::Native),
            connections: 16,
            stop: Stop::After(Duration::from_secs(10)),
            rate: None,
            recipients: Recipients::default(),
            text_bytes: 120,
            first_seq: 1,
            idempotency_keys: false,
            timeout: Duration::from_secs(30),
        }
    }
}

impl std::fmt::Debug for LoadPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadPlan")
            .field("url", &self.url)
            .field("mode", &self.mode)
            .field("connections", &self.connections)
            .field("stop", &self.stop)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// A plan that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0:?} is no http URL with a host; write it as http://127.0.0.1:2845")]
    Url(String),
    #[error("the token holds characters that a header cannot")]
    Token,
    #[error("connections, lines per request and rate must be above zero")]
    Zero,
    #[error("the last recipient comes before the first")]
    Recipients,
    #[error("the organization holds characters that a path cannot; use its id")]
    Organization,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// For the connection.
    pub(crate) address: String,
    /// For the `Host` header.
    pub(crate) host: String,
}

impl LoadPlan {
    /// Checks the plan and finds where it goes.
    pub(crate) fn check(&self) -> Result<Target, LoadError> {
        let is_zero = self.connections == 0
            || self.mode.notifications_per_request() == 0
            || self.rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite());
        if is_zero {
            return Err(LoadError::Zero);
        }
        if self.recipients.last < self.recipients.first {
            return Err(LoadError::Recipients);
        }
        if !self.token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(LoadError::Token);
        }
        if let Mode::Single(Dialect::Jigx { organization }) = &self.mode
            && !organization.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(LoadError::Organization);
        }
        let wrong = || LoadError::Url(self.url.clone());
        let url = Url::parse(&self.url).map_err(|_| wrong())?;
        let host = url.host_str().filter(|_| url.scheme() == "http").ok_or_else(wrong)?;
        let address = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
        Ok(Target { host: address.clone(), address })
    }
}
