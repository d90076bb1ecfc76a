//! Rows of timelines: the events of one settlement in one row.
//!
//! ```text
//! one event    key = place 28      value = organization 4 | event
//! several      key = place 28 | 1  value = organization 4 | (bytes 4 | event)*
//! place            = notification 16 | position of the block 8 | ordinal in the block 4
//! ```
//! The place in the key is that of the first event, the others follow it one by one. A block is
//! applied as a whole, so that applying it once more makes the same rows.

use super::index::split_u64;
use crate::journal::EventPlace;
use crate::journal::record::SettleRecord;
use crate::model::{NotificationId, OrganizationId};

const PLACE_BYTES: usize = 28;
/// Ends the key of a row with several events.
const SEVERAL: u8 = 1;

/// The key and the value for the events of `settle`, of which the first is at `place`; `None` if it
/// has none.
pub(super) fn row(settle: &SettleRecord, place: EventPlace) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut key = event_key(settle.notification, place);
    let org = settle.org.0.to_be_bytes();
    match settle.events.as_slice() {
        [] => None,
        [event] => Some((key, [&org, event.as_ref()].concat())),
        events => {
            key.push(SEVERAL);
            let bytes = events.iter().map(|event| 4 + event.len()).sum::<usize>();
            let mut value = Vec::with_capacity(org.len() + bytes);
            value.extend_from_slice(&org);
            for event in events {
                let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
                value.extend_from_slice(&length.to_be_bytes());
                value.extend_from_slice(event);
            }
            Some((key, value))
        }
    }
}

/// A row as read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) notification: NotificationId,
    pub(super) org: OrganizationId,
    first: EventPlace,
    is_one: bool,
    events: &'a [u8],
}

impl<'a> Told<'a> {
    /// `None` if it is no such row.
    pub(super) fn read(key: &[u8], value: &'a [u8]) -> Option<Self> {
        let (id, mut rest) = key.split_first_chunk::<16>()?;
        let position = split_u64(&mut rest)?;
        let first = EventPlace { position, ordinal: u32::from_be_bytes(*rest.first_chunk()?) };
        let (org, events) = value.split_first_chunk::<4>()?;
        Some(Self {
            notification: NotificationId(uuid::Uuid::from_bytes(*id)),
            org: OrganizationId(i32::from_be_bytes(*org)),
            first,
            is_one: key.len() == PLACE_BYTES,
            events,
        })
    }

    /// The block that told of it.
    pub(super) fn position(&self) -> u64 {
        self.first.position
    }

    /// Its events in their order, and where each stands.
    pub(super) fn events(&self) -> impl Iterator<Item = (EventPlace, &'a [u8])> + use<'a> {
        let (is_one, mut rest, position) = (self.is_one, Some(self.events), self.first.position);
        let events = std::iter::from_fn(move || {
            if is_one {
                return rest.take();
            }
            let (length, behind) = rest?.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (event, behind) = behind.split_at_checked(length)?;
            rest = Some(behind);
            Some(event)
        });
        let places = (self.first.ordinal..).map(move |ordinal| EventPlace { position, ordinal });
        places.zip(events)
    }
}

pub(super) fn event_key(id: NotificationId, place: EventPlace) -> Vec<u8> {
    let (position, ordinal) = (place.position.to_be_bytes(), place.ordinal.to_be_bytes());
    let mut key = Vec::with_capacity(PLACE_BYTES + 1);
    for part in [id.0.as_bytes().as_slice(), &position, &ordinal] {
        key.extend_from_slice(part);
    }
    key
}
