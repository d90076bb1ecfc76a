//! The views a rule gets: of an item with its plan so far, of a request, of a payload.

use crate::bindings::authorizer::Request as RequestRow;
use crate::bindings::bugler::rules::types::{
    Channel, Notification, Outcome, Plan, Principal, Priority, Recipient, Step, Target, Verdict,
};
use crate::bindings::router::{Batch, Item as Row};
use crate::bindings::transformer::{Batch as Payloads, Item as PayloadRow};

/// What the gateway writes into `app` of a mailbox.
const EMAIL: &str = "email";

impl Target {
    /// True for a phone or tablet: APNs or FCM.
    #[must_use]
    pub fn is_push(&self) -> bool {
        matches!(self.channel, Channel::Apns | Channel::Fcm)
    }

    /// True for a user's mailbox, which the interface shows as a `webhook` of a name no webhook has.
    #[must_use]
    pub fn is_email(&self) -> bool {
        self.channel == Channel::Webhook && self.app == EMAIL
    }
}

/// One question: shall this notification go to this recipient, and how?
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    notification: &'a Notification,
    recipient: &'a Recipient,
    row: &'a Row,
}

impl<'a> Item<'a> {
    /// The view of `row`. The gateway numbers rows within its tables; anything else panics.
    pub(crate) fn new(batch: &'a Batch, row: &'a Row) -> Self {
        Self {
            notification: &batch.notifications[row.notification as usize],
            recipient: &batch.recipients[row.recipient as usize],
            row,
        }
    }

    #[must_use]
    pub fn notification(&self) -> &'a Notification {
        self.notification
    }

    #[must_use]
    pub fn recipient(&self) -> &'a Recipient {
        self.recipient
    }

    /// The plan as the rules before this one left it.
    #[must_use]
    pub fn plan(&self) -> &'a Plan {
        &self.row.plan
    }

    /// All targets of the recipient, in the plan or not.
    #[must_use]
    pub fn targets(&self) -> &'a [Target] {
        &self.recipient.targets
    }

    /// Event type of the notification.
    #[must_use]
    pub fn event(&self) -> &'a str {
        &self.notification.event_type
    }

    /// As the plan so far has it, else the notification's own.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.plan().priority.unwrap_or(self.notification.priority)
    }

    /// The value of the notification's attribute `key`, by its flattened name: `device.id`.
    #[must_use]
    pub fn attr(&self, key: &str) -> Option<&'a str> {
        self.notification.attr(key)
    }

    /// Organization of the notification.
    #[must_use]
    pub fn org_id(&self) -> &'a str {
        &self.notification.org_id
    }

    /// 1 for the first try.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        self.row.attempt
    }

    #[must_use]
    pub fn last_outcome(&self) -> Option<Outcome> {
        self.row.last_outcome
    }

    /// The plan without targets on other channels. Steps left without targets are removed, so
    /// `steps` is empty if nothing remains.
    #[must_use]
    pub fn plan_on(&self, channels: &[Channel]) -> Plan {
        self.plan_where(|target| channels.contains(&target.channel))
    }

    /// The plan without the targets for which `keep` is false; see [`Self::plan_on`].
    #[must_use]
    pub fn plan_where(&self, keep: impl Fn(&Target) -> bool) -> Plan {
        let kept = |index: &u32| self.targets().get(*index as usize).is_some_and(&keep);
        let steps = self.plan().steps.iter().map(|step| Step {
            targets: step.targets.iter().copied().filter(kept).collect(),
            within_ms: step.within_ms,
        });
        Plan {
            steps: steps.filter(|step| !step.targets.is_empty()).collect(),
            ..self.plan().clone()
        }
    }
}

impl Notification {
    /// The value of the attribute `key`, by its flattened name: `device.id`.
    #[must_use]
    pub fn attr(&self, key: &str) -> Option<&str> {
        self.attrs.iter().find(|attr| attr.key == key).map(|attr| attr.value.as_str())
    }
}

impl Plan {
    /// All targets of all steps.
    pub fn targets(&self) -> impl Iterator<Item = u32> {
        self.steps.iter().flat_map(|step| step.targets.iter().copied())
    }

    /// This plan with `later` after all its steps, for the case that none of these delivered within
    /// `within_ms`.
    #[must_use]
    pub fn then_after(mut self, within_ms: u32, later: Self) -> Self {
        if let Some(last) = self.steps.last_mut() {
            last.within_ms = within_ms;
        }
        self.steps.extend(later.steps);
        self
    }
}

/// One question to an authorize rule: may this principal do this?
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    row: &'a RequestRow,
}

impl<'a> Request<'a> {
    pub(crate) fn new(row: &'a RequestRow) -> Self {
        Self { row }
    }

    #[must_use]
    pub fn principal(&self) -> &'a Principal {
        &self.row.principal
    }

    /// `notification.send`, `users.create`, ...
    #[must_use]
    pub fn action(&self) -> &'a str {
        &self.row.action
    }

    /// Organization the request acts in.
    #[must_use]
    pub fn org_id(&self) -> &'a str {
        &self.row.org_id
    }

    #[must_use]
    pub fn resource_id(&self) -> Option<&'a str> {
        self.row.resource_id.as_deref()
    }

    /// Permissions the built-in check asks for.
    #[must_use]
    pub fn required(&self) -> &'a [String] {
        &self.row.required
    }

    /// What the built-in check says.
    #[must_use]
    pub fn baseline(&self) -> Verdict {
        self.row.baseline
    }
}

impl Principal {
    /// True if it has `permission`.
    #[must_use]
    pub fn has(&self, permission: &str) -> bool {
        self.permissions.iter().any(|own| own == permission)
    }
}

/// One question to a transform rule: what shall this recipient see on this channel?
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    notification: &'a Notification,
    recipient: &'a Recipient,
    row: &'a PayloadRow,
}

impl<'a> Payload<'a> {
    /// The view of `row`. The gateway numbers rows within its tables; anything else panics.
    pub(crate) fn new(batch: &'a Payloads, row: &'a PayloadRow) -> Self {
        Self {
            notification: &batch.notifications[row.notification as usize],
            recipient: &batch.recipients[row.recipient as usize],
            row,
        }
    }

    #[must_use]
    pub fn notification(&self) -> &'a Notification {
        self.notification
    }

    #[must_use]
    pub fn recipient(&self) -> &'a Recipient {
        self.recipient
    }

    /// Organization of the notification.
    #[must_use]
    pub fn org_id(&self) -> &'a str {
        &self.notification.org_id
    }

    /// Where it goes; a mail says `webhook`, see [`Self::is_email`].
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.row.channel
    }

    /// True for a mail, which the interface shows as a `webhook` to a user.
    #[must_use]
    pub fn is_email(&self) -> bool {
        self.channel() == Channel::Webhook && self.recipient.targets.iter().any(Target::is_email)
    }

    /// What is shown, as a JSON object.
    #[must_use]
    pub fn json(&self) -> &'a str {
        &self.row.payload_json
    }
}
