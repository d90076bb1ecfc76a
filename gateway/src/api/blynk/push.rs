//! `POST …/users/send-push-notification`: to every device of one user.

use super::actor::{Actor, forbidden};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::route::Call;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared, json};
use crate::auth::Permission;
use crate::intake::Answer;
use crate::model::{Audience, Content, Notification, Priority, Source, UserId};
use bytes::Bytes;

struct Push {
    user: UserId,
    title: String,
    body: String,
    image_url: Option<String>,
}

impl Push {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let user = fields.required_integer::<i64>("userId", &mut faults);
        let title = fields.required_text("title", 50, &mut faults);
        let text = fields.text("body", 255, &mut faults);
        let image_url = fields.text("imageUrl", 1024, &mut faults);
        let is_https = |url: &str| {
            url::Url::parse(url)
                .is_ok_and(|url| url.scheme() == "https" && url.host_str().is_some())
        };
        if image_url.is_some_and(|url| !is_https(url)) {
            faults.add("imageUrl", "must be an https URL");
        }
        faults.into_result()?;
        Ok(Self {
            user: UserId(user.unwrap_or_default()),
            title: title.unwrap_or_default().to_owned(),
            body: text.unwrap_or_default().to_owned(),
            image_url: image_url.map(str::to_owned),
        })
    }
}

/// `POST …/users/send-push-notification`
pub(super) async fn push(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    shared.throttle(actor.org())?;
    if !actor.is_organization() {
        let text =
            "This endpoint is available only when organization-scoped authentication is used.";
        return Err(forbidden(text));
    }
    actor.require(&[Permission::NotificationSend]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let push = Push::parse(&body)?;
    let user = shared.reached_user(&actor, push.user).await?;
    let key = head.key(actor.org(), &body)?;
    let now = shared.intake.now();
    shared
        .accept(key, || {
            let id = shared.intake.mint();
            let answer = Answer { status: 204, notification: id, body: Bytes::new() };
            let notification = Notification {
                id,
                org: user.org,
                source: Source::Blynk,
                event: String::from("push.direct"),
                audience: Audience::Users(vec![push.user]),
                content: Content {
                    title: push.title,
                    body: push.body,
                    image_url: push.image_url,
                    data: String::new(),
                },
                priority: Priority::default(),
                collapse_key: None,
                created_at: now,
                created_by: actor.caller.name(),
                start_at: now,
                expires_at: None,
                dialect_fields: String::new(),
                mail: None,
                inbox: false,
            };
            Ok((notification, answer))
        })
        .await
}
