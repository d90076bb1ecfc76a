//! Whole batches as one run of bytes, which costs a rule less than hundreds of texts handed over one by one.
//!
//! What the bytes are is said in `wit/bugler-rules.wit`, at the `-packed` interfaces: postcard's, of which
//! so little is needed that a rule is smaller and faster without its crate.

use crate::Authorized;
use crate::bindings::authorizer::Request;
use crate::bindings::bugler::rules::types::{
    Attr, Channel, Notification, Outcome, Plan, Principal, PrincipalKind, Priority, Reason,
    Recipient, RecipientKind, Step, Target, UserStatus, Verdict,
};
use crate::bindings::router::{self, Routed};
use crate::bindings::transformer::{self, Edit, Transformed};
use crate::guest::{self, Authorize, Route, Transform};

const PRINCIPALS: [PrincipalKind; 3] =
    [PrincipalKind::User, PrincipalKind::Organization, PrincipalKind::Service];
const VERDICTS: [Verdict; 2] = [Verdict::Allow, Verdict::Deny];
const PRIORITIES: [Priority; 4] =
    [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
const RECIPIENTS: [RecipientKind; 2] = [RecipientKind::User, RecipientKind::Subscription];
const STATUSES: [UserStatus; 4] =
    [UserStatus::Active, UserStatus::Pending, UserStatus::Inactive, UserStatus::Blocked];
const CHANNELS: [Channel; 4] = [Channel::Apns, Channel::Fcm, Channel::Slack, Channel::Webhook];
const OUTCOMES: [Outcome; 5] = [
    Outcome::Accepted,
    Outcome::Rejected,
    Outcome::TimedOut,
    Outcome::Unregistered,
    Outcome::Throttled,
];

/// Answers the requests in `batch` inside the gateway.
#[must_use]
pub fn authorize(batch: &[u8], authorize: Authorize) -> Vec<u8> {
    packed(&guest::authorize(&requests(batch), authorize), authorized)
}

/// Answers the items in `batch` inside the gateway.
#[must_use]
pub fn route(batch: &[u8], route: Route) -> Vec<u8> {
    let batch = Reader(batch).whole(|from| router::Batch {
        notifications: from.list(Reader::notification),
        recipients: from.list(Reader::recipient),
        items: from.list(|from| router::Item {
            notification: from.index(),
            recipient: from.index(),
            attempt: from.small(),
            last_outcome: from.maybe(|from| from.case(&OUTCOMES)),
            plan: from.plan(),
        }),
    });
    packed(&guest::answer(&batch, route), routed)
}

/// Answers the payloads in `batch` inside the gateway.
#[must_use]
pub fn transform(batch: &[u8], transform: Transform) -> Vec<u8> {
    let batch = Reader(batch).whole(|from| transformer::Batch {
        notifications: from.list(Reader::notification),
        recipients: from.list(Reader::recipient),
        items: from.list(|from| transformer::Item {
            notification: from.index(),
            recipient: from.index(),
            channel: from.case(&CHANNELS),
            payload_json: from.text(),
        }),
    });
    packed(&guest::transform(&batch, transform), transformed)
}

fn requests(batch: &[u8]) -> Vec<Request> {
    Reader(batch).whole(|from| from.list(Reader::request))
}

/// What is left of a batch. It is the gateway's word: anything it would not write panics.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn whole<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let all = read(&mut self);
        if self.0.is_empty() { all } else { garbled() }
    }

    fn byte(&mut self) -> u8 {
        *self.0.split_off_first().unwrap_or_else(|| garbled())
    }

    fn number(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 { u64::from(first) } else { self.long(first) }
    }

    #[inline(never)]
    fn long(&mut self, first: u8) -> u64 {
        let mut number = u64::from(first & 0x7f);
        for shift in (7..u64::BITS).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    fn count(&mut self) -> usize {
        usize::try_from(self.number()).unwrap_or_else(|_| garbled())
    }

    fn index(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or_else(|_| garbled())
    }

    fn small(&mut self) -> u16 {
        u16::try_from(self.number()).unwrap_or_else(|_| garbled())
    }

    fn case<T: Copy>(&mut self, cases: &[T]) -> T {
        *cases.get(usize::from(self.byte())).unwrap_or_else(|| garbled())
    }

    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() != 0).then(|| read(self))
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| read(self)).collect()
    }

    #[inline(never)]
    fn text(&mut self) -> String {
        let count = self.count();
        let bytes = self.0.split_off(..count).unwrap_or_else(|| garbled());
        str::from_utf8(bytes).unwrap_or_else(|_| garbled()).to_owned()
    }

    fn maybe_text(&mut self) -> Option<String> {
        self.maybe(Self::text)
    }

    #[inline(never)]
    fn texts(&mut self) -> Vec<String> {
        self.list(Self::text)
    }

    #[inline(never)]
    fn attrs(&mut self) -> Vec<Attr> {
        self.list(|from| Attr { key: from.text(), value: from.text() })
    }

    fn request(&mut self) -> Request {
        Request {
            principal: Principal {
                kind: self.case(&PRINCIPALS),
                id: self.text(),
                org_id: self.text(),
                roles: self.texts(),
                permissions: self.texts(),
            },
            action: self.text(),
            org_id: self.text(),
            resource_id: self.maybe_text(),
            required: self.texts(),
            baseline: self.case(&VERDICTS),
        }
    }

    #[inline(never)]
    fn notification(&mut self) -> Notification {
        Notification {
            id: self.text(),
            org_id: self.text(),
            event_type: self.text(),
            title: self.text(),
            body: self.text(),
            priority: self.case(&PRIORITIES),
            created_at: self.number(),
            expires_at: self.maybe(Self::number),
            collapse_key: self.maybe_text(),
            attrs: self.attrs(),
        }
    }

    #[inline(never)]
    fn recipient(&mut self) -> Recipient {
        Recipient {
            kind: self.case(&RECIPIENTS),
            id: self.text(),
            org_id: self.text(),
            email: self.maybe_text(),
            tz: self.maybe_text(),
            locale: self.maybe_text(),
            status: self.case(&STATUSES),
            roles: self.texts(),
            prefs: self.attrs(),
            targets: self.list(|from| Target {
                channel: from.case(&CHANNELS),
                handle: from.text(),
                app: from.text(),
                last_ok_at: from.maybe(Self::number),
                recent_failures: from.small(),
            }),
        }
    }

    fn plan(&mut self) -> Plan {
        Plan {
            steps: self
                .list(|from| Step { targets: from.list(Self::index), within_ms: from.index() }),
            priority: self.maybe(|from| from.case(&PRIORITIES)),
            collapse_key: self.maybe_text(),
            expires_at: self.maybe(Self::number),
        }
    }
}

#[cold]
#[inline(never)]
fn garbled() -> ! {
    unreachable!("a gateway packs what the interface says")
}

/// Bytes in the making.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    #[inline(never)]
    fn number(&mut self, mut rest: u64) {
        while rest >= 0x80 {
            self.byte(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.byte(rest.to_le_bytes()[0]);
    }

    #[inline(never)]
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(values.len() as u64);
        values.iter().for_each(|value| write(self, value));
    }

    #[inline(never)]
    fn reason(&mut self, why: &Reason) {
        self.text(&why.code);
        self.maybe(why.detail.as_deref(), Self::text);
    }

    #[inline(never)]
    fn plan(&mut self, plan: &Plan) {
        self.list(&plan.steps, |to, step| {
            to.list(&step.targets, |to, target| to.number(u64::from(*target)));
            to.number(u64::from(step.within_ms));
        });
        self.maybe(plan.priority, |to, priority| to.byte(priority as u8));
        self.maybe(plan.collapse_key.as_deref(), Self::text);
        self.maybe(plan.expires_at, Self::number);
    }
}

fn packed<T>(answers: &[T], write: impl Fn(&mut Writer, &T)) -> Vec<u8> {
    let mut to = Writer(Vec::with_capacity(32 * answers.len() + 8));
    to.list(answers, write);
    to.0
}

fn authorized(to: &mut Writer, answer: &Authorized) {
    match answer {
        Authorized::Allow(why) => {
            to.byte(0);
            to.reason(why);
        }
        Authorized::Deny(why) => {
            to.byte(1);
            to.reason(why);
        }
        Authorized::Abstain => to.byte(2),
    }
}

fn routed(to: &mut Writer, answer: &Routed) {
    match &answer.decision {
        router::Decision::Abstain => to.byte(0),
        router::Decision::Deliver(plan) => {
            to.byte(1);
            to.plan(plan);
        }
        router::Decision::HoldUntil(until) => {
            to.byte(2);
            to.number(*until);
        }
        router::Decision::Digest(digest) => {
            to.byte(3);
            to.text(&digest.key);
            to.number(digest.flush_at);
            to.number(u64::from(digest.max_items));
        }
        router::Decision::Drop => to.byte(4),
    }
    to.reason(&answer.why);
}

fn transformed(to: &mut Writer, answer: &Transformed) {
    match &answer.decision {
        transformer::Decision::Keep => to.byte(0),
        transformer::Decision::Patch(edits) => {
            to.byte(1);
            to.list(edits, |to, edit: &Edit| {
                to.text(&edit.pointer);
                to.maybe(edit.value_json.as_deref(), Writer::text);
            });
        }
        transformer::Decision::Replace(json) => {
            to.byte(2);
            to.text(json);
        }
        transformer::Decision::Drop => to.byte(3),
    }
    to.maybe(answer.why.as_ref(), Writer::reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{deny, no_opinion};
    use crate::guest::authorize_with;
    use crate::testing::FakeHost;

    fn judged(request: &crate::Request<'_>, _cx: &crate::Cx<'_>) -> Authorized {
        let principal = request.principal();
        let is_whole = principal.roles == ["r"] && principal.permissions == ["p", "é"];
        let is_asked = request.action() == "a" && request.resource_id() == Some("x");
        if is_whole && is_asked { deny("no").detail("d".repeat(200)) } else { no_opinion() }
    }

    #[test]
    fn a_request_is_read_and_its_answer_written_byte_for_byte() {
        let request = [
            &[2][..],
            b"\x01\x017\x03101\x01\x01r\x02\x01p\x02\xc3\xa9\x01a\x03101\x01\x01x\x00\x01",
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ];
        let expected =
            [&[2, 1, 2][..], b"no\x01\xc8\x01", "d".repeat(200).as_bytes(), &[2]].concat();
        let host = FakeHost::at("12:00", &[]);
        let answers = authorize_with(&host, &requests(&request.concat()), judged);
        assert_eq!(packed(&answers, authorized), expected);
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut to = Writer::default();
            to.number(number);
            assert_eq!(Reader(&to.0).whole(Reader::number), number);
        }
    }

    #[test]
    #[should_panic(expected = "a gateway packs")]
    fn bytes_behind_the_last_record_are_no_batch() {
        assert_eq!(requests(&[0, 0]), []);
    }
}
