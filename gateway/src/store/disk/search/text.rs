//! The searchable text of users: folded, packed one after the other, scanned for a needle.

use memchr::memmem::Finder;

/// Users in one chunk of text.
pub(super) const CHUNK_USERS: usize = 16_384;
/// Words of a bitmap that cover a chunk.
pub(super) const CHUNK_WORDS: usize = CHUNK_USERS / 64;
/// Ends every field of a record: UTF-8 never contains it, so no needle reaches over it.
const FIELD_END: u8 = 0xff;
/// Text of one field that is searched; far above what any dialect takes.
const FIELD_BYTES_MAX: usize = 16 << 10;
/// Users that share one bit of a chunk's signature.
const BLOCK_USERS: usize = 32;
const BLOCKS: usize = CHUNK_USERS / BLOCK_USERS;
/// Classes of trigrams a signature tells apart.
const TRIGRAM_CLASSES: usize = 4096;
/// Chunks with fewer users are scanned without a signature.
const SIGNED_USERS_MIN: usize = 1024;
/// Trigrams of a needle that are looked up.
const NEEDLE_TRIGRAMS_MAX: usize = 24;

/// One bit per block of a chunk.
type Blocks = [u64; BLOCKS / 64];

/// The form in which text is stored, sought and compared: lower case, final sigma as sigma.
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // Character by character, so that a needle folds alike wherever it stands in a word.
    let lower = text.chars().flat_map(char::to_lowercase);
    lower.map(|c| if c == 'ς' { 'σ' } else { c }).collect()
}

/// A field users are sorted by, and its position in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name = 0,
    Email = 1,
    Phone = 3,
}

/// The record of a user: name, e-mail, nick name, phone number.
pub(super) fn pack(fields: [&str; 4]) -> Vec<u8> {
    let mut record = Vec::with_capacity(fields.iter().map(|field| field.len() + 1).sum());
    for field in fields {
        let folded = fold(field);
        let end = folded.floor_char_boundary(FIELD_BYTES_MAX);
        record.extend_from_slice(folded.as_bytes().get(..end).unwrap_or_default());
        record.push(FIELD_END);
    }
    record
}

/// One field of a packed record.
pub(super) fn field(record: &[u8], which: Field) -> &[u8] {
    let mut rest = record;
    for _ in 0..which as usize {
        let end = memchr::memchr(FIELD_END, rest).map_or(rest.len(), |at| at + 1);
        rest = rest.get(end..).unwrap_or_default();
    }
    let end = memchr::memchr(FIELD_END, rest).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// A folded text to look for.
pub(super) struct Needle<'a> {
    finder: Finder<'a>,
    classes: Vec<usize>,
}

impl<'a> Needle<'a> {
    /// `folded` must come from [`fold`].
    pub(super) fn new(folded: &'a str) -> Self {
        let mut classes: Vec<usize> = folded.as_bytes().windows(3).filter_map(class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes.truncate(NEEDLE_TRIGRAMS_MAX);
        Self { finder: Finder::new(folded), classes }
    }

    /// True if a field of `record` contains the needle.
    pub(super) fn is_in(&self, record: &[u8]) -> bool {
        self.finder.find(record).is_some()
    }
}

/// The class of a trigram, `None` if it reaches over the end of a field.
fn class(trigram: &[u8]) -> Option<usize> {
    let &[a, b, c] = trigram else { return None };
    if a == FIELD_END || b == FIELD_END || c == FIELD_END {
        return None;
    }
    let mixed = u32::from_le_bytes([a, b, c, 0]).wrapping_mul(0x9e37_79b1);
    usize::try_from(mixed >> 20).ok()
}

/// The packed records of up to [`CHUNK_USERS`] users.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    text: Vec<u8>,
    ends: Vec<u32>,
    /// For each class of trigrams, the blocks that have one of it.
    signature: Option<Box<[Blocks]>>,
}

/// Where in a chunk a needle may be.
pub(super) struct Candidates(Blocks);

impl Candidates {
    pub(super) fn blocks(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn has(&self, block: usize) -> bool {
        self.0[block / 64] >> (block % 64) & 1 == 1
    }
}

impl Chunk {
    pub(super) fn users(&self) -> usize {
        self.ends.len()
    }

    /// Appends a record; false if the chunk is full.
    pub(super) fn push(&mut self, record: &[u8]) -> bool {
        let end = u32::try_from(self.text.len() + record.len());
        match end {
            Ok(end) if self.ends.len() < CHUNK_USERS => {
                self.text.extend_from_slice(record);
                self.ends.push(end);
                true
            }
            _ => false,
        }
    }

    /// Gives back spare memory and notes which block has which trigrams.
    pub(super) fn finish(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        if self.users() < SIGNED_USERS_MIN {
            return;
        }
        let mut signature = vec![Blocks::default(); TRIGRAM_CLASSES];
        for block in 0..self.users().div_ceil(BLOCK_USERS) {
            let (from, to) = (block * BLOCK_USERS, (block + 1) * BLOCK_USERS);
            let text = &self.text[self.start(from)..self.start(to.min(self.users()))];
            for class in text.windows(3).filter_map(class) {
                signature[class][block / 64] |= 1 << (block % 64);
            }
        }
        self.signature = Some(signature.into_boxed_slice());
    }

    pub(super) fn record(&self, user: usize) -> &[u8] {
        &self.text[self.start(user)..self.start(user + 1)]
    }

    pub(super) fn candidates(&self, needle: &Needle<'_>) -> Candidates {
        let mut blocks = [u64::MAX; BLOCKS / 64];
        for (at, word) in blocks.iter_mut().enumerate() {
            let present = self.users().div_ceil(BLOCK_USERS).saturating_sub(at * 64);
            if present < 64 {
                *word = (1 << present) - 1;
            }
        }
        if let Some(signature) = &self.signature {
            for class in &needle.classes {
                blocks.iter_mut().zip(signature[*class]).for_each(|(all, has)| *all &= has);
            }
        }
        Candidates(blocks)
    }

    /// Sets the bit of every user among `candidates` whose record contains the needle.
    pub(super) fn scan(&self, needle: &Needle<'_>, candidates: &Candidates, hits: &mut [u64]) {
        let blocks = self.users().div_ceil(BLOCK_USERS);
        let mut block = 0;
        while block < blocks {
            let first = block;
            while block < blocks && candidates.has(block) {
                block += 1;
            }
            let last = (block * BLOCK_USERS).min(self.users());
            if first < block {
                self.scan_run(needle, first * BLOCK_USERS, last, hits);
            }
            block += 1;
        }
    }

    /// After a hit the search goes on with the next user.
    fn scan_run(&self, needle: &Needle<'_>, first: usize, last: usize, hits: &mut [u64]) {
        let text = &self.text[..self.start(last)];
        let (mut user, mut at) = (first, self.start(first));
        // The empty needle is found even behind the last user.
        while at < text.len()
            && let Some(found) = needle.finder.find(&text[at..])
        {
            let found = at + found;
            loop {
                at = self.ends[user] as usize;
                if at > found {
                    break;
                }
                user += 1;
            }
            hits[user / 64] |= 1 << (user % 64);
            user += 1;
        }
    }

    fn start(&self, user: usize) -> usize {
        user.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn bytes(&self) -> usize {
        let signature = self.signature.as_ref().map_or(0, |all| size_of_val(&**all));
        self.text.capacity() + self.ends.capacity() * 4 + signature
    }
}
