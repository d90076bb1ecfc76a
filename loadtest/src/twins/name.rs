//! The names of the twins, as they stand in receipts, fault plans and the control interface.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One kind of request a twin answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwinName {
    Apns,
    Fcm,
    /// Google's OAuth token endpoint; it shares the listener of [`TwinName::Fcm`].
    FcmToken,
    Slack,
    /// Slack's OAuth code exchange; it shares the listener of [`TwinName::Slack`].
    SlackOauth,
    Webhook,
    Smtp,
}

/// A word that is not the name of a twin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no twin is called {0:?}; use apns, fcm, fcm-token, slack, slack-oauth, webhook or smtp")]
pub struct UnknownTwin(pub String);

impl TwinName {
    pub const ALL: [Self; 7] = [
        Self::Apns,
        Self::Fcm,
        Self::FcmToken,
        Self::Slack,
        Self::SlackOauth,
        Self::Webhook,
        Self::Smtp,
    ];

    /// The word used everywhere outside the program.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::FcmToken => "fcm-token",
            Self::Slack => "slack",
            Self::SlackOauth => "slack-oauth",
            Self::Webhook => "webhook",
            Self::Smtp => "smtp",
        }
    }

    /// Whether its requests carry notifications, in contrast to credentials or mail of accounts.
    #[must_use]
    pub fn carries_notifications(self) -> bool {
        matches!(self, Self::Apns | Self::Fcm | Self::Slack | Self::Webhook)
    }
}

impl fmt::Display for TwinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TwinName {
    type Err = UnknownTwin;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|name| name.as_str() == word);
        found.ok_or_else(|| UnknownTwin(word.to_owned()))
    }
}
