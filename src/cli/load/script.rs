//! What is sent: the messages of one request and of its response, as Envoy words them.

use std::time::Duration;

use bytes::Bytes;

use super::BodyMode;
use crate::proto::envoy::config::core::v3::{HeaderMap, HeaderValue};
use crate::proto::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use crate::proto::ext_proc::processing_request::Request;
use crate::proto::ext_proc::{HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration};

/// Envoy's pieces of a streamed body.
const PIECE: usize = 64 << 10;
/// A picker that has not answered by then has failed.
const DEADLINE: Duration = Duration::from_secs(30);
const CHUNK: &str = r#"data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#;

/// Which half of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// One half: headers, then a body in pieces.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) side: Side,
    headers: Vec<HeaderValue>,
    /// At least one.
    pub(super) pieces: Vec<Bytes>,
    /// Of all pieces together.
    pub(super) length: usize,
    /// Between two pieces.
    pub(super) interval: Duration,
}

/// What every request is made of.
#[derive(Debug)]
pub(super) struct Script {
    /// Both halves in FULL_DUPLEX_STREAMED: nothing waits for a reply.
    pub(super) duplex: bool,
    config: ProtocolConfiguration,
    pub(super) request: Half,
    /// `None`: the stream ends with the request.
    pub(super) response: Option<Half>,
    /// For the whole exchange.
    pub(super) deadline: Duration,
}

// === impl Script ===

impl Script {
    /// A chat completion whose prompt has `prompt` bytes, answered in `chunks` chunks with `interval` between them.
    pub(super) fn new(
        model: &str,
        prompt: usize,
        mode: BodyMode,
        chunks: u32,
        interval: Duration,
    ) -> Self {
        let duplex = mode == BodyMode::FullDuplex;
        let request_mode = match mode {
            BodyMode::FullDuplex => BodySendMode::FullDuplexStreamed,
            BodyMode::Buffered => BodySendMode::Buffered,
            BodyMode::Streamed => BodySendMode::Streamed,
        };
        let response_mode = match chunks {
            0 => BodySendMode::None,
            _ if duplex => BodySendMode::FullDuplexStreamed,
            _ => BodySendMode::Streamed,
        };
        let body = request_body(model, prompt, chunks > 0);
        let piece = if mode == BodyMode::Buffered {
            body.len()
        } else {
            PIECE
        };
        Self {
            duplex,
            config: ProtocolConfiguration {
                request_body_mode: request_mode.into(),
                response_body_mode: response_mode.into(),
                send_body_without_waiting_for_header_response: duplex,
            },
            request: Half::request(body, piece),
            response: (chunks > 0).then(|| Half::response(chunks, interval)),
            deadline: DEADLINE.saturating_add(interval.saturating_mul(chunks)),
        }
    }

    /// The first message of `half`; that of the request opens the stream, and has an id of its own.
    pub(super) fn headers(&self, half: &Half) -> ProcessingRequest {
        let mut headers = half.headers.clone();
        if half.side == Side::Request {
            let id = uuid::Uuid::new_v4().to_string();
            headers.push(header("x-request-id", &id));
        }
        let headers = HttpHeaders {
            headers: Some(HeaderMap { headers }),
            end_of_stream: false,
        };
        match half.side {
            Side::Request => ProcessingRequest {
                protocol_config: Some(self.config),
                ..message(Request::RequestHeaders(headers))
            },
            Side::Response => message(Request::ResponseHeaders(headers)),
        }
    }
}

// === impl Half ===

impl Half {
    fn request(body: Bytes, piece: usize) -> Self {
        let length = body.len();
        let mut headers: Vec<_> = [
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            (":scheme", "http"),
            (":authority", "inference.example.com"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
            ("user-agent", "pointsman-load"),
            ("x-forwarded-proto", "http"),
        ]
        .into_iter()
        .map(|(key, value)| header(key, value))
        .collect();
        headers.push(header("content-length", &length.to_string()));
        let mut rest = body;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(rest.split_to(rest.len().min(piece)));
        }
        Self {
            side: Side::Request,
            headers,
            pieces,
            length,
            interval: Duration::ZERO,
        }
    }

    fn response(chunks: u32, interval: Duration) -> Self {
        let chunk = Bytes::from(format!("{CHUNK}\n\n"));
        let pieces = vec![chunk; chunks as usize];
        Self {
            side: Side::Response,
            headers: vec![
                header(":status", "200"),
                header("content-type", "text/event-stream"),
            ],
            length: pieces.iter().map(Bytes::len).sum(),
            pieces,
            interval,
        }
    }

    /// The messages of the body.
    pub(super) fn body(&self) -> impl Iterator<Item = ProcessingRequest> {
        let count = self.pieces.len();
        self.pieces.iter().zip(1..).map(move |(piece, number)| {
            let body = HttpBody {
                body: piece.clone(),
                end_of_stream: number == count,
                ..Default::default()
            };
            message(match self.side {
                Side::Request => Request::RequestBody(body),
                Side::Response => Request::ResponseBody(body),
            })
        })
    }
}

fn request_body(model: &str, prompt: usize, stream: bool) -> Bytes {
    let text: String = "The quick brown fox jumps over the lazy dog. "
        .chars()
        .cycle()
        .take(prompt)
        .collect();
    let body = serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 100,
        "stream": stream,
    });
    Bytes::from(body.to_string())
}

fn header(key: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..Default::default()
    }
}
