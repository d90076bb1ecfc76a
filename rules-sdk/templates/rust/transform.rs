//! What this rule shows, and why. Settings: `sign`, what stands before each title.

use bugler_rules_sdk::json::{quoted, texts};
use bugler_rules_sdk::prelude::*;

/// Puts a sign before the title.
#[transform]
fn rule(payload: &Payload<'_>, cx: &Cx<'_>) -> Transformed {
    let sign = cx.config("sign").unwrap_or_else(|| String::from("[test]"));
    let texts = texts(payload.json()).unwrap_or_default();
    match texts.iter().find(|text| text.pointer == "/title") {
        Some(title) => {
            patch(vec![set("/title", quoted(&format!("{sign} {}", title.value)))], "signed")
        }
        None => keep(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    #[test]
    fn signs_the_title() {
        let who = (notification("build"), user(&[Channel::Slack]));
        let shown = (Channel::Slack, r#"{"title":"Hi"}"#);
        let answer = FakeHost::at("12:00", &[]).show(rule, who, shown);
        assert_eq!(answer, patch(vec![set("/title", "\"[test] Hi\"")], "signed"));
    }
}
