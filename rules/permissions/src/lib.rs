//! Refuses what a principal has no permission for, by every dialect's names for the same right.
//!
//! Blynk's, Applivery's and ZITADEL's names are one table; other names stand for themselves.

use bugler_rules_sdk::prelude::*;

/// Names of one right: the gateway's own, and that of the dialect that documents it.
const NAMES: [(&str, &str); 9] = [
    ("subscription.list", "base.organization.notification.list"),
    ("subscription.get", "base.organization.notification.get"),
    ("subscription.create", "base.organization.notification.create"),
    ("subscription.update", "base.organization.notification.update"),
    ("subscription.delete", "base.organization.notification.delete"),
    ("user.view", "ORG_VIEW_USERS"),
    ("user.invite", "ORG_INVITE_USERS"),
    ("user.edit", "ORG_EDIT_USERS"),
    ("user.transfer", "TRANSFER_USER"),
];
/// Lets a user act in other organizations.
const SWITCH: &str = "ORG_SWITCH";

#[authorize]
fn permissions(request: &Request<'_>, _cx: &Cx<'_>) -> Authorized {
    let principal = request.principal();
    let is_elsewhere = principal.org_id != request.org_id();
    // A token of an organization also counts in those below it, which the gateway has checked.
    if is_elsewhere && principal.kind == PrincipalKind::User && !holds(principal, SWITCH) {
        return deny("other_org");
    }
    if let Some(missing) = request.required().iter().find(|name| !holds(principal, name)) {
        return deny("missing_permission").detail(missing.as_str());
    }
    if request.action() == "users.role.set" && request.resource_id() == Some(&principal.id) {
        return deny("own_role");
    }
    allow("has_permissions")
}

fn holds(principal: &Principal, name: &str) -> bool {
    // Mostly both sides use the same names, and comparing those takes no table.
    principal.has(name) || {
        let wanted = canonical(name);
        principal.permissions.iter().any(|own| canonical(own) == wanted)
    }
}

fn canonical(name: &str) -> &str {
    NAMES.iter().find(|(_, dialect)| *dialect == name).map_or(name, |(own, _)| own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, request};

    fn may(held: &[&str], required: &str) -> Authorized {
        FakeHost::at("12:00", &[]).may(permissions, request("users.invite", held, required))
    }

    #[test]
    fn allows_who_has_every_permission() {
        assert_eq!(may(&["ORG_INVITE_USERS"], "ORG_INVITE_USERS"), allow("has_permissions"));
    }

    #[test]
    fn refuses_who_lacks_one_and_names_it() {
        let refused = deny("missing_permission").detail("ORG_INVITE_USERS");
        assert_eq!(may(&["ORG_VIEW_USERS"], "ORG_INVITE_USERS"), refused);
    }

    #[test]
    fn knows_a_right_by_every_dialects_name() {
        assert_eq!(may(&["user.invite"], "ORG_INVITE_USERS"), allow("has_permissions"));
        let create = "base.organization.notification.create";
        assert_eq!(may(&[create], "subscription.create"), allow("has_permissions"));
    }

    #[test]
    fn keeps_a_user_in_the_own_organization_unless_it_may_switch() {
        let ask = |held: &[&str], kind| {
            let mut elsewhere = request("users.view", held, "ORG_VIEW_USERS");
            elsewhere.org_id = "202".into();
            elsewhere.principal.kind = kind;
            FakeHost::at("12:00", &[]).may(permissions, elsewhere)
        };
        let held = ["ORG_VIEW_USERS", SWITCH];
        assert_eq!(ask(&held[..1], PrincipalKind::User), deny("other_org"));
        assert_eq!(ask(&held, PrincipalKind::User), allow("has_permissions"));
        assert_eq!(ask(&held[..1], PrincipalKind::Organization), allow("has_permissions"));
    }

    #[test]
    fn lets_nobody_set_the_own_role() {
        let ask = |of: &str| {
            let mut own = request("users.role.set", &["ORG_EDIT_USERS"], "ORG_EDIT_USERS");
            own.resource_id = Some(of.into());
            FakeHost::at("12:00", &[]).may(permissions, own)
        };
        assert_eq!(ask("7"), deny("own_role"));
        assert_eq!(ask("8"), allow("has_permissions"));
    }
}
