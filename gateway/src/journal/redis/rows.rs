//! The rows by which blocks are found again: members of sorted sets, as bytes that sort as they
//! should, and what a bucket of notifications holds.

use crate::journal::record::Extent;
use crate::journal::shard::Place;
use crate::journal::shard::line::{Class, Spot, Ticket};
use crate::model::{Millis, NotificationId};

/// In place of an entry's index: events of the notification are in the block.
pub(super) const EVENTS: u32 = u32::MAX;
/// In place of an entry's index: work of the notification waits in the block.
pub(super) const WAITS: u32 = u32::MAX - 1;

pub(super) fn place(place: Place) -> [u8; 12] {
    let mut row = [0; 12];
    let (position, index) = row.split_at_mut(8);
    position.copy_from_slice(&place.0.to_be_bytes());
    index.copy_from_slice(&place.1.to_be_bytes());
    row
}

/// A place at the front of `row`, and what follows it.
pub(super) fn read_place(row: &[u8]) -> Option<(Place, &[u8])> {
    let (position, rest) = row.split_first_chunk::<8>()?;
    let (index, rest) = rest.split_first_chunk::<4>()?;
    Some(((u64::from_be_bytes(*position), u32::from_be_bytes(*index)), rest))
}

/// What follows the position in a timer's row.
pub(super) fn timer_tail(index: u32, extent: Extent, class: Class) -> [u8; 17] {
    let mut row = [0; 17];
    row[..4].copy_from_slice(&index.to_be_bytes());
    row[4] = u8::from(class == Class::Again);
    row[5..9].copy_from_slice(&extent.offset.to_be_bytes());
    row[9..13].copy_from_slice(&extent.bytes.to_be_bytes());
    row[13..].copy_from_slice(&extent.crc.to_be_bytes());
    row
}

pub(super) fn timer(ticket: &Ticket) -> Vec<u8> {
    let Spot { position, index, extent } = ticket.spot;
    [position.to_be_bytes().as_slice(), &timer_tail(index, extent, ticket.class)].concat()
}

pub(super) fn read_timer(row: &[u8], due: Millis) -> Option<Ticket> {
    let ((position, index), rest) = read_place(row)?;
    let (class, rest) = rest.split_first()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let (bytes, crc) = rest.split_first_chunk::<4>()?;
    let extent = Extent {
        offset: u32::from_be_bytes(*offset),
        bytes: u32::from_be_bytes(*bytes),
        crc: u32::from_be_bytes(*crc.first_chunk::<4>()?),
    };
    let class = if *class == 1 { Class::Again } else { Class::First };
    Some(Ticket { spot: Spot { position, index, extent }, due, class })
}

/// Notifications accepted within a quarter of a second share a key: a version 7 UUID starts with 48
/// bits of milliseconds.
pub(super) fn bucket(id: NotificationId) -> u128 {
    id.0.as_u128() >> 88
}

/// What a bucket says of one block: an id of 16 bytes and an index of 4 for each row. The script puts
/// the position of the block, 8 bytes, and the number of rows, 4, before them.
pub(super) fn told(id: NotificationId, index: u32) -> [u8; 20] {
    let mut row = [0; 20];
    row[..16].copy_from_slice(id.0.as_bytes());
    row[16..].copy_from_slice(&index.to_be_bytes());
    row
}

/// Places that a bucket gives for `id`, in order.
pub(super) fn places_of(id: NotificationId, mut bucket: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    while let Some(((position, count), rest)) = read_place(bucket) {
        let bytes = (count as usize).saturating_mul(20).min(rest.len());
        let (rows, next) = rest.split_at(bytes);
        for row in rows.chunks_exact(20) {
            let index = row.strip_prefix(id.0.as_bytes()).and_then(<[u8]>::first_chunk::<4>);
            places.extend(index.map(|index| (position, u32::from_be_bytes(*index))));
        }
        bucket = next;
    }
    places.sort_unstable();
    places
}
