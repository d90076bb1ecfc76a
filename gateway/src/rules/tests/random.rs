//! Random WebAssembly, from a fixed seed: refused with a reason or contained, and never a panic.

use super::*;
use crate::rules::chain::{Chain, Memory, Rule};
use crate::rules::component::{inspect, with_section};
use crate::rules::engine::Sandbox;
use crate::rules::limits::BreachKind;
use crate::rules::{registry, wrap_component};
use guests::{core_bytes, random_wasm};
use std::ops::Range;
use std::time::Duration;
use wasmparser::{CustomSectionReader, Parser, Payload};

/// Fuel runs out long before.
const DEADLINE: Duration = Duration::from_secs(60);
const FUEL_PER_ITEM: u64 = 50_000;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() >> 16).unwrap() % end
    }
}

fn sandbox() -> Sandbox {
    let limits = RuleLimits {
        deadline: DEADLINE,
        authorize_deadline: DEADLINE,
        fuel_per_item: FUEL_PER_ITEM,
        memory_bytes: 2 << 20,
        ..RuleLimits::default()
    };
    Sandbox::start(limits, 1).unwrap()
}

fn load(sandbox: &Sandbox, component: &[u8]) -> Result<Rule, RuleError> {
    let config = RuleConfig { name: "random".into(), ..RuleConfig::default() };
    Ok(registry::prepare(sandbox, config, component, Arc::new(Memory::default()))?.1)
}

/// Has `rule` judge two items; the words of its decisions.
fn judged(sandbox: &Sandbox, rule: Rule) -> Vec<String> {
    let most = rule.limits.fuel(2);
    let items = [item(1, "one"), item(1, "two")];
    let (routed, _) = Chain::fixed(&[Arc::new(rule)]).route(sandbox, NOON, &items);
    assert_eq!(routed.len(), items.len());
    for decision in routed.iter().flat_map(|routed| &routed.decisions) {
        let kinds = [BreachKind::Trap, BreachKind::Fuel, BreachKind::Memory, BreachKind::Output];
        let is_known = kinds.iter().any(|kind| kind.as_str() == decision.code);
        assert!(decision.decision != "error" || is_known, "{decision:?}");
        assert!(decision.fuel <= most, "{decision:?}");
    }
    routed.iter().flat_map(words).collect()
}

/// A well-behaved rule is answered as ever in the sandbox where the others were.
fn assert_unharmed(sandbox: &Sandbox) {
    let rule = load(sandbox, &guests::component_bytes("event-routing")).unwrap();
    assert_eq!(judged(sandbox, rule), ["abstain/no_rule", "abstain/no_rule"]);
}

#[test]
fn random_modules_and_components_are_refused() {
    for (number, wasm) in random_wasm(0x0b75_ead5, 1_000, None).iter().enumerate() {
        let refused = inspect(wasm, usize::MAX).map(drop);
        let is_module = number % 2 == 0;
        assert_eq!(
            is_module,
            matches!(refused, Err(RuleError::CoreModule)),
            "{number}: {refused:?}"
        );
        assert!(refused.is_err() && wrap_component(wasm).is_err(), "{number}");
    }
}

#[test]
fn random_code_in_the_shape_of_a_rule_is_refused_or_contained() {
    let core = core_bytes("event-routing");
    // What the code means is in sections that no generator knows.
    let worlds: Vec<_> = Parser::new(0).parse_all(&core).filter_map(world).collect();
    assert!(!worlds.is_empty());
    let sandbox = sandbox();
    let (mut wrapped, mut ran) = (0, 0);
    for module in random_wasm(0x5eed_cafe, 300, Some("event-routing")) {
        let add = |module, of: &CustomSectionReader<'_>| with_section(module, of.name(), of.data());
        let Ok(component) = wrap_component(&worlds.iter().fold(module, add)) else { continue };
        wrapped += 1;
        let Ok(rule) = load(&sandbox, &component) else { continue };
        ran += judged(&sandbox, rule).len() / 2;
    }
    assert!(wrapped > 20 && ran > 5, "{wrapped} were components, {ran} ran");
    assert_unharmed(&sandbox);
}

fn world(part: wasmparser::Result<Payload<'_>>) -> Option<CustomSectionReader<'_>> {
    let Payload::CustomSection(section) = part.unwrap() else { return None };
    section.name().starts_with("component-type").then_some(section)
}

/// Where the code of `core`'s functions lies.
fn code(core: &[u8]) -> Vec<Range<usize>> {
    let bodies = Parser::new(0).parse_all(core).filter_map(|payload| match payload.unwrap() {
        Payload::CodeSectionEntry(body) => Some(body.range()),
        _ => None,
    });
    bodies
        .map(|range| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
        .collect()
}

#[test]
fn a_rule_with_altered_code_is_refused_or_contained() {
    let core = core_bytes("event-routing");
    let bodies = code(&core);
    let (sandbox, mut dice) = (sandbox(), Dice(0xa17e_2ed0));
    let (mut refused, mut ran) = (0, 0);
    while ran < 30 {
        let mut altered = core.clone();
        for _ in 0..3 {
            let body = &bodies[dice.below(bodies.len())];
            let at = body.start + dice.below(body.len());
            altered[at] ^= 1 << dice.below(7);
        }
        let loaded = wrap_component(&altered).and_then(|component| load(&sandbox, &component));
        match loaded {
            Ok(rule) => ran += judged(&sandbox, rule).len() / 2,
            Err(_) => refused += 1,
        }
        assert!(refused < 10_000, "only {ran} ran");
    }
    assert!(refused > 0);
    assert_unharmed(&sandbox);
}
