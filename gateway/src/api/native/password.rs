//! `POST /bugler/v1/users/{id}/password`: a user changes its own password, or an admin sets it.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::passwords::{NewHash, PasswordSet};
use crate::api::route::Call;
use crate::api::shared::Turn;
use crate::api::signed::Signed;
use crate::api::{Answered, Shared, json};
use crate::auth::{Permission, Scope};
use crate::intake::Answer;
use crate::model::{Secret, Source, User, UserId};
use crate::store::UserRef;
use bytes::Bytes;
use serde_json::Value;
use std::time::Instant;

struct New {
    password: Secret,
    current: Option<Secret>,
}

impl New {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        fields.only(&["password", "currentPassword"], &mut faults);
        let mut secret = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Some(Secret::new(text.as_str())),
            Some(_) => {
                faults.add(name, "must be a string");
                None
            }
            None => None,
        };
        let (password, current) = (secret("password"), secret("currentPassword"));
        if fields.get("password").is_none() {
            faults.add("password", "is required");
        }
        faults.into_result()?;
        Ok(Self { password: password.unwrap_or_else(|| Secret::new("")), current })
    }
}

pub(super) async fn set(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let user = named(&shared, &caller, params.get("id")).await?;
    let is_own = check(&shared, &caller, &user).await?;
    let (head, body) = shared.json_body(request).await?;
    let new = New::parse(&body)?;
    let mut begun =
        match shared.turn(shared.slow_key(&head, caller.organization, &body).await?).await? {
            Turn::First(begun) => begun,
            Turn::Replay(answered) => return Ok(answered),
        };
    if is_own {
        prove(&shared, user.id, new.current.as_ref()).await?;
    }
    let hash = shared.hash_password("password", new.password.reveal(), &user.email).await?;
    let mut user = user;
    loop {
        let object = format!("user:{}", user.id);
        let audit = shared.note(&head, &caller, user.org, "user.password", object);
        let id = user.id;
        let set = NewHash { user, hash: hash.clone(), source: Source::Native, audit };
        let answer = |set: PasswordSet| Answer {
            notification: set.notification,
            ..Answer::plain(204, Bytes::new())
        };
        if let Some(answered) = shared.set_password(&mut begun, set, answer).await? {
            return Ok(answered);
        }
        user = named(&shared, &caller, &id.to_string()).await?;
        check(&shared, &caller, &user).await?;
    }
}

/// The user a path names; foreign and absent ones alike are not found.
async fn named(shared: &Shared, caller: &Signed, id: &str) -> Result<User, Failure> {
    let unknown = || Failure::new(FailureClass::NotFound, "no such user");
    let id: UserId = id.parse().map_err(|_| unknown())?;
    let found = shared.store.user(UserRef::Id(id)).await?.ok_or_else(unknown)?;
    if shared.is_within(found.org, caller.organization).await? { Ok(found) } else { Err(unknown()) }
}

/// Refuses who may not set this user's password; true if it is the caller's own.
async fn check(shared: &Shared, caller: &Signed, user: &User) -> Result<bool, Failure> {
    if caller.scope == Scope::User(user.id) {
        if caller.limited_to.is_none() {
            return Ok(true);
        }
        let text = "a limited token cannot change the password of its user";
        return Err(Failure::new(FailureClass::Forbidden, text));
    }
    caller.require(Permission::UserEdit).await?;
    // Who sets a password can sign in with it: nobody gets more rights that way than it has.
    if caller.covers(&shared.rights_of(user).await?) {
        return Ok(false);
    }
    let text = "the user has permissions that the caller lacks";
    Err(Failure::new(FailureClass::Forbidden, text))
}

/// Asks for the old password, so that a stolen token alone does not take over the account.
async fn prove(shared: &Shared, user: UserId, current: Option<&Secret>) -> Result<(), Failure> {
    let stored = shared.store.password(user).await?;
    if stored.is_none() {
        return Ok(());
    }
    let current = current.ok_or_else(|| Failure::field("currentPassword", "is required"))?;
    let (tries, name) = (&shared.identity.logins, format!("user:{user}"));
    tries.check(&name, Instant::now())?;
    if shared.passwords.verify(current.reveal(), stored.as_ref()).await? {
        return Ok(());
    }
    tries.failed(&name, Instant::now());
    Err(Failure::field("currentPassword", "is not the current password"))
}
