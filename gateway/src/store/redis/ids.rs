//! Ids for new users and organizations: each node has blocks of its own to give out.

use std::sync::Arc;

use parking_lot::Mutex;

use super::places::{FIRST, Place, hashed};
use super::scripts::RESERVE;
use super::wire::{Ask, bytes};
use super::{Records, RecordsError};
use crate::model::{OrganizationId, UserId};
use crate::redis::RedisError;
use crate::store::UserRef;
use crate::store::changes::Touched;
use crate::store::changes::tables::{Table, org_key, user_key};

/// Ids that a node reserves at once.
const BLOCK: i64 = 1_024;
/// From here on ids are drawn by chance, while no block can be reserved.
const DRAWN_USERS: i64 = 1 << 61;
const DRAWN_ORGANIZATIONS: i64 = 1 << 30;

/// Whose ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Organization,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::User, Self::Organization];

    fn name(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Organization => "organizations",
        }
    }
}

/// What a node has to give out of one kind.
#[derive(Debug, Default)]
struct Stock {
    next: i64,
    last: i64,
    /// The next block, once this one is half gone.
    spare: Option<(i64, i64)>,
    is_asking: bool,
    /// Ids below this belong to some node's block.
    ceiling: i64,
}

#[derive(Debug, Default)]
pub(super) struct Ids {
    users: Mutex<Stock>,
    organizations: Mutex<Stock>,
}

impl Ids {
    fn of(&self, kind: Kind) -> &Mutex<Stock> {
        match kind {
            Kind::User => &self.users,
            Kind::Organization => &self.organizations,
        }
    }
}

impl Records {
    /// An id that no other call on any node gets.
    pub(super) fn next_id(self: &Arc<Self>, kind: Kind) -> i64 {
        let mut stock = self.ids.of(kind).lock();
        if stock.next > stock.last
            && let Some((first, last)) = stock.spare.take()
        {
            (stock.next, stock.last) = (first, last);
        }
        if stock.last - stock.next < BLOCK / 2 && stock.spare.is_none() && !stock.is_asking {
            stock.is_asking = true;
            let records = Arc::clone(self);
            self.handle.spawn(async move { records.ask_for_more(kind).await });
        }
        if stock.next > stock.last {
            return drawn(kind);
        }
        let id = stock.next;
        stock.next += 1;
        id
    }

    async fn ask_for_more(&self, kind: Kind) {
        let reserved = self.reserve(kind, 0, true).await;
        let mut stock = self.ids.of(kind).lock();
        stock.is_asking = false;
        match reserved {
            Ok((first, last, ceiling)) => {
                stock.spare = Some((first, last));
                stock.ceiling = ceiling;
            }
            Err(error) => {
                tracing::warn!(%error, kind = kind.name(), "no further ids could be reserved");
            }
        }
    }

    /// The block of this node, a new one if asked for more or if `seen` lies beyond all blocks;
    /// and the end of all blocks.
    async fn reserve(
        &self,
        kind: Kind,
        seen: i64,
        is_more: bool,
    ) -> Result<(i64, i64, i64), RedisError> {
        let base = self.wire.base(FIRST.shard(self.wire.shards));
        let (count, seen) = (BLOCK.to_string(), seen.to_string());
        let more: &[u8] = if is_more { b"1" } else { b"0" };
        let args =
            [kind.name().as_bytes(), self.node.as_bytes(), count.as_bytes(), seen.as_bytes(), more];
        let reply = self.wire.redis.run(&RESERVE, &[&base], &args).await?;
        let text = bytes(&reply).and_then(|text| std::str::from_utf8(text).ok());
        let mut numbers = text.unwrap_or_default().split(' ').map(str::parse::<i64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last)), Some(Ok(ceiling))) => Ok((first, last, ceiling)),
            _ => Err(RedisError::unexpected("a block of ids without its ends")),
        }
    }

    /// Takes up this node's blocks behind the ids of them that somebody got.
    pub(super) async fn recall_ids(&self) -> Result<(), RecordsError> {
        for kind in Kind::ALL {
            let (first, last, ceiling) = self.reserve(kind, 0, false).await?;
            let asks: Vec<Ask> = (first..=last).map(|id| self.is_taken(kind, id)).collect();
            let replies = self.wire.read(&asks).await?;
            let taken = replies.iter().rposition(|reply| *reply == redis::Value::Int(1));
            let taken = taken.and_then(|taken| i64::try_from(taken).ok());
            let next = taken.map_or(first, |taken| first + taken + 1);
            *self.ids.of(kind).lock() = Stock { next, last, ceiling, ..Stock::default() };
        }
        Ok(())
    }

    fn is_taken(&self, kind: Kind, id: i64) -> Ask {
        match kind {
            Kind::User => {
                let key = user_key(UserId(id));
                Ask::is_there(hashed(&key, self.wire.shards), Table::UserHomes, &key)
            }
            Kind::Organization => {
                let org = OrganizationId(i32::try_from(id).unwrap_or(i32::MAX));
                Ask::is_there(Place::Org(org), Table::Organizations, &org_key(org))
            }
        }
    }

    /// Keeps ids that an import brought from being given out again.
    pub(super) async fn note_ids(&self, touched: &Touched) {
        let users = touched.users.iter().filter_map(|user| match user {
            UserRef::Id(id) => Some(id.0),
            UserRef::Uuid(_) | UserRef::Email(_) => None,
        });
        let orgs = touched.organizations.iter().map(|org| i64::from(org.0));
        for (kind, highest) in [(Kind::User, users.max()), (Kind::Organization, orgs.max())] {
            let Some(id) = highest else { continue };
            {
                let mut stock = self.ids.of(kind).lock();
                if id < stock.ceiling {
                    if (stock.next..=stock.last).contains(&id) {
                        stock.next = id + 1;
                    }
                    continue;
                }
            }
            match self.reserve(kind, id, false).await {
                Ok((first, last, ceiling)) => {
                    let mut stock = self.ids.of(kind).lock();
                    if first > stock.last {
                        *stock = Stock { next: first, last, ceiling, ..Stock::default() };
                    }
                    stock.ceiling = stock.ceiling.max(ceiling);
                }
                Err(error) => {
                    tracing::warn!(%error, id, "an imported id could not be kept from reuse");
                }
            }
        }
    }
}

fn drawn(kind: Kind) -> i64 {
    let bits = uuid::Uuid::new_v4().as_u64_pair().0 >> 4;
    let bits = i64::try_from(bits).unwrap_or(0);
    match kind {
        Kind::User => DRAWN_USERS + bits % DRAWN_USERS,
        Kind::Organization => DRAWN_ORGANIZATIONS + bits % (DRAWN_ORGANIZATIONS - 1),
    }
}
