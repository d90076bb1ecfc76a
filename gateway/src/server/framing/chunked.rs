//! Follows a chunked body so that the start of the next head is known.
//!
//! At least as strict as the HTTP library's own decoder: whatever passes here ends for both at the
//! same byte.

/// Bytes of chunk extensions and trailers one body may have.
const EXTRA_BYTES: u32 = 16 * 1024;
/// Hex digits of a chunk size; 15 cannot overflow a u64.
const SIZE_DIGITS: u8 = 15;

/// Where in the grammar of RFC 9112 section 7.1 the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        digits: u8,
    },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line or of the end.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// What became of some bytes of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// All bytes belong to the body, and it goes on.
    More,
    /// The body ended after this many bytes.
    Ended(usize),
    /// The byte at this position breaks the grammar.
    Broken(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkScan {
    at: At,
    size: u64,
    extra: u32,
}

impl ChunkScan {
    pub(super) fn new() -> Self {
        Self { at: At::Size { digits: 0 }, size: 0, extra: 0 }
    }

    pub(super) fn follow(&mut self, bytes: &[u8]) -> Followed {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.at == At::Data {
                let left = bytes.len() - at;
                let take = usize::try_from(self.size).map_or(left, |size| size.min(left));
                self.size -= u64::try_from(take).unwrap_or(self.size);
                at += take;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            if self.at == At::EndLf {
                return if *byte == b'\n' { Followed::Ended(at + 1) } else { Followed::Broken(at) };
            }
            let Some(next) = self.next(*byte) else { return Followed::Broken(at) };
            self.at = next;
            at += 1;
        }
        Followed::More
    }

    fn next(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size * 16 + u64::from(digit);
                (digits < SIZE_DIGITS).then_some(At::Size { digits: digits + 1 })
            }
            (At::Size { digits: 1.. }, b';') => Some(At::Extension),
            (At::Size { digits: 1.. } | At::Extension, b'\r') => Some(At::SizeLf),
            (At::Extension, _) => self.extra_byte(byte, At::Extension),
            (At::SizeLf, b'\n') if self.size == 0 => Some(At::TrailerStart),
            (At::SizeLf, b'\n') => Some(At::Data),
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::Size { digits: 0 }),
            (At::TrailerStart, b'\r') => Some(At::EndLf),
            (At::Trailer, b'\r') => Some(At::TrailerLf),
            (At::TrailerStart | At::Trailer, _) => self.extra_byte(byte, At::Trailer),
            (At::TrailerLf, b'\n') => Some(At::TrailerStart),
            _ => None,
        }
    }

    fn extra_byte(&mut self, byte: u8, next: At) -> Option<At> {
        self.extra += 1;
        let is_text = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
        (is_text && self.extra <= EXTRA_BYTES).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(body: &str) -> Followed {
        let whole = ChunkScan::new().follow(body.as_bytes());
        let mut dripped = ChunkScan::new();
        for (i, byte) in body.bytes().enumerate() {
            match dripped.follow(&[byte]) {
                Followed::More => {}
                Followed::Ended(n) => {
                    assert_eq!(whole, Followed::Ended(i + n), "{body:?}");
                    return whole;
                }
                Followed::Broken(n) => {
                    assert_eq!(whole, Followed::Broken(i + n), "{body:?}");
                    return whole;
                }
            }
        }
        assert_eq!(whole, Followed::More, "{body:?}");
        whole
    }

    #[test]
    fn ends_exactly_after_the_last_chunk_and_trailers() {
        assert_eq!(follow("0\r\n\r\n"), Followed::Ended(5));
        assert_eq!(follow("3\r\nabc\r\n0\r\n\r\nGET /"), Followed::Ended(13));
        assert_eq!(follow("A;x=\"y\"\r\n0123456789\r\n000\r\nT: v\r\n\r\n"), Followed::Ended(34));
        assert_eq!(follow("3\r\nab"), Followed::More);
    }

    #[test]
    fn breaks_at_the_first_byte_out_of_grammar() {
        for (body, at) in [
            ("\r\n", 0),
            ("g\r\n", 0),
            ("3\nabc\n0\n\n", 1),
            ("3 \r\nabc", 1),
            ("3\rx", 2),
            ("3\r\nabcd\r\n", 6),
            ("3;a\nb\r\n", 3),
            ("3;\0\r\n", 2),
            ("0\r\n\rX", 4),
            ("0\r\nT: v\n\r\n", 7),
            ("ffffffffffffffff\r\n", 15),
        ] {
            assert_eq!(follow(body), Followed::Broken(at), "{body:?}");
        }
        let extension = format!("1;{}", "x".repeat(70_000));
        assert!(matches!(ChunkScan::new().follow(extension.as_bytes()), Followed::Broken(_)));
    }
}
