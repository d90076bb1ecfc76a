//! The rule of the torture runs: the setting `mode` says which promise it breaks, `steady` none.

use bugler_rules_sdk::prelude::*;
use std::hint::black_box;

#[route]
fn rule(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let mode = cx.config("mode").unwrap_or_default();
    match mode.as_str() {
        "loop" => spin(),
        "trap" => panic!("on purpose"),
        "recursion" => abstain(&format!("depth_{}", recurse(1))),
        "bounds" => abstain(&format!("byte_{}", [1_u8, 2, 3][black_box(7)])),
        "division" => abstain(&format!("part_{}", 1_u32 / black_box(0_u32))),
        "memory" => hog(),
        "fill" => fill(),
        "output" => deliver(plan(vec![vec![0; 100_000]]), "output"),
        "calls" => storm(cx),
        "log" => {
            (0..40).for_each(|_| cx.log(Level::Info, &"x".repeat(2_000)));
            abstain("logged")
        }
        "bad_index" => deliver(plan(vec![vec![99]]), "index"),
        "twice" => deliver(plan(vec![vec![0], vec![0]]), "twice"),
        "no_target" => deliver(plan(vec![vec![]]), "none"),
        "million" => deliver(plan(vec![vec![0; 1_000_000]]), "million"),
        "steps" => deliver(plan(vec![vec![]; 5_000]), "steps"),
        "bad_code" => abstain("Not A Word"),
        "past" => hold(cx.now(), "past"),
        "slow" => slow(item, cx),
        _ => abstain("steady"),
    }
}

fn plan(steps: Vec<Vec<u32>>) -> Plan {
    let steps = steps.into_iter().map(|targets| Step { targets, within_ms: 0 }).collect();
    Plan { steps, priority: None, collapse_key: None, expires_at: None }
}

fn spin() -> Routed {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

#[expect(unconditional_recursion, reason = "it ends with the stack")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[63]
}

fn hog() -> Routed {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(Vec::with_capacity(1 << 20)));
    }
}

/// Much time for little fuel: one instruction writes megabytes.
fn fill() -> Routed {
    let mut bytes = vec![0_u8; 8 << 20];
    let mut n = 0_u8;
    loop {
        n = n.wrapping_add(1);
        black_box(&mut bytes).fill(n);
    }
}

fn storm(cx: &Cx<'_>) -> Routed {
    loop {
        black_box(cx.now());
    }
}

/// One of `every` notifications, by the number in its title, takes `burn` turns of a loop.
fn slow(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let number = item.notification().title.trim_start_matches("n-").parse::<u64>().unwrap_or(0);
    if number % cx.setting("every", 100_u64).unwrap_or(100).max(1) != 0 {
        return abstain("quick");
    }
    let burn = cx.setting("burn", 0_u64).unwrap_or(0);
    let mut n = 0_u64;
    for turn in 0..burn {
        n = black_box(n ^ turn);
    }
    abstain("slow")
}
