//! Hides e-mail addresses, phone numbers, card numbers and IBANs in what is shown.
//!
//! Settings: `find` (default `email,phone,card,iban`), `mask` (default `•••`), `except`: channels that are
//! left alone, for example `email`, since a mail goes to its owner's mailbox.

use bugler_rules_sdk::json::{Text, quoted, texts_where};
use bugler_rules_sdk::prelude::*;

mod scan;
pub use scan::{Kind, find};

const MASK: &str = "•••";
/// Where a mail's button leads may not change.
const FIXED: &str = "/button/url";
/// An image whose address says too much is not shown.
const IMAGE: &str = "/imageUrl";
/// A patch has no more edits, and no longer or deeper pointers.
const EDITS_MAX: usize = 256;
const POINTER_BYTES_MAX: usize = 512;
const POINTER_DEPTH_MAX: usize = 16;

#[transform]
fn pii_redaction(payload: &Payload<'_>, cx: &Cx<'_>) -> Transformed {
    let except = cx.config("except").unwrap_or_default();
    if except.split(',').any(|name| name.trim() == channel(payload)) {
        return keep();
    }
    let Some(kinds) = kinds(cx) else { return drop_payload("bad_setting") };
    let mask = cx.config("mask").unwrap_or_else(|| String::from(MASK));
    let hidden = texts_where(payload.json(), |pointer, text| {
        if pointer == FIXED { None } else { hide(text, &kinds, &mask) }
    });
    let Ok(hidden) = hidden else { return drop_payload("no_json") };
    match hidden.as_slice() {
        [] => keep(),
        some if some.iter().all(|(text, _)| fits(&text.pointer)) && some.len() <= EDITS_MAX => {
            patch(some.iter().map(edit).collect(), "redacted")
        }
        many => replace(rewritten(payload.json(), many), "redacted"),
    }
}

fn channel(payload: &Payload<'_>) -> &'static str {
    match payload.channel() {
        Channel::Apns => "apns",
        Channel::Fcm => "fcm",
        Channel::Slack => "slack",
        Channel::Webhook if payload.is_email() => "email",
        Channel::Webhook => "webhook",
    }
}

/// `None` if the setting names something unknown: then nothing may be shown.
fn kinds(cx: &Cx<'_>) -> Option<Vec<Kind>> {
    let Some(names) = cx.config("find") else { return Some(Kind::ALL.to_vec()) };
    names.split(',').map(|name| Kind::named(name.trim())).collect()
}

/// `text` with the mask in place of everything found, if anything is.
fn hide(text: &str, kinds: &[Kind], mask: &str) -> Option<String> {
    let mut shown = String::new();
    let mut from = 0;
    for place in find(text, kinds) {
        shown.push_str(text.get(from..place.start)?);
        shown.push_str(mask);
        from = place.end;
    }
    if from == 0 {
        return None;
    }
    shown.push_str(text.get(from..)?);
    Some(shown)
}

fn fits(pointer: &str) -> bool {
    pointer.len() <= POINTER_BYTES_MAX && pointer.matches('/').count() <= POINTER_DEPTH_MAX
}

fn edit((text, shown): &(Text, String)) -> Edit {
    if text.pointer == IMAGE { remove(IMAGE) } else { set(&text.pointer, quoted(shown)) }
}

/// The whole payload with the strings in their places.
fn rewritten(json: &str, hidden: &[(Text, String)]) -> String {
    let mut whole = String::with_capacity(json.len());
    let mut from = 0;
    for (text, shown) in hidden {
        whole.push_str(json.get(from..text.place.start).unwrap_or_default());
        // An image needs an address; null is none.
        let value = if text.pointer == IMAGE { String::from("null") } else { quoted(shown) };
        whole.push_str(&value);
        from = text.place.end;
    }
    whole.push_str(json.get(from..).unwrap_or_default());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_rules_sdk::testing::{FakeHost, notification, user};

    fn show(settings: &[(&str, &str)], channel: Channel, json: &str) -> Transformed {
        let who = (notification("build"), user(&[channel]));
        FakeHost::at("12:00", settings).show(pii_redaction, who, (channel, json))
    }

    #[test]
    fn leaves_what_says_nothing_personal_alone() {
        let json = r#"{"title":"Build 4711","body":"done at 2026-03-29 01:30:00","data":{"n":1}}"#;
        assert_eq!(show(&[], Channel::Slack, json), keep());
    }

    #[test]
    fn edits_every_string_with_something_personal() {
        let json = r#"{"title":"ann@example.com","body":"ok","data":{"to/do":["call +380 44 123 45 67"]}}"#;
        let edits = vec![set("/title", "\"•••\""), set("/data/to~1do/0", "\"call •••\"")];
        assert_eq!(show(&[], Channel::Slack, json), patch(edits, "redacted"));
    }

    #[test]
    fn looks_only_for_what_it_was_told_and_masks_as_told() {
        let json = r#"{"title":"ann@example.com","body":"4111 1111 1111 1111"}"#;
        let settings = [("find", "card"), ("mask", "[card]")];
        let edits = vec![set("/body", "\"[card]\"")];
        assert_eq!(show(&settings, Channel::Slack, json), patch(edits, "redacted"));
    }

    #[test]
    fn shows_nothing_with_a_setting_it_cannot_read() {
        let answer = show(&[("find", "email,shoe-size")], Channel::Slack, "{}");
        assert_eq!(answer, drop_payload("bad_setting"));
    }

    #[test]
    fn leaves_excepted_channels_alone() {
        let json = r#"{"title":"ann@example.com"}"#;
        let settings = [("except", "apns, email")];
        assert_eq!(show(&settings, Channel::Apns, json), keep());
        assert_ne!(show(&settings, Channel::Webhook, json), keep());
        let mut owner = user(&[Channel::Webhook]);
        owner.targets[0].app = "email".into();
        let host = FakeHost::at("12:00", &settings);
        let who = (notification("invite"), owner);
        assert_eq!(host.show(pii_redaction, who, (Channel::Webhook, json)), keep());
    }

    #[test]
    fn an_image_goes_and_a_button_stays() {
        let json = r#"{"imageUrl":"https://e/?m=a@example.com","button":{"url":"https://e/?m=a@example.com"}}"#;
        let gone = patch(vec![remove("/imageUrl")], "redacted");
        assert_eq!(show(&[], Channel::Slack, json), gone);
    }

    #[test]
    fn rewrites_the_whole_where_a_patch_has_no_room() {
        let many = vec!["\"a@example.com\""; EDITS_MAX + 1].join(",");
        let masked = vec!["\"•••\""; EDITS_MAX + 1].join(",");
        let answer = show(&[], Channel::Slack, &format!(r#"{{"data":{{"x":[{many}],"n":1}}}}"#));
        let expected = format!(r#"{{"data":{{"x":[{masked}],"n":1}}}}"#);
        assert_eq!(answer, replace(expected, "redacted"));
    }
}
