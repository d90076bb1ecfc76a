//! Tries: a batch at its provider, and what is done with results as they come in.

use crate::crash::{self, Stage};
use crate::dispatch::finish::{self, Ended, Finisher};
use crate::dispatch::line::{Channel, Going, Line};
use crate::dispatch::shape::{self, Shaped};
use crate::dispatch::{counters, step_back};
use crate::lifecycle::{Caught, report_panic};
use crate::model::{Attempt, Millis, Outcome, RuleDecision, TimelineEvent};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// Ended tries settled together.
const ENDED_MAX: usize = 256;

/// Sends one batch; a provider that panics has told nothing of what it did not report.
pub(super) async fn send(line: Arc<Line>, channel: Arc<Channel>, batch: Vec<Going>) {
    let merged = |going: &Going| finish::merged(&going.queued.delivery, &going.merged);
    let shown = batch.iter().map(merged).collect();
    let shaped = match Caught::new(shape::shape(&line.context, shown)).await {
        Ok(shaped) => shaped,
        // Whoever made it panic must not go out as it is: unreported below, each is tried again.
        Err(panic) => {
            report_panic("shaping", panic.as_ref());
            Vec::new()
        }
    };
    let mut deliveries = Vec::with_capacity(batch.len());
    let mut rest = Vec::with_capacity(batch.len());
    let finish_one = |(going, ruled): (Going, Option<TimelineEvent>), attempt: Attempt| {
        let Going { queued, merged, ticket, slot } = going;
        channel.metrics.ended(counters::word(&attempt), attempt.elapsed);
        let ended = Ended { queued, merged, ticket, slot, attempt, ruled };
        // There is room for every slot.
        if line.results.try_send(ended).is_err() {
            tracing::debug!("a result came after the dispatcher stopped; it is sent again");
        }
    };
    let mut shaped = shaped.into_iter();
    for going in batch {
        channel.metrics.started();
        let Some(Shaped { delivery, decisions }) = shaped.next() else {
            finish_one((going, None), unreported(finish::PANICKED));
            continue;
        };
        let ruled = ruled(&going, decisions, line.context.clock.now());
        match delivery {
            Ok(delivery) => {
                deliveries.push(delivery);
                rest.push(Mutex::new(Some((going, ruled))));
            }
            Err(attempt) => finish_one((going, ruled), attempt),
        }
    }
    if deliveries.is_empty() {
        return;
    }
    let report = |index: usize, attempt: Attempt| {
        let going = rest.get(index).and_then(|slot| slot.lock().take());
        if let Some(going) = going {
            finish_one(going, attempt);
        }
    };
    let sending = channel.provider.send(&deliveries, &report);
    let cause = match Caught::new(crash::midway(Stage::HalfSent, sending)).await {
        Ok(()) => "not_reported",
        Err(panic) => {
            report_panic("provider", panic.as_ref());
            finish::PANICKED
        }
    };
    for index in 0..rest.len() {
        // The provider broke its promise to report; the receiver may have it.
        report(index, unreported(cause));
    }
}

/// What the transform rules did, where they did more than look: most deliveries they leave alone.
fn ruled(going: &Going, decisions: Vec<RuleDecision>, at: Millis) -> Option<TimelineEvent> {
    let is_telling = |one: &RuleDecision| !matches!(one.decision.as_str(), "keep" | "skipped");
    let is_told = decisions.iter().any(is_telling);
    is_told.then(|| {
        let recipient = going.queued.delivery.target.key();
        TimelineEvent::Ruled { at, recipient, decisions }
    })
}

fn unreported(cause: &'static str) -> Attempt {
    Attempt {
        outcome: Outcome::Unknown { cause },
        status: None,
        reason: None,
        provider_id: None,
        elapsed: Duration::ZERO,
    }
}

/// Settles ended tries until the line is gone.
pub(super) async fn finish_all(
    line: Weak<Line>,
    finisher: Finisher,
    mut from: mpsc::Receiver<Ended>,
) {
    loop {
        match Caught::new(finish_some(&line, &finisher, &mut from)).await {
            Ok(()) => return,
            // What it was about is sent again after a restart.
            Err(panic) => report_panic("finishing", panic.as_ref()),
        }
    }
}

async fn finish_some(line: &Weak<Line>, finisher: &Finisher, from: &mut mpsc::Receiver<Ended>) {
    let mut batch = Vec::with_capacity(ENDED_MAX);
    while from.recv_many(&mut batch, ENDED_MAX).await > 0 {
        // Whoever is about to report does so first: together they cost little more than one alone.
        step_back().await;
        while batch.len() < ENDED_MAX
            && let Ok(ended) = from.try_recv()
        {
            batch.push(ended);
        }
        let Some(line) = line.upgrade() else { return };
        let judged: Vec<_> = batch.drain(..).map(|ended| finisher.judge(ended)).collect();
        line.ended(&judged);
        finisher.settle(judged).await;
    }
}
