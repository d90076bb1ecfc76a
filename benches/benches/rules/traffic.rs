//! Notifications on a schedule, and how long each took from its planned time to the twin.

use crate::world::{Node, USERS, World, first_user};
use bugler_benches::Failed;
use bugler_loadtest::ledger::ClientLedger;
use bugler_loadtest::load::{Dialect, Load, LoadPlan, Mode, Recipients, Stop};
use bugler_loadtest::twins::{Receipt, TwinName};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static NEXT_SEQ: AtomicU64 = AtomicU64::new(1);
/// Longest wait for the next delivery.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stretch of traffic of one organization at a constant rate.
pub(crate) struct Flow {
    load: Load,
    first_seq: u64,
    rate: f64,
    begun_ms: f64,
    planned: u64,
}

/// What became of one notification.
pub(crate) struct Sent {
    /// When it was to be sent, in milliseconds since 1970.
    pub(crate) planned_ms: f64,
    /// From then to the first attempt, in milliseconds.
    pub(crate) delay_ms: f64,
    pub(crate) attempted_at: f64,
    pub(crate) twin: TwinName,
}

/// All of a flow.
pub(crate) struct Seen {
    pub(crate) sent: Vec<Sent>,
    /// Refused, or accepted and never delivered.
    pub(crate) failed: u64,
}

#[expect(clippy::cast_precision_loss, reason = "times of this century in milliseconds")]
pub(crate) fn unix_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as f64 / 1_000.0
}

pub(crate) fn recipients(organization: i32) -> Recipients {
    let first = first_user(organization);
    Recipients { first, last: first + USERS - 1, ..Recipients::default() }
}

/// Sequence numbers that nothing else in this process has.
pub(crate) fn sequence(count: u64) -> u64 {
    NEXT_SEQ.fetch_add(count, Ordering::Relaxed)
}

impl Flow {
    /// Starts single requests to the native API at `rate` for `length`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand notifications"
    )]
    pub(crate) fn start(
        node: &Node,
        (token, organization): (&str, i32),
        (rate, length): (f64, Duration),
    ) -> Result<Self, Failed> {
        let planned = (rate * length.as_secs_f64()) as u64;
        let first_seq = sequence(planned);
        let plan = LoadPlan {
            url: node.url.clone(),
            token: token.to_owned(),
            mode: Mode::Single(Dialect::Native),
            connections: 32,
            stop: Stop::Total(planned),
            rate: Some(rate),
            recipients: recipients(organization),
            first_seq,
            ..LoadPlan::default()
        };
        let begun_ms = unix_ms();
        let load = Load::start(plan, Arc::new(ClientLedger::open(first_seq, None)?))?;
        Ok(Self { load, first_seq, rate, begun_ms, planned })
    }

    /// Waits until all that was accepted has arrived.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand notifications")]
    pub(crate) async fn finish(self, world: &World) -> Result<Seen, Failed> {
        let Self { load, first_seq, rate, begun_ms, planned } = self;
        let report = load.finish().await;
        let mut arrived = HashMap::new();
        let mut changed = Instant::now();
        loop {
            let now = firsts(&world.twins.receipts(), (first_seq, planned));
            if now.len() > arrived.len() {
                changed = Instant::now();
            }
            arrived = now;
            let is_all = u64::try_from(arrived.len())? >= report.accepted;
            if is_all || changed.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let sent = |(seq, (attempted_at, twin)): (u64, (u64, TwinName))| {
            let planned_ms = begun_ms + (seq - first_seq) as f64 * 1_000.0 / rate;
            let attempted_at = attempted_at as f64;
            Sent { planned_ms, delay_ms: attempted_at - planned_ms, attempted_at, twin }
        };
        let failed = planned - u64::try_from(arrived.len())?;
        Ok(Seen { sent: arrived.into_iter().map(sent).collect(), failed })
    }
}

/// The first attempt of each notification that was delivered.
fn firsts(receipts: &[Receipt], (first, count): (u64, u64)) -> HashMap<u64, (u64, TwinName)> {
    let mut found = HashMap::new();
    let mut attempts = HashMap::new();
    for receipt in receipts {
        let Some(seq) = receipt.marker.filter(|seq| (first..first + count).contains(seq)) else {
            continue;
        };
        let attempt = *attempts.entry(seq).or_insert((receipt.at_ms, receipt.twin));
        if receipt.succeeded() {
            found.entry(seq).or_insert(attempt);
        }
    }
    found
}

impl Seen {
    pub(crate) fn later_than(&self, ms: f64) -> usize {
        self.sent.iter().filter(|sent| sent.delay_ms > ms).count()
    }

    /// Delays in milliseconds, shortest first.
    pub(crate) fn delays(&self) -> Vec<f64> {
        let mut delays: Vec<_> = self.sent.iter().map(|sent| sent.delay_ms).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

/// The delay that so many in a hundred stay below.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0.0)
}
