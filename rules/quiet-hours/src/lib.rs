//! Holds what is not critical while it is night where the recipient lives.
//!
//! Settings: `from` (default `22:00`) and `to` (default `07:00`), local time of the recipient.

use bugler_rules_sdk::prelude::*;

const FROM: TimeOfDay = TimeOfDay::new(22, 0).expect("22:00 is a time");
const TO: TimeOfDay = TimeOfDay::new(7, 0).expect("07:00 is a time");

/// Holds until `to`, or drops what would expire before that.
#[route]
fn quiet_hours(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    if item.priority() == Priority::Critical {
        return abstain("critical");
    }
    let Some(tz) = &item.recipient().tz else { return abstain("no_tz") };
    let (Ok(from), Ok(to)) = (cx.setting("from", FROM), cx.setting("to", TO)) else {
        return abstain("bad_setting");
    };
    let (Ok(local), Ok(wake)) = (cx.local(tz), cx.next_local(tz, to)) else {
        return abstain("bad_tz");
    };
    if !local.time_of_day().is_within(from, to) {
        return abstain("awake");
    }
    if item.notification().expires_at.is_some_and(|end| end <= wake) {
        return drop_("expires_asleep");
    }
    hold(wake, "quiet_hours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    const HOUR: u64 = 3_600_000;

    fn at(time: &str) -> Routed {
        FakeHost::at(time, &[]).ask(quiet_hours, notification("build"), user(&[Channel::Apns]))
    }

    #[test]
    fn holds_at_night_until_the_morning() {
        assert_eq!(at("22:00"), hold((24 + 7) * HOUR, "quiet_hours"));
        assert_eq!(at("06:59"), hold(7 * HOUR, "quiet_hours"));
    }

    #[test]
    fn lets_pass_by_day() {
        assert_eq!(at("07:00"), abstain("awake"));
        assert_eq!(at("21:59"), abstain("awake"));
    }

    #[test]
    fn lets_critical_pass_at_night() {
        let critical = Notification { priority: Priority::Critical, ..notification("alarm") };
        let answer = FakeHost::at("03:00", &[]).ask(quiet_hours, critical, user(&[Channel::Apns]));
        assert_eq!(answer, abstain("critical"));
    }

    #[test]
    fn drops_what_expires_before_the_morning() {
        let short = Notification { expires_at: Some(6 * HOUR), ..notification("build") };
        let answer = FakeHost::at("03:00", &[]).ask(quiet_hours, short, user(&[Channel::Apns]));
        assert_eq!(answer, drop_("expires_asleep"));
    }

    #[test]
    fn abstains_without_a_usable_zone_or_setting() {
        let night = FakeHost::at("03:00", &[]);
        let with_tz = |tz: Option<&str>| Recipient { tz: tz.map(Into::into), ..user(&[]) };
        assert_eq!(night.ask(quiet_hours, notification("b"), with_tz(None)), abstain("no_tz"));
        assert_eq!(
            night.ask(quiet_hours, notification("b"), with_tz(Some("Mars"))),
            abstain("bad_tz")
        );
        let broken = FakeHost::at("03:00", &[("to", "late")]);
        assert_eq!(broken.ask(quiet_hours, notification("b"), user(&[])), abstain("bad_setting"));
    }
}
