//! Tokens that must count and, mostly, tokens that must not.

use super::*;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};

fn check_refused(verifier: &TokenVerifier, token: &str, why: &str) {
    // Twice: a refusal must not be remembered as a success.
    for _ in 0..2 {
        let answer = verifier.verify(token);
        assert!(matches!(answer, Err(AuthError::Invalid(_))), "{why}: {answer:?}");
    }
}

#[test]
fn a_current_token_of_ours_counts() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let caller = verifier.verify(&signed(HEADER, &claims(&[]))).unwrap();
    assert_eq!(caller.organization, OrganizationId(101));
    assert_eq!(caller.scope, Scope::Organization);
    assert_eq!(caller.token_id, "t-1");
    let user = [("scope", Some("\"user\"")), ("sub", Some("\"42\""))];
    let perms = [user[0], user[1], ("perms", Some(r#"["user.view","unknown"]"#))];
    let caller = verifier.verify(&signed(HEADER, &claims(&perms))).unwrap();
    assert_eq!(caller.scope, Scope::User(UserId(42)));
    assert_eq!(caller.limited_to, Some(PermissionSet::of_names(["user.view"])));
    // Headers that would fetch or carry keys are ignored, not followed.
    let header =
        r#"{"alg":"HS256","kid":"a","jku":"http://127.0.0.1:1/","jwk":{},"x5u":"x","x5c":[]}"#;
    verifier.verify(&signed(header, &claims(&[]))).unwrap();
    for aud in [r#"["bugler"]"#, r#"["bugler","bugler"]"#] {
        verifier.verify(&signed(HEADER, &claims(&[("aud", Some(aud))]))).unwrap();
    }
}

#[test]
fn every_claim_is_required_and_typed() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    for claim in ["iss", "aud", "sub", "exp", "iat", "jti", "scope", "org"] {
        check_refused(&verifier, &signed(HEADER, &claims(&[(claim, None)])), claim);
        for wrong in ["null", "true", "-1", "1e308", "{}", "[]", "[1]", "\"\"", "1.5"] {
            let token = signed(HEADER, &claims(&[(claim, Some(wrong))]));
            check_refused(&verifier, &token, &format!("{claim} = {wrong}"));
        }
    }
    for (claim, wrong) in [
        ("iss", "\"https://bugler.test/\""),
        ("aud", "\"other\""),
        ("aud", r#"["bugler","other"]"#),
        ("scope", "\"admin\""),
        ("org", "0"),
        ("org", "2147483648"),
        ("org", "\"101\""),
        ("exp", "\"1900000000\""),
        ("exp", "1900000000.0"),
        ("nbf", "\"1\""),
        ("nbf", "null"),
        ("perms", "\"user.view\""),
        ("perms", "[1]"),
    ] {
        let token = signed(HEADER, &claims(&[(claim, Some(wrong))]));
        check_refused(&verifier, &token, &format!("{claim} = {wrong}"));
    }
    let user = claims(&[("scope", Some("\"user\"")), ("sub", Some("\"client-1\""))]);
    check_refused(&verifier, &signed(HEADER, &user), "a user that is no number");
}

#[test]
fn times_have_five_seconds_of_leeway() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let at = |offset: i64| NOW_S.checked_add_signed(offset).unwrap().to_string();
    let issued_before = at(-100);
    for (claim, offset, counts) in [
        ("exp", -4, true),
        ("exp", -5, false),
        ("exp", -61, false),
        ("nbf", 5, true),
        ("nbf", 6, false),
        ("iat", 5, true),
        ("iat", 6, false),
        ("iat", 61, false),
    ] {
        let value = at(offset);
        let mut changes = vec![(claim, Some(value.as_str()))];
        if claim == "exp" {
            changes.push(("iat", Some(issued_before.as_str())));
        }
        let verified = verifier.verify(&signed(HEADER, &claims(&changes)));
        assert_eq!(verified.is_ok(), counts, "{claim} {offset}: {verified:?}");
    }
}

#[test]
fn a_remembered_token_still_expires() {
    let (verifier, clock) = verifier(ring(&[hs256_entry("a")]));
    let token = signed(HEADER, &claims(&[]));
    let first = verifier.verify(&token).unwrap();
    assert!(Arc::ptr_eq(&first, &verifier.verify(&token).unwrap()), "the second use is remembered");
    clock.advance(Duration::from_secs(64));
    verifier.verify(&token).unwrap();
    clock.advance(Duration::from_secs(1));
    check_refused(&verifier, &token, "expired");
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_headers() {
    let pair = rsa();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let keys = ring(&[
        hs256_entry("a"),
        pem_entry("rsa", "RS256", &pair),
        pem_entry("ed", "EdDSA", &ed),
        pem_entry("ec", "ES256", &ec),
    ]);
    let (verifier, _) = verifier(keys);
    for alg in
        ["none", "None", "NONE", "", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256"]
    {
        let header = format!(r#"{{"alg":"{alg}","kid":"a"}}"#);
        check_refused(&verifier, &signed(&header, &claims(&[])), alg);
        let unsigned = format!("{}.{}.", segment(&header), segment(&claims(&[])));
        check_refused(&verifier, &unsigned, alg);
    }
    check_refused(&verifier, &signed(r#"{"kid":"a"}"#, &claims(&[])), "no alg");
    // The public key as an HMAC secret.
    for secret in [pair.public_key_pem().into_bytes(), pair.public_key_pem().trim().into()] {
        let header = r#"{"alg":"HS256","kid":"rsa"}"#;
        let message = format!("{}.{}", segment(header), segment(&claims(&[])));
        let key = EncodingKey::from_secret(&secret);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        check_refused(&verifier, &format!("{message}.{signature}"), "RS256 to HS256");
    }
    // Each algorithm under its own key counts, under another key of the ring it does not.
    for (kid, other, alg, key) in [
        ("rsa", "ed", Algorithm::RS256, EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())),
        ("ed", "ec", Algorithm::EdDSA, EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes())),
        ("ec", "rsa", Algorithm::ES256, EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes())),
    ] {
        let key = key.unwrap();
        for (named, counts) in [(kid, true), (other, false), ("a", false)] {
            let header = format!(r#"{{"alg":"{alg:?}","kid":"{named}"}}"#);
            let message = format!("{}.{}", segment(&header), segment(&claims(&[])));
            let signature = crypto::sign(message.as_bytes(), &key, alg).unwrap();
            let verified = verifier.verify(&format!("{message}.{signature}"));
            assert_eq!(verified.is_ok(), counts, "{header}: {verified:?}");
        }
    }
}

#[test]
fn kid_is_an_exact_name_and_needed_with_several_keys() {
    let (one, _) = verifier(ring(&[hs256_entry("a")]));
    let (two, _) = verifier(ring(&[hs256_entry("a"), hs256_entry("b")]));
    let anonymous = signed(r#"{"alg":"HS256"}"#, &claims(&[]));
    one.verify(&anonymous).unwrap();
    check_refused(&two, &anonymous, "no kid with two keys");
    let long = "a".repeat(4_000);
    for kid in ["A", "a ", "", "../a", "a' OR '1'='1", "http://127.0.0.1/a", long.as_str()] {
        let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
        check_refused(&one, &signed(&header, &claims(&[])), kid);
    }
    check_refused(&one, &signed(r#"{"alg":"HS256","kid":1}"#, &claims(&[])), "kid 1");
    check_refused(&one, &signed(r#"{"alg":"HS256","kid":["a"]}"#, &claims(&[])), "kid list");
}

#[test]
fn headers_that_change_the_meaning_are_refused() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    for extra in [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""enc":"A256GCM""#,
        r#""zip":"DEF""#,
        r#""typ":"JWE""#,
        r#""alg":"HS256""#,
        r#""alg":"none""#,
        r#""kid":"b""#,
    ] {
        let header = format!(r#"{{"alg":"HS256","kid":"a",{extra}}}"#);
        check_refused(&verifier, &signed(&header, &claims(&[])), extra);
    }
}

#[test]
fn a_repeated_claim_is_refused_even_when_unused() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let valid = claims(&[]);
    for extra in [r#""org":101"#, r#""org":102"#, r#""x":1,"x":1"#, r#""\u006frg":7"#] {
        let payload = valid.replacen('{', &format!("{{{extra},"), 1);
        check_refused(&verifier, &signed(HEADER, &payload), extra);
    }
    let many: Vec<_> = (0..70).map(|i| format!("\"x{i}\":1")).collect();
    let payload = valid.replacen('{', &format!("{{{},", many.join(",")), 1);
    check_refused(&verifier, &signed(HEADER, &payload), "70 claims");
}

#[test]
fn there_is_one_spelling_of_a_token() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let token = signed(HEADER, &claims(&[]));
    verifier.verify(&token).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let spelled_otherwise: String = {
        // The last character of a 32-byte signature carries two unused bits.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (rest, last) = signature.split_at(signature.len() - 1);
        let index = alphabet.iter().position(|c| *c == last.as_bytes()[0]).unwrap();
        format!("{message}.{rest}{}", char::from(alphabet[index + 1]))
    };
    for other in [
        spelled_otherwise,
        format!("{token}="),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{header}.{payload}"),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        message.to_owned(),
        String::from("..."),
        String::from(".."),
        String::new(),
    ] {
        check_refused(&verifier, &other, &other);
    }
    // Padding and the other alphabet inside what is signed. Spaces shift the bits, so that each
    // spelling turns up.
    let (mut padded, mut standard) = (0, 0);
    for spaces in 0..3 {
        let payload = claims(&[("x", Some("\"????>>>>\""))]);
        let payload = payload.replacen('{', &format!("{{{}", " ".repeat(spaces)), 1);
        verifier.verify(&signed(HEADER, &payload)).unwrap();
        for spelling in [URL_SAFE.encode(&payload), STANDARD_NO_PAD.encode(&payload)] {
            let (is_padded, is_standard) = (spelling.contains('='), spelling.contains(['+', '/']));
            if is_padded || is_standard {
                padded += usize::from(is_padded);
                standard += usize::from(is_standard);
                check_refused(&verifier, &sign_segments(&segment(HEADER), &spelling), &spelling);
            }
        }
    }
    assert!(padded > 0 && standard > 0, "the payloads cover both");
    check_refused(&verifier, &signed(HEADER, &format!("{}x", claims(&[]))), "trailing bytes");
    check_refused(&verifier, &signed(HEADER, "\"nested\""), "a string");
    check_refused(&verifier, &signed(HEADER, &format!("[{}]", claims(&[]))), "a list");
}

#[test]
fn a_huge_token_is_refused_unparsed() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let padding = format!("\"{}\"", "x".repeat(10_000_000));
    let token = signed(HEADER, &claims(&[("x", Some(&padding))]));
    assert_eq!(verifier.verify(&token), Err(AuthError::Invalid("longer than 8 KiB")));
    let padding = format!("\"{}\"", "x".repeat(4_000));
    verifier.verify(&signed(HEADER, &claims(&[("x", Some(&padding))]))).unwrap();
}

#[test]
fn a_wrong_or_altered_signature_is_refused() {
    let (verifier, _) = verifier(ring(&[hs256_entry("a")]));
    let token = signed(HEADER, &claims(&[]));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let payload = segment(&claims(&[("org", Some("102"))]));
    check_refused(&verifier, &format!("{}.{payload}.{signature}", segment(HEADER)), "payload");
    for wrong in ["AAAA".repeat(10), String::from("AA"), signature.split_at(40).0.to_owned()] {
        check_refused(&verifier, &format!("{message}.{wrong}"), &wrong);
    }
    let other = EncodingKey::from_secret(b"another secret of thirty-two byte");
    let forged = crypto::sign(message.as_bytes(), &other, Algorithm::HS256).unwrap();
    check_refused(&verifier, &format!("{message}.{forged}"), "another secret");
}

#[test]
fn minted_tokens_count_and_carry_the_grant() {
    let keys = ring(&[hs256_entry("a"), hs256_entry("b")]);
    let (verifier, clock) = verifier(Arc::clone(&keys));
    let minter = TokenMinter::new(keys, ISSUER, AUDIENCE, Arc::new(clock)).unwrap();
    let mut grant = Grant {
        organization: OrganizationId(7),
        scope: Scope::User(UserId(42)),
        subject: String::from("ignored"),
        limited_to: Some(PermissionSet::of_names(["policy.read"])),
        lifetime: Duration::from_secs(3600),
        origin: Origin::default(),
    };
    let token = minter.mint(&grant).unwrap();
    let caller = verifier.verify(&token).unwrap();
    assert_eq!((caller.organization, caller.scope), (OrganizationId(7), Scope::User(UserId(42))));
    assert_eq!(caller.limited_to, grant.limited_to);
    grant.scope = Scope::Organization;
    grant.limited_to = None;
    let second = verifier.verify(&minter.mint(&grant).unwrap()).unwrap();
    assert_eq!((second.scope, second.limited_to), (Scope::Organization, None));
    assert_ne!(caller.token_id, second.token_id);
}

#[test]
fn a_verifier_with_other_keys_forgets_what_the_old_one_knew() {
    let token = signed(HEADER, &claims(&[]));
    let (old, _) = verifier(ring(&[hs256_entry("a")]));
    old.verify(&token).unwrap();
    let (rotated, _) = verifier(ring(&[hs256_entry("b")]));
    check_refused(&rotated, &token, "a removed key");
}
