//! A notification, whom it is for, and the unit a provider sends: a delivery to one target.

use super::{
    DeliveryId, DeviceId, Millis, NotificationId, OrganizationId, Secret, SubscriptionId,
    TargetPolicy, UserId,
};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::Arc;
use uuid::Uuid;

/// The dialect that accepted a notification; decides how its state is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Jigx,
    Applivery,
    Blynk,
    Zitadel,
    Native,
}

/// Whom a notification is for. Resolved to users and devices at dispatch, never at intake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Audience {
    Users(Vec<UserId>),
    /// Unknown addresses are skipped and counted.
    Emails(Vec<String>),
    /// Everybody in the organization.
    Organization,
    /// Every member of a solution.
    Solution(Uuid),
    /// Members of the named groups of a solution.
    Groups {
        solution: Uuid,
        groups: Vec<String>,
    },
    /// Nobody: only subscriptions that want the event.
    Subscriptions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

/// What is shown. Lengths were checked at intake against the dialect's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub title: String,
    pub body: String,
    pub image_url: Option<String>,
    /// A JSON object in text form, passed through untouched; empty when the caller sent none.
    pub data: String,
}

/// An e-mail about an account: texts only, so that no caller decides where its links lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    pub subject: String,
    /// Small line some clients show beside the subject.
    pub pre_header: String,
    pub title: String,
    pub greeting: String,
    pub text: String,
    /// Caption of the button and where it leads; no button without both.
    pub button: Option<(String, String)>,
    pub footer: String,
}

/// What a caller asked to send, accepted once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    pub id: NotificationId,
    pub org: OrganizationId,
    pub source: Source,
    /// Event type: what subscriptions and rules select on (`push.direct`, `buildCreated`, …).
    pub event: String,
    pub audience: Audience,
    pub content: Content,
    pub priority: Priority,
    pub collapse_key: Option<String>,
    pub created_at: Millis,
    pub created_by: String,
    pub start_at: Millis,
    /// Past this instant nothing is sent any more; `None` leaves it to each provider's default.
    pub expires_at: Option<Millis>,
    /// Fields only the accepting dialect knows, as JSON text, for its own read operations.
    pub dialect_fields: String,
    /// Sent to each user of the audience by e-mail as well, where an SMTP relay is configured.
    pub mail: Option<Mail>,
    /// Each user of the audience also gets an entry in the in-app inbox.
    pub inbox: bool,
}

impl Notification {
    /// One for the subscriptions of its organization, due at once, without content or anything else asked.
    #[must_use]
    pub fn due(
        id: NotificationId,
        org: OrganizationId,
        source: Source,
        event: impl Into<String>,
        now: Millis,
    ) -> Self {
        Self {
            id,
            org,
            source,
            event: event.into(),
            audience: Audience::Subscriptions,
            content: Content::default(),
            priority: Priority::default(),
            collapse_key: None,
            created_at: now,
            created_by: String::new(),
            start_at: now,
            expires_at: None,
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        }
    }
}

/// Where one delivery goes, with the credential it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Apns {
        device: DeviceId,
        user: UserId,
        app: String,
        token: Secret,
        /// When the app last told us this token.
        registered_at: Millis,
    },
    Fcm {
        device: DeviceId,
        user: UserId,
        app: String,
        token: Secret,
    },
    Slack {
        subscription: SubscriptionId,
        url: Secret,
        policy: TargetPolicy,
    },
    Webhook {
        subscription: SubscriptionId,
        url: String,
        secret: Secret,
        /// The one before, which signs as well until that instant.
        retired: Option<(Secret, Millis)>,
        policy: TargetPolicy,
    },
    /// One user's mailbox, over the configured relay. The address is personal: see `Target::key`.
    Email {
        user: UserId,
        to: String,
    },
}

impl Target {
    /// What names the target in the journal: everything but the secrets, which are looked up again.
    #[must_use]
    pub fn reference(&self) -> TargetRef {
        match self {
            Self::Apns { device, user, .. } => {
                TargetRef::Device { provider: ProviderName::Apns, device: *device, user: *user }
            }
            Self::Fcm { device, user, .. } => {
                TargetRef::Device { provider: ProviderName::Fcm, device: *device, user: *user }
            }
            Self::Slack { subscription, .. } => TargetRef::Subscription {
                provider: ProviderName::Slack,
                subscription: *subscription,
            },
            Self::Webhook { subscription, .. } => TargetRef::Subscription {
                provider: ProviderName::Webhook,
                subscription: *subscription,
            },
            Self::Email { user, .. } => {
                TargetRef::Mailbox { provider: ProviderName::Email, user: *user }
            }
        }
    }

    /// Stable name of the target: part of the delivery id, safe to log (no token, URL or address).
    #[must_use]
    pub fn key(&self) -> String {
        self.reference().key()
    }

    /// How its owner wants it treated; devices and mailboxes have no wishes.
    #[must_use]
    pub fn policy(&self) -> TargetPolicy {
        match self {
            Self::Slack { policy, .. } | Self::Webhook { policy, .. } => *policy,
            Self::Apns { .. } | Self::Fcm { .. } | Self::Email { .. } => TargetPolicy::default(),
        }
    }

    #[must_use]
    pub fn provider(&self) -> ProviderName {
        match self {
            Self::Apns { .. } => ProviderName::Apns,
            Self::Fcm { .. } => ProviderName::Fcm,
            Self::Slack { .. } => ProviderName::Slack,
            Self::Webhook { .. } => ProviderName::Webhook,
            Self::Email { .. } => ProviderName::Email,
        }
    }

    /// The credential whose lane this target uses: the app for push, the subscription for hooks,
    /// one lane for all mail.
    #[must_use]
    pub fn credential(&self) -> String {
        match self {
            Self::Apns { app, .. } | Self::Fcm { app, .. } => app.clone(),
            Self::Slack { subscription, .. } | Self::Webhook { subscription, .. } => {
                subscription.to_string()
            }
            Self::Email { .. } => String::from(ProviderName::Email.as_str()),
        }
    }
}

/// Changes a plan makes to how a delivery goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    pub priority: Option<Priority>,
    pub collapse_key: Option<String>,
    pub expires_at: Option<Millis>,
}

/// A target without its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TargetRef {
    Device {
        provider: ProviderName,
        device: DeviceId,
        user: UserId,
    },
    Subscription {
        provider: ProviderName,
        subscription: SubscriptionId,
    },
    /// Where a user reads mail; the address is looked up again for each try.
    Mailbox {
        provider: ProviderName,
        user: UserId,
    },
}

/// Room for the key of any target.
const KEY_BYTES: usize = 48;

impl TargetRef {
    /// `provider:id`, as timelines and logs show it.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = String::with_capacity(KEY_BYTES);
        key.push_str(self.provider().as_str());
        key.push(':');
        // Writing to memory cannot fail.
        match self {
            Self::Device { device, .. } => {
                let mut text = Uuid::encode_buffer();
                key.push_str(device.0.hyphenated().encode_lower(&mut text));
            }
            Self::Subscription { subscription, .. } => write!(key, "{subscription}").unwrap_or(()),
            Self::Mailbox { user, .. } => write!(key, "{user}").unwrap_or(()),
        }
        key
    }

    #[must_use]
    pub fn provider(&self) -> ProviderName {
        match self {
            Self::Device { provider, .. }
            | Self::Subscription { provider, .. }
            | Self::Mailbox { provider, .. } => *provider,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderName {
    Apns,
    Fcm,
    Slack,
    Webhook,
    Email,
}

impl ProviderName {
    pub const ALL: [Self; 5] = [Self::Apns, Self::Fcm, Self::Slack, Self::Webhook, Self::Email];

    /// Metric label, configuration section and timeline word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
            Self::Email => "email",
        }
    }
}

/// Notification × target, as a provider sees it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: DeliveryId,
    pub notification: Arc<Notification>,
    pub target: Target,
    /// 1 for the first try.
    pub attempt: u16,
    /// From the rules' plan; defaults to the notification's own.
    pub priority: Priority,
    pub collapse_key: Option<String>,
    pub expires_at: Millis,
}
