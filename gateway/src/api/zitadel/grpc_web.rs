//! gRPC-web in its binary form: as gRPC, with the trailers in a last frame of the body.

use super::fault::Fault;
use super::grpc;
use crate::server::Response;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

/// Flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// Frames a good answer's body and puts the result into a frame behind it.
pub(super) fn framed(media: &'static str, mut answer: Response) -> Response {
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    let mut body = BytesMut::from(grpc::frame(0, &grpc::bytes_of(&mut answer)));
    body.extend_from_slice(&grpc::frame(TRAILERS, b"grpc-status: 0\r\n"));
    *answer.body_mut() = body.freeze().into();
    answer
}

pub(super) fn refused(media: &'static str, fault: &Fault) -> Response {
    let mut response = grpc::bare_refusal(media, fault);
    *response.body_mut() = trailers(&grpc::result(fault)).into();
    response
}

fn trailers(result: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in result {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    grpc::frame(TRAILERS, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reply;
    use crate::server::ReplyBody;

    fn body(response: Response) -> Bytes {
        let ReplyBody::Full(bytes) = response.into_body() else {
            panic!("a body without trailers")
        };
        bytes
    }

    #[test]
    fn a_good_answer_is_a_frame_of_data_and_one_of_trailers() {
        let answer = framed("application/grpc-web+proto", reply::empty(200));
        assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
        assert_eq!(body(answer), &b"\0\0\0\0\0\x80\0\0\0\x10grpc-status: 0\r\n"[..]);
    }

    #[test]
    fn a_refusal_is_one_frame_of_trailers() {
        let answer = refused("application/grpc-web", &Fault::organization());
        assert_eq!(answer.status(), 200);
        let body = body(answer);
        let (prefix, lines) = body.split_at(grpc::PREFIX);
        assert_eq!(prefix[0], TRAILERS);
        assert_eq!(usize::from(prefix[4]) + 256 * usize::from(prefix[3]), lines.len());
        let lines = std::str::from_utf8(lines).unwrap();
        assert!(lines.contains("grpc-status: 7\r\n"), "{lines}");
        let message = "grpc-message: Organisation doesn't exist (AUTH-Bs7Ds)\r\n";
        assert!(lines.contains(message), "{lines}");
        assert!(lines.contains("grpc-status-details-bin: "), "{lines}");
    }
}
