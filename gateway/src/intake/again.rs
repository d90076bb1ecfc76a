//! Sending deliveries that have ended again, and giving up on their dead letters.
//!
//! Each delivery is reserved before its state is read, so that two requests at once cannot send
//! one twice; what is decided under the reservation goes into the journal as one addition.

use super::{Answer, Intake, IntakeError, Running, Undecided};
use crate::journal::{Amendment, Append, Backlog, DeadLetter, JournalError, Reserved};
use crate::model::{
    DeliveryId, FinalState, Millis, Notification, OrganizationId, TargetRef, TimelineEvent,
};
use crate::work::{Overrides, Work, decode_event, encode_event};
use bytes::Bytes;
use std::collections::HashMap;

/// Amendments of one commit.
const COMMIT_MAX: usize = 100;
const COMMIT_BYTES_MAX: usize = 1 << 20;

/// Why a delivery was left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another request amends it right now.
    Busy,
    /// There is no such dead letter any more.
    Gone,
    /// Written by a release whose entries this one cannot read.
    Unreadable,
    /// The notification's own end has passed.
    Expired,
    /// It has not ended.
    Pending,
    /// The target was removed, or the audience no longer has it.
    TargetRemoved,
    /// Its notification was canceled: nothing of it is sent any more.
    Canceled,
    /// Others of the same request filled the organization's backlog, or the disk: ask again later.
    NoRoom,
}

impl Refused {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Gone => "gone",
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::TargetRemoved => "target_removed",
            Self::Canceled => "canceled",
            Self::NoRoom => "no_room",
        }
    }
}

/// When deliveries sent again come due: one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub start: Millis,
    /// Deliveries for each second; 0 is all at once.
    pub per_second: u32,
}

impl Pace {
    fn due(self, number: u64) -> Millis {
        let ms = (number * 1_000).checked_div(u64::from(self.per_second)).unwrap_or_default();
        self.start.plus(ms)
    }
}

/// What is asked about ended deliveries.
#[derive(Clone, Debug)]
pub struct Again {
    pub org: OrganizationId,
    /// Who asked, for the timeline.
    pub by: String,
    pub pace: Pace,
    /// Nothing is changed, only said.
    pub dry_run: bool,
}

/// What was done, in the order asked.
#[derive(Clone, Debug, Default)]
pub struct Done {
    pub amended: Vec<DeliveryId>,
    pub refused: Vec<(DeliveryId, Refused)>,
    /// When the last of them comes due.
    pub last_due: Option<Millis>,
}

/// A delivery's present state and target, from the timeline of its notification.
#[must_use]
pub fn ended(events: &[Bytes]) -> HashMap<DeliveryId, (String, Option<FinalState>)> {
    let mut states = HashMap::new();
    for event in events.iter().filter_map(|event| decode_event(event)) {
        match event {
            TimelineEvent::Attempted { delivery, target, state, .. } => {
                states.insert(delivery, (target, state));
            }
            TimelineEvent::Settled { delivery, target, state, .. } => {
                states.insert(delivery, (target, Some(state)));
            }
            TimelineEvent::Replayed { delivery, target, .. } => {
                states.insert(delivery, (target, None));
            }
            TimelineEvent::Expanded { .. }
            | TimelineEvent::FirstRuled { .. }
            | TimelineEvent::Ruled { .. }
            | TimelineEvent::Held { .. }
            | TimelineEvent::Noted { .. }
            | TimelineEvent::Discarded { .. }
            | TimelineEvent::Canceled { .. }
            | TimelineEvent::Planned { .. } => {}
        }
    }
    states
}

/// The entry that carries a delivery on, with its tries and its time to live counted anew.
fn carrier(
    mut notification: Notification,
    target: TargetRef,
    due: Millis,
) -> Result<Work, Refused> {
    if notification.expires_at.is_some_and(|end| end <= due) {
        return Err(Refused::Expired);
    }
    notification.start_at = due;
    Ok(Work::Retry { notification, target, attempts: 0, overrides: Overrides::default() })
}

impl Intake {
    /// Sends dead deliveries again. Resolves once all of it is durable.
    ///
    /// # Errors
    /// Without room for the first hundred nothing is done. Otherwise what was not answered may be
    /// done or not: ask again, nothing is sent twice.
    pub async fn replay(
        &self,
        asked: &Again,
        deliveries: Vec<DeliveryId>,
    ) -> Result<Done, IntakeError> {
        let mut batch = Batch::new(self, asked);
        for delivery in deliveries {
            let Some((held, letter)) = self.dead(asked.org, delivery, &mut batch.done).await?
            else {
                continue;
            };
            let due = asked.pace.due(batch.done.amended.len() as u64);
            let work = match Work::decode(&letter.copy) {
                Some(Work::Retry { notification, target, overrides, .. }) => {
                    carrier(notification, target, due).map(|work| match work {
                        Work::Retry { notification, target, attempts, .. } => {
                            let overrides = Overrides { expires_at: None, ..overrides };
                            Work::Retry { notification, target, attempts, overrides }
                        }
                        other => other,
                    })
                }
                _ => Err(Refused::Unreadable),
            };
            batch.reopen((delivery, FinalState::Dead, None), held, due, work).await?;
        }
        batch.finish().await
    }

    /// Gives up on dead letters: their deliveries stay dead. Resolves once that is durable.
    ///
    /// # Errors
    /// As [`Intake::replay`].
    pub async fn discard(
        &self,
        asked: &Again,
        deliveries: Vec<DeliveryId>,
    ) -> Result<Done, IntakeError> {
        let mut batch = Batch::new(self, asked);
        for delivery in deliveries {
            let Some((held, letter)) = self.dead(asked.org, delivery, &mut batch.done).await?
            else {
                continue;
            };
            let target = match Work::decode(&letter.copy) {
                Some(Work::Retry { target, .. }) => target.key(),
                _ => String::from("entry"),
            };
            let (at, by) = (self.now(), asked.by.clone());
            let event = TimelineEvent::Discarded { at, delivery, target, by };
            batch.push(Amendment {
                delivery,
                notification: letter.notification,
                org: asked.org,
                from: FinalState::Dead,
                last: None,
                carrier: None,
                event: encode_event(&event),
                held,
            });
            batch.flush(COMMIT_MAX).await?;
        }
        batch.finish().await
    }

    /// Sends ended deliveries of one notification again. Resolves once all of it is durable.
    ///
    /// # Errors
    /// As [`Intake::replay`].
    pub async fn resend(
        &self,
        asked: &Again,
        notification: &Notification,
        targets: Vec<(DeliveryId, Option<TargetRef>)>,
    ) -> Result<Done, IntakeError> {
        let mut batch = Batch::new(self, asked);
        let mut reserved = Vec::with_capacity(targets.len());
        for (delivery, target) in targets {
            match self.journal.reserve(delivery) {
                Some(held) => reserved.push((delivery, target, held)),
                None => batch.done.refused.push((delivery, Refused::Busy)),
            }
        }
        // Other processes are not held off by reservations: they are found by what this becomes.
        let ids = reserved.iter().map(|(delivery, ..)| *delivery).collect();
        let last = self.journal.reopened(ids).await?;
        // Under the reservations: what is final now stays so until we change it.
        let timeline = self.journal.timeline(asked.org, notification.id).await?;
        let states = ended(&timeline.map(|timeline| timeline.events).unwrap_or_default());
        for (delivery, target, held) in reserved {
            let state = states.get(&delivery).and_then(|(_, state)| *state);
            let due = asked.pace.due(batch.done.amended.len() as u64);
            let (from, work) = match (state, target) {
                (None, _) => (FinalState::Dead, Err(Refused::Pending)),
                (Some(from), None) => (from, Err(Refused::TargetRemoved)),
                (Some(from), Some(target)) => (from, carrier(notification.clone(), target, due)),
            };
            let last = last.get(&delivery).copied();
            batch.reopen((delivery, from, last), held, due, work).await?;
        }
        batch.finish().await
    }

    /// A dead letter as it is once it is reserved.
    async fn dead(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
        done: &mut Done,
    ) -> Result<Option<(Reserved, DeadLetter)>, IntakeError> {
        let Some(held) = self.journal.reserve(delivery) else {
            done.refused.push((delivery, Refused::Busy));
            return Ok(None);
        };
        let letter = self.journal.dead_copy(org, delivery).await?;
        if letter.is_none() {
            done.refused.push((delivery, Refused::Gone));
        }
        Ok(letter.map(|letter| (held, letter)))
    }

    /// Remembers the answer to a request of `org` whose work is durable already; resolves once it
    /// is, too.
    ///
    /// # Errors
    /// A repeat may not find it.
    pub async fn remember(
        &self,
        org: OrganizationId,
        running: &Running,
        answer: &Answer,
    ) -> Result<(), IntakeError> {
        let idempotency = vec![self.record(running, answer)];
        let append = Append { entries: Vec::new(), idempotency };
        let commit = Some(self.journal.append(self.shard(org), append)?);
        Undecided { commit, running: vec![running.clone()], waiting: None }.await?;
        Ok(())
    }
}

/// Amendments on their way into few commits.
struct Batch<'a> {
    intake: &'a Intake,
    asked: &'a Again,
    waiting: Vec<Amendment>,
    bytes: usize,
    /// Something is durable: a refusal can no longer be that of the whole request.
    has_committed: bool,
    is_refused: bool,
    done: Done,
}

impl<'a> Batch<'a> {
    fn new(intake: &'a Intake, asked: &'a Again) -> Self {
        let (waiting, done) = (Vec::new(), Done::default());
        Self { intake, asked, waiting, bytes: 0, has_committed: false, is_refused: false, done }
    }

    async fn reopen(
        &mut self,
        (delivery, from, last): (DeliveryId, FinalState, Option<u64>),
        held: Reserved,
        due: Millis,
        work: Result<Work, Refused>,
    ) -> Result<(), IntakeError> {
        let checked = match work {
            Ok(work) if self.is_canceled(&work).await? => Err(Refused::Canceled),
            Ok(_) if self.is_refused => Err(Refused::NoRoom),
            checked => checked,
        };
        let work = match checked {
            Ok(work) => work,
            Err(refused) => {
                self.done.refused.push((delivery, refused));
                return Ok(());
            }
        };
        let Work::Retry { target, .. } = &work else { return Ok(()) };
        let target = target.key();
        let (at, by) = (self.intake.now(), self.asked.by.clone());
        let event = TimelineEvent::Replayed { at, delivery, target, from, by, due };
        self.push(Amendment {
            delivery,
            notification: work.notification().id,
            org: self.asked.org,
            from,
            last,
            carrier: Some(work.follow_up(due)),
            event: encode_event(&event),
            held,
        });
        self.done.last_due = Some(due);
        self.flush(COMMIT_MAX).await
    }

    async fn is_canceled(&self, work: &Work) -> Result<bool, IntakeError> {
        let shard = self.intake.shard(self.asked.org);
        Ok(self.intake.journal.was_canceled(shard, work.notification().id).await?)
    }

    fn push(&mut self, amendment: Amendment) {
        self.done.amended.push(amendment.delivery);
        self.bytes += amendment.carrier.as_ref().map_or(0, |entry| entry.payload.len());
        if !self.asked.dry_run {
            self.waiting.push(amendment);
        }
    }

    /// Commits what waits, if it is `enough` for a commit.
    async fn flush(&mut self, enough: usize) -> Result<(), IntakeError> {
        let is_enough = self.waiting.len() >= enough || self.bytes >= COMMIT_BYTES_MAX;
        if !is_enough || self.waiting.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let ids: Vec<_> = waiting.iter().map(|amendment| amendment.delivery).collect();
        match self.commit(waiting).await {
            Ok(true) => self.has_committed = true,
            Ok(false) => self.take_back(&ids, Refused::Busy),
            Err(error) if self.has_committed && error.is_refusal() => {
                self.is_refused = true;
                self.take_back(&ids, Refused::NoRoom);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// False if another process amended one of them first: then none was.
    async fn commit(&self, amendments: Vec<Amendment>) -> Result<bool, IntakeError> {
        let (intake, org) = (self.intake, self.asked.org);
        let shard = intake.shard(org);
        let carriers = amendments.iter().filter_map(|amendment| amendment.carrier.as_ref());
        let more = carriers.fold(Backlog::default(), |sum, entry| Backlog {
            pending: sum.pending + 1,
            bytes: sum.bytes + entry.payload.len() as u64,
            ..sum
        });
        // Giving up takes no room.
        if more.pending > 0 {
            intake.admission.check(org, intake.journal.backlog_of(shard, org), more)?;
        }
        match intake.journal.amend(shard, amendments)?.await {
            Ok(()) => Ok(true),
            Err(JournalError::Fenced) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back what was to be amended last.
    fn take_back(&mut self, last: &[DeliveryId], why: Refused) {
        let left = self.done.amended.len() - last.len();
        self.done.amended.truncate(left);
        self.done.refused.extend(last.iter().map(|delivery| (*delivery, why)));
        let due = self.asked.pace.due((left as u64).saturating_sub(1));
        self.done.last_due = self.done.last_due.map(|_| due);
    }

    async fn finish(mut self) -> Result<Done, IntakeError> {
        self.flush(1).await?;
        Ok(self.done)
    }
}
