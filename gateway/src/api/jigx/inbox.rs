//! A member's inbox: list and sync, one entry, its state, its removal.

use super::enter;
use super::page::{Token, Wanted, list as page};
use super::who::{Who, uuid_of};
use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head};
use crate::api::{Answered, Shared, json, reply};
use crate::intake::{Answer, RecordChange};
use crate::model::{InboxState, NotificationId, Organization, User};
use crate::store::{Change, Expectation, InboxChange, InboxRow};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where a page of an inbox begins.
enum From {
    /// The newest entry, or before this one; reading began at the revision.
    Entries(Option<NotificationId>, u64),
    /// Changes after this revision.
    Changes(u64),
}

fn unknown() -> Failure {
    Failure::new(FailureClass::NotFound, "no such notification in this inbox")
}

/// `GET …/members/{user}/notifications`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    let user = who.require_inbox(&shared, organization.id, params.get("user")).await?;
    let query = Query::of_uri(&request.uri)?;
    let wanted = Wanted::parse(&query, |token| match token {
        Token::Inbox { user: of, .. }
        | Token::Changes { user: of, .. }
        | Token::Watermark { user: of, .. } => *of == user.id,
        Token::Notifications(_) | Token::Members(_) => false,
    })?;
    let more = wanted.limit + 1;
    let from = begin(&shared, &user, &wanted).await?;
    let mut rows = match from {
        From::Entries(before, _) => {
            shared.store.inbox(user.id, organization.id, before, more).await?
        }
        From::Changes(after) => {
            shared.store.inbox_changes(user.id, organization.id, after, more).await?
        }
    };
    let has_next = rows.len() > wanted.limit;
    rows.truncate(wanted.limit);
    let last = rows.last();
    let (next, revision) = match from {
        From::Entries(_, began) => {
            let next =
                |row: &InboxRow| Token::Inbox { user: user.id, before: row.notification, began };
            (last.map(next), began)
        }
        From::Changes(after) => {
            let after = last.map_or(after, |row| row.entry.revision);
            (Some(Token::Changes { user: user.id, after }), after)
        }
    };
    let next = next.filter(|_| has_next);
    let watermark = next.is_none().then_some(Token::Watermark { user: user.id, revision });
    let items = rows.iter().map(|row| item(row, &organization, &user)).collect();
    Ok(Answered::Other(reply::json(200, page(items, next, watermark))))
}

async fn begin(shared: &Shared, user: &User, wanted: &Wanted) -> Result<From, Failure> {
    let head = shared.store.inbox_head(user.id).await?;
    let after = match (wanted.token, wanted.sync) {
        (Some(Token::Inbox { before, began, .. }), _) => {
            return Ok(From::Entries(Some(before), began));
        }
        (Some(Token::Changes { after, .. }), _) => ("continuationToken", after),
        (None, Some(Token::Watermark { revision, .. })) => ("syncToken", revision),
        (None, None) => return Ok(From::Entries(None, head.revision)),
        (Some(_), _) => {
            return Err(Failure::field("continuationToken", "is no token of a page"));
        }
        (None, Some(_)) => return Err(Failure::field("syncToken", "is no watermark")),
    };
    let (name, after) = after;
    if after < head.forgotten || after > head.revision {
        let text = "is too old: removals since then are forgotten; list again without it";
        return Err(Failure::field(name, text));
    }
    Ok(From::Changes(after))
}

/// An entry as its member sees it.
fn item(row: &InboxRow, organization: &Organization, user: &User) -> Value {
    let entry = &row.entry;
    let by = |who: Option<uuid::Uuid>| who.unwrap_or(organization.uuid).to_string();
    let content = row.content.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut item = Map::new();
    let mut put = |name: &str, value: Value| {
        item.insert(name.to_owned(), value);
    };
    put("organizationId", organization.uuid.to_string().into());
    put("notificationId", row.notification.to_string().into());
    put("userId", user.uuid.to_string().into());
    put("state", entry.state.as_str().into());
    put("startAt", entry.start_at.to_rfc3339().into());
    put("content", content.unwrap_or_else(|| json!({ "text": "", "inputs": {} })));
    put("createdAt", entry.created_at.to_rfc3339().into());
    put("createdBy", by(entry.created_by).into());
    put("updatedAt", entry.updated_at.to_rfc3339().into());
    put("updatedBy", by(entry.updated_by).into());
    if entry.is_removed {
        put("deletedAt", entry.updated_at.to_rfc3339().into());
    }
    Value::Object(item)
}

/// One entry being looked at or changed.
struct Named {
    who: Who,
    organization: Arc<Organization>,
    user: User,
    notification: NotificationId,
}

impl Named {
    async fn of(call: &Call) -> Result<Self, Failure> {
        let Call { shared, request, params, .. } = call;
        let (who, organization) = enter(shared, &request.headers, params.get("org")).await?;
        let user = who.require_inbox(shared, organization.id, params.get("user")).await?;
        let id = uuid_of(params.get("notification")).ok_or_else(unknown)?;
        Ok(Self { who, organization, user, notification: NotificationId(id) })
    }

    async fn row(&self, shared: &Shared) -> Result<InboxRow, Failure> {
        let found = shared.store.inbox_entry(self.user.id, self.notification).await?;
        found.filter(|row| row.entry.org == self.organization.id).ok_or_else(unknown)
    }

    /// Makes a change if the entry is still as `row` says; `None` if it is not.
    async fn change(
        &self,
        shared: &Shared,
        begun: &mut Begun,
        (head, action, status): (&Head, &str, u16),
        (row, change): (&InboxRow, InboxChange),
    ) -> Result<Option<Answered>, Failure> {
        let org = self.organization.id;
        let expected =
            Expectation::InboxRevision(self.user.id, self.notification, row.entry.revision);
        let object = format!("inbox:{}:{}", self.user.id, self.notification);
        let change = RecordChange {
            org,
            changes: vec![Change::Expect(expected), Change::Inbox(change)],
            audit: shared.note(head, &self.who.caller, org, action, object),
            notifications: Vec::new(),
        };
        shared.change(begun, change, Answer::plain(status, "")).await
    }
}

/// `GET …/members/{user}/notifications/{notification}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let named = Named::of(&call).await?;
    let row = named.row(&call.shared).await?;
    let body = item(&row, &named.organization, &named.user).to_string();
    Ok(Answered::Other(reply::json(200, body)))
}

/// `PATCH …/members/{user}/notifications/{notification}`
pub(super) async fn patch(call: Call) -> Result<Answered, Failure> {
    let named = Named::of(&call).await?;
    named.row(&call.shared).await?;
    let Call { shared, request, .. } = call;
    let (head, body) = shared.json_body(request).await?;
    let state = wanted_state(&body)?;
    let mut begun = Begun::unkeyed();
    loop {
        let row = named.row(&shared).await?;
        let present = row.entry.state;
        if state == present {
            return Ok(Answered::Other(reply::empty(200)));
        }
        if !present.may_become(state) {
            let text = format!("cannot follow {}", present.as_str());
            return Err(Failure::field("state", text));
        }
        let set = InboxChange::Set {
            user: named.user.id,
            notification: named.notification,
            state,
            at: shared.intake.now(),
            by: Some(named.who.uuid),
        };
        let how = (&head, "inbox.state", 200);
        if let Some(done) = named.change(&shared, &mut begun, how, (&row, set)).await? {
            return Ok(done);
        }
    }
}

fn wanted_state(body: &[u8]) -> Result<InboxState, Failure> {
    let body = json::body(body)?;
    let fields = Fields::of_body(&body)?;
    let mut faults = Faults::default();
    fields.only(&["state"], &mut faults);
    let state = fields.get("state").and_then(Value::as_str).and_then(InboxState::named);
    if state.is_none() {
        faults.add("state", "must be QUEUED, SENT, RETRY, FAILED, READ or DISMISSED");
    }
    faults.into_result()?;
    state.ok_or_else(|| Failure::field("state", "is required"))
}

/// `DELETE …/members/{user}/notifications/{notification}`
pub(super) async fn delete(call: Call) -> Result<Answered, Failure> {
    let named = Named::of(&call).await?;
    let Call { shared, request, .. } = call;
    let head = Head::of(request);
    let mut begun = Begun::unkeyed();
    loop {
        let row = named.row(&shared).await?;
        let remove = InboxChange::Remove {
            user: named.user.id,
            notification: named.notification,
            at: shared.intake.now(),
            by: Some(named.who.uuid),
        };
        let how = (&head, "inbox.remove", 204);
        if let Some(done) = named.change(&shared, &mut begun, how, (&row, remove)).await? {
            return Ok(done);
        }
    }
}
