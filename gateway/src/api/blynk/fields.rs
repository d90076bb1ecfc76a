//! The rules of Blynk's text fields, as character predicates: linear in any input.

use crate::api::fields::{Faults, Fields, is_email};
use crate::auth::NewPassword;
use crate::model::{Address, Secret};
use crate::openapi::is_letter;
use jiff::tz::TimeZoneDatabase;
use serde_json::Value;
use std::ops::RangeInclusive;
use unicode_normalization::char::is_combining_mark;

const EMAIL_MAX: usize = 320;
const SHORT_MAX: usize = 50;
const INVITED_NAME_MAX: usize = 100;
const TZ_MAX: usize = 200;
const PHONE_DIGITS: RangeInclusive<usize> = 6..=15;

fn is_letter_or_mark(c: char) -> bool {
    is_letter(c) || is_combining_mark(c)
}

/// Typewriters and typographers write it differently.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}')
}

fn is_in_name(c: char) -> bool {
    is_letter_or_mark(c) || matches!(c, ' ' | '.' | '-') || is_apostrophe(c)
}

fn is_in_title(c: char) -> bool {
    is_letter_or_mark(c) || matches!(c, ' ' | '-')
}

fn is_in_nick_name(c: char) -> bool {
    is_in_title(c) || c.is_numeric()
}

fn is_in_organization_name(c: char) -> bool {
    is_in_name(c) || c.is_numeric()
}

/// Controls, and what turns the reading direction of the text around a name.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text of at most `max` characters that `allowed` lets through; empty text is none.
fn checked<'a>(
    fields: &Fields<'a>,
    name: &str,
    max: usize,
    allowed: (fn(char) -> bool, &str),
    faults: &mut Faults,
) -> Option<&'a str> {
    let text = fields.text(name, max, faults)?;
    let (allowed, words) = allowed;
    if text.chars().all(allowed) {
        return Some(text).filter(|text| !text.is_empty());
    }
    faults.add(name, format!("can only contain {words}"));
    None
}

/// An address in lower case.
pub(super) fn email(fields: &Fields<'_>, faults: &mut Faults) -> String {
    let text = fields.required_text("email", EMAIL_MAX, faults);
    if text.is_some_and(|text| !is_email(text)) {
        faults.add("email", "must be an e-mail address");
    }
    text.unwrap_or_default().to_lowercase()
}

/// A password for the user with this address. Any character may be in it.
pub(super) fn password(fields: &Fields<'_>, email: &str, faults: &mut Faults) -> Secret {
    let text = match fields.get("password") {
        Some(Value::String(text)) => text.as_str(),
        other => {
            faults
                .add("password", if other.is_none() { "is required" } else { "must be a string" });
            return Secret::new("");
        }
    };
    if let Err(problem) = NewPassword::check(text, email) {
        faults.add("password", problem.to_string());
    }
    Secret::new(text)
}

pub(super) fn name(fields: &Fields<'_>, faults: &mut Faults) -> String {
    let allowed: (fn(char) -> bool, _) =
        (is_in_name, "letters, hyphens, spaces, dots and apostrophes");
    checked(fields, "name", SHORT_MAX, allowed, faults).unwrap_or_default().to_owned()
}

pub(super) fn title(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let allowed: (fn(char) -> bool, _) = (is_in_title, "letters, hyphens and spaces");
    checked(fields, "title", SHORT_MAX, allowed, faults).map(str::to_owned)
}

pub(super) fn nick_name(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let allowed: (fn(char) -> bool, _) = (is_in_nick_name, "letters, digits, hyphens and spaces");
    checked(fields, "nickName", SHORT_MAX, allowed, faults).map(str::to_owned)
}

/// The name of an organization, 3 to 100 characters.
pub(super) fn organization_name(
    fields: &Fields<'_>,
    name: &str,
    faults: &mut Faults,
) -> Option<String> {
    let allowed: (fn(char) -> bool, _) =
        (is_in_organization_name, "letters, digits, spaces, dots, hyphens and apostrophes");
    let text = fields.text(name, 100, faults)?;
    if text.chars().count() < 3 {
        faults.add(name, "has fewer than 3 characters");
        return None;
    }
    checked(fields, name, 100, allowed, faults).map(str::to_owned)
}

/// The name of an organization that a backend makes: 3 to 100 characters, none of them invisible.
pub(super) fn any_organization_name(fields: &Fields<'_>, faults: &mut Faults) -> String {
    let text = fields.required_text("name", 100, faults);
    if text.is_some_and(|text| text.chars().count() < 3) {
        faults.add("name", "has fewer than 3 characters");
    }
    refuse_marks("name", text, faults);
    text.unwrap_or_default().to_owned()
}

/// Faults what could end up as markup or a path.
fn refuse_marks(name: &str, text: Option<&str>, faults: &mut Faults) {
    let is_refused = |c: char| matches!(c, '/' | '\\' | '<' | '>') || is_invisible(c);
    if text.is_some_and(|text| text.chars().any(is_refused)) {
        faults.add(name, "cannot contain slashes, backslashes, <, > or invisible characters");
    }
}

/// The name in an invitation, which may have more characters in it.
pub(super) fn invited_name(fields: &Fields<'_>, faults: &mut Faults) -> String {
    let text = fields.required_text("name", INVITED_NAME_MAX, faults);
    if text.is_some_and(str::is_empty) {
        faults.add("name", "must not be empty");
    }
    refuse_marks("name", text, faults);
    text.unwrap_or_default().to_owned()
}

pub(super) fn phone(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let text = fields.text("phoneNumber", SHORT_MAX, faults)?;
    let digits = text.strip_prefix('+').unwrap_or_default();
    let is_right =
        PHONE_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_right {
        faults.add("phoneNumber", "must be + and 6 to 15 digits");
    }
    is_right.then(|| text.to_owned())
}

/// A name of the IANA time zone database, spelled as it spells it.
pub(super) fn tz(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let text = fields.text("tz", TZ_MAX, faults)?;
    let zone = TimeZoneDatabase::bundled().get(text);
    let is_known = zone.is_ok_and(|zone| zone.iana_name() == Some(text));
    if !is_known {
        faults.add("tz", "must be an IANA time zone such as Europe/Kyiv");
    }
    is_known.then(|| text.to_owned())
}

/// `ll_CC`.
pub(super) fn locale(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let text = fields.text("locale", SHORT_MAX, faults)?;
    let is_right = matches!(text.as_bytes(), [a, b, b'_', c, d]
        if a.is_ascii_lowercase() && b.is_ascii_lowercase()
            && c.is_ascii_uppercase() && d.is_ascii_uppercase());
    if !is_right {
        faults.add("locale", "must be a language and a country such as en_US");
    }
    is_right.then(|| text.to_owned())
}

pub(super) fn address(fields: &Fields<'_>, faults: &mut Faults) -> Option<Address> {
    let address = fields.object("address", faults)?;
    let mut part = |name: &str, max| address.text(name, max, faults).map(str::to_owned);
    Some(Address {
        full_address: part("fullAddress", 512),
        country: part("country", 74),
        city: part("city", 50),
        state: part("state", 40),
        zip: part("zip", 12),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults_of(read: impl Fn(&Fields<'_>, &mut Faults), body: &Value) -> usize {
        let fields = Fields::of_body(body).expect("an object");
        let mut faults = Faults::default();
        read(&fields, &mut faults);
        faults.into_result().err().map_or(0, |failure| failure.fields.len())
    }

    #[test]
    fn names_take_the_letters_of_every_script_and_nothing_else() {
        let read = |fields: &Fields<'_>, faults: &mut Faults| drop(name(fields, faults));
        for good in [
            "John Doe",
            "Zoë",
            "Zoe\u{308}",
            "O'Connor",
            "O’Connor",
            "J. R.-R.",
            "محمد",
            "李小龍",
            "नरेन्द्र",
            "Ærøskøbing",
            "",
        ] {
            assert_eq!(faults_of(read, &json!({"name": good})), 0, "{good}");
        }
        for bad in [
            "R2D2",
            "a_b",
            "<b>",
            "a/b",
            "a\\b",
            "😀",
            "a\nb",
            "a\tb",
            "a,b",
            "a@b",
            "Ⅷ",
            "Ⓐ",
            "🅰",
            "a\u{202e}b",
            "a\u{200d}b",
            "a\u{a0}b",
            "٣",
            "½",
        ] {
            assert_eq!(faults_of(read, &json!({"name": bad})), 1, "{bad}");
        }
        assert_eq!(faults_of(read, &json!({"name": "é".repeat(50)})), 0);
        assert_eq!(faults_of(read, &json!({"name": "é".repeat(51)})), 1);
    }

    #[test]
    fn each_field_has_its_own_characters() {
        let all = |fields: &Fields<'_>, faults: &mut Faults| {
            title(fields, faults);
            nick_name(fields, faults);
            organization_name(fields, "organizationName", faults);
        };
        let with = |text: &str| json!({"title": text, "nickName": text, "organizationName": text});
        assert_eq!(faults_of(all, &with("Sales Manager")), 0);
        assert_eq!(faults_of(all, &with("R2D2")), 1, "no digit in a title");
        assert_eq!(faults_of(all, &with("a.b.c")), 2, "dots in organizations only");
        assert_eq!(faults_of(all, &with("ab")), 1, "organizations have three characters");
        assert_eq!(faults_of(all, &with("John's")), 2, "apostrophes in organizations only");
        assert_eq!(faults_of(all, &with("a_b c")), 3);
        let invited = |fields: &Fields<'_>, faults: &mut Faults| drop(invited_name(fields, faults));
        for good in ["J", "R2D2 😀, Jr.", "a@b"] {
            assert_eq!(faults_of(invited, &json!({"name": good})), 0, "{good}");
        }
        for bad in ["", "a/b", "a\\b", "a<b", "a>b", "a\nb", "a\u{202e}b"] {
            assert_eq!(faults_of(invited, &json!({"name": bad})), 1, "{bad}");
        }
    }

    #[test]
    fn numbers_zones_and_locales_have_one_form() {
        let read = |fields: &Fields<'_>, faults: &mut Faults| {
            phone(fields, faults);
            tz(fields, faults);
            locale(fields, faults);
        };
        let good = json!({"phoneNumber": "+11234567890", "tz": "Europe/Kyiv", "locale": "en_US"});
        assert_eq!(faults_of(read, &good), 0);
        assert_eq!(faults_of(read, &json!({"tz": "UTC", "phoneNumber": "+123456"})), 0);
        for bad in ["", "123456789", "+12345", "+1234567890123456", "+1 23 45 67", "+12345a"] {
            assert_eq!(faults_of(read, &json!({"phoneNumber": bad})), 1, "{bad}");
        }
        for bad in ["", "Kyiv", "europe/kyiv", "Europe/Kyiv ", "UTC+2", "../etc/passwd"] {
            assert_eq!(faults_of(read, &json!({"tz": bad})), 1, "{bad}");
        }
        for bad in ["", "en", "en-US", "EN_us", "en_USA", "en_US\n", "éé_US"] {
            assert_eq!(faults_of(read, &json!({"locale": bad})), 1, "{bad}");
        }
    }
}
