//! Members of solutions: who is in one, with which role, in which groups.

use super::enter;
use super::page::{Token, Wanted, list as page};
use super::who::{Who, member, uuid_of};
use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::shared::Begun;
use crate::api::signed::WHOLE_ORGANIZATION;
use crate::api::{Answered, json, reply};
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{MemberRole, Membership, User};
use crate::store::{Change, Expectation, StoreError, UserRef};
use serde_json::{Value, json};
use std::collections::HashSet;
use uuid::Uuid;

/// Groups of one member or one notification, and characters of each.
pub(super) const GROUPS_MAX: usize = 100;
pub(super) const GROUP_MAX: usize = 100;
const ROLES: [(&str, MemberRole); 5] = [
    ("OWNER", MemberRole::Owner),
    ("ADMIN", MemberRole::Admin),
    ("MAKER", MemberRole::Maker),
    ("USER", MemberRole::User),
    ("DENY", MemberRole::Deny),
];

/// The word of a role.
pub(super) fn word(role: MemberRole) -> &'static str {
    ROLES.into_iter().find(|(_, known)| *known == role).map_or("USER", |(word, _)| word)
}

/// The role in the member `userRole`, if it is there.
pub(super) fn role(fields: &Fields<'_>, faults: &mut Faults) -> Option<MemberRole> {
    let named = fields.get("userRole")?.as_str();
    let found = ROLES.into_iter().find(|(word, _)| Some(*word) == named);
    if found.is_none() {
        faults.add("userRole", "must be OWNER, ADMIN, MAKER, USER or DENY");
    }
    found.map(|(_, role)| role)
}

/// A member as lists and changes show it.
pub(super) fn shown(user: &User, role: MemberRole, groups: &[String]) -> Value {
    json!({
        "userId": user.uuid.to_string(),
        "email": user.email,
        "name": user.name,
        "userRole": word(role),
        "groups": groups,
    })
}

fn solution(text: &str) -> Result<Uuid, Failure> {
    let found = uuid_of(text).filter(|id| *id != WHOLE_ORGANIZATION);
    found.ok_or_else(|| Failure::new(FailureClass::NotFound, "no such solution"))
}

/// `GET …/solutions/{solution}/members`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    let solution = solution(params.get("solution"))?;
    who.require_view(&shared, organization.id, solution).await?;
    let query = Query::of_uri(&request.uri)?;
    let wanted = Wanted::parse(&query, |token| matches!(token, Token::Members(_)))?;
    let after = match wanted.token {
        Some(Token::Members(after)) => Some(after),
        _ => None,
    };
    let more = wanted.limit + 1;
    let mut members = shared.store.members(organization.id, solution, after, more).await?;
    let has_next = members.len() > wanted.limit;
    members.truncate(wanted.limit);
    let next = members.last().filter(|_| has_next).map(|last| Token::Members(last.user));
    let mut items = Vec::with_capacity(members.len());
    for Membership { user, role, groups, .. } in members {
        let user = shared.store.user(UserRef::Id(user)).await?;
        // A membership outlives its user's move to another organization.
        let user = user.filter(|user| user.org == organization.id);
        items.extend(user.map(|user| shown(&user, role, &groups)));
    }
    Ok(Answered::Other(reply::json(200, page(items, next, None))))
}

/// `PUT …/solutions/{solution}/members/{user}`: the whole membership.
pub(super) async fn put(call: Call) -> Result<Answered, Failure> {
    change(call, false).await
}

/// `PATCH …/solutions/{solution}/members/{user}`: without `groups` they stay as they are.
pub(super) async fn patch(call: Call) -> Result<Answered, Failure> {
    change(call, true).await
}

struct Wish {
    role: MemberRole,
    groups: Option<Vec<String>>,
}

fn wish(body: &[u8]) -> Result<Wish, Failure> {
    let body = json::body(body)?;
    let fields = Fields::of_body(&body)?;
    let mut faults = Faults::default();
    fields.only(&["userRole", "groups"], &mut faults);
    if fields.get("userRole").is_none() {
        faults.add("userRole", "is required");
    }
    let role = role(&fields, &mut faults);
    let groups = fields
        .get("groups")
        .and_then(|_| fields.texts("groups", GROUPS_MAX, GROUP_MAX, &mut faults));
    faults.into_result()?;
    let mut seen = HashSet::new();
    let groups = groups.map(|groups| {
        let once = groups.into_iter().filter(|group| seen.insert(*group));
        once.map(str::to_owned).collect()
    });
    Ok(Wish { role: role.unwrap_or_default(), groups })
}

async fn change(call: Call, keeps_groups: bool) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    let (org, solution) = (organization.id, solution(params.get("solution"))?);
    let own_role = who.require_manage(&shared, org, solution).await?;
    let user = member(&shared, org, params.get("user")).await?;
    let (head, body) = shared.json_body(request).await?;
    let Wish { role, groups } = wish(&body)?;
    let mut begun = Begun::unkeyed();
    loop {
        let held = shared.store.membership(org, solution, user.id).await?;
        may_change(&who, own_role, &user, (held.as_ref(), role))?;
        let kept = held.as_ref().filter(|_| keeps_groups).map(|held| held.groups.clone());
        let groups = groups.clone().or(kept).unwrap_or_default();
        let answer = Answer::plain(200, shown(&user, role, &groups).to_string());
        let object = format!("membership:{solution}:{}", user.id);
        let membership = Membership { solution, user: user.id, groups, role };
        let change = RecordChange {
            org,
            changes: vec![
                Change::Expect(Expectation::Membership(org, solution, user.id, held)),
                Change::PutMembership(org, membership),
            ],
            audit: shared.note(&head, &who.caller, org, "membership.set", object),
            notifications: Vec::new(),
        };
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => return Ok(answered),
            // The user moved to another organization meanwhile.
            Err(ChangeError::Store(StoreError::Missing { .. })) => {
                return Err(Failure::new(FailureClass::NotFound, "no such member"));
            }
            Err(ChangeError::Store(StoreError::Unmet { .. })) if begun.again() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses what the caller, with `own_role` here, may not make of a member: of `held` that `role`.
fn may_change(
    who: &Who,
    own_role: MemberRole,
    user: &User,
    (held, role): (Option<&Membership>, MemberRole),
) -> Result<(), Failure> {
    let gives = |role: MemberRole| who.gives(role, own_role);
    let held = held.map(|held| held.role);
    if !gives(role) || !held.is_none_or(gives) {
        let text = "nobody gives or takes a role above its own";
        return Err(Failure::new(FailureClass::Forbidden, text));
    }
    let is_own = who.user().is_some_and(|own| own.id == user.id);
    if is_own && held.is_some_and(|held| held != role) {
        return Err(Failure::new(FailureClass::Forbidden, "nobody changes its own role"));
    }
    Ok(())
}
