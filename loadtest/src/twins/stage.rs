//! The way of one request through a twin: judged, faulted, committed, recorded, answered.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use sha2::{Digest, Sha256};

use super::TwinName;
use super::fault::{Action, Faults};
use super::receipts::{BodyHash, Receipt, ReceiptLog};
use super::reply::{BodyStyle, Call, Reply, answer, json};
use super::wire::Link;
use crate::{marker, wall};

const RETRY_DATE_S: u64 = 30;

/// A provider's rules.
pub(crate) trait Twin: Send + Sync {
    /// Checks a request as strictly as the provider does and prepares the answer.
    fn judge(&self, call: &Call) -> Judged;

    /// Whether the provider lets a connection carry one stream only after it answered `reason`.
    fn is_throttled_by(&self, _reason: &str) -> bool {
        false
    }

    /// The provider's error answer for a status, with its usual reason when none is given; also
    /// returns the reason used.
    fn failure(
        &self,
        judged: &Judged,
        code: u16,
        reason: Option<&str>,
    ) -> (Response<Bytes>, String);
}

/// What a twin makes of a request.
pub(crate) struct Judged {
    pub(crate) twin: TwinName,
    pub(crate) key: String,
    pub(crate) target: String,
    pub(crate) notification: Option<String>,
    /// The rule of the provider that the request breaks.
    pub(crate) refused: Option<String>,
    pub(crate) answer: Response<Bytes>,
    pub(crate) magic: Option<Magic>,
    /// Whether the credentials were good; none when it did not come to that.
    pub(crate) credentials: Option<bool>,
}

/// What a target that is made for tests asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Magic {
    Always(Action),
    /// On the first attempt of each delivery only.
    Once(Action),
}

impl Magic {
    pub(crate) fn status(code: u16, reason: &str) -> Action {
        Action::Status { code, reason: Some(reason.to_owned()), retry_after: Vec::new() }
    }

    pub(crate) fn throttle(code: u16, reason: &str) -> Self {
        let retry_after = vec!["2".to_owned()];
        Self::Always(Action::Status { code, reason: Some(reason.to_owned()), retry_after })
    }

    pub(crate) fn slow() -> Self {
        Self::Always(Action::Delay { ms: 2000 })
    }
}

/// What all twins of a set share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) faults: Faults,
    pub(crate) receipts: ReceiptLog,
}

impl Stage {
    /// Answers one request.
    pub(crate) async fn answer(&self, twin: &dyn Twin, call: Call, link: &Link) -> Reply {
        let judged = twin.judge(&call);
        let mut receipt = receipt(&call, &judged);
        let path = call.path().to_owned();
        drop(call);
        if receipt.reason.is_some() {
            self.receipts.record(receipt);
            return Reply::StreamReset { refused: false };
        }
        if let Some(good) = judged.credentials {
            link.credentials(good);
        }
        let magic = match &judged.magic {
            _ if judged.refused.is_some() => None,
            Some(Magic::Always(action)) => Some(action.clone()),
            Some(Magic::Once(action)) => {
                (self.receipts.attempts_before(&receipt) == 0).then(|| action.clone())
            }
            None => None,
        };
        let decision = self.faults.decide(judged.twin, &judged.target, &path, magic);
        if decision.delay > Duration::ZERO {
            tokio::time::sleep(decision.delay).await;
        }
        if let Some(streams) = decision.stream_limit {
            link.limit_streams(streams);
        }
        if let Some(bytes) = decision.window {
            link.limit_window(bytes);
        }
        let shown = show(twin, judged, decision.action);
        if let Some(Steer::GoAway(reason)) = shown.steer {
            link.go_away(reason);
            return Reply::Nothing;
        }
        if !shown.is_processed {
            return shown.reply;
        }
        if !link.commit() {
            return Reply::Nothing;
        }
        receipt.reason = shown.reason;
        receipt.status = match &shown.reply {
            Reply::Answer(response, _) => response.status().as_u16(),
            Reply::StreamReset { .. } | Reply::Nothing => 0,
        };
        if receipt.reason.as_ref().is_some_and(|reason| twin.is_throttled_by(reason)) {
            link.credentials(false);
        }
        self.receipts.record(receipt);
        match shown.steer {
            Some(Steer::Reset) => link.reset(),
            Some(Steer::Drip(ms_per_byte)) => link.drip(ms_per_byte),
            Some(Steer::GoAway(_)) | None => {}
        }
        shown.reply
    }
}

fn receipt(call: &Call, judged: &Judged) -> Receipt {
    let found = marker::find(&call.body);
    Receipt {
        seq: 0,
        twin: judged.twin,
        at_ms: wall::unix_ms(),
        key: judged.key.clone(),
        target: judged.target.clone(),
        notification: judged.notification.clone(),
        marker: found.map(|found| found.seq),
        intact: found.and_then(|found| found.intact),
        body_sha256: BodyHash(Sha256::digest(&call.body).into()),
        status: 0,
        reason: (!call.is_whole).then(|| "broken off by the sender".to_owned()),
        refused: judged.refused.clone(),
        attempt: 0,
        mail: None,
    }
}

/// What a connection does beside the reply.
enum Steer {
    Reset,
    Drip(u64),
    GoAway(Option<String>),
}

/// What the sender gets to see.
struct Shown {
    reply: Reply,
    reason: Option<String>,
    steer: Option<Steer>,
    /// False when the provider says itself that it did not look at the request.
    is_processed: bool,
}

impl Shown {
    fn reply(reply: Reply, reason: &str) -> Self {
        Self { reply, reason: Some(reason.to_owned()), steer: None, is_processed: true }
    }

    fn steered(reply: Reply, reason: &str, steer: Steer) -> Self {
        Self { steer: Some(steer), ..Self::reply(reply, reason) }
    }
}

fn show(twin: &dyn Twin, judged: Judged, action: Option<Action>) -> Shown {
    let styled = |answer, style, reason| Shown::reply(Reply::Answer(answer, style), reason);
    match action {
        None => {
            let reply = Reply::Answer(judged.answer, BodyStyle::Whole);
            Shown { reply, reason: judged.refused, steer: None, is_processed: true }
        }
        Some(Action::Status { code, reason, retry_after }) => {
            let (mut answer, reason) = twin.failure(&judged, code, reason.as_deref());
            for value in retry_after.iter().filter_map(|value| retry_after_value(value)) {
                answer.headers_mut().append(header::RETRY_AFTER, value);
            }
            styled(answer, BodyStyle::Whole, &reason)
        }
        Some(Action::Reset) => Shown::steered(Reply::Nothing, "reset", Steer::Reset),
        Some(Action::ResetStream { refused }) => Shown {
            is_processed: !refused,
            ..Shown::reply(Reply::StreamReset { refused }, "stream reset")
        },
        Some(Action::GoAway { reason }) => {
            Shown::steered(Reply::Nothing, "goaway", Steer::GoAway(reason))
        }
        Some(Action::Freeze) => Shown::reply(Reply::Nothing, "frozen"),
        Some(Action::Drip { ms_per_byte, head: true }) => {
            let reply = Reply::Answer(judged.answer, BodyStyle::Whole);
            Shown::steered(reply, "drip", Steer::Drip(ms_per_byte))
        }
        Some(Action::Drip { ms_per_byte, head: false }) => {
            styled(judged.answer, BodyStyle::Drip { ms_per_byte }, "drip")
        }
        Some(Action::EndlessBody) => styled(judged.answer, BodyStyle::Endless, "endless"),
        Some(Action::HugeBody { bytes }) => {
            styled(judged.answer, BodyStyle::Huge { bytes }, "huge")
        }
        Some(Action::Html) => {
            let page = b"<!doctype html><title>Please log in</title>".to_vec();
            styled(answer(200, "text/html", page), BodyStyle::Whole, "html")
        }
        Some(Action::NoId) => styled(json(200, &serde_json::json!({})), BodyStyle::Whole, "no-id"),
        Some(Action::Cut) => styled(judged.answer, BodyStyle::Cut, "cut"),
        Some(Action::BadJson) => {
            let mut bad = judged.answer;
            *bad.status_mut() = http::StatusCode::OK;
            *bad.body_mut() = Bytes::from_static(b"<html>{\"name\": not JSON");
            styled(bad, BodyStyle::Whole, "bad-json")
        }
        Some(Action::Redirect { to }) => {
            let mut answer = json(307, &serde_json::json!({}));
            if let Ok(to) = HeaderValue::try_from(to) {
                answer.headers_mut().insert(header::LOCATION, to);
            }
            styled(answer, BodyStyle::Whole, "redirect")
        }
        // The decision adds these up apart, so they never come as the action.
        Some(Action::Delay { .. } | Action::StreamLimit { .. } | Action::Window { .. }) => {
            styled(judged.answer, BodyStyle::Whole, "delay")
        }
    }
}

fn retry_after_value(text: &str) -> Option<HeaderValue> {
    let ahead_s = match text.strip_prefix("date") {
        Some("") => RETRY_DATE_S,
        Some(offset) => offset.trim_start_matches('+').parse().ok()?,
        None => return HeaderValue::try_from(text).ok(),
    };
    HeaderValue::try_from(wall::http_date(wall::unix_s() + ahead_s)).ok()
}
