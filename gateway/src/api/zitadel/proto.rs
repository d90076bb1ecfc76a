//! ZITADEL's protobuf messages, as far as they are served; field numbers are those of its descriptors.

use crate::model::Millis;
use prost::Message;

/// `zitadel.management.v1.{Add,Update}CustomNotificationPolicyRequest` and the admin API's twins.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PolicyRequest {
    #[prost(bool, tag = "1")]
    pub(super) password_change: bool,
}

/// Every request that names a language and nothing else.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LanguageRequest {
    #[prost(string, tag = "1")]
    pub(super) language: String,
}

/// `zitadel.management.v1.SetCustomPasswordChangeMessageTextRequest`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TextRequest {
    #[prost(string, tag = "1")]
    pub(super) language: String,
    #[prost(string, tag = "2")]
    pub(super) title: String,
    #[prost(string, tag = "3")]
    pub(super) pre_header: String,
    #[prost(string, tag = "4")]
    pub(super) subject: String,
    #[prost(string, tag = "5")]
    pub(super) greeting: String,
    #[prost(string, tag = "6")]
    pub(super) text: String,
    #[prost(string, tag = "7")]
    pub(super) button_text: String,
    #[prost(string, tag = "8")]
    pub(super) footer_text: String,
}

/// `zitadel.management.v1.SetHumanPasswordRequest`
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(super) struct PasswordRequest {
    #[prost(string, tag = "1")]
    pub(super) user_id: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
    #[prost(bool, tag = "3")]
    pub(super) no_change_required: bool,
}

impl std::fmt::Debug for PasswordRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordRequest").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// A request without fields.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct EmptyRequest {}

/// `google.protobuf.Timestamp`
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl From<Millis> for Timestamp {
    fn from(at: Millis) -> Self {
        let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(at.0 % 1_000 * 1_000_000).unwrap_or(0);
        Self { seconds, nanos }
    }
}

/// `zitadel.v1.ObjectDetails`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ObjectDetails {
    /// The organization's count of changes at this object's last change.
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) creation_date: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    pub(super) change_date: Option<Timestamp>,
    #[prost(string, tag = "4")]
    pub(super) resource_owner: String,
}

/// `zitadel.policy.v1.NotificationPolicy`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct NotificationPolicy {
    #[prost(message, optional, tag = "1")]
    pub(super) details: Option<ObjectDetails>,
    #[prost(bool, tag = "2")]
    pub(super) is_default: bool,
    #[prost(bool, tag = "3")]
    pub(super) password_change: bool,
}

/// `zitadel.text.v1.MessageCustomText`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct MessageCustomText {
    #[prost(message, optional, tag = "1")]
    pub(super) details: Option<ObjectDetails>,
    #[prost(string, tag = "2")]
    pub(super) title: String,
    #[prost(string, tag = "3")]
    pub(super) pre_header: String,
    #[prost(string, tag = "4")]
    pub(super) subject: String,
    #[prost(string, tag = "5")]
    pub(super) greeting: String,
    #[prost(string, tag = "6")]
    pub(super) text: String,
    #[prost(string, tag = "7")]
    pub(super) button_text: String,
    #[prost(string, tag = "8")]
    pub(super) footer_text: String,
    #[prost(bool, tag = "9")]
    pub(super) is_default: bool,
}

/// `zitadel.org.v1.Org`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Org {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) details: Option<ObjectDetails>,
    /// `zitadel.org.v1.OrgState`; only [`ORG_STATE_ACTIVE`] is ever sent.
    #[prost(int32, tag = "3")]
    pub(super) state: i32,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(string, tag = "5")]
    pub(super) primary_domain: String,
}

/// `zitadel.org.v1.OrgState.ORG_STATE_ACTIVE`
pub(super) const ORG_STATE_ACTIVE: i32 = 1;

/// Every response of which the first field is an `ObjectDetails` and the only one.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DetailsResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) details: Option<ObjectDetails>,
}

/// Every response that is a notification policy.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PolicyResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) policy: Option<NotificationPolicy>,
}

/// Every response that is a message text.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TextResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) custom_text: Option<MessageCustomText>,
}

/// `zitadel.management.v1.GetMyOrgResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct OrgResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) org: Option<Org>,
}

/// `zitadel.v1.ErrorDetail`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ErrorDetail {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// The type of [`ErrorDetail`] in an [`Any`].
pub(super) const ERROR_DETAIL_TYPE: &str = "type.googleapis.com/zitadel.v1.ErrorDetail";

pub(super) const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RetryDelay {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<WholeSeconds>,
}

/// `google.protobuf.Duration` without a fraction.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WholeSeconds {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}
