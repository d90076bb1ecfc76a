//! The WIT interface as the host sees it, and the gateway's questions in its terms.

use crate::model::{Notification, NotificationId, Priority, ProviderName};
use crate::rules::attrs::attrs;
use crate::rules::hooks::{AuthorizeItem, PrincipalKind, TransformItem};
use crate::rules::{LastOutcome, Plan, RecipientKind, RecipientView, RouteItem, TargetView};
use std::collections::HashMap;

mod bindings {
    //! Generated from `rules-sdk/wit`.
    wasmtime::component::bindgen!({
        path: "../rules-sdk/wit",
        world: "full-rule",
        imports: { default: trappable },
        additional_derives: [serde::Deserialize],
    });
}

pub(super) use bindings::FullRule;
pub(super) use bindings::bugler::rules::{clock, config, counters, kv, log, types};
pub(super) use bindings::exports::bugler::rules::{authorizer, router, transformer};

/// The items of one batch, converted once for the whole chain.
#[derive(Debug)]
pub(super) struct Questions {
    /// Row n asks about item n and recipient n; its plan is that of the last question.
    whole: router::Batch,
}

impl Questions {
    pub(super) fn new(items: &[RouteItem]) -> Self {
        let mut notifications = Vec::new();
        let mut known: HashMap<NotificationId, u32> = HashMap::new();
        let mut row = |(position, item): (usize, &RouteItem)| {
            let notification = *known.entry(item.notification.id).or_insert_with(|| {
                notifications.push(notification(&item.notification));
                index(notifications.len() - 1)
            });
            router::Item {
                notification,
                recipient: index(position),
                attempt: item.attempt,
                last_outcome: item.last_outcome.map(outcome),
                plan: plan(&Plan::all_targets(0)),
            }
        };
        let rows = items.iter().enumerate().map(&mut row).collect();
        let recipients = items.iter().map(|item| recipient(&item.recipient)).collect();
        Self { whole: router::Batch { notifications, recipients, items: rows } }
    }

    /// The batch that asks about every item, whose plans so far are given in order.
    pub(super) fn whole<'a>(&mut self, plans: impl Iterator<Item = &'a Plan>) -> &router::Batch {
        for (row, so_far) in self.whole.items.iter_mut().zip(plans) {
            row.plan = plan(so_far);
        }
        &self.whole
    }

    /// The batch that asks about the items at these positions, with their plans so far. It holds
    /// nothing of the others.
    pub(super) fn some<'a>(&self, asked: impl Iterator<Item = (usize, &'a Plan)>) -> router::Batch {
        let mut some =
            router::Batch { notifications: Vec::new(), recipients: Vec::new(), items: Vec::new() };
        let mut moved: HashMap<u32, u32> = HashMap::new();
        for (position, so_far) in asked {
            let Some(row) = self.whole.items.get(position) else { continue };
            let notification = *moved.entry(row.notification).or_insert_with(|| {
                let from = usize::try_from(row.notification).unwrap_or(usize::MAX);
                some.notifications.extend(self.whole.notifications.get(from).cloned());
                index(some.notifications.len() - 1)
            });
            some.recipients.extend(self.whole.recipients.get(position).cloned());
            some.items.push(router::Item {
                notification,
                recipient: index(some.recipients.len() - 1),
                plan: plan(so_far),
                ..*row
            });
        }
        some
    }
}

fn notification(from: &Notification) -> types::Notification {
    types::Notification {
        id: from.id.to_string(),
        org_id: from.org.to_string(),
        event_type: from.event.clone(),
        title: from.content.title.clone(),
        body: from.content.body.clone(),
        priority: priority(from.priority),
        created_at: from.created_at.0,
        expires_at: from.expires_at.map(|at| at.0),
        collapse_key: from.collapse_key.clone(),
        attrs: attrs(&from.content.data).into_iter().map(attr).collect(),
    }
}

fn recipient(from: &RecipientView) -> types::Recipient {
    types::Recipient {
        kind: recipient_kind(from.kind),
        id: from.id.clone(),
        org_id: from.org.clone(),
        email: from.email.clone(),
        tz: from.tz.clone(),
        locale: from.locale.clone(),
        status: status(from.status),
        roles: from.roles.clone(),
        prefs: from.prefs.iter().cloned().map(attr).collect(),
        targets: from.targets.iter().map(target).collect(),
    }
}

fn attr((key, value): (String, String)) -> types::Attr {
    types::Attr { key, value }
}

pub(super) fn recipient_kind(from: RecipientKind) -> types::RecipientKind {
    match from {
        RecipientKind::User => types::RecipientKind::User,
        RecipientKind::Subscription => types::RecipientKind::Subscription,
    }
}

pub(super) fn status(from: &str) -> types::UserStatus {
    match from {
        "active" => types::UserStatus::Active,
        "pending" => types::UserStatus::Pending,
        _ => types::UserStatus::Inactive,
    }
}

fn target(from: &TargetView) -> types::Target {
    types::Target {
        channel: channel(from.provider),
        handle: from.handle.clone(),
        app: from.app.clone(),
        last_ok_at: from.last_ok_at.map(|at| at.0),
        recent_failures: from.recent_failures,
    }
}

pub(super) fn channel(from: ProviderName) -> types::Channel {
    match from {
        ProviderName::Apns => types::Channel::Apns,
        ProviderName::Fcm => types::Channel::Fcm,
        ProviderName::Slack => types::Channel::Slack,
        // WIT 0.1 has no word for mail, and one more would make strangers of all rules that
        // exist. No user has webhooks, so `webhook` with the app `email` means nothing else.
        ProviderName::Webhook | ProviderName::Email => types::Channel::Webhook,
    }
}

pub(super) fn outcome(from: LastOutcome) -> types::Outcome {
    match from {
        LastOutcome::Accepted => types::Outcome::Accepted,
        LastOutcome::Rejected => types::Outcome::Rejected,
        LastOutcome::TimedOut => types::Outcome::TimedOut,
        LastOutcome::Unregistered => types::Outcome::Unregistered,
        LastOutcome::Throttled => types::Outcome::Throttled,
    }
}

/// The requests at `asked`.
pub(super) fn requests(items: &[AuthorizeItem], asked: &[usize]) -> Vec<authorizer::Request> {
    asked.iter().filter_map(|at| items.get(*at)).map(request).collect()
}

fn request(from: &AuthorizeItem) -> authorizer::Request {
    let principal = &from.principal;
    authorizer::Request {
        principal: types::Principal {
            kind: principal_kind(principal.kind),
            id: principal.id.clone(),
            org_id: principal.org.clone(),
            roles: principal.roles.clone(),
            permissions: principal.permissions.clone(),
        },
        action: from.action.clone(),
        org_id: from.org.to_string(),
        resource_id: from.resource.clone(),
        required: from.required.clone(),
        baseline: verdict(from.is_allowed),
    }
}

pub(super) fn principal_kind(from: PrincipalKind) -> types::PrincipalKind {
    match from {
        PrincipalKind::User => types::PrincipalKind::User,
        PrincipalKind::Organization => types::PrincipalKind::Organization,
        PrincipalKind::Service => types::PrincipalKind::Service,
    }
}

pub(super) fn verdict(is_allowed: bool) -> types::Verdict {
    if is_allowed { types::Verdict::Allow } else { types::Verdict::Deny }
}

/// The payloads at `asked`, as the rules before left them.
pub(super) fn payloads(
    items: &[TransformItem],
    so_far: &[String],
    asked: &[usize],
) -> transformer::Batch {
    let mut batch =
        transformer::Batch { notifications: Vec::new(), recipients: Vec::new(), items: Vec::new() };
    let mut known: HashMap<NotificationId, u32> = HashMap::new();
    for at in asked {
        let (Some(item), Some(payload)) = (items.get(*at), so_far.get(*at)) else { continue };
        let row = *known.entry(item.notification.id).or_insert_with(|| {
            batch.notifications.push(notification(&item.notification));
            index(batch.notifications.len() - 1)
        });
        batch.recipients.push(recipient(&item.recipient));
        batch.items.push(transformer::Item {
            notification: row,
            recipient: index(batch.recipients.len() - 1),
            channel: channel(item.channel),
            payload_json: payload.clone(),
        });
    }
    batch
}

fn plan(from: &Plan) -> types::Plan {
    let step = |step: &crate::rules::Step| types::Step {
        targets: step.targets.iter().copied().map(index).collect(),
        within_ms: step.within_ms,
    };
    types::Plan {
        steps: from.steps.iter().map(step).collect(),
        priority: from.priority.map(priority),
        collapse_key: from.collapse_key.clone(),
        expires_at: from.expires_at.map(|at| at.0),
    }
}

pub(super) fn priority(from: Priority) -> types::Priority {
    match from {
        Priority::Low => types::Priority::Low,
        Priority::Normal => types::Priority::Normal,
        Priority::High => types::Priority::High,
        Priority::Critical => types::Priority::Critical,
    }
}

/// Positions are bounded by the batch and by a recipient's targets, far below `u32::MAX`.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
