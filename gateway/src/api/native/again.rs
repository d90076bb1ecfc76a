//! One notification again, or no longer: resend what ended, cancel what has not gone out.

use super::dead::{answer, pace};
use super::select::{Asked, absent, asked, flag, is_known, unreadable};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::route::Call;
use crate::api::{Answered, Shared, json as body_json, reply};
use crate::intake::{Again, Answer, ended};
use crate::model::{
    DeliveryId, DeviceId, FinalState, Notification, NotificationId, ProviderName, TargetRef, UserId,
};
use crate::work::Work;
use bytes::Bytes;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Deliveries one request sends again; the next one goes on with what is left.
const RESENT_MAX: usize = 1_000;
/// Recipients looked through for the owners of devices, a page at a time.
const PAGE: usize = 256;

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
    let (head, body) = shared.json_body(request).await?;
    let key = head.key(org, &body)?;
    let body = body_json::parse(&body).map_err(|fault| Failure::field("", fault.to_string()))?;
    let fields = Fields::of_body(&body)?;
    fields.only(&["targets", "after", "dryRun", "rate", "startAt"], &mut faults);
    let which = which(&fields, &mut faults);
    let after = fields.text("after", 36, &mut faults).and_then(|text| {
        let after = text.parse().map(DeliveryId).ok();
        if after.is_none() {
            faults.add("after", "must be `next` of the answer before");
        }
        after
    });
    let dry_run = flag(&fields, "dryRun", &mut faults);
    let pace = pace(&fields, shared.intake.now(), &mut faults);
    faults.into_result()?;
    let asked = Again { org, by, pace, dry_run };
    let work = send_again(Arc::clone(&shared), asked, (id, which, after));
    shared.once(org, key, work).await
}

async fn send_again(
    shared: Arc<Shared>,
    asked: Again,
    (id, which, after): (NotificationId, Which, Option<DeliveryId>),
) -> Result<Answer, Failure> {
    let unknown = || absent("notification");
    let stored = shared.intake.journal().timeline(asked.org, id).await.map_err(unreadable)?;
    let stored = stored.ok_or_else(unknown)?;
    // Without its root nothing is known of what to send.
    let root = stored.root.as_deref().and_then(Work::decode).ok_or_else(unknown)?;
    let mut chosen = choose(id, &stored.events, &which, after)?;
    drop(stored);
    let beyond = chosen.keys().nth(RESENT_MAX).copied();
    let next = beyond.and_then(|beyond| {
        drop(chosen.split_off(&beyond));
        chosen.last_key_value().map(|(last, _)| last.to_string())
    });
    let notification = root.notification().clone();
    let targets = resolve(&shared, &notification, chosen).await?;
    let done = shared.intake.resend(&asked, &notification, targets).await?;
    Ok(answer("resent", &asked, &done, next))
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

/// The deliveries that are meant and stand behind `after`, with their targets' keys.
fn choose(
    id: NotificationId,
    events: &[Bytes],
    which: &Which,
    after: Option<DeliveryId>,
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
    if let Some(after) = after {
        chosen = chosen.split_off(&after);
        chosen.remove(&after);
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
    let wanted: HashSet<_> =
        chosen.values().filter_map(|key| device(key)).map(|(_, device)| device).collect();
    let mut after = None;
    while devices.len() < wanted.len() {
        let audience = &notification.audience;
        let page = shared.store.recipients(notification.org, audience, after, PAGE).await?;
        for recipient in &page.recipients {
            let own = recipient.devices.iter().map(|device| (device.id, device.user));
            devices.extend(own.filter(|(id, _)| wanted.contains(id)));
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
    if !is_known(&shared, org, id).await? {
        return Err(unknown());
    }
    let hurried = shared.intake.take_back(org, id, by).await?;
    let body = json!({ "id": id.to_string(), "canceled": true, "waiting": hurried });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}
