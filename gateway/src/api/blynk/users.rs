//! Users made with a password: in a personal organization, or in an existing one.

use super::actor::{Actor, NO_ORGANIZATION, refused};
use super::bodies::{Create, CreateInOrg, Person};
use super::events::{CREATED, place_of};
use super::personal::default_name;
use super::wire::UserShown;
use crate::api::failure::Failure;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head, Turn};
use crate::api::signed::ADMIN;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared, reply};
use crate::auth::Permission;
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{AccountState, OrganizationId, RoleId, Secret, User, UserProfile, UserStatus};
use crate::store::{Change, Expectation, StoreError, UserRef};
use serde_json::json;
use uuid::Uuid;

/// Locale of users that named none.
const LOCALE: &str = "en_US";
pub(crate) const NO_SEAT: &str = "The organization has reached its user limit.";

/// `POST …/users/create`
pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserInvite]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = Create::parse(&body)?;
    let mut begun = match shared.turn(shared.slow_key(&head, actor.org(), &body).await?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    if let Some(existing) = shared.existing(&actor, &new.person.email).await? {
        return Ok(existing);
    }
    let hash = shared.hash_of_new(&new.person).await?;
    let mut is_again = false;
    loop {
        match created(&shared, &actor, (&head, &begun), (&new, &hash), is_again).await? {
            Ok(answered) => return Ok(answered),
            Err(ChangeError::Store(StoreError::Conflict { field: "email" })) => {
                let existing = shared.existing(&actor, &new.person.email).await?;
                return existing.ok_or_else(|| in_use(&new.person.email));
            }
            Err(error) => retry(&mut begun, error)?,
        }
        is_again = true;
    }
}

async fn created(
    shared: &Shared,
    actor: &Actor,
    (head, begun): (&Head, &Begun),
    (new, hash): (&Create, &Secret),
    is_again: bool,
) -> Result<Result<Answered, ChangeError>, Failure> {
    let person = &new.person;
    let named = new.organization_name.clone();
    let name = named.unwrap_or_else(|| default_name(&person.name, &person.email));
    let mut personal = shared.personal(actor, (name, person.tz.as_deref()), is_again).await?;
    let org = personal.organization.id;
    let user = shared.new_user(person, (org, ADMIN), personal.organization.tz);
    // Nobody listens in an organization that is made just now.
    let text = format!("User {} was created in organization {org}.", user.id);
    let event = shared.event(&actor.caller, actor.org(), CREATED, text, &place_of(&user));
    let object = format!("user:{}", user.id);
    let audit = shared.note(head, &actor.caller, actor.org(), "user.create", object);
    let answer = Answer::plain(201, UserShown::of(&user, shared.intake.now()).body());
    let id = user.id;
    personal.changes.extend([Change::PutUser(user), Change::PutPassword(id, hash.clone())]);
    let (org, changes) = (actor.org(), personal.changes);
    let change = RecordChange { org, changes, audit, notifications: vec![event] };
    Ok(shared.attempt(begun, change, &answer).await)
}

/// `POST …/users/create-in-org`
pub(super) async fn create_in_org(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserInvite]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = CreateInOrg::parse(&body)?;
    let organization = shared.reached_organization(&actor, new.org, NO_ORGANIZATION).await?;
    let mut begun = match shared.turn(shared.slow_key(&head, actor.org(), &body).await?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    shared.given_role(&actor, organization.id, new.role).await?;
    shared.check_free(&new.person.email).await?;
    shared.check_seat(organization.id, NO_SEAT).await?;
    let hash = shared.hash_of_new(&new.person).await?;
    loop {
        let place = (organization.id, new.role);
        let user = shared.new_user(&new.person, place, organization.tz.clone());
        let text = format!("User {} was created in organization {}.", user.id, user.org);
        let event = shared.event(&actor.caller, user.org, CREATED, text, &place_of(&user));
        let object = format!("user:{}", user.id);
        let audit = shared.note(&head, &actor.caller, user.org, "user.create", object);
        let answer = Answer::plain(201, UserShown::of(&user, shared.intake.now()).body());
        let mut changes = shared.seat_guard(user.org);
        let id = user.id;
        changes.extend([Change::PutUser(user), Change::PutPassword(id, hash.clone())]);
        let (org, notifications) = (organization.id, vec![event]);
        let change = RecordChange { org, changes, audit, notifications };
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => return Ok(answered),
            Err(error) => retry(&mut begun, refusal(error, &new.person.email)?)?,
        }
    }
}

/// The refusals a new user meets in the records, in Blynk's sentences; others are given back.
pub(super) fn refusal(error: ChangeError, email: &str) -> Result<ChangeError, Failure> {
    match error {
        ChangeError::Store(StoreError::Conflict { field: "email" }) => Err(in_use(email)),
        ChangeError::Store(StoreError::Unmet { what: "no_seat" }) => Err(refused(NO_SEAT)),
        other => Ok(other),
    }
}

/// Lets a caller try again after a refusal that reading again may answer.
pub(super) fn retry(begun: &mut Begun, error: ChangeError) -> Result<(), Failure> {
    let is_passing =
        matches!(error, ChangeError::Store(StoreError::Conflict { .. } | StoreError::Unmet { .. }));
    if is_passing && begun.again() { Ok(()) } else { Err(error.into()) }
}

pub(super) fn in_use(email: &str) -> Failure {
    refused(format!("{email} is already in use"))
}

impl Shared {
    /// The answer to a request for a user who is there already. Who lies outside the caller's tree
    /// is not described.
    async fn existing(&self, actor: &Actor, email: &str) -> Result<Option<Answered>, Failure> {
        let found = self.store.user(UserRef::Email(email.to_owned())).await?;
        let Some(user) = found else { return Ok(None) };
        let body = if self.is_within(user.org, actor.org()).await? {
            UserShown::of(&user, self.intake.now()).body()
        } else {
            json!({ "email": email }).to_string().into()
        };
        Ok(Some(Answered::Other(reply::json(200, body))))
    }

    async fn hash_of_new(&self, person: &Person) -> Result<Secret, Failure> {
        self.hash_password("password", person.password.reveal(), &person.email).await
    }

    /// An active user; `home` is the time zone of one that named none.
    fn new_user(&self, person: &Person, place: (OrganizationId, RoleId), home: String) -> User {
        let user = self.blank_user(&person.email, place, home);
        User {
            name: person.name.clone(),
            status: UserStatus::Active,
            tz: person.tz.clone().or(user.tz),
            profile: person.profile.clone(),
            ..user
        }
    }

    /// A pending user who has said nothing about itself yet.
    pub(super) fn blank_user(
        &self,
        email: &str,
        (org, role): (OrganizationId, RoleId),
        home: String,
    ) -> User {
        let now = self.intake.now();
        User {
            id: self.store.next_user(),
            uuid: Uuid::new_v4(),
            org,
            email: email.to_owned(),
            name: String::new(),
            role,
            status: UserStatus::Pending,
            tz: Some(home).filter(|home| !home.is_empty()),
            locale: Some(LOCALE.to_owned()),
            prefs: Vec::new(),
            created_at: now,
            profile: UserProfile::default(),
            account: AccountState { modified_at: now, ..AccountState::default() },
        }
    }

    /// Refuses an address that is a user's already, whoever's.
    pub(super) async fn check_free(&self, email: &str) -> Result<(), Failure> {
        match self.store.user(UserRef::Email(email.to_owned())).await? {
            Some(_) => Err(in_use(email)),
            None => Ok(()),
        }
    }

    /// Refuses early, before a password is hashed; `seat_guard` decides.
    pub(crate) async fn check_seat(
        &self,
        org: OrganizationId,
        sentence: &str,
    ) -> Result<(), Failure> {
        let max = u64::from(self.blynk.settings.users_per_org);
        if max > 0 && self.store.count_users(org).await? >= max {
            return Err(refused(sentence));
        }
        Ok(())
    }

    /// What lets a user into an organization only while it has a seat.
    pub(crate) fn seat_guard(&self, org: OrganizationId) -> Vec<Change> {
        match self.blynk.settings.users_per_org {
            0 => Vec::new(),
            max => vec![Change::Expect(Expectation::Seats(org, max))],
        }
    }
}
