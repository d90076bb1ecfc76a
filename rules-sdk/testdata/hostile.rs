//! A rule that breaks every promise, chosen by the notification's title or, over that, by its setting
//! `behaviour`. The gateway's tests and benches run it.
//!
//! On other titles it abstains with the code `calls_<n>`, where n counts the calls of this instance.

#![cfg(target_arch = "wasm32")]

use bugler_rules_sdk::bindings::bugler::rules::{clock, config, log};
use bugler_rules_sdk::bindings::router::{Batch, Guest, Routed};
use bugler_rules_sdk::guest;
use bugler_rules_sdk::prelude::*;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

static CALLS: AtomicU32 = AtomicU32::new(0);

struct Hostile;

impl Guest for Hostile {
    fn route(batch: Batch) -> Vec<Routed> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let mut answers = guest::answer(&batch, one);
        let has = |title| batch.notifications.iter().any(|n| n.title == title);
        if has("too_few") {
            answers.pop();
        }
        if has("too_many") {
            answers.push(abstain("extra"));
        }
        answers
    }
}

#[expect(clippy::panic, reason = "a rule that panics is what one title asks for")]
fn one(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    let behaviour = cx.config("behaviour");
    match behaviour.as_deref().unwrap_or(item.notification().title.as_str()) {
        "loop" => spin(),
        "burn" => burn(),
        "stopwatch" => stopwatch(),
        "trap" => panic!("on purpose"),
        "recursion" => abstain(&format!("depth_{}", recurse(1))),
        "memory" => hog(),
        "memory_fill" => fill(),
        "call_storm" => storm(),
        "log_storm" => {
            (0..40).for_each(|_| log::log(Level::Info, &"x".repeat(2000)));
            abstain("logged")
        }
        "own_setting" => abstain(&config::get("word").unwrap_or_default()),
        "foreign_setting" => {
            abstain(&config::get_for_org("202", "word").unwrap_or_else(|| "nothing".into()))
        }
        "digest" => digest("k", clock::now(), 2, "digest"),
        "past_hold" => hold(clock::now(), "past"),
        "far_hold" => hold(u64::MAX, "far"),
        "bad_code" => abstain("Not A Word"),
        "no_code" => abstain(""),
        "long_detail" => abstain("long").detail("x".repeat(257)),
        "control_detail" => abstain("escape").detail("\u{1b}[2Jgone"),
        "bad_index" => deliver(plan(vec![vec![99]]), "index"),
        "twice" => deliver(plan(vec![vec![0], vec![0]]), "twice"),
        "no_target" => deliver(plan(vec![vec![]]), "none"),
        "huge" => deliver(plan(vec![vec![0; 100_000]]), "huge"),
        "many_steps" => deliver(plan(vec![vec![]; 5_000]), "steps"),
        "longer_life" => {
            deliver(Plan { expires_at: Some(u64::MAX), ..plan(vec![vec![0]]) }, "longer")
        }
        _ => abstain(&format!("calls_{}", CALLS.load(Ordering::Relaxed))),
    }
}

fn plan(steps: Vec<Vec<u32>>) -> Plan {
    let steps = steps.into_iter().map(|targets| Step { targets, within_ms: 0 }).collect();
    Plan { steps, priority: None, collapse_key: None, expires_at: None }
}

fn spin() -> Routed {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Measures how long something takes, with the only clock there is.
fn stopwatch() -> Routed {
    let begun = clock::now();
    burn();
    abstain(if clock::now() == begun { "no_time" } else { "some_time" })
}

/// Much of the fuel of an item, and not all: it breaks nothing.
fn burn() -> Routed {
    let mut n = 0u64;
    while n < 40_000 {
        n = black_box(n + 1);
    }
    abstain("burnt")
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
    let mut bytes = vec![0u8; 8 << 20];
    let mut n = 0u8;
    loop {
        n = n.wrapping_add(1);
        black_box(&mut bytes).fill(n);
    }
}

fn storm() -> Routed {
    loop {
        black_box(clock::now());
    }
}

bugler_rules_sdk::bindings::route_world::export!(Hostile with_types_in bugler_rules_sdk::bindings::route_world);
