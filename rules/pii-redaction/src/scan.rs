//! Finds what is personal in a text, by its form and its check digits.

use std::ops::Range;

/// What there is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Email,
    Phone,
    Card,
    Iban,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Email, Self::Phone, Self::Card, Self::Iban];

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "email" => Some(Self::Email),
            "phone" => Some(Self::Phone),
            "card" => Some(Self::Card),
            "iban" => Some(Self::Iban),
            _ => None,
        }
    }
}

/// Digits of the shortest number there is to find: one with `+`.
const DIGITS_MIN: usize = 8;
/// Bytes that what is found byte by byte may begin with: most text has few of them.
const BEGINS: [bool; 256] = {
    let mut begins = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        begins[byte as usize] =
            byte.is_ascii_digit() || byte.is_ascii_uppercase() || byte == b'+' || byte == b'(';
        byte += 1;
    }
    begins
};

/// Places in `text`, in order and apart from each other.
#[must_use]
pub fn find(text: &str, kinds: &[Kind]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let has = |kind| kinds.contains(&kind);
    if has(Kind::Email) && text.contains('@') {
        emails(text, &mut places);
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| BEGINS[usize::from(*byte)]) {
        at += next;
        if at > 0 && bytes[at - 1].is_ascii_alphanumeric() {
            at += 1;
            continue;
        }
        let rest = &bytes[at..];
        let is_long = is_long(rest);
        let length = [
            has(Kind::Iban).then(|| iban(rest)).flatten(),
            (is_long && has(Kind::Card)).then(|| card(rest)).flatten(),
            (is_long && has(Kind::Phone)).then(|| phone(rest)).flatten(),
        ];
        match length.into_iter().flatten().max() {
            Some(length) => {
                places.push(at..at + length);
                at += length;
            }
            None => at += 1,
        }
    }
    merged(places)
}

/// True if as many digits as the shortest number has follow, with a few marks between.
fn is_long(bytes: &[u8]) -> bool {
    let (mut digits, mut marks) = (0, 0);
    for byte in bytes {
        if byte.is_ascii_digit() {
            (digits, marks) = (digits + 1, 0);
        } else if matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b'+') && marks < 3 {
            marks += 1;
        } else {
            return false;
        }
        if digits == DIGITS_MIN {
            return true;
        }
    }
    false
}

fn merged(mut places: Vec<Range<usize>>) -> Vec<Range<usize>> {
    places.sort_by_key(|place| place.start);
    let mut apart: Vec<Range<usize>> = Vec::new();
    for place in places {
        match apart.last_mut() {
            Some(last) if place.start < last.end => last.end = last.end.max(place.end),
            _ => apart.push(place),
        }
    }
    apart
}

/// A name, `@`, and a domain with a dot whose last part is of letters.
fn emails(text: &str, places: &mut Vec<Range<usize>>) {
    let is_local = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let is_domain = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    for (at, _) in text.match_indices('@') {
        let (before, after) =
            (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        let start = before.trim_end_matches(is_local).len();
        // In `?to=ann@…` and `(ann@…` the name begins after the mark.
        let local = before.get(start..).unwrap_or_default();
        let start = start + local.rfind(['=', '?', '&', '/']).map_or(0, |mark| mark + 1);
        let length = after.len() - after.trim_start_matches(is_domain).len();
        let domain = after.get(..length).unwrap_or_default().trim_end_matches(['.', '-']);
        let is_host = domain.rsplit_once('.').is_some_and(|(name, last)| {
            !name.is_empty() && last.chars().count() >= 2 && last.chars().all(char::is_alphabetic)
        });
        if start < at && is_host {
            places.push(start..at + 1 + domain.len());
        }
    }
}

/// Digits from the start of `bytes`, with single separators between; the length is that of the last
/// digit's end. Nothing if a letter follows.
fn digits(bytes: &[u8], separators: &[u8], max: usize) -> Option<(Vec<u8>, Vec<usize>)> {
    let (mut found, mut ends) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if byte.is_ascii_digit() {
            if found.len() == max {
                return None;
            }
            found.push(byte - b'0');
            ends.push(at + 1);
        } else if !(separators.contains(byte) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
        {
            break;
        }
        at += 1;
    }
    let is_cut =
        ends.last().is_some_and(|end| bytes.get(*end).is_some_and(u8::is_ascii_alphabetic));
    if is_cut || found.is_empty() { None } else { Some((found, ends)) }
}

/// 13 to 19 digits, by Luhn's check, beginning like a payment card's.
fn card(bytes: &[u8]) -> Option<usize> {
    if !matches!(bytes.first(), Some(b'2'..=b'6')) {
        return None;
    }
    let (digits, ends) = digits(bytes, b" -", 19)?;
    (digits.len() >= 13 && luhn(&digits)).then(|| ends.last().copied()).flatten()
}

fn luhn(digits: &[u8]) -> bool {
    let doubled = |(index, digit): (usize, &u8)| {
        let twice = if index % 2 == 1 { digit * 2 } else { *digit };
        u32::from(if twice > 9 { twice - 9 } else { twice })
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

/// Two letters, two check digits, 11 to 30 more, alone or in groups of four; ISO 7064's remainder is 1.
fn iban(bytes: &[u8]) -> Option<usize> {
    let is_start = bytes.len() >= 15
        && bytes[..2].iter().all(u8::is_ascii_uppercase)
        && bytes[2..4].iter().all(u8::is_ascii_digit);
    if !is_start {
        return None;
    }
    let mut letters: Vec<u8> = Vec::new();
    let mut best = None;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let is_letter = byte.is_ascii_digit() || byte.is_ascii_uppercase();
        if is_letter && letters.len() < 34 {
            letters.push(*byte);
            let is_end = bytes.get(at + 1).is_none_or(|next| !next.is_ascii_alphanumeric());
            if is_end && letters.len() >= 15 && remainder(&letters) == 1 {
                best = Some(at + 1);
            }
        } else if !(*byte == b' ' && !letters.is_empty() && letters.len().is_multiple_of(4)) {
            break;
        }
        at += 1;
    }
    best
}

fn remainder(letters: &[u8]) -> u32 {
    let moved = letters[4..].iter().chain(&letters[..4]);
    moved.fold(0, |remainder, letter| {
        let value = if letter.is_ascii_digit() { letter - b'0' } else { letter - b'A' + 10 };
        let shift = if value > 9 { 100 } else { 10 };
        (remainder * shift + u32::from(value)) % 97
    })
}

/// A number with `+` or `00`, a national one with a leading 0 in groups, or three groups of 3, 3 and 4.
fn phone(bytes: &[u8]) -> Option<usize> {
    const MARKS: &[u8] = b" -./()";
    let open = match bytes.first()? {
        b'+' | b'(' => 1,
        byte if byte.is_ascii_digit() => 0,
        _ => return None,
    };
    let number = bytes.get(open..)?;
    let (digits, end, groups) = grouped(number, MARKS)?;
    let is_international = (bytes[0] == b'+' && (8..=15).contains(&digits.len()))
        || (digits.starts_with(b"00") && (10..=17).contains(&digits.len()));
    let is_national =
        digits.starts_with(b"0") && (9..=12).contains(&digits.len()) && groups.len() > 1;
    let is_american = matches!(groups.as_slice(), [3, 3, 4] | [1, 3, 3, 4]) && bytes[0] != b'+';
    let is_dotted = number[..end].iter().filter(|byte| **byte == b'.').count() > 2;
    let is_phone = is_international || ((is_national || is_american) && !is_dotted);
    is_phone.then_some(open + end)
}

/// The digits at the start, where they end, and how long their groups are. Between two groups are at
/// most two marks.
fn grouped(bytes: &[u8], marks: &[u8]) -> Option<(Vec<u8>, usize, Vec<usize>)> {
    let (mut digits, mut groups, mut end) = (Vec::new(), Vec::new(), 0);
    let mut at = 0;
    loop {
        let group = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if group == 0 || digits.len() + group > 17 {
            break;
        }
        digits.extend_from_slice(&bytes[at..at + group]);
        groups.push(group);
        end = at + group;
        let gap = bytes[end..].iter().take_while(|byte| marks.contains(byte)).count();
        if gap == 0 || gap > 2 {
            break;
        }
        at = end + gap;
    }
    let is_cut = bytes.get(end).is_some_and(u8::is_ascii_alphanumeric);
    (!is_cut && !digits.is_empty()).then_some((digits, end, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        find(text, &Kind::ALL).into_iter().filter_map(|place| text.get(place)).collect()
    }

    #[test]
    fn finds_mail_addresses() {
        assert_eq!(found("to <ann.o'neil+x@a.b.example>."), ["ann.o'neil+x@a.b.example"]);
        assert_eq!(found("https://example.com/?to=ann@example.com&x=1"), ["ann@example.com"]);
        assert_eq!(found("інна@пошта.укр, x"), ["інна@пошта.укр"]);
        assert_eq!(found("a@b, @home, x@y.1, 5@ 3"), [""; 0]);
    }

    #[test]
    fn finds_phone_numbers() {
        for number in [
            "+380441234567",
            "+380 44 123-45-67",
            "0044 20 7946 0958",
            "(555) 123-4567",
            "555-123-4567",
            "044 123 45 67",
            "+1 (555) 123-4567",
        ] {
            let text = format!("call {number}!");
            let number = number.trim_start_matches('(');
            assert!(found(&text).iter().any(|place| place.contains(number)), "{text}");
        }
        for other in [
            "2026-03-29 01:30:00",
            "order 20260329",
            "10.0.0.125",
            "1,234,567",
            "build 4711 of 12",
            "0.1.0",
            "+12",
            "v2-555",
            "550e8400-e29b-41d4-a716-446655440000",
        ] {
            assert_eq!(found(other), [""; 0], "{other}");
        }
    }

    #[test]
    fn finds_cards_by_their_check_digit() {
        assert_eq!(found("card 4111 1111 1111 1111 ok"), ["4111 1111 1111 1111"]);
        assert_eq!(found("378282246310005"), ["378282246310005"]);
        for other in ["4111 1111 1111 1112", "1111222233334444", "41111111111111111111"] {
            assert_eq!(found(other), [""; 0], "{other}");
        }
    }

    #[test]
    fn finds_ibans_by_their_remainder() {
        assert_eq!(found("pay DE89 3704 0044 0532 0130 00 now"), ["DE89 3704 0044 0532 0130 00"]);
        assert_eq!(found("GB29NWBK60161331926819"), ["GB29NWBK60161331926819"]);
        assert_eq!(find("DE88 3704 0044 0532 0130 00", &[Kind::Iban]), []);
    }

    #[test]
    fn what_overlaps_is_one_place() {
        assert_eq!(found("+380441234567@example.com"), ["+380441234567@example.com"]);
    }
}
