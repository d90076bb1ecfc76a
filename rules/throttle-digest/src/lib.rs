//! Lets so many notifications of an event through to each recipient, and collects the rest into one digest.
//!
//! Settings: `max` (default 5) in each `per` (default `1h`), at once up to `burst` (default `max`); the
//! rest waits for `window` (default `15m`) or until there are `items` (default 50) of them.

use bugler_rules_sdk::prelude::*;

const MAX: u32 = 5;
const PER_MS: u32 = 3_600_000;
const WINDOW_MS: u32 = 900_000;
const ITEMS: u16 = 50;

#[route]
fn throttle_digest(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    if item.priority() == Priority::Critical {
        return abstain("critical");
    }
    let Ok(terms) = Terms::of(cx) else { return abstain("bad_setting") };
    let key = format!("{}:{}", item.recipient().id, item.event());
    match cx.counters().take(&key, terms.max, terms.per_ms, terms.burst) {
        Ok(true) => abstain("under_limit"),
        Ok(false) => digest(&key, cx.now() + u64::from(terms.window_ms), terms.items, "over_limit"),
        // Too many keys, or one too long: rather too much than lost.
        Err(_) => abstain("not_counted"),
    }
}

struct Terms {
    max: u32,
    per_ms: u32,
    burst: u32,
    window_ms: u32,
    items: u16,
}

impl Terms {
    fn of(cx: &Cx<'_>) -> Result<Self, BadSetting> {
        let max = cx.setting("max", MAX)?;
        Ok(Self {
            max,
            per_ms: cx.millis("per", PER_MS)?,
            burst: cx.setting("burst", max)?,
            window_ms: cx.millis("window", WINDOW_MS)?,
            items: cx.setting("items", ITEMS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    const NOON: u64 = 12 * 3_600_000;

    fn person(id: &str) -> Recipient {
        Recipient { id: id.into(), ..user(&[Channel::Apns]) }
    }

    #[test]
    fn collects_what_is_over_the_limit_of_one_person_and_event() {
        let host = FakeHost::at("12:00", &[("max", "2")]);
        let ask =
            |id: &str, event: &str| host.ask(throttle_digest, notification(event), person(id));
        let collected = digest("7:alarm", NOON + 900_000, 50, "over_limit");
        assert_eq!(ask("7", "alarm"), abstain("under_limit"));
        assert_eq!(ask("7", "alarm"), abstain("under_limit"));
        assert_eq!(ask("7", "alarm"), collected);
        assert_eq!(ask("7", "other"), abstain("under_limit"));
        assert_eq!(ask("8", "alarm"), abstain("under_limit"));
    }

    #[test]
    fn never_keeps_what_is_critical() {
        let host = FakeHost::at("12:00", &[("max", "0")]);
        let critical = Notification { priority: Priority::Critical, ..notification("fire") };
        assert_eq!(host.ask(throttle_digest, critical, person("7")), abstain("critical"));
    }

    #[test]
    fn waits_as_long_and_for_as_many_as_it_was_told() {
        let host = FakeHost::at("12:00", &[("burst", "0"), ("window", "1m"), ("items", "3")]);
        let answer = host.ask(throttle_digest, notification("alarm"), person("7"));
        assert_eq!(answer, digest("7:alarm", NOON + 60_000, 3, "over_limit"));
    }

    #[test]
    fn keeps_the_plan_with_a_setting_it_cannot_read() {
        let host = FakeHost::at("12:00", &[("window", "later")]);
        let answer = host.ask(throttle_digest, notification("alarm"), person("7"));
        assert_eq!(answer, abstain("bad_setting"));
    }
}
