//! Records what rules decide and log while they run: sampled, bounded, written by a thread of its own.

use crate::model::{Millis, OrganizationId};
use crate::rules::asking::{Part, Questions};
use crate::rules::at::At;
use crate::rules::breaker::hash;
use crate::rules::chain::Rule;
use crate::rules::host::LogLevel;
use crate::rules::input::Input;
use crate::rules::record::{Decided, DecisionRecord, InForce};
use crate::rules::spool::{KINDS, Spool};
use crate::rules::stage::share_of;
use crate::rules::stats::calls;
use crate::rules::trail::{self, Keep, Page, Place, Trail};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

/// Lines of so long are written at once.
const GATHERED: Duration = Duration::from_millis(2);
/// One in so many of the decisions that change nothing, or change something for everything.
const SAMPLED: u64 = 100;
/// Log bytes of one rule in a second.
const LOG_BYTES_PER_SECOND: u32 = 64 << 10;
/// Rules whose rate is known at a time; the rest share one.
const RATES_MAX: usize = 4_096;
const CAPTURES_MAX: usize = 64;
const CAPTURE_SECONDS_MAX: u64 = 24 * 60 * 60;
const FORGET_EVERY: Duration = Duration::from_secs(60);
const MASK: &str = "masked";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const DECISIONS: Keep = Keep { file_bytes: 8 << 20, files: 16, age: DAY.saturating_mul(7) };
const LOGS: Keep = Keep { file_bytes: 4 << 20, files: 8, age: DAY.saturating_mul(7) };
/// Captures are personal data.
const CAPTURES: Keep = Keep { file_bytes: 16 << 20, files: 16, age: DAY };

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    Decisions,
    Logs,
    /// Decisions with all that the rule saw.
    Captures,
}

/// Of one organization's items, this share of what a rule decides is recorded with its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub org: OrganizationId,
    pub rule: String,
    /// Hundredths of a percent.
    pub share: u16,
    pub until: Millis,
}

/// Why a capture is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    #[error("the share must be like \"1%\", at most \"100%\"")]
    Share,
    #[error("a capture lasts 1 to 86400 seconds")]
    Length,
    #[error("64 captures are running on this node; end one first")]
    TooMany,
}

/// A line of a rule's log as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct LogRecord {
    ts: At,
    org: String,
    rule: String,
    version: String,
    level: LogLevel,
    text: String,
}

/// Which lines are wanted.
#[derive(Clone, Debug)]
pub struct Search {
    pub org: OrganizationId,
    pub rule: String,
    pub after: Place,
    pub since: Millis,
    /// Decisions of these words only; empty: all.
    pub decisions: Vec<String>,
    /// Log lines of this level or above.
    pub level: LogLevel,
    pub limit: usize,
}

/// Where decisions, log lines and captured inputs go. Dropping it ends its thread.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    spool: Arc<Spool>,
    lost: Mutex<HashMap<(Kept, String), u64>>,
    rates: Mutex<HashMap<String, Rate>>,
    captures: Mutex<Vec<Capture>>,
    has_captures: AtomicBool,
    unwritten: Arc<AtomicU64>,
    /// Calls captured so far.
    calls: AtomicU64,
}

/// Bytes logged in a second.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    bytes: u32,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Logs => "logs",
            Self::Captures => "captures",
        }
    }
}

impl Recorder {
    /// Records under `dir`, which is made with the first line.
    ///
    /// # Errors
    /// The thread that writes cannot start.
    pub fn start(dir: PathBuf) -> io::Result<Arc<Self>> {
        let (spool, unwritten) = (Arc::<Spool>::default(), Arc::default());
        let (own_dir, own_spool, own_count) =
            (dir.clone(), Arc::clone(&spool), Arc::clone(&unwritten));
        thread::Builder::new()
            .name(String::from("rules-recorder"))
            .spawn(move || write(&own_dir, &own_spool, &own_count))?;
        Ok(Arc::new(Self {
            dir,
            spool,
            lost: Mutex::default(),
            rates: Mutex::default(),
            captures: Mutex::default(),
            has_captures: AtomicBool::new(false),
            unwritten,
            calls: AtomicU64::new(0),
        }))
    }

    /// Records what `rule` decided about the items of one asking. Decisions that withhold something, errors,
    /// and those of a shadow that are not those of the version in force, always; the rest as a sample.
    pub(super) fn note<Q: Questions>(
        &self,
        (rule, org, now): (&Rule, &str, Millis),
        questions: &Q,
        parts: &[(usize, Part)],
    ) {
        for (at, part) in parts {
            let number = hash(&(questions.item(*at), &rule.config.name));
            let is_common = part.answer.as_ref().is_ok_and(|answer| {
                let is_same = |(decision, code): &(String, String)| {
                    answer.decision.as_str() == decision && answer.code == *code
                };
                answer.decision.is_common() && questions.beside(*at).is_none_or(is_same)
            });
            if is_common && number % SAMPLED != 0 {
                continue;
            }
            let sampled = if is_common { 1.0 / 100.0 } else { 1.0 };
            let record = record((rule, org, now), questions, (*at, part), sampled);
            self.put(Kept::Decisions, &rule.config.name, &record);
        }
        if let Some(share) = self.capturing(&rule.config.name, org, now) {
            self.capture_calls((rule, org, now), questions, (parts, share));
        }
    }

    /// Of a capture whole calls are kept, since their items count together.
    fn capture_calls<Q: Questions>(
        &self,
        (rule, org, now): (&Rule, &str, Millis),
        questions: &Q,
        (parts, share): (&[(usize, Part)], u16),
    ) {
        for (first, call) in calls(parts) {
            // What the version in force was asked is captured of it.
            if questions.beside(first).is_some() {
                continue;
            }
            let number = hash(&(questions.item(first), &rule.config.name));
            if (number / SAMPLED) % 10_000 >= u64::from(share) {
                continue;
            }
            let name = format!(
                "{:016x}",
                hash(&(number, now.0, self.calls.fetch_add(1, Ordering::Relaxed)))
            );
            for (at, part) in call {
                let sampled = f64::from(share) / 10_000.0;
                let mut record = record((rule, org, now), questions, (*at, part), sampled);
                let mut input = masked(questions.input(*at, now), rule, org);
                input.state.seen = part.seen.as_deref().cloned().unwrap_or_default();
                record.input = Some(input);
                record.masked = vec![String::from("/recipient/email")];
                record.call = Some(name.clone());
                self.put(Kept::Captures, &rule.config.name, &record);
            }
        }
    }

    /// Records a line of a rule's log, unless the rule logs too much.
    pub(super) fn log(
        &self,
        (rule, version, org): (&str, &str, &str),
        now: Millis,
        (level, text): (LogLevel, &str),
    ) {
        let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
        if !self.may_log(rule, now, bytes) {
            self.lose(Kept::Logs, rule);
            return;
        }
        let line = LogRecord {
            ts: At(now),
            org: org.to_owned(),
            rule: rule.to_owned(),
            version: version.to_owned(),
            level,
            text: text.to_owned(),
        };
        self.put(Kept::Logs, rule, &line);
    }

    fn may_log(&self, rule: &str, now: Millis, bytes: u32) -> bool {
        let mut rates = self.rates.lock();
        let is_known = rates.contains_key(rule) || rates.len() < RATES_MAX;
        let rate = rates.entry(if is_known { rule.to_owned() } else { String::new() }).or_default();
        let second = now.0 / 1_000;
        if rate.second != second {
            *rate = Rate { second, bytes: 0 };
        }
        rate.bytes = rate.bytes.saturating_add(bytes);
        rate.bytes <= LOG_BYTES_PER_SECOND
    }

    fn put(&self, kept: Kept, rule: &str, line: &impl Serialize) {
        if !self.spool.put(kept as usize, line) {
            self.lose(kept, rule);
        }
    }

    fn lose(&self, kept: Kept, rule: &str) {
        let mut lost = self.lost.lock();
        if lost.len() < RATES_MAX || lost.contains_key(&(kept, rule.to_owned())) {
            *lost.entry((kept, rule.to_owned())).or_default() += 1;
        }
    }

    /// Lines of a rule that were not kept since the process started: too many, or the disk was too slow.
    #[must_use]
    pub fn lost(&self, kept: Kept, rule: &str) -> u64 {
        let own = self.lost.lock().get(&(kept, rule.to_owned())).copied();
        own.unwrap_or_default() + self.unwritten.load(Ordering::Relaxed)
    }

    /// Lines that are wanted, oldest first. Reads files: call it where that may take a while.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(&self, kept: Kept, search: &Search) -> io::Result<Page> {
        let org = search.org.to_string();
        let needles = [("rule", &search.rule), ("org", &org)]
            .map(|(name, value)| format!("\"{name}\":{}", Value::from(value.as_str())));
        let wanted = |line: &Value| {
            let is = |name: &str, value: &str| line[name] == value;
            let ts = serde_json::from_value::<At>(line["ts"].clone());
            let level = serde_json::from_value::<LogLevel>(line["level"].clone());
            is("rule", &search.rule)
                && is("org", &org)
                && ts.is_ok_and(|ts| ts.0 >= search.since)
                && (kept != Kept::Logs || level.is_ok_and(|level| level >= search.level))
                && (search.decisions.is_empty()
                    || search.decisions.iter().any(|word| is("decision", whole(word))))
        };
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(search.since.0.min(1 << 50));
        let dir = self.dir.join(kept.name());
        trail::read(&dir, (search.after, since), &needles, (search.limit, &wanted))
    }

    /// Records inputs, too, from now on for a while; a capture of the same rule ends.
    ///
    /// # Errors
    /// The share or the time is none, or too many captures run.
    pub fn capture(
        &self,
        (org, rule): (OrganizationId, &str),
        share: &str,
        (now, seconds): (Millis, u64),
    ) -> Result<Capture, CaptureError> {
        let share = share_of(share).map_err(|_| CaptureError::Share)?;
        if !(1..=CAPTURE_SECONDS_MAX).contains(&seconds) {
            return Err(CaptureError::Length);
        }
        let until = now.plus(seconds * 1_000);
        let capture = Capture { org, rule: rule.to_owned(), share, until };
        let mut captures = self.captures.lock();
        captures.retain(|one| one.until > now && (one.org, one.rule.as_str()) != (org, rule));
        if captures.len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany);
        }
        captures.push(capture.clone());
        self.has_captures.store(true, Ordering::Relaxed);
        Ok(capture)
    }

    /// True if what the rule is asked now may be captured.
    pub(super) fn is_capturing(&self, rule: &str, org: &str, now: Millis) -> bool {
        self.capturing(rule, org, now).is_some()
    }

    /// Ends a capture; what was captured stays for a day.
    pub fn end_capture(&self, org: OrganizationId, rule: &str) {
        let mut captures = self.captures.lock();
        captures.retain(|one| (one.org, one.rule.as_str()) != (org, rule));
        self.has_captures.store(!captures.is_empty(), Ordering::Relaxed);
    }

    /// The capture of a rule that is running.
    #[must_use]
    pub fn captured(&self, org: OrganizationId, rule: &str, now: Millis) -> Option<Capture> {
        let captures = self.captures.lock();
        let mut running = captures.iter().filter(|one| one.until > now);
        running.find(|one| (one.org, one.rule.as_str()) == (org, rule)).cloned()
    }

    fn capturing(&self, rule: &str, org: &str, now: Millis) -> Option<u16> {
        if !self.has_captures.load(Ordering::Relaxed) {
            return None;
        }
        let org = org.parse().map(OrganizationId).ok()?;
        self.captured(org, rule, now).map(|capture| capture.share)
    }
}

/// People say `hold`.
fn whole(decision: &str) -> &str {
    if decision == "hold" { "hold-until" } else { decision }
}

fn record<Q: Questions>(
    (rule, org, now): (&Rule, &str, Millis),
    questions: &Q,
    (at, part): (usize, &Part),
    sampled: f64,
) -> DecisionRecord {
    let decided = Decided::of(Some(&part.answer), questions.payload(at));
    DecisionRecord {
        id: questions.id(at),
        item: u32::try_from(at).unwrap_or(u32::MAX),
        org: org.to_owned(),
        rule: rule.config.name.clone(),
        version: rule.config.version.clone(),
        digest: format!("sha256:{}", rule.digest),
        stage: rule.stage.as_str().to_owned(),
        // What a transform rule leaves is what people read; only captures hold such.
        decided: Decided { payload_after: None, ..decided },
        fuel: part.fuel,
        us: part.micros,
        batch: u32::try_from(part.batch).unwrap_or(u32::MAX),
        sampled,
        plan_before: questions.plan(at),
        active: questions
            .beside(at)
            .map(|(decision, code)| InForce { decision: decision.clone(), code: code.clone() }),
        ..DecisionRecord::new(now, Q::HOOK, Decided::default())
    }
}

/// With the settings in force, so that a replay asks the same; addresses are nobody's business.
fn masked(mut input: Input, rule: &Rule, org: &str) -> Input {
    if input.recipient.email.is_some() {
        input.recipient.email = Some(String::from(MASK));
    }
    let own = rule.config.config_for_org.get(org).into_iter().flatten();
    let settings = rule.config.config.iter().chain(own);
    input.config =
        settings.map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    input
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.spool.end();
    }
}

/// Writes what comes, until there will be no more.
fn write(dir: &Path, spool: &Spool, lost: &AtomicU64) {
    let mut trails = [(Kept::Decisions, DECISIONS), (Kept::Logs, LOGS), (Kept::Captures, CAPTURES)]
        .map(|(kept, keep)| Trail::new(dir.join(kept.name()), keep));
    let mut texts = <[Vec<u8>; KINDS]>::default();
    let mut is_failing = false;
    while spool.take(&mut texts, FORGET_EVERY) {
        let is_idle = texts.iter().all(Vec::is_empty);
        let mut failed = None;
        for (trail, text) in trails.iter_mut().zip(&mut texts) {
            let count = u64::try_from(text.iter().filter(|byte| **byte == b'\n').count());
            let done = if text.is_empty() { Ok(()) } else { trail.append(text) };
            let done = if is_idle { trail.forget(SystemTime::now()) } else { done };
            if let Err(error) = done {
                lost.fetch_add(count.unwrap_or(u64::MAX), Ordering::Relaxed);
                failed = Some(error);
            }
            text.clear();
        }
        // Once, not for every line while a disk is full.
        if let Some(error) = failed.as_ref().filter(|_| !is_failing) {
            tracing::error!(%error, "what rules decide cannot be recorded");
        }
        is_failing = failed.is_some();
        if !is_idle {
            thread::sleep(GATHERED);
        }
    }
}
