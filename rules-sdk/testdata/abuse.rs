//! What hostile rules do, those of the gateway's tests and those of torture runs.

use bugler_rules_sdk::prelude::*;
use std::hint::black_box;

pub(crate) fn plan(steps: Vec<Vec<u32>>) -> Plan {
    let steps = steps.into_iter().map(|targets| Step { targets, within_ms: 0 }).collect();
    Plan { steps, priority: None, collapse_key: None, expires_at: None }
}

pub(crate) fn spin() -> Routed {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

#[expect(unconditional_recursion, reason = "it ends with the stack")]
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[63]
}

pub(crate) fn hog() -> Routed {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(Vec::with_capacity(1 << 20)));
    }
}

/// Much time for little fuel: one instruction writes megabytes.
pub(crate) fn fill() -> Routed {
    let mut bytes = vec![0u8; 8 << 20];
    let mut n = 0u8;
    loop {
        n = n.wrapping_add(1);
        black_box(&mut bytes).fill(n);
    }
}
