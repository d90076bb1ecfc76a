//! One notification again, or no longer: resend what ended, cancel what has not gone out.

use super::dead::{answer, pace};
use super::select::{Asked, absent, asked, flag, unreadable};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::route::Call;
use crate::api::{Answered, Shared, json as body_json, reply};
use crate::intake::{Again, ended};
use crate::model::{
    DeliveryId, DeviceId, FinalState, Notification, NotificationId, ProviderName, TargetRef, UserId,
};
use crate::work::Work;
use bytes::Bytes;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Deliveries one request sends again; the next one goes on with what is left.
const RESENT_MAX: usize = 1_000;
/// Recipients looked through for the owners of devices, a page at a time.
const PAGE: usize = 256;
const PAGES_MAX: usize = 64;

/// Which deliveries of a notification are meant.
enum Which {
    /// Rejected, expired and dead ones.
    Failed,
    All,
    Named(Vec<String>),
}

/// `POST /bugler/v1/notifications/{id}/resend`
pub(super) async fn resend(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (Asked { by, org }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    query.only(&["organization"], &mut faults);
    let unknown = || absent("notification");
    let id: NotificationId = params.get("id").parse().map_err(|_| unknown())?;
    let (_, body) = shared.json_body(request).await?;
    let body = body_json::parse(&body).map_err(|fault| Failure::field("", fault.to_string()))?;
    let fields = Fields::of_body(&body)?;
    fields.only(&["targets", "dryRun", "rate", "startAt"], &mut faults);
    let which = which(&fields, &mut faults);
    let dry_run = flag(&fields, "dryRun", &mut faults);
    let pace = pace(&fields, shared.intake.now(), &mut faults);
    faults.into_result()?;
    let stored = shared.intake.journal().timeline(org, id).await.map_err(unreadable)?;
    let stored = stored.ok_or_else(unknown)?;
    // Without its root nothing is known of what to send.
    let root = stored.root.as_deref().and_then(Work::decode).ok_or_else(unknown)?;
    let chosen = choose(id, &stored.events, &which)?;
    let notification = root.notification().clone();
    let targets = resolve(&shared, &notification, chosen).await?;
    let asked = Again { org, by, pace, dry_run };
    let done = shared.intake.resend(&asked, &notification, targets).await?;
    Ok(answer("resent", &asked, &done, (&[], None)))
}

fn which(fields: &Fields<'_>, faults: &mut Faults) -> Which {
    match fields.get("targets").and_then(serde_json::Value::as_str) {
        Some("all") => Which::All,
        Some("failed") => Which::Failed,
        Some(_) => {
            faults.add("targets", "must be failed, all, or a list of targets");
            Which::Failed
        }
        None => match fields.texts("targets", RESENT_MAX, 100, faults) {
            Some(names) => Which::Named(names.into_iter().map(str::to_owned).collect()),
            None => Which::Failed,
        },
    }
}

/// The deliveries that are meant, with their targets' keys.
fn choose(
    id: NotificationId,
    events: &[Bytes],
    which: &Which,
) -> Result<BTreeMap<DeliveryId, String>, Failure> {
    let states = ended(events);
    let mut chosen = BTreeMap::new();
    match which {
        Which::Named(names) => {
            let mut faults = Faults::default();
            for (number, name) in names.iter().enumerate() {
                let delivery = DeliveryId::derive(id, name);
                if states.contains_key(&delivery) {
                    chosen.insert(delivery, name.clone());
                } else {
                    let problem = "is no target of this notification";
                    faults.add(format!("targets[{number}]"), problem);
                }
            }
            faults.into_result()?;
        }
        Which::All | Which::Failed => {
            let is_failed = |state| {
                matches!(state, FinalState::Rejected | FinalState::Expired | FinalState::Dead)
            };
            let wanted = states.into_iter().filter_map(|(delivery, (target, state))| {
                let is_wanted = matches!(which, Which::All) || is_failed(state?);
                is_wanted.then_some((delivery, target))
            });
            chosen.extend(wanted);
        }
    }
    while chosen.len() > RESENT_MAX {
        chosen.pop_last();
    }
    Ok(chosen)
}

/// Targets by their keys; devices by looking through the notification's audience.
async fn resolve(
    shared: &Shared,
    notification: &Notification,
    chosen: BTreeMap<DeliveryId, String>,
) -> Result<Vec<(DeliveryId, Option<TargetRef>)>, Failure> {
    let mut devices: HashMap<DeviceId, UserId> = HashMap::new();
    let wanted = chosen.values().filter(|key| device(key).is_some()).count();
    let mut after = None;
    for _ in 0..PAGES_MAX {
        if devices.len() >= wanted {
            break;
        }
        let audience = &notification.audience;
        let page = shared.store.recipients(notification.org, audience, after, PAGE).await?;
        for recipient in &page.recipients {
            let own = recipient.devices.iter().map(|device| (device.id, device.user));
            devices.extend(own.filter(|(id, _)| {
                chosen.values().any(|key| device(key).is_some_and(|(_, wanted)| wanted == *id))
            }));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let target = |key: &str| match device(key) {
        Some((provider, device)) => {
            let user = *devices.get(&device)?;
            Some(TargetRef::Device { provider, device, user })
        }
        None => plain(key),
    };
    Ok(chosen.iter().map(|(delivery, key)| (*delivery, target(key))).collect())
}

/// `apns:<uuid>` and `fcm:<uuid>`.
fn device(key: &str) -> Option<(ProviderName, DeviceId)> {
    let (provider, id) = key.split_once(':')?;
    let provider = match provider {
        "apns" => ProviderName::Apns,
        "fcm" => ProviderName::Fcm,
        _ => return None,
    };
    Some((provider, DeviceId(Uuid::parse_str(id).ok()?)))
}

/// Subscriptions and mailboxes.
fn plain(key: &str) -> Option<TargetRef> {
    let (provider, id) = key.split_once(':')?;
    let hook = |provider| {
        let subscription = id.parse().ok()?;
        Some(TargetRef::Subscription { provider, subscription })
    };
    match provider {
        "slack" => hook(ProviderName::Slack),
        "webhook" => hook(ProviderName::Webhook),
        "email" => {
            let user = id.parse().ok()?;
            Some(TargetRef::Mailbox { provider: ProviderName::Email, user })
        }
        _ => None,
    }
}

/// `POST /bugler/v1/notifications/{id}/cancel`
pub(super) async fn cancel(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (Asked { by, org }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    query.only(&["organization"], &mut faults);
    faults.into_result()?;
    let unknown = || absent("notification");
    let id: NotificationId = params.get("id").parse().map_err(|_| unknown())?;
    let stored = shared.intake.journal().timeline(org, id).await.map_err(unreadable)?;
    stored.ok_or_else(unknown)?;
    let hurried = shared.intake.take_back(org, id, by).await?;
    let body = json!({ "id": id.to_string(), "canceled": true, "waiting": hurried });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}
