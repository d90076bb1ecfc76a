//! Which ended deliveries a request means: organization, target, event, time, and where pages go on.

use super::{organization, sender};
use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::query::Query;
use crate::intake::IntakeError;
use crate::journal::{DeadPlace, EventPlace, SettledPlace};
use crate::model::{Millis, NotificationId, OrganizationId, ProviderName, TimelineEvent};
use http::HeaderMap;
use serde_json::Value;

const NAME_MAX: usize = 100;
const CAUSE_MAX: usize = 256;

/// Who asks, and about which organization.
pub(super) struct Asked {
    pub(super) by: String,
    pub(super) org: OrganizationId,
}

/// Checks that the caller may send for the organization it asks about: who sees and repeats what
/// was sent must be one who could have sent it.
pub(super) async fn asked(
    shared: &Shared,
    headers: &HeaderMap,
    uri: &http::Uri,
) -> Result<(Asked, Query), Failure> {
    let caller = shared.caller(headers).await?;
    shared.throttle(caller.organization)?;
    let by = sender(&caller).await?;
    let query = Query::of_uri(uri)?;
    let mut faults = Faults::default();
    let named = query.integer("organization", 1..=i32::MAX, &mut faults);
    faults.into_result()?;
    let org = organization(shared, &caller, named).await?;
    Ok((Asked { by, org }, query))
}

/// The journal could not be asked.
pub(super) fn unreadable(error: crate::journal::JournalError) -> Failure {
    Failure::from(IntakeError::from(error))
}

/// True if `org` has a notification of this id.
pub(super) async fn is_known(
    shared: &Shared,
    org: OrganizationId,
    id: NotificationId,
) -> Result<bool, Failure> {
    let journal = shared.intake.journal();
    if journal.root(org, id).await.map_err(unreadable)?.is_some() {
        return Ok(true);
    }
    let events = journal.events_after(org, id, None, 1).await.map_err(unreadable)?;
    Ok(!events.is_empty())
}

/// What ended deliveries must be like.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// `webhook:5f1d…`, or a whole provider as `webhook`.
    target: Option<String>,
    event: Option<String>,
    cause: Option<String>,
    pub(super) from: Millis,
    /// Not after this instant.
    pub(super) to: Millis,
}

impl Filter {
    pub(super) const NAMES: [&'static str; 5] = ["target", "event", "cause", "from", "to"];

    pub(super) fn of_query(query: &Query, faults: &mut Faults) -> Self {
        let text = |name: &str, max: usize, faults: &mut Faults| {
            query.text(name, max, faults).map(str::to_owned)
        };
        Self {
            target: target(text("target", NAME_MAX, faults), faults),
            event: text("event", NAME_MAX, faults),
            cause: text("cause", CAUSE_MAX, faults),
            from: instant("from", query.get("from"), faults).unwrap_or(Millis(0)),
            to: instant("to", query.get("to"), faults).unwrap_or(Millis(u64::MAX)),
        }
    }

    pub(super) fn of_fields(fields: &Fields<'_>, faults: &mut Faults) -> Self {
        fields.only(&Self::NAMES, faults);
        let text = |name: &str, max: usize, faults: &mut Faults| {
            fields.text(name, max, faults).map(str::to_owned)
        };
        let from = text("from", NAME_MAX, faults);
        let to = text("to", NAME_MAX, faults);
        Self {
            target: target(text("target", NAME_MAX, faults), faults),
            event: text("event", NAME_MAX, faults),
            cause: text("cause", CAUSE_MAX, faults),
            from: instant("filter.from", from.as_deref(), faults).unwrap_or(Millis(0)),
            to: instant("filter.to", to.as_deref(), faults).unwrap_or(Millis(u64::MAX)),
        }
    }

    pub(super) fn wants_event(&self) -> bool {
        self.event.is_some()
    }

    pub(super) fn is_time(&self, at: Millis) -> bool {
        self.from <= at && at <= self.to
    }

    pub(super) fn is_target(&self, key: &str) -> bool {
        self.target.as_deref().is_none_or(|wanted| {
            key.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }

    pub(super) fn is_event(&self, event: Option<&str>) -> bool {
        self.event.as_deref().is_none_or(|wanted| event == Some(wanted))
    }

    pub(super) fn is_cause(&self, cause: Option<&str>) -> bool {
        self.cause.as_deref().is_none_or(|wanted| cause == Some(wanted))
    }
}

fn target(text: Option<String>, faults: &mut Faults) -> Option<String> {
    let text = text?;
    let provider = text.split(':').next().unwrap_or_default();
    let is_known = ProviderName::ALL.iter().any(|name| name.as_str() == provider);
    if !is_known && provider != "entry" && provider != "notification" {
        faults.add("target", "must be a provider, or a target as timelines show it");
    }
    Some(text)
}

/// An instant in RFC 3339, or in milliseconds since 1970.
pub(super) fn instant(name: &str, text: Option<&str>, faults: &mut Faults) -> Option<Millis> {
    let text = text?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if is_number {
        text.parse().ok()
    } else {
        let parsed: Option<jiff::Timestamp> = text.parse().ok();
        parsed.and_then(|at| u64::try_from(at.as_millisecond()).ok())
    };
    if parsed.is_none() {
        faults.add(name, "must be an instant in RFC 3339, or milliseconds since 1970");
    }
    parsed.map(Millis)
}

/// Parts of a cursor, in hexadecimal digits.
fn parts<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut parts = [0; N];
    let mut read = text.split('-');
    for part in &mut parts {
        *part = u64::from_str_radix(read.next()?, 16).ok()?;
    }
    read.next().is_none().then_some(parts)
}

/// Where a page of outcomes goes on: at this place, among those before the ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutcomeCursor {
    pub(super) place: SettledPlace,
    pub(super) ordinal: usize,
}

impl OutcomeCursor {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let [at, position, ordinal] = parts(text)?;
        let ordinal = usize::try_from(ordinal).ok()?;
        Some(Self { place: SettledPlace { at: Millis(at), position }, ordinal })
    }

    /// Among the events of one notification: before this one.
    pub(super) fn of_event(place: EventPlace) -> Self {
        let EventPlace { position, ordinal } = place;
        let ordinal = usize::try_from(ordinal).unwrap_or(usize::MAX);
        Self { place: SettledPlace { at: Millis(0), position }, ordinal }
    }

    pub(super) fn event(self) -> EventPlace {
        let ordinal = u32::try_from(self.ordinal).unwrap_or(u32::MAX);
        EventPlace { position: self.place.position, ordinal }
    }

    pub(super) fn text(self) -> String {
        format!("{:x}-{:x}-{:x}", self.place.at.0, self.place.position, self.ordinal)
    }
}

pub(super) fn parse_dead_place(text: &str) -> Option<DeadPlace> {
    let [position, ordinal] = parts(text)?;
    Some(DeadPlace { position, ordinal: u32::try_from(ordinal).ok()? })
}

pub(super) fn dead_place_text(place: DeadPlace) -> String {
    format!("{:x}-{:x}", place.position, place.ordinal)
}

/// What the event that ended a delivery says about it.
pub(super) fn describe(event: &TimelineEvent, line: &mut Value) {
    let (target, cause, at) = match event {
        TimelineEvent::Attempted {
            at,
            target,
            attempt,
            cause,
            status,
            reason,
            provider_id,
            ..
        } => {
            line["attempts"] = (*attempt).into();
            for (name, value) in [("reason", reason), ("providerId", provider_id)] {
                if let Some(value) = value {
                    line[name] = value.as_str().into();
                }
            }
            if let Some(status) = status {
                line["status"] = (*status).into();
            }
            (target, cause.as_deref(), at)
        }
        TimelineEvent::Settled { at, target, cause, .. } => (target, Some(cause.as_str()), at),
        TimelineEvent::Expanded { .. }
        | TimelineEvent::FirstRuled { .. }
        | TimelineEvent::Ruled { .. }
        | TimelineEvent::Held { .. }
        | TimelineEvent::Noted { .. }
        | TimelineEvent::Replayed { .. }
        | TimelineEvent::Discarded { .. }
        | TimelineEvent::Canceled { .. }
        | TimelineEvent::Planned { .. } => return,
    };
    line["at"] = at.to_rfc3339().into();
    line["target"] = target.as_str().into();
    if let Some(cause) = cause {
        line["cause"] = cause.into();
    }
}

/// A member that is true or false; false without it.
pub(super) fn flag(fields: &Fields<'_>, name: &str, faults: &mut Faults) -> bool {
    match fields.get(name) {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(_) => {
            faults.add(name, "must be true or false");
            false
        }
    }
}

/// Nothing of that id is the caller's.
pub(super) fn absent(what: &str) -> Failure {
    Failure::new(FailureClass::NotFound, format!("no such {what}"))
}
