//! The packed lane: what a rule is asked as one run of bytes, and its answers read from another.
//!
//! The bytes are postcard's; a test holds them against the records that are generated from the interface.

use crate::model::{Notification, NotificationId, ProviderName};
use crate::rules::abi;
use crate::rules::attrs::{Attrs, put_attrs};
use crate::rules::hooks::AuthorizeItem;
use crate::rules::{Plan, RecipientView, RouteItem, TargetView};
use serde::de::DeserializeOwned;
use std::collections::HashMap;

mod bindings {
    //! Generated from `rules-sdk/wit`.
    wasmtime::component::bindgen!({
        path: "../rules-sdk/wit",
        world: "full-packed",
    });
}

pub(super) use bindings::exports::bugler::rules::{
    authorizer_packed, router_packed, transformer_packed,
};

/// What a recipient and its part of a notification take, roughly.
const ITEM_BYTES: usize = 768;

/// Bytes in the making.
#[derive(Debug, Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Also the number of a case.
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut rest: u64) {
        while rest >= 0x80 {
            self.0.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
            rest >>= 7;
        }
        self.0.push(u8::try_from(rest).unwrap_or_default());
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn maybe<T>(&mut self, value: Option<T>, pack: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                pack(self, value);
            }
        }
    }

    fn list<T>(&mut self, values: &[T], mut pack: impl FnMut(&mut Self, &T)) {
        self.count(values.len());
        values.iter().for_each(|value| pack(self, value));
    }

    fn texts(&mut self, texts: &[String]) {
        self.list(texts, |packer, text| packer.text(text));
    }

    fn pairs(&mut self, pairs: &[(String, String)]) {
        self.list(pairs, |packer, (key, value)| {
            packer.text(key);
            packer.text(value);
        });
    }

    fn request(&mut self, from: &AuthorizeItem) {
        let principal = &from.principal;
        self.byte(abi::principal_kind(principal.kind) as u8);
        self.text(&principal.id);
        self.text(&principal.org);
        self.texts(&principal.roles);
        self.texts(&principal.permissions);
        self.text(&from.action);
        self.text(&from.org.to_string());
        self.maybe(from.resource.as_deref(), Self::text);
        self.texts(&from.required);
        self.byte(abi::verdict(from.is_allowed) as u8);
    }

    fn notification(&mut self, from: &Notification) {
        self.text(from.id.0.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
        self.text(&from.org.to_string());
        self.text(&from.event);
        self.text(&from.content.title);
        self.text(&from.content.body);
        self.byte(abi::priority(from.priority) as u8);
        self.number(from.created_at.0);
        self.maybe(from.expires_at, |packer, at| packer.number(at.0));
        self.maybe(from.collapse_key.as_deref(), Self::text);
        let mut attrs = Pairs::default();
        put_attrs(&from.content.data, &mut attrs);
        self.count(attrs.count);
        self.0.extend_from_slice(&attrs.bytes.0);
    }

    fn recipient(&mut self, from: &RecipientView) {
        self.byte(abi::recipient_kind(from.kind) as u8);
        self.text(&from.id);
        self.text(&from.org);
        self.maybe(from.email.as_deref(), Self::text);
        self.maybe(from.tz.as_deref(), Self::text);
        self.maybe(from.locale.as_deref(), Self::text);
        self.byte(abi::status(from.status) as u8);
        self.texts(&from.roles);
        self.pairs(&from.prefs);
        self.list(&from.targets, Self::target);
    }

    fn target(&mut self, from: &TargetView) {
        self.byte(abi::channel(from.provider) as u8);
        self.text(&from.handle);
        self.text(&from.app);
        self.maybe(from.last_ok_at, |packer, at| packer.number(at.0));
        self.number(u64::from(from.recent_failures));
    }

    /// A route item's own members behind its two positions.
    pub(super) fn routed(&mut self, from: &RouteItem, plan: &Plan) {
        self.number(u64::from(from.attempt));
        self.maybe(from.last_outcome, |packer, last| packer.byte(abi::outcome(last) as u8));
        self.list(&plan.steps, |packer, step| {
            packer.list(&step.targets, |packer, target| packer.count(*target));
            packer.number(u64::from(step.within_ms));
        });
        self.maybe(plan.priority, |packer, priority| packer.byte(abi::priority(priority) as u8));
        self.maybe(plan.collapse_key.as_deref(), Self::text);
        self.maybe(plan.expires_at, |packer, at| packer.number(at.0));
    }

    /// A transform item's own members behind its two positions.
    pub(super) fn shown(&mut self, channel: ProviderName, payload: &str) {
        self.byte(abi::channel(channel) as u8);
        self.text(payload);
    }
}

/// Pairs whose number is known at the end.
#[derive(Default)]
struct Pairs {
    count: usize,
    bytes: Packer,
}

impl Attrs for Pairs {
    fn put(&mut self, key: &str, value: &str) {
        self.count += 1;
        self.bytes.text(key);
        self.bytes.text(value);
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The requests at `asked`.
pub(super) fn requests(items: &[AuthorizeItem], asked: &[usize]) -> Vec<u8> {
    let mut packer = Packer(Vec::with_capacity(asked.len() * ITEM_BYTES / 2));
    let asked: Vec<_> = asked.iter().filter_map(|at| items.get(*at)).collect();
    packer.list(&asked, |packer, item| packer.request(item));
    packer.into_bytes()
}

/// Records one behind the other, and where each ends.
#[derive(Debug, Default)]
struct Records {
    bytes: Packer,
    ends: Vec<usize>,
}

impl Records {
    fn with_capacity(count: usize) -> Self {
        let bytes = Packer(Vec::with_capacity(count * ITEM_BYTES / 2));
        Self { bytes, ends: Vec::with_capacity(count) }
    }

    fn put(&mut self, pack: impl FnOnce(&mut Packer)) {
        pack(&mut self.bytes);
        self.ends.push(self.bytes.0.len());
    }

    fn get(&self, at: usize) -> &[u8] {
        let end = self.ends.get(at).copied().unwrap_or_default();
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before).copied());
        self.bytes.0.get(start.unwrap_or_default()..end).unwrap_or_default()
    }
}

/// Notifications and recipients of a batch, packed once for all the rules that see them.
#[derive(Debug)]
pub(super) struct Tables {
    notifications: Records,
    recipients: Records,
    /// By item: its notification.
    rows: Vec<usize>,
}

impl Tables {
    pub(super) fn of<'a>(
        items: impl ExactSizeIterator<Item = (&'a Notification, &'a RecipientView)>,
    ) -> Self {
        let count = items.len();
        let mut known: HashMap<NotificationId, usize> = HashMap::with_capacity(count);
        let mut tables = Self {
            notifications: Records::with_capacity(count),
            recipients: Records::with_capacity(count),
            rows: Vec::with_capacity(count),
        };
        for (notification, recipient) in items {
            let notifications = &mut tables.notifications;
            let row = *known.entry(notification.id).or_insert_with(|| {
                notifications.put(|packer| packer.notification(notification));
                notifications.ends.len() - 1
            });
            tables.rows.push(row);
            tables.recipients.put(|packer| packer.recipient(recipient));
        }
        tables
    }

    /// The batch that asks about the items at `asked` and holds nothing of the others; `rest` packs what
    /// an item has behind its two positions.
    pub(super) fn batch(&self, asked: &[usize], rest: impl Fn(&mut Packer, usize)) -> Vec<u8> {
        let (notifications, recipients) = (&self.notifications.bytes.0, &self.recipients.bytes.0);
        let room = notifications.len() + recipients.len() + asked.len() * 32 + 16;
        let mut packer = Packer(Vec::with_capacity(room));
        let is_whole = asked.len() == self.rows.len();
        let mut moved: Vec<Option<usize>> = vec![None; self.notifications.ends.len()];
        if is_whole {
            packer.count(self.notifications.ends.len());
            packer.0.extend_from_slice(notifications);
            packer.count(self.rows.len());
            packer.0.extend_from_slice(recipients);
        } else {
            let mut kept = Vec::new();
            for row in asked.iter().filter_map(|at| self.rows.get(*at)) {
                if let Some(place @ None) = moved.get_mut(*row) {
                    *place = Some(kept.len());
                    kept.push(*row);
                }
            }
            packer.list(&kept, |packer, row| {
                packer.0.extend_from_slice(self.notifications.get(*row));
            });
            packer.list(asked, |packer, at| packer.0.extend_from_slice(self.recipients.get(*at)));
        }
        packer.count(asked.len());
        for (recipient, at) in asked.iter().enumerate() {
            let row = self.rows.get(*at).copied().unwrap_or_default();
            packer.count(moved.get(row).copied().flatten().unwrap_or(row));
            packer.count(recipient);
            rest(&mut packer, *at);
        }
        packer.into_bytes()
    }
}

/// Exactly `wants` answers of a rule, which is hostile input.
pub(super) fn answers<T: DeserializeOwned>(bytes: &[u8], wants: usize) -> wasmtime::Result<Vec<T>> {
    let unreadable =
        |error: postcard::Error| wasmtime::Error::msg(format!("the packed answer: {error}"));
    let (has, mut rest) = postcard::take_from_bytes::<u64>(bytes).map_err(unreadable)?;
    if usize::try_from(has) != Ok(wants) {
        return Err(wasmtime::Error::msg(format!("{has} answers for {wants} items")));
    }
    let mut answers = Vec::with_capacity(wants);
    for _ in 0..wants {
        let (answer, after) = postcard::take_from_bytes(rest).map_err(unreadable)?;
        answers.push(answer);
        rest = after;
    }
    if rest.is_empty() {
        Ok(answers)
    } else {
        Err(wasmtime::Error::msg("the packed answer goes on behind its last record"))
    }
}
