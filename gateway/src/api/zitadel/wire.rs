//! Reads protobuf messages as proto3 wants them read: a known field of another wire type is unknown.

use prost::Message;

/// Nested groups of unknown fields.
const GROUPS_MAX: usize = 100;

/// Wire types of proto3's fields.
pub(super) const VARINT: u8 = 0;
pub(super) const LENGTH: u8 = 2;

/// A message whose fields are `known`, by number and wire type. `None` if the bytes are no message.
pub(super) fn decode<M: Message + Default>(bytes: &[u8], known: &[(u32, u8)]) -> Option<M> {
    // The decoder refuses what has a wire type it did not expect, where others skip it.
    M::decode(bytes).ok().or_else(|| M::decode(without_mistyped(bytes, known)?.as_slice()).ok())
}

/// The fields of a message without those whose wire type is not the known one.
fn without_mistyped(bytes: &[u8], known: &[(u32, u8)]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let field = rest;
        let (number, wire) = key(&mut rest)?;
        skip(&mut rest, number, wire)?;
        let is_mistyped = known.iter().any(|(n, w)| *n == number && *w != wire);
        if !is_mistyped {
            kept.extend_from_slice(field.get(..field.len() - rest.len())?);
        }
    }
    Some(kept)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn key(rest: &mut &[u8]) -> Option<(u32, u8)> {
    let key = u32::try_from(varint(rest)?).ok()?;
    let wire = u8::try_from(key & 7).ok()?;
    (key >> 3 > 0).then_some((key >> 3, wire))
}

/// Passes over the value of a field, whole groups included.
fn skip(rest: &mut &[u8], number: u32, wire: u8) -> Option<()> {
    let mut groups = Vec::new();
    let (mut number, mut wire) = (number, wire);
    loop {
        match wire {
            VARINT => drop(varint(rest)?),
            1 => *rest = rest.get(8..)?,
            LENGTH => {
                let length = usize::try_from(varint(rest)?).ok()?;
                *rest = rest.get(length..)?;
            }
            3 if groups.len() < GROUPS_MAX => groups.push(number),
            4 if groups.pop()? == number => {}
            5 => *rest = rest.get(4..)?,
            _ => return None,
        }
        if groups.is_empty() {
            return Some(());
        }
        (number, wire) = key(rest)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::zitadel::proto::{PolicyRequest, TextRequest};
    use proptest::prelude::*;

    fn policy(bytes: &[u8]) -> Option<bool> {
        decode::<PolicyRequest>(bytes, &[(1, VARINT)]).map(|read| read.password_change)
    }

    #[test]
    fn reads_a_bool_as_proto3_does() {
        for (bytes, value) in [
            (&[][..], false),
            (&[0x08, 0x01], true),
            (&[0x08, 0x00], false),
            // Any number but 0, up to ten bytes long; the last of several counts.
            (&[0x08, 0x02], true),
            (&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01], true),
            (&[0x08, 0x01, 0x08, 0x00], false),
            // Unknown fields: a string, a fixed64, nested groups.
            (&[0x12, 0x02, 0x61, 0x62, 0x08, 0x01], true),
            (&[0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 0x01], true),
            (&[0x23, 0x2b, 0x08, 0x00, 0x2c, 0x24, 0x08, 0x01], true),
            // The field's number with another wire type is an unknown field.
            (&[0x0a, 0x01, 0x01], false),
            (&[0x0d, 1, 0, 0, 0, 0x08, 0x01], true),
            (&[0x08, 0x01, 0x0b, 0x0c], true),
        ] {
            assert_eq!(policy(bytes), Some(value), "{bytes:02x?}");
        }
    }

    #[test]
    fn refuses_what_is_no_message() {
        for bytes in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x00, 0x01],
            &[0x12, 0x05, 0x61],
            &[0x0e, 0x01],
            &[0x23, 0x2c],
            &[0x24],
            &[0x0d, 0x01],
        ] {
            assert_eq!(policy(bytes), None, "{bytes:02x?}");
        }
        assert_eq!(policy(&[0x23; 200]), None, "groups in groups");
        assert!(decode::<TextRequest>(&[0x0a, 0x01, 0xff], &[(1, LENGTH)]).is_none(), "UTF-8");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            policy(&bytes);
            decode::<TextRequest>(&bytes, &[(1, LENGTH), (2, LENGTH)]);
        }

        #[test]
        fn what_the_decoder_takes_is_read_unchanged(
            fields in prop::collection::vec((1_u32..20, any::<u32>()), 0..8)
        ) {
            let mut bytes = Vec::new();
            for (number, value) in fields {
                for mut number in [u64::from(number << 3), u64::from(value)] {
                    while number > 0x7f {
                        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
                        number >>= 7;
                    }
                    bytes.push(u8::try_from(number).unwrap());
                }
            }
            prop_assert_eq!(without_mistyped(&bytes, &[(1, VARINT)]), Some(bytes));
        }
    }
}
