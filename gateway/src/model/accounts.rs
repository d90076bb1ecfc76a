//! How accounts are opened and proved: invitations, clients, keys, refresh tokens, policies, audit.

use super::{Millis, ObjectId, OrganizationId, RoleId, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// SHA-256 of a secret of at least 128 random bits: what is stored instead of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// An open invitation: whoever has its token may set the user's first password, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub token: SecretHash,
    pub user: UserId,
    pub org: OrganizationId,
    /// The role promised; checked again when the invitation is accepted.
    pub role: RoleId,
    pub created_at: Millis,
    pub expires_at: Millis,
}

/// An OAuth 2.0 client: a backend that speaks for an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// `oa2-client-id_…`
    pub id: String,
    pub org: OrganizationId,
    pub name: String,
    pub secret: SecretHash,
    /// Canonical permission names its tokens are limited to; `None` is no limit.
    pub limited_to: Option<Vec<String>>,
    pub created_at: Millis,
}

/// A long-lived opaque bearer token (`bgl_…`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: ObjectId,
    pub token: SecretHash,
    pub org: OrganizationId,
    /// The user it speaks for; `None` is the organization itself.
    pub user: Option<UserId>,
    pub name: String,
    pub limited_to: Option<Vec<String>>,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
}

/// One refresh token. It stays after its use, so that a second use is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshToken {
    pub token: SecretHash,
    /// All tokens that descend from one log-in.
    pub family: Uuid,
    pub client: String,
    pub org: OrganizationId,
    pub user: Option<UserId>,
    /// The user's epoch at log-in.
    pub epoch: u32,
    pub expires_at: Millis,
    pub is_used: bool,
}

/// Whose notification policy or message text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyOwner {
    /// What counts where an organization has none of its own.
    Instance,
    Organization(OrganizationId),
}

/// Which events make a notification to the user concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationPolicy {
    pub password_change: bool,
    pub created_at: Millis,
    pub changed_at: Millis,
    /// The owner's counter when it was last changed.
    pub sequence: u64,
}

/// An organization's own words for the message after a password change, in one language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageText {
    pub title: String,
    pub pre_header: String,
    pub subject: String,
    pub greeting: String,
    pub text: String,
    pub button_text: String,
    pub footer_text: String,
    pub created_at: Millis,
    pub changed_at: Millis,
    pub sequence: u64,
}

/// What the audit trail is told about a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditNote {
    pub at: Millis,
    pub org: OrganizationId,
    /// `user:7`, `organization:101`, `client:oa2-…`, `import`.
    pub actor: String,
    /// The caller's address, where the change came over the network.
    pub peer: Option<String>,
    /// `user.create`, `policy.update`, …
    pub action: String,
    /// `user:9`, `subscription:5f1d…`; never a name, an address or a secret.
    pub object: String,
}

/// One line of an organization's audit trail, chained to the line before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The version of the records that holds the change; rises within an organization.
    pub version: u64,
    pub note: AuditNote,
    /// SHA-256 over the stored records the change replaced, and over what it put there.
    pub before: [u8; 32],
    pub after: [u8; 32],
    /// `hash` of the line before; zeros in the first.
    pub previous: [u8; 32],
    pub hash: [u8; 32],
}

impl AuditRecord {
    /// What `hash` must be: over everything else in the line, the hash of the one before too.
    #[must_use]
    pub fn computed_hash(&self) -> [u8; 32] {
        let unhashed = Self { hash: [0; 32], ..self.clone() };
        // Serializing into memory cannot fail for these types.
        let bytes = postcard::to_allocvec(&unhashed).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(b"bugler.audit.v1");
        hash.update(&bytes);
        hash.finalize().into()
    }
}
