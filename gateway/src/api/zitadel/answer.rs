//! What a call answers, the same for every transport.

use super::proto::{
    DetailsResponse, MessageCustomText, NotificationPolicy, ObjectDetails, Org, OrgResponse,
    PolicyResponse, TextResponse,
};
use prost::Message;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Empty,
    /// A change was made.
    Details(ObjectDetails),
    Policy(NotificationPolicy),
    Text(MessageCustomText),
    Org(Org),
}

impl Answer {
    /// As a protobuf message.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self.clone() {
            Self::Empty => Vec::new(),
            Self::Details(details) => DetailsResponse { details: Some(details) }.encode_to_vec(),
            Self::Policy(policy) => PolicyResponse { policy: Some(policy) }.encode_to_vec(),
            Self::Text(text) => TextResponse { custom_text: Some(text) }.encode_to_vec(),
            Self::Org(org) => OrgResponse { org: Some(org) }.encode_to_vec(),
        }
    }
}
