//! Self-checking text that is found again inside whatever a provider wraps around it.
//!
//! A title is `n-<seq>`, a text is `txt:<filler> sum:<16 hex digits>`. The sum covers the title and
//! the filler, and neither holds a character that JSON or a form escapes, so a twin can check both
//! in the raw bytes of any provider's body.

use sha2::{Digest, Sha256};
use std::io::Write;

const FILLER: &[u8] = b"the quick brown fox jumps over the lazy dog and runs home again ";
const TEXT_START: &[u8] = b"txt:";
const SUM_START: &[u8] = b" sum:";
const SUM_DIGITS: usize = 16;
/// Longest sequence number, in digits: below 10^18, so that it always fits `u64`.
const SEQ_DIGITS_MAX: usize = 18;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A marker found in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The sequence number in the title.
    pub seq: u64,
    /// Whether the text still has the sum it was sent with; none when there is no such text.
    pub intact: Option<bool>,
}

/// Appends the title of `seq` to `out`.
pub fn write_title(out: &mut Vec<u8>, seq: u64) {
    write!(out, "n-{seq}").expect("writing to a vector cannot fail");
}

/// Appends a text of about `bytes` bytes (never less than 26) that belongs to `seq`.
pub fn write_text(out: &mut Vec<u8>, seq: u64, bytes: usize) {
    let overhead = TEXT_START.len() + SUM_START.len() + SUM_DIGITS;
    let filler_bytes = bytes.saturating_sub(overhead).max(1);
    out.extend_from_slice(TEXT_START);
    let from = out.len();
    let skip = usize::try_from(seq % 64).unwrap_or(0);
    out.extend(FILLER.iter().copied().cycle().skip(skip).take(filler_bytes));
    let sum = sum(seq, out.get(from..).unwrap_or_default());
    out.extend_from_slice(SUM_START);
    out.extend_from_slice(&sum);
}

/// Finds the marker in the raw bytes of a body.
#[must_use]
pub fn find(body: &[u8]) -> Option<Found> {
    let seq = find_seq(body)?;
    Some(Found { seq, intact: find_text(body).map(|(filler, digits)| sum(seq, filler) == digits) })
}

fn find_seq(body: &[u8]) -> Option<u64> {
    for (at, pair) in body.windows(2).enumerate() {
        if pair != b"n-" {
            continue;
        }
        // A letter before it is another word, a backslash the end of an escaped line break.
        let before = at.checked_sub(1).and_then(|index| body.get(index)).copied().unwrap_or(b' ');
        if before.is_ascii_alphanumeric() || before == b'\\' {
            continue;
        }
        let rest = body.get(at + 2..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ends = rest.get(digits).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        if (1..=SEQ_DIGITS_MAX).contains(&digits) && ends {
            let digits = rest.get(..digits).unwrap_or_default();
            return Some(digits.iter().fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0')));
        }
    }
    None
}

fn find_text(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let from = position(body, TEXT_START)? + TEXT_START.len();
    let rest = body.get(from..)?;
    let to = position(rest, SUM_START)?;
    let digits_from = to + SUM_START.len();
    Some((rest.get(..to)?, rest.get(digits_from..digits_from + SUM_DIGITS)?))
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn sum(seq: u64, filler: &[u8]) -> [u8; SUM_DIGITS] {
    let mut hash = Sha256::new();
    hash.update(seq.to_be_bytes());
    hash.update(filler);
    let digest = hash.finalize();
    let mut digits = [0; SUM_DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(digest.iter()) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(seq: u64, bytes: usize) -> Vec<u8> {
        let mut body = b"{\"aps\":{\"alert\":{\"title\":\"".to_vec();
        write_title(&mut body, seq);
        body.extend_from_slice(b"\",\"body\":\"");
        write_text(&mut body, seq, bytes);
        body.extend_from_slice(b"\"}}}");
        body
    }

    #[test]
    fn a_marker_is_found_inside_a_wrapped_body() {
        for (seq, bytes) in [(0, 0), (7, 120), (123_456_789, 3000)] {
            assert_eq!(find(&wrapped(seq, bytes)), Some(Found { seq, intact: Some(true) }));
        }
    }

    #[test]
    fn text_has_the_length_asked_for() {
        let mut out = Vec::new();
        write_text(&mut out, 9, 200);
        assert_eq!(out.len(), 200);
    }

    #[test]
    fn one_changed_byte_or_a_foreign_title_is_not_intact() {
        let mut changed = wrapped(7, 120);
        let at = position(&changed, b"brown").expect("the filler holds this word");
        changed[at] = b'B';
        assert_eq!(find(&changed), Some(Found { seq: 7, intact: Some(false) }));

        let foreign = String::from_utf8(wrapped(7, 120)).expect("ascii").replace("n-7", "n-8");
        assert_eq!(find(foreign.as_bytes()), Some(Found { seq: 8, intact: Some(false) }));
    }

    #[test]
    fn other_words_and_escapes_are_no_marker() {
        for body in ["version-7", "line\\n-7", "n-", "n-7a", "n-1234567890123456789", ""] {
            assert_eq!(find(body.as_bytes()), None, "{body}");
        }
        assert_eq!(find(b"*n-7*\\nhello"), Some(Found { seq: 7, intact: None }));
    }
}
