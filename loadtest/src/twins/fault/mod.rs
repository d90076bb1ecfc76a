//! Faults a twin can be told to show: a plan of rules, and the state that counts them out.

use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::twins::TwinName;

mod parse;
#[cfg(test)]
mod tests;

pub use parse::FaultSyntax;

/// What a twin does instead of, or before, the right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answers with a status, in the provider's own error form.
    Status {
        code: u16,
        /// The provider's reason; its usual one for the status when none.
        #[serde(default)]
        reason: Option<String>,
        /// One `Retry-After` header per entry, verbatim; `date` or `date+<s>` becomes an HTTP date.
        #[serde(default)]
        retry_after: Vec<String>,
    },
    /// Waits before it goes on, with the fault that follows or the right answer.
    Delay { ms: u64 },
    /// Resets the TCP connection without an answer.
    Reset,
    /// Resets the HTTP/2 stream; `refused` says that the request was not processed.
    ResetStream { refused: bool },
    /// Sends GOAWAY: requests not answered yet are not processed. HTTP/1 connections are reset.
    GoAway {
        #[serde(default)]
        reason: Option<String>,
    },
    /// Announces a new number of concurrent streams and answers as usual.
    StreamLimit { streams: u32 },
    /// Announces how much of each request's body may come; 0 lets none. HTTP/1 has no such limit.
    Window { bytes: u32 },
    /// Never answers.
    Freeze,
    /// Sends the answer byte by byte: from the status line on (`head`), or an endless body.
    Drip { ms_per_byte: u64, head: bool },
    /// Sends a body that never ends, as fast as it is read.
    EndlessBody,
    /// Announces a body of this many bytes and sends it as fast as it is read.
    HugeBody { bytes: u64 },
    /// Sends half of the answer and then breaks it off.
    Cut,
    /// Answers 200 with a body that is not JSON.
    BadJson,
    /// Answers 200 with a page, as a proxy in between does.
    Html,
    /// Answers 200 with an empty object: a success that names nothing.
    NoId,
    /// Answers 307 with this location.
    Redirect { to: String },
}

/// Which requests a rule hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    #[default]
    Always,
    /// This many of a hundred, at random.
    Percent(f64),
    /// The first so many.
    First(u64),
    /// One of so many, counted.
    Every(u64),
}

/// One rule of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The twin it holds for; all when none.
    #[serde(default)]
    pub twin: Option<TwinName>,
    /// Text the target or the path must contain; any when none.
    #[serde(default)]
    pub matching: Option<String>,
    #[serde(default)]
    pub share: Share,
    pub action: Action,
}

/// Rules in order: delays and stream limits add up, of all others the first that hits wins and
/// those after it do not count the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    pub rules: Vec<FaultRule>,
    /// Seed of the random shares: the same plan and requests give the same faults.
    #[serde(default)]
    pub seed: u64,
}

/// What the plan decided for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) delay: Duration,
    pub(crate) stream_limit: Option<u32>,
    pub(crate) window: Option<u32>,
    pub(crate) action: Option<Action>,
}

/// A plan at work.
#[derive(Debug)]
pub(crate) struct Faults(Mutex<State>);

#[derive(Debug)]
struct State {
    plan: FaultPlan,
    hits: Vec<u64>,
    random: StdRng,
}

impl State {
    fn of(plan: FaultPlan) -> Self {
        let random = StdRng::seed_from_u64(plan.seed);
        Self { hits: vec![0; plan.rules.len()], plan, random }
    }
}

impl Faults {
    pub(crate) fn new(plan: FaultPlan) -> Self {
        Self(Mutex::new(State::of(plan)))
    }

    pub(crate) fn set(&self, plan: FaultPlan) {
        *self.0.lock() = State::of(plan);
    }

    pub(crate) fn plan(&self) -> FaultPlan {
        self.0.lock().plan.clone()
    }

    /// Decides on one request; `magic` is what its target itself asks for, after the plan.
    pub(crate) fn decide(
        &self,
        twin: TwinName,
        target: &str,
        path: &str,
        magic: Option<Action>,
    ) -> Decision {
        self.decide_where(|rule| rule.matches(twin, target, path), magic)
    }

    /// As `decide`, for the rules that `hits` names.
    pub(crate) fn decide_where(
        &self,
        hits: impl Fn(&FaultRule) -> bool,
        magic: Option<Action>,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut state = self.0.lock();
        let State { plan, hits: counted, random } = &mut *state;
        for (rule, seen) in plan.rules.iter().zip(counted) {
            // Another action already won: this one is saved for a later request.
            let is_late = decision.action.is_some() && rule.action.is_exclusive();
            if !is_late && hits(rule) && rule.share.hits(seen, random) {
                decision.add(rule.action.clone());
            }
        }
        drop(state);
        if let Some(action) = magic {
            decision.add(action);
        }
        decision
    }
}

impl Action {
    /// Whether only one such action can be shown for a request.
    fn is_exclusive(&self) -> bool {
        !matches!(self, Self::Delay { .. } | Self::StreamLimit { .. } | Self::Window { .. })
    }
}

impl FaultRule {
    fn matches(&self, twin: TwinName, target: &str, path: &str) -> bool {
        let is_in = |text: &String| target.contains(text) || path.contains(text);
        self.twin.is_none_or(|of| of == twin) && self.matching.as_ref().is_none_or(is_in)
    }
}

impl Decision {
    fn add(&mut self, action: Action) {
        match action {
            Action::Delay { ms } => self.delay += Duration::from_millis(ms),
            Action::StreamLimit { streams } => self.stream_limit = Some(streams),
            Action::Window { bytes } => self.window = Some(bytes),
            other => self.action = self.action.take().or(Some(other)),
        }
    }
}

impl Share {
    fn hits(self, seen: &mut u64, random: &mut StdRng) -> bool {
        *seen += 1;
        match self {
            Self::Always => true,
            Self::Percent(percent) => random.random::<f64>() * 100.0 < percent,
            Self::First(first) => *seen <= first,
            Self::Every(every) => seen.is_multiple_of(every.max(1)),
        }
    }
}
