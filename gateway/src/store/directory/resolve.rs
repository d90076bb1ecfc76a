//! The document against the store: what is new, what changes, what cannot be.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::document::{
    ClientEntry, Document, EndpointEntry, MembershipEntry, OrganizationEntry, RoleEntry,
    SubscriptionEntry, UserEntry,
};
use super::{DirectoryError, Problem, Problems, built_in_roles, names};
use crate::model::{
    AccountState, Audience, Client, Device, DeviceId, Endpoint, MemberRole, Membership, Millis,
    Organization, OrganizationId, RetiredSecret, Role, RoleId, Sealed, Secret, SecretHash,
    Subscription, SubscriptionId, TargetPolicy, User, UserStatus,
};
use crate::store::{Change, OrganizationRef, Store, StoreError, UserRef};
use crate::vault::Owner;

const DEFAULT_TZ: &str = "UTC";
const DEFAULT_ROLE: RoleId = RoleId(3);
/// How long a webhook's old secret signs beside the new one (a day, as Standard Webhooks advises).
const SECRET_OVERLAP_MS: u64 = 24 * 3_600_000;

pub(super) async fn changes(
    document: Document,
    store: &dyn Store,
    now: Millis,
) -> Result<Vec<Change>, DirectoryError> {
    let mut import = Import {
        store,
        now,
        organizations: document.organizations.iter().map(|entry| entry.id).collect(),
        roles: document.roles.iter().map(|entry| (entry.org, entry.id)).collect(),
        slugs: document.organizations.iter().filter_map(|entry| entry.slug.clone()).collect(),
        subscriptions: HashSet::new(),
        changes: Vec::new(),
        problems: Vec::new(),
    };
    import.organizations(document.organizations).await?;
    for entry in document.roles {
        import.role(entry).await?;
    }
    for entry in document.users {
        import.user(entry).await?;
    }
    for entry in document.subscriptions {
        import.subscription(entry).await?;
    }
    for entry in document.clients {
        import.client(entry).await?;
    }
    if import.problems.is_empty() {
        Ok(import.changes)
    } else {
        Err(DirectoryError::Invalid(Problems(import.problems)))
    }
}

struct Import<'a> {
    store: &'a dyn Store,
    now: Millis,
    /// Named in the document; together with the store's they are what entries may refer to.
    organizations: HashSet<OrganizationId>,
    roles: HashSet<(OrganizationId, RoleId)>,
    /// Taken by this document, given or minted.
    slugs: HashSet<String>,
    subscriptions: HashSet<SubscriptionId>,
    changes: Vec<Change>,
    problems: Vec<Problem>,
}

impl Import<'_> {
    /// Parents before children, as the store wants them.
    async fn organizations(&mut self, entries: Vec<OrganizationEntry>) -> Result<(), StoreError> {
        let mut waiting: HashSet<OrganizationId> = entries.iter().map(|entry| entry.id).collect();
        let mut entries = entries;
        while !entries.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .partition(|entry| entry.parent.is_none_or(|parent| !waiting.contains(&parent)));
            if ready.is_empty() {
                for entry in &rest {
                    self.wrong(&entry.path, "parent", "is below this organization itself");
                }
                return Ok(());
            }
            for entry in ready {
                waiting.remove(&entry.id);
                self.organization(entry).await?;
            }
            entries = rest;
        }
        Ok(())
    }

    async fn organization(&mut self, entry: OrganizationEntry) -> Result<(), StoreError> {
        if let Some(parent) = entry.parent {
            self.require_organization(parent, &entry.path, "parent").await?;
        }
        self.require_free_names(&entry).await?;
        let old = self.store.organization(OrganizationRef::Id(entry.id)).await?;
        let slug = match (entry.slug, &old) {
            (Some(slug), _) => slug,
            (None, Some(old)) => old.slug.clone(),
            (None, None) => self.free_slug(&entry.name).await?,
        };
        let kept = old.as_ref();
        let new = Organization {
            id: entry.id,
            uuid: entry.uuid.or(kept.map(|old| old.uuid)).unwrap_or_else(Uuid::new_v4),
            object_id: entry
                .object_id
                .or(kept.map(|old| old.object_id))
                .unwrap_or_else(names::new_object_id),
            slug,
            numeric: entry
                .numeric
                .or(kept.map(|old| old.numeric.clone()))
                .unwrap_or_else(names::new_numeric),
            name: entry.name,
            parent: entry.parent.or(kept.and_then(|old| old.parent)),
            tz: entry
                .tz
                .or(kept.map(|old| old.tz.clone()))
                .unwrap_or_else(|| String::from(DEFAULT_TZ)),
            created_at: kept.map_or(self.now, |old| old.created_at),
            profile: kept.map(|old| old.profile.clone()).unwrap_or_default(),
        };
        if old.as_deref() != Some(&new) {
            self.changes.push(Change::PutOrganization(new));
        }
        for role in built_in_roles(entry.id) {
            let named = self.roles.contains(&(role.org, role.id));
            if !named && self.store.role(role.org, role.id).await?.is_none() {
                self.changes.push(Change::PutRole(role));
            }
        }
        Ok(())
    }

    async fn require_free_names(&mut self, entry: &OrganizationEntry) -> Result<(), StoreError> {
        let names = [
            ("uuid", entry.uuid.map(OrganizationRef::Uuid)),
            ("objectId", entry.object_id.map(OrganizationRef::ObjectId)),
            ("slug", entry.slug.clone().map(OrganizationRef::Slug)),
            ("numeric", entry.numeric.clone().map(OrganizationRef::Numeric)),
        ];
        for (field, name) in names {
            let Some(name) = name else { continue };
            let owner = self.store.organization(name).await?.map(|owner| owner.id);
            if let Some(owner) = owner.filter(|owner| *owner != entry.id) {
                self.wrong(&entry.path, field, &format!("already names organization {owner}"));
            }
        }
        Ok(())
    }

    async fn free_slug(&mut self, name: &str) -> Result<String, StoreError> {
        let base = names::slug_from(name);
        let mut count = 1;
        loop {
            let slug = names::slug_attempt(&base, count);
            let stored = OrganizationRef::Slug(slug.clone());
            if !self.slugs.contains(&slug) && self.store.organization(stored).await?.is_none() {
                self.slugs.insert(slug.clone());
                return Ok(slug);
            }
            count += 1;
        }
    }

    async fn role(&mut self, entry: RoleEntry) -> Result<(), StoreError> {
        self.require_organization(entry.org, &entry.path, "organization").await?;
        let RoleEntry { id, org, name, permissions, .. } = entry;
        let new = Role { id, org, name, permissions };
        if self.store.role(org, id).await?.as_deref() != Some(&new) {
            self.changes.push(Change::PutRole(new));
        }
        Ok(())
    }

    async fn user(&mut self, entry: UserEntry) -> Result<(), StoreError> {
        self.require_organization(entry.org, &entry.path, "organization").await?;
        let names = [
            ("email", Some(UserRef::Email(entry.email.clone()))),
            ("uuid", entry.uuid.map(UserRef::Uuid)),
        ];
        for (field, name) in names {
            let Some(name) = name else { continue };
            let owner = self.store.user(name).await?.map(|owner| owner.id);
            if let Some(owner) = owner.filter(|owner| *owner != entry.id) {
                self.wrong(&entry.path, field, &format!("already belongs to user {owner}"));
            }
        }
        let old = self.store.user(UserRef::Id(entry.id)).await?;
        let kept = old.as_ref();
        let password = self.new_password(&entry).await?;
        let role = entry.role.or(kept.map(|old| old.role)).unwrap_or(DEFAULT_ROLE);
        self.require_role(entry.org, role, &entry.path).await?;
        let new = User {
            id: entry.id,
            uuid: entry.uuid.or(kept.map(|old| old.uuid)).unwrap_or_else(Uuid::new_v4),
            org: entry.org,
            email: entry.email,
            name: entry.name,
            role,
            status: entry.status.or(kept.map(|old| old.status)).unwrap_or(UserStatus::Active),
            tz: entry.tz.or(kept.and_then(|old| old.tz.clone())),
            locale: entry.locale.or(kept.and_then(|old| old.locale.clone())),
            prefs: entry.prefs.or(kept.map(|old| old.prefs.clone())).unwrap_or_default(),
            created_at: kept.map_or(self.now, |old| old.created_at),
            profile: kept.map(|old| old.profile.clone()).unwrap_or_default(),
            account: kept.map(|old| account(old, password.is_some())).unwrap_or_default(),
        };
        let devices = match kept {
            Some(old) => self.devices_of(old).await?,
            None => HashMap::new(),
        };
        if old.as_ref() != Some(&new) {
            self.changes.push(Change::PutUser(new));
        }
        self.changes.extend(password.map(|hash| Change::PutPassword(entry.id, hash)));
        for device in entry.devices {
            let id = names::device_id(entry.id, device.platform, &device.token);
            let known = devices.get(&id);
            if known.is_none_or(|known| known.app != device.app) {
                let (platform, app) = (device.platform, device.app);
                let token = Secret::new(device.token);
                let registered_at = known.map_or(self.now, |known| known.registered_at);
                let user = entry.id;
                let device = Device { id, user, platform, app, token, registered_at };
                self.changes.push(Change::PutDevice(device));
            }
        }
        // The seam cannot read one membership, so it is written again: the same, if unchanged.
        for MembershipEntry { solution, groups } in entry.memberships {
            let role = MemberRole::default();
            let membership = Membership { solution, user: entry.id, groups, role };
            self.changes.push(Change::PutMembership(entry.org, membership));
        }
        Ok(())
    }

    /// The password hash of an entry, unless the store has it already.
    async fn new_password(&self, entry: &UserEntry) -> Result<Option<Secret>, StoreError> {
        let Some(hash) = &entry.password_hash else { return Ok(None) };
        let stored = self.store.password(entry.id).await?;
        Ok(Some(hash.clone()).filter(|_| stored.as_ref() != Some(hash)))
    }

    async fn devices_of(&self, user: &User) -> Result<HashMap<DeviceId, Device>, StoreError> {
        let one = Audience::Users(vec![user.id]);
        let page = self.store.recipients(user.org, &one, None, 1).await?;
        let devices = page.recipients.into_iter().flat_map(|recipient| recipient.devices);
        Ok(devices.map(|device| (device.id, device)).collect())
    }

    async fn subscription(&mut self, entry: SubscriptionEntry) -> Result<(), StoreError> {
        self.require_organization(entry.org, &entry.path, "organization").await?;
        let (kind, url) = match &entry.endpoint {
            EndpointEntry::Slack { url, .. } => ("slack", url),
            EndpointEntry::Webhook { url, .. } => ("webhook", url),
        };
        let id = entry.id.unwrap_or_else(|| names::subscription_id(entry.org, kind, url));
        if !self.subscriptions.insert(id) {
            self.wrong(&entry.path, "url", "is the subscription of an entry above");
        }
        let old = self.store.subscription(entry.org, id).await?;
        let kept = old.as_ref();
        let policy = kept.map(|old| old.policy).unwrap_or_default();
        let policy = TargetPolicy {
            on_unknown: entry.on_unknown.unwrap_or(policy.on_unknown),
            merges_overflow: entry.merges_overflow.unwrap_or(policy.merges_overflow),
            keeps_order: entry.keeps_order.unwrap_or(policy.keeps_order),
        };
        let new = Subscription {
            id,
            org: entry.org,
            description: entry.description.or(kept.and_then(|old| old.description.clone())),
            events: entry.events,
            unwanted: Vec::new(),
            endpoint: self.endpoint(Owner(entry.org, id), entry.endpoint, kept),
            policy,
            enabled: entry.enabled.or(kept.map(|old| old.enabled)).unwrap_or(true),
            created_at: kept.map_or(self.now, |old| old.created_at),
            updated_at: kept.map_or(self.now, |old| old.updated_at),
        };
        if old.as_ref() != Some(&new) {
            let changed = Subscription { updated_at: self.now, ..new };
            self.changes.push(Change::PutSubscription(changed));
        }
        Ok(())
    }

    /// The endpoint as written; what it leaves out stays as it was, a first secret is made. Another
    /// secret retires the one before.
    fn endpoint(&self, owner: Owner, entry: EndpointEntry, old: Option<&Subscription>) -> Endpoint {
        let vault = self.store.vault();
        let is = |sealed: &Sealed, text: &str| {
            vault.open(owner, sealed).is_ok_and(|secret| secret.reveal() == text)
        };
        let seal = |text: String| vault.seal(owner, &Secret::new(text));
        match (entry, old.map(|old| old.endpoint.clone())) {
            (EndpointEntry::Slack { url, team, channel }, old) => {
                let (old_url, old_team, old_channel) = match old {
                    Some(Endpoint::Slack { url, team, channel }) => (Some(url), team, channel),
                    _ => Default::default(),
                };
                let same = old_url.filter(|old| is(old, &url));
                Endpoint::Slack {
                    url: same.unwrap_or_else(|| seal(url)),
                    team: team.unwrap_or(old_team),
                    channel: channel.unwrap_or(old_channel),
                }
            }
            (
                EndpointEntry::Webhook { url, secret },
                Some(Endpoint::Webhook { secret: old, retired, .. }),
            ) => match secret.filter(|text| !is(&old, text)) {
                None => Endpoint::Webhook { url, secret: old, retired },
                Some(text) => {
                    let until = self.now.plus(SECRET_OVERLAP_MS);
                    let retired = Some(RetiredSecret { secret: old, until });
                    Endpoint::Webhook { url, secret: seal(text), retired }
                }
            },
            (EndpointEntry::Webhook { url, secret }, _) => {
                let secret = seal(secret.unwrap_or_else(names::new_secret));
                Endpoint::Webhook { url, secret, retired: None }
            }
        }
    }

    async fn client(&mut self, entry: ClientEntry) -> Result<(), StoreError> {
        self.require_organization(entry.org, &entry.path, "organization").await?;
        let old = self.store.client(&entry.id).await?;
        if let Some(old) = old.as_ref().filter(|old| old.org != entry.org) {
            let problem = format!("is a client of organization {}", old.org);
            self.wrong(&entry.path, "id", &problem);
        }
        let new = Client {
            id: entry.id,
            org: entry.org,
            name: entry.name,
            secret: SecretHash(Sha256::digest(entry.secret.reveal().as_bytes()).into()),
            limited_to: entry.limited_to,
            created_at: old.as_ref().map_or(self.now, |old| old.created_at),
        };
        if old.as_ref() != Some(&new) {
            self.changes.push(Change::PutClient(new));
        }
        Ok(())
    }

    async fn require_organization(
        &mut self,
        org: OrganizationId,
        path: &str,
        field: &str,
    ) -> Result<(), StoreError> {
        let known = self.organizations.contains(&org)
            || self.store.organization(OrganizationRef::Id(org)).await?.is_some();
        if !known {
            let problem = format!("organization {org} is neither in this document nor stored");
            self.wrong(path, field, &problem);
        }
        Ok(())
    }

    async fn require_role(
        &mut self,
        org: OrganizationId,
        role: RoleId,
        path: &str,
    ) -> Result<(), StoreError> {
        let built_in = built_in_roles(org).iter().any(|built_in| built_in.id == role);
        let known = built_in
            || self.roles.contains(&(org, role))
            || self.store.role(org, role).await?.is_some();
        if !known {
            let problem = format!("role {role} is neither in this document nor stored for {org}");
            self.wrong(path, "role", &problem);
        }
        Ok(())
    }

    fn wrong(&mut self, path: &str, field: &str, problem: &str) {
        let (path, problem) = (format!("{path}.{field}"), String::from(problem));
        self.problems.push(Problem { path, problem });
    }
}

/// What a user's account keeps; tokens from before another password end.
fn account(old: &User, has_new_password: bool) -> AccountState {
    let AccountState { epoch, .. } = old.account;
    AccountState { epoch: epoch.wrapping_add(u32::from(has_new_password)), ..old.account }
}
