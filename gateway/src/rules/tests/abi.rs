//! Guests written by hand that abuse the calling convention, what an instance may remember, and floats.

use super::guests::component_bytes;
use super::*;
use crate::rules::chain::{Chain, Memory};
use crate::rules::engine::Sandbox;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

/// Memory of four pages with an answer for one item, "abstain ok", at 1024: the list at 1040, its code at
/// 1088, and bytes that are no text at 3000.
const ANSWER: &str = r#"
    (memory (export "memory") 4)
    (data (i32.const 1024) "\10\04\00\00\01\00\00\00")
    (data (i32.const 1088) "\00\08\00\00\02\00\00\00")
    (data (i32.const 2048) "ok")
    (data (i32.const 3000) "\ff\fe")"#;
const BUMP: &str = r"
    (global $next (mut i32) (i32.const 4096))
    (func $realloc (param i32 i32 i32) (param $new i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get $new)))
      (local.get $at))";

/// A core module with this body of `route`, this `$realloc` and `more`.
fn core(body: &str, realloc: &str, more: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "bugler:rules/log@0.1.0" "log" (func $log (param i32 i32 i32)))
          {ANSWER} {realloc} {more}
          (export "cabi_realloc" (func $realloc))
          (func (export "bugler:rules/router@0.1.0#route")
            (param i32 i32 i32 i32 i32 i32) (result i32) {body}))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The component of `core` for the world of a rule without the packed lane.
fn component(mut core: Vec<u8>, encoding: StringEncoding) -> Vec<u8> {
    let decoded = wit_component::decode(&component_bytes("hostile")).unwrap();
    let DecodedWasm::Component(resolve, world) = decoded else { panic!("no component") };
    embed_component_metadata(&mut core, &resolve, world, encoding, false).unwrap();
    ComponentEncoder::default().module(&core).unwrap().encode().unwrap()
}

fn load(sandbox: &Sandbox, core: Vec<u8>) -> Chain {
    let bytes = component(core, StringEncoding::UTF8);
    let config = RuleConfig { name: "abi".into(), ..RuleConfig::default() };
    let prepared = registry::prepare(sandbox, config, &bytes, Arc::new(Memory::default()));
    Chain::fixed(&[Arc::new(prepared.unwrap().1)])
}

fn said(sandbox: &Sandbox, chain: &Chain) -> String {
    words(&chain.route(sandbox, NOON, &[item(1, "x")]).0[0]).concat()
}

#[test]
fn pointers_lengths_and_texts_that_are_none_trap_the_guest_and_nobody_else() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let log = |level: i64, at: i64, length: i64| {
        let call = format!("(call $log (i32.const {level}) (i32.const {at}) (i32.const {length}))");
        core(&format!("{call} (i32.const 1024)"), BUMP, "")
    };
    let poke = |at: i64, value: i64| {
        let store = format!("(i32.store (i32.const {at}) (i32.const {value}))");
        core(&format!("{store} (i32.const 1024)"), BUMP, "")
    };
    let back = |at: i64| core(&format!("(i32.const {at})"), BUMP, "");
    let realloc = |body: &str| {
        let text = format!("(func $realloc (param i32 i32 i32 i32) (result i32) {body})");
        core("(i32.const 1024)", &text, "")
    };
    for (what, guest) in [
        ("a text past the end", log(0, 262_140, 8)),
        ("a text beyond all memory", log(0, 0xffff_fff0, 8)),
        ("a text as long as can be", log(0, 0, 0xffff_ffff)),
        ("a text that wraps around", log(0, 0xffff_fff0, 0x20)),
        ("a text that is no UTF-8", log(0, 3000, 2)),
        ("a level that is none", log(9, 2048, 2)),
        ("an answer past the end", back(262_144)),
        ("an answer beyond all memory", back(0xffff_ffff)),
        ("an answer at an odd place", back(1025)),
        ("more answers than memory", poke(1028, 0xffff_ffff)),
        ("answers past the end", poke(1024, 262_140)),
        ("answers at an odd place", poke(1024, 1041)),
        ("a decision that is none", poke(1040, 77)),
        ("an option that is neither", poke(1096, 7)),
        ("a code past the end", poke(1088, 0xffff_fff0)),
        ("a code longer than memory", poke(1092, 0x7fff_ffff)),
        ("a code that is no UTF-8", poke(1088, 3000)),
        ("room past the end", realloc("(i32.const 262144)")),
        ("room beyond all memory", realloc("(i32.const -1)")),
        ("room at an odd place", realloc("(i32.const 4097)")),
        ("a trap for room", realloc("unreachable")),
        ("no end for room", realloc("(loop (br 0)) unreachable")),
    ] {
        let chain = load(&sandbox, guest);
        let answer = said(&sandbox, &chain);
        assert!(answer.starts_with("error/"), "{what}: {answer}");
    }
    // The same room for everything garbles only what the guest itself sees.
    let garbled = load(&sandbox, realloc("(i32.const 65536)"));
    assert_eq!(said(&sandbox, &garbled), "abstain/ok");
    assert_eq!(said(&sandbox, &load(&sandbox, log(0, 2048, 2))), "abstain/ok");
}

#[test]
fn strings_in_another_encoding_are_refused() {
    for encoding in [StringEncoding::UTF16, StringEncoding::CompactUTF16] {
        let bytes = component(core("(i32.const 1024)", BUMP, ""), encoding);
        let error = check_component(&bytes).unwrap_err();
        assert!(matches!(error, RuleError::StringEncoding), "{encoding:?}: {error}");
    }
}

/// Traps if anything of an earlier instance is left in memory, globals or tables, then leaves its own.
const CANARY: &str = r"
    (local $at i32)
    (if (global.get $seen) (then unreachable))
    (if (i32.eqz (ref.is_null (table.get $kept (i32.const 3)))) (then unreachable))
    (local.set $at (i32.const 65536))
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 262144))))
    (memory.fill (i32.const 65536) (i32.const 0x5a) (i32.const 196608))
    (table.set $kept (i32.const 3) (ref.func $log))
    (global.set $seen (i32.const 1))
    (i32.const 1024)";
const KEPT: &str =
    "(global $seen (mut i32) (i32.const 0)) (table $kept 4 funcref) (elem declare func $log)";

#[test]
fn nothing_of_an_instance_is_left_for_the_next_one() {
    // More threads than address space has room for: no pool.
    for (threads, rounds) in [(1, 20_000), (100_000, 2_000)] {
        let sandbox = Sandbox::start(RuleLimits::default(), threads).unwrap();
        let chain = load(&sandbox, core(CANARY, BUMP, KEPT));
        for round in 0..rounds {
            let (routed, _) = chain.route(&sandbox, NOON, &[item(round % 7, "x")]);
            assert_eq!(words(&routed[0]), ["abstain/ok"], "{threads} {round}");
        }
    }
}

#[test]
fn a_number_that_is_none_has_the_same_bits_everywhere() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let is = |bits: &str, number: &str| {
        format!(
            "(if (i64.ne (i64.reinterpret_f64 {number}) (i64.const {bits})) (then unreachable))"
        )
    };
    let canonical = "0x7ff8000000000000";
    let checks = [
        is(canonical, "(f64.div (f64.const 0) (f64.const -0))"),
        is(canonical, "(f64.sqrt (f64.const -1))"),
        is(canonical, "(f64.add (f64.const -nan:0x4000000000001) (f64.const 1))"),
        is(canonical, "(f64.promote_f32 (f32.div (f32.const 0) (f32.const 0)))"),
    ];
    let chain = load(&sandbox, core(&format!("{} (i32.const 1024)", checks.concat()), BUMP, ""));
    assert_eq!(said(&sandbox, &chain), "abstain/ok");
}

#[test]
fn the_same_question_has_the_same_answer_and_the_same_cost_every_time() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let rules = vec![rule("event-routing", &[("route.*", "slack")]), rule("quiet-hours", &[])];
    let mut memories = registry::Memories::new();
    let chain = Chain::fixed(&registry::load(&sandbox, rules, &mut memories).unwrap());
    let asked = [item(1, "x")];
    let ask = || {
        let (mut routed, _) = chain.route(&sandbox, NOON.plus(11 * HOUR), &asked);
        let routed = routed.swap_remove(0);
        let fuel: Vec<_> = routed.decisions.iter().map(|decision| decision.fuel).collect();
        (words(&routed), routed.verdict, fuel)
    };
    let first = ask();
    assert_eq!(first.0, ["deliver/routed", "hold-until/quiet_hours"]);
    for round in 0..10_000 {
        assert_eq!(ask(), first, "{round}");
    }
}
