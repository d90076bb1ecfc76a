//! What can go wrong with Redis, by name: whether it happened, and whether to ask again.

use redis::{ErrorKind, ServerError, ServerErrorKind};

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// Nothing was sent.
    #[error("redis at {node} cannot be reached: {what}")]
    Unreachable { node: String, what: String },
    /// It was sent and no answer came: it may have happened, or may still happen.
    #[error("redis at {node} did not answer in time, or the connection broke: {what}")]
    Unknown { node: String, what: String },
    /// It happened on the node, and fewer others than asked for are known to have it.
    #[error("{got} replicas have the write, {wanted} are asked for")]
    TooFewCopies { wanted: u32, got: u32 },
    /// `OOM`, `MISCONF` or `NOREPLICAS`: Redis takes no writes now.
    #[error("redis takes no writes: {what}")]
    Full { what: &'static str },
    /// The node is a replica, and no other has the slot yet.
    #[error("the redis node is a read-only replica")]
    ReadOnly,
    #[error("redis is loading its data")]
    Loading,
    /// A script or a slow command keeps the node busy.
    #[error("redis is busy with a script")]
    Busy,
    /// `CLUSTERDOWN` or `MASTERDOWN`: nobody serves the slot.
    #[error("the redis cluster does not serve this slot")]
    ClusterDown,
    /// The slot moves faster than we follow.
    #[error("the slot moved too often; ask again")]
    Moved,
    /// The consumer group or its stream is gone.
    #[error("the consumer group does not exist")]
    NoGroup,
    /// Another node owns the shard: the script changed nothing.
    #[error("the shard belongs to another node now")]
    Fenced,
    /// Redis will not do this, however often it is asked.
    #[error("redis refused: {code} {what}")]
    Refused { code: String, what: String },
    /// A reply that the caller cannot use.
    #[error("redis answered unexpectedly: {what}")]
    Unexpected { what: &'static str },
    /// The configuration cannot work with this server.
    #[error("{what}")]
    Settings { what: String },
}

impl RedisError {
    /// True if it may have happened.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::TooFewCopies { .. })
    }

    /// True if it did not happen, and may succeed after a while.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Full { .. }
                | Self::ReadOnly
                | Self::Loading
                | Self::Busy
                | Self::ClusterDown
                | Self::Moved
        )
    }

    /// True if the configuration, ours or the server's, must be changed.
    #[must_use]
    pub fn is_settings(&self) -> bool {
        matches!(self, Self::Settings { .. } | Self::Refused { .. })
    }

    /// Stable word for counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Unknown { .. } => "unknown",
            Self::TooFewCopies { .. } => "too_few_copies",
            Self::Full { what } => what,
            Self::ReadOnly => "READONLY",
            Self::Loading => "LOADING",
            Self::Busy => "BUSY",
            Self::ClusterDown => "CLUSTERDOWN",
            Self::Moved => "MOVED",
            Self::NoGroup => "NOGROUP",
            Self::Fenced => "FENCED",
            Self::Refused { .. } => "refused",
            Self::Unexpected { .. } => "unexpected",
            Self::Settings { .. } => "settings",
        }
    }

    #[must_use]
    pub fn unexpected(what: &'static str) -> Self {
        Self::Unexpected { what }
    }

    /// Of a connection that could not be made.
    pub(super) fn of_dial(node: &str, error: &redis::RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::refused("WRONGPASS", error.detail()),
            ErrorKind::Server(kind) => Self::of_kind(kind, error.code(), error.detail()),
            ErrorKind::Extension => Self::of_code(error.code().unwrap_or("ERR"), error.detail()),
            _ => Self::Unreachable { node: node.to_owned(), what: Self::describe(error) },
        }
    }

    /// Of a request that was handed to a connection.
    pub(super) fn of_request(node: &str, error: &redis::RedisError) -> Self {
        Self::Unknown { node: node.to_owned(), what: Self::describe(error) }
    }

    /// Of a reply that is an error.
    pub(super) fn of_reply(error: &ServerError) -> Self {
        match error.kind() {
            Some(kind) => Self::of_kind(kind, Some(error.code()), error.details()),
            None => Self::of_code(error.code(), error.details()),
        }
    }

    fn of_kind(kind: ServerErrorKind, code: Option<&str>, detail: Option<&str>) -> Self {
        match kind {
            ServerErrorKind::BusyLoading => Self::Loading,
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain => {
                Self::Moved
            }
            ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown => Self::ClusterDown,
            ServerErrorKind::ReadOnly => Self::ReadOnly,
            _ => Self::refused(code.unwrap_or("ERR"), detail),
        }
    }

    fn of_code(code: &str, detail: Option<&str>) -> Self {
        match code {
            "OOM" => Self::Full { what: "OOM" },
            "MISCONF" => Self::Full { what: "MISCONF" },
            "NOREPLICAS" => Self::Full { what: "NOREPLICAS" },
            "BUSY" | "UNKILLABLE" => Self::Busy,
            "NOGROUP" => Self::NoGroup,
            "FENCED" => Self::Fenced,
            // `ERR max number of clients reached` comes with no code that the crate knows.
            _ => Self::refused(code, detail),
        }
    }

    fn refused(code: &str, detail: Option<&str>) -> Self {
        // What follows are arguments: keys and values of organizations.
        let what = detail.unwrap_or_default().split(", with args").next().unwrap_or_default();
        if what.contains("max number of clients") {
            let node = String::from("this address");
            return Self::Unreachable { node, what: what.to_owned() };
        }
        Self::Refused { code: code.to_owned(), what: what.to_owned() }
    }

    /// The crate's words without what it adds around a timeout.
    pub(super) fn describe(error: &redis::RedisError) -> String {
        if error.is_timeout() { String::from("timed out") } else { error.to_string() }
    }
}
