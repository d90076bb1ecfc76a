//! What an organization sent: list, one, and taking it back.

use super::enter;
use super::page::{Token, Wanted, list as page};
use super::state::{State, unreadable};
use super::who::uuid_of;
use super::wire::shown;
use crate::api::failure::{Failure, FailureClass};
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head};
use crate::api::{Answered, Shared, reply};
use crate::intake::{Answer, RecordChange};
use crate::journal::ListedRoot;
use crate::model::{Millis, Notification, NotificationId, Organization, OrganizationId};
use crate::store::{Change, InboxChange};
use crate::work::Work;
use serde_json::Value;
use uuid::Uuid;

/// Notifications looked at for one page of a filtered list; the page may then be short.
const LOOKED_AT_MAX: usize = 500;
/// Events read for one page, and for one notification more: the page may then be short.
const EVENTS_MAX: usize = 20_000;
/// Read at once, even where fewer are missing: a filter may leave most of them out.
const READ_MIN: usize = 25;
/// Longest that the journal keeps what retention no longer asks for: until the last timer in the
/// same segment is due.
const TIMERS_MS: u64 = 366 * 24 * 3_600_000;

/// Which states a list shows.
#[derive(Clone, Copy, Debug)]
enum Filter {
    All,
    Only(&'static [State]),
}

impl Filter {
    fn named(name: Option<&str>) -> Self {
        match name {
            // What is tried again is still on its way.
            Some("queued") => Self::Only(&[State::Queued, State::Retry]),
            Some("sent") => Self::Only(&[State::Sent]),
            Some("failed") => Self::Only(&[State::Failed]),
            _ => Self::All,
        }
    }

    fn shows(self, state: State) -> bool {
        match self {
            Self::All => state != State::Canceled,
            Self::Only(states) => states.contains(&state),
        }
    }
}

/// `GET …/organizations/{org}/notifications`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    who.require_send().await?;
    let query = Query::of_uri(&request.uri)?;
    let wanted = Wanted::parse(&query, |token| matches!(token, Token::Notifications(_)))?;
    let filter = Filter::named(query.get("filterMode"));
    let mut before = match wanted.token {
        Some(Token::Notifications(before)) => Some(before),
        _ => None,
    };
    let (mut items, mut looked_at, mut events, mut next) = (Vec::new(), 0, 0, None);
    'pages: while looked_at < LOOKED_AT_MAX {
        // One more than is wanted tells whether there is a next page.
        let missing = wanted.limit + 1 - items.len();
        let count = missing.max(READ_MIN).min(LOOKED_AT_MAX - looked_at);
        let roots = listed(&shared, organization.id, before, count).await?;
        let (found, is_last) = (roots.len(), roots.len() < count);
        looked_at += found;
        let hidden = roots.iter().map(|root| root.notification).collect();
        let hidden = shared.store.hidden(organization.id, hidden).await?;
        for root in roots {
            let id = root.notification;
            let notification = notification_of(&root).filter(|_| !hidden.contains(&id));
            let item = match notification {
                Some(_) if events >= EVENTS_MAX => {
                    next = before;
                    break 'pages;
                }
                Some(notification) => {
                    let events = &mut events;
                    visible(&shared, &organization, &notification, (filter, events)).await?
                }
                None => None,
            };
            if let Some(item) = item {
                if items.len() == wanted.limit {
                    next = before;
                    break 'pages;
                }
                items.push(item);
            }
            before = Some(id);
        }
        next = before.filter(|_| !is_last);
        if is_last {
            break;
        }
    }
    let body = page(items, next.map(Token::Notifications), None);
    Ok(Answered::Other(reply::json(200, body)))
}

async fn listed(
    shared: &Shared,
    org: OrganizationId,
    before: Option<NotificationId>,
    limit: usize,
) -> Result<Vec<ListedRoot>, Failure> {
    let roots = shared.intake.journal().listed(org, before, limit).await;
    roots.map_err(|_| unreadable())
}

fn notification_of(root: &ListedRoot) -> Option<Notification> {
    Work::decode(&root.payload).map(|work| work.notification().clone())
}

async fn visible(
    shared: &Shared,
    organization: &Organization,
    notification: &Notification,
    (filter, events): (Filter, &mut usize),
) -> Result<Option<Value>, Failure> {
    let journal = shared.intake.journal().as_ref();
    let (state, changed_at) = shared.jigx.of(journal, notification, events).await?;
    let place = (organization, shared.settings.region.as_str());
    let item = || shown(notification, place, (state.as_str(), changed_at));
    Ok(filter.shows(state).then(item))
}

/// The notification a path names, with its shown form; 404 if it was removed.
async fn named(
    shared: &Shared,
    organization: &Organization,
    text: &str,
) -> Result<(Notification, Value), Failure> {
    let unknown = || Failure::new(FailureClass::NotFound, "no such notification");
    let id = NotificationId(uuid_of(text).ok_or_else(unknown)?);
    let after = id.0.as_u128().checked_add(1).ok_or_else(unknown)?;
    let before = NotificationId(Uuid::from_u128(after));
    let roots = listed(shared, organization.id, Some(before), 1).await?;
    let root = roots.first().filter(|root| root.notification == id).ok_or_else(unknown)?;
    if !shared.store.hidden(organization.id, vec![id]).await?.is_empty() {
        return Err(unknown());
    }
    let notification = notification_of(root).ok_or_else(unknown)?;
    let item = visible(shared, organization, &notification, (Filter::All, &mut 0)).await?;
    let item = item.ok_or_else(unknown)?;
    Ok((notification, item))
}

/// `GET …/organizations/{org}/notifications/{notification}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    who.require_send().await?;
    let (_, item) = named(&shared, &organization, params.get("notification")).await?;
    Ok(Answered::Other(reply::json(200, item.to_string())))
}

/// `DELETE …/organizations/{org}/notifications/{notification}`
pub(super) async fn delete(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    who.require_send().await?;
    let (notification, _) = named(&shared, &organization, params.get("notification")).await?;
    let is_canceled = shared.intake.cancel(&notification).await?;
    let mut begun = Begun::unkeyed();
    let head = Head::of(request);
    let action = if is_canceled { "notification.cancel" } else { "notification.remove" };
    let (org, id) = (organization.id, notification.id);
    let kept = u64::try_from(shared.settings.retention.as_millis()).unwrap_or(u64::MAX);
    let now = shared.intake.now();
    let forget_before = Millis(now.0.saturating_sub(kept.saturating_add(TIMERS_MS)));
    let hide = InboxChange::Hide { org, notification: id, forget_before };
    let change = RecordChange {
        org,
        changes: vec![Change::Inbox(hide)],
        audit: shared.note(&head, &who.caller, org, action, format!("notification:{id}")),
        notifications: Vec::new(),
    };
    match shared.change(&mut begun, change, Answer::plain(204, "")).await {
        Ok(Some(answered)) => Ok(answered),
        // Somebody else removed it a moment ago.
        Err(failure) if failure.class == FailureClass::Exists => {
            Err(Failure::new(FailureClass::NotFound, "no such notification"))
        }
        Err(failure) => Err(failure),
        Ok(None) => Err(Failure::new(FailureClass::Overloaded, "ask again")),
    }
}
