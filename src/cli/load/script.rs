//! What is sent: the messages of one request and of its response, as Envoy words them.

use std::sync::atomic::{AtomicU64, Ordering};
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
/// What stands before the prompt in a body.
const PROMPT: &str = r#""content":""#;
/// Digits at the beginning of a prompt that tell it from others.
pub(super) const DIGITS: usize = 8;
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
    /// Which prompts are sent, if they differ.
    prompts: Option<Prompts>,
}

/// Prompts that differ from their first bytes on, taken in turns.
#[derive(Debug)]
struct Prompts {
    /// Where the prompt begins in the first piece.
    at: usize,
    many: u64,
    next: AtomicU64,
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

    /// The same with `many` different prompts in turns. They must have [`DIGITS`] bytes at least.
    pub(super) fn with_prompts(mut self, many: u64) -> Self {
        let prompt = |piece: &Bytes| memchr::memmem::find(piece, PROMPT.as_bytes());
        let at = self.request.pieces.first().and_then(prompt);
        self.request.prompts = at.filter(|_| many > 1).map(|at| Prompts {
            at: at + PROMPT.len(),
            many,
            next: AtomicU64::new(0),
        });
        self
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
            prompts: None,
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
            prompts: None,
        }
    }

    /// The messages of the body.
    pub(super) fn body(&self) -> impl Iterator<Item = ProcessingRequest> {
        let count = self.pieces.len();
        let first = self.prompts.as_ref().zip(self.pieces.first());
        let mut first = first.map(|(prompts, piece)| prompts.next(piece));
        self.pieces.iter().zip(1..).map(move |(piece, number)| {
            let body = HttpBody {
                body: first.take().unwrap_or_else(|| piece.clone()),
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

// === impl Prompts ===

impl Prompts {
    /// `piece` with the next prompt in it.
    fn next(&self, piece: &Bytes) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.many;
        let digits = format!("{number:0DIGITS$}");
        let mut piece = piece.to_vec();
        let end = piece.len().min(self.at + DIGITS);
        piece[self.at..end].copy_from_slice(&digits.as_bytes()[..end - self.at]);
        piece.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_in_turns_and_are_of_one_length() {
        let script = Script::new("m", 70_000, BodyMode::FullDuplex, 0, Duration::ZERO);
        let script = script.with_prompts(3);
        let bodies = [(); 4].map(|()| {
            let messages = script.request.body();
            let pieces = messages.filter_map(|message| match message.request {
                Some(Request::RequestBody(body)) => Some(body.body),
                _ => None,
            });
            pieces.collect::<Vec<_>>().concat()
        });
        for (n, body) in bodies.iter().enumerate() {
            assert_eq!(body.len(), script.request.length);
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            let text = body["messages"][0]["content"].as_str().unwrap();
            assert!(text.starts_with(&format!("{:08}k brown fox", n % 3)));
        }
    }
}
