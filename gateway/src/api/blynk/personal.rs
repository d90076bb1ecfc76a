//! Personal organizations: one for each person created or registered, below one place per caller.

use super::actor::{Actor, refused};
use crate::api::Shared;
use crate::api::failure::Failure;
use crate::model::{Organization, OrganizationId, OrganizationKind, OrganizationProfile, Units};
use crate::store::directory::{built_in_roles, names};
use crate::store::{Change, OrganizationRef};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;

/// Below which personal organizations lie.
const PLACE_NAME: &str = "Clients organizations";
/// Namesakes whose slug is a number further; more of them get one by chance.
const NUMBERED_SLUGS: u32 = 20;
/// Longest walk up the tree.
const LEVELS_MAX: u32 = 64;

/// What a new organization is to be.
#[derive(Debug)]
pub(super) struct NewOrganization {
    pub(super) name: String,
    pub(super) parent: OrganizationId,
    pub(super) tz: String,
    pub(super) profile: OrganizationProfile,
}

/// A personal organization in the making.
#[derive(Debug)]
pub(super) struct Personal {
    pub(super) organization: Organization,
    /// Makes it, its roles, and the place it lies in if that is new.
    pub(super) changes: Vec<Change>,
}

impl Shared {
    /// A personal organization called `name` below the actor's own. Two at once may both want to
    /// make the place: its uuid follows from its parent, so that the records let one of them.
    pub(super) async fn personal(
        &self,
        actor: &Actor,
        (name, tz): (String, Option<&str>),
        is_again: bool,
    ) -> Result<Personal, Failure> {
        let own = self.store.organization(OrganizationRef::Id(actor.org())).await?;
        let own = own.ok_or_else(|| refused("The organization of the token is gone."))?;
        // Personal organizations may lie deeper than others, but not below each other for ever.
        self.check_level(own.id, 0).await?;
        let mut changes = Vec::new();
        let place = match self.store.organization(OrganizationRef::Uuid(place_uuid(own.id))).await?
        {
            Some(place) => place.id,
            None => self.make_place(&own, &mut changes, is_again).await?,
        };
        let kind = OrganizationKind::Personal;
        let units = own.profile.units;
        let tz = tz.map_or_else(|| own.tz.clone(), str::to_owned);
        let new = NewOrganization { name, parent: place, tz, profile: profile(kind, units) };
        let organization = self.mint_organization(new, is_again).await?;
        changes.extend(making(&organization));
        Ok(Personal { organization, changes })
    }

    async fn make_place(
        &self,
        own: &Arc<Organization>,
        changes: &mut Vec<Change>,
        is_again: bool,
    ) -> Result<OrganizationId, Failure> {
        let new = NewOrganization {
            name: PLACE_NAME.to_owned(),
            parent: own.id,
            tz: own.tz.clone(),
            profile: profile(OrganizationKind::Business, own.profile.units),
        };
        let minted = self.mint_organization(new, is_again).await?;
        let place = Organization { uuid: place_uuid(own.id), ..minted };
        let id = place.id;
        changes.extend(making(&place));
        Ok(id)
    }

    /// An organization with a name of its own in every dialect. `is_again` after a name was taken
    /// meanwhile: then chance decides, so that many namesakes at once do not wait for each other.
    pub(super) async fn mint_organization(
        &self,
        new: NewOrganization,
        is_again: bool,
    ) -> Result<Organization, Failure> {
        let now = self.intake.now();
        let slug = self.free_slug(&new.name, is_again).await?;
        Ok(Organization {
            id: self.store.next_organization(),
            uuid: Uuid::new_v4(),
            object_id: names::new_object_id(),
            slug,
            numeric: names::new_numeric(),
            name: new.name,
            parent: Some(new.parent),
            tz: new.tz,
            created_at: now,
            profile: new.profile,
        })
    }

    async fn free_slug(&self, name: &str, is_again: bool) -> Result<String, Failure> {
        let base = names::slug_from(name);
        let numbered = if is_again { 0 } else { NUMBERED_SLUGS };
        for count in 1..=numbered {
            let slug = names::slug_attempt(&base, count);
            if self.store.organization(OrganizationRef::Slug(slug.clone())).await?.is_none() {
                return Ok(slug);
            }
        }
        Ok(format!("{base}-{:08x}", rand::random::<u32>()))
    }

    /// Refuses an organization `below` levels below `org` if the tree got too deep.
    pub(super) async fn check_level(&self, org: OrganizationId, below: u32) -> Result<(), Failure> {
        let (mut level, mut current) = (0, Some(org));
        while let Some(id) = current.filter(|_| level < LEVELS_MAX) {
            let found = self.store.organization(OrganizationRef::Id(id)).await?;
            current = found.and_then(|organization| organization.parent);
            level += 1;
        }
        let max = self.blynk.settings.organization_levels;
        if level + below <= max {
            return Ok(());
        }
        Err(refused(format!("The organization hierarchy has at most {max} levels.")))
    }
}

/// Makes an organization with the roles every one has.
pub(super) fn making(organization: &Organization) -> Vec<Change> {
    let roles = built_in_roles(organization.id).map(Change::PutRole);
    let mut changes = vec![Change::PutOrganization(organization.clone())];
    changes.extend(roles);
    changes
}

fn profile(kind: OrganizationKind, units: Units) -> OrganizationProfile {
    OrganizationProfile { kind, units, ..OrganizationProfile::default() }
}

/// The uuid of the place for the personal organizations below `org`.
fn place_uuid(org: OrganizationId) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"bugler.clients-organizations.v1");
    hash.update(org.0.to_be_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What a personal organization is called if nobody chose a name.
pub(super) fn default_name(name: &str, email: &str) -> String {
    let local = email.split('@').next().unwrap_or_default();
    let name = if name.trim().is_empty() { local } else { name };
    format!("{name}'s organization")
}
