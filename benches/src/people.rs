//! Made-up people that differ like real ones, the same ones in every run.

const FIRST: [&str; 16] = [
    "Anna",
    "Björn",
    "Chiara",
    "Dmitri",
    "Emeka",
    "Fatima",
    "George",
    "Hanako",
    "Ivan",
    "José",
    "Katarzyna",
    "Liam",
    "Mohammed",
    "Noor",
    "Olivia",
    "Priya",
];
const LAST: [&str; 16] = [
    "Almeida",
    "Bianchi",
    "Chen",
    "Dubois",
    "Eriksson",
    "Fernández",
    "García",
    "Hoffmann",
    "Ivanova",
    "Johnson",
    "Kowalski",
    "Lindqvist",
    "Müller",
    "Nakamura",
    "O'Brien",
    "Petrov",
];

/// What a directory knows of somebody.
#[derive(Clone, Debug)]
pub struct Person {
    /// First and last name and a number below 977.
    pub name: String,
    /// Ends in `.<id>@example.com`.
    pub email: String,
    /// A third of all have one.
    pub nick_name: Option<String>,
    /// Half of all have one.
    pub phone: Option<String>,
    /// A fifth of all have one.
    pub country: Option<&'static str>,
}

/// The same scattered number for the same `seed`.
#[must_use]
pub fn scatter(seed: u32) -> u32 {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) ^ mixed >> 13
}

/// The same person for the same `id`.
#[must_use]
pub fn person(id: u32) -> Person {
    let pick = |from: &[&'static str; 16], seed: u32| from[(seed % 16) as usize];
    let number = scatter(id);
    let (first, last) = (pick(&FIRST, number), pick(&LAST, number >> 8));
    Person {
        name: format!("{first} {last} {}", number % 977),
        email: format!("{}.{id}@example.com", last.to_lowercase()),
        nick_name: number.is_multiple_of(3).then(|| format!("{first}{}", number % 89)),
        phone: number.is_multiple_of(2).then(|| format!("+49151{:08}", number % 100_000_000)),
        country: number.is_multiple_of(5).then(|| pick(&LAST, number >> 12)),
    }
}
