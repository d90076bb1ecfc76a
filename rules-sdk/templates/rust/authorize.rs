//! What this rule decides, and why.

use bugler_rules_sdk::prelude::*;

/// Nobody but a service may send to everybody; the other rules and roles decide the rest.
#[authorize]
fn rule(request: &Request<'_>, _cx: &Cx<'_>) -> Authorized {
    let is_send = request.action() == "notification.send";
    if is_send && request.principal().kind == PrincipalKind::User {
        return deny("users_may_not_send");
    }
    no_opinion()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, request};

    #[test]
    fn users_may_not_send() {
        let answer = FakeHost::at("12:00", &[]).may(rule, request("notification.send", &[], "x"));
        assert_eq!(answer, deny("users_may_not_send"));
    }
}
