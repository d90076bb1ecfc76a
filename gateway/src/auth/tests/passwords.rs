//! What may be a password, and what the pool does with many at once.

use super::*;
use crate::model::Secret;
use futures_util::future::join_all;

const EMAIL: &str = "jane.doe@example.com";

fn check(text: &str) -> Result<NewPassword, PasswordProblem> {
    NewPassword::check(text, EMAIL)
}

fn good(text: &str) -> NewPassword {
    check(text).unwrap()
}

/// So many characters that are no guess.
fn long(count: usize) -> String {
    "kV7#pLq2-".chars().cycle().take(count).collect()
}

#[test]
fn lengths_count_characters_and_nothing_is_cut() {
    let problem = |text: &str| check(text).err();
    assert_eq!(problem("kV7#pLq"), Some(PasswordProblem::TooShort));
    assert_eq!(problem(""), Some(PasswordProblem::TooShort));
    assert_eq!(problem("kV7#pLq2"), None);
    assert_eq!(problem(&long(200)), None);
    assert_eq!(problem(&long(201)), Some(PasswordProblem::TooLong));
    let wide: String = ('\u{1F300}'..).take(200).collect();
    assert_eq!(problem(&wide), None, "200 characters of four bytes");
    assert_eq!(problem(&format!("{wide}a")), Some(PasswordProblem::TooLong));
    assert_eq!(problem(&"x".repeat(1_000_000)), Some(PasswordProblem::TooLong));
    assert_eq!(problem("kV7#pLq2\0"), Some(PasswordProblem::Nul));
    // Combining marks that melt into four letters.
    assert_eq!(problem("e\u{301}a\u{308}o\u{308}u\u{308}"), Some(PasswordProblem::TooShort));
}

#[test]
fn the_address_and_the_first_guesses_are_refused() {
    assert_eq!(check("Jane.Doe@Example.com").err(), Some(PasswordProblem::Email));
    // Full-width letters are the same password after normalization.
    for bad in ["password1", "PASSWORD1", "ｐａｓｓｗｏｒｄ１", "12345678"] {
        assert_eq!(check(bad).err(), Some(PasswordProblem::Guessable), "{bad}");
    }
}

#[tokio::test]
async fn a_password_is_its_normalized_self_and_no_other() {
    let pool = PasswordPool::default();
    let stored = pool.hash(good(" Zürich-Blau 7 ")).await.unwrap();
    assert!(stored.reveal().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.reveal());
    let is = async |text: &str| pool.verify(text, Some(&stored)).await.unwrap();
    assert!(is(" Zürich-Blau 7 ").await);
    assert!(is(" Zu\u{308}rich-Blau 7 ").await, "another keyboard's spelling");
    for other in ["Zürich-Blau 7", " zürich-blau 7 ", " Zürich-Blau 7", " Zürich-Blau 7 \0", ""]
    {
        assert!(!is(other).await, "{other:?}");
    }
    let again = pool.hash(good(" Zürich-Blau 7 ")).await.unwrap();
    assert_ne!(stored, again, "each has its own salt");
}

#[tokio::test]
async fn characters_past_any_length_still_count() {
    let pool = PasswordPool::default();
    let stored = pool.hash(good(&long(200))).await.unwrap();
    assert!(pool.verify(&long(200), Some(&stored)).await.unwrap());
    assert!(!pool.verify(&long(199), Some(&stored)).await.unwrap());
}

#[tokio::test]
async fn nobody_has_no_password() {
    let pool = PasswordPool::default();
    for text in ["kV7#pLq2", "", "x"] {
        assert!(!pool.verify(text, None).await.unwrap(), "{text}");
    }
}

#[tokio::test]
async fn a_hash_of_another_kind_is_named_not_run() {
    let pool = PasswordPool::default();
    let salt_and_hash = "Ym9keSBvZiBub3RoaW5nIQ$3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8";
    for stored in [
        String::from("$2b$12$abcdefghijklmnopqrstuuEr"),
        String::new(),
        format!("$argon2i$v=19$m=19456,t=2,p=1${salt_and_hash}"),
        format!("$argon2id$v=19$m=4194304,t=2,p=1${salt_and_hash}"),
        format!("$argon2id$v=19$m=19456,t=4000,p=1${salt_and_hash}"),
    ] {
        let answer = pool.verify("kV7#pLq2", Some(&Secret::new(stored.clone()))).await;
        assert!(matches!(answer, Err(PasswordError::Stored)), "{stored}: {answer:?}");
    }
}

#[tokio::test]
async fn a_flood_of_passwords_is_refused_at_once() {
    let pool = PasswordPool::default();
    let answers = join_all((0..100).map(|_| pool.verify("kV7#pLq2", None))).await;
    let busy = answers.iter().filter(|a| matches!(a, Err(PasswordError::Busy))).count();
    let answered = answers.iter().filter(|a| matches!(a, Ok(false))).count();
    assert_eq!((answered, busy), (34, 66));
    assert!(!pool.verify("kV7#pLq2", None).await.unwrap(), "and then there is room again");
}

#[tokio::test]
async fn a_caller_that_goes_away_keeps_its_slot_until_the_work_ends() {
    let pool = PasswordPool::default();
    let abandoned = async {
        // Polled until it waits for its slot or its hash, then dropped.
        let wait = std::pin::pin!(pool.verify("kV7#pLq2", None));
        assert!(futures_util::poll!(wait).is_pending());
    };
    abandoned.await;
    let all = join_all((0..34).map(|_| pool.verify("kV7#pLq2", None))).await;
    let busy = all.iter().filter(|a| matches!(a, Err(PasswordError::Busy))).count();
    assert!(busy <= 1, "only the abandoned one can be in the way: {busy}");
}

#[tokio::test]
async fn stretching_is_repeatable_and_salted() {
    let pool = PasswordPool::default();
    let first = pool.stretch([1; 32], [2; 32]).await.unwrap();
    assert_eq!(pool.stretch([1; 32], [2; 32]).await.unwrap(), first);
    assert_ne!(pool.stretch([1; 32], [3; 32]).await.unwrap(), first);
    assert_ne!(pool.stretch([4; 32], [2; 32]).await.unwrap(), first);
}

#[test]
fn nothing_shows_a_password() {
    assert_eq!(format!("{:?}", good("kV7#pLq2")), "NewPassword(***)");
}
