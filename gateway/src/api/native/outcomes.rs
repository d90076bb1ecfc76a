//! `GET /bugler/v1/outcomes`: an organization's deliveries that ended, newest first.

use super::select::{Asked, Filter, OutcomeCursor, absent, asked, describe, is_known, unreadable};
use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::{Answered, Shared, reply};
use crate::journal::{SettledBlock, SettledQuery};
use crate::model::{DeliveryId, FinalState, NotificationId, OrganizationId, TimelineEvent};
use crate::work::{Work, decode_event};
use serde_json::{Value, json};
use std::collections::HashMap;

const LIMIT_DEFAULT: usize = 50;
/// Blocks read at once, and blocks and notifications looked up for one page.
const BLOCKS_AT_ONCE: usize = 32;
const LOOKUPS_MAX: usize = 512;
/// Events of one notification read at once, and how often for one page.
const EVENTS_AT_ONCE: usize = 1_024;
const EVENT_READS_MAX: usize = 16;
const ALL_STATES: u8 = 0b11_1111;

pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let (Asked { org, .. }, query) = asked(&shared, &request.headers, &request.uri).await?;
    let mut faults = Faults::default();
    let mut names = vec!["organization", "notification", "state", "after", "limit"];
    names.extend(Filter::NAMES);
    query.only(&names, &mut faults);
    let filter = Filter::of_query(&query, &mut faults);
    let states = states(&query, &mut faults);
    let limit = query.integer("limit", 1..=200_i32, &mut faults);
    let cursor = query.get("after").and_then(|text| {
        let cursor = OutcomeCursor::parse(text);
        if cursor.is_none() {
            faults.add("after", "must be `next` of the page before");
        }
        cursor
    });
    let notification = query.get("notification").map(str::parse::<NotificationId>);
    faults.into_result()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIMIT_DEFAULT);
    let mut page = Page {
        shared: &shared,
        org,
        filter,
        states,
        limit,
        lookups: LOOKUPS_MAX,
        events: HashMap::new(),
        lines: Vec::new(),
    };
    let next = match notification {
        None => page.fill(cursor).await?,
        Some(Err(_)) => return Err(absent("notification")),
        Some(Ok(id)) => page.of(id, cursor).await?,
    };
    let body = json!({ "outcomes": page.lines, "next": next.map(OutcomeCursor::text) });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

/// `state=dead,rejected`: one bit each; all without it.
fn states(query: &Query, faults: &mut Faults) -> u8 {
    let Some(text) = query.get("state") else { return ALL_STATES };
    let mut bits = 0;
    for word in text.split(',') {
        match FinalState::ALL.iter().find(|state| state.as_str() == word) {
            Some(state) => bits |= SettledQuery::bit(*state),
            None => {
                let known: Vec<_> = FinalState::ALL.iter().map(|state| state.as_str()).collect();
                faults.add("state", format!("must be some of {}", known.join(", ")));
                return 0;
            }
        }
    }
    bits
}

/// A page in the making: bounded in lines and in what is looked up for them.
struct Page<'a> {
    shared: &'a Shared,
    org: OrganizationId,
    filter: Filter,
    states: u8,
    limit: usize,
    lookups: usize,
    /// Events of the notifications met so far.
    events: HashMap<NotificationId, Option<String>>,
    lines: Vec<Value>,
}

impl Page<'_> {
    /// Reads on from `cursor`; answers where the next page begins, if there may be more.
    async fn fill(
        &mut self,
        mut cursor: Option<OutcomeCursor>,
    ) -> Result<Option<OutcomeCursor>, Failure> {
        loop {
            let query = SettledQuery {
                org: self.org,
                from: self.filter.from,
                to: self.filter.to,
                states: self.states,
                before: cursor.map(|cursor| cursor.place),
            };
            let page = self.shared.intake.journal().settled(query, BLOCKS_AT_ONCE).await;
            let page = page.map_err(unreadable)?;
            for block in &page.blocks {
                let ordinals = cursor.filter(|c| c.place == block.place).map(|c| c.ordinal);
                if let Some(ordinal) = self.block(block, ordinals).await? {
                    return Ok(Some(OutcomeCursor { place: block.place, ordinal }));
                }
            }
            self.lookups = self.lookups.saturating_sub(page.blocks.len().max(1));
            let Some(next) = page.next else { return Ok(None) };
            cursor = Some(OutcomeCursor { place: next, ordinal: usize::MAX >> 1 });
            if self.lookups == 0 {
                return Ok(cursor);
            }
        }
    }

    /// Adds the deliveries of a block, last first; answers where it stopped.
    async fn block(
        &mut self,
        block: &SettledBlock,
        before: Option<usize>,
    ) -> Result<Option<usize>, Failure> {
        let ended = block.settled.iter().flat_map(|settled| {
            settled.finals.iter().map(move |(delivery, state)| (settled, *delivery, *state))
        });
        let ended: Vec<_> = ended.collect();
        let end = before.unwrap_or(ended.len()).min(ended.len());
        for (ordinal, (settled, delivery, state)) in ended.iter().enumerate().take(end).rev() {
            if self.lines.len() >= self.limit || self.lookups == 0 {
                return Ok(Some(ordinal + 1));
            }
            let mut events = settled.events.iter().filter_map(|event| decode_event(event));
            let event = events.find(|event| event.finished() == Some((*delivery, *state)));
            self.line(settled.notification, (*delivery, *state), event.as_ref()).await?;
        }
        Ok(None)
    }

    async fn line(
        &mut self,
        notification: NotificationId,
        (delivery, state): (DeliveryId, FinalState),
        ended: Option<&TimelineEvent>,
    ) -> Result<(), Failure> {
        let mut line = json!({
            "notification": notification.to_string(),
            "delivery": delivery.to_string(),
            "state": state.as_str(),
        });
        if let Some(ended) = ended {
            describe(ended, &mut line);
        }
        let is_wanted = self.states & SettledQuery::bit(state) != 0
            && self.filter.is_target(line["target"].as_str().unwrap_or_default())
            && self.filter.is_cause(line["cause"].as_str());
        if !is_wanted {
            return Ok(());
        }
        let event = self.event(notification).await?;
        if !self.filter.is_event(event.as_deref()) {
            return Ok(());
        }
        if let Some(event) = event {
            line["event"] = event.into();
        }
        self.lines.push(line);
        Ok(())
    }

    /// The event of a notification, while its root is kept.
    async fn event(&mut self, id: NotificationId) -> Result<Option<String>, Failure> {
        if let Some(known) = self.events.get(&id) {
            return Ok(known.clone());
        }
        self.lookups = self.lookups.saturating_sub(usize::from(self.filter.wants_event()));
        let root = self.shared.intake.journal().root(self.org, id).await.map_err(unreadable)?;
        let work = root.as_deref().and_then(Work::decode);
        let event = work.map(|work| work.notification().event.clone());
        self.events.insert(id, event.clone());
        Ok(event)
    }

    /// The ended deliveries of one notification, newest first.
    async fn of(
        &mut self,
        id: NotificationId,
        cursor: Option<OutcomeCursor>,
    ) -> Result<Option<OutcomeCursor>, Failure> {
        if !is_known(self.shared, self.org, id).await? {
            return Err(absent("notification"));
        }
        let journal = self.shared.intake.journal();
        let mut before = cursor.map(OutcomeCursor::event);
        for _ in 0..EVENT_READS_MAX {
            let events = journal.events_before(self.org, id, before, EVENTS_AT_ONCE).await;
            let events = events.map_err(unreadable)?;
            let ended = events.iter().filter_map(|(place, event)| {
                let event = decode_event(event)?;
                Some((*place, event.finished()?, event))
            });
            let ended: Vec<_> = ended.collect();
            let ids = ended.iter().map(|(_, (delivery, _), _)| *delivery).collect();
            let reopened = journal.reopened(ids).await.map_err(unreadable)?;
            for (place, (delivery, state), event) in &ended {
                let again = reopened.get(delivery);
                if again.is_some_and(|position| *position > place.position) {
                    continue;
                }
                if self.lines.len() >= self.limit {
                    return Ok(before.map(OutcomeCursor::of_event));
                }
                before = Some(*place);
                let (TimelineEvent::Attempted { at, .. } | TimelineEvent::Settled { at, .. }) =
                    event
                else {
                    continue;
                };
                if self.filter.is_time(*at) {
                    self.line(id, (*delivery, *state), Some(event)).await?;
                }
            }
            if events.len() < EVENTS_AT_ONCE {
                return Ok(None);
            }
            before = events.last().map(|(place, _)| *place);
        }
        Ok(before.map(OutcomeCursor::of_event))
    }
}
