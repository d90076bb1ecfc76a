//! Passwords that attackers try first: well-known words with the tails people add, and runs of keys.
//!
//! A word and a tail stand for thousands of entries of leaked lists, so no such list is embedded.

/// Shortest word that takes a tail: shorter ones would refuse too much.
const STEM_MIN: usize = 4;
/// Longest piece whose repetition is still one idea, as in `abcabcabc`.
const PIECE_MAX: usize = 4;
/// Different characters a password needs at least.
const KINDS_MIN: usize = 4;

/// Rows people slide along, in both directions.
const ROWS: [&str; 12] = [
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "1234567890qwertyuiop",
    "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
    "azertyuiopqsdfghjklmwxcvbn",
    "qwertzuiopasdfghjklyxcvbnm",
    "asdfghjklzxcvbnm",
    "!@#$%^&*()_+",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "qazwsxedcrfvtgbyhnujmikolp",
    "q1w2e3r4t5y6u7i8o9p0",
    "1q2w3e4r5t6y7u8i9o0p",
];

/// Tails that people put behind a word. Digits and years are checked apart.
const MARKS: &str = "!?.@#$*_-+";

/// Words of the lists, in lower case and with letters for the digits that stand for them.
const WORDS: &str = "\
    password passwort passw0rd passphrase parola contrasena motdepasse senha kennwort wachtwoord \
    pass passwd secret secure security changeme change changeit default temporary temp letmein \
    login logon access admin administrator root superuser user username guest test testing tester \
    demo sample example master manager system server service support oracle database mysql postgres \
    cisco router switch firewall network internet computer laptop windows microsoft google apple \
    android iphone samsung facebook twitter linkedin youtube amazon netflix yahoo hotmail gmail \
    welcome hello hellothere whatever nothing something anything trustno trustnoone iloveyou iloveu \
    loveyou loveme lovely lover love mylove forever always baby babygirl babyboy babylove angel \
    angels princess prince queen king sweetheart sweety sweetie sweet honey sugar candy cookie \
    chocolate butterfly flower flowers rainbow sunshine sunflower moonlight starlight snowflake \
    summer winter spring autumn january february march april june july august september october \
    november december monday tuesday wednesday thursday friday saturday sunday weekend birthday \
    christmas halloween easter holiday vacation football soccer baseball basketball hockey tennis \
    volleyball cricket rugby golf golfer swimming running fitness champion champions winner victory \
    dragon monkey tiger lion panther leopard jaguar eagle falcon hawk phoenix wolf wolves bear \
    bulldog puppy kitten kitty doggie horse pony unicorn dolphin shark penguin panda turtle spider \
    scorpion snake cobra viper shadow ghost knight warrior soldier hunter killer assassin ninja \
    samurai pirate wizard magic merlin gandalf hobbit starwars startrek skywalker vader yoda matrix \
    superman batman spiderman ironman hulk wolverine captain avengers marvel pokemon pikachu naruto \
    mario luigi zelda sonic minecraft fortnite roblox overwatch warcraft starcraft counter strike \
    michael michelle jennifer jessica jordan joshua matthew andrew daniel david robert thomas \
    charlie william richard anthony christopher nicholas jonathan benjamin alexander alexandra \
    alexis samantha amanda ashley brittany stephanie elizabeth victoria nicole rachel rebecca \
    melissa danielle natalie olivia sophia isabella emma hannah madison taylor morgan austin dakota \
    brandon justin tyler steven patrick martin maggie bailey buster ginger pepper peanut cheese \
    banana orange apples cherry strawberry blueberry pineapple mustang corvette ferrari porsche \
    mercedes yamaha harley davidson chevrolet camaro toyota honda liverpool chelsea arsenal \
    manchester barcelona realmadrid juventus bayern lakers yankees cowboys steelers raiders packers \
    patriots redsox eagles london paris berlin madrid moscow newyork boston chicago dallas houston \
    denver texas florida california america american england canada mexico brazil germany france \
    russia india china japan australia scotland ireland italy freedom liberty peace heaven jesus \
    jesuschrist christ faith blessed blessing spirit trinity church family mother father brother \
    sister friend friends bestfriend bestfriends money million billion dollar rich gold golden \
    silver diamond crystal platinum black white green purple yellow blue blink metallica nirvana \
    slipknot eminem beatles elvis rockstar rock music guitar drummer piano dance dancer dancing \
    star stars starfish galaxy universe planet earth mars venus jupiter saturn mercury apollo \
    hercules zeus athena thunder lightning storm hurricane tornado fire inferno freeze frozen \
    secretword mypassword mypass newpassword oldpassword yourpassword thepassword password1password \
    passpass adminadmin testtest rootroot useruser letmeinnow openup opensesame sesame enter \
    startup start stop hacker hacked hacking cracker crack exploit virus trojan zombie vampire \
    twilight monster demon devil satan lucifer evil death killme fuckyou fuckoff asshole bitch \
    bullshit qwerty qwertz azerty qwert asdf asdfgh zxcv zxcvbn qazwsx onetwothree abcd abcabc \
    supersecret topsecret private personal account office company business corporate employee \
    student teacher school college university graduate doctor nurse lawyer engineer developer \
    programmer linux ubuntu debian redhat docker kubernetes jenkins github gitlab python java \
    javascript notification notifications bugler";

/// True for a password of the kinds above. Case does not matter, nor do digits for letters.
pub(super) fn is_guessable(password: &str) -> bool {
    let lower: Vec<char> = password.chars().flat_map(char::to_lowercase).collect();
    let mut kinds = lower.clone();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.len() < KINDS_MIN || is_repetition(&lower) || is_slide(&lower) || is_word(&lower)
}

/// One short piece over and over, cut off anywhere.
fn is_repetition(text: &[char]) -> bool {
    (1..=PIECE_MAX).any(|piece| {
        text.len() > piece && text.iter().zip(text.iter().skip(piece)).all(|(a, b)| a == b)
    })
}

/// At most two slides along rows of keys, as in `qwer1234`.
fn is_slide(text: &[char]) -> bool {
    let mut rest = text;
    for _ in 0..2 {
        let length = (0..=rest.len()).rev().find(|length| {
            let piece: String = rest.iter().take(*length).collect();
            let backwards: String = piece.chars().rev().collect();
            *length < 3 || ROWS.iter().any(|row| row.contains(&piece) || row.contains(&backwards))
        });
        rest = rest.get(length.unwrap_or(0)..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
    }
    false
}

/// A word, perhaps twice, with digits and marks before or behind it.
fn is_word(text: &[char]) -> bool {
    let plain: String = text.iter().copied().filter(|c| !c.is_whitespace()).collect();
    let is_tail = |c: char| c.is_ascii_digit() || MARKS.contains(c);
    let stem = plain.trim_matches(is_tail);
    let tail = plain.len() - stem.len();
    // A long number behind a word is a password of its own; those of the lists are slides.
    let is_short =
        tail <= 5 || plain.trim_start_matches(stem).chars().all(|c| "123456789".contains(c));
    let spelled = |text: &str| text.chars().map(letter).collect::<String>();
    let is_known = |text: &str| WORDS.split_ascii_whitespace().any(|word| word == text);
    let is_doubled = |text: &str| {
        text.is_ascii() && {
            let (first, second) = text.split_at(text.len() / 2);
            first == second && is_known(first)
        }
    };
    // `passw0rd1` has its digits inside and behind, `pa55word` inside only.
    [spelled(stem), spelled(&plain), stem.to_owned()]
        .iter()
        .filter(|text| text.len() >= STEM_MIN)
        .any(|text| (is_short || text.len() == plain.len()) && (is_known(text) || is_doubled(text)))
}

/// The letter that a digit or mark stands for.
fn letter(c: char) -> char {
    match c {
        '0' => 'o',
        '1' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_lists_start_with_is_guessable() {
        for bad in [
            "12345678",
            "123456789",
            "1234567890",
            "87654321",
            "11111111",
            "00000000",
            "password",
            "Password1",
            "PASSWORD123",
            "password!",
            "P@ssw0rd",
            "pa$$w0rd1",
            "passw0rd123",
            "qwertyuiop",
            "qwerty123",
            "1q2w3e4r",
            "1qaz2wsx",
            "zaq12wsx",
            "asdfghjkl",
            "qwer1234",
            "abcd1234",
            "abcdefgh",
            "iloveyou",
            "sunshine1",
            "princess",
            "football!",
            "Welcome1",
            "welcome123",
            "letmein123",
            "admin123!",
            "adminadmin",
            "trustno1",
            "dragon2020",
            "Summer2024!",
            "michael1",
            "superman",
            "abcabcabc",
            "12341234",
            "aaaaaaab",
            "changeme",
            "iloveyou2",
            "testtest",
            "pokemon99",
            "starwars",
            "computer",
            "internet",
            "baseball",
            "1234qwer",
            "password12345",
            "password123456789",
            "monkey 123",
        ] {
            assert!(is_guessable(bad), "{bad}");
        }
    }

    #[test]
    fn a_sentence_or_chance_is_not() {
        for good in [
            "mySecretPassword123",
            "correct horse battery staple",
            "tr0ub4dor&3x",
            "S3cure-enough",
            "a1b2c3d4e5!z",
            "kV7#pLq2",
            "пароль-для-врат",
            "密码很长很安全的呢",
            "wombat-74-teapot",
            "summer in Kyiv is warm",
        ] {
            assert!(!is_guessable(good), "{good}");
        }
    }
}
