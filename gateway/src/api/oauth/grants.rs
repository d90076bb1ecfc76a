//! The three grants: a client for its organization, a user by password, a refresh token for the next.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::oauth::ask::{Grant, TokenAsk};
use crate::api::oauth::client::ClientProof;
use crate::api::oauth::refusal::TokenRefusal;
use crate::api::oauth::render::uncached;
use crate::api::reply;
use crate::api::shared::Head;
use crate::auth::{self, Origin, Permission, PermissionSet, Scope, matches, refresh_token};
use crate::intake::{ChangeError, RecordChange};
use crate::model::{
    AuditNote, Client, OrganizationId, RefreshToken, Secret, SecretHash, User, UserId, UserStatus,
};
use crate::server::Response;
use crate::store::{Change, Expectation, StoreError, UserRef};
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What no secret hashes to, for clients that do not exist.
const NOBODYS: SecretHash = SecretHash([0; 32]);
/// From the lookup of a client to the refusal; timers tick every millisecond.
const REFUSED_AFTER: Duration = Duration::from_millis(2);
/// Log-ins of one user at once that may get in each other's way.
const TRIES_MAX: u8 = 8;

/// What a scope may say besides permissions: for whom the token speaks.
const ORGANIZATION: &str = "org";
const USER: &str = "user";
const SCOPE_TOO_WIDE: &str = "The scope names more than this client may be given.";

/// Tokens that were given out.
#[derive(Debug)]
pub(super) struct Issued {
    access: Secret,
    refresh: Option<Secret>,
    lifetime_s: u64,
}

impl Issued {
    pub(super) fn response(&self) -> Response {
        let body = json!({
            "access_token": self.access.reveal(),
            "token_type": "Bearer",
            "expires_in": self.lifetime_s,
            "refresh_token": self.refresh.as_ref().map(Secret::reveal),
        });
        uncached(reply::json(200, body.to_string()))
    }
}

/// For whom tokens are made, and what they descend from.
struct Subject<'a> {
    client: &'a Client,
    org: OrganizationId,
    user: Option<&'a User>,
    family: Uuid,
    limited_to: Option<PermissionSet>,
    /// A token limited by its request has no successor: that would not know the limit.
    has_successor: bool,
}

/// Gives out tokens, or says why not.
pub(super) async fn issue(
    shared: &Shared,
    head: &Head,
    ask: TokenAsk,
) -> Result<Issued, TokenRefusal> {
    let client = authenticated(shared, &ask.client).await?;
    // Only now: whoever cannot prove to be the client uses up nothing of its organization's.
    shared.throttle(client.org)?;
    let words: &[&str] = match ask.grant {
        Grant::Client => &[ORGANIZATION],
        Grant::User { .. } => &[USER],
        // Which of them it has the token says.
        Grant::Refresh(_) => &[ORGANIZATION, USER],
    };
    let (limited_to, is_narrowed) = limit(&client, ask.scope.as_deref(), words)?;
    let subject = Subject {
        client: &client,
        org: client.org,
        user: None,
        family: Uuid::new_v4(),
        limited_to,
        has_successor: !is_narrowed,
    };
    match ask.grant {
        Grant::Client => {
            let (issued, next) = sign(shared, &subject)?;
            let changes = next.map(Change::PutRefresh).into_iter().collect();
            store(shared, head, &subject, changes, "token.issue").await?;
            Ok(issued)
        }
        Grant::User { email, password } => log_in(shared, head, subject, &email, &password).await,
        Grant::Refresh(token) => {
            refresh(shared, head, subject, (&token, ask.scope.as_deref())).await
        }
    }
}

/// The client, if the proof is its own. Unknown and known ones take the same way, and a refusal the
/// same time: finding a record and finding none differ by some microseconds.
async fn authenticated(shared: &Shared, proof: &ClientProof) -> Result<Client, TokenRefusal> {
    let answered_at = tokio::time::Instant::now() + REFUSED_AFTER;
    let tries = &shared.identity.clients;
    tries.check(&proof.id, Instant::now())?;
    let found = shared.store.client(&proof.id).await?;
    let stored = found.as_ref().map_or(NOBODYS, |client| client.secret);
    let is_proven = matches(&stored, proof.secret.reveal());
    if let Some(client) = found.filter(|_| is_proven) {
        return Ok(client);
    }
    tries.failed(&proof.id, Instant::now());
    tokio::time::sleep_until(answered_at).await;
    Err(TokenRefusal::client())
}

/// What a token of this client may do at most, and whether the request narrowed it.
fn limit(
    client: &Client,
    scope: Option<&str>,
    subjects: &[&str],
) -> Result<(Option<PermissionSet>, bool), TokenRefusal> {
    let of_client = client
        .limited_to
        .as_ref()
        .map(|names| PermissionSet::of_names(names.iter().map(String::as_str)));
    let words = scope.unwrap_or_default().split(' ').filter(|word| !word.is_empty());
    let allowed = of_client.unwrap_or_else(PermissionSet::all);
    let permission = |word| {
        let known = Permission::named(word).filter(|permission| allowed.contains(*permission));
        known.ok_or_else(|| TokenRefusal::request(SCOPE_TOO_WIDE))
    };
    let asked = words.filter(|word| !subjects.contains(word)).map(permission);
    let asked: Vec<_> = asked.collect::<Result<_, _>>()?;
    if asked.is_empty() {
        return Ok((of_client, false));
    }
    Ok((Some(asked.into_iter().collect()), true))
}

/// The access token and, unless the subject has no successor, what is stored of its refresh token.
fn sign(
    shared: &Shared,
    subject: &Subject<'_>,
) -> Result<(Issued, Option<RefreshToken>), TokenRefusal> {
    let lifetime = shared.identity.settings.token_ttl;
    let epoch = subject.user.map(|user| user.account.epoch);
    let grant = auth::Grant {
        organization: subject.org,
        scope: subject.user.map_or(Scope::Organization, |user| Scope::User(user.id)),
        subject: subject.client.id.clone(),
        limited_to: subject.limited_to,
        lifetime,
        origin: Origin {
            client: Some(subject.client.id.clone()),
            family: Some(subject.family.to_string()),
            epoch,
        },
    };
    let access = Secret::new(shared.identity.mint(&grant)?);
    let fresh = subject.has_successor.then(refresh_token);
    let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    let next = fresh.as_ref().map(|fresh| RefreshToken {
        token: fresh.hash,
        family: subject.family,
        client: subject.client.id.clone(),
        org: subject.org,
        user: subject.user.map(|user| user.id),
        epoch: epoch.unwrap_or_default(),
        expires_at: shared.intake.now().plus(lifetime_ms),
        is_used: false,
    });
    let refresh = fresh.map(|fresh| fresh.text);
    Ok((Issued { access, refresh, lifetime_s: lifetime.as_secs() }, next))
}

async fn store(
    shared: &Shared,
    head: &Head,
    subject: &Subject<'_>,
    changes: Vec<Change>,
    action: &str,
) -> Result<(), ChangeError> {
    let client = format!("client:{}", subject.client.id);
    let actor = subject.user.map_or_else(|| client.clone(), |user| format!("user:{}", user.id));
    let audit = AuditNote {
        at: shared.intake.now(),
        org: subject.org,
        actor,
        peer: Some(head.peer().ip().to_string()),
        action: action.to_owned(),
        object: client,
    };
    let change = RecordChange { org: subject.org, changes, audit, notifications: Vec::new() };
    shared.intake.change(shared.store.as_ref(), change, None).await
}

/// One sentence for every way a log-in fails, so that nobody learns who exists.
fn no_log_in() -> TokenRefusal {
    TokenRefusal::grant("Username or password is wrong.")
}

/// `user_credentials`
async fn log_in(
    shared: &Shared,
    head: &Head,
    subject: Subject<'_>,
    email: &str,
    password: &Secret,
) -> Result<Issued, TokenRefusal> {
    let tries = &shared.identity.logins;
    tries.check(email, Instant::now())?;
    let user = shared.store.user(UserRef::Email(email.to_owned())).await?;
    let stored = shared.store.password(user.as_ref().map_or(UserId(0), |user| user.id)).await?;
    let org = user.as_ref().map_or(subject.org, |user| user.org);
    let is_ours = shared.is_within(org, subject.org).await?;
    let user = user.filter(|user| is_ours && user.status == UserStatus::Active);
    let stored = stored.filter(|_| user.is_some());
    let is_right = shared.passwords.verify(password.reveal(), stored.as_ref()).await?;
    let Some(mut user) = user.filter(|_| is_right) else {
        tries.failed(email, Instant::now());
        return Err(no_log_in());
    };
    let epoch = user.account.epoch;
    for _ in 0..TRIES_MAX {
        let revision = user.account.revision;
        let now = shared.intake.now();
        user.account.last_login_at = Some(now);
        user.account.revision = revision.wrapping_add(1);
        let subject = Subject { org: user.org, user: Some(&user), ..subject };
        let (issued, next) = sign(shared, &subject)?;
        let mut changes = vec![
            Change::Expect(Expectation::UserRevision(user.id, revision)),
            Change::PutUser(user.clone()),
        ];
        changes.extend(next.map(Change::PutRefresh));
        match store(shared, head, &subject, changes, "user.login").await {
            Ok(()) => return Ok(issued),
            Err(ChangeError::Store(StoreError::Unmet { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        // Somebody changed the user meanwhile: it may be no longer one that may log in.
        let again = shared.store.user(UserRef::Id(user.id)).await?;
        let is_same = |again: &User| {
            again.status == UserStatus::Active
                && again.account.epoch == epoch
                && again.org == user.org
        };
        user = again.filter(is_same).ok_or_else(no_log_in)?;
    }
    let text = "too many log-ins of this user at once";
    Err(Failure::new(FailureClass::Overloaded, text).into())
}

fn no_refresh() -> TokenRefusal {
    TokenRefusal::grant("Refresh token is invalid or expired.")
}

/// `refresh_token`
async fn refresh(
    shared: &Shared,
    head: &Head,
    subject: Subject<'_>,
    (token, scope): (&Secret, Option<&str>),
) -> Result<Issued, TokenRefusal> {
    let found = shared.store.refresh(auth::hash_of(token.reveal())).await?;
    let old = found.filter(|old| old.client == subject.client.id).ok_or_else(no_refresh)?;
    let other = if old.user.is_some() { ORGANIZATION } else { USER };
    if scope.unwrap_or_default().split(' ').any(|word| word == other) {
        // RFC 6749 section 6: nothing that was not granted at first.
        return Err(TokenRefusal::request(SCOPE_TOO_WIDE));
    }
    let subject = Subject { org: old.org, family: old.family, ..subject };
    if old.is_used {
        return Err(reused(shared, head, &subject).await);
    }
    if shared.store.is_revoked(&old.family.to_string()) || old.expires_at <= shared.intake.now() {
        return Err(no_refresh());
    }
    let user = match old.user {
        None => None,
        Some(id) => {
            let is_same = |user: &User| {
                user.status == UserStatus::Active
                    && user.account.epoch == old.epoch
                    && user.org == old.org
            };
            let user = shared.store.user(UserRef::Id(id)).await?.filter(is_same);
            Some(user.ok_or_else(no_refresh)?)
        }
    };
    let subject = Subject { user: user.as_ref(), ..subject };
    let (issued, next) = sign(shared, &subject)?;
    // A user changed meanwhile needs no check: its epoch is in both tokens.
    let mut changes = vec![Change::UseRefresh(old.token)];
    changes.extend(next.map(Change::PutRefresh));
    match store(shared, head, &subject, changes, "token.refresh").await {
        Ok(()) => Ok(issued),
        // Two at once: one of them is not the client it was given to.
        Err(ChangeError::Store(StoreError::Used { .. })) => {
            Err(reused(shared, head, &subject).await)
        }
        Err(error) => Err(error.into()),
    }
}

/// A token that was used before is in two hands: nothing that descends from it counts any more
/// (RFC 9700 section 4.14.2).
async fn reused(shared: &Shared, head: &Head, subject: &Subject<'_>) -> TokenRefusal {
    let family = subject.family.to_string();
    if shared.store.is_revoked(&family) {
        return no_refresh();
    }
    let end = shared.identity.forgotten_at(shared.intake.now());
    let changes = vec![Change::Revoke(family, end)];
    match store(shared, head, subject, changes, "token.reuse").await {
        Ok(()) => no_refresh(),
        Err(error) => error.into(),
    }
}
