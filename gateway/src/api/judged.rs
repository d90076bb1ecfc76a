//! The last word on what a caller may do: the built-in check, and the authorize rules over it.

use crate::api::failure::{Failure, FailureClass};
use crate::api::signed::Signed;
use crate::auth::{Permission, Scope};
use crate::model::OrganizationId;
use crate::rules::{AuthorizeItem, Hook, PrincipalKind, PrincipalView};

impl Signed {
    /// Refuses a caller that may not do what `permission` allows.
    pub(crate) async fn require(&self, permission: Permission) -> Result<(), Failure> {
        let is_held = self.may(permission);
        let or_else = || {
            let text = format!("this needs the permission {}", permission.as_str());
            Failure::new(FailureClass::Forbidden, text)
        };
        self.judge((permission.as_str(), is_held), self.organization, or_else).await
    }

    /// Has the authorize rules judge `action` in `org`, after the built-in check said whether it
    /// `is_held`. `refusal` is what the built-in check would answer.
    pub(crate) async fn judge(
        &self,
        (action, is_held): (&str, bool),
        org: OrganizationId,
        refusal: impl FnOnce() -> Failure + Send,
    ) -> Result<(), Failure> {
        if !self.rules.has(Hook::Authorize, org) {
            return if is_held { Ok(()) } else { Err(refusal()) };
        }
        let mut principal = self.principal();
        // Some actions need several rights and have a name of their own; a rule that compares names
        // must not lock out who has them all.
        if is_held && !principal.permissions.iter().any(|held| held == action) {
            principal.permissions.push(action.to_owned());
        }
        let item = AuthorizeItem {
            principal,
            action: action.to_owned(),
            org,
            resource: None,
            required: vec![action.to_owned()],
            is_allowed: is_held,
        };
        let Some(answer) = self.rules.authorize(self.asked_at, vec![item]).await.pop() else {
            return Err(refusal());
        };
        match answer.denied {
            None if answer.is_allowed => Ok(()),
            None => Err(refusal()),
            Some((rule, code)) => {
                let text = format!("the rule {rule} does not allow {action}: {code}");
                Err(Failure::new(FailureClass::Forbidden, text))
            }
        }
    }

    fn principal(&self) -> PrincipalView {
        let kind = match self.scope {
            Scope::User(_) => PrincipalKind::User,
            Scope::Organization if self.client.is_some() => PrincipalKind::Service,
            Scope::Organization => PrincipalKind::Organization,
        };
        let id = match self.scope {
            Scope::User(user) => user.to_string(),
            Scope::Organization => self.organization.to_string(),
        };
        let held = Permission::ALL.into_iter().filter(|permission| self.may(*permission));
        PrincipalView {
            kind,
            id,
            org: self.organization.to_string(),
            roles: self.role().map(|role| role.name.clone()).into_iter().collect(),
            permissions: held.map(|permission| permission.as_str().to_owned()).collect(),
        }
    }
}
