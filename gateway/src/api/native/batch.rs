//! Bulk intake: NDJSON in, one result line per input line out, in constant memory.
//!
//! Lines are committed in groups of a few hundred, and a line's result is written only after its
//! group is durable. Results of a whole request fit into the reply's bounded channel, so a
//! caller that sends everything before it reads anything cannot block itself.

use crate::api::failure::{Failure, FailureClass};
use crate::api::native::wire::Wire;
use crate::api::native::{organization, sender};
use crate::api::route::Call;
use crate::api::screen::{Load, class_of};
use crate::api::signed::Signed;
use crate::api::{Answered, Shared, reply};
use crate::intake::{Answer, Asked, Class, IntakeError, KeyState, RequestKey, Running};
use crate::journal::Entry;
use crate::model::{NotificationId, OrganizationId};
use crate::server::{BodyStream, ReplyBody};
use crate::telemetry::metrics::{self, IntakeMetrics};
use crate::work::Work;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::mpsc;

const LINES_MAX: usize = 10_000;
const LINE_BYTES_MAX: usize = 64 << 10;
/// Lines committed together.
const GROUP_LINES: usize = 512;
const GROUP_BYTES: usize = 256 << 10;
/// Frames the reply may hold: more than the results of `LINES_MAX` lines ever make.
const FRAMES: usize = 2 * LINES_MAX / GROUP_LINES + 300;

/// `POST /bugler/v1/notifications:batch`
pub(super) async fn batch(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, intake: counters, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    check_type(&request.headers)?;
    let created_by = sender(&caller).await?;
    let key = batch_key(&request.headers)?;
    let class = class_of(&request.headers, Load::Bulk);
    let path = request.path().to_owned();
    let mut lines = request.body.into_stream(shared.settings.bulk_max_body)?;
    // Asked for before the answer begins: a caller that waits for 100 Continue must not get the
    // final status instead, or it may never send its lines (RFC 9110 section 10.1.1).
    let first = lines.next().await.transpose()?;
    let durability = shared.intake.journal().durability();
    let (to, frames) = mpsc::channel(FRAMES);
    let batch = Batch {
        shared,
        caller,
        created_by,
        class,
        key,
        path,
        to,
        counters,
        group: Group::default(),
        totals: Totals::default(),
    };
    tokio::spawn(batch.run(first, lines));
    let mut response = reply::json(200, ReplyBody::Stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(reply::DURABILITY, HeaderValue::from_static(durability));
    Ok(Answered::Other(response))
}

fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    let media = crate::api::shared::content_type(headers).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/json" => Ok(()),
        _ => {
            let text = "send one JSON object per line as Content-Type: application/x-ndjson";
            Err(Failure::new(FailureClass::UnsupportedMediaType, text))
        }
    }
}

fn batch_key(headers: &HeaderMap) -> Result<Option<Bytes>, Failure> {
    let Some(key) = crate::api::shared::idempotency_key(headers)? else { return Ok(None) };
    // Checked here, so that a bad key refuses the request instead of every line.
    RequestKey::new(OrganizationId(0), "", key.as_bytes(), &[])?;
    Ok(Some(Bytes::copy_from_slice(key.as_bytes())))
}

/// Lines waiting for one commit, and the results they will have.
#[derive(Default)]
struct Group {
    org: Option<OrganizationId>,
    entries: Vec<Entry>,
    /// Hold their keys until the commit, so that no equal request gets between.
    remember: Vec<(Running, Answer)>,
    results: Vec<LineResult>,
    bytes: usize,
}

impl Group {
    fn is_full(&self) -> bool {
        self.results.len() >= GROUP_LINES || self.bytes >= GROUP_BYTES
    }
}

/// What a line of a group will be told.
enum LineResult {
    /// Accepted if the group's commit succeeds.
    Staged(usize, NotificationId),
    /// Known before the commit, and told after it only to keep the lines in order.
    Known(String),
}

#[derive(Default)]
struct Totals {
    lines: usize,
    accepted: usize,
    replayed: usize,
    rejected: usize,
}

struct Batch {
    shared: Arc<Shared>,
    caller: Signed,
    created_by: String,
    class: Class,
    key: Option<Bytes>,
    path: String,
    to: mpsc::Sender<Frame<Bytes>>,
    counters: Arc<IntakeMetrics>,
    group: Group,
    totals: Totals,
}

impl Batch {
    async fn run(mut self, first: Option<Bytes>, mut body: BodyStream) {
        let mut buffer = BytesMut::new();
        let mut next = Ok(first);
        let failure = loop {
            let ended = match next {
                Ok(Some(bytes)) => {
                    buffer.extend_from_slice(&bytes);
                    false
                }
                Err(error) => break Some(Failure::from(error)),
                Ok(None) => true,
            };
            if let Err(failure) = self.lines(&mut buffer, ended).await {
                break Some(failure);
            }
            if ended {
                break None;
            }
            next = body.next().await.transpose();
        };
        self.flush().await;
        self.summary(failure).await;
    }

    /// Takes every complete line out of `buffer`.
    async fn lines(&mut self, buffer: &mut BytesMut, ended: bool) -> Result<(), Failure> {
        loop {
            let line = match buffer.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    let line = buffer.split_to(end + 1).freeze();
                    line.slice(..end)
                }
                None if ended && !buffer.is_empty() => buffer.split().freeze(),
                None => break,
            };
            let is_blank = line.iter().all(u8::is_ascii_whitespace);
            if !is_blank {
                self.line(&line).await?;
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            let text = format!("a line is longer than {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(FailureClass::TooLarge, text));
        }
        Ok(())
    }

    async fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let number = self.totals.lines;
        if number >= LINES_MAX {
            let text =
                format!("a request holds at most {LINES_MAX} lines; send the rest in another");
            return Err(Failure::new(FailureClass::TooLarge, text));
        }
        self.totals.lines += 1;
        match self.prepare(number, line).await {
            Ok(()) => {}
            Err(LineEnd::Refused(failure)) => {
                let text = self.refused(number, &failure);
                self.group.results.push(LineResult::Known(text));
            }
            Err(LineEnd::Replayed(answer)) => {
                self.totals.replayed += 1;
                self.counters.replayed();
                let id = answer.notification;
                let status = answer.status;
                let text = format!(
                    "{{\"i\":{number},\"status\":{status},\"id\":\"{id}\",\"replayed\":true}}\n"
                );
                self.group.results.push(LineResult::Known(text));
            }
        }
        if self.group.is_full() {
            self.flush().await;
        }
        Ok(())
    }

    async fn prepare(&mut self, number: usize, line: &[u8]) -> Result<(), LineEnd> {
        if line.len() > LINE_BYTES_MAX {
            let text = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(FailureClass::TooLarge, text).into());
        }
        self.shared.throttle(self.caller.organization)?;
        self.admit(line.len())?;
        let wire = Wire::parse(line)?;
        let org = match wire.organization {
            None => self.caller.organization,
            Some(named) => organization(&self.shared, &self.caller, Some(named.0)).await?,
        };
        if self.group.org.is_some_and(|grouped| grouped != org) {
            self.flush().await;
        }
        let shared = Arc::clone(&self.shared);
        let running = match self.line_key(org, number, line)? {
            None => None,
            Some(key) => match shared.intake.begin(key).await.map_err(Failure::from)? {
                KeyState::First(running) => Some(running),
                KeyState::Replay(answer) => return Err(LineEnd::Replayed(answer)),
            },
        };
        let id = shared.intake.mint();
        let notification =
            wire.into_notification(id, org, &self.created_by, shared.intake.now())?;
        let entry = Work::root(notification);
        self.group.org = Some(org);
        self.group.bytes += entry.payload.len();
        self.group.entries.push(entry);
        self.group.results.push(LineResult::Staged(number, id));
        if let Some(running) = running {
            let answer = Answer { status: 201, notification: id, body: Bytes::new() };
            self.group.remember.push((running, answer));
        }
        Ok(())
    }

    /// Asks for each line again: a disk may fall behind while a request runs.
    fn admit(&self, bytes: usize) -> Result<(), IntakeError> {
        if !self.shared.intake.admission().is_pressed() {
            return Ok(());
        }
        let (org, bytes) = (self.caller.organization, bytes as u64);
        self.shared.intake.admit(&Asked { org, class: self.class, sends: true, bytes })
    }

    fn line_key(
        &self,
        org: OrganizationId,
        number: usize,
        line: &[u8],
    ) -> Result<Option<RequestKey>, IntakeError> {
        let Some(key) = &self.key else { return Ok(None) };
        let scope = format!("{}#{number}", self.path);
        RequestKey::new(org, &scope, key, line).map(Some)
    }

    /// Commits the group, then writes its results.
    async fn flush(&mut self) {
        let Group { org, entries, remember, results, .. } = std::mem::take(&mut self.group);
        // Lines that the backlog has no room for must not take those before them along.
        let fitting = org.map_or(0, |org| self.shared.intake.fitting(org, &entries));
        let committed = match org {
            Some(org) => self.commit(org, entries, remember, fitting).await,
            None => [None, None],
        };
        let mut text = String::with_capacity(results.len() * 72);
        let mut staged = 0;
        for result in results {
            let (number, id) = match result {
                LineResult::Known(line) => {
                    text.push_str(&line);
                    continue;
                }
                LineResult::Staged(number, id) => (number, id),
            };
            let [of_first, of_rest] = &committed;
            let failure = if staged < fitting { of_first } else { of_rest };
            staged += 1;
            match failure {
                Some(failure) => text.push_str(&self.refused(number, failure)),
                None => {
                    writeln!(text, "{{\"i\":{number},\"status\":201,\"id\":\"{id}\"}}").ok();
                }
            }
        }
        if !text.is_empty() {
            self.write(text).await;
        }
    }

    /// Commits the first `fitting` entries, then the rest; answers what failed of either.
    async fn commit(
        &mut self,
        org: OrganizationId,
        mut entries: Vec<Entry>,
        remember: Vec<(Running, Answer)>,
        fitting: usize,
    ) -> [Option<Failure>; 2] {
        let rest = entries.split_off(fitting);
        let beyond: HashSet<_> = rest.iter().map(|entry| entry.notification).collect();
        let (later, remember): (Vec<_>, Vec<_>) =
            remember.into_iter().partition(|(_, answer)| beyond.contains(&answer.notification));
        let mut failures = [None, None];
        let parts = [(entries, remember), (rest, later)];
        for ((entries, remember), failure) in parts.into_iter().zip(&mut failures) {
            let count = entries.len();
            if count == 0 {
                continue;
            }
            match self.shared.intake.accept_all(org, entries, &remember).await {
                Ok(()) => {
                    self.totals.accepted += count;
                    self.counters.accepted(count as u64);
                }
                Err(error) => *failure = Some(Failure::from(error)),
            }
        }
        failures
    }

    /// Counts a refused line; answers what it is told.
    fn refused(&mut self, number: usize, failure: &Failure) -> String {
        self.totals.rejected += 1;
        self.counters.rejected(failure.class.code());
        let mut line = json!({
            "i": number,
            "status": failure.class.status(),
            "code": failure.class.code(),
            "detail": failure.detail,
        });
        if let Some(seconds) = failure.retry_after_s {
            line["retryAfter"] = seconds.into();
        }
        if failure.class == FailureClass::Uncertain {
            line["outcome"] = "unknown".into();
        }
        format!("{line}\n")
    }

    async fn summary(&mut self, failure: Option<Failure>) {
        metrics::bulk_received(u32::try_from(self.totals.lines).unwrap_or(u32::MAX));
        let Totals { lines, accepted, replayed, rejected } = self.totals;
        let mut line = json!({
            "summary": true,
            "lines": lines,
            "accepted": accepted,
            "replayed": replayed,
            "rejected": rejected,
        });
        if let Some(failure) = failure {
            // Everything after the last result line was neither read nor stored.
            line["status"] = failure.class.status().into();
            line["code"] = failure.class.code().into();
            line["detail"] = failure.detail.into();
        }
        self.write(format!("{line}\n")).await;
    }

    async fn write(&self, text: String) {
        if self.to.send(Frame::data(Bytes::from(text))).await.is_err() {
            tracing::debug!("the caller of a batch went away before its results");
        }
    }
}

/// Why a line is not in the group.
enum LineEnd {
    Refused(Failure),
    Replayed(Answer),
}

impl From<Failure> for LineEnd {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl From<IntakeError> for LineEnd {
    fn from(error: IntakeError) -> Self {
        Self::Refused(error.into())
    }
}
