//! The three hooks: what each is asked, what a rule may answer.

use crate::model::{Millis, Notification, OrganizationId, ProviderName};
use crate::rules::patch::Edit;
use crate::rules::{Plan, RecipientView};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the gateway asks a rule. A component has the hooks it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// On the request path: may this principal do this?
    Authorize,
    /// In the dispatcher: where and when does this recipient get this notification?
    Route,
    /// Just before the provider call: what does this recipient see on this channel?
    Transform,
}

impl Hook {
    pub const ALL: [Self; 3] = [Self::Authorize, Self::Route, Self::Transform];

    /// The word of manifests, decision records and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Route => "route",
            Self::Transform => "transform",
        }
    }

    /// What a component with this hook exports.
    pub(super) fn export(self) -> &'static str {
        match self {
            Self::Authorize => "bugler:rules/authorizer@0.1.",
            Self::Route => "bugler:rules/router@0.1.",
            Self::Transform => "bugler:rules/transformer@0.1.",
        }
    }

    /// What a component exports beside, if it can be asked about a batch as one run of bytes.
    pub(super) fn packed_export(self) -> &'static str {
        match self {
            Self::Authorize => "bugler:rules/authorizer-packed@0.1.",
            Self::Route => "bugler:rules/router-packed@0.1.",
            Self::Transform => "bugler:rules/transformer-packed@0.1.",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    User,
    Organization,
    Service,
}

/// Who asks, as an authorize rule sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalView {
    pub kind: PrincipalKind,
    pub id: String,
    pub org: String,
    pub roles: Vec<String>,
    pub permissions: Vec<String>,
}

/// One question to the authorize rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizeItem {
    pub principal: PrincipalView,
    /// `notification.send`, `users.create`, …
    pub action: String,
    /// Organization the request acts in.
    pub org: OrganizationId,
    pub resource: Option<String>,
    /// Permissions the built-in check asks for.
    pub required: Vec<String>,
    /// What the built-in check says.
    pub is_allowed: bool,
}

/// One question to the transform rules.
#[derive(Clone, Debug)]
pub struct TransformItem {
    pub notification: Arc<Notification>,
    pub recipient: RecipientView,
    pub channel: ProviderName,
    /// What is shown, as a JSON object.
    pub payload: String,
}

/// A rule's answer to one item, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub decision: Decision,
    /// The rule's stable machine word; where the rule gave none, that of the decision.
    pub code: String,
    pub detail: Option<String>,
}

/// What rules may answer; each hook has its own few of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Abstain,
    Allow,
    Deny,
    Deliver(Plan),
    HoldUntil(Millis),
    Digest(Digest),
    Drop,
    Keep,
    Patch(Vec<Edit>),
    Replace(String),
}

/// Items of one key of one recipient, sent as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// 1 to 128 bytes.
    pub key: String,
    /// After now, at most 30 days ahead.
    pub flush_at: Millis,
    /// 2 to 1,000; whichever comes first flushes.
    pub max_items: u16,
}

impl Decision {
    /// True for what rules say most of the time: nothing is withheld.
    #[must_use]
    pub(super) fn is_common(&self) -> bool {
        match self {
            Self::Abstain
            | Self::Allow
            | Self::Deliver(_)
            | Self::Keep
            | Self::Patch(_)
            | Self::Replace(_) => true,
            Self::Deny | Self::HoldUntil(_) | Self::Digest(_) | Self::Drop => false,
        }
    }

    /// The word of the decision record.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Abstain => "abstain",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Deliver(_) => "deliver",
            Self::HoldUntil(_) => "hold-until",
            Self::Digest(_) => "digest",
            Self::Drop => "drop",
            Self::Keep => "keep",
            Self::Patch(_) => "patch",
            Self::Replace(_) => "replace",
        }
    }
}
