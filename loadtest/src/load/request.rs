//! Builds requests into one buffer that is used again and again.

use std::io::Write;

use super::plan::{Dialect, LoadPlan, Mode, Recipients, Target};
use crate::marker;

/// Jigx: a text holds at most 200 characters.
const JIGX_TEXT_BYTES_MAX: usize = 200;

/// Builder of one worker's requests.
pub(super) struct Requests {
    mode: Mode,
    recipients: Recipients,
    text_bytes: usize,
    idempotency_keys: bool,
    /// Request line and headers that never change.
    head: Vec<u8>,
    body: Vec<u8>,
    request: Vec<u8>,
}

impl Requests {
    pub(super) fn new(plan: &LoadPlan, target: &Target) -> Self {
        let (path, media_type) = match &plan.mode {
            Mode::Single(Dialect::Jigx { organization }) => {
                let path = format!("/v2.0/tool/organizations/{organization}/notifications");
                (path, "application/json")
            }
            Mode::Single(Dialect::Blynk) => {
                ("/api/v1/organization/users/send-push-notification".to_owned(), "application/json")
            }
            Mode::Single(Dialect::Native) => {
                ("/bugler/v1/notifications".to_owned(), "application/json")
            }
            Mode::Bulk { .. } => {
                ("/bugler/v1/notifications:batch".to_owned(), "application/x-ndjson")
            }
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             content-type: {media_type}\r\n",
            target.host, plan.token
        );
        let text_bytes = match &plan.mode {
            Mode::Single(Dialect::Jigx { .. }) => plan.text_bytes.min(JIGX_TEXT_BYTES_MAX),
            Mode::Single(Dialect::Blynk | Dialect::Native) | Mode::Bulk { .. } => plan.text_bytes,
        };
        Self {
            mode: plan.mode.clone(),
            recipients: plan.recipients.clone(),
            text_bytes,
            idempotency_keys: plan.idempotency_keys,
            head: head.into_bytes(),
            body: Vec::new(),
            request: Vec::new(),
        }
    }

    /// The request for notifications `first..first + count`.
    pub(super) fn build(&mut self, first: u64, count: u64) -> &[u8] {
        self.body.clear();
        for seq in first..first + count {
            self.write_notification(seq);
        }
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        if self.idempotency_keys {
            write!(self.request, "idempotency-key: n-{first}-{count}\r\n")
                .expect("writing to a vector cannot fail");
        }
        write!(self.request, "content-length: {}\r\n\r\n", self.body.len())
            .expect("writing to a vector cannot fail");
        self.request.extend_from_slice(&self.body);
        &self.request
    }

    fn write_notification(&mut self, seq: u64) {
        let user = self.recipients.user(seq);
        match &self.mode {
            Mode::Single(Dialect::Jigx { .. }) => {
                self.write_marked(b"{\"content\":{\"title\":\"", seq, b"\",\"text\":\"");
                let domain = &self.recipients.domain;
                write!(
                    self.body,
                    "\",\"screen\":\"jig\"}},\"scope\":\"USR\",\"emails\":[\"user{user}@{domain}\"]}}"
                )
            }
            Mode::Single(Dialect::Blynk) => {
                self.write_marked(b"{\"title\":\"", seq, b"\",\"body\":\"");
                write!(self.body, "\",\"userId\":{user}}}")
            }
            Mode::Single(Dialect::Native) => {
                self.write_marked(b"{\"title\":\"", seq, b"\",\"body\":\"");
                write!(self.body, "\",\"to\":{{\"users\":[{user}]}}}}")
            }
            Mode::Bulk { .. } => {
                self.write_marked(b"{\"title\":\"", seq, b"\",\"body\":\"");
                writeln!(self.body, "\",\"to\":{{\"users\":[{user}]}}}}")
            }
        }
        .expect("writing to a vector cannot fail");
    }

    fn write_marked(&mut self, before: &[u8], seq: u64, between: &[u8]) {
        self.body.extend_from_slice(before);
        marker::write_title(&mut self.body, seq);
        self.body.extend_from_slice(between);
        marker::write_text(&mut self.body, seq, self.text_bytes);
    }
}
