//! From an audience to recipients with their targets.

use crate::model::{
    Audience, Device, Endpoint, Notification, OrganizationId, Platform, ProviderName, Role, RoleId,
    Subscription, Target, TargetRef, User, UserId, UserStatus,
};
use crate::rules::{RecipientKind, RecipientView, TargetView};
use crate::store::{OrganizationRef, Recipient, RecipientPage, Store, StoreError};
use crate::vault::Vault;
use crate::work::RecipientRef;
use futures_util::future::{try_join, try_join_all, try_join3};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Recipients resolved in one step; a longer audience goes on in a chunk of its own.
pub(super) const PAGE: usize = 256;

/// One recipient and everywhere it can be reached.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) recipient: RecipientRef,
    /// What the rules are asked about; gone once they are, and not there if nobody asks.
    pub(super) view: Option<RecipientView>,
    pub(super) targets: Vec<Target>,
}

/// One page of a notification's recipients.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) recipients: Vec<Expanded>,
    pub(super) unknown: u32,
    pub(super) no_device: u32,
    pub(super) next: Option<UserId>,
}

/// What expansion reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) store: &'a dyn Store,
    /// A relay is configured: users get the notification's mail, if it has one.
    pub(super) can_mail: bool,
    /// Rules are asked about the recipients.
    pub(super) for_rules: bool,
}

impl Sources<'_> {
    /// The zone of users who named none, if rules are asked.
    async fn home(self, org: OrganizationId) -> Result<Option<String>, StoreError> {
        if !self.for_rules {
            return Ok(None);
        }
        let found = self.store.organization(OrganizationRef::Id(org)).await?;
        Ok(found.map(|organization| organization.tz.clone()).filter(|tz| !tz.is_empty()))
    }
}

/// Resolves the page of `notification`'s audience that starts after `after`; the first page also
/// holds the subscriptions that want its event.
pub(super) async fn page(
    sources: Sources<'_>,
    notification: &Notification,
    after: Option<UserId>,
) -> Result<Expansion, StoreError> {
    let Sources { store, can_mail, for_rules } = sources;
    let org = notification.org;
    let mails = can_mail && notification.mail.is_some();
    let people = async {
        match &notification.audience {
            Audience::Subscriptions => Ok(RecipientPage::default()),
            audience => store.recipients(org, audience, after, PAGE).await,
        }
    };
    let subscribers = async {
        match after {
            None => store.subscriptions(org, &notification.event).await,
            Some(_) => Ok(Vec::new()),
        }
    };
    // Asked together, so that a store far away is asked once.
    let (home, people, subscribers) = try_join3(sources.home(org), people, subscribers).await?;
    let RecipientPage { recipients: people, next, unknown } = people;
    let mut expansion = Expansion { unknown, next, ..Expansion::default() };
    let roles = if for_rules { roles(store, org, &people).await? } else { HashMap::new() };
    for recipient in people {
        if !is_reachable(&recipient, mails) {
            expansion.no_device += 1;
            if !notification.inbox {
                continue;
            }
        }
        let role = roles.get(&recipient.user.role).map(Arc::as_ref);
        let known = for_rules.then_some(Known { role, home: home.as_deref() });
        expansion.recipients.push(user(recipient, mails, known));
    }
    for subscription in subscribers {
        expansion.recipients.push(subscriber(&subscription, store.vault(), for_rules));
    }
    Ok(expansion)
}

/// The roles that `people` have.
async fn roles(
    store: &dyn Store,
    org: OrganizationId,
    people: &[Recipient],
) -> Result<HashMap<RoleId, Arc<Role>>, StoreError> {
    let wanted: BTreeSet<_> = people.iter().map(|recipient| recipient.user.role).collect();
    let found = wanted.into_iter().map(async |id| {
        let role = store.role(org, id).await?;
        Ok::<_, StoreError>(role.map(|role| (id, role)))
    });
    Ok(try_join_all(found).await?.into_iter().flatten().collect())
}

/// One recipient again, as it is now; `None` if it is gone or unreachable.
pub(super) async fn one(
    sources: Sources<'_>,
    notification: &Notification,
    recipient: RecipientRef,
) -> Result<Option<Expanded>, StoreError> {
    let Sources { store, can_mail, for_rules } = sources;
    let org = notification.org;
    let mails = can_mail && notification.mail.is_some();
    match recipient {
        RecipientRef::User(id) => {
            let audience = Audience::Users(vec![id]);
            let people = store.recipients(org, &audience, None, 1);
            let (page, home) = try_join(people, sources.home(org)).await?;
            let mut found = page.recipients.into_iter();
            let Some(found) = found.find(|one| notification.inbox || is_reachable(one, mails))
            else {
                return Ok(None);
            };
            if !for_rules {
                return Ok(Some(user(found, mails, None)));
            }
            let role = store.role(org, found.user.role).await?;
            let known = Known { role: role.as_deref(), home: home.as_deref() };
            Ok(Some(user(found, mails, Some(known))))
        }
        RecipientRef::Subscription(id) => {
            let found = store.subscription(org, id).await?;
            Ok(found.filter(|s| s.enabled).map(|s| subscriber(&s, store.vault(), for_rules)))
        }
    }
}

/// An expansion of just one recipient.
pub(super) async fn only(
    sources: Sources<'_>,
    notification: &Notification,
    recipient: RecipientRef,
) -> Result<Expansion, StoreError> {
    let found = one(sources, notification, recipient).await?;
    let no_device = u32::from(found.is_none());
    Ok(Expansion { recipients: found.into_iter().collect(), no_device, ..Expansion::default() })
}

/// A target again, with its present secrets; `None` if it was removed or disabled.
pub(super) async fn target(
    store: &dyn Store,
    notification: &Notification,
    wanted: TargetRef,
) -> Result<Option<Target>, StoreError> {
    let recipient = RecipientRef::of(wanted);
    // Whether its provider is still configured is judged when it is sent.
    let sources = Sources { store, can_mail: true, for_rules: false };
    let found = one(sources, notification, recipient).await?;
    Ok(found.and_then(|r| r.targets.into_iter().find(|target| target.reference() == wanted)))
}

fn is_reachable(found: &Recipient, mails: bool) -> bool {
    !found.devices.is_empty() || (mails && !found.user.email.is_empty())
}

/// What rules are told of a user beside the user's own record.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    role: Option<&'a Role>,
    /// The zone of users who named none.
    home: Option<&'a str>,
}

/// Without what is `known`, rules are not asked.
fn user(found: Recipient, mails: bool, known: Option<Known<'_>>) -> Expanded {
    let Recipient { user, devices } = found;
    let mut targets: Vec<_> = devices.into_iter().map(device).collect();
    if mails && !user.email.is_empty() {
        targets.push(Target::Email { user: user.id, to: user.email.clone() });
    }
    let recipient = RecipientRef::User(user.id);
    let view = known.map(|Known { role, home }| {
        let views = targets.iter().map(|target| TargetView {
            provider: target.provider(),
            handle: target.key(),
            app: target.credential(),
            last_ok_at: None,
            recent_failures: 0,
        });
        let mut view = user_view(&user, role, views.collect());
        if view.tz.is_none() {
            view.tz = home.map(str::to_owned);
        }
        view
    });
    Expanded { recipient, view, targets }
}

fn user_view(user: &User, role: Option<&Role>, targets: Vec<TargetView>) -> RecipientView {
    RecipientView {
        kind: RecipientKind::User,
        id: user.id.to_string(),
        org: user.org.to_string(),
        email: Some(user.email.clone()),
        tz: user.tz.clone(),
        locale: user.locale.clone(),
        status: match user.status {
            UserStatus::Pending => "pending",
            UserStatus::Active => "active",
            UserStatus::Suspended => "suspended",
        },
        roles: role.into_iter().map(|role| role.name.clone()).collect(),
        prefs: user.prefs.clone(),
        targets,
    }
}

fn device(device: Device) -> Target {
    let Device { id, user, platform, app, token, registered_at } = device;
    match platform {
        Platform::Apns => Target::Apns { device: id, user, app, token, registered_at },
        Platform::Fcm => Target::Fcm { device: id, user, app, token },
    }
}

fn subscriber(subscription: &Subscription, vault: &Vault, for_rules: bool) -> Expanded {
    let (id, target) = (subscription.id, vault.target(subscription));
    let recipient = RecipientRef::Subscription(id);
    if !for_rules {
        return Expanded { recipient, view: None, targets: vec![target] };
    }
    let app = match &subscription.endpoint {
        Endpoint::Slack { team, .. } => team.clone(),
        Endpoint::Webhook { url, .. } => {
            let host = url::Url::parse(url).ok().and_then(|u| u.host_str().map(str::to_owned));
            host.unwrap_or_default()
        }
    };
    let provider: ProviderName = target.provider();
    let view = RecipientView {
        kind: RecipientKind::Subscription,
        id: id.to_string(),
        org: subscription.org.to_string(),
        email: None,
        tz: None,
        locale: None,
        status: "active",
        roles: Vec::new(),
        prefs: Vec::new(),
        targets: vec![TargetView {
            provider,
            handle: target.key(),
            app,
            last_ok_at: None,
            recent_failures: 0,
        }],
    };
    Expanded { recipient, view: Some(view), targets: vec![target] }
}
