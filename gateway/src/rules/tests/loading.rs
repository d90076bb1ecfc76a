//! What is accepted as a rule, and what is refused with a reason.

use super::guests::component_bytes;
use super::*;
use crate::rules::component::inspect;
use crate::rules::engine::Sandbox;
use crate::rules::limits::SMALL;

const ANY_SIZE: usize = usize::MAX;

fn refusal(component: &[u8]) -> RuleError {
    check_component(component).unwrap_err()
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A component that exports something under the router's name, and also has `more`.
fn with_router(more: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component {more} (instance $i) (export "bugler:rules/router@0.1.0" (instance $i)))"#
    ))
}

#[test]
fn accepts_the_shipped_rules_and_says_what_they_are() {
    for name in ["event-routing", "quiet-hours"] {
        let bytes = component_bytes(name);
        let summary = check_component(&bytes).unwrap();
        assert_eq!(summary.bytes, bytes.len());
        assert_eq!(summary.digest.len(), 64);
        assert!(summary.functions > 10);
        assert!(summary.exports.iter().any(|name| name == "bugler:rules/router@0.1.0"));
        assert!(summary.imports.iter().all(|name| name.starts_with("bugler:rules/")));
        assert!(bytes.len() < 100_000, "{name} has {} bytes", bytes.len());
    }
}

#[test]
fn refuses_what_is_not_a_component() {
    assert!(matches!(refusal(b""), RuleError::NotWasm));
    assert!(matches!(refusal(b"(component)"), RuleError::NotWasm));
    let core = wat("(module)");
    assert!(matches!(refusal(&core), RuleError::CoreModule));
    assert!(refusal(&core).to_string().contains("bugler rule wrap"));
}

#[test]
fn refuses_imports_a_rule_can_not_have() {
    let wasi = wat(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    let error = refusal(&wasi);
    assert!(matches!(&error, RuleError::ForeignImport { name } if name.starts_with("wasi:cli")));
    assert!(error.to_string().contains("wasm32-unknown-unknown"));
    for name in
        ["acme:rules/log@0.1.0", "bugler:rules/secrets@0.1.0", "bugler:rules/log@0.2.0", "env"]
    {
        let text = format!(r#"(component (import "{name}" (instance)))"#);
        assert!(matches!(refusal(&wat(&text)), RuleError::ForeignImport { .. }), "{name}");
    }
}

#[test]
fn refuses_another_world() {
    assert!(matches!(refusal(&wat("(component)")), RuleError::NoHook));
    assert!(matches!(refusal(&with_router("")), RuleError::WrongWorld(_)));
}

#[test]
fn refuses_what_is_too_big_to_compile() {
    let functions = "(func)".repeat(SMALL.functions + 1);
    let many = with_router(&format!("(core module {functions})"));
    assert!(matches!(refusal(&many), RuleError::TooManyFunctions { .. }));
    // Two modules share one allowance.
    let half = "(func)".repeat(SMALL.functions / 2 + 1);
    let two = with_router(&format!("(core module {half}) (core module {half})"));
    assert!(matches!(refusal(&two), RuleError::TooManyFunctions { .. }));
    let body = "nop ".repeat(SMALL.body_bytes + 1);
    let long = with_router(&format!("(core module (func {body}))"));
    assert!(matches!(refusal(&long), RuleError::FunctionTooLarge { .. }));
    let limit = RuleLimits::default().component_bytes;
    let mut padded = component_bytes("event-routing");
    padded.resize(limit + 1, 0);
    assert!(matches!(refusal(&padded), RuleError::TooLarge { .. }));
}

#[test]
fn refuses_strings_that_are_not_utf8() {
    let utf16 = with_router(
        r#"(core module $m
             (memory (export "m") 1)
             (func (export "f") (result i32) (i32.const 0)))
           (core instance $c (instantiate $m))
           (func (result string)
             (canon lift (core func $c "f") (memory (core memory $c "m")) string-encoding=utf16))"#,
    );
    assert!(matches!(refusal(&utf16), RuleError::StringEncoding));
}

#[test]
fn refuses_webassembly_features_that_are_off() {
    for module in [
        "(core module (memory 1 1 shared))",
        "(core module (memory i64 1))",
        "(core module (func (result v128) (v128.const i64x2 0 0)))",
        "(core module (func $f (return_call $f)))",
        "(core module (memory 1) (memory 1))",
        "(core module (tag))",
    ] {
        let error = refusal(&with_router(module));
        assert!(matches!(error, RuleError::Malformed(_)), "{module}: {error}");
    }
}

#[test]
fn a_damaged_component_is_refused_and_never_panics() {
    let whole = component_bytes("event-routing");
    for end in (0..whole.len()).step_by(97) {
        assert!(inspect(&whole[..end], ANY_SIZE).is_err(), "cut at {end}");
    }
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..1000 {
        let mut damaged = whole.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let position = usize::try_from(seed >> 33).unwrap() % damaged.len();
            damaged[position] ^= u8::try_from(seed >> 56).unwrap();
        }
        if let Ok(summary) = inspect(&damaged, ANY_SIZE)
            && round % 25 == 0
        {
            drop(sandbox.compile(&damaged, &summary));
        }
    }
}

#[test]
fn refuses_a_rule_that_can_not_start_within_its_memory() {
    let limits = RuleLimits { memory_bytes: 64 << 10, ..RuleLimits::default() };
    let settings =
        RuleSettings { rules: vec![rule("event-routing", &[])], limits, ..RuleSettings::default() };
    let RuleError::InRule { rule, source, .. } = WasmRules::start(settings).unwrap_err() else {
        panic!()
    };
    assert_eq!(rule, "event-routing");
    assert!(matches!(*source, RuleError::CannotStart(_) | RuleError::Malformed(_)), "{source:?}");
}

#[test]
fn refuses_a_chain_with_a_bad_or_repeated_name_or_a_missing_file() {
    let chain = |rules: Vec<RuleConfig>| {
        WasmRules::start(RuleSettings { rules, ..RuleSettings::default() }).unwrap_err()
    };
    let named = |name: &str| RuleConfig { name: name.into(), ..rule("quiet-hours", &[]) };
    for name in ["", "Quiet", "a b", "../x", &"a".repeat(41)] {
        assert!(matches!(chain(vec![named(name)]), RuleError::BadSetting { .. }), "{name}");
    }
    assert!(matches!(chain(vec![named("a"), named("a")]), RuleError::BadSetting { .. }));
    let many = (0..33).map(|n| named(&format!("r{n}"))).collect();
    assert!(matches!(chain(many), RuleError::TooManyRules { count: 33 }));
    let missing = RuleConfig { path: "no/such/file.wasm".into(), ..named("a") };
    let error = chain(vec![missing]);
    assert!(error.to_string().contains("no/such/file.wasm"), "{error}");
    assert!(
        matches!(error, RuleError::InRule { source, .. } if matches!(*source, RuleError::Read(_)))
    );
}

#[tokio::test]
async fn a_refused_chain_leaves_the_one_before_in_force() {
    let rules = start(vec![rule("event-routing", &[("route.*", "slack")])]);
    let missing = RuleConfig { path: "no/such/file.wasm".into(), ..rule("quiet-hours", &[]) };
    assert!(rules.replace(vec![missing]).is_err());
    assert_eq!(words(&ask_one(&rules, item(1, "x")).await), ["deliver/routed"]);
    rules.replace(vec![rule("event-routing", &[("route.*", "none")])]).unwrap();
    assert_eq!(words(&ask_one(&rules, item(1, "x")).await), ["drop/event_off"]);
}

#[test]
fn wraps_core_modules_of_the_sdk_and_nothing_else() {
    let component = component_bytes("quiet-hours");
    assert!(matches!(wrap_component(&component), Err(RuleError::NotCoreModule)));
    assert!(matches!(wrap_component(b"text"), Err(RuleError::NotWasm)));
    assert!(matches!(wrap_component(&wat("(module)")), Err(RuleError::NoHook)));
    let foreign = wat(r#"(module (import "env" "f" (func)))"#);
    assert!(matches!(wrap_component(&foreign), Err(RuleError::Wrap(_))));
}
