//! From an audience to recipients with their targets.

use crate::model::{
    Audience, Device, Endpoint, Notification, OrganizationId, Platform, ProviderName, Role,
    Subscription, Target, TargetRef, User, UserId, UserStatus,
};
use crate::rules::{RecipientKind, RecipientView, TargetView};
use crate::store::{OrganizationRef, Recipient, Store, StoreError};
use crate::vault::Vault;
use crate::work::RecipientRef;

/// Recipients resolved in one step; a longer audience goes on in a chunk of its own.
pub(super) const PAGE: usize = 256;

/// One recipient and everywhere it can be reached.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) recipient: RecipientRef,
    /// What the rules are asked about; gone once they are.
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
}

/// Resolves the page of `notification`'s audience that starts after `after`; the first page also
/// holds the subscriptions that want its event.
pub(super) async fn page(
    sources: Sources<'_>,
    notification: &Notification,
    after: Option<UserId>,
) -> Result<Expansion, StoreError> {
    let Sources { store, can_mail } = sources;
    let org = notification.org;
    let mails = can_mail && notification.mail.is_some();
    let mut expansion = Expansion::default();
    let home = time_zone(store, org).await?;
    if notification.audience != Audience::Subscriptions {
        let page = store.recipients(org, &notification.audience, after, PAGE).await?;
        expansion.unknown = page.unknown;
        expansion.next = page.next;
        for recipient in page.recipients {
            if !is_reachable(&recipient, mails) {
                expansion.no_device += 1;
                if !notification.inbox {
                    continue;
                }
            }
            let role = store.role(org, recipient.user.role).await?;
            expansion.recipients.push(user(recipient, mails, role.as_deref(), home.as_deref()));
        }
    }
    if after.is_none() {
        for subscription in store.subscriptions(org, &notification.event).await? {
            expansion.recipients.push(subscriber(&subscription, store.vault()));
        }
    }
    Ok(expansion)
}

/// One recipient again, as it is now; `None` if it is gone or unreachable.
pub(super) async fn one(
    sources: Sources<'_>,
    notification: &Notification,
    recipient: RecipientRef,
) -> Result<Option<Expanded>, StoreError> {
    let Sources { store, can_mail } = sources;
    let org = notification.org;
    let mails = can_mail && notification.mail.is_some();
    match recipient {
        RecipientRef::User(id) => {
            let audience = Audience::Users(vec![id]);
            let page = store.recipients(org, &audience, None, 1).await?;
            let mut found = page.recipients.into_iter();
            let Some(found) = found.find(|one| notification.inbox || is_reachable(one, mails))
            else {
                return Ok(None);
            };
            let role = store.role(org, found.user.role).await?;
            let home = time_zone(store, org).await?;
            Ok(Some(user(found, mails, role.as_deref(), home.as_deref())))
        }
        RecipientRef::Subscription(id) => {
            let found = store.subscription(org, id).await?;
            Ok(found.filter(|s| s.enabled).map(|s| subscriber(&s, store.vault())))
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
    let sources = Sources { store, can_mail: true };
    let found = one(sources, notification, recipient).await?;
    Ok(found.and_then(|r| r.targets.into_iter().find(|target| target.reference() == wanted)))
}

/// The zone of users who named none.
async fn time_zone(store: &dyn Store, org: OrganizationId) -> Result<Option<String>, StoreError> {
    let found = store.organization(OrganizationRef::Id(org)).await?;
    Ok(found.map(|organization| organization.tz.clone()).filter(|tz| !tz.is_empty()))
}

fn is_reachable(found: &Recipient, mails: bool) -> bool {
    !found.devices.is_empty() || (mails && !found.user.email.is_empty())
}

fn user(found: Recipient, mails: bool, role: Option<&Role>, home: Option<&str>) -> Expanded {
    let Recipient { user, devices } = found;
    let mut targets: Vec<_> = devices.into_iter().map(device).collect();
    if mails && !user.email.is_empty() {
        targets.push(Target::Email { user: user.id, to: user.email.clone() });
    }
    let views = targets.iter().map(|target| TargetView {
        provider: target.provider(),
        handle: target.key(),
        app: target.credential(),
        last_ok_at: None,
        recent_failures: 0,
    });
    let mut view = user_view(&user, role, views.collect());
    view.tz = view.tz.or_else(|| home.map(str::to_owned));
    Expanded { recipient: RecipientRef::User(user.id), view: Some(view), targets }
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

fn subscriber(subscription: &Subscription, vault: &Vault) -> Expanded {
    let (id, target) = (subscription.id, vault.target(subscription));
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
    Expanded { recipient: RecipientRef::Subscription(id), view: Some(view), targets: vec![target] }
}
