//! Reads of users: oneself, one by its id, lists and searches.

use super::actor::{Actor, forbidden, not_found};
use super::wire::{Page, UserShown};
use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::{Answered, reply};
use crate::auth::Permission;
use crate::model::{Millis, UserId};
use crate::store::{OrganizationRef, SortBy, UserPage, UserSearch};

const QUERY_MAX: usize = 255;
const SIZE_MAX: usize = 1000;
const SIZE: usize = 50;

/// What users may be sorted by: the product's names, then those of the fields.
const SORTS: [(&str, SortBy); 21] = [
    ("User Id", SortBy::Id),
    ("Name", SortBy::Name),
    ("Email", SortBy::Email),
    ("Status", SortBy::Status),
    ("Role", SortBy::Role),
    ("Organization Name", SortBy::OrganizationName),
    ("Devices Count", SortBy::DevicesCount),
    ("Country", SortBy::Country),
    ("Registered At", SortBy::RegisteredAt),
    ("Phone Number", SortBy::Phone),
    ("id", SortBy::Id),
    ("name", SortBy::Name),
    ("email", SortBy::Email),
    ("status", SortBy::Status),
    ("role", SortBy::Role),
    ("roleId", SortBy::Role),
    ("orgName", SortBy::OrganizationName),
    ("devicesCount", SortBy::DevicesCount),
    ("country", SortBy::Country),
    ("registeredAt", SortBy::RegisteredAt),
    ("phoneNumber", SortBy::Phone),
];

/// A stretch of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) size: usize,
}

impl Stretch {
    pub(super) fn read(query: &Query, faults: &mut Faults) -> Self {
        let page = query.integer("page", 0..=i32::MAX, faults).unwrap_or_default();
        let max = i32::try_from(SIZE_MAX).unwrap_or(i32::MAX);
        let size = query.integer("size", 1..=max, faults);
        let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(SIZE);
        let page = u64::try_from(page).unwrap_or_default();
        Self { offset: page.saturating_mul(size as u64), size }
    }
}

/// True for `DESC`.
pub(super) fn is_descending(query: &Query, faults: &mut Faults) -> bool {
    query.choice("sortOrder", &[("ASC", false), ("DESC", true)], faults).unwrap_or_default()
}

/// The text searched for; an empty one is in everything.
pub(super) fn searched<'a>(query: &'a Query, faults: &mut Faults) -> &'a str {
    if query.get("query").is_none() {
        faults.add("query", "is required");
    }
    query.text("query", QUERY_MAX, faults).unwrap_or_default()
}

/// `GET …/user/profile`
pub(super) async fn profile(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    let (Some(user), Some(role)) = (actor.user(), actor.role()) else {
        return Err(forbidden("This endpoint requires user-scoped authentication"));
    };
    let organization = shared.store.organization(OrganizationRef::Id(user.org)).await?;
    let organization = organization.ok_or_else(|| not_found("the organization is gone"))?;
    let shown = UserShown::profile(user, role, &organization, shared.intake.now());
    Ok(Answered::Other(reply::json(200, shown.body())))
}

/// `GET …/user`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserView]).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let id = query.required_integer("userId", i64::MIN..=i64::MAX, &mut faults);
    faults.into_result()?;
    let user = shared.reached_user(&actor, UserId(id.unwrap_or_default())).await?;
    let body = UserShown::of(&user, shared.intake.now()).body();
    Ok(Answered::Other(reply::json(200, body)))
}

/// `GET …/users`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserView]).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let below = query.boolean("includeSubOrgUsers", &mut faults).unwrap_or_default();
    let Stretch { offset, size } = Stretch::read(&query, &mut faults);
    faults.into_result()?;
    let page = shared.store.users(actor.org(), below, offset, size).await?;
    Ok(shown(&page, shared.intake.now()))
}

/// `GET …/search/users`
pub(super) async fn search(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserView]).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let text = searched(&query, &mut faults).to_owned();
    let sort = query.choice("sortBy", &SORTS, &mut faults).unwrap_or_default();
    let descending = is_descending(&query, &mut faults);
    let Stretch { offset, size: limit } = Stretch::read(&query, &mut faults);
    faults.into_result()?;
    let search = UserSearch { text, sort, descending, offset, limit };
    let page = shared.store.search_users(actor.org(), search).await?;
    Ok(shown(&page, shared.intake.now()))
}

fn shown(page: &UserPage, now: Millis) -> Answered {
    let content = page.users.iter().map(|user| UserShown::of(user, now)).collect();
    let body = Page { content, total_elements: page.total }.body();
    Answered::Other(reply::json(200, body))
}
