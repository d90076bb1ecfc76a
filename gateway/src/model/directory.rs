//! Who exists: organizations with their four names, users, roles, devices, solutions, subscriptions.

use super::{DeviceId, Millis, ObjectId, OrganizationId, RoleId, SubscriptionId, UserId};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// A value that must not be printed: `Debug` and `Display` show `***`.
///
/// Copies share it: every delivery holds some.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into().into())
    }

    /// The wrapped value, for the one place that sends or compares it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as records keep it; `vault::Vault` seals and opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Wraps what a vault made.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One account and its name in every dialect. All names are unique on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    pub id: OrganizationId,
    /// Jigx's form.
    pub uuid: Uuid,
    /// Applivery's form.
    pub object_id: ObjectId,
    /// Applivery's readable form: never all digits, an uuid or 24 hex digits.
    pub slug: String,
    /// ZITADEL's form: up to 20 decimal digits.
    pub numeric: String,
    pub name: String,
    /// The organization tree decides who may act on whom, in every dialect.
    pub parent: Option<OrganizationId>,
    /// IANA name used for users without one.
    pub tz: String,
    pub created_at: Millis,
    pub profile: OrganizationProfile,
}

/// What an organization says about itself; no decision depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganizationProfile {
    pub kind: OrganizationKind,
    pub description: Option<String>,
    pub phone: Option<String>,
    pub address: Option<Address>,
    pub units: Units,
    /// Set by every change; 0 for records that were never changed.
    pub modified_at: Millis,
}

/// Blynk's organization types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrganizationKind {
    Root,
    #[default]
    Business,
    Personal,
    Branch,
    Distributor,
    Contractor,
    Installer,
    Reseller,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Units {
    Imperial,
    #[default]
    Metric,
}

/// A postal address as Blynk keeps it; lengths were checked at the edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub full_address: Option<String>,
    pub country: Option<String>,
    pub city: Option<String>,
    pub state: Option<String>,
    pub zip: Option<String>,
}

/// Where a user stands in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserStatus {
    Pending,
    Active,
    Suspended,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    /// Jigx's form.
    pub uuid: Uuid,
    pub org: OrganizationId,
    /// Lower case; unique on the server.
    pub email: String,
    pub name: String,
    pub role: RoleId,
    pub status: UserStatus,
    pub tz: Option<String>,
    pub locale: Option<String>,
    /// Free key/value pairs a rule may read.
    pub prefs: Vec<(String, String)>,
    pub created_at: Millis,
    pub profile: UserProfile,
    pub account: AccountState,
}

/// An active user who did not log in for this long is shown as inactive.
const INACTIVE_AFTER_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

impl User {
    /// When an active user becomes an inactive one, if nothing changes; never before a first log-in.
    #[must_use]
    pub fn inactive_from(&self) -> Option<Millis> {
        self.account.last_login_at.map(|at| at.plus(INACTIVE_AFTER_MS))
    }

    /// The record before a change at `now`: with its next revision.
    #[must_use]
    pub fn changed(mut self, now: Millis) -> Self {
        self.account.modified_at = now;
        self.account.revision = self.account.revision.wrapping_add(1);
        self
    }
}

/// What a user says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserProfile {
    pub title: Option<String>,
    pub nick_name: Option<String>,
    pub phone: Option<String>,
    pub address: Option<Address>,
    pub is_developer: bool,
    pub dark_mode: bool,
}

/// What changes of an account leave behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Set by every change; 0 for records that were never changed.
    pub modified_at: Millis,
    pub last_login_at: Option<Millis>,
    /// Raised when tokens given out so far must stop working: a new password, a suspension.
    pub epoch: u32,
    /// Raised by every change of the record: what `Expectation::UserRevision` compares.
    pub revision: u32,
}

/// A named set of permissions. 1 Admin, 2 Staff and 3 User exist in every organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub id: RoleId,
    pub org: OrganizationId,
    pub name: String,
    pub permissions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    Apns,
    Fcm,
}

/// One push token. `app` names the configured credential (`[providers.apns.<app>]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: DeviceId,
    pub user: UserId,
    pub platform: Platform,
    pub app: String,
    pub token: Secret,
    pub registered_at: Millis,
}

/// A member of a Jigx solution, with its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub solution: Uuid,
    pub user: UserId,
    pub groups: Vec<String>,
    pub role: MemberRole,
}

/// Jigx's roles of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    Owner,
    Admin,
    Maker,
    #[default]
    User,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// An incoming-webhook URL is itself the credential.
    Slack { url: Sealed, team: String, channel: String },
    /// `secret` is `whsec_` + base64, as Standard Webhooks writes it.
    Webhook { url: String, secret: Sealed, retired: Option<RetiredSecret> },
}

/// The secret before: it signs beside the new one for a while, so that receivers can change over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredSecret {
    pub secret: Sealed,
    pub until: Millis,
}

/// What becomes of a delivery after a try whose outcome nobody knows: sent, and no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnknown {
    /// Sent again by the provider's schedule, under the same id: at least once.
    #[default]
    Resend,
    /// Kept until somebody decides: it waits with the dead letters.
    Hold,
    /// Given up: at most once.
    GiveUp,
}

/// How deliveries to one subscription are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPolicy {
    pub on_unknown: OnUnknown,
    /// Slack: what comes faster than the hook may be called goes out as one message.
    pub merges_overflow: bool,
    /// A delivery that has to be tried again keeps those after it waiting.
    pub keeps_order: bool,
}

/// An organization's wish to get events by Slack or webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub org: OrganizationId,
    pub description: Option<String>,
    /// Event names; `*` is every event.
    pub events: Vec<String>,
    /// Event names its owner said no to, shown again as they were sent.
    pub unwanted: Vec<String>,
    pub endpoint: Endpoint,
    pub policy: TargetPolicy,
    pub enabled: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Subscription {
    /// True if this subscription wants `event`.
    #[must_use]
    pub fn wants(&self, event: &str) -> bool {
        self.enabled && self.events.iter().any(|e| e == "*" || e == event)
    }
}
