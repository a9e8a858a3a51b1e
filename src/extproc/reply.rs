//! Replies as Envoy wants them, one constructor a shape.

use bytes::Bytes;
use prost_types::Struct;

use super::{HeaderEdits, Refusal};
use crate::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::proto::envoy::r#type::v3::HttpStatus;
use crate::proto::ext_proc::body_mutation::Mutation;
use crate::proto::ext_proc::processing_response::Response;
use crate::proto::ext_proc::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
    ImmediateResponse, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};

/// The largest body of one reply. Envoy takes more, gRPC stacks with 64 KiB windows stall on it.
pub(super) const CHUNK: usize = 62_000;

/// Which half of the exchange a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// The decision, as the reply to the headers.
pub(super) fn decided_headers(edits: HeaderEdits, metadata: Option<Struct>) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(Response::RequestHeaders(HeadersResponse {
            response: Some(decision(edits)),
        })),
        dynamic_metadata: metadata,
        ..Default::default()
    }
}

/// The decision, as the reply to a buffered body; `body` only if it changes.
pub(super) fn decided_body(
    edits: HeaderEdits,
    metadata: Option<Struct>,
    body: Option<Bytes>,
) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(Response::RequestBody(BodyResponse {
            response: Some(CommonResponse {
                body_mutation: body.map(whole),
                ..decision(edits)
            }),
        })),
        dynamic_metadata: metadata,
        ..Default::default()
    }
}

/// The decision, where only trailers are left to reply to: the metadata still reaches the router.
pub(super) fn decided_trailers(metadata: Option<Struct>) -> ProcessingResponse {
    ProcessingResponse {
        dynamic_metadata: metadata,
        ..trailers(Side::Request)
    }
}

/// The reply to headers that asks for nothing but `edits`.
pub(super) fn headers(side: Side, edits: HeaderEdits) -> ProcessingResponse {
    let reply = HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: mutation(edits),
            ..Default::default()
        }),
    };
    of(match side {
        Side::Request => Response::RequestHeaders(reply),
        Side::Response => Response::ResponseHeaders(reply),
    })
}

/// The reply to one body message; `instead` only if the body changes.
pub(super) fn body(side: Side, instead: Option<Bytes>) -> ProcessingResponse {
    body_reply(
        side,
        CommonResponse {
            body_mutation: instead.map(whole),
            ..Default::default()
        },
    )
}

/// A piece of a full-duplex body.
pub(super) fn streamed(side: Side, body: Bytes, end_of_stream: bool) -> ProcessingResponse {
    let piece = StreamedBodyResponse {
        body,
        end_of_stream,
        ..Default::default()
    };
    streamed_reply(side, piece)
}

/// A gRPC message, whole as it came.
pub(super) fn grpc(side: Side, message: HttpBody) -> ProcessingResponse {
    let message = StreamedBodyResponse {
        body: message.body,
        end_of_stream: message.end_of_stream,
        end_of_stream_without_message: message.end_of_stream_without_message,
        grpc_message_compressed: message.grpc_message_compressed,
    };
    streamed_reply(side, message)
}

/// The reply to trailers, which stay as they are.
pub(super) fn trailers(side: Side) -> ProcessingResponse {
    let reply = TrailersResponse::default();
    of(match side {
        Side::Request => Response::RequestTrailers(reply),
        Side::Response => Response::ResponseTrailers(reply),
    })
}

/// The answer to the client in place of the model server's.
pub(super) fn immediate(refusal: Refusal) -> ProcessingResponse {
    let set_headers = refusal
        .headers
        .into_iter()
        .map(|(name, value)| set_header(name, value.into()))
        .collect();
    of(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(refusal.status),
        }),
        headers: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        body: refusal.body,
        details: refusal.details.to_owned(),
    }))
}

/// Cuts `pieces` into replies of at most [`CHUNK`] bytes, the bytes themselves shared. `end` marks the last one,
/// and makes sure that there is one.
pub(super) fn stream_body(
    side: Side,
    pieces: impl IntoIterator<Item = Bytes>,
    end: bool,
    mut push: impl FnMut(ProcessingResponse),
) {
    let mut last: Option<Bytes> = None;
    for mut piece in pieces {
        while !piece.is_empty() {
            let cut = piece.split_to(piece.len().min(CHUNK));
            if let Some(before) = last.replace(cut) {
                push(streamed(side, before, false));
            }
        }
    }
    match (last, end) {
        (Some(bytes), end) => push(streamed(side, bytes, end)),
        (None, true) => push(streamed(side, Bytes::new(), true)),
        (None, false) => {}
    }
}

fn of(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..Default::default()
    }
}

fn body_reply(side: Side, response: CommonResponse) -> ProcessingResponse {
    let reply = BodyResponse {
        response: Some(response),
    };
    of(match side {
        Side::Request => Response::RequestBody(reply),
        Side::Response => Response::ResponseBody(reply),
    })
}

fn streamed_reply(side: Side, piece: StreamedBodyResponse) -> ProcessingResponse {
    body_reply(
        side,
        CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(piece)),
            }),
            ..Default::default()
        },
    )
}

fn whole(body: Bytes) -> BodyMutation {
    BodyMutation {
        mutation: Some(Mutation::Body(body)),
    }
}

/// Routes may match on the headers that a decision sets, so the client has to look its route up again.
fn decision(edits: HeaderEdits) -> CommonResponse {
    CommonResponse {
        header_mutation: mutation(edits),
        clear_route_cache: true,
        ..Default::default()
    }
}

fn mutation(edits: HeaderEdits) -> Option<HeaderMutation> {
    if edits.set.is_empty() && edits.remove.is_empty() {
        return None;
    }
    Some(HeaderMutation {
        set_headers: edits
            .set
            .into_iter()
            .map(|(name, value)| set_header(&name, value))
            .collect(),
        remove_headers: edits.remove.into_iter().map(str::to_owned).collect(),
    })
}

/// The action is always spelt out: what "unset" means differs between proxies and versions.
fn set_header(name: &str, value: Bytes) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: value,
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    }
}

/// One piece of all of them; a copy only when there are several.
pub(super) fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&'static [u8]], end: bool) -> Vec<(usize, bool)> {
        let mut out = Vec::new();
        let pieces = pieces.iter().map(|p| Bytes::from_static(p));
        stream_body(Side::Request, pieces, end, |reply| {
            let Some(Response::RequestBody(body)) = reply.response else {
                panic!("not a body reply: {reply:?}");
            };
            let mutation = body.response.and_then(|r| r.body_mutation?.mutation);
            let Some(Mutation::StreamedResponse(s)) = mutation else {
                panic!("not streamed: {mutation:?}");
            };
            out.push((s.body.len(), s.end_of_stream));
        });
        out
    }

    #[test]
    fn bodies_are_cut_and_only_the_last_piece_ends_the_stream() {
        static LARGE: [u8; CHUNK * 2 + 1] = [b'x'; CHUNK * 2 + 1];
        assert_eq!(cut(&[], false), []);
        assert_eq!(cut(&[], true), [(0, true)]);
        assert_eq!(cut(&[b"", b"abc", b""], true), [(3, true)]);
        assert_eq!(cut(&[b"abc", b"de"], false), [(3, false), (2, false)]);
        assert_eq!(
            cut(&[&LARGE, b"z"], true),
            [(CHUNK, false), (CHUNK, false), (1, false), (1, true)]
        );
    }
}
