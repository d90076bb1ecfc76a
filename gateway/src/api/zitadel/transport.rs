//! The three ways a call arrives, told apart by its media type.

use super::answer::Answer;
use super::fault::Fault;
use super::{grpc, grpc_web, json, render};
use crate::server::Response;
use bytes::Bytes;

/// How a call arrived, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Rest,
    /// With the media type of the answer, which is the request's.
    Grpc(&'static str),
    GrpcWeb(&'static str),
    /// gRPC with messages that are not protobuf.
    OtherMessages,
}

impl Transport {
    /// By the request's media type; without one it is REST.
    pub(super) fn of(media: Option<&str>) -> Self {
        let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
        let media = media.to_ascii_lowercase();
        match media.as_str() {
            "application/grpc" => Self::Grpc("application/grpc"),
            "application/grpc+proto" => Self::Grpc("application/grpc+proto"),
            "application/grpc-web" => Self::GrpcWeb("application/grpc-web"),
            "application/grpc-web+proto" => Self::GrpcWeb("application/grpc-web+proto"),
            other
                if other.starts_with("application/grpc+")
                    || other.starts_with("application/grpc-web+") =>
            {
                Self::OtherMessages
            }
            _ => Self::Rest,
        }
    }

    /// The bytes of an answer, before they are framed.
    pub(super) fn encode(self, answer: &Answer) -> Bytes {
        match self {
            Self::Rest => json::print(answer).to_string().into(),
            Self::Grpc(_) | Self::GrpcWeb(_) | Self::OtherMessages => answer.encode().into(),
        }
    }

    /// Frames a good answer whose body is what `encode` gave, first or repeated.
    pub(super) fn framed(self, answer: Response) -> Response {
        match self {
            Self::Rest => answer,
            Self::Grpc(media) => grpc::framed(media, answer),
            Self::GrpcWeb(media) => grpc_web::framed(media, answer),
            Self::OtherMessages => grpc::framed("application/grpc", answer),
        }
    }

    pub(super) fn refused(self, fault: &Fault) -> Response {
        match self {
            Self::Rest => render::refused(fault),
            Self::Grpc(media) => grpc::refused(media, fault),
            Self::GrpcWeb(media) => grpc_web::refused(media, fault),
            Self::OtherMessages => grpc::refused("application/grpc", fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_decide() {
        for (media, transport) in [
            ("application/json", Transport::Rest),
            ("application/grpc", Transport::Grpc("application/grpc")),
            ("Application/gRPC+proto", Transport::Grpc("application/grpc+proto")),
            ("application/grpc; charset=utf-8", Transport::Grpc("application/grpc")),
            ("application/grpc-web", Transport::GrpcWeb("application/grpc-web")),
            ("application/grpc-web+proto", Transport::GrpcWeb("application/grpc-web+proto")),
            ("application/grpc+json", Transport::OtherMessages),
            ("application/grpc-web-text", Transport::Rest),
            ("application/grpc-web-text+proto", Transport::Rest),
            ("application/grpc-web+thrift", Transport::OtherMessages),
            ("application/grpcx", Transport::Rest),
            ("application/proto", Transport::Rest),
            ("", Transport::Rest),
        ] {
            assert_eq!(Transport::of(Some(media)), transport, "{media}");
        }
        assert_eq!(Transport::of(None), Transport::Rest);
    }
}
