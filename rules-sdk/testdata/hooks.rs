//! A rule with every hook, told what to answer by what it is asked about. The gateway's tests run it.

#![cfg(target_arch = "wasm32")]

use bugler_rules_sdk::prelude::*;

const MINUTE: u32 = 60_000;

#[expect(clippy::panic, reason = "a rule that panics is what one action asks for")]
fn authorize(request: &Request<'_>, cx: &Cx<'_>) -> Authorized {
    match request.action() {
        "deny" => deny("told_to").detail("because"),
        "grant" => allow("told_to"),
        "trap" => panic!("on purpose"),
        "spin" => loop {
            std::hint::black_box(cx.now());
        },
        _ => no_opinion(),
    }
}

#[expect(clippy::panic, reason = "a rule that panics is what one title asks for")]
fn route(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let count = || cx.counters().add("n", 1, MINUTE).unwrap_or_default();
    match item.notification().title.as_str() {
        "count" => abstain(&format!("n_{}", count())),
        "count_and_break" => panic!("on purpose, after {}", count()),
        "peek" => abstain(&format!("n_{}", cx.counters().peek("n", MINUTE).unwrap_or_default())),
        "take" => match cx.counters().take("t", 1, MINUTE, 2) {
            Ok(true) => abstain("taken"),
            Ok(false) => abstain("empty"),
            Err(_) => abstain("refused"),
        },
        "keep" => {
            let before = cx.kv().get("k").is_some();
            let kept = cx.kv().set("k", b"v", MINUTE).is_ok();
            abstain(if before {
                "was_there"
            } else if kept {
                "kept"
            } else {
                "refused"
            })
        }
        "flood" => {
            let refused = (0..20).filter(|_| cx.counters().add("f", 1, MINUTE).is_err()).count();
            abstain(&format!("refused_{refused}"))
        }
        "digest" => digest(item.event(), cx.now() + 60_000, 3, "collected"),
        "code" => abstain(&format!("code_{}", item.notification().body)),
        "config" => abstain(&cx.config("word").unwrap_or_else(|| "none".into())),
        _ => abstain("v1"),
    }
}

#[expect(clippy::panic, reason = "a rule that panics is what one title asks for")]
fn transform(payload: &Payload<'_>, _cx: &Cx<'_>) -> Transformed {
    match payload.notification().title.as_str() {
        "redact" => patch(vec![set("/body", "\"•••\""), remove("/data/secret")], "redacted"),
        "drop" => drop_payload("told_to"),
        "replace" => replace(r#"{"title":"t","body":"b"}"#.into(), "replaced"),
        "strange" => replace(r#"{"title":"t","body":"b","url":"x"}"#.into(), "strange"),
        "list" => replace("[]".into(), "list"),
        "nowhere" => patch(vec![remove("/nowhere")], "nowhere"),
        "trap" => panic!("on purpose"),
        _ => keep(),
    }
}

bugler_rules_sdk::export_authorize!(authorize);
bugler_rules_sdk::export_route!(route);
bugler_rules_sdk::export_transform!(transform);
