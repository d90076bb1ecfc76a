//! Limits that move with the calendar, put into the documents for the day they are asked on.
//!
//! A time may lie a year ahead. Written as a constant that would be wrong on most days, and left
//! out it would promise more than is accepted.

use crate::model::Millis;
use serde_json::Value;
use std::fmt::Write as _;

/// Stand for the last instant that can be planned for: as a number, and inside a pattern as every
/// date before the day it lies on.
const MILLISECONDS: &str = "{{year-ahead in milliseconds}}";
const SECONDS: &str = "{{year-ahead in seconds}}";
const DATES: &str = "{{dates}}";
const LONG: &str = "0[13578]|1[02]";
const SHORT: &str = "0[469]|11";

/// Replaces the limits in `document` by those of the day of `now`.
pub(super) fn put_limits(document: &mut Value, now: Millis) {
    let end = now.year_ahead();
    // Hour 24 and the widest offset put a time up to four days after its date.
    let dates = dates_before(Millis(end.0.saturating_sub(4 * 86_400_000)));
    replace(document, end, &dates);
}

fn replace(value: &mut Value, end: Millis, dates: &str) {
    match value {
        Value::String(text) if text == MILLISECONDS => *value = end.0.into(),
        Value::String(text) if text == SECONDS => *value = (end.0 / 1000).into(),
        Value::String(text) if text.contains(DATES) => *text = text.replace(DATES, dates),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, end, dates)),
        Value::Object(members) => {
            members.values_mut().for_each(|member| replace(member, end, dates));
        }
        _ => {}
    }
}

/// A pattern of the dates before the day of `end`. The 29th of February is left out, since no
/// pattern of reasonable size knows leap years.
fn dates_before(end: Millis) -> String {
    let end = end.to_rfc3339();
    let part = |from: usize, to: usize| end.get(from..to).unwrap_or_default();
    let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
    let days = |last: u32| match last {
        31 => "(?:0[1-9]|[12]\\d|3[01])",
        30 => "(?:0[1-9]|[12]\\d|30)",
        _ => "(?:0[1-9]|1\\d|2[0-8])",
    };
    let mut pattern = format!(
        "(?:{}-(?:(?:{LONG})-{}|(?:{SHORT})-{}|02-{})",
        numbers_below(year),
        days(31),
        days(30),
        days(28),
    );
    for earlier in (1..=12).map(|month: u32| (month, format!("{month:02}"))) {
        let length = match earlier.0 {
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if earlier.1.as_str() < month {
            write!(pattern, "|{year}-{}-{}", earlier.1, days(length)).ok();
        }
    }
    if day > "01" {
        let earlier: Vec<_> = (1..=31).map(|day: u32| format!("{day:02}")).collect();
        let earlier = earlier.iter().map(String::as_str).filter(|earlier| *earlier < day);
        let earlier: Vec<_> = earlier.collect();
        write!(pattern, "|{year}-{month}-(?:{})", earlier.join("|")).ok();
    }
    pattern.push(')');
    pattern
}

/// A pattern of the numbers below `limit` with as many digits.
fn numbers_below(limit: &str) -> String {
    let mut choices = Vec::new();
    for (at, digit) in limit.char_indices() {
        let Some(below) = digit.to_digit(10).and_then(|digit| digit.checked_sub(1)) else {
            continue;
        };
        let (same, rest) = (limit.get(..at).unwrap_or_default(), limit.len() - at - 1);
        choices.push(format!("{same}[0-{below}]{}", "\\d".repeat(rest)));
    }
    format!("(?:{})", choices.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_those_of_the_day() {
        let mut document = json!({ "a": [{ "maximum": MILLISECONDS }], "b": SECONDS, "c": "text" });
        put_limits(&mut document, Millis(1_795_219_200_123));
        // 2026-11-21 and 366 days.
        let end = 1_795_219_200_000_u64 + 366 * 86_400_000;
        assert_eq!(document, json!({ "a": [{ "maximum": end }], "b": end / 1000, "c": "text" }));
        let mut later = json!(MILLISECONDS);
        put_limits(&mut later, Millis(1_795_219_200_123 + 3_600_000));
        assert_eq!(later, json!(end), "the same all day");
    }

    #[test]
    fn dates_end_before_the_last_day() {
        let pattern = dates_before(Millis(1_795_219_200_000 + 366 * 86_400_000));
        assert!(pattern.starts_with(r"(?:(?:[0-1]\d\d\d|20[0-1]\d|202[0-6])-(?:"), "{pattern}");
        assert!(pattern.contains("|2027-10-(?:0[1-9]|[12]\\d|3[01])|"), "{pattern}");
        assert!(pattern.ends_with("|20|21))"), "{pattern}");
        assert!(!pattern.contains("2027-12"), "{pattern}");
        let first = dates_before(Millis(1_767_225_600_000));
        assert!(first.ends_with("02-(?:0[1-9]|1\\d|2[0-8])))"), "the first of a year: {first}");
    }
}
