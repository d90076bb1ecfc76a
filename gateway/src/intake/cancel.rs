//! Taking back what was accepted for later: settled as canceled before anything is sent.

use super::{Intake, IntakeError};
use crate::journal::{Cancellation, Resolution, Settlement};
use crate::model::{
    DeliveryId, FinalState, Notification, NotificationId, OrganizationId, TimelineEvent,
};
use crate::work::{CANCELED_TARGET, encode_event};

impl Intake {
    /// Cancels a notification whose time has not come; resolves once that is durable. False if
    /// it was on its way already, or over.
    ///
    /// # Errors
    /// Nothing was canceled, or not durably: ask again.
    pub async fn cancel(&self, notification: &Notification) -> Result<bool, IntakeError> {
        let (org, id, now) = (notification.org, notification.id, self.now());
        if notification.start_at <= now {
            return Ok(false);
        }
        let shard = self.shard(org);
        let Some(claim) = self.journal.take(shard, org, id).await? else { return Ok(false) };
        let delivery = DeliveryId::derive(id, CANCELED_TARGET);
        let event = TimelineEvent::Settled {
            at: now,
            delivery,
            target: String::from(CANCELED_TARGET),
            state: FinalState::Canceled,
            cause: String::from("sender"),
        };
        let settlement = Settlement {
            claim: claim.id,
            notification: id,
            org,
            resolved: vec![(delivery, Resolution::Final(FinalState::Canceled))],
            events: vec![encode_event(&event)],
            follow_ups: Vec::new(),
            dead: Vec::new(),
            done: true,
        };
        self.journal.settle(shard, vec![settlement])?.await?;
        Ok(true)
    }
}

impl Intake {
    /// Takes back all of a notification that has not gone out yet: what waits comes due at once
    /// and ends suppressed. Resolves once the wish is durable; answers how many waiting entries
    /// it brought forward.
    ///
    /// # Errors
    /// Nothing was taken back, or not durably: ask again.
    pub async fn take_back(
        &self,
        org: OrganizationId,
        id: NotificationId,
        by: String,
    ) -> Result<usize, IntakeError> {
        let shard = self.shard(org);
        if !self.journal.was_canceled(shard, id).await? {
            let event = encode_event(&TimelineEvent::Canceled { at: self.now(), by });
            let cancellation = Cancellation { notification: id, org, event };
            self.journal.cancel(shard, cancellation)?.await?;
        }
        Ok(self.journal.hurry(shard, org, id).await?)
    }
}
