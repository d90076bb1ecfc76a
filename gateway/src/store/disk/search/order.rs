//! The users of a base in the order of one column, and where a value stands in it.

use std::cmp::Ordering;

/// Bytes of text one pass of the sort looks at.
const PASS_BYTES: usize = 15;
/// Marks the prefix of a value that goes on after this pass.
const GOES_ON: u128 = 16;

/// A value of a column. Values of one column are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    Number(u64),
    /// Folded, compared byte by byte.
    Text(&'a [u8]),
}

impl From<i64> for Key<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number.cast_unsigned() ^ (1 << 63))
    }
}

impl Key<'_> {
    /// Compares like the value, as far as bytes `depth..depth + PASS_BYTES` tell.
    fn prefix(self, depth: usize) -> u128 {
        match self {
            Self::Number(number) => u128::from(number) << 8,
            Self::Text(text) => {
                let rest = text.get(depth..).unwrap_or_default();
                let mut bytes = [0; PASS_BYTES + 1];
                bytes.iter_mut().zip(rest.iter().take(PASS_BYTES)).for_each(|(to, from)| {
                    *to = *from;
                });
                // The length decides between a value and the same with zero bytes behind it.
                let tail = if rest.len() > PASS_BYTES { GOES_ON } else { rest.len() as u128 };
                u128::from_be_bytes(bytes) | tail
            }
        }
    }
}

/// Where a value stands among the groups of equal values of an [`Order`], in ascending order.
///
/// Even: before the group that starts at half of it. Odd: in the group that starts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(usize);

impl Place {
    pub(super) fn in_group(start: usize) -> Self {
        Self(2 * start + 1)
    }

    pub(super) fn before_group(start: usize) -> Self {
        Self(2 * start)
    }

    fn is_in_group(self) -> bool {
        self.0 % 2 == 1
    }
}

/// Slots in ascending order of a column, equal values by slot.
#[derive(Debug)]
pub(super) struct Order {
    slots: Vec<u32>,
    /// One bit per position: the value differs from the one before.
    starts: Vec<u64>,
}

impl Order {
    /// Sorts the slots `0..count` by `key`.
    pub(super) fn sort<'a>(count: u32, key: impl Fn(u32) -> Key<'a>) -> Self {
        let mut entries: Vec<(u128, u32)> =
            (0..count).map(|slot| (key(slot).prefix(0), slot)).collect();
        let mut starts = vec![0; entries.len().div_ceil(64)];
        sort_run(&mut entries, 0, 0, &key, &mut starts);
        Self { slots: entries.into_iter().map(|(_, slot)| slot).collect(), starts }
    }

    /// Merges `self`, renumbered by `renumber`, with `added` ones at their places.
    ///
    /// `added` ascends by place, then value, then slot; `same` tells equal values of two of them.
    pub(super) fn merge(
        &self,
        renumber: impl Fn(u32) -> Option<u32>,
        added: &[(Place, u32)],
        same: impl Fn(u32, u32) -> bool,
    ) -> Self {
        let mut merged = Merged::default();
        let mut added = added.iter().copied().peekable();
        let mut group = 0;
        for (position, slot) in self.slots.iter().enumerate() {
            if self.starts_at(position) {
                group = position;
            }
            let Some(slot) = renumber(*slot) else { continue };
            let place = Place::in_group(group);
            while let Some((before, new)) = added.next_if(|new| *new < (place, slot)) {
                merged.push(before, new, &same);
            }
            merged.push(place, slot, &same);
        }
        added.for_each(|(place, slot)| merged.push(place, slot, &same));
        Self { slots: merged.slots, starts: merged.starts }
    }

    /// Where a value stands, `compare` telling how the value of a slot compares to it.
    pub(super) fn place(&self, compare: impl Fn(u32) -> Ordering) -> Place {
        let start = self.slots.partition_point(|slot| compare(*slot).is_lt());
        match self.slots.get(start) {
            Some(slot) if compare(*slot).is_eq() => Place::in_group(start),
            _ => Place::before_group(start),
        }
    }

    /// Every slot with its place, groups in ascending order.
    pub(super) fn ascending(&self) -> impl Iterator<Item = (Place, u32)> {
        let mut group = 0;
        self.slots.iter().enumerate().map(move |(position, slot)| {
            if self.starts_at(position) {
                group = position;
            }
            (Place::in_group(group), *slot)
        })
    }

    /// Every slot with its place, groups in descending order, slots of a group ascending.
    pub(super) fn descending(&self) -> impl Iterator<Item = (Place, u32)> {
        let mut end = self.slots.len();
        let groups = std::iter::from_fn(move || {
            let last = end.checked_sub(1)?;
            let group = self.group_of(last)..end;
            end = group.start;
            Some(group)
        });
        groups.flat_map(|group| {
            let place = Place::in_group(group.start);
            self.slots[group].iter().map(move |slot| (place, *slot))
        })
    }

    fn starts_at(&self, position: usize) -> bool {
        self.starts[position / 64] >> (position % 64) & 1 == 1
    }

    /// The start of the group that holds `position`.
    fn group_of(&self, position: usize) -> usize {
        let mut word = position / 64;
        let mut starts = self.starts[word] & (u64::MAX >> (63 - position % 64));
        while starts == 0 && word > 0 {
            word -= 1;
            starts = self.starts[word];
        }
        word * 64 + starts.checked_ilog2().unwrap_or(0) as usize
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * 4 + self.starts.capacity() * 8
    }
}

#[derive(Default)]
struct Merged {
    slots: Vec<u32>,
    starts: Vec<u64>,
    last: Option<(Place, u32)>,
}

impl Merged {
    fn push(&mut self, place: Place, slot: u32, same: impl Fn(u32, u32) -> bool) {
        let continues = self.last.is_some_and(|(last, before)| {
            last == place && (place.is_in_group() || same(before, slot))
        });
        let position = self.slots.len();
        if position.is_multiple_of(64) {
            self.starts.push(0);
        }
        if !continues {
            self.starts[position / 64] |= 1 << (position % 64);
        }
        self.slots.push(slot);
        self.last = Some((place, slot));
    }
}

/// Sorts entries whose values agree up to `depth`, at `offset` of the whole order.
fn sort_run<'a>(
    entries: &mut [(u128, u32)],
    depth: usize,
    offset: usize,
    key: &impl Fn(u32) -> Key<'a>,
    starts: &mut [u64],
) {
    entries.sort_unstable();
    let mut first = 0;
    while let Some(&(prefix, _)) = entries.get(first) {
        let position = offset + first;
        starts[position / 64] |= 1 << (position % 64);
        let equal = entries[first..].iter().take_while(|entry| entry.0 == prefix).count();
        if equal > 1 && prefix & 0xff == GOES_ON {
            let run = &mut entries[first..first + equal];
            let depth = depth + PASS_BYTES;
            run.iter_mut().for_each(|entry| entry.0 = key(entry.1).prefix(depth));
            sort_run(run, depth, position, key, starts);
        }
        first += equal;
    }
}
