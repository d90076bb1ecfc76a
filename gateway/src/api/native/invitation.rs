//! `POST /bugler/v1/invitations/accept`: an invited user sets its first password and becomes active.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::identity::password_fault;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head, Turn};
use crate::api::{Answered, Shared, json};
use crate::auth::{CREDENTIAL_MAX, NewPassword, hash_of};
use crate::intake::{Answer, RecordChange};
use crate::model::{AuditNote, Invitation, OrganizationId, Secret, User, UserStatus};
use crate::store::{Change, Expectation, UserRef};
use serde_json::json;
use std::time::Instant;

const NAME_MAX: usize = 100;
/// The scope of idempotency keys whose caller is not known yet.
const NOBODY: OrganizationId = OrganizationId(0);

struct Acceptance {
    token: String,
    password: Secret,
    name: Option<String>,
}

impl Acceptance {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        fields.only(&["token", "password", "name"], &mut faults);
        let token = fields.required_text("token", CREDENTIAL_MAX, &mut faults);
        // Any character may be in a password; its own rules are checked below.
        let password = fields.get("password").and_then(serde_json::Value::as_str);
        if password.is_none() {
            let is_absent = fields.get("password").is_none();
            faults.add("password", if is_absent { "is required" } else { "must be a string" });
        }
        let name = fields.text("name", NAME_MAX, &mut faults);
        if name.is_some_and(|name| name.is_empty() || name.contains(['/', '\\', '<', '>'])) {
            faults.add("name", "must have no slash, backslash, < or >");
        }
        faults.into_result()?;
        let password = Secret::new(password.unwrap_or_default());
        // Before the token is looked at, so that the answer does not depend on it.
        NewPassword::check(password.reveal(), "").map_err(|p| password_fault("password", p))?;
        let token = token.unwrap_or_default().to_owned();
        Ok(Self { token, password, name: name.map(str::to_owned) })
    }
}

pub(super) async fn accept(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let tries = &shared.identity.invitations;
    let from = request.peer.ip().to_string();
    tries.check(&from, Instant::now())?;
    let (head, body) = shared.json_body(request).await?;
    let acceptance = Acceptance::parse(&body)?;
    let mut begun = match shared.turn(shared.slow_key(&head, NOBODY, &body).await?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    let accepted = open(&shared, &head, &mut begun, acceptance).await;
    if let Err(Failure { class: FailureClass::NotFound, .. }) = accepted {
        tries.failed(&from, Instant::now());
    }
    accepted
}

/// One answer for tokens that never were, were used, or are too old.
fn unknown() -> Failure {
    Failure::new(FailureClass::NotFound, "the invitation does not exist, was used, or has expired")
}

async fn open(
    shared: &Shared,
    head: &Head,
    begun: &mut Begun,
    acceptance: Acceptance,
) -> Result<Answered, Failure> {
    let token = hash_of(&acceptance.token);
    let found = shared.store.invitation(token).await?;
    let now = shared.intake.now();
    let invitation = found.filter(|found| now < found.expires_at).ok_or_else(unknown)?;
    let user = invited(shared, &invitation).await?;
    let password = acceptance.password.reveal();
    let hash = shared.hash_password("password", password, &user.email).await?;
    loop {
        let user = invited(shared, &invitation).await?;
        let revision = user.account.revision;
        let user = User {
            status: UserStatus::Active,
            name: acceptance.name.clone().unwrap_or_else(|| user.name.clone()),
            ..user.changed(shared.intake.now())
        };
        let body = json!({
            "id": user.id.0,
            "organization": user.org.0,
            "email": user.email,
            "name": user.name,
            "status": "active",
        });
        let object = format!("user:{}", user.id);
        let audit = AuditNote {
            at: shared.intake.now(),
            org: user.org,
            actor: object.clone(),
            peer: Some(head.peer().ip().to_string()),
            action: String::from("invitation.accept"),
            object,
        };
        let org = user.org;
        let changes = vec![
            Change::Expect(Expectation::UserRevision(user.id, revision)),
            Change::TakeInvitation(token),
            Change::PutPassword(user.id, hash.clone()),
            Change::PutUser(user),
        ];
        let change = RecordChange { org, changes, audit, notifications: Vec::new() };
        let answer = Answer::plain(200, body.to_string());
        match shared.change(begun, change, answer).await {
            Ok(Some(answered)) => return Ok(answered),
            Ok(None) => {}
            // Somebody else accepted it meanwhile.
            Err(failure) if failure.class == FailureClass::Exists => return Err(unknown()),
            Err(failure) => return Err(failure),
        }
    }
}

/// The user an invitation is for, still waiting for it, with a role that still exists.
async fn invited(shared: &Shared, invitation: &Invitation) -> Result<User, Failure> {
    let found = shared.store.user(UserRef::Id(invitation.user)).await?;
    let is_waiting = |user: &User| user.status == UserStatus::Pending && user.org == invitation.org;
    let user = found.filter(is_waiting).ok_or_else(unknown)?;
    // Whoever changed the role since had the right to; the promise alone gives none.
    if shared.role_of(user.org, user.role).await?.is_some() {
        return Ok(user);
    }
    let text = "the role of this invitation no longer exists; ask for a new invitation";
    Err(Failure::new(FailureClass::Exists, text))
}
