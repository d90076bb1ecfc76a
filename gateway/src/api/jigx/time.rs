//! `startAt`: the times the product's schema takes, and what they mean.

use crate::model::Millis;

/// Integers below this are seconds: as milliseconds they would all be before 1973.
const SECONDS_BELOW: u64 = 100_000_000_000;
const DAY_S: i64 = 86_400;

/// An integer: milliseconds since 1970, small ones seconds.
pub(super) fn of_number(number: u64) -> Millis {
    Millis(if number < SECONDS_BELOW { number.saturating_mul(1000) } else { number })
}

/// Text in the product's form of RFC 3339; `None` for other text and for days that no calendar
/// has. A time before 1970 is 0.
///
/// The form is the product's own pattern, which is wider than the RFC: hour 24 (the next day's
/// 0), second 60, offsets up to 59:60, a space for the `T`, any number of fraction digits:
/// `^\d{4}-(?:0[0-9]|1[0-2])-(3[01]|0[1-9]|[12][0-9])[tT ](2[0-4]|[01][0-9]):([0-5][0-9]):(60|[0-5][0-9])(\.\d+)?([zZ]|[+-]([0-5][0-9]):(60|[0-5][0-9]))$`
pub(super) fn of_text(text: &str) -> Option<Millis> {
    let mut rest = text.as_bytes();
    let rest = &mut rest;
    let year = digits(rest, 4)?;
    one(rest, b"-")?;
    let month = digits(rest, 2).filter(|month| *month <= 12)?;
    one(rest, b"-")?;
    let day = digits(rest, 2).filter(|day| (1..=31).contains(day))?;
    one(rest, b"tT ")?;
    let hour = digits(rest, 2).filter(|hour| *hour <= 24)?;
    one(rest, b":")?;
    let minute = digits(rest, 2).filter(|minute| *minute <= 59)?;
    one(rest, b":")?;
    let second = digits(rest, 2).filter(|second| *second <= 60)?;
    let millis = fraction(rest)?;
    let offset = offset(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = days * DAY_S + hour * 3_600 + minute * 60 + second - offset * 60;
    let at = seconds * 1_000 + millis;
    Some(Millis(u64::try_from(at).unwrap_or(0)))
}

fn one(rest: &mut &[u8], of: &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    of.contains(first).then_some(*first)
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, after) = rest.split_at_checked(count)?;
    *rest = after;
    let digit =
        |sum: i64, byte: &u8| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0'));
    head.iter().try_fold(0, digit)
}

/// Milliseconds of a fraction of any length; the rest of it is cut off.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let Some(after) = rest.strip_prefix(b".") else { return Some(0) };
    let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (all, after) = after.split_at_checked(length).filter(|(all, _)| !all.is_empty())?;
    *rest = after;
    let places = all.iter().chain(b"00").take(3);
    Some(places.fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0')))
}

/// Minutes east of Greenwich.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let sign = match one(rest, b"zZ+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hours = digits(rest, 2).filter(|hours| *hours <= 59)?;
    one(rest, b":")?;
    let minutes = digits(rest, 2).filter(|minutes| *minutes <= 60)?;
    Some(sign * (hours * 60 + minutes))
}

fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let part = |number: i64| i8::try_from(number).ok();
    let year = i16::try_from(year).ok()?;
    let date = jiff::civil::Date::new(year, part(month)?, part(day)?).ok()?;
    let first = jiff::civil::date(1970, 1, 1);
    Some(i64::from(first.until(date).ok()?.get_days()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pattern of the product's schema, word for word.
    const PATTERN: &str = r"[0-9]{4}-(?:0[0-9]|1[0-2])-(3[01]|0[1-9]|[12][0-9])[tT ](2[0-4]|[01][0-9]):([0-5][0-9]):(60|[0-5][0-9])(\.[0-9]+)?([zZ]|[+-]([0-5][0-9]):(60|[0-5][0-9]))";

    #[test]
    fn the_edges_of_the_pattern_mean_what_their_numbers_say() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999Z", 0),
            ("0000-01-01T00:00:00Z", 0),
            ("2025-04-04T08:18:54.435Z", 1_743_754_734_435),
            ("2025-04-04 08:18:54.4359999999999999999999999999999z", 1_743_754_734_435),
            ("2025-04-04t10:18:54.4+02:00", 1_743_754_734_400),
            ("2025-04-04T24:00:00Z", 1_743_811_200_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2025-04-04T08:18:54-00:60", 1_743_758_334_000),
            ("1970-01-03T11:59:00+59:59", 0),
            ("9999-12-31T24:59:60.9-59:60", 253_402_520_400_900),
        ] {
            assert_eq!(of_text(text), Some(Millis(millis)), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_time() {
        for text in [
            "",
            "2025-00-04T08:18:54Z",
            "2025-02-30T08:18:54Z",
            "2023-02-29T08:18:54Z",
            "2025-04-00T08:18:54Z",
            "2025-04-04T25:00:00Z",
            "2025-04-04T08:60:00Z",
            "2025-04-04T08:18:61Z",
            "2025-04-04T08:18:54.Z",
            "2025-04-04T08:18:54",
            "2025-04-04T08:18:54+60:00",
            "2025-04-04T08:18:54+02:61",
            "2025-04-04T08:18:54+0200",
            "2025-04-04T08:18:54Zx",
            "2025-04-04T08:18:54Z\n",
            "-025-04-04T08:18:54Z",
            "+2025-04-04T08:18:54Z",
            "２０２５-04-04T08:18:54Z",
            "2025-04-04_08:18:54Z",
        ] {
            assert_eq!(of_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn small_integers_are_seconds() {
        assert_eq!(of_number(99_999_999_999), Millis(99_999_999_999_000));
        assert_eq!(of_number(100_000_000_000), Millis(100_000_000_000));
        assert_eq!(of_number(u64::MAX), Millis(u64::MAX));
    }

    proptest! {
        #[test]
        fn whatever_fits_the_pattern_is_a_time_if_the_calendar_has_the_day(text in PATTERN) {
            let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
            let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
            let (year, month, day) = (year.parse(), month.parse(), day.parse());
            let date = jiff::civil::Date::new(year.unwrap(), month.unwrap(), day.unwrap());
            let is_day = date.is_ok();
            prop_assert_eq!(of_text(&text).is_some(), is_day);
        }

        #[test]
        fn a_changed_character_never_panics(text in PATTERN, at in 0..19_usize, with in any::<char>()) {
            let mut changed: Vec<char> = text.chars().collect();
            changed[at] = with;
            let changed: String = changed.into_iter().collect();
            let is_kept = changed == text;
            prop_assert!(is_kept || of_text(&changed).is_none_or(|at| at >= Millis(0)));
        }

        #[test]
        fn every_printed_time_is_read_back(millis in 0..4_102_444_800_000_u64) {
            prop_assert_eq!(of_text(&Millis(millis).to_rfc3339()), Some(Millis(millis)));
        }
    }
}
