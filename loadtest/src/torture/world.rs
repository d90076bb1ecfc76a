//! Who exists in a run: organizations, their users, devices and hooks, and where each target belongs.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::twins::{CredentialFiles, TwinSet};

/// Numbers of notifications of one organization; the next one's follow.
const SEQ_SPAN: u64 = 1_000_000_000;
const FIRST_ORGANIZATION: u64 = 1001;
const SECRET: &str = "whsec_dG9ydHVyZS10b3J0dXJlLXRvcnR1cmUtdG9ydHVyZQ==";

/// How many of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) organizations: usize,
    /// Users of each organization, with one device each: APNs and FCM in turn.
    pub(super) users: u64,
    /// Webhooks of every fourth organization, all of which want every notification.
    pub(super) hooks: usize,
    /// Whether every fourth organization has a Slack channel.
    pub(super) slack: bool,
    /// Whether each second webhook is in strict order: one try at a time.
    pub(super) strict: bool,
}

/// Where the gateway finds a provider.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    pub(super) apns: String,
    pub(super) fcm: String,
    pub(super) webhook: String,
    pub(super) slack: String,
}

impl Endpoints {
    pub(super) fn of(twins: &TwinSet) -> Self {
        Self {
            apns: twins.apns_url(),
            fcm: twins.fcm_url(),
            webhook: twins.webhook_url(),
            slack: twins.slack_url(),
        }
    }
}

/// The directory of a run, by arithmetic: nothing is kept but the hooks' paths.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) size: Size,
    hooks: HashMap<String, (usize, usize)>,
}

impl World {
    pub(super) fn new(size: Size) -> Self {
        let mut hooks = HashMap::new();
        for org in 0..size.organizations {
            for (index, path) in hook_paths(size, org).into_iter().enumerate() {
                hooks.insert(path, (org, index));
            }
        }
        Self { size, hooks }
    }

    /// The gateway's id of an organization.
    pub(super) fn id(org: usize) -> u64 {
        FIRST_ORGANIZATION + org as u64
    }

    /// First and last user of an organization.
    pub(super) fn users(&self, org: usize) -> (u64, u64) {
        let first = Self::id(org) * 10_000 + 1;
        (first, first + self.size.users - 1)
    }

    /// The number of the first notification of an organization.
    pub(super) fn first_seq(org: usize) -> u64 {
        (org as u64 + 1) * SEQ_SPAN
    }

    /// The organization that a notification was sent by, and its number there.
    pub(super) fn sender(&self, seq: u64) -> Option<(usize, usize)> {
        let org = usize::try_from((seq / SEQ_SPAN).checked_sub(1)?).ok()?;
        let index = usize::try_from(seq % SEQ_SPAN).ok()?;
        (org < self.size.organizations).then_some((org, index))
    }

    /// Targets of each notification of an organization.
    pub(super) fn slots(&self, org: usize) -> usize {
        1 + hook_paths(self.size, org).len()
    }

    /// The organization a target belongs to, and which of a notification's targets it is; the user
    /// behind it, if it is a device.
    pub(super) fn owner(&self, target: &str) -> Option<Owner> {
        if let Some((org, index)) = self.hooks.get(target) {
            return Some(Owner { org: *org, slot: index + 1, user: None });
        }
        let (org, user) = match target.strip_prefix("phone-o") {
            Some(rest) => {
                let (org, user) = rest.split_once("-u")?;
                (org.parse().ok()?, user.parse().ok()?)
            }
            None => (
                u64::from_str_radix(target.get(2..32)?, 16).ok()?,
                u64::from_str_radix(target.get(32..64)?, 16).ok()?,
            ),
        };
        let org = usize::try_from(u64::checked_sub(org, FIRST_ORGANIZATION)?).ok()?;
        (org < self.size.organizations).then_some(Owner { org, slot: 0, user: Some(user) })
    }

    /// The user whom notification `seq` of `org` is for.
    pub(super) fn user(&self, org: usize, seq: u64) -> u64 {
        self.users(org).0 + seq % self.size.users
    }

    /// The device token of a user.
    pub(super) fn token(org: usize, user: u64) -> String {
        let id = Self::id(org);
        if user.is_multiple_of(2) {
            format!("ab{id:030x}{user:032x}")
        } else {
            format!("phone-o{id}-u{user}")
        }
    }

    /// Whether several tries of a target may be on their way at once.
    pub(super) fn is_abreast(&self, org: usize, slot: usize) -> bool {
        org % 4 == 1 && slot > 0 && !(self.size.strict && is_strict(slot - 1))
    }

    /// The paths of an organization's hooks.
    pub(super) fn hook_paths(&self, org: usize) -> Vec<String> {
        hook_paths(self.size, org)
    }

    /// Makes the webhook twin check every signature.
    pub(super) fn register_secrets(&self, twins: &TwinSet) {
        for path in self.hooks.keys().filter(|path| path.starts_with("/hooks/")) {
            // The secret is ours and well-formed.
            twins.register_secret(path, SECRET).ok();
        }
    }

    /// The document that `bugler serve --seed` imports.
    pub(super) fn directory(&self, at: &Endpoints) -> Value {
        let mut organizations = Vec::new();
        let mut users = Vec::new();
        let mut subscriptions = Vec::new();
        for org in 0..self.size.organizations {
            let id = Self::id(org);
            organizations.push(json!({ "id": id, "name": format!("Organization {id}") }));
            let (first, last) = self.users(org);
            for user in first..=last {
                let platform = if user.is_multiple_of(2) { "apns" } else { "fcm" };
                let token = Self::token(org, user);
                users.push(json!({
                    "id": user, "organization": id, "role": 1, "status": "active",
                    "email": format!("user{user}@example.com"), "name": format!("User {user}"),
                    "devices": [{ "platform": platform, "app": "main", "token": token }],
                }));
            }
            for (index, path) in hook_paths(self.size, org).into_iter().enumerate() {
                let mut one = subscription(id, &path, at);
                if self.size.strict && org % 4 == 1 && is_strict(index) {
                    one["keepOrder"] = json!(true);
                }
                subscriptions.push(one);
            }
        }
        json!({
            "organizations": organizations, "users": users, "subscriptions": subscriptions,
        })
    }
}

fn is_strict(hook: usize) -> bool {
    hook % 2 == 1
}

/// Whose a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) org: usize,
    pub(super) slot: usize,
    pub(super) user: Option<u64>,
}

fn hook_paths(size: Size, org: usize) -> Vec<String> {
    let id = World::id(org);
    match org % 4 {
        1 => (0..size.hooks).map(|hook| format!("/hooks/o{id}/h{hook}")).collect(),
        3 if size.slack => vec![format!("/services/T{id}/B{id}/secret{id}")],
        _ => Vec::new(),
    }
}

fn subscription(org: u64, path: &str, at: &Endpoints) -> Value {
    let events = ["notification"];
    if path.starts_with("/hooks/") {
        let url = format!("{}{path}", at.webhook);
        json!({ "organization": org, "type": "webhook", "url": url, "secret": SECRET,
                "events": events })
    } else {
        let url = format!("{}{path}", at.slack);
        json!({ "organization": org, "type": "slack", "url": url, "team": "Torture",
                "channel": format!("#o{org}"), "events": events })
    }
}

/// The configuration that leads to the twins. Waits are short, so that a run ends.
pub(super) fn configuration(twins: &TwinSet, files: &CredentialFiles, at: &Endpoints) -> String {
    let credentials = twins.credentials();
    let ca = files.ca.display();
    let mut text = String::from(
        "[server]\nmax_connections_per_ip = 5000\n[limits]\nblynk_requests = \"0\"\n\
         [observability]\nlog_format = \"json\"\n",
    );
    write!(
        text,
        "[dispatch.retry.push]\nbase = \"50ms\"\ncap = \"500ms\"\nattempts_max = 100\n\
         outage = \"2s\"\n[dispatch.retry.webhook]\nschedule = [{}]\n\
         [providers.apns.main]\nendpoint = \"{}\"\nteam_id = \"{}\"\nkey_id = \"{}\"\n\
         key_file = \"{}\"\ntopic = \"{}\"\nca_file = \"{ca}\"\ntimeout = \"2s\"\n\
         [providers.fcm.main]\nendpoint = \"{}\"\nservice_account_file = \"{}\"\n\
         ca_file = \"{ca}\"\ntimeout = \"2s\"\n\
         [providers.slack]\nallow_private = true\nca_file = \"{ca}\"\ntimeout = \"2s\"\n\
         [providers.webhook]\nallow_private = true\nca_file = \"{ca}\"\ntimeout = \"2s\"\n",
        vec!["\"250ms\""; 60].join(", "),
        at.apns,
        credentials.apns_team_id,
        credentials.apns_key_id,
        files.apns_key.display(),
        credentials.apns_topic,
        at.fcm,
        files.fcm_service_account.display(),
    )
    .expect("writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { organizations: 5, users: 6, hooks: 2, slack: true, strict: true };

    #[test]
    fn every_target_leads_back_to_its_organization() {
        let world = World::new(SIZE);
        for org in 0..SIZE.organizations {
            for seq in (0..SIZE.users).map(|index| World::first_seq(org) + index) {
                assert_eq!(world.sender(seq).map(|(org, _)| org), Some(org));
                let user = world.user(org, seq);
                let owner = Owner { org, slot: 0, user: Some(user) };
                assert_eq!(world.owner(&World::token(org, user)), Some(owner));
            }
            for (index, path) in world.hook_paths(org).iter().enumerate() {
                let owner = Owner { org, slot: index + 1, user: None };
                assert_eq!(world.owner(path), Some(owner));
            }
        }
        assert_eq!(world.slots(0) + world.slots(1) + world.slots(3), 1 + 3 + 2);
    }

    #[test]
    fn only_webhooks_out_of_strict_order_have_several_tries_at_once() {
        let world = World::new(SIZE);
        let abreast = |org| (0..3).map(|slot| world.is_abreast(org, slot)).collect::<Vec<_>>();
        assert_eq!(abreast(1), [false, true, false], "a device, and two hooks");
        assert_eq!(abreast(3), [false; 3], "Slack");
    }

    #[test]
    fn what_belongs_to_nobody_has_no_owner() {
        let world = World::new(SIZE);
        for target in ["", "phone-o9999-u1", "phone-o1", "/hooks/o1001/h0", "/hooks/none", "ab12"] {
            assert_eq!(world.owner(target), None, "{target}");
        }
        assert_eq!(world.sender(7), None);
        assert_eq!(world.sender(World::first_seq(SIZE.organizations)), None);
    }
}
