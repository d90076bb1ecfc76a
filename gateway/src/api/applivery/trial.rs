//! A test delivery: one try with the real provider, whose end the caller waits for.

use super::events::Happened;
use super::{Entered, enter, find, wire};
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::Call;
use crate::api::shared::{Head, Turn};
use crate::api::{Answered, Shared};
use crate::auth::Permission;
use crate::intake::{Answer, RecordChange};
use crate::model::{Notification, Organization, Source, Subscription};
use serde_json::json;
use serde_json::value::to_raw_value;

/// `POST …/organizations/{org}/notifications/{id}/test`
///
/// The answer never says why nothing arrived: causes would tell what our network looks like.
pub(super) async fn test(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let permission = Permission::SubscriptionUpdate;
    let Entered { caller, organization } =
        enter(&shared, &request.headers, &params, permission).await?;
    let found = find(&shared, &organization, &params).await?;
    let head = Head::of(request);
    let org = organization.id;
    let mut begun = match shared.turn(head.key(org, &[])?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    let notification = notification(&shared, &organization, &found)?;
    let Some(trial) =
        shared.hooks.send_once(notification, shared.store.vault().target(&found)).await
    else {
        let text = "too many test deliveries are under way";
        return Err(Failure::new(FailureClass::Overloaded, text));
    };
    let mut data = json!({ "delivered": trial.delivered });
    if let Some(status) = trial.status {
        data["httpStatus"] = status.into();
    }
    let audit =
        shared.note(&head, &caller, org, "subscription.test", format!("subscription:{}", found.id));
    let change = RecordChange { org, changes: Vec::new(), audit, notifications: Vec::new() };
    let answer = Answer::plain(200, wire::answer(&data));
    let told = shared.change(&mut begun, change, answer).await?;
    told.ok_or_else(|| Failure::new(FailureClass::Internal, "a change of nothing was refused"))
}

fn notification(
    shared: &Shared,
    organization: &Organization,
    subscription: &Subscription,
) -> Result<Notification, Failure> {
    let now = shared.intake.now();
    let data =
        json!({ "id": subscription.id.to_string(), "message": "A test, as it was asked for" });
    let data = to_raw_value(&data).expect("text and text make a JSON object");
    let happened = Happened::test();
    let content = happened.content(organization, &data, now)?;
    let (id, event) = (shared.intake.mint(), happened.event);
    let blank = Notification::due(id, organization.id, Source::Applivery, event, now);
    Ok(Notification { content, ..blank })
}
