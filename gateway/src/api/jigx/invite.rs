//! `POST …/organizations/{org}/members`: a user of the organization, with a password or invited.

use super::enter;
use super::members::{role, shown};
use crate::api::blynk::{INVITED, NO_SEAT};
use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields, is_email};
use crate::api::route::Call;
use crate::api::shared::{Begun, Turn};
use crate::api::signed::{PLAIN_USER, WHOLE_ORGANIZATION};
use crate::api::{Answered, Shared, json};
use crate::auth::{Caller, invitation_token};
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{
    AccountState, AuditNote, MemberRole, Membership, Notification, Organization, Secret, Source,
    User, UserProfile, UserStatus,
};
use crate::store::{Change, StoreError, UserRef};
use serde_json::{Value, json};
use uuid::Uuid;

const NAME_MAX: usize = 100;
const PASSWORD_MAX: usize = 80;

/// A checked request.
struct Wish {
    email: String,
    name: String,
    first_name: String,
    last_name: String,
    password: Option<Secret>,
    role: MemberRole,
    is_invited: bool,
    language: Option<String>,
}

impl Wish {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let known = ["email", "name", "firstName", "lastName", "password", "userRole", "invite"];
        fields.only(&known, &mut faults);
        let email = fields.required_text("email", NAME_MAX, &mut faults);
        if email.is_some_and(|email| !is_email(email)) {
            faults.add("email", "is not an e-mail address");
        }
        let mut name = |field: &str| {
            let name = fields.required_text(field, NAME_MAX, &mut faults);
            if name.is_some_and(|name| name.trim().is_empty()) {
                faults.add(field, "is empty");
            }
            name.unwrap_or_default().to_owned()
        };
        let (name, first_name, last_name) = (name("name"), name("firstName"), name("lastName"));
        let password = password(&fields, &mut faults);
        let role = role(&fields, &mut faults).unwrap_or_default();
        let (is_invited, language) = invite(&fields, &mut faults);
        faults.into_result()?;
        let email = email.unwrap_or_default().to_lowercase();
        Ok(Self { email, name, first_name, last_name, password, role, is_invited, language })
    }
}

/// Any character may be in a password; its own rules are checked when it is hashed.
fn password(fields: &Fields<'_>, faults: &mut Faults) -> Option<Secret> {
    match fields.get("password")? {
        Value::String(text) if text.chars().count() <= PASSWORD_MAX => {
            return Some(Secret::new(text.as_str()));
        }
        Value::String(_) => {
            faults.add("password", format!("has more than {PASSWORD_MAX} characters"));
        }
        _ => faults.add("password", "must be a string"),
    }
    None
}

/// Whether an invitation is wanted, and its language.
fn invite(fields: &Fields<'_>, faults: &mut Faults) -> (bool, Option<String>) {
    let Some(invite) = fields.object("invite", faults) else { return (true, None) };
    let is_disabled = match invite.get("disabled") {
        None => false,
        Some(Value::Bool(is_disabled)) => *is_disabled,
        Some(_) => {
            faults.add("invite.disabled", "must be true or false");
            false
        }
    };
    let language = invite.text("language", 2, faults);
    let is_code = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_lowercase());
    if language.is_some_and(|language| !is_code(language)) {
        faults.add("invite.language", "must be two small letters");
    }
    (!is_disabled, language.map(str::to_owned))
}

pub(super) async fn create(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let (who, organization) = enter(&shared, &request.headers, params.get("org")).await?;
    who.require_invite().await?;
    let (head, body) = shared.json_body(request).await?;
    let wish = Wish::parse(&body)?;
    let key = match wish.password {
        Some(_) => shared.slow_key(&head, organization.id, &body).await?,
        None => head.key(organization.id, &body)?,
    };
    if !who.gives(wish.role, who.role) {
        let text = "nobody gives a role above its own";
        return Err(Failure::new(FailureClass::Forbidden, text));
    }
    let begun = match shared.turn(key).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    if shared.store.user(UserRef::Email(wish.email.clone())).await?.is_some() {
        return Err(Failure::new(FailureClass::Exists, "email is already in use"));
    }
    shared.check_seat(organization.id, NO_SEAT).await?;
    let hash = match &wish.password {
        Some(text) => Some(shared.hash_password("password", text.reveal(), &wish.email).await?),
        None => None,
    };
    let user = new_user(&shared, &organization, &wish);
    let object = format!("user:{}", user.id);
    let audit = shared.note(&head, &who.caller, organization.id, "user.create", object);
    make(&shared, begun, (&organization, &who.caller, audit), (user, wish, hash)).await
}

fn new_user(shared: &Shared, organization: &Organization, wish: &Wish) -> User {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let is_active = wish.password.is_some();
    User {
        id: shared.store.next_user(),
        uuid: Uuid::new_v4(),
        org: organization.id,
        email: wish.email.clone(),
        name: wish.name.clone(),
        // What a member may do in Jigx its `userRole` says.
        role: PLAIN_USER,
        status: if is_active { UserStatus::Active } else { UserStatus::Pending },
        tz: None,
        locale: wish.language.clone(),
        prefs: vec![text("firstName", &wish.first_name), text("lastName", &wish.last_name)],
        created_at: shared.intake.now(),
        profile: UserProfile::default(),
        account: AccountState::default(),
    }
}

async fn make(
    shared: &Shared,
    begun: Begun,
    (organization, caller, audit): (&Organization, &Caller, AuditNote),
    (user, wish, hash): (User, Wish, Option<Secret>),
) -> Result<Answered, Failure> {
    let org = organization.id;
    let mut body = shown(&user, wish.role, &[]);
    body["firstName"] = json!(wish.first_name);
    body["lastName"] = json!(wish.last_name);
    let (solution, role) = (WHOLE_ORGANIZATION, wish.role);
    let membership = Membership { solution, user: user.id, groups: Vec::new(), role };
    let mut changes = shared.seat_guard(org);
    changes.extend([Change::PutUser(user.clone()), Change::PutMembership(org, membership)]);
    let (mut notifications, mut invited) = (Vec::new(), None);
    if let Some(hash) = hash {
        changes.push(Change::PutPassword(user.id, hash));
    } else if wish.is_invited {
        let token = invitation_token();
        changes.push(Change::PutInvitation(shared.invitation_of(&user, &token)));
        let brings = (organization, &token);
        let notice = shared.invitation_notice(caller, INVITED, &user, brings);
        // Not what the organization sends to its members: it is in none of their lists.
        notifications.push(Notification { source: Source::Native, ..notice });
        invited = Some(shared.blynk.invitation(org, &user.email)?);
    }
    let tells = !notifications.is_empty();
    let change = RecordChange { org, changes, audit, notifications };
    let answer = Answer::plain(201, body.to_string());
    let answered = match shared.attempt(&begun, change, &answer).await {
        Ok(answered) => answered,
        Err(ChangeError::Store(StoreError::Unmet { what: "no_seat" })) => {
            return Err(Failure::new(FailureClass::Invalid, NO_SEAT));
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(invited) = invited {
        invited.keep();
    }
    Ok(match answered {
        Answered::Other(response) if tells => Answered::Accepted(response),
        answered => answered,
    })
}
