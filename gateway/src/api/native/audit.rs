//! An organization's audit trail, a page at a time, and whether its chain is whole.

use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::native::account::administered;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::{Answered, Shared, reply};
use crate::model::{AuditRecord, OrganizationId};
use serde_json::{Value, json};

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1_000;
/// Lines that one request verifies.
const VERIFIED_MAX: i32 = 10_000;

/// `GET /bugler/v1/organizations/{org}/audit`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(&shared, &caller, params.get("org")).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    query.only(&["after", "limit"], &mut faults);
    let after = query.integer("after", 0..=i64::MAX, &mut faults).unwrap_or_default();
    let limit = query.integer("limit", 1..=1_000_i32, &mut faults);
    faults.into_result()?;
    let after = u64::try_from(after).unwrap_or_default();
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_DEFAULT);
    let records = shared.store.audit(organization.id, after, limit).await?;
    let next = (records.len() == limit).then(|| records.last().map(|record| record.version));
    let body = json!({
        "records": records.iter().map(shown).collect::<Vec<_>>(),
        "next": next.flatten(),
    });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

fn shown(record: &AuditRecord) -> Value {
    let note = &record.note;
    json!({
        "version": record.version,
        "at": note.at.to_rfc3339(),
        "actor": note.actor,
        "peer": note.peer,
        "action": note.action,
        "object": note.object,
        "before": hex(&record.before),
        "after": hex(&record.after),
        "previous": hex(&record.previous),
        "hash": hex(&record.hash),
    })
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// `GET /bugler/v1/organizations/{org}/audit/verify`: a stretch of the trail at a time.
pub(super) async fn verify(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let caller = shared.caller(&request.headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(&shared, &caller, params.get("org")).await?;
    let query = Query::of_uri(&request.uri)?;
    let mut faults = Faults::default();
    query.only(&["after", "limit"], &mut faults);
    let after = query.integer("after", 0..=i64::MAX, &mut faults).unwrap_or_default();
    let limit = query.integer("limit", 1..=VERIFIED_MAX, &mut faults).unwrap_or(VERIFIED_MAX);
    faults.into_result()?;
    let after = u64::try_from(after).unwrap_or_default();
    let limit = usize::try_from(limit).unwrap_or_default();
    let chain = check(&shared, organization.id, after, limit).await?;
    let body = json!({
        "valid": chain.broken_at.is_none(),
        "records": chain.records,
        "brokenAt": chain.broken_at,
        "head": hex(&chain.head),
        "next": chain.next,
    });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

#[derive(Debug, Default)]
struct Chain {
    records: u64,
    head: [u8; 32],
    /// The version of the first line that does not follow from the one before.
    broken_at: Option<u64>,
    /// Where to go on; `None` if the trail ended.
    next: Option<u64>,
}

impl Chain {
    fn add(&mut self, record: &AuditRecord) {
        let follows = record.previous == self.head && record.hash == record.computed_hash();
        if !follows && self.broken_at.is_none() {
            self.broken_at = Some(record.version);
        }
        self.records += 1;
        self.head = record.hash;
    }
}

/// Walks at most `limit` lines of the trail, from the one behind version `after` on.
async fn check(
    shared: &Shared,
    org: OrganizationId,
    after: u64,
    limit: usize,
) -> Result<Chain, Failure> {
    let mut chain = Chain { head: head_at(shared, org, after).await?, ..Chain::default() };
    let (mut after, mut left) = (after, limit);
    while left > 0 {
        let wanted = left.min(PAGE_MAX);
        let records = shared.store.audit(org, after, wanted).await?;
        records.iter().for_each(|record| chain.add(record));
        let Some(last) = records.last().filter(|_| records.len() == wanted) else {
            return Ok(chain);
        };
        after = last.version;
        left -= wanted;
    }
    chain.next = Some(after);
    Ok(chain)
}

/// The hash that the line behind version `after` must name as its predecessor's.
async fn head_at(shared: &Shared, org: OrganizationId, after: u64) -> Result<[u8; 32], Failure> {
    let Some(before) = after.checked_sub(1) else { return Ok([0; 32]) };
    let found = shared.store.audit(org, before, 1).await?;
    let line = found.first().filter(|line| line.version == after);
    line.map(|line| line.hash)
        .ok_or_else(|| Failure::field("after", "must be 0 or the `next` of an answer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AuditNote, Millis};

    fn trail(lines: u64) -> Vec<AuditRecord> {
        let mut previous = [0; 32];
        let line = |version| {
            let note = AuditNote {
                at: Millis(version),
                org: OrganizationId(101),
                actor: String::from("user:7"),
                peer: None,
                action: String::from("key.create"),
                object: format!("key:{version}"),
            };
            let (before, after) = ([1; 32], [2; 32]);
            let mut line = AuditRecord { version, note, before, after, previous, hash: [0; 32] };
            line.hash = line.computed_hash();
            previous = line.hash;
            line
        };
        (1..=lines).map(line).collect()
    }

    fn broken_at(lines: &[AuditRecord]) -> Option<u64> {
        let mut chain = Chain::default();
        lines.iter().for_each(|line| chain.add(line));
        chain.broken_at
    }

    #[test]
    fn a_line_that_was_changed_removed_moved_or_put_in_is_found() {
        let whole = trail(5);
        assert_eq!(broken_at(&whole), None);
        for index in 0..4 {
            let version = whole[index].version;
            let mut removed = whole.clone();
            removed.remove(index);
            assert_eq!(broken_at(&removed), Some(version + 1), "removed {version}");
            let mut changed = whole.clone();
            changed[index].note.actor = String::from("user:8");
            assert_eq!(broken_at(&changed), Some(version), "changed {version}");
            changed[index].hash = changed[index].computed_hash();
            assert_eq!(broken_at(&changed), Some(version + 1), "changed well {version}");
            let mut moved = whole.clone();
            moved.swap(index, index + 1);
            assert_eq!(broken_at(&moved), Some(version + 1), "moved {version}");
            let mut doubled = whole.clone();
            doubled.insert(index, whole[index].clone());
            assert!(broken_at(&doubled).is_some(), "doubled {version}");
        }
    }
}
