//! Load from every organization at once, open loop, noted in the one client ledger of a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Trouble;
use super::world::World;
use crate::ledger::{ClientLedger, Outcome};
use crate::load::{Load, LoadPlan, LoadReport, Mode, Recipients, Stop};

/// How long one request may take, connecting included.
const ONE_MAX: Duration = Duration::from_secs(12);

/// What each organization sends.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    pub(super) url: String,
    pub(super) mode: Mode,
    /// Notifications per second of each organization.
    pub(super) rates: Vec<f64>,
    pub(super) connections: usize,
    pub(super) stop: Stop,
    pub(super) keys: bool,
    pub(super) timeout: Duration,
}

/// The client's side of a run.
pub(super) struct Clients {
    file: ClientLedger,
    tokens: Vec<String>,
    /// The number of the next notification of each organization.
    next: Vec<u64>,
}

impl Clients {
    pub(super) fn open(path: &Path, tokens: Vec<String>) -> Result<Self, Trouble> {
        let file = ClientLedger::open(0, Some(path));
        let file = file.map_err(Trouble::io("the client's ledger cannot be opened"))?;
        let next = (0..tokens.len()).map(World::first_seq).collect();
        Ok(Self { file, tokens, next })
    }

    pub(super) fn token(&self, org: usize) -> &str {
        self.tokens.get(org).map_or("", String::as_str)
    }

    /// Starts load at `pace`; organizations without a rate are silent.
    pub(super) fn start(&self, world: &World, pace: &Pace) -> Result<Traffic, Trouble> {
        let (mut loads, mut all_connections) = (Vec::new(), 0);
        for (org, rate) in pace.rates.iter().copied().enumerate().filter(|(_, rate)| *rate > 0.0) {
            let first_seq = self.next.get(org).copied().unwrap_or_default();
            let plan = self.plan(world, pace, org, first_seq);
            // A connection takes its next request and waits for its time: few of them for few.
            let enough = (rate / 4.0).clamp(1.0, 1e4);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to a small positive number"
            )]
            let connections = pace.connections.min(enough as usize);
            all_connections += connections;
            let plan = LoadPlan { rate: Some(rate), connections, ..plan };
            let ledger = Arc::new(self.file.beside(first_seq));
            let load = Load::start(plan, Arc::clone(&ledger));
            let load = load.map_err(|error| Trouble::Setup(error.to_string()))?;
            loads.push((org, load, ledger));
        }
        Ok(Traffic { loads, connections: all_connections })
    }

    fn plan(&self, world: &World, pace: &Pace, org: usize, first_seq: u64) -> LoadPlan {
        let (first, last) = world.users(org);
        LoadPlan {
            url: pace.url.clone(),
            token: self.token(org).to_owned(),
            mode: pace.mode.clone(),
            connections: pace.connections,
            stop: pace.stop,
            recipients: Recipients { first, last, ..Recipients::default() },
            first_seq,
            idempotency_keys: pace.keys,
            timeout: pace.timeout,
            ..LoadPlan::default()
        }
    }

    /// Ends load, and waits for what is under way.
    pub(super) async fn finish(&mut self, traffic: Traffic) -> Sent {
        let mut sent = Sent::default();
        for (_, load, _) in &traffic.loads {
            load.stop();
        }
        for (org, load, ledger) in traffic.loads {
            let report = load.finish().await;
            let entries = ledger.entries();
            if let (Some(next), Some(last)) = (self.next.get_mut(org), entries.last()) {
                *next = last.seq + 1;
            }
            let unanswered = entries.iter().filter(|e| e.outcome == Outcome::Unknown);
            sent.unknown_seqs.extend(unanswered.map(|entry| (org, entry.seq)));
            sent.add(&report);
        }
        sent
    }

    /// Sends the next notification of `org`, and waits for its answer or the end of its connection;
    /// none if nobody listens.
    pub(super) async fn send_one(
        &mut self,
        world: &World,
        pace: &Pace,
        org: usize,
    ) -> Result<Option<(Sent, Outcome)>, Trouble> {
        let seq = self.next.get(org).copied().unwrap_or_default();
        let plan = self.plan(world, pace, org, seq);
        let plan = LoadPlan { stop: Stop::Total(1), connections: 1, rate: None, ..plan };
        let ledger = Arc::new(self.file.beside(seq));
        let sending = crate::load::run(plan, Arc::clone(&ledger));
        let Ok(report) = tokio::time::timeout(ONE_MAX, sending).await else { return Ok(None) };
        let report = report.map_err(|error| Trouble::Setup(error.to_string()))?;
        if let Some(next) = self.next.get_mut(org) {
            *next = seq + 1;
        }
        let outcome = ledger.entries().first().map_or(Outcome::Unknown, |entry| entry.outcome);
        let mut sent = Sent::default();
        sent.add(&report);
        if outcome == Outcome::Unknown {
            sent.unknown_seqs.push((org, seq));
        }
        Ok(Some((sent, outcome)))
    }

    /// Sends single notifications once more, each under its first key, until they are answered.
    pub(super) async fn repeat(
        &self,
        world: &World,
        pace: &Pace,
        seqs: &[(usize, u64)],
    ) -> Result<u64, Trouble> {
        let mut answered = 0;
        for (org, seq) in seqs {
            let plan = self.plan(world, pace, *org, *seq);
            let plan = LoadPlan { stop: Stop::Total(1), connections: 1, rate: None, ..plan };
            let ledger = Arc::new(self.file.beside(*seq));
            let report = crate::load::run(plan, ledger).await;
            answered += report.map_err(|error| Trouble::Setup(error.to_string()))?.accepted;
        }
        Ok(answered)
    }

    /// Returns once the ledger is on disk.
    pub(super) fn sync(&self) -> Result<(), Trouble> {
        self.file.sync().map_err(Trouble::io("the client's ledger cannot be written"))
    }
}

/// Load under way.
pub(super) struct Traffic {
    loads: Vec<(usize, Load, Arc<ClientLedger>)>,
    connections: usize,
}

impl Traffic {
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn accepted(&self) -> u64 {
        self.sum(|load| load.progress().accepted.load(Ordering::Relaxed))
    }

    pub(super) fn refused(&self) -> u64 {
        self.sum(|load| load.progress().refused.load(Ordering::Relaxed))
    }

    fn sum(&self, read: impl Fn(&Load) -> u64) -> u64 {
        self.loads.iter().map(|(_, load, _)| read(load)).sum()
    }
}

/// What a stretch of load came to.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Statuses of refusals.
    pub(super) statuses: std::collections::BTreeMap<u16, u64>,
    /// Refusals for now without `Retry-After`.
    pub(super) unhinted: u64,
    /// From the plan to the 2xx, and from the start of a request to its refusal.
    pub(super) latency_us: Histogram<u64>,
    pub(super) refusal_us: Histogram<u64>,
    pub(super) unknown_seqs: Vec<(usize, u64)>,
}

impl Default for Sent {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in their order")
        };
        Self {
            accepted: 0,
            refused: 0,
            unknown: 0,
            statuses: std::collections::BTreeMap::new(),
            unhinted: 0,
            latency_us: histogram(),
            refusal_us: histogram(),
            unknown_seqs: Vec::new(),
        }
    }
}

impl Sent {
    fn add(&mut self, report: &LoadReport) {
        self.accepted += report.accepted;
        self.refused += report.refused;
        self.unknown += report.unknown;
        self.unhinted += report.unhinted;
        for (status, count) in report.by_status.iter().filter(|(status, _)| **status >= 300) {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (total, part) in
            [(&mut self.latency_us, &report.latency_us), (&mut self.refusal_us, &report.refusal_us)]
        {
            total.add(part).expect("all histograms have the same bounds");
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unhinted += other.unhinted;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.unknown_seqs.extend_from_slice(&other.unknown_seqs);
    }
}
