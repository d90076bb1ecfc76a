//! Dead letters: list them, look at one, send them again, give them up.

use super::select::{
    Asked, Filter, absent, asked, dead_place_text, describe, flag, parse_dead_place, unreadable,
};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::route::Call;
use crate::api::{Answered, Shared, json as body_json, reply};
use crate::intake::{Again, Answer, Done, Pace, RequestKey};
use crate::journal::{DeadPlace, DeadRow};
use crate::model::{DeliveryId, FinalState, Millis, OrganizationId};
use crate::work::{Work, decode_event};
use serde_json::{Value, json};
use std::sync::Arc;

const LIMIT_DEFAULT: usize = 50;
/// Deliveries one request amends.
const AMENDED_MAX: usize = 1_000;
/// Dead letters read at once, and looked at for one page or one request.
const ROWS_AT_ONCE: usize = 100;
const ROWS_MAX: usize = 5_000;
const PER_SECOND_MAX: i32 = 10_000;

/// `GET /bugler/v1/dead-letters`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let (Asked { org, .. }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    let mut names = vec!["organization", "after", "limit"];
    names.extend(Filter::NAMES);
    query.only(&names, &mut faults);
    let filter = Filter::of_query(&query, &mut faults);
    let limit = query.integer("limit", 1..=200_i32, &mut faults);
    let after = place(query.get("after"), &mut faults);
    faults.into_result()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIMIT_DEFAULT);
    let (rows, next) = select(&shared, org, &filter, after, limit).await?;
    let lines: Vec<_> = rows.iter().map(shown).collect();
    let body = json!({ "deadLetters": lines, "next": next.map(dead_place_text) });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

/// `GET /bugler/v1/dead-letters/{id}`
pub(super) async fn show(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (Asked { org, .. }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    query.only(&["organization"], &mut faults);
    faults.into_result()?;
    let unknown = || absent("dead letter");
    let id = params.get("id").parse().map(DeliveryId).map_err(|_| unknown())?;
    let row = shared.intake.journal().dead_letter(org, id).await.map_err(unreadable)?;
    let row = row.ok_or_else(unknown)?;
    let mut line = shown(&row);
    match Work::decode(&row.letter.copy) {
        Some(work) => {
            let notification = work.notification();
            line["source"] = json!(notification.source);
            line["priority"] = json!(notification.priority);
            line["createdAt"] = notification.created_at.to_rfc3339().into();
            line["createdBy"] = notification.created_by.clone().into();
            line["startAt"] = notification.start_at.to_rfc3339().into();
            line["expiresAt"] = notification.expires_at.map(Millis::to_rfc3339).into();
        }
        None => line["raw"] = hex(&row.letter.copy).into(),
    }
    Ok(Answered::Other(reply::json(200, line.to_string())))
}

/// What could not be read, for whoever has the release that wrote it.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn place(text: Option<&str>, faults: &mut Faults) -> Option<DeadPlace> {
    let place = text.map(parse_dead_place)?;
    if place.is_none() {
        faults.add("after", "must be `next` of the page before");
    }
    place
}

fn shown(row: &DeadRow) -> Value {
    let mut line = json!({
        "delivery": row.letter.delivery.to_string(),
        "notification": row.letter.notification.to_string(),
    });
    let mut events = row.events.iter().filter_map(|event| decode_event(event));
    let ended = (row.letter.delivery, FinalState::Dead);
    if let Some(event) = events.find(|event| event.finished() == Some(ended)) {
        describe(&event, &mut line);
    }
    line["at"] = row.at.to_rfc3339().into();
    let work = Work::decode(&row.letter.copy);
    line["replayable"] = matches!(work, Some(Work::Retry { .. })).into();
    match &work {
        Some(Work::Retry { target, notification, .. }) => {
            line["target"] = target.key().into();
            line["event"] = notification.event.clone().into();
        }
        Some(other) => line["event"] = other.notification().event.clone().into(),
        None => {}
    }
    line
}

/// Wanted dead letters after `after`, and where to go on, if there may be more.
async fn select(
    shared: &Shared,
    org: OrganizationId,
    filter: &Filter,
    mut after: Option<DeadPlace>,
    limit: usize,
) -> Result<(Vec<DeadRow>, Option<DeadPlace>), Failure> {
    let (mut found, mut looked) = (Vec::new(), 0);
    loop {
        let page = shared.intake.journal().dead_of(org, after, ROWS_AT_ONCE).await;
        let page = page.map_err(unreadable)?;
        for row in page.rows {
            let line = shown(&row);
            let is_wanted = filter.is_time(row.at)
                && filter.is_target(line["target"].as_str().unwrap_or_default())
                && filter.is_event(line["event"].as_str())
                && filter.is_cause(line["cause"].as_str());
            if !is_wanted {
                after = Some(row.place);
                continue;
            }
            if found.len() >= limit {
                return Ok((found, after));
            }
            after = Some(row.place);
            found.push(row);
        }
        looked += ROWS_AT_ONCE;
        if page.next.is_none() {
            return Ok((found, None));
        }
        after = page.next;
        if looked >= ROWS_MAX {
            return Ok((found, after));
        }
    }
}

/// What a replay or a discard is about.
struct Selection {
    asked: Again,
    key: Option<RequestKey>,
    which: Which,
}

enum Which {
    Named(Vec<DeliveryId>),
    Found { filter: Filter, after: Option<DeadPlace>, limit: usize },
}

impl Which {
    /// The deliveries that are meant, and where to go on.
    async fn find(
        self,
        shared: &Shared,
        org: OrganizationId,
    ) -> Result<(Vec<DeliveryId>, Option<DeadPlace>), Failure> {
        let (filter, after, limit) = match self {
            Self::Named(ids) => return Ok((ids, None)),
            Self::Found { filter, after, limit } => (filter, after, limit),
        };
        let (rows, next) = select(shared, org, &filter, after, limit).await?;
        Ok((rows.into_iter().map(|row| row.letter.delivery).collect(), next))
    }
}

async fn selection(call: Call, paced: bool) -> Result<(Arc<Shared>, Selection), Failure> {
    let Call { shared, request, .. } = call;
    let (Asked { by, org }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    query.only(&["organization"], &mut faults);
    let (head, body) = shared.json_body(request).await?;
    let key = head.key(org, &body)?;
    let body = body_json::parse(&body).map_err(|fault| Failure::field("", fault.to_string()))?;
    let fields = Fields::of_body(&body)?;
    let known: &[&str] = if paced {
        &["deliveries", "filter", "limit", "after", "dryRun", "rate", "startAt"]
    } else {
        &["deliveries", "filter", "limit", "after", "dryRun"]
    };
    fields.only(known, &mut faults);
    let ids = fields.texts("deliveries", AMENDED_MAX, 36, &mut faults);
    let ids = ids.map(|ids| named(&ids, &mut faults));
    let filter = fields.object("filter", &mut faults);
    let filter = filter.map(|fields| Filter::of_fields(&fields, &mut faults));
    if ids.is_some() == filter.is_some() {
        faults.add("", "name either deliveries, or a filter: {} is every dead letter");
    }
    let limit = fields.integer::<i32>("limit", &mut faults).unwrap_or(1_000);
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=AMENDED_MAX).contains(limit));
    if limit.is_none() {
        faults.add("limit", "must be from 1 to 1000");
    }
    let after = place(fields.text("after", 40, &mut faults), &mut faults);
    let dry_run = flag(&fields, "dryRun", &mut faults);
    let pace = pace(&fields, shared.intake.now(), &mut faults);
    faults.into_result()?;
    let asked = Again { org, by, pace, dry_run };
    let which = match filter {
        Some(filter) => Which::Found { filter, after, limit: limit.unwrap_or(AMENDED_MAX) },
        None => Which::Named(ids.unwrap_or_default()),
    };
    Ok((shared, Selection { asked, key, which }))
}

fn named(ids: &[&str], faults: &mut Faults) -> Vec<DeliveryId> {
    let mut named = Vec::with_capacity(ids.len());
    for (number, id) in ids.iter().enumerate() {
        match id.parse().map(DeliveryId) {
            Ok(id) if !named.contains(&id) => named.push(id),
            Ok(_) => {}
            Err(_) => faults.add(format!("deliveries[{number}]"), "must be a uuid"),
        }
    }
    named
}

/// `rate` deliveries a second from `startAt` on; all at once and now without them.
pub(super) fn pace(fields: &Fields<'_>, now: Millis, faults: &mut Faults) -> Pace {
    let rate = fields.integer::<i32>("rate", faults);
    if rate.is_some_and(|rate| !(1..=PER_SECOND_MAX).contains(&rate)) {
        faults.add("rate", format!("must be from 1 to {PER_SECOND_MAX} a second"));
    }
    let start = fields.integer::<i64>("startAt", faults);
    let start = start.map(|ms| Millis(u64::try_from(ms).unwrap_or_default()).max(now));
    if start.is_some_and(|start| start > now.year_ahead()) {
        faults.add("startAt", "must be within a year");
    }
    let per_second = rate.and_then(|rate| u32::try_from(rate).ok()).unwrap_or(0);
    Pace { start: start.unwrap_or(now), per_second }
}

/// `POST /bugler/v1/dead-letters/replay`
pub(super) async fn replay(call: Call) -> Result<Answered, Failure> {
    let (shared, Selection { asked, key, which }) = selection(call, true).await?;
    let (worker, org) = (Arc::clone(&shared), asked.org);
    let work = async move {
        let (ids, next) = which.find(&worker, asked.org).await?;
        let done = worker.intake.replay(&asked, ids).await?;
        Ok(answer("replayed", &asked, &done, next.map(dead_place_text)))
    };
    shared.once(org, key, work).await
}

/// `POST /bugler/v1/dead-letters/discard`
pub(super) async fn discard(call: Call) -> Result<Answered, Failure> {
    let (shared, Selection { asked, key, which }) = selection(call, false).await?;
    let (worker, org) = (Arc::clone(&shared), asked.org);
    let work = async move {
        let (ids, next) = which.find(&worker, asked.org).await?;
        let done = worker.intake.discard(&asked, ids).await?;
        Ok(answer("discarded", &asked, &done, next.map(dead_place_text)))
    };
    shared.once(org, key, work).await
}

/// What was done; in a dry run, what would be.
pub(super) fn answer(word: &str, asked: &Again, done: &Done, next: Option<String>) -> Answer {
    let refused = done.refused.iter();
    let refused: Vec<_> = refused
        .map(|(id, why)| json!({ "delivery": id.to_string(), "reason": why.as_str() }))
        .collect();
    let ids: Vec<_> = done.amended.iter().map(ToString::to_string).collect();
    let body = json!({
        "dryRun": asked.dry_run,
        word: ids,
        "refused": refused,
        "lastDue": done.last_due.map(Millis::to_rfc3339),
        "next": next,
    });
    Answer::plain(200, body.to_string())
}
