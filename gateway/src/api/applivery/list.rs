//! Reading subscriptions: one, and pages of all in any order.

use super::{enter, find, wire};
use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::{Answered, reply};
use crate::auth::Permission;
use crate::model::{Endpoint, Subscription};
use serde_json::{Value, json};

const LIMIT_DEFAULT: u32 = 10;
const LIMIT_MAX: u32 = 500;
const PAGE_MAX: u32 = i32::MAX.unsigned_abs();
const SORT_CHARS_MAX: usize = 100;

/// `GET …/organizations/{org}/notifications/{id}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let entered = enter(&shared, &request.headers, &params, Permission::SubscriptionGet).await?;
    let found = find(&shared, &entered.organization, &params).await?;
    let data = wire::data(&found, &entered.organization, shared.store.vault());
    Ok(Answered::Other(reply::json(200, wire::answer(&data))))
}

/// `GET …/organizations/{org}/notifications`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let entered = enter(&shared, &request.headers, &params, Permission::SubscriptionList).await?;
    let asked = Asked::read(&Query::of_uri(&request.uri)?)?;
    let organization = &entered.organization;
    let mut all = shared.store.all_subscriptions(organization.id).await?;
    all.retain(|one| asked.is_slack.is_none_or(|slack| slack == is_slack(one)));
    asked.sort.arrange(&mut all);
    let first = usize::try_from(asked.counter() - 1).unwrap_or(usize::MAX);
    let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    let page = all.iter().skip(first).take(limit);
    let vault = shared.store.vault();
    let items: Vec<_> = page.map(|one| wire::data(one, organization, vault)).collect();
    let data = asked.paging(items, all.len() as u64);
    Ok(Answered::Other(reply::json(200, wire::answer(&data))))
}

fn is_slack(subscription: &Subscription) -> bool {
    matches!(subscription.endpoint, Endpoint::Slack { .. })
}

/// The page a list is asked for.
#[derive(Debug)]
struct Asked {
    page: u64,
    limit: u64,
    sort: Sort,
    is_slack: Option<bool>,
}

impl Asked {
    fn read(query: &Query) -> Result<Self, Failure> {
        let mut faults = Faults::default();
        let page = query.integer("page", 1..=PAGE_MAX, &mut faults).unwrap_or(1);
        let limit = query.integer("limit", 1..=LIMIT_MAX, &mut faults).unwrap_or(LIMIT_DEFAULT);
        let text = query.text("sort", SORT_CHARS_MAX, &mut faults).unwrap_or_default();
        let sort = Sort::parse(text);
        if sort.is_none() {
            faults.add("sort", "must be a field, and then :asc or :desc if anything");
        }
        let is_slack = query.choice("type", &[("slack", true), ("webhook", false)], &mut faults);
        faults.into_result()?;
        let sort = sort.unwrap_or_default();
        Ok(Self { page: page.into(), limit: limit.into(), sort, is_slack })
    }

    /// The number of the page's first item, from 1.
    fn counter(&self) -> u64 {
        (self.page - 1) * self.limit + 1
    }

    /// The members Applivery's clients know from its own pages.
    fn paging(&self, items: Vec<Value>, total: u64) -> Value {
        // An empty list still has one page.
        let pages = total.div_ceil(self.limit).max(1);
        let previous = (self.page > 1).then(|| self.page - 1);
        let next = (self.page < pages).then(|| self.page + 1);
        json!({
            "items": items,
            "totalDocs": total,
            "limit": self.limit,
            "totalPages": pages,
            "page": self.page,
            "pagingCounter": self.counter(),
            "hasPrevPage": previous.is_some(),
            "hasNextPage": next.is_some(),
            "prevPage": previous,
            "nextPage": next,
        })
    }
}

/// The order of a list: by a field, then by age.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sort {
    field: String,
    descending: bool,
}

impl Sort {
    /// `^[\w.]*((:asc)|(:desc))?$`
    fn parse(text: &str) -> Option<Self> {
        let (field, descending) = match text.split_once(':') {
            None => (text, false),
            Some((field, "asc")) => (field, false),
            Some((field, "desc")) => (field, true),
            Some(_) => return None,
        };
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
        let field = field.bytes().all(is_word).then(|| field.to_owned())?;
        Some(Self { field, descending })
    }

    fn arrange(&self, all: &mut [Subscription]) {
        all.sort_by_key(|one| (one.created_at, one.id));
        all.sort_by(|left, right| {
            let order = self.key(left).cmp(&self.key(right));
            if self.descending { order.reverse() } else { order }
        });
    }

    /// Fields that are not there, or that there are none of, leave the order as it is.
    fn key(&self, one: &Subscription) -> Key {
        let text = |text: &str| Key::Text(text.to_owned());
        match (self.field.as_str(), &one.endpoint) {
            ("" | "createdAt", _) => Key::Number(one.created_at.0),
            ("updatedAt", _) => Key::Number(one.updated_at.0),
            ("id" | "_id", _) => Key::Text(one.id.to_string()),
            ("description", _) => one.description.as_deref().map_or(Key::Absent, text),
            ("type", Endpoint::Slack { .. }) => text("slack"),
            ("type", Endpoint::Webhook { .. }) => text("webhook"),
            ("config.slack.team", Endpoint::Slack { team, .. }) => text(team),
            ("config.slack.channel", Endpoint::Slack { channel, .. }) => text(channel),
            ("config.webhook.url", Endpoint::Webhook { url, .. }) => text(url),
            (field, _) => match field.strip_prefix("events.") {
                Some(event) => match super::events::shown(one).get(event) {
                    Some(flag) => Key::Number(u64::from(flag == true)),
                    None => Key::Absent,
                },
                None => Key::Absent,
            },
        }
    }
}

/// What an order compares; absent fields come first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Absent,
    Number(u64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sort_is_a_field_and_a_direction() {
        let sort = |field: &str, descending| Some(Sort { field: field.to_owned(), descending });
        for (text, expected) in [
            ("", sort("", false)),
            ("createdAt", sort("createdAt", false)),
            ("config.slack.team:asc", sort("config.slack.team", false)),
            ("_id:desc", sort("_id", true)),
            (":desc", sort("", true)),
            ("createdAt:", None),
            ("createdAt:DESC", None),
            ("createdAt:desc:asc", None),
            ("createdAt:desc\n", None),
            ("created-at", None),
            ("é", None),
            ("-createdAt", None),
        ] {
            assert_eq!(Sort::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn paging_counts_as_its_clients_expect() {
        let asked = |page, limit| Asked { page, limit, sort: Sort::default(), is_slack: None };
        let paging = |page, limit, total| asked(page, limit).paging(Vec::new(), total);
        assert_eq!(
            paging(2, 10, 25).to_string(),
            r#"{"items":[],"totalDocs":25,"limit":10,"totalPages":3,"page":2,"pagingCounter":11,"hasPrevPage":true,"hasNextPage":true,"prevPage":1,"nextPage":3}"#
        );
        assert_eq!(
            paging(1, 10, 0).to_string(),
            r#"{"items":[],"totalDocs":0,"limit":10,"totalPages":1,"page":1,"pagingCounter":1,"hasPrevPage":false,"hasNextPage":false,"prevPage":null,"nextPage":null}"#
        );
        let far = paging(u64::from(PAGE_MAX), u64::from(LIMIT_MAX), 3);
        assert_eq!((&far["hasPrevPage"], &far["hasNextPage"]), (&json!(true), &json!(false)));
    }
}
