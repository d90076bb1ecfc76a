//! A rule's answer, read as hostile input.

use crate::model::{Millis, Priority};
use crate::rules::abi::{router, types};
use crate::rules::limits::{
    Breach, CODE_BYTES_MAX, COLLAPSE_KEY_BYTES_MAX, DETAIL_BYTES_MAX, HOLD_MS_MAX,
    STEP_WAIT_MS_MAX, STEPS_MAX,
};
use crate::rules::{Plan, RouteItem, Step};

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) decision: Decision,
    pub(super) code: String,
    pub(super) detail: Option<String>,
}

#[derive(Debug)]
pub(super) enum Decision {
    Abstain,
    Deliver(Plan),
    HoldUntil(Millis),
    Drop,
}

impl Decision {
    /// The word of the decision record.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Abstain => "abstain",
            Self::Deliver(_) => "deliver",
            Self::HoldUntil(_) => "hold-until",
            Self::Drop => "drop",
        }
    }
}

impl Answer {
    /// Checks the answer to `item` at `now`.
    pub(super) fn read(
        from: router::Routed,
        item: &RouteItem,
        now: Millis,
    ) -> Result<Self, Breach> {
        let code = from.why.code;
        let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if code.is_empty() || code.len() > CODE_BYTES_MAX || !code.bytes().all(is_word) {
            return Err(Breach::output("the code must be 1 to 64 of a-z, 0-9 and _"));
        }
        let detail = from.why.detail;
        if detail.as_ref().is_some_and(|text| text.len() > DETAIL_BYTES_MAX) {
            return Err(Breach::output("the detail must be at most 256 bytes"));
        }
        let decision = match from.decision {
            router::Decision::Abstain => Decision::Abstain,
            router::Decision::Deliver(plan) => Decision::Deliver(read_plan(plan, item)?),
            router::Decision::HoldUntil(until) => Decision::HoldUntil(read_hold(until, now)?),
            router::Decision::Drop => Decision::Drop,
            router::Decision::Digest(_) => {
                return Err(Breach::output("this gateway does not collect digests"));
            }
        };
        // Details end up on terminals and in logs.
        let detail = detail.map(|text| text.replace(char::is_control, " "));
        Ok(Self { decision, code, detail })
    }
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
