//! Crash points: places where a test lets the process die, compiled in by the feature
//! `crash-points` alone.
//!
//! `BUGLER_CRASH=C3:7` aborts at the 7th passing of C3: nothing is unwound, flushed or answered,
//! as if the process had been killed there. `C5:7:panic` panics there instead, and `C6:1:panic:3` at
//! that passing and the next two. Without the feature a point is an empty function.

/// The stages of a notification's life, by the names under which tests ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// C1: the request is found right, nothing is appended.
    Validated,
    /// C2: a notification is written, not synced.
    Appended,
    /// C3: it is synced, nobody is told.
    Synced,
    /// C4: the caller was told, nobody has claimed it.
    Replied,
    /// C5: it is leased, the rules were not asked.
    Leased,
    /// C6: the rules have answered, nothing is sent.
    Ruled,
    /// C7: half of the request to a provider is written.
    HalfSent,
    /// C8: the provider's answer is read, nothing of it is recorded.
    Answered,
    /// C9: the outcome is written, not synced.
    Settled,
    /// C10: each operation on files of rolling and of dropping segments.
    Files,
    /// C11: each step of publishing rules: a component is kept, then the set that names it.
    Published,
    /// C12: each step of recovery.
    Recovery,
    /// C13: each part of a move, and each step of its end.
    Carried,
}

impl Stage {
    /// The name of the stage, `C1` to `C13`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Validated => "C1",
            Self::Appended => "C2",
            Self::Synced => "C3",
            Self::Replied => "C4",
            Self::Leased => "C5",
            Self::Ruled => "C6",
            Self::HalfSent => "C7",
            Self::Answered => "C8",
            Self::Settled => "C9",
            Self::Files => "C10",
            Self::Published => "C11",
            Self::Recovery => "C12",
            Self::Carried => "C13",
        }
    }
}

/// Dies here if this is the passing that `BUGLER_CRASH` names.
#[cfg(feature = "crash-points")]
pub fn point(stage: Stage) {
    match armed::strike(stage) {
        None => {}
        Some(armed::End::Abort) => std::process::abort(),
        Some(armed::End::Panic) => {
            std::panic::resume_unwind(Box::new("BUGLER_CRASH asked for a panic"))
        }
    }
}

/// Dies a moment after `work` began, unless that ends sooner, if this is the passing that
/// `BUGLER_CRASH` names.
#[cfg(feature = "crash-points")]
pub async fn midway<T>(stage: Stage, work: impl Future<Output = T>) -> T {
    if armed::strike(stage).is_none() {
        return work.await;
    }
    tokio::select! {
        biased;
        done = work => {
            drop(done);
            std::process::abort()
        }
        () = tokio::time::sleep(armed::MOMENT) => std::process::abort(),
    }
}

/// `work` itself: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn midway<T, F: Future<Output = T>>(_: Stage, work: F) -> F {
    work
}

/// Ways to build a gateway that breaks its promises, so that tests of the tests can catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Callers are told before the sync.
    EarlyAnswer,
    /// What became of a delivery is not written down.
    DroppedOutcome,
    /// Whoever lost a lease may settle all the same.
    NoFencing,
    /// What is due later is taken up seconds early.
    EarlyTimer,
}

impl Sabotage {
    pub const ALL: [Self; 4] =
        [Self::EarlyAnswer, Self::DroppedOutcome, Self::NoFencing, Self::EarlyTimer];

    /// The name by which `BUGLER_SABOTAGE` asks for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EarlyAnswer => "early-answer",
            Self::DroppedOutcome => "dropped-outcome",
            Self::NoFencing => "no-fencing",
            Self::EarlyTimer => "early-timer",
        }
    }
}

/// True if `BUGLER_SABOTAGE`, or a test of this thread, asks for it.
#[cfg(feature = "crash-points")]
#[must_use]
pub fn is_sabotaged(how: Sabotage) -> bool {
    armed::is_sabotaged(how)
}

/// False: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline]
#[must_use]
pub fn is_sabotaged(_: Sabotage) -> bool {
    false
}

/// Gives answers that were sent too early a start before the write, if `BUGLER_SABOTAGE` asks for
/// them: a kill between the two must find a window. Simulated time needs none.
#[cfg(feature = "crash-points")]
pub fn dawdle() {
    if armed::is_asked(Sabotage::EarlyAnswer) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn dawdle() {}

/// Sabotages what this thread runs from now on.
#[cfg(feature = "crash-points")]
pub fn sabotage(how: Option<Sabotage>) {
    armed::sabotage(how);
}

/// Nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_: Stage) {}

#[cfg(feature = "crash-points")]
mod armed {
    use super::{Sabotage, Stage};
    use std::cell::Cell;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// Enough for a request to leave, hardly for its answer.
    pub(super) const MOMENT: Duration = Duration::from_micros(300);

    /// What becomes of whoever passes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum End {
        Abort,
        Panic,
    }

    /// What `BUGLER_CRASH` names.
    #[derive(Debug, PartialEq, Eq)]
    struct Wanted {
        stage: String,
        passings: std::ops::Range<u64>,
        end: End,
    }

    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static ASKED: OnceLock<Option<Sabotage>> = OnceLock::new();

    thread_local! {
        static HERE: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    fn asked() -> Option<Sabotage> {
        let name = std::env::var("BUGLER_SABOTAGE").ok()?;
        Sabotage::ALL.into_iter().find(|how| how.name() == name)
    }

    pub(super) fn sabotage(how: Option<Sabotage>) {
        HERE.set(how);
    }

    pub(super) fn is_sabotaged(how: Sabotage) -> bool {
        HERE.get() == Some(how) || is_asked(how)
    }

    pub(super) fn is_asked(how: Sabotage) -> bool {
        *ASKED.get_or_init(asked) == Some(how)
    }

    fn wanted(text: &str) -> Option<Wanted> {
        let mut words = text.split(':');
        let stage = words.next()?.to_owned();
        let first: u64 = words.next()?.parse().ok()?;
        let (end, count) = match (words.next(), words.next()) {
            (None, _) => (End::Abort, 1),
            (Some("panic"), count) => (End::Panic, count.map_or(Ok(1), str::parse).ok()?),
            (Some(_), _) => return None,
        };
        Some(Wanted { stage, passings: first..first.saturating_add(count), end })
    }

    pub(super) fn strike(stage: Stage) -> Option<End> {
        let read = || wanted(&std::env::var("BUGLER_CRASH").ok()?);
        let wanted = WANTED.get_or_init(read).as_ref().filter(|w| w.stage == stage.name())?;
        let passing = PASSED.fetch_add(1, Ordering::AcqRel) + 1;
        wanted.passings.contains(&passing).then_some(wanted.end)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_wish_names_a_stage_a_passing_and_how_to_end() {
            let wish = |stage: &str, passings, end| {
                Some(Wanted { stage: stage.to_owned(), passings, end })
            };
            assert_eq!(wanted("C3:7"), wish("C3", 7..8, End::Abort));
            assert_eq!(wanted("C5:7:panic"), wish("C5", 7..8, End::Panic));
            assert_eq!(wanted("C6:1:panic:3"), wish("C6", 1..4, End::Panic));
            for wrong in ["", "C3", "C3:x", "C3:1:sleep", "C3:1:panic:x"] {
                assert_eq!(wanted(wrong), None, "{wrong}");
            }
        }
    }
}
