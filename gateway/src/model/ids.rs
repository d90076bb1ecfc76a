//! Newtype identities, parsed once at the edge.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// This instant plus `ms` milliseconds; stops at the largest instant instead of wrapping.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant, 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The last instant that can be planned for at this one: 366 days after this UTC day began. By
    /// the day, so that documents can name it.
    #[must_use]
    pub fn year_ahead(self) -> Self {
        const DAY: u64 = 86_400_000;
        Self(self.0 - self.0 % DAY).plus(366 * DAY)
    }

    /// RFC 3339 in UTC with exactly three fraction digits, as the dialects print it.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms)
            .map_or_else(|_| String::from("9999-12-31T23:59:59.999Z"), |t| format!("{t:.3}"))
    }
}

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $int);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

integer_id!(
    /// An organization's primary key: the narrowest of the dialects' forms (Blynk's int32).
    OrganizationId, i32);
integer_id!(
    /// A user's primary key (Blynk's int64).
    UserId, i64);
integer_id!(
    /// A role's key inside its organization (Blynk's int32).
    RoleId, i32);

/// What a caller asked to send, once accepted. UUID version 7, so ids sort by acceptance time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NotificationId(pub Uuid);

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NotificationId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self)
    }
}

/// Notification × target. Derived, never drawn, so every repeat carries the same provider id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryId(pub Uuid);

impl DeliveryId {
    /// The delivery of `notification` to the target with this stable key (see `Target::key`).
    #[must_use]
    pub fn derive(notification: NotificationId, target_key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"bugler.delivery.v1");
        hash.update(notification.0.as_bytes());
        hash.update(target_key.as_bytes());
        let digest = hash.finalize();
        let mut bytes = [0u8; 16];
        for (to, from) in bytes.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A device row: one push token of one user on one platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub Uuid);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 12 random bytes printed as 24 hex digits: Applivery's form of an object id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub [u8; 12]);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written out: it names a target in every event, and a formatter for each byte is slow.
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in self.0 {
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 24 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an object id is 24 hexadecimal digits")]
pub struct ObjectIdError;

impl FromStr for ObjectId {
    type Err = ObjectIdError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.as_bytes();
        if digits.len() != 24 {
            return Err(ObjectIdError);
        }
        let mut bytes = [0u8; 12];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |d: u8| char::from(d).to_digit(16).and_then(|v| u8::try_from(v).ok());
            let (high, low) = (nibble(pair[0]), nibble(pair[1]));
            *byte = high.zip(low).map(|(h, l)| h << 4 | l).ok_or(ObjectIdError)?;
        }
        Ok(Self(bytes))
    }
}

/// A webhook or Slack subscription.
pub type SubscriptionId = ObjectId;

/// One of the journal's independent lanes of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Where the work and the records of `org` are, of so many shards.
    #[must_use]
    pub fn of(org: OrganizationId, shards: u16) -> Self {
        // Fibonacci hashing spreads consecutive ids over any number of shards.
        let spread = u64::from(org.0.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Self(u16::try_from(spread % u64::from(shards.max(1))).unwrap_or(0))
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
