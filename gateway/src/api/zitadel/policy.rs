//! Notification policies: an organization's own, and the server's for those that have none.

use super::answer::Answer;
use super::context::Context;
use super::fault::{Code, Fault};
use super::proto::{NotificationPolicy, ObjectDetails, Timestamp};
use crate::api::Answered;
use crate::api::failure::FailureClass;
use crate::api::notice::BY_DEFAULT;
use crate::api::shared::Turn;
use crate::model::{self, Millis, Organization, PolicyOwner};
use crate::store::{Change, Expectation};

/// What a call does to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Add(bool),
    Update(bool),
    Reset,
}

/// The ids under which clients know the refusals.
struct Ids {
    exists: &'static str,
    no_policy: &'static str,
    unchanged: &'static str,
    nothing_to_reset: &'static str,
}

const ORGANIZATION_IDS: Ids = Ids {
    exists: "Org-xa08n2",
    no_policy: "ORG-x029n3",
    unchanged: "Org-ioqnxz",
    nothing_to_reset: "ORG-x029n1s",
};

const INSTANCE_IDS: Ids = Ids {
    exists: "INSTANCE-xpo1bj",
    no_policy: "INSTANCE-x891na",
    unchanged: "INSTANCE-29x02n",
    nothing_to_reset: "INSTANCE-x891na",
};

/// The organization's policy, or the default's in its place.
pub(super) async fn get(context: &Context<'_>) -> Result<Answered, Fault> {
    let owner = PolicyOwner::Organization(context.organization().id);
    match context.shared.store.policy(owner).await? {
        Some(policy) => {
            let numeric = &context.organization().numeric;
            let policy = NotificationPolicy {
                details: Some(stored(&policy, numeric)),
                is_default: false,
                password_change: policy.password_change,
            };
            Ok(context.read(&Answer::Policy(policy)))
        }
        None => get_default(context).await,
    }
}

/// The server's policy.
pub(super) async fn get_default(context: &Context<'_>) -> Result<Answered, Fault> {
    let instance = context.instance().await?;
    let policy = context.shared.store.policy(PolicyOwner::Instance).await?;
    let (details, password_change) = match policy {
        Some(policy) => (stored(&policy, &instance.numeric), policy.password_change),
        None => (built_in(&instance), BY_DEFAULT),
    };
    let policy = NotificationPolicy { details: Some(details), is_default: true, password_change };
    Ok(context.read(&Answer::Policy(policy)))
}

/// Details of what is there from the start.
pub(super) fn built_in(instance: &Organization) -> ObjectDetails {
    let at = Some(Timestamp::from(instance.created_at));
    let resource_owner = instance.numeric.clone();
    ObjectDetails { sequence: 0, creation_date: at, change_date: at, resource_owner }
}

fn stored(policy: &model::NotificationPolicy, numeric: &str) -> ObjectDetails {
    ObjectDetails {
        sequence: policy.sequence,
        creation_date: Some(policy.created_at.into()),
        change_date: Some(policy.changed_at.into()),
        resource_owner: numeric.to_owned(),
    }
}

/// Changes the organization's policy.
pub(super) async fn edit(context: &Context<'_>, edit: Edit) -> Result<Answered, Fault> {
    let organization = context.organization();
    change(context, PolicyOwner::Organization(organization.id), organization, edit).await
}

/// Changes the server's policy.
pub(super) async fn edit_default(context: &Context<'_>, edit: Edit) -> Result<Answered, Fault> {
    let instance = context.instance().await?;
    change(context, PolicyOwner::Instance, &instance, edit).await
}

async fn change(
    context: &Context<'_>,
    owner: PolicyOwner,
    organization: &Organization,
    edit: Edit,
) -> Result<Answered, Fault> {
    let store = &context.shared.store;
    let mut begun = match context.turn().await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    loop {
        // The counter is read first: if it still holds at the end, what was read after it does.
        let sequence = store.sequence(owner).await?;
        let current = store.policy(owner).await?;
        let now = context.shared.intake.now();
        let (next, created_at) = decide(owner, current.as_ref(), edit, now)?;
        let details = ObjectDetails {
            sequence: sequence + 1,
            creation_date: Some(created_at.into()),
            change_date: Some(now.into()),
            resource_owner: organization.numeric.clone(),
        };
        let changes = vec![
            Change::Expect(Expectation::Sequence(owner, sequence)),
            Change::PutPolicy(owner, next),
        ];
        let action = match edit {
            Edit::Add(_) => "policy.add",
            Edit::Update(_) => "policy.update",
            Edit::Reset => "policy.reset",
        };
        let object = match owner {
            PolicyOwner::Instance => String::from("policy:default"),
            PolicyOwner::Organization(id) => format!("policy:{id}"),
        };
        let change = context.record(organization.id, changes, (action, object));
        let answer = context.stored(&Answer::Details(details));
        if let Some(answered) = context.shared.change(&mut begun, change, answer).await? {
            return Ok(answered);
        }
    }
}

/// The policy after `edit`, and since when there is one; refuses what the product refuses.
fn decide(
    owner: PolicyOwner,
    current: Option<&model::NotificationPolicy>,
    edit: Edit,
    now: Millis,
) -> Result<(Option<model::NotificationPolicy>, Millis), Fault> {
    let ids = match owner {
        PolicyOwner::Instance => INSTANCE_IDS,
        PolicyOwner::Organization(_) => ORGANIZATION_IDS,
    };
    let put = |password_change, created_at| {
        let policy =
            model::NotificationPolicy { password_change, created_at, changed_at: now, sequence: 0 };
        Ok((Some(policy), created_at))
    };
    match (edit, current) {
        (Edit::Add(_), Some(_)) => {
            let text = "Notification Policy already exists";
            Err(Fault::named(FailureClass::Exists, Code::AlreadyExists, ids.exists, text))
        }
        (Edit::Add(value), None) => put(value, now),
        (Edit::Update(value), Some(policy)) if value != policy.password_change => {
            put(value, policy.created_at)
        }
        (Edit::Update(_), Some(_)) => Err(unchanged(ids.unchanged)),
        // The server has a policy from the start, though it is stored nowhere.
        (Edit::Update(BY_DEFAULT), None) if owner == PolicyOwner::Instance => {
            Err(unchanged(ids.unchanged))
        }
        (Edit::Update(value), None) if owner == PolicyOwner::Instance => put(value, now),
        (Edit::Update(_), None) => Err(missing(ids.no_policy)),
        (Edit::Reset, Some(policy)) => Ok((None, policy.created_at)),
        (Edit::Reset, None) => Err(missing(ids.nothing_to_reset)),
    }
}

fn unchanged(id: &'static str) -> Fault {
    let text = "Notification Policy not changed";
    Fault::named(FailureClass::Invalid, Code::FailedPrecondition, id, text)
}

fn missing(id: &'static str) -> Fault {
    Fault::named(FailureClass::NotFound, Code::NotFound, id, "Notification Policy not found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OrganizationId;

    const OWN: PolicyOwner = PolicyOwner::Organization(OrganizationId(1));

    fn outcome(
        owner: PolicyOwner,
        current: Option<bool>,
        edit: Edit,
    ) -> Result<Option<bool>, String> {
        let current = current.map(|password_change| model::NotificationPolicy {
            password_change,
            created_at: Millis(1),
            changed_at: Millis(2),
            sequence: 3,
        });
        let decided = decide(owner, current.as_ref(), edit, Millis(9));
        let (next, created_at) =
            decided.map_err(|fault| format!("{} {}", fault.code.number(), fault.id))?;
        assert_eq!(created_at, current.map_or(Millis(9), |_| Millis(1)));
        Ok(next.map(|policy| policy.password_change))
    }

    #[test]
    fn the_states_of_an_organizations_policy_are_the_products() {
        for (current, edit, expected) in [
            (None, Edit::Add(true), Ok(Some(true))),
            (None, Edit::Add(false), Ok(Some(false))),
            (Some(true), Edit::Add(true), Err("6 Org-xa08n2")),
            (Some(true), Edit::Add(false), Err("6 Org-xa08n2")),
            (None, Edit::Update(true), Err("5 ORG-x029n3")),
            (Some(true), Edit::Update(true), Err("9 Org-ioqnxz")),
            (Some(false), Edit::Update(false), Err("9 Org-ioqnxz")),
            (Some(true), Edit::Update(false), Ok(Some(false))),
            (None, Edit::Reset, Err("5 ORG-x029n1s")),
            (Some(true), Edit::Reset, Ok(None)),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(outcome(OWN, current, edit), expected, "{current:?} {edit:?}");
        }
    }

    #[test]
    fn the_servers_policy_is_there_from_the_start() {
        let outcome = |current, edit| outcome(PolicyOwner::Instance, current, edit);
        assert_eq!(outcome(None, Edit::Update(false)), Ok(Some(false)));
        assert_eq!(outcome(None, Edit::Update(true)), Err(String::from("9 INSTANCE-29x02n")));
        assert_eq!(outcome(None, Edit::Add(true)), Ok(Some(true)));
        assert_eq!(outcome(Some(true), Edit::Add(true)), Err(String::from("6 INSTANCE-xpo1bj")));
    }
}
