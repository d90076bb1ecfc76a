//! What operations on subscriptions ask of the network, without knowing how it is reached.

use crate::BoxFuture;
use crate::model::{Notification, OrganizationId, Secret, Target};
use std::fmt;

/// Slack hooks and webhooks seen from the API. Every call bounds its own time.
pub trait Hooks: Send + Sync + fmt::Debug {
    /// Judges a webhook's URL with the rules each delivery meets later. The error is a fixed text
    /// that tells nothing about what lies behind the URL.
    fn check_url(&self, url: &str) -> Result<(), String>;

    /// Judges where the name in a URL that `check_url` took leads now. A name that leads nowhere
    /// passes: it is judged again at each connection. The error is a fixed text, too.
    fn check_host<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Exchanges an authorization code of Slack's for the hook it was given for, for `org`.
    fn exchange<'a>(
        &'a self,
        org: OrganizationId,
        code: &'a str,
        redirect_uri: &'a str,
    ) -> BoxFuture<'a, Result<SlackHook, ExchangeError>>;

    /// Sends `notification` to `target` once, past rules, lanes and the journal. `None` if too many
    /// others of its organization, or of all, are being sent so.
    fn send_once(&self, notification: Notification, target: Target)
    -> BoxFuture<'_, Option<Trial>>;
}

/// What Slack gives for a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlackHook {
    /// The hook's URL is itself the credential.
    pub url: Secret,
    pub team: String,
    pub channel: String,
}

/// Why a code was not exchanged. The texts reach customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    #[error("Slack integration is not configured")]
    NotConfigured,
    #[error("is not one of the redirect URIs this server allows")]
    Redirect,
    /// Slack's own word about the code or its redirect URI.
    #[error("was refused by Slack: {0}")]
    Refused(&'static str),
    #[error("could not be exchanged: Slack gave no usable answer")]
    Failed,
    /// Too many codes are being exchanged; nothing was asked of Slack.
    #[error("is not exchanged now: too many others are")]
    Busy,
}

/// How a single try ended, as far as the owner of its target may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub delivered: bool,
    /// The target's status, if it answered.
    pub status: Option<u16>,
}

/// The network of a server that has none: every URL is refused, and nothing is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn check_url(&self, _: &str) -> Result<(), String> {
        Err(String::from("this server sends no webhooks"))
    }

    fn check_host<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(std::future::ready(self.check_url(url)))
    }

    fn exchange<'a>(
        &'a self,
        _: OrganizationId,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<SlackHook, ExchangeError>> {
        Box::pin(std::future::ready(Err(ExchangeError::NotConfigured)))
    }

    fn send_once(&self, _: Notification, _: Target) -> BoxFuture<'_, Option<Trial>> {
        Box::pin(std::future::ready(None))
    }
}
