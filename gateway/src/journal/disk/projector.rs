//! Threads behind the writer: one alone writes to the index, one wakes due timers, one drops what
//! is too old. Nobody waits for the first, which waits for room while the disk has none.

use super::core::Core;
use super::index::{Checkpoint, Granule, Projection};
use super::media::Opening;
use super::retention::{drop_old, tidy};
use super::writer::ToProjector;
use crate::crash::{Sabotage, is_sabotaged};
use crate::model::ShardId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Blocks applied in one index transaction.
const BATCH_MAX: usize = 1024;
/// Transactions follow each other no faster.
const PACE: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(20);
const RETENTION_TICKS: u32 = 3000;
/// With a full disk retention may be what helps.
const SHORT_TICKS: u32 = 100;
const LOOK_TICKS: u32 = 50;

/// How long the index stays untidy if nothing is committed.
const TIDY_PATIENCE: Duration = Duration::from_secs(1);

/// Applies what the writer committed, in order, until the writer is gone; tidies up when asked to.
pub(super) fn project(core: &Arc<Core>, from: &Receiver<ToProjector>) {
    let mut last = None;
    loop {
        match from.recv_timeout(TIDY_PATIENCE) {
            Ok(first) => {
                if let Some(rest) = last.and_then(|last: Instant| PACE.checked_sub(last.elapsed()))
                {
                    // A transaction costs the same however much it holds.
                    std::thread::sleep(rest);
                }
                last = Some(Instant::now());
                apply(core, first, from);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if core.untidy.swap(false, Ordering::AcqRel) {
            try_again_later(tidy(core).map_err(Into::into));
        }
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
    if let Some(checkpoint) = checkpoint {
        core.checkpointed.store(checkpoint.position, Ordering::Release);
        try_again_later(core.notes.forget_taken().map_err(Into::into));
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

/// Loads due timers until the journal is closed.
pub(super) fn tick(core: &Arc<Core>) {
    while !core.closed.load(Ordering::Acquire) {
        wake_timers(core);
        std::thread::sleep(TICK);
    }
}

/// Now and then drops what retention no longer keeps, and looks after the directory.
pub(super) fn retire(core: &Arc<Core>) {
    let mut ticks = 0u32;
    while !core.closed.load(Ordering::Acquire) {
        ticks = ticks.wrapping_add(1);
        let is_short = core.shortage.reason().is_some();
        if ticks.is_multiple_of(if is_short { SHORT_TICKS } else { RETENTION_TICKS }) {
            try_again_later(drop_old(core));
            core.untidy.store(true, Ordering::Release);
        }
        if ticks.is_multiple_of(LOOK_TICKS) {
            look(core);
        }
        std::thread::sleep(TICK);
    }
}

pub(super) fn wake_timers(core: &Core) {
    let early = if is_sabotaged(Sabotage::EarlyTimer) { 5_000 } else { 0 };
    core.load_timers(core.clock.now().plus(early));
}

/// All of retention at once, where one thread does everything.
#[cfg(test)]
pub(super) fn retain(core: &Core) -> Result<(), Box<dyn std::error::Error>> {
    drop_old(core)?;
    Ok(tidy(core)?)
}

fn try_again_later(done: Result<(), Box<dyn std::error::Error>>) {
    if let Err(error) = done {
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

/// Wakes every shard: something outside the log changed what is claimable.
pub(super) fn wake_all(core: &Core) {
    for shard in 0..core.options.shards {
        core.wake(ShardId(shard));
    }
}
