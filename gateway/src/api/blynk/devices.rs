//! `POST …/users/fcm-token/register`: where the pushes of a user go.

use super::actor::{Actor, forbidden, refused};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::route::Call;
use crate::api::shared::Turn;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared, json};
use crate::auth::Permission;
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{Device, Platform, Secret, User, UserId};
use crate::store::directory::names;
use crate::store::{Change, Expectation, StoreError};
use bytes::Bytes;

const TOKEN_MAX: usize = 4096;
const APP_MAX: usize = 64;
/// Credential of devices that name no app.
const APP: &str = "main";
/// Devices one user may have.
const DEVICES_MAX: u32 = 100;
/// Hex digits of an APNs device token; Apple promises no length.
const APNS_DIGITS: std::ops::RangeInclusive<usize> = 64..=200;

#[derive(Debug)]
struct Register {
    /// `None` is the user behind the token.
    user: Option<UserId>,
    token: Secret,
    platform: Platform,
    app: String,
}

impl Register {
    fn parse(body: &[u8], is_organization: bool) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let user = fields.integer("userId", &mut faults).map(UserId);
        if is_organization && fields.get("userId").is_none() {
            faults.add("userId", "is required");
        }
        let token = fields.required_text("token", TOKEN_MAX, &mut faults).unwrap_or_default();
        // Tokens become parts of paths and bodies at the providers.
        if fields.get("token").is_some()
            && !faults.concern("token")
            && (token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            faults.add("token", "must be visible ASCII characters");
        }
        let platform = fields.text("platform", APP_MAX, &mut faults).unwrap_or("android");
        let is_apns =
            APNS_DIGITS.contains(&token.len()) && token.bytes().all(|b| b.is_ascii_hexdigit());
        let platform = match platform {
            // Firebase has tokens for both; a bare hex token is Apple's own.
            "ios" if is_apns => Platform::Apns,
            "android" | "ios" => Platform::Fcm,
            _ => {
                faults.add("platform", "must be one of android, ios");
                Platform::Fcm
            }
        };
        let app = fields.text("appId", APP_MAX, &mut faults).unwrap_or(APP);
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if app.is_empty() || !app.bytes().all(is_name) {
            faults.add("appId", "must be letters, digits, dots, hyphens and underscores");
        }
        faults.into_result()?;
        Ok(Self { user, token: Secret::new(token), platform, app: app.to_owned() })
    }
}

pub(super) async fn register(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    if actor.is_organization() {
        actor.require(&[Permission::UserEdit]).await?;
    }
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = Register::parse(&body, actor.is_organization())?;
    let user = owner(&shared, &actor, new.user).await?;
    let begun = match shared.turn(head.key(actor.org(), &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    let id = names::device_id(user.id, new.platform, new.token.reveal());
    let device = Device {
        id,
        user: user.id,
        platform: new.platform,
        app: new.app,
        token: new.token,
        registered_at: shared.intake.now(),
    };
    let audit =
        shared.note(&head, &actor.caller, user.org, "device.register", format!("device:{id}"));
    let expected = Change::Expect(Expectation::Devices(user.id, id, DEVICES_MAX));
    let changes = vec![expected, Change::ClaimDevice(device)];
    let change = RecordChange { org: user.org, changes, audit, notifications: Vec::new() };
    let answer = Answer::plain(204, Bytes::new());
    match shared.attempt(&begun, change, &answer).await {
        Err(ChangeError::Store(StoreError::Unmet { .. })) => {
            Err(refused(format!("A user has at most {DEVICES_MAX} devices.")))
        }
        other => Ok(other?),
    }
}

/// Whose device it is: a user-scoped caller's own, or any user's within an organization's reach.
async fn owner(shared: &Shared, actor: &Actor, named: Option<UserId>) -> Result<User, Failure> {
    match (actor.user(), named) {
        (Some(own), None) => Ok(own.clone()),
        (Some(own), Some(id)) if own.id == id => Ok(own.clone()),
        (Some(_), Some(_)) => {
            Err(forbidden("User-scoped authentication registers devices of its own user only."))
        }
        (None, named) => shared.reached_user(actor, named.unwrap_or(UserId(0))).await,
    }
}
