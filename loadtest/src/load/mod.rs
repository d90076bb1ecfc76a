//! The load generator: cheap HTTP/1.1 clients that send marked notifications on a schedule and note
//! in a ledger what they were promised.
//!
//! Open loop when the plan has a rate: request `k` is due at `start + k / rate`, latency counts from
//! that instant, and a late start is counted, never skipped. Closed loop otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ledger::{ClientEntry, ClientLedger, Outcome};
use crate::process;

mod answer;
mod plan;
mod report;
mod request;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub use plan::{Dialect, LoadError, LoadPlan, Mode, Recipients, Stop};
pub use report::{LoadReport, Progress};

use answer::Codes;
use plan::Target;
use report::Tally;
use request::Requests;
use wire::Connection;

const RECONNECT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// A run under way.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<Tally>,
    cpu_before: Duration,
}

#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    target: Target,
    ledger: Arc<ClientLedger>,
    progress: Progress,
    start: Instant,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Load {
    /// Starts a run; intents and outcomes go to `ledger`.
    ///
    /// # Errors
    /// The plan cannot be carried out as written.
    pub fn start(plan: LoadPlan, ledger: Arc<ClientLedger>) -> Result<Self, LoadError> {
        let target = plan.check()?;
        let connections = plan.connections;
        let shared = Arc::new(Shared {
            plan,
            target,
            ledger,
            progress: Progress::default(),
            start: Instant::now(),
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(work(Arc::clone(&shared)));
        }
        Ok(Self { shared, workers, cpu_before: own_cpu() })
    }

    /// Counts so far.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    /// Sends nothing more; requests under way are still waited for.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits for the end of the run.
    pub async fn finish(mut self) -> LoadReport {
        let mut total = Tally::new();
        while let Some(tally) = self.workers.join_next().await {
            // A worker that panicked leaves its notifications unknown in the ledger.
            if let Ok(tally) = tally {
                total.merge(&tally);
            }
        }
        let duration = self.shared.start.elapsed();
        let cpu = own_cpu().saturating_sub(self.cpu_before);
        LoadReport::of(&total, &self.shared.progress, duration, cpu)
    }
}

/// Starts a run and waits for its end.
///
/// # Errors
/// The plan cannot be carried out as written.
pub async fn run(plan: LoadPlan, ledger: Arc<ClientLedger>) -> Result<LoadReport, LoadError> {
    Ok(Load::start(plan, ledger)?.finish().await)
}

fn own_cpu() -> Duration {
    process::sample_self().map_or(Duration::ZERO, |sample| sample.cpu)
}

/// One request on the schedule.
#[derive(Clone, Copy)]
struct Slot {
    first_seq: u64,
    count: u64,
    planned: Instant,
}

impl Shared {
    /// The next request, or none at the end of the run.
    fn next_slot(&self) -> Option<Slot> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let per_request = u64::from(self.plan.mode.notifications_per_request());
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let before = index.checked_mul(per_request)?;
        let planned = match self.plan.rate {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a run has far fewer than 2^52 notifications"
            )]
            Some(rate) => self.start + Duration::try_from_secs_f64(before as f64 / rate).ok()?,
            None => Instant::now(),
        };
        let count = match self.plan.stop {
            Stop::After(duration) if planned >= self.start + duration => return None,
            Stop::After(_) => per_request,
            Stop::Total(total) => per_request.min(total.checked_sub(before)?),
        };
        (count > 0).then_some(Slot { first_seq: self.plan.first_seq + before, count, planned })
    }

    fn is_over(&self) -> bool {
        let ran_out = match self.plan.stop {
            Stop::After(duration) => self.start.elapsed() >= duration,
            Stop::Total(total) => {
                let per_request = u64::from(self.plan.mode.notifications_per_request());
                self.next.load(Ordering::Relaxed).saturating_mul(per_request) >= total
            }
        };
        ran_out || self.stopped.load(Ordering::Relaxed)
    }
}

async fn work(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::new();
    let mut requests = Requests::new(&shared.plan, &shared.target);
    let mut outcomes = Vec::new();
    let mut reconnect = RECONNECT_MIN;
    while !shared.is_over() {
        // Connected before the next request is drawn, so that a server that is down costs no intent.
        let connecting = timeout(shared.plan.timeout, TcpStream::connect(&shared.target.address));
        let Ok(Ok(tcp)) = connecting.await else {
            shared.progress.connect_failures.fetch_add(1, Ordering::Relaxed);
            sleep(reconnect).await;
            reconnect = (reconnect * 2).min(RECONNECT_MAX);
            continue;
        };
        reconnect = RECONNECT_MIN;
        // Without it a request in two segments waits for a delayed acknowledgement.
        tcp.set_nodelay(true).ok();
        let mut connection = Connection::new(tcp);
        while let Some(slot) = shared.next_slot() {
            let to = (&mut connection, &mut requests);
            let stays = send(&shared, to, slot, &mut outcomes, &mut tally.by_code).await;
            tally.add(&stays);
            if !stays.is_reusable {
                break;
            }
        }
    }
    tally
}

/// What one request came to.
struct Sent {
    status: Option<u16>,
    latency: Duration,
    service: Duration,
    lateness: Duration,
    /// Refused for now, without a word on when to ask again.
    is_unhinted: bool,
    is_reusable: bool,
}

async fn send(
    shared: &Shared,
    (connection, requests): (&mut Connection, &mut Requests),
    slot: Slot,
    outcomes: &mut Vec<ClientEntry>,
    codes: &mut Codes,
) -> Sent {
    let request = requests.build(slot.first_seq, slot.count);
    if slot.planned > Instant::now() {
        sleep_until(slot.planned).await;
    }
    shared.ledger.intend(slot.first_seq, slot.count);
    shared.progress.sent.fetch_add(slot.count, Ordering::Relaxed);
    let sent_at = Instant::now();
    let answered = timeout(shared.plan.timeout, connection.exchange(request)).await;
    let ended_at = Instant::now();
    outcomes.clear();
    let (status, is_unhinted, is_reusable) = match answered {
        Ok(Ok(answer)) => {
            answer::outcomes(&answer, (slot.first_seq, slot.count), outcomes, codes);
            let is_unhinted = matches!(answer.status, 429 | 503) && !answer.says_when;
            (Some(answer.status), is_unhinted, !answer.closes)
        }
        // Broken or too late: the server may have taken it or not.
        Ok(Err(_)) | Err(_) => {
            let unknown = |seq| ClientEntry { seq, outcome: Outcome::Unknown };
            outcomes.extend((slot.first_seq..slot.first_seq + slot.count).map(unknown));
            (None, false, false)
        }
    };
    shared.ledger.settle(outcomes);
    shared.progress.count(outcomes);
    Sent {
        status,
        latency: ended_at - slot.planned,
        service: ended_at - sent_at,
        lateness: sent_at.saturating_duration_since(slot.planned),
        is_unhinted,
        is_reusable,
    }
}
