//! Two threads behind the writer: one applies blocks to the index, one wakes due timers.

use super::core::Core;
use super::index::{Checkpoint, Granule, Projection};
use super::media::Opening;
use super::retention;
use super::writer::ToProjector;
use crate::crash::{Sabotage, is_sabotaged};
use crate::model::{Millis, ShardId};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Blocks applied in one index transaction.
const BATCH_MAX: usize = 1024;
const TIMER_TICK: Duration = Duration::from_millis(20);
const RETENTION_TICKS: u32 = 3000;
/// With a full disk retention may be what helps.
const SHORT_TICKS: u32 = 100;
const LOOK_TICKS: u32 = 50;

/// Applies what the writer committed, in order, until the writer is gone.
pub(super) fn project(core: &Arc<Core>, from: &Receiver<ToProjector>) {
    while let Ok(first) = from.recv() {
        apply(core, first, from);
    }
}

/// Applies `first` and what waits behind it, up to the next checkpoint.
pub(super) fn apply(core: &Core, first: ToProjector, from: &Receiver<ToProjector>) {
    let mut batch = Vec::new();
    let mut checkpoint = None;
    let mut next = Some(first);
    while let Some(message) = next.take() {
        match message {
            ToProjector::Blocks(blocks) => batch.extend(blocks),
            ToProjector::Checkpoint(at, granules) => checkpoint = Some((at, granules)),
        }
        // A checkpoint names exactly the blocks before it, so nothing may follow it.
        if checkpoint.is_none() && batch.len() < BATCH_MAX {
            next = from.try_recv().ok();
        }
    }
    write(core, &batch, checkpoint);
}

fn write(core: &Core, batch: &[Projection], checkpoint: Option<(Box<Checkpoint>, Vec<Granule>)>) {
    let (checkpoint, granules) = checkpoint.unzip();
    let granules = granules.unwrap_or_default();
    if let Err(error) = core.index.write(batch, &granules, checkpoint.as_deref()) {
        tracing::error!(error = %crate::telemetry::chain(&error), "the journal's index cannot be written");
        core.poison("the journal's index cannot be written");
        return;
    }
    {
        let mut recent = core.recent_keys.lock();
        for key in batch.iter().flat_map(Projection::keys) {
            recent.remove(&key);
        }
    }
    if batch.iter().any(|projection| projection.listed().next().is_some()) {
        let mut recent = core.recent_listed.lock();
        for key in batch.iter().flat_map(Projection::listed) {
            recent.remove(&key);
        }
    }
    for projection in batch {
        let Some(cell) = core.shards.get(projection.shard()) else { continue };
        let mut done = projection.timers_done().peekable();
        if done.peek().is_some() {
            let mut state = cell.state.lock();
            done.for_each(|timer| {
                state.timers_loaded.remove(&timer);
            });
        }
        let mut timers = projection.timers().peekable();
        if timers.peek().is_some() {
            let mut alarms = cell.alarms.lock();
            timers.for_each(|(org, due)| alarms.set(org, due));
        }
    }
}

/// Loads due timers and, now and then, drops what retention no longer keeps.
pub(super) fn tick(core: &Arc<Core>) {
    let mut ticks = 0u32;
    while !core.closed.load(Ordering::Acquire) {
        wake_timers(core);
        ticks = ticks.wrapping_add(1);
        let is_short = core.shortage.reason().is_some();
        if ticks.is_multiple_of(if is_short { SHORT_TICKS } else { RETENTION_TICKS }) {
            try_retain(core);
        }
        if ticks.is_multiple_of(LOOK_TICKS) {
            look(core);
        }
        std::thread::sleep(TIMER_TICK);
    }
}

pub(super) fn wake_timers(core: &Core) {
    let early = if is_sabotaged(Sabotage::EarlyTimer) { 5_000 } else { 0 };
    core.load_timers(core.clock.now().plus(early));
}

pub(super) fn try_retain(core: &Core) {
    if let Err(error) = retain(core) {
        tracing::warn!(error = %crate::telemetry::chain(error.as_ref()), "retention could not drop old data; it is tried again");
    }
}

/// Refuses new work while the directory is away: nobody would find it there.
fn look(core: &Core) {
    let (disk, dir) = core.segments.place();
    let is_gone = disk
        .open(&dir.join("SHARDS"), Opening::Existing)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if core.shortage.gone.swap(is_gone, Ordering::Relaxed) != is_gone {
        if is_gone {
            tracing::error!(dir = %dir.display(), "the data directory is gone; put it back or stop this process: new work is refused");
        } else {
            tracing::info!(dir = %dir.display(), "the data directory is back");
        }
    }
}

/// Drops whole segments that are older than retention and that no work needs any more.
pub(super) fn retain(core: &Core) -> Result<(), Box<dyn std::error::Error>> {
    let now = core.clock.now();
    let ago = |age: Duration| {
        Millis(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    };
    let horizon = ago(core.options.retention);
    let segments = core.segments.all();
    let end = segments.last().map_or(0, |s| s.base);
    let low = (0u16..)
        .zip(&core.shards)
        .map(|(_, cell)| cell.state.lock().low_water(end))
        .min()
        .unwrap_or(end);
    let mut waiting = HashSet::new();
    core.index.timer_positions(|position| {
        waiting.extend(core.segments.at(position).map(|segment| segment.base));
    })?;
    let mut kept_from = None;
    for segment in segments {
        // The first block behind a segment was written after all of that segment's.
        let behind =
            core.segments.header(segment.end() + crate::journal::record::HEADER_BYTES as u64);
        let is_old = behind.is_some_and(|header| header.committed_at < horizon);
        let is_free = segment.end() <= low && !waiting.contains(&segment.base);
        if is_old && is_free {
            tracing::info!(file = %segment.path.display(), "dropping a segment past retention");
            retention::forget(core, &segment)?;
            core.segments.remove(segment.base)?;
        } else {
            kept_from.get_or_insert(segment.base);
        }
    }
    let kept_from = kept_from.unwrap_or(0);
    core.drop_granules_before(kept_from);
    let is_stored = |position| core.segments.at(position).is_some();
    core.index.retain(ago(core.options.keys_ttl), horizon, kept_from, is_stored)?;
    retention::fold(core)?;
    let dropped = core.index.drop_dead(ago(core.options.dead_letter_retention))?;
    if dropped > 0 {
        tracing::warn!(dropped, "dead letters past store.dead_letter_retention are gone");
    }
    Ok(())
}

/// Wakes every shard: something outside the log changed what is claimable.
pub(super) fn wake_all(core: &Core) {
    for shard in 0..core.options.shards {
        core.wake(ShardId(shard));
    }
}
