//! `POST /bugler/v1/organizations/{org}/events`: something happened; whoever subscribed is told.

use super::account::reached;
use super::sender;
use crate::api::applivery::events::Happened;
use crate::api::failure::Failure;
use crate::api::route::Call;
use crate::api::{Answered, Shared, json, reply};
use crate::intake::{Answer, KeyState, RequestKey};
use crate::model::{Audience, Notification, OrganizationId, Priority, Source};
use crate::work::Work;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

const DATA_BYTES_MAX: usize = 64 << 10;
/// What a dedupe key's scope starts with; no path does.
const DEDUPE_SCOPE: &str = "event:";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    dedupe_key: Option<Cow<'a, str>>,
}

impl<'a> Wire<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        json::check_numbers(bytes).map_err(|fault| Failure::field("", fault.to_string()))?;
        let wire: Self =
            serde_json::from_slice(bytes).map_err(|error| Failure::field("", error.to_string()))?;
        if let Some(data) = wire.data {
            if data.get().len() > DATA_BYTES_MAX {
                let problem = format!("takes more than {DATA_BYTES_MAX} bytes");
                return Err(Failure::field("data", problem));
            }
            let nested = json::parse(data.get().as_bytes());
            let nested = nested.map_err(|fault| Failure::field("data", fault.to_string()))?;
            if !nested.is_object() {
                return Err(Failure::field("data", "must be an object"));
            }
        }
        Ok(wire)
    }

    /// The key under which this event is accepted once, whatever else a repeat says.
    fn dedupe(&self, org: OrganizationId, action: &str) -> Result<Option<RequestKey>, Failure> {
        let Some(key) = &self.dedupe_key else { return Ok(None) };
        let scope = format!("{DEDUPE_SCOPE}{action}");
        let made = RequestKey::new(org, &scope, key.as_bytes(), &[]);
        made.map(Some)
            .map_err(|_| Failure::field("dedupeKey", "must be 1 to 255 visible ASCII characters"))
    }
}

pub(super) async fn raise(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = reached(&shared, &caller, params.get("org")).await?;
    let created_by = sender(&caller).await?;
    let (head, body) = shared.json_body(request).await?;
    let org = organization.id;
    let wire = Wire::parse(&body)?;
    let happened = Happened::named(wire.event.as_deref(), wire.action.as_deref())?;
    let keys = [head.key(org, &body)?, wire.dedupe(org, &happened.action)?];
    let now = shared.intake.now();
    let none = RawValue::from_string(String::from("{}")).expect("an empty object is JSON");
    let content = happened.content(&organization, wire.data.unwrap_or(&none), now)?;
    let notification = Notification {
        id: shared.intake.mint(),
        org,
        source: Source::Native,
        event: happened.event,
        audience: Audience::Subscriptions,
        content,
        priority: Priority::default(),
        collapse_key: None,
        created_at: now,
        created_by,
        start_at: now,
        expires_at: None,
        dialect_fields: String::new(),
        mail: None,
        inbox: false,
    };
    accept(&shared, keys, notification).await
}

/// Stores the notification under every key it has, unless one of them has its answer already.
async fn accept(
    shared: &Shared,
    keys: [Option<RequestKey>; 2],
    notification: Notification,
) -> Result<Answered, Failure> {
    let durability = shared.intake.journal().durability();
    let mut firsts = Vec::with_capacity(keys.len());
    for key in keys.into_iter().flatten() {
        match shared.intake.begin(key).await? {
            KeyState::First(running) => firsts.push(running),
            KeyState::Replay(answer) => {
                return Ok(Answered::Replayed(reply::accepted(&answer, durability, true)));
            }
        }
    }
    let (id, org) = (notification.id, notification.org);
    let text = format!("{{\"id\":\"{id}\",\"state\":\"queued\"}}");
    let answer = Answer { status: 202, notification: id, body: text.into() };
    let remember: Vec<_> = firsts.into_iter().map(|first| (first, answer.clone())).collect();
    shared.intake.accept_all(org, vec![Work::root(notification)], &remember).await?;
    Ok(Answered::Accepted(reply::accepted(&answer, durability, false)))
}
