//! Lanes: one bounded line per provider and credential, so that a slow one delays nobody else.
//!
//! A lane takes what waits, up to the provider's batch size and free in-flight slots, and sends
//! it. A full lane refuses: the delivery goes back to the journal, never into memory.

use crate::dispatch::counters;
use crate::dispatch::settle::{Settler, Tracker};
use crate::model::{Attempt, Delivery, ProviderName};
use crate::providers::Provider;
use crate::telemetry::metrics::ProviderMetrics;
use crate::work::Overrides;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

/// A lane without work goes away after this long.
const IDLE: Duration = Duration::from_secs(30);
/// How long a caller waits for room in a lane that still moves.
const PATIENCE: Duration = Duration::from_millis(250);
const LANES_MAX: usize = 10_000;

/// A delivery on its way to a provider, with what settling it needs.
pub(super) struct Queued {
    pub(super) delivery: Delivery,
    pub(super) overrides: Overrides,
    pub(super) tracker: Arc<Tracker>,
    pub(super) settler: Settler,
    pub(super) permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("delivery", &self.delivery.id).finish_non_exhaustive()
    }
}

/// What the dispatcher does with a finished try.
pub(super) trait Finish: Send + Sync + fmt::Debug {
    /// Settles one try. Runs on the lane's own task.
    fn finish(self: Arc<Self>, queued: Queued, attempt: Attempt) -> crate::BoxFuture<'static, ()>;
}

type Key = (ProviderName, String);

#[derive(Clone, Debug)]
struct Lane {
    to: mpsc::Sender<Queued>,
    /// Counts finished tries: a lane whose count stands still is stalled.
    progress: Arc<AtomicU64>,
    /// The count at which somebody last waited in vain. Until it moves nobody waits again: the
    /// waiting is done by a shard's loop, and all its other lanes wait with it.
    stalled_at: Arc<AtomicU64>,
}

/// Every lane of this process.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Mutex<HashMap<Key, Lane>>,
    capacity: usize,
    finish: Arc<dyn Finish>,
}

impl Lanes {
    pub(super) fn new(capacity: usize, finish: Arc<dyn Finish>) -> Arc<Self> {
        Arc::new(Self { lanes: Mutex::default(), capacity, finish })
    }

    /// Puts a delivery into its lane, or hands it back when the lane is full and does not move.
    pub(super) async fn put(
        self: &Arc<Self>,
        provider: &Arc<dyn Provider>,
        in_flight_max: usize,
        queued: Queued,
    ) -> Result<(), Box<Queued>> {
        let key = (provider.name(), queued.delivery.target.credential());
        let mut queued = queued;
        for _ in 0..3 {
            let Some(lane) = self.lane(&key, provider, in_flight_max) else { break };
            let before = lane.progress.load(Ordering::Relaxed);
            let is_stalled = lane.stalled_at.load(Ordering::Relaxed) == before;
            queued = match lane.to.try_send(queued) {
                Ok(()) => return Ok(()),
                // The lane ended between lookup and send: look again.
                Err(mpsc::error::TrySendError::Closed(back)) => back,
                Err(mpsc::error::TrySendError::Full(back)) if is_stalled => {
                    return Err(Box::new(back));
                }
                Err(mpsc::error::TrySendError::Full(back)) => {
                    match tokio::time::timeout(PATIENCE, lane.to.reserve()).await {
                        Ok(Ok(room)) => {
                            room.send(back);
                            return Ok(());
                        }
                        Ok(Err(_)) => back,
                        Err(_) if lane.progress.load(Ordering::Relaxed) == before => {
                            lane.stalled_at.store(before, Ordering::Relaxed);
                            return Err(Box::new(back));
                        }
                        Err(_) => back,
                    }
                }
            };
        }
        Err(Box::new(queued))
    }

    /// Deliveries waiting in all lanes.
    pub(super) fn waiting(&self) -> usize {
        let lanes = self.lanes.lock();
        lanes.values().map(|lane| lane.to.max_capacity() - lane.to.capacity()).sum()
    }

    fn lane(
        self: &Arc<Self>,
        key: &Key,
        provider: &Arc<dyn Provider>,
        in_flight_max: usize,
    ) -> Option<Lane> {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(key) {
            return Some(lane.clone());
        }
        if lanes.len() >= LANES_MAX {
            return None;
        }
        let (to, from) = mpsc::channel(self.capacity);
        let never = Arc::new(AtomicU64::new(u64::MAX));
        let lane = Lane { to, progress: Arc::default(), stalled_at: never };
        let worker = Worker {
            key: key.clone(),
            lanes: Arc::clone(self),
            provider: Arc::clone(provider),
            in_flight_max,
            in_flight: Arc::default(),
            freed: Arc::default(),
            progress: Arc::clone(&lane.progress),
            metrics: Arc::new(counters::lane(key.0, &key.1)),
        };
        tokio::spawn(worker.run(from));
        lanes.insert(key.clone(), lane.clone());
        Some(lane)
    }
}

struct Worker {
    key: Key,
    lanes: Arc<Lanes>,
    provider: Arc<dyn Provider>,
    in_flight_max: usize,
    in_flight: Arc<AtomicUsize>,
    freed: Arc<Notify>,
    progress: Arc<AtomicU64>,
    metrics: Arc<ProviderMetrics>,
}

impl Worker {
    async fn run(self, mut from: mpsc::Receiver<Queued>) {
        loop {
            let free = self.free().await;
            let mut batch = Vec::new();
            let max = free.min(self.provider.batch_max()).max(1);
            match tokio::time::timeout(IDLE, from.recv_many(&mut batch, max)).await {
                Ok(0) => return,
                Ok(_) => self.send(batch),
                Err(_) => {
                    let mut lanes = self.lanes.lanes.lock();
                    if from.is_empty() {
                        // Closed under the lock: whoever holds a clone looks the lane up again.
                        from.close();
                        lanes.remove(&self.key);
                        if from.is_empty() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Waits for a free slot; answers how many there are.
    async fn free(&self) -> usize {
        loop {
            let freed = self.freed.notified();
            let max = self.provider.in_flight_max().min(self.in_flight_max).max(1);
            let used = self.in_flight.load(Ordering::Acquire);
            if used < max {
                return max - used;
            }
            freed.await;
        }
    }

    fn send(&self, batch: Vec<Queued>) {
        self.in_flight.fetch_add(batch.len(), Ordering::AcqRel);
        let provider = Arc::clone(&self.provider);
        let finish = Arc::clone(&self.lanes.finish);
        let slots = Slots {
            in_flight: Arc::clone(&self.in_flight),
            freed: Arc::clone(&self.freed),
            progress: Arc::clone(&self.progress),
            metrics: Arc::clone(&self.metrics),
        };
        batch.iter().for_each(|_| self.metrics.started());
        tokio::spawn(send(provider, finish, slots, batch));
    }
}

struct Slots {
    in_flight: Arc<AtomicUsize>,
    freed: Arc<Notify>,
    progress: Arc<AtomicU64>,
    metrics: Arc<ProviderMetrics>,
}

impl Slots {
    fn release(&self, attempt: &Attempt) {
        self.metrics.ended(counters::word(attempt), attempt.elapsed);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.progress.fetch_add(1, Ordering::Relaxed);
        self.freed.notify_one();
    }
}

async fn send(
    provider: Arc<dyn Provider>,
    finish: Arc<dyn Finish>,
    slots: Slots,
    batch: Vec<Queued>,
) {
    let mut deliveries = Vec::with_capacity(batch.len());
    let mut rest = Vec::with_capacity(batch.len());
    for queued in batch {
        deliveries.push(queued.delivery.clone());
        rest.push(Mutex::new(Some(queued)));
    }
    let report = |index: usize, attempt: Attempt| {
        let queued = rest.get(index).and_then(|slot| slot.lock().take());
        let Some(queued) = queued else { return };
        slots.release(&attempt);
        tokio::spawn(Arc::clone(&finish).finish(queued, attempt));
    };
    provider.send(&deliveries, &report).await;
    for index in 0..rest.len() {
        // The provider broke its promise to report; the receiver may have it.
        report(index, unreported());
    }
}

fn unreported() -> Attempt {
    Attempt {
        outcome: crate::model::Outcome::Unknown { cause: "not_reported" },
        status: None,
        reason: None,
        provider_id: None,
        elapsed: Duration::ZERO,
    }
}
