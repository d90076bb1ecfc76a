//! The packed lane: the same answers as in the typed one, and answers that are none contained as there.

use super::guests::component_bytes;
use super::hooks::{request, shown};
use super::*;
use crate::rules::chain::{Chain, Memory, Rule};
use crate::rules::engine::Sandbox;
use crate::rules::items::{Payloads, Routes};
use crate::rules::{abi, packed, shipped};
use std::fmt::Debug;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

fn load(sandbox: &Sandbox, name: &str, component: &[u8]) -> Rule {
    let settings = [("route.*", "slack,fcm"), ("word", "\u{e9}t\u{e9}"), ("max", "2")];
    let config = RuleConfig {
        config: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..rule_named(name)
    };
    registry::prepare(sandbox, config, component, Arc::new(Memory::default())).unwrap().1
}

fn rule_named(name: &str) -> RuleConfig {
    RuleConfig { name: name.into(), ..RuleConfig::default() }
}

/// Items with everything that can be there and can be missing, of three notifications.
fn routes() -> Vec<RouteItem> {
    let titles = ["count", "take", "keep", "digest", "code", "config", "flood", "", "х\u{1f600}"];
    let mut first: Option<RouteItem> = None;
    let varied = |(n, title): (usize, &str)| {
        let mut asked = item(1, title);
        let notification = Arc::get_mut(&mut asked.notification).unwrap();
        if n % 2 == 0 {
            notification.content.body = "x".repeat(300 * n);
            notification.content.data = r#"{"a":{"b":[1,true,null,"y"]},"a.b":-1.5}"#.into();
            notification.collapse_key = Some("key".into());
            notification.priority = Priority::High;
            notification.expires_at = None;
            asked.recipient.email = Some("a@b.example".into());
            asked.recipient.locale = Some("uk".into());
            asked.recipient.prefs = vec![("k".into(), "v".into()), (String::new(), String::new())];
            asked.recipient.targets[0].last_ok_at = Some(Millis(u64::MAX));
            asked.recipient.targets[0].recent_failures = u16::MAX;
            asked.recipient.kind = RecipientKind::Subscription;
            asked.recipient.status = "pending";
            asked.last_outcome = Some(LastOutcome::Unregistered);
            asked.attempt = u16::MAX;
        } else {
            asked.recipient.tz = None;
            asked.recipient.roles.clear();
        }
        if n % 3 == 2
            && let Some(first) = &first
        {
            asked.notification = Arc::clone(&first.notification);
        }
        first.get_or_insert_with(|| asked.clone());
        asked
    };
    titles.into_iter().enumerate().map(varied).collect()
}

fn payloads() -> Vec<TransformItem> {
    let titles = ["redact", "drop", "replace", "strange", "list", "nowhere", "keep", "a@b.example"];
    titles.into_iter().map(shown).collect()
}

fn requests() -> Vec<AuthorizeItem> {
    let of = |action: &str| AuthorizeItem {
        principal: PrincipalView {
            permissions: vec!["user.invite".into(), "ORG_SWITCH".into()],
            roles: vec!["User".into()],
            ..request(action, true).principal
        },
        resource: (action == "deny").then(|| "7".into()),
        required: vec!["ORG_INVITE_USERS".into()],
        ..request(action, action != "grant")
    };
    ["deny", "grant", "users.role.set", "other"].map(of).into()
}

/// Everything but what the call took.
fn plain(mut decisions: Vec<RuleDecision>) -> Vec<RuleDecision> {
    for decision in &mut decisions {
        (decision.fuel, decision.micros) = (0, 0);
    }
    decisions
}

fn answers(sandbox: &Sandbox, rule: Rule) -> Vec<String> {
    let chain = Chain::fixed(&[Arc::new(rule)]);
    let (routes, payloads, requests) = (routes(), payloads(), requests());
    let text = |answer: &dyn Debug| format!("{answer:?}");
    let night = NOON.plus(11 * HOUR);
    let routed = chain.route(sandbox, night, &routes).0.into_iter();
    let routed = routed.map(|one| text(&(one.verdict, plain(one.decisions))));
    let shown = chain.transform(sandbox, night, &payloads).0.into_iter();
    let shown = shown.map(|one| text(&(one.shown, plain(one.decisions))));
    let allowed = chain.authorize(sandbox, night, &requests).0.into_iter();
    let allowed = allowed.map(|one| text(&(one.is_allowed, one.denied, plain(one.decisions))));
    routed.chain(shown).chain(allowed).collect()
}

#[test]
fn a_rule_says_the_same_in_both_lanes() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let names: Vec<_> = shipped_rules().map(str::to_owned).collect();
    let builtins = shipped::builtins(&names, usize::MAX).unwrap();
    let mut rules: Vec<_> =
        builtins.iter().map(|one| (one.name.as_str(), one.component.to_vec())).collect();
    rules.push(("hooks", component_bytes("hooks")));
    for (name, component) in rules {
        let summary = inspect(&component, usize::MAX).unwrap();
        assert!(summary.hooks.iter().all(|hook| summary.packs(*hook)), "{name}");
        let packed = load(&sandbox, name, &component);
        let typed = load(&sandbox, name, &component);
        let typed = Rule { compiled: typed.compiled.clone().typed(), ..typed };
        assert_eq!(answers(&sandbox, packed), answers(&sandbox, typed), "{name}");
    }
}

#[test]
fn what_is_packed_are_the_records_of_the_interface() {
    let (items, payloads) = (routes(), payloads());
    let plan = |item: &RouteItem| Plan {
        priority: Some(Priority::Critical),
        collapse_key: Some("k".into()),
        expires_at: Some(Millis(300)),
        ..Plan::all_targets(item.recipient.targets.len())
    };
    let plans: Vec<_> = items.iter().map(plan).collect();
    let all: Vec<_> = (0..items.len()).collect();
    for asked in [&all[..], &[5, 2, 8], &[0], &[]] {
        let bytes = Routes::new(&items, plans.clone()).pack(asked);
        let batch: abi::router::Batch = postcard::from_bytes(&bytes).unwrap();
        let plans = asked.iter().map(|at| (*at, &plans[*at]));
        let typed = abi::Questions::new(&items).some(plans);
        assert_eq!(format!("{batch:?}"), format!("{typed:?}"), "{asked:?}");
    }
    let all: Vec<_> = (0..payloads.len()).collect();
    for asked in [&all[..], &[3, 1]] {
        let bytes = Payloads::new(&payloads).pack(asked);
        let batch: abi::transformer::Batch = postcard::from_bytes(&bytes).unwrap();
        let so_far: Vec<_> = payloads.iter().map(|item| item.payload.clone()).collect();
        let typed = abi::payloads(&payloads, &so_far, asked);
        assert_eq!(format!("{batch:?}"), format!("{typed:?}"), "{asked:?}");
    }
    let bytes = packed::requests(&requests(), &[3, 0]);
    let batch: Vec<abi::authorizer::Request> = postcard::from_bytes(&bytes).unwrap();
    let typed = abi::requests(&requests(), &[3, 0]);
    assert_eq!(format!("{batch:?}"), format!("{typed:?}"));
}

/// A rule whose packed answer is `body`, which leaves the address of an address and a length; whose typed
/// one is a trap.
fn answering(data: &[u8], body: &str) -> Vec<u8> {
    let bytes: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module
          (memory (export "memory") 4)
          (data (i32.const 1024) "\00\08\00\00")
          (data (i32.const 2048) "{bytes}")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
          (func (export "bugler:rules/router@0.1.0#route")
            (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
          (func (export "bugler:rules/router-packed@0.1.0#route")
            (param i32 i32) (result i32) {body} (i32.const 1024)))"#
    );
    let mut core = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let decoded = wit_component::decode(&component_bytes("event-routing")).unwrap();
    let DecodedWasm::Component(resolve, world) = decoded else { panic!("no component") };
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&core).unwrap().encode().unwrap()
}

fn says(sandbox: &Sandbox, component: &[u8]) -> (String, Option<String>) {
    let config = rule_named("packed");
    let rule = registry::prepare(sandbox, config, component, Arc::new(Memory::default()));
    let chain = Chain::fixed(&[Arc::new(rule.unwrap().1)]);
    let routed = chain.route(sandbox, NOON, &[item(1, "x")]).0.swap_remove(0);
    (words(&routed).concat(), routed.decisions[0].detail.clone())
}

fn length(bytes: usize) -> String {
    format!("(i32.store (i32.const 1028) (i32.const {bytes}))")
}

#[test]
fn packed_answers_that_are_none_are_breaches_of_the_output() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    // One answer: abstain, a code of two bytes, no detail.
    let good = [1, 0, 2, b'o', b'k', 0];
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        bytes
    };
    let said = |data: &[u8]| says(&sandbox, &answering(data, &length(data.len())));
    assert_eq!(said(&good), ("abstain/ok".into(), None));
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for (what, data) in [
        ("nothing", vec![]),
        ("the end too early", good[..4].to_vec()),
        ("more behind the end", [&good[..], &[0]].concat()),
        ("no answer", vec![0]),
        ("two answers", with(0, 2)),
        ("as many answers as can be", [&huge[..], &good[1..]].concat()),
        ("a number without an end", vec![0xff; 40]),
        ("a decision that is none", with(1, 77)),
        ("an option that is neither", with(5, 2)),
        ("a code longer than the answer", [&[1, 0][..], &huge, b"ok"].concat()),
        ("a code that is no UTF-8", with(3, 0xff)),
        ("more steps than bytes", [&[1, 1][..], &huge, &[0]].concat()),
        ("a target past the largest number", [&[1, 1, 1, 1][..], &[0xff; 6]].concat()),
    ] {
        assert_eq!(said(&data).0, "error/output", "{what}");
    }
    let (_, text) = said(&[0]);
    assert_eq!(text.as_deref(), Some("0 answers for 1 items"));
    // A plan that could be read is looked at like any other.
    let (words, text) = said(&[1, 1, 1, 1, 9, 0, 0, 0, 0, 2, b'o', b'k', 0]);
    assert_eq!(words, "error/output");
    assert!(text.is_some_and(|text| text.contains("does not have")), "{words}");
}

#[test]
fn packed_answers_outside_of_memory_or_over_the_limit_are_contained() {
    let limits = RuleLimits { output_bytes_per_item: 4 << 10, ..RuleLimits::default() };
    let sandbox = Sandbox::start(limits, 1).unwrap();
    let at = |address: u32| format!("(i32.store (i32.const 1024) (i32.const {address}))");
    let code = vec![b'a'; 60];
    let good = [&[1, 0, 60][..], &code, &[0]].concat();
    let said = |body: String| says(&sandbox, &answering(&good, &body)).0;
    assert!(said(length(good.len())).starts_with("abstain/aaa"));
    for (what, body) in [
        ("past the end", length(262_144)),
        ("longer than memory", length(u32::MAX as usize)),
        ("behind memory", at(u32::MAX) + &length(8)),
        ("a trap", "unreachable".into()),
        ("no end", "(loop (br 0))".into()),
    ] {
        let answer = said(body);
        assert!(answer.starts_with("error/"), "{what}: {answer}");
    }
    // Over the limit it is not even looked at.
    for (bytes, is_read) in [(4 << 10, true), ((4 << 10) + 1, false)] {
        let (words, text) = says(&sandbox, &answering(&good, &length(bytes)));
        let is_unread = text.is_some_and(|text| !text.contains("the packed answer"));
        assert_eq!((words.as_str(), is_unread), ("error/output", !is_read), "{bytes}");
    }
}
