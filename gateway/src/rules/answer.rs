//! A rule's answer, read as hostile input.

use crate::model::{Millis, Priority};
use crate::rules::abi::{authorizer, router, transformer, types};
use crate::rules::hooks::{Answer, Decision, Digest, TransformItem};
use crate::rules::limits::{
    Breach, CODE_BYTES_MAX, COLLAPSE_KEY_BYTES_MAX, DETAIL_BYTES_MAX, DIGEST_ITEMS_MAX,
    DIGEST_KEY_BYTES_MAX, HOLD_MS_MAX, PAYLOAD_BYTES_MAX, STEP_WAIT_MS_MAX, STEPS_MAX,
};
use crate::rules::patch::{self, Edit};
use crate::rules::{Plan, RouteItem, Step};

/// Checks the answer to a request.
pub(super) fn authorized(from: authorizer::Decision) -> Result<Answer, Breach> {
    match from {
        authorizer::Decision::Allow(why) => answer(Decision::Allow, Some(why)),
        authorizer::Decision::Deny(why) => answer(Decision::Deny, Some(why)),
        authorizer::Decision::Abstain => answer(Decision::Abstain, None),
    }
}

/// Checks the answer to `item` at `now`.
pub(super) fn routed(
    from: router::Routed,
    item: &RouteItem,
    now: Millis,
) -> Result<Answer, Breach> {
    let decision = match from.decision {
        router::Decision::Abstain => Decision::Abstain,
        router::Decision::Deliver(plan) => Decision::Deliver(read_plan(plan, item)?),
        router::Decision::HoldUntil(until) => Decision::HoldUntil(read_hold(until, now)?),
        router::Decision::Drop => Decision::Drop,
        router::Decision::Digest(digest) => Decision::Digest(read_digest(digest, now)?),
    };
    answer(decision, Some(from.why))
}

/// Checks the answer to a payload, which stands in the answer's `Replace` as it is to be from now on.
pub(super) fn transformed(
    from: transformer::Transformed,
    (item, payload): (&TransformItem, &str),
) -> Result<(Answer, Option<String>), Breach> {
    let (decision, after) = match from.decision {
        transformer::Decision::Keep => (Decision::Keep, None),
        transformer::Decision::Drop => (Decision::Drop, None),
        transformer::Decision::Patch(edits) => {
            let edits: Vec<_> = edits
                .into_iter()
                .map(|edit| Edit { pointer: edit.pointer, value: edit.value_json })
                .collect();
            let after = patch::apply(payload, &edits)?;
            (Decision::Patch(edits), Some(after))
        }
        transformer::Decision::Replace(json) => (Decision::Replace(json.clone()), Some(json)),
    };
    if let Some(after) = &after {
        check_payload(item, after)?;
    }
    Ok((answer(decision, from.why)?, after))
}

fn check_payload(item: &TransformItem, json: &str) -> Result<(), Breach> {
    if json.len() > PAYLOAD_BYTES_MAX {
        return Err(Breach::output("the payload must be at most 65,536 bytes"));
    }
    // What can be shown and is no array is an object; only what cannot is looked at again.
    let shown = item.check(json);
    if shown.is_ok() && json.trim_start().starts_with('{') {
        return Ok(());
    }
    let is_object = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(json).is_ok();
    if is_object { shown } else { Err(Breach::output("the payload must be a JSON object")) }
}

fn answer(decision: Decision, why: Option<types::Reason>) -> Result<Answer, Breach> {
    let Some(types::Reason { code, detail }) = why else {
        let code = decision.as_str().replace('-', "_");
        return Ok(Answer { decision, code, detail: None });
    };
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if code.is_empty() || code.len() > CODE_BYTES_MAX || !code.bytes().all(is_word) {
        return Err(Breach::output("the code must be 1 to 64 of a-z, 0-9 and _"));
    }
    if detail.as_ref().is_some_and(|text| text.len() > DETAIL_BYTES_MAX) {
        return Err(Breach::output("the detail must be at most 256 bytes"));
    }
    // Details end up on terminals and in logs.
    let detail = detail.map(|text| text.replace(char::is_control, " "));
    Ok(Answer { decision, code, detail })
}

fn read_digest(from: router::Digest, now: Millis) -> Result<Digest, Breach> {
    let router::Digest { key, flush_at, max_items } = from;
    if key.is_empty() || key.len() > DIGEST_KEY_BYTES_MAX || key.contains(char::is_control) {
        return Err(Breach::output("the digest's key must be 1 to 128 printable bytes"));
    }
    if !(2..=DIGEST_ITEMS_MAX).contains(&max_items) {
        return Err(Breach::output("max-items must be 2 to 1,000"));
    }
    if flush_at <= now.0 || Millis(flush_at).since(now) > HOLD_MS_MAX {
        return Err(Breach::output("flush-at must lie after now and within 30 days"));
    }
    Ok(Digest { key, flush_at: Millis(flush_at), max_items })
}

fn read_hold(until: u64, now: Millis) -> Result<Millis, Breach> {
    if until <= now.0 {
        return Err(Breach::output("hold-until must lie after now"));
    }
    if Millis(until).since(now) > HOLD_MS_MAX {
        return Err(Breach::output("hold-until must lie within 30 days"));
    }
    Ok(Millis(until))
}

fn read_plan(from: types::Plan, item: &RouteItem) -> Result<Plan, Breach> {
    if from.steps.len() > STEPS_MAX {
        return Err(Breach::output("a plan has at most 16 steps"));
    }
    let mut is_used = vec![false; item.recipient.targets.len()];
    let steps = from.steps.iter().map(|step| read_step(step, &mut is_used));
    let steps = steps.collect::<Result<Vec<_>, _>>()?;
    if !is_used.is_empty() && !is_used.contains(&true) {
        return Err(Breach::output("the plan names no target; answer drop to send nothing"));
    }
    let collapse_key = from.collapse_key;
    if collapse_key.as_ref().is_some_and(|key| {
        key.is_empty() || key.len() > COLLAPSE_KEY_BYTES_MAX || key.contains(char::is_control)
    }) {
        return Err(Breach::output("the collapse key must be 1 to 64 printable bytes"));
    }
    Ok(Plan {
        steps,
        priority: from.priority.map(read_priority),
        collapse_key,
        expires_at: from.expires_at.map(|at| {
            let latest = item.notification.expires_at.unwrap_or(Millis(u64::MAX));
            Millis(at).min(latest)
        }),
    })
}

fn read_step(from: &types::Step, is_used: &mut [bool]) -> Result<Step, Breach> {
    if from.within_ms > STEP_WAIT_MS_MAX {
        return Err(Breach::output("within-ms must be at most 24 hours"));
    }
    let mut targets = Vec::with_capacity(from.targets.len().min(is_used.len()));
    for index in &from.targets {
        let index = usize::try_from(*index).unwrap_or(usize::MAX);
        let Some(used) = is_used.get_mut(index) else {
            return Err(Breach::output("the plan names a target the recipient does not have"));
        };
        if std::mem::replace(used, true) {
            return Err(Breach::output("the plan names a target twice"));
        }
        targets.push(index);
    }
    Ok(Step { targets, within_ms: from.within_ms })
}

fn read_priority(from: types::Priority) -> Priority {
    match from {
        types::Priority::Low => Priority::Low,
        types::Priority::Normal => Priority::Normal,
        types::Priority::High => Priority::High,
        types::Priority::Critical => Priority::Critical,
    }
}
