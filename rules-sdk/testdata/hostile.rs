//! A rule that breaks every promise, chosen by the notification's title or, over that, by its setting
//! `behaviour`. The gateway's tests and benches run it.
//!
//! On other titles it abstains with the code `calls_<n>`, where n counts the calls of this instance.

#![cfg(target_arch = "wasm32")]

mod abuse;

use abuse::{fill, hog, plan, recurse, spin};
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

fn storm() -> Routed {
    loop {
        black_box(clock::now());
    }
}

bugler_rules_sdk::bindings::route_world::export!(Hostile with_types_in bugler_rules_sdk::bindings::route_world);

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
