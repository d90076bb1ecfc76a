//! What this rule decides, and why. Settings: `event`, which event it is about.

use bugler_rules_sdk::prelude::*;

/// Sends nothing of low priority about the event of the setting; everything else is as it was.
#[route]
fn rule(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let event = cx.config("event").unwrap_or_else(|| String::from("marketing"));
    if item.event() != event {
        return abstain("other_event");
    }
    if item.priority() == Priority::Low { drop_("low_priority") } else { abstain("not_low") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    #[test]
    fn drops_what_is_low() {
        let low = Notification { priority: Priority::Low, ..notification("marketing") };
        let answer = FakeHost::at("12:00", &[]).ask(rule, low, user(&[Channel::Apns]));
        assert_eq!(answer, drop_("low_priority"));
    }
}
