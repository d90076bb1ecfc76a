//! gRPC over HTTP/2: one message in a frame each way, the result in trailers.
//!
//! Facts are from the protocol's document "gRPC over HTTP2". Every answer is HTTP 200; a call that
//! failed is answered by headers alone ("Trailers-Only").

use super::fault::Fault;
use crate::api::reply;
use crate::server::{ReplyBody, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

/// Flags and length before a message.
pub(super) const PREFIX: usize = 5;
/// A request message of 64 KiB in its frame.
pub(super) const BODY_MAX: u64 = 64 * 1024 + 5;
const COMPRESSED: u8 = 1;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The one message of a request's body.
pub(super) fn unframe(body: &[u8]) -> Result<&[u8], Fault> {
    let Some(([flags, length @ ..], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(Fault::invalid("the body is not a whole gRPC message"));
    };
    match *flags {
        0 => {}
        COMPRESSED => return Err(Fault::unimplemented("compressed messages are not served")),
        _ => return Err(Fault::invalid("the message has unknown flags")),
    }
    if usize::try_from(u32::from_be_bytes(*length)) == Ok(message.len()) {
        Ok(message)
    } else {
        Err(Fault::invalid("the body is not one message of the announced length"))
    }
}

/// A frame: flags, length, bytes.
pub(super) fn frame(flags: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + bytes.len());
    frame.put_u8(flags);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}

/// How long the caller waits. A wait that does not fit the protocol's eight digits is for ever.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(text) = headers.get(TIMEOUT) else { return Ok(None) };
    let malformed = || Fault::invalid("grpc-timeout is digits and one of H, M, S, m, u, n");
    let text = text.to_str().map_err(|_| malformed())?;
    let unit = text.chars().next_back().ok_or_else(malformed)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let of: fn(u64) -> Duration = match unit {
        'H' => Duration::from_hours,
        'M' => Duration::from_mins,
        'S' => Duration::from_secs,
        'm' => Duration::from_millis,
        'u' => Duration::from_micros,
        'n' => Duration::from_nanos,
        _ => return Err(malformed()),
    };
    Ok((digits.len() <= 8).then(|| of(digits.parse().unwrap_or(u64::MAX))))
}

/// Frames a good answer's body and puts the result behind it.
pub(super) fn framed(media: &'static str, mut answer: Response) -> Response {
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let body = frame(0, &bytes_of(&mut answer));
    *answer.body_mut() = ReplyBody::Trailed(body, Some(Box::new(trailers)));
    answer
}

/// Takes the whole body of an answer.
pub(super) fn bytes_of(answer: &mut Response) -> Bytes {
    match std::mem::take(answer.body_mut()) {
        ReplyBody::Full(bytes) | ReplyBody::Trailed(bytes, _) => bytes,
        ReplyBody::Stream(_) => Bytes::new(),
    }
}

pub(super) fn refused(media: &'static str, fault: &Fault) -> Response {
    let mut response = bare_refusal(media, fault);
    response.headers_mut().extend(result(fault));
    response
}

/// A failure's answer with the headers every dialect has, and without its result.
pub(super) fn bare_refusal(media: &'static str, fault: &Fault) -> Response {
    let mut response = reply::failure(200, &Value::Null, &fault.failure);
    *response.body_mut() = ReplyBody::default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The result of a failed call, as trailers or in their place.
pub(super) fn result(fault: &Fault) -> HeaderMap {
    let mut result = HeaderMap::with_capacity(4);
    result.insert(STATUS, HeaderValue::from(fault.code.number()));
    let status = fault.status();
    let details = STANDARD_NO_PAD.encode(status.encode_to_vec());
    let texts = [(MESSAGE, percent_encode(&status.message)), (DETAILS, details)];
    for (name, text) in texts {
        result.extend(HeaderValue::try_from(text).ok().map(|text| (name, text)));
    }
    if fault.code == super::fault::Code::Unimplemented {
        result.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    result
}

/// `Percent-Encoded` of the protocol: what is not printable ASCII, and the percent sign.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::failure::FailureClass;
    use crate::api::zitadel::answer::Answer;
    use crate::api::zitadel::fault::Code;
    use crate::api::zitadel::proto::{ErrorDetail, ObjectDetails, Status};
    use proptest::prelude::*;

    fn code(body: &[u8]) -> i32 {
        unframe(body).map_or_else(|fault| fault.code.number(), |_| 0)
    }

    #[test]
    fn takes_exactly_one_plain_message() {
        assert_eq!(unframe(&[0, 0, 0, 0, 2, 8, 1]), Ok(&[8, 1][..]));
        assert_eq!(unframe(&[0, 0, 0, 0, 0]), Ok(&[][..]));
        for (body, refused) in [
            (&[][..], 3),
            (&[0, 0, 0, 0], 3),
            (&[0, 0, 0, 0, 2, 8], 3),
            (&[0, 0, 0, 0, 2, 8, 1, 0], 3),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 3),
            (&[0, 0xff, 0xff, 0xff, 0xff, 8, 1], 3),
            (&[1, 0, 0, 0, 2, 8, 1], 12),
            (&[2, 0, 0, 0, 2, 8, 1], 3),
            (&[0x80, 0, 0, 0, 0], 3),
        ] {
            assert_eq!(code(body), refused, "{body:02x?}");
        }
    }

    #[test]
    fn timeouts_have_a_unit_and_may_be_huge() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for (text, wait) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("999999999999999999999999H", None),
        ] {
            assert_eq!(of(text), Ok(wait), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "1.5S", "1 S", "0x1S", "1SS"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_good_answer_is_a_frame_and_a_trailer() {
        let details = ObjectDetails { sequence: 2, ..Default::default() };
        let message = Answer::Details(details).encode();
        let answer = framed("application/grpc+proto", reply::json(200, message));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc+proto");
        let ReplyBody::Trailed(bytes, Some(trailers)) = answer.into_body() else { panic!() };
        assert_eq!(&bytes[..], [0, 0, 0, 0, 4, 0x0a, 2, 8, 2]);
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[test]
    fn a_refusal_says_code_message_and_detail() {
        let fault = Fault::named(
            FailureClass::Conflict,
            Code::AlreadyExists,
            "Org-xa08n2",
            "Notification Policy already exists",
        );
        let answer = refused("application/grpc", &fault);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(answer.status(), 200);
        assert_eq!(header("grpc-status"), "6");
        assert_eq!(header("grpc-message"), "Notification Policy already exists (Org-xa08n2)");
        let details = header("grpc-status-details-bin");
        assert!(!details.contains('='));
        let status = Status::decode(&STANDARD_NO_PAD.decode(details).unwrap()[..]).unwrap();
        assert_eq!((status.code, status.message), (6, header("grpc-message")));
        let detail = &status.details[0];
        assert_eq!(detail.type_url, "type.googleapis.com/zitadel.v1.ErrorDetail");
        let detail = ErrorDetail::decode(&detail.value[..]).unwrap();
        assert_eq!(detail.id, "Org-xa08n2");
        assert_eq!(detail.message, "Notification Policy already exists");
    }

    #[test]
    fn messages_are_percent_encoded_by_byte() {
        assert_eq!(percent_encode("a b%~é\n"), "a b%25~%C3%A9%0A");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(message) = unframe(&body) {
                prop_assert_eq!(frame(0, message), body);
            }
        }
    }
}
