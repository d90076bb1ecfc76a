//! The rule of the torture runs: the setting `mode` says which promise it breaks, `steady` none.

mod abuse;

use abuse::{fill, hog, plan, recurse, spin};
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
