//! Sends each event on the channels its organization chose for it.
//!
//! Settings: `route.<event>`, else `route.*`: channels separated by commas, or `none` to send nothing.

use bugler_rules_sdk::prelude::*;

/// Narrows the plan to the chosen channels; without a choice the plan stays.
#[route]
fn event_routing(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let own = cx.config(&format!("route.{}", item.event()));
    let Some(choice) = own.or_else(|| cx.config("route.*")) else { return abstain("no_rule") };
    if choice.trim() == "none" {
        return drop_("event_off");
    }
    let Some(chosen) = choice.split(',').map(channel).collect::<Option<Vec<_>>>() else {
        cx.log(Level::Warn, "a route names a channel other than apns, fcm, slack, webhook, email");
        return abstain("bad_setting");
    };
    let plan = item.plan_where(|target| chosen.contains(&Chosen::of(target)));
    if plan.steps.is_empty() { drop_("no_such_target") } else { deliver(plan, "routed") }
}

/// A channel as people name it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Channel(Channel),
    Email,
}

impl Chosen {
    fn of(target: &Target) -> Self {
        if target.is_email() { Self::Email } else { Self::Channel(target.channel) }
    }
}

fn channel(name: &str) -> Option<Chosen> {
    match name.trim() {
        "apns" => Some(Chosen::Channel(Channel::Apns)),
        "fcm" => Some(Chosen::Channel(Channel::Fcm)),
        "slack" => Some(Chosen::Channel(Channel::Slack)),
        "webhook" => Some(Chosen::Channel(Channel::Webhook)),
        "email" => Some(Chosen::Email),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::bindings::router::Decision;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    fn ask(settings: &[(&str, &str)], event: &str) -> Routed {
        let recipient = user(&[Channel::Apns, Channel::Slack, Channel::Fcm]);
        FakeHost::at("12:00", settings).ask(event_routing, notification(event), recipient)
    }

    fn targets(answer: Routed) -> Vec<u32> {
        let Decision::Deliver(plan) = answer.decision else { panic!("{answer:?}") };
        plan.steps.into_iter().flat_map(|step| step.targets).collect()
    }

    #[test]
    fn keeps_the_plan_of_an_event_nobody_routed() {
        assert_eq!(ask(&[("route.other", "slack")], "build"), abstain("no_rule"));
    }

    #[test]
    fn sends_only_on_the_chosen_channels() {
        assert_eq!(targets(ask(&[("route.build", "slack, fcm")], "build")), [1, 2]);
    }

    #[test]
    fn prefers_the_events_own_route_over_the_general_one() {
        let settings = [("route.*", "none"), ("route.build", "apns")];
        assert_eq!(targets(ask(&settings, "build")), [0]);
        assert_eq!(ask(&settings, "other"), drop_("event_off"));
    }

    #[test]
    fn tells_a_mailbox_from_a_webhook() {
        let mut recipient = user(&[Channel::Apns, Channel::Webhook, Channel::Webhook]);
        recipient.targets[2].app = "email".into();
        let ask = |route: &str| {
            let host = FakeHost::at("12:00", &[("route.build", route)]);
            targets(host.ask(event_routing, notification("build"), recipient.clone()))
        };
        assert_eq!(ask("email"), [2]);
        assert_eq!(ask("webhook"), [1]);
        assert_eq!(ask("apns,email"), [0, 2]);
    }

    #[test]
    fn drops_what_has_no_target_on_the_chosen_channels() {
        assert_eq!(ask(&[("route.build", "webhook")], "build"), drop_("no_such_target"));
    }

    #[test]
    fn keeps_the_plan_if_the_route_names_an_unknown_channel() {
        assert_eq!(ask(&[("route.build", "slack,pager")], "build"), abstain("bad_setting"));
    }
}
