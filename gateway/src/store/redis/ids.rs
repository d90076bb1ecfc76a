//! Ids for new users and organizations: each process has blocks of its own to give out.

use std::sync::Arc;

use parking_lot::Mutex;

use super::places::FIRST;
use super::scripts::RESERVE;
use super::wire::bytes;
use super::{Records, RecordsError};
use crate::redis::{Patience, RedisError};
use crate::store::UserRef;
use crate::store::changes::Touched;

/// Ids that a process reserves at once: users, organizations. What it has left is lost with it.
const BLOCKS: [i64; 2] = [1_024, 64];
/// From here on ids are drawn by chance, while no block can be reserved.
const DRAWN_USERS: i64 = 1 << 61;
const DRAWN_ORGANIZATIONS: i64 = 1 << 30;
/// No block has an id from here on: scripts count in doubles, which are exact as far as that.
const LIMIT_USERS: i64 = 1 << 53;

/// Whose ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Organization,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::User, Self::Organization];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Organization => "organizations",
        }
    }

    fn block(self) -> i64 {
        let [users, organizations] = BLOCKS;
        match self {
            Self::User => users,
            Self::Organization => organizations,
        }
    }

    /// The first id that is in no block: the sequence never gets there, whatever is imported.
    pub(super) fn limit(self) -> i64 {
        match self {
            Self::User => LIMIT_USERS,
            Self::Organization => DRAWN_ORGANIZATIONS,
        }
    }
}

/// What a process has to give out of one kind.
#[derive(Debug, Default)]
struct Stock {
    next: i64,
    last: i64,
    /// The next block, once this one is half gone.
    spare: Option<(i64, i64)>,
    is_asking: bool,
    /// Ids below this belong to some process's block.
    ceiling: i64,
    /// The highest stored id that the sequence may not know of yet.
    seen: i64,
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
    /// An id that no other call on any process gets.
    pub(super) fn next_id(self: &Arc<Self>, kind: Kind) -> i64 {
        let mut stock = self.ids.of(kind).lock();
        if stock.next > stock.last
            && let Some((first, last)) = stock.spare.take()
        {
            (stock.next, stock.last) = (first, last);
        }
        if stock.last - stock.next < kind.block() / 2 && stock.spare.is_none() && !stock.is_asking {
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
        let seen = self.ids.of(kind).lock().seen;
        let reserved = self.reserve(kind, seen).await;
        let mut stock = self.ids.of(kind).lock();
        stock.is_asking = false;
        match reserved {
            Ok((first, last, ceiling)) => {
                stock.spare = Some((first, last));
                stock.ceiling = stock.ceiling.max(ceiling);
            }
            Err(error) => {
                tracing::warn!(%error, kind = kind.name(), "no further ids could be reserved");
            }
        }
    }

    /// A block behind all others and behind `seen`, empty at the end of the sequence; and the end
    /// of all blocks.
    async fn reserve(&self, kind: Kind, seen: i64) -> Result<(i64, i64, i64), RedisError> {
        let base = self.wire.base(FIRST.shard(self.wire.shards));
        let numbers = [kind.block(), seen, kind.limit()].map(|number| number.to_string());
        let [count, seen, limit] = &numbers;
        let args = [kind.name().as_bytes(), count.as_bytes(), seen.as_bytes(), limit.as_bytes()];
        let reply = self.wire.redis.run(&RESERVE, &[&base], &args).await?;
        let text = bytes(&reply).and_then(|text| std::str::from_utf8(text).ok());
        let mut numbers = text.unwrap_or_default().split(' ').map(str::parse::<i64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last)), Some(Ok(ceiling))) => Ok((first, last, ceiling)),
            _ => Err(RedisError::unexpected("a block of ids without its ends")),
        }
    }

    /// Reserves the first blocks of this process.
    pub(super) async fn open_ids(&self) -> Result<(), RecordsError> {
        let patience = Patience::begin();
        for kind in Kind::ALL {
            // A block that was reserved and not told of is left out of the sequence.
            let (next, last, ceiling) = loop {
                match self.reserve(kind, 0).await {
                    Ok(reserved) => break reserved,
                    Err(error) => patience.after(error).await?,
                }
            };
            *self.ids.of(kind).lock() = Stock { next, last, ceiling, ..Stock::default() };
        }
        Ok(())
    }

    /// Keeps ids that an import brought from being given out again.
    pub(super) async fn note_ids(&self, touched: &Touched) {
        let users = touched.users.iter().filter_map(|user| match user {
            UserRef::Id(id) => Some(id.0),
            UserRef::Uuid(_) | UserRef::Email(_) => None,
        });
        let orgs = touched.organizations.iter().map(|org| i64::from(org.0));
        let below = |kind: Kind| move |id: &i64| *id < kind.limit();
        let users = users.filter(below(Kind::User)).max();
        let orgs = orgs.filter(below(Kind::Organization)).max();
        for (kind, highest) in [(Kind::User, users), (Kind::Organization, orgs)] {
            if let Some(id) = highest.filter(|id| self.ids.of(kind).lock().is_beyond(*id)) {
                self.skip(kind, id).await;
            }
        }
    }

    /// Has the sequence go on behind `id`.
    async fn skip(&self, kind: Kind, id: i64) {
        match self.reserve(kind, id).await {
            Ok((first, last, ceiling)) => {
                let mut stock = self.ids.of(kind).lock();
                if first > stock.last {
                    let is_asking = stock.is_asking;
                    *stock = Stock { next: first, last, is_asking, ..Stock::default() };
                }
                stock.ceiling = stock.ceiling.max(ceiling);
                stock.seen = if stock.seen > id { stock.seen } else { 0 };
            }
            Err(error) => {
                tracing::warn!(%error, id, "an imported id is not kept from reuse yet");
            }
        }
    }
}

impl Stock {
    /// Takes in that `id` is stored; true if no process has it in a block.
    fn is_beyond(&mut self, id: i64) -> bool {
        if id >= self.ceiling {
            self.seen = self.seen.max(id);
            return true;
        }
        if (self.next..=self.last).contains(&id) {
            self.next = id + 1;
        }
        if let Some((first, last)) = self.spare
            && (first..=last).contains(&id)
        {
            self.spare = Some((id + 1, last));
        }
        false
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
