//! Names and ids: which are allowed, and how missing ones are made.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::{DeviceId, ObjectId, OrganizationId, Platform, SubscriptionId, UserId};

/// Shortest and longest slug, in characters.
const SLUG_CHARS: std::ops::RangeInclusive<usize> = 3..=64;
const WEBHOOK_SECRET_BYTES: usize = 32;

/// Why `slug` cannot name an organization.
///
/// Applivery's slug pattern also matches uuids, object ids and numbers, so a slug that looks like
/// one could name two organizations at once.
pub(super) fn slug_problem(slug: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !SLUG_CHARS.contains(&slug.len()) || !slug.chars().all(allowed) {
        return Some("must be 3 to 64 lower-case letters, digits or hyphens");
    }
    let looks_like_an_id = slug.chars().all(|c| c.is_ascii_digit())
        || slug.parse::<Uuid>().is_ok()
        || slug.parse::<ObjectId>().is_ok();
    looks_like_an_id.then_some("must not look like a number, a uuid or 24 hexadecimal digits")
}

/// The slug that `name` suggests; always an allowed one.
pub fn slug_from(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        // Leaves room for the number that tells namesakes apart.
        if slug.len() == 48 {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    match slug_problem(slug) {
        None => String::from(slug),
        Some(_) if slug.is_empty() => String::from("organization"),
        Some(_) => format!("org-{slug}"),
    }
}

/// The `count`th attempt at a free slug: `acme`, `acme-2`, `acme-3`.
pub fn slug_attempt(base: &str, count: u32) -> String {
    if count <= 1 { String::from(base) } else { format!("{base}-{count}") }
}

/// An e-mail address in lower case, or why it is none. The mailbox decides the rest.
pub(super) fn email(text: &str) -> Result<String, &'static str> {
    let is_address = text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains('@')
    });
    if !is_address || text.len() > 254 || text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err("must be an e-mail address");
    }
    Ok(text.to_lowercase())
}

pub(super) fn numeric_problem(digits: &str) -> Option<&'static str> {
    let valid = (1..=20).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit());
    (!valid).then_some("must be 1 to 20 digits")
}

pub(super) fn secret_problem(secret: &str) -> Option<&'static str> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let key = secret.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let valid = key.is_some_and(|key| (24..=64).contains(&key.len()));
    (!valid).then_some("must be whsec_ and the base64 of 24 to 64 bytes")
}

/// PHC strings of the one algorithm passwords are checked with.
pub(super) fn password_hash_problem(hash: &str) -> Option<&'static str> {
    let valid = hash.starts_with("$argon2id$v=19$m=") && hash.split('$').count() == 6;
    (!valid).then_some("must be a PHC string that begins with $argon2id$v=19$m=")
}

/// A client's id is sent before a colon (RFC 7617 section 2).
pub(super) fn client_id_problem(id: &str) -> Option<&'static str> {
    let valid = id.len() <= 200 && id.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    (!valid).then_some("must be at most 200 visible ASCII characters without a colon")
}

/// One round of a hash protects it, so it must not be guessable.
pub(super) fn client_secret_problem(secret: &str) -> Option<&'static str> {
    let valid = (32..=200).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic());
    (!valid).then_some("must be 32 to 200 visible ASCII characters, chosen at random")
}

pub(super) fn new_secret() -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; WEBHOOK_SECRET_BYTES]>()))
}

pub fn new_object_id() -> ObjectId {
    ObjectId(rand::random())
}

/// Up to 63 bits, so that it also fits a signed integer.
pub fn new_numeric() -> String {
    (rand::random::<u64>() >> 1).max(1).to_string()
}

/// The device of `user` with this token: the same on every import.
pub fn device_id(user: UserId, platform: Platform, token: &str) -> DeviceId {
    let platform: &[u8] = match platform {
        Platform::Apns => b"apns",
        Platform::Fcm => b"fcm",
    };
    let digest = digest(&[b"bugler.device.v1", &user.0.to_be_bytes(), platform, token.as_bytes()]);
    DeviceId(uuid::Builder::from_custom_bytes(first(&digest)).into_uuid())
}

/// The subscription of `org` to this URL: the same on every import.
pub(super) fn subscription_id(org: OrganizationId, kind: &str, url: &str) -> SubscriptionId {
    let (org, kind, url) = (&org.0.to_be_bytes(), kind.as_bytes(), url.as_bytes());
    ObjectId(first(&digest(&[b"bugler.subscription.v1", org, kind, url])))
}

/// Hash of `parts` and their lengths, so that no two lists of parts share one.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn first<const N: usize>(digest: &[u8; 32]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_never_look_like_another_dialects_id() {
        for refused in [
            "ab",
            "12345",
            "Acme",
            "a_b",
            "5f1d00000000000000000abc",
            "09e431b3-3e5b-4a4f-9d8e-0a1b2c3d4e5f",
        ] {
            assert!(slug_problem(refused).is_some(), "{refused}");
        }
        assert_eq!(slug_problem("acme-2"), None);
    }

    #[test]
    fn every_name_suggests_an_allowed_slug() {
        let cases = [
            ("Acme", "acme"),
            ("  Acme & Söhne GmbH. ", "acme-s-hne-gmbh"),
            ("42", "org-42"),
            ("日本", "organization"),
            ("5f1d00000000000000000abc", "org-5f1d00000000000000000abc"),
        ];
        for (name, expected) in cases {
            assert_eq!(slug_from(name), expected);
        }
        for name in ["x".repeat(500), "9".repeat(500), "-".repeat(500)] {
            let slug = slug_attempt(&slug_from(&name), u32::MAX);
            assert_eq!(slug_problem(&slug), None, "{slug}");
        }
    }

    #[test]
    fn minted_names_are_valid() {
        assert_eq!(secret_problem(&new_secret()), None);
        assert_eq!(numeric_problem(&new_numeric()), None);
        assert!(new_numeric().parse::<i64>().is_ok());
        assert_ne!(new_object_id(), new_object_id());
    }
}
