//! Digests: what rules collect for a recipient under one key goes out as one notification.
//!
//! Each collected notification waits in the journal like a held one. What comes due together goes out
//! as one of them that names the others; these end as suppressed, with the one they went out in as
//! the cause. Its content is journaled before they end, so a crash repeats and never loses.

use crate::dispatch::finish::{CANCELED, MERGED_CHARS, merged_body};
use crate::dispatch::job::Job;
use crate::dispatch::shard::Shard;
use crate::model::{Content, FinalState, Millis, Notification, NotificationId, OrganizationId};
use crate::rules::Digest;
use crate::work::{RecipientRef, Work};
use std::collections::HashMap;

/// Digests a shard keeps count of; beyond, one is sent at its time whatever it holds.
const OPEN_MAX: usize = 50_000;
/// Members that went out before their time and still wait in the journal.
const SENT_MAX: usize = 200_000;

/// Whose, and under which key.
type Place = (OrganizationId, RecipientRef, String);

/// The digests of one shard that are being collected, as far as this process saw it.
#[derive(Debug, Default)]
pub(super) struct Digests {
    open: HashMap<Place, Open>,
    sent: HashMap<(RecipientRef, NotificationId), (NotificationId, Millis)>,
}

#[derive(Debug)]
struct Open {
    flush_at: Millis,
    max_items: usize,
    members: Vec<(NotificationId, String)>,
}

/// What becomes of an item that is to be collected.
#[derive(Debug, PartialEq, Eq)]
enum Collected {
    /// It waits until then.
    Until(Millis),
    /// The digest is full: it goes out now, and names these.
    Full(Vec<String>),
}

impl Digests {
    fn add(
        &mut self,
        place: Place,
        digest: &Digest,
        notification: &Notification,
        now: Millis,
    ) -> Collected {
        if self.open.len() >= OPEN_MAX {
            self.open.retain(|_, open| open.flush_at > now);
        }
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&place) {
            return Collected::Until(digest.flush_at);
        }
        let recipient = place.1;
        let fresh = || Open {
            flush_at: digest.flush_at,
            max_items: usize::from(digest.max_items),
            members: Vec::new(),
        };
        let open = self.open.entry(place.clone()).or_insert_with(fresh);
        if open.flush_at <= now {
            *open = fresh();
        }
        // An entry that is claimed again was counted before.
        let is_known = open.members.iter().any(|(id, _)| *id == notification.id);
        if is_known || open.members.len() + 1 < open.max_items {
            if !is_known {
                open.members.push((notification.id, line(notification)));
            }
            return Collected::Until(open.flush_at);
        }
        let Some(full) = self.open.remove(&place) else {
            return Collected::Until(digest.flush_at);
        };
        if self.sent.len() >= SENT_MAX {
            self.sent.retain(|_, (_, until)| *until > now);
        }
        let mut lines = Vec::with_capacity(full.members.len());
        for (member, line) in full.members {
            if self.sent.len() < SENT_MAX {
                // An entry that comes late is asked about for a while.
                let until = full.flush_at.plus(KEPT_MS);
                self.sent.insert((recipient, member), (notification.id, until));
                lines.push(line);
            }
        }
        Collected::Full(lines)
    }

    /// The notification that this one already went out in.
    fn went_in(&mut self, to: RecipientRef, id: NotificationId) -> Option<NotificationId> {
        self.sent.get(&(to, id)).map(|(leader, _)| *leader)
    }
}

const KEPT_MS: u64 = 600_000;

impl Shard {
    /// Sets a recipient's item aside until its digest is sent, or sends the digest it fills.
    pub(super) fn collect(
        &self,
        job: &mut Job,
        recipient: &crate::dispatch::expand::Expanded,
        (digest, now): (Digest, Millis),
    ) {
        let notification = job.notification.as_ref().clone();
        let to = recipient.recipient;
        let place = (notification.org, to, digest.key.clone());
        let collected = self.digests.lock().add(place, &digest, &notification, now);
        let cause = format!("digest:{}", digest.key);
        match collected {
            Collected::Until(until) => {
                let work = Work::Collected { notification, recipient: to, key: digest.key };
                job.hold_as(now, recipient, (until.max(now.plus(1)), cause), &work);
            }
            Collected::Full(lines) => {
                let work =
                    Work::Digested { notification: naming(notification, &lines), recipient: to };
                job.hold_as(now, recipient, (now, cause), &work);
            }
        }
    }

    /// Collected entries that came due together: of each recipient and key one goes on, and names the
    /// others, which end here. The one that goes on comes first.
    pub(super) fn flush(&self, collected: Vec<(RecipientRef, String, Job)>) -> Vec<Job> {
        let now = self.context.clock.now();
        let mut groups: Vec<((RecipientRef, String, OrganizationId), Vec<Job>)> = Vec::new();
        for (recipient, key, job) in collected {
            let place = (recipient, key, job.notification.org);
            match groups.iter_mut().find(|(known, _)| *known == place) {
                Some((_, jobs)) => jobs.push(job),
                None => groups.push((place, vec![job])),
            }
        }
        let mut all = Vec::new();
        for ((recipient, key, org), jobs) in groups {
            let taken: Vec<_> = {
                let mut digests = self.digests.lock();
                let is_over = |open: &Open| open.flush_at <= now;
                let place = (org, recipient, key.clone());
                if digests.open.get(&place).is_some_and(is_over) {
                    digests.open.remove(&place);
                }
                jobs.iter().map(|job| digests.went_in(recipient, job.notification.id)).collect()
            };
            all.extend(self.flush_one(
                (recipient, &key),
                jobs.into_iter().zip(taken).collect(),
                now,
            ));
        }
        all
    }

    fn flush_one(
        &self,
        (recipient, key): (RecipientRef, &str),
        jobs: Vec<(Job, Option<NotificationId>)>,
        now: Millis,
    ) -> Vec<Job> {
        let mut going = Vec::new();
        let mut ended = Vec::new();
        for (mut job, taken) in jobs {
            let is_canceled = self.context.journal.is_canceled(job.notification.id);
            let is_late = job.notification.expires_at.is_some_and(|at| at <= now);
            let end = match taken {
                _ if is_canceled => Some((FinalState::Suppressed, String::from(CANCELED))),
                Some(leader) => Some((FinalState::Suppressed, format!("digest:{leader}"))),
                None if is_late => Some((FinalState::Expired, String::from("ttl"))),
                None => None,
            };
            match end {
                Some((state, cause)) => {
                    for one in std::mem::take(&mut job.recipients) {
                        job.finish_all(now, &one, state, &cause);
                    }
                    ended.push(job);
                }
                // Whoever cannot be reached any more goes out in nobody's name.
                None if job.recipients.is_empty() => ended.push(job),
                None => going.push(job),
            }
        }
        let mut going = going.into_iter();
        let Some(mut first) = going.next() else { return ended };
        let leader = first.notification.id;
        let mut lines = Vec::new();
        let mut others = Vec::new();
        for mut job in going {
            lines.push(line(&job.notification));
            for one in std::mem::take(&mut job.recipients) {
                job.finish_all(now, &one, FinalState::Suppressed, &format!("digest:{leader}"));
            }
            others.push(job);
        }
        for one in std::mem::take(&mut first.recipients) {
            let notification = naming(first.notification.as_ref().clone(), &lines);
            let work = Work::Digested { notification, recipient };
            first.hold_as(now, &one, (now, format!("digest:{key}")), &work);
        }
        let mut all = vec![first];
        all.extend(others);
        all.extend(ended);
        all
    }
}

/// One line for a notification that goes out within another.
fn line(notification: &Notification) -> String {
    let content = &notification.content;
    let text = if content.title.is_empty() { &content.body } else { &content.title };
    text.lines().next().unwrap_or_default().chars().take(MERGED_CHARS).collect()
}

/// `notification`, naming others that go out within it.
fn naming(notification: Notification, lines: &[String]) -> Notification {
    if lines.is_empty() {
        return notification;
    }
    let body = merged_body(&notification.content.body, lines);
    let content = Content { body, ..notification.content };
    Notification { content, ..notification }
}
