//! `GET /bugler/v1/notifications/{id}`: what became of a notification, every try and decision.

use crate::api::failure::{Failure, FailureClass};
use crate::api::route::Call;
use crate::api::{Answered, reply};
use crate::journal::Timeline;
use crate::model::{Audience, FinalState, NotificationId, OrganizationId, Part, TimelineEvent};
use crate::store::OrganizationRef;
use crate::work::{CANCELED_TARGET, ENTRY_TARGET, Work, decode_event};
use serde_json::{Map, Value, json};

pub(super) async fn timeline(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    let unknown = || Failure::new(FailureClass::NotFound, "no such notification");
    let id: NotificationId = params.get("id").parse().map_err(|_| unknown())?;
    let org = match query_organization(request.query())? {
        None => caller.organization,
        Some(named) => match shared.reach(&caller, OrganizationRef::Id(named)).await? {
            Some((organization, true)) => organization.id,
            Some((_, false)) | None => return Err(unknown()),
        },
    };
    let stored = shared.intake.journal().timeline(org, id).await;
    let unreadable = |_| Failure::new(FailureClass::Internal, "the timeline cannot be read");
    let timeline = stored.map_err(unreadable)?.ok_or_else(unknown)?;
    let body = describe(id, org, &timeline);
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

/// `?organization=102` looks into an organization below the token's own.
fn query_organization(query: Option<&str>) -> Result<Option<OrganizationId>, Failure> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut named = pairs.filter(|(name, _)| name == "organization").map(|(_, value)| value);
    let (first, second) = (named.next(), named.next());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let id = value.parse().map_err(|_| Failure::field("organization", "must be an id"))?;
            Ok(Some(id))
        }
        (Some(_), Some(_)) => Err(Failure::field("organization", "is there more than once")),
    }
}

fn describe(id: NotificationId, org: OrganizationId, timeline: &Timeline) -> Value {
    let is_shown = |event: &TimelineEvent| !matches!(event, TimelineEvent::Planned { .. });
    let events = timeline.events.iter().filter_map(|bytes| decode_event(bytes));
    let events: Vec<_> = events.filter(is_shown).collect();
    let progress = Progress::of(&events);
    let mut body = json!({
        "id": id.to_string(),
        "organization": org.0,
        "state": progress.state(),
        "deliveries": progress.counts(),
    });
    let root = timeline.root.as_deref().and_then(Work::decode);
    if let Some(work) = root {
        let notification = work.notification();
        body["source"] = json!(notification.source);
        body["event"] = json!(notification.event);
        body["audience"] = audience(&notification.audience);
        body["createdAt"] = notification.created_at.to_rfc3339().into();
        body["createdBy"] = notification.created_by.clone().into();
        body["startAt"] = notification.start_at.to_rfc3339().into();
    }
    body["timeline"] = events.iter().map(line).collect::<Vec<_>>().into();
    body
}

/// Whom it was for, without the addresses: a timeline is read by more people than a message.
fn audience(audience: &Audience) -> Value {
    match audience {
        Audience::Users(users) => json!({ "users": users.len() }),
        Audience::Emails(emails) => json!({ "emails": emails.len() }),
        Audience::Organization => json!("organization"),
        Audience::Solution(solution) => json!({ "solution": solution }),
        Audience::Groups { solution, groups } => json!({ "solution": solution, "groups": groups }),
        Audience::Subscriptions => json!("subscriptions"),
    }
}

fn line(event: &TimelineEvent) -> Value {
    let mut line = event.to_json();
    if let Value::Object(members) = &mut line {
        for name in ["at", "until", "retryAt", "due"] {
            let at = members.get(name).and_then(Value::as_u64);
            if let Some(at) = at {
                let text = crate::model::Millis(at).to_rfc3339();
                members.insert(name.to_owned(), text.into());
            }
        }
    }
    line
}

/// How far a notification has come, summed over its events.
#[derive(Debug, Default)]
struct Progress {
    is_expanded: bool,
    expected: u64,
    finals: [u64; 6],
    /// Chunks and held recipients announced and not yet worked on.
    open: i64,
    /// Its entry was given up before its deliveries were known: it is one that is dead.
    is_given_up: bool,
}

impl Progress {
    fn of(events: &[TimelineEvent]) -> Self {
        let mut progress = Self::default();
        for event in events {
            match event {
                TimelineEvent::Expanded { part, deliveries, more, .. } => {
                    progress.is_expanded = true;
                    progress.expected += u64::from(*deliveries);
                    progress.open += i64::from(*more);
                    if *part != Part::Root {
                        progress.open -= 1;
                    }
                }
                TimelineEvent::Held { .. } => progress.open += 1,
                // Taken back before anybody was looked for: one delivery that never was.
                TimelineEvent::Settled { target, .. } if target == CANCELED_TARGET => {
                    progress.is_expanded = true;
                    progress.expected += 1;
                }
                TimelineEvent::Settled { target, .. }
                    if target == ENTRY_TARGET && !progress.is_expanded =>
                {
                    progress.is_given_up = true;
                }
                TimelineEvent::FirstRuled { .. }
                | TimelineEvent::Ruled { .. }
                | TimelineEvent::Attempted { .. }
                | TimelineEvent::Settled { .. }
                | TimelineEvent::Noted { .. }
                | TimelineEvent::Discarded { .. }
                | TimelineEvent::Canceled { .. }
                | TimelineEvent::Planned { .. } => {}
                TimelineEvent::Replayed { from, target, .. } => {
                    progress.is_given_up &= target != ENTRY_TARGET;
                    let slot = FinalState::ALL.iter().position(|s| s == from);
                    if let Some(count) = slot.and_then(|slot| progress.finals.get_mut(slot)) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
            if let Some((_, state)) = event.finished()
                && let Some(slot) = FinalState::ALL.iter().position(|s| *s == state)
                && let Some(count) = progress.finals.get_mut(slot)
            {
                *count += 1;
            }
        }
        progress
    }

    fn total(&self) -> u64 {
        self.expected + u64::from(self.is_given_up)
    }

    fn pending(&self) -> u64 {
        self.total().saturating_sub(self.finals.iter().sum())
    }

    fn state(&self) -> &'static str {
        if !self.is_expanded && !self.is_given_up {
            "queued"
        } else if self.open > 0 || self.pending() > 0 {
            "sending"
        } else {
            "done"
        }
    }

    fn counts(&self) -> Value {
        let mut counts = Map::new();
        counts.insert(String::from("total"), self.total().into());
        counts.insert(String::from("pending"), self.pending().into());
        for (state, count) in FinalState::ALL.iter().zip(self.finals) {
            if count > 0 {
                counts.insert(state.as_str().to_owned(), count.into());
            }
        }
        counts.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeliveryId, Millis};

    fn events() -> (TimelineEvent, TimelineEvent) {
        let (at, delivery) =
            (Millis(1), DeliveryId::derive(NotificationId(uuid::Uuid::nil()), "entry"));
        let given_up = TimelineEvent::Settled {
            at,
            delivery,
            target: String::from(ENTRY_TARGET),
            state: FinalState::Dead,
            cause: String::from("panicked"),
        };
        let replayed = TimelineEvent::Replayed {
            at,
            delivery,
            target: String::from(ENTRY_TARGET),
            from: FinalState::Dead,
            by: String::from("somebody"),
            due: at,
        };
        (given_up, replayed)
    }

    #[test]
    fn an_entry_given_up_before_it_was_read_is_done_until_it_is_replayed() {
        let (given_up, replayed) = events();
        let progress = Progress::of(std::slice::from_ref(&given_up));
        assert_eq!(progress.state(), "done");
        assert_eq!(progress.counts(), json!({ "total": 1, "pending": 0, "dead": 1 }));
        let progress = Progress::of(&[given_up, replayed]);
        assert_eq!(progress.state(), "queued");
        assert_eq!(progress.counts(), json!({ "total": 0, "pending": 0 }));
    }
}
