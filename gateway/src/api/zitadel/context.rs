//! Who calls, for which organization, and what handlers make of that.

use super::answer::Answer;
use super::fault::Fault;
use super::proto::{ORG_STATE_ACTIVE, ObjectDetails, Org};
use super::rpc::Needs;
use super::serve;
use super::transport::Transport;
use crate::api::failure::{Failure, FailureClass};
use crate::api::shared::{Head, Turn};
use crate::api::signed::{ADMIN, Signed};
use crate::api::{Answered, Shared};
use crate::auth::Caller;
use crate::intake::{self, RecordChange, RequestKey};
use crate::model::{AuditNote, Organization, OrganizationId, PolicyOwner};
use crate::store::{Change, OrganizationRef};
use http::{HeaderMap, HeaderName};
use std::sync::Arc;

const ORGANIZATION: HeaderName = HeaderName::from_static("x-zitadel-orgid");
/// Digits of an organization's number.
const NUMERIC_MAX: usize = 20;

/// Who calls, and the organization the call is about.
pub(super) struct Access {
    pub(super) caller: Signed,
    pub(super) organization: Arc<Organization>,
}

/// Authenticates, counts, finds the organization, checks the right, in this order.
pub(super) async fn access(
    shared: &Shared,
    needs: Needs,
    headers: &HeaderMap,
) -> Result<Access, Fault> {
    let caller = shared.caller(headers).await?;
    shared.throttle(caller.organization)?;
    let organization = organization(shared, &caller, headers).await?;
    let (asked, is_held) = match needs {
        Needs::Nothing => return Ok(Access { caller, organization }),
        Needs::Organization(permission) => (permission, caller.may(permission)),
        Needs::Instance(permission) => {
            let is_admin = caller.user().is_none_or(|user| user.role == ADMIN);
            let is_instance = instance(shared).await?.id == caller.organization;
            (permission, is_admin && is_instance && caller.may(permission))
        }
    };
    let refusal = || Failure::new(FailureClass::Forbidden, "this needs another permission");
    caller.judge((asked.as_str(), is_held), organization.id, refusal).await?;
    Ok(Access { caller, organization })
}

/// The organization of `x-zitadel-orgid`, or the caller's own. One that is not there and one the
/// caller may not act for are told apart by nothing.
async fn organization(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Arc<Organization>, Fault> {
    let mut sent = headers.get_all(ORGANIZATION).iter();
    let which = match (sent.next(), sent.next()) {
        (None, _) => OrganizationRef::Id(caller.organization),
        (Some(id), None) if id.is_empty() => OrganizationRef::Id(caller.organization),
        (Some(id), None) => {
            let id = id.to_str().map_err(|_| Fault::organization())?;
            let is_numeric = (1..=NUMERIC_MAX).contains(&id.len())
                && id.bytes().all(|digit| digit.is_ascii_digit());
            if !is_numeric {
                return Err(Fault::organization());
            }
            OrganizationRef::Numeric(id.to_owned())
        }
        (Some(_), Some(_)) => return Err(Fault::organization()),
    };
    match shared.reach(caller, which).await? {
        Some((organization, true)) => Ok(organization),
        _ => Err(Fault::organization()),
    }
}

/// The organization that owns what belongs to the whole server: the one that was there first.
async fn instance(shared: &Shared) -> Result<Arc<Organization>, Fault> {
    let missing = || Failure::new(FailureClass::Internal, "the server has no organization");
    let first = shared.store.first_organization().await?.ok_or_else(missing)?;
    let found = shared.store.organization(OrganizationRef::Id(first)).await?;
    Ok(found.ok_or_else(missing)?)
}

/// What handlers work with.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) access: Access,
    pub(super) head: Head,
    pub(super) key: Option<RequestKey>,
    pub(super) transport: Transport,
}

impl Context<'_> {
    pub(super) fn organization(&self) -> &Organization {
        &self.access.organization
    }

    pub(super) async fn instance(&self) -> Result<Arc<Organization>, Fault> {
        instance(self.shared).await
    }

    /// An answer that changes nothing.
    pub(super) fn read(&self, answer: &Answer) -> Answered {
        Answered::Other(serve::plain(self.transport, answer))
    }

    /// An answer that is stored with the change it tells of.
    pub(super) fn stored(&self, answer: &Answer) -> intake::Answer {
        intake::Answer::plain(200, self.transport.encode(answer))
    }

    pub(super) async fn turn(&self) -> Result<Turn, Fault> {
        Ok(self.shared.turn(self.key).await?)
    }

    /// A change of `org`'s records with its line for the audit trail.
    pub(super) fn record(
        &self,
        org: OrganizationId,
        changes: Vec<Change>,
        (action, object): (&str, String),
    ) -> RecordChange {
        let audit = self.note(org, action, object);
        RecordChange { org, changes, audit, notifications: Vec::new() }
    }

    pub(super) fn note(&self, org: OrganizationId, action: &str, object: String) -> AuditNote {
        self.shared.note(&self.head, &self.access.caller, org, action, object)
    }

    pub(super) async fn my_organization(&self) -> Result<Answered, Fault> {
        let organization = self.organization();
        let owner = PolicyOwner::Organization(organization.id);
        let changed_at = organization.created_at.max(organization.profile.modified_at);
        let details = ObjectDetails {
            sequence: self.shared.store.sequence(owner).await?,
            creation_date: Some(organization.created_at.into()),
            change_date: Some(changed_at.into()),
            resource_owner: organization.numeric.clone(),
        };
        Ok(self.read(&Answer::Org(Org {
            id: organization.numeric.clone(),
            details: Some(details),
            state: ORG_STATE_ACTIVE,
            name: organization.name.clone(),
            primary_domain: String::new(),
        })))
    }
}
