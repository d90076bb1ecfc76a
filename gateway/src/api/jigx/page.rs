//! Pages of lists: how many, and opaque tokens that say where the next one begins.

use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::query::Query;
use crate::model::{NotificationId, UserId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use uuid::Uuid;

const LIMIT_MAX: usize = 100;
const LIMIT_DEFAULT: usize = 25;
/// Characters of a token that is looked at.
const TOKEN_MAX: usize = 64;

/// Where a page begins, or what an inbox was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The organization's notifications before this one.
    Notifications(NotificationId),
    /// Members after this one.
    Members(UserId),
    /// A user's entries before this one, of an inbox whose reading began at a revision.
    Inbox { user: UserId, before: NotificationId, began: u64 },
    /// A user's changes after a revision, continuing a sync.
    Changes { user: UserId, after: u64 },
    /// An inbox as of a revision.
    Watermark { user: UserId, revision: u64 },
}

impl Token {
    pub(super) fn encode(self) -> String {
        let mut bytes = Vec::with_capacity(33);
        match self {
            Self::Notifications(before) => {
                bytes.push(1);
                bytes.extend_from_slice(before.0.as_bytes());
            }
            Self::Members(after) => {
                bytes.push(2);
                bytes.extend_from_slice(&after.0.to_be_bytes());
            }
            Self::Inbox { user, before, began } => {
                bytes.push(3);
                bytes.extend_from_slice(&user.0.to_be_bytes());
                bytes.extend_from_slice(before.0.as_bytes());
                bytes.extend_from_slice(&began.to_be_bytes());
            }
            Self::Changes { user, after } => put_two(&mut bytes, 4, user, after),
            Self::Watermark { user, revision } => put_two(&mut bytes, 5, user, revision),
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let bytes = (text.len() <= TOKEN_MAX).then(|| URL_SAFE_NO_PAD.decode(text).ok())??;
        let (kind, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let token = match kind {
            1 => Self::Notifications(notification(rest)?),
            2 => Self::Members(user(rest)?),
            3 => {
                Self::Inbox { user: user(rest)?, before: notification(rest)?, began: number(rest)? }
            }
            4 => Self::Changes { user: user(rest)?, after: number(rest)? },
            5 => Self::Watermark { user: user(rest)?, revision: number(rest)? },
            _ => return None,
        };
        rest.is_empty().then_some(token)
    }
}

fn put_two(bytes: &mut Vec<u8>, kind: u8, user: UserId, number: u64) {
    bytes.push(kind);
    bytes.extend_from_slice(&user.0.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_be_bytes)
}

fn user(bytes: &mut &[u8]) -> Option<UserId> {
    take(bytes).map(|id| UserId(i64::from_be_bytes(id)))
}

fn notification(bytes: &mut &[u8]) -> Option<NotificationId> {
    take(bytes).map(|id| NotificationId(Uuid::from_bytes(id)))
}

/// What a list request asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) limit: usize,
    pub(super) token: Option<Token>,
    /// What a client got as `watermark`.
    pub(super) sync: Option<Token>,
}

impl Wanted {
    /// Reads `limit`, `continuationToken` and `syncToken`; `is_ours` knows this list's tokens.
    pub(super) fn parse(query: &Query, is_ours: impl Fn(&Token) -> bool) -> Result<Self, Failure> {
        let mut faults = Faults::default();
        let max = i64::try_from(LIMIT_MAX).unwrap_or(i64::MAX);
        let limit = query.integer::<i64>("limit", 1..=max, &mut faults);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIMIT_DEFAULT);
        let mut token = |name: &str| {
            // An empty one asks from the start.
            let sent = query.get(name).filter(|text| !text.is_empty())?;
            let token = Token::decode(sent).filter(&is_ours);
            if token.is_none() {
                faults.add(name, "is not one that this list answered with");
            }
            token
        };
        let (token, sync) = (token("continuationToken"), token("syncToken"));
        faults.into_result()?;
        Ok(Self { limit, token, sync })
    }
}

/// `{"count", "items", "continuationToken"?, "watermark"?}`
pub(super) fn list(items: Vec<Value>, next: Option<Token>, watermark: Option<Token>) -> String {
    let mut list = Map::new();
    list.insert(String::from("count"), items.len().into());
    list.insert(String::from("items"), items.into());
    if let Some(next) = next {
        list.insert(String::from("continuationToken"), next.encode().into());
    }
    if let Some(watermark) = watermark {
        list.insert(String::from("watermark"), watermark.encode().into());
    }
    Value::Object(list).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_come_back_as_they_went(
            kind in 0..5, id in any::<u128>(), user in any::<i64>(), number in any::<u64>(),
        ) {
            let (before, user) = (NotificationId(Uuid::from_u128(id)), UserId(user));
            let token = match kind {
                0 => Token::Notifications(before),
                1 => Token::Members(user),
                2 => Token::Inbox { user, before, began: number },
                3 => Token::Changes { user, after: number },
                _ => Token::Watermark { user, revision: number },
            };
            prop_assert_eq!(Token::decode(&token.encode()), Some(token));
        }

        #[test]
        fn other_text_is_no_token_and_no_panic(text in ".{0,80}") {
            if let Some(token) = Token::decode(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }
    }
}
