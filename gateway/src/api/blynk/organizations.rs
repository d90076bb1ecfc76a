//! Organizations of the caller's tree: its own, one by its id, those below, searches, new ones.

use super::actor::{Actor, NO_ORGANIZATION, not_found, refused};
use super::fields;
use super::lists::{Stretch, is_descending, searched};
use super::personal::{NewOrganization, making};
use super::users::retry;
use super::wire::{KINDS, OrganizationShown, Page};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::shared::Turn;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared, json, reply};
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{
    Audience, Organization, OrganizationId, OrganizationKind, OrganizationProfile, Units,
};
use crate::store::{Change, Expectation, OrganizationRef, StoreError};
use std::sync::Arc;

const VIEW: &str = "ORG_VIEW";
const CREATE: &str = "ORG_CREATE";
const DESCRIPTION_MAX: usize = 1000;
/// Organizations one search looks at.
const SEARCHED_MAX: usize = 20_000;
/// Users whose devices one search counts, to sort organizations by them.
const COUNTED_USERS_MAX: usize = 10_000;
const NO_PARENT: &str = "Parent organization is not found or you don't have access to it.";

/// What organizations may be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Id,
    Name,
    Devices,
    Users,
    Children,
}

const SORTS: [(&str, Sort); 7] = [
    ("Organization Id", Sort::Id),
    ("Name", Sort::Name),
    ("Device Count", Sort::Devices),
    ("User Count", Sort::Users),
    ("Sub Organizations", Sort::Children),
    ("id", Sort::Id),
    ("name", Sort::Name),
];

/// `GET …/organization/profile`
pub(super) async fn profile(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    let own = shared.reached_organization(&actor, actor.org(), NO_ORGANIZATION).await?;
    Ok(Answered::Other(reply::json(200, OrganizationShown::of(&own).body())))
}

/// `GET …/organization`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require_named(VIEW).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let id = query.required_integer("orgId", i32::MIN..=i32::MAX, &mut faults);
    faults.into_result()?;
    let id = OrganizationId(id.unwrap_or_default());
    let found = shared.reached_organization(&actor, id, NO_ORGANIZATION).await?;
    Ok(Answered::Other(reply::json(200, OrganizationShown::of(&found).body())))
}

/// `GET …/organization/sub-organizations`: those directly below.
pub(super) async fn children(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require_named(VIEW).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let id = query.integer("orgId", i32::MIN..=i32::MAX, &mut faults);
    let stretch = Stretch::read(&query, &mut faults);
    faults.into_result()?;
    let id = id.map_or(actor.org(), OrganizationId);
    shared.reached_organization(&actor, id, NO_ORGANIZATION).await?;
    let below = shared.store.children(id, stretch.offset, stretch.size).await?;
    Ok(shown(below.iter(), shared.store.count_children(id).await?))
}

/// `GET …/organization/search`
pub(super) async fn search(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require_named(VIEW).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    let text = searched(&query, &mut faults).to_lowercase();
    let sort = query.choice("sortBy", &SORTS, &mut faults).unwrap_or(Sort::Id);
    let descending = is_descending(&query, &mut faults);
    let stretch = Stretch::read(&query, &mut faults);
    faults.into_result()?;
    let (mut found, mut countable) = (Vec::new(), COUNTED_USERS_MAX);
    for id in shared.store.subtree(actor.org()).await?.into_iter().take(SEARCHED_MAX) {
        let organization = shared.store.organization(OrganizationRef::Id(id)).await?;
        let matches = |one: &Arc<Organization>| one.name.to_lowercase().contains(&text);
        if let Some(organization) = organization.filter(matches) {
            let key = shared.sort_key(&organization, sort, &mut countable).await?;
            found.push((key, organization));
        }
    }
    found.sort_by(|(a, one), (b, other)| a.cmp(b).then(one.id.cmp(&other.id)));
    if descending {
        found.reverse();
    }
    let offset = usize::try_from(stretch.offset).unwrap_or(usize::MAX);
    let page = found.iter().skip(offset).take(stretch.size).map(|(_, organization)| organization);
    Ok(shown(page, u64::try_from(found.len()).unwrap_or(u64::MAX)))
}

fn shown<'a>(page: impl Iterator<Item = &'a Arc<Organization>>, total_elements: u64) -> Answered {
    let content = page.map(|one| OrganizationShown::of(one)).collect();
    let page = Page { content, total_elements };
    Answered::Other(reply::json(200, page.body()))
}

/// Body of `organization/create`.
#[derive(Debug)]
struct Create {
    name: String,
    kind: OrganizationKind,
    description: Option<String>,
    tz: Option<String>,
    parent: Option<OrganizationId>,
    phone: Option<String>,
    address: Option<crate::model::Address>,
    units: Option<Units>,
}

impl Create {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let name = fields::any_organization_name(&fields, &mut faults);
        let kind = word(&fields, "type", &KINDS, &mut faults);
        if fields.get("type").is_none() {
            faults.add("type", "is required");
        }
        let description = fields.text("description", DESCRIPTION_MAX, &mut faults);
        let units = [("IMPERIAL", Units::Imperial), ("METRIC", Units::Metric)];
        let units = word(&fields, "unitSystem", &units, &mut faults);
        let new = Self {
            name,
            kind: kind.unwrap_or_default(),
            description: description.map(str::to_owned),
            tz: fields::tz(&fields, &mut faults),
            parent: fields.integer("parentId", &mut faults).map(OrganizationId),
            phone: fields::phone(&fields, &mut faults),
            address: fields::address(&fields, &mut faults),
            units,
        };
        faults.into_result()?;
        Ok(new)
    }
}

/// One of `words`, in exactly their spelling.
fn word<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    words: &[(&str, T)],
    faults: &mut Faults,
) -> Option<T> {
    let value = fields.get(name)?;
    let found = words.iter().find(|(word, _)| value.as_str() == Some(*word)).map(|(_, is)| *is);
    if found.is_none() {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        faults.add(name, format!("must be one of {}", known.join(", ")));
    }
    found
}

/// `POST …/organization/create`
pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require_named(CREATE).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = Create::parse(&body)?;
    let parent = new.parent.unwrap_or(actor.org());
    let parent = shared.reached_organization(&actor, parent, NO_PARENT).await?;
    let mut begun = match shared.turn(head.key(actor.org(), &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    shared.check_level(parent.id, 1).await?;
    let mut is_again = false;
    loop {
        let organization = shared.mint_organization(new.below(&parent), is_again).await?;
        let object = format!("organization:{}", organization.id);
        let audit = shared.note(&head, &actor.caller, actor.org(), "organization.create", object);
        let answer = Answer::plain(201, OrganizationShown::of(&organization).body());
        let mut changes = match shared.blynk.settings.sub_organizations {
            0 => Vec::new(),
            max => vec![Change::Expect(Expectation::Children(parent.id, max))],
        };
        changes.extend(making(&organization));
        let (org, notifications) = (actor.org(), Vec::new());
        let change = RecordChange { org, changes, audit, notifications };
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => return Ok(answered),
            Err(ChangeError::Store(StoreError::Unmet { what: "too_many_organizations" })) => {
                return Err(refused(
                    "The organization has reached its limit of sub-organizations.",
                ));
            }
            Err(ChangeError::Store(StoreError::Missing { .. })) => {
                return Err(not_found(NO_PARENT));
            }
            Err(error) => retry(&mut begun, error)?,
        }
        is_again = true;
    }
}

impl Create {
    fn below(&self, parent: &Organization) -> NewOrganization {
        NewOrganization {
            name: self.name.clone(),
            parent: parent.id,
            tz: self.tz.clone().unwrap_or_else(|| parent.tz.clone()),
            profile: OrganizationProfile {
                kind: self.kind,
                description: self.description.clone(),
                phone: self.phone.clone(),
                address: self.address.clone(),
                units: self.units.unwrap_or(parent.profile.units),
                ..OrganizationProfile::default()
            },
        }
    }
}

/// What is compared when organizations are sorted.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(u64),
    Text(String),
}

impl Shared {
    /// `countable` users may still be looked at for their devices.
    async fn sort_key(
        &self,
        organization: &Organization,
        sort: Sort,
        countable: &mut usize,
    ) -> Result<SortKey, Failure> {
        let id = organization.id;
        Ok(match sort {
            // Ties are broken by id.
            Sort::Id => SortKey::Number(0),
            Sort::Name => SortKey::Text(organization.name.to_lowercase()),
            Sort::Users => SortKey::Number(self.store.count_users(id).await?),
            Sort::Children => SortKey::Number(self.store.count_children(id).await?),
            Sort::Devices if *countable == 0 => SortKey::Number(0),
            Sort::Devices => {
                let all = Audience::Organization;
                let page = self.store.recipients(id, &all, None, *countable).await?;
                *countable = countable.saturating_sub(page.recipients.len());
                let devices = page.recipients.iter().map(|recipient| recipient.devices.len());
                SortKey::Number(u64::try_from(devices.sum::<usize>()).unwrap_or(u64::MAX))
            }
        })
    }
}
