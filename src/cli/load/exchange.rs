//! One request through the picker, message by message as Envoy sends them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::Channel;

use super::BodyMode;
use crate::proto::envoy::config::core::v3::{HeaderMap, HeaderValue};
use crate::proto::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use crate::proto::ext_proc::body_mutation::Mutation;
use crate::proto::ext_proc::external_processor_client::ExternalProcessorClient;
use crate::proto::ext_proc::processing_request::Request;
use crate::proto::ext_proc::processing_response::Response;
use crate::proto::ext_proc::{
    CommonResponse, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration,
};

/// Envoy's pieces of a streamed body.
const PIECE: usize = 64 << 10;
const DESTINATION: &str = "x-gateway-destination-endpoint";
/// A picker that has not answered by then has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// What every request is made of.
#[derive(Debug)]
pub(super) struct Script {
    mode: BodyMode,
    response_chunks: u32,
    headers: Vec<HeaderValue>,
    pieces: Vec<Bytes>,
    length: usize,
    response_headers: HeaderMap,
    response_chunk: Bytes,
}

/// How an exchange ended: when it was due, and how long the decision took.
pub(super) type Ended = (Instant, Result<Duration, &'static str>);

/// What came back of the request, so far.
#[derive(Default)]
struct Seen {
    destination: bool,
    bytes: usize,
    ended: bool,
}

// === impl Script ===

impl Script {
    pub(super) fn new(model: &str, prompt: usize, mode: BodyMode, response_chunks: u32) -> Self {
        let text: String = "The quick brown fox jumps over the lazy dog. "
            .chars()
            .cycle()
            .take(prompt)
            .collect();
        let body = serde_json::json!({
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 100,
            "stream": response_chunks > 0,
        });
        let body = Bytes::from(body.to_string());
        let length = body.len();
        let piece = if mode == BodyMode::Buffered {
            usize::MAX
        } else {
            PIECE
        };
        let mut rest = body;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(rest.split_to(rest.len().min(piece)));
        }
        let headers = [
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            (":scheme", "http"),
            (":authority", "inference.example.com"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
            ("user-agent", "pointsman-load"),
            ("x-forwarded-proto", "http"),
        ];
        let chunk = r#"data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#;
        let mut headers: Vec<_> = headers.into_iter().map(|(k, v)| header(k, v)).collect();
        headers.push(header("content-length", &length.to_string()));
        Self {
            mode,
            response_chunks,
            headers,
            pieces,
            length,
            response_headers: HeaderMap {
                headers: vec![
                    header(":status", "200"),
                    header("content-type", "text/event-stream"),
                ],
            },
            response_chunk: Bytes::from(format!("{chunk}\n\n")),
        }
    }

    fn first(&self) -> ProcessingRequest {
        let mut headers = self.headers.clone();
        let id = uuid::Uuid::new_v4().to_string();
        headers.push(header("x-request-id", &id));
        let mode = match self.mode {
            BodyMode::FullDuplex => BodySendMode::FullDuplexStreamed,
            BodyMode::Buffered => BodySendMode::Buffered,
            BodyMode::Streamed => BodySendMode::Streamed,
        };
        let response_mode = match self.response_chunks {
            0 => BodySendMode::None,
            _ if self.mode == BodyMode::FullDuplex => BodySendMode::FullDuplexStreamed,
            _ => BodySendMode::Streamed,
        };
        ProcessingRequest {
            request: Some(Request::RequestHeaders(HttpHeaders {
                headers: Some(HeaderMap { headers }),
                end_of_stream: false,
            })),
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: mode.into(),
                response_body_mode: response_mode.into(),
                send_body_without_waiting_for_header_response: self.mode == BodyMode::FullDuplex,
            }),
            ..Default::default()
        }
    }
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

fn body(body: Bytes, end_of_stream: bool) -> HttpBody {
    HttpBody {
        body,
        end_of_stream,
        ..Default::default()
    }
}

/// Runs one exchange; the latency of the decision runs from `due`.
pub(super) async fn run(channel: Channel, script: Arc<Script>, due: Instant) -> Ended {
    let result = tokio::time::timeout(DEADLINE, exchange(channel, &script, due)).await;
    (due, result.unwrap_or(Err("no answer in 30 s")))
}

async fn exchange(
    channel: Channel,
    script: &Script,
    due: Instant,
) -> Result<Duration, &'static str> {
    let mut client = ExternalProcessorClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let (sender, mut receiver) = mpsc::channel(8);
    let send = async |request| {
        sender
            .send(request)
            .await
            .map_err(|_| "the stream was closed")
    };
    send(script.first()).await?;
    let outbound = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut inbound = client
        .process(outbound)
        .await
        .map_err(|_| "the stream could not be opened")?
        .into_inner();
    let mut seen = Seen::default();
    let mut decided = None;
    if script.mode != BodyMode::FullDuplex {
        seen.take(next(&mut inbound).await?)?;
        decided = seen.destination.then(|| due.elapsed());
    }
    let last = script.pieces.len() - 1;
    for (at, piece) in script.pieces.iter().enumerate() {
        send(message(Request::RequestBody(body(
            piece.clone(),
            at == last,
        ))))
        .await?;
        if script.mode != BodyMode::FullDuplex {
            seen.take(next(&mut inbound).await?)?;
        }
    }
    if script.mode == BodyMode::FullDuplex {
        while !seen.ended {
            seen.take(next(&mut inbound).await?)?;
            if seen.destination && decided.is_none() {
                decided = Some(due.elapsed());
            }
        }
        if seen.bytes != script.length {
            return Err("the body came back with another length");
        }
    }
    if !seen.destination {
        return Err("no destination came");
    }
    let latency = decided.unwrap_or_else(|| due.elapsed());
    if script.response_chunks > 0 {
        respond(script, &sender, &mut inbound).await?;
    }
    drop(sender);
    match inbound.message().await {
        Ok(None) => Ok(latency),
        Ok(Some(_)) => Err("a message too many came"),
        Err(_) => Err("the stream did not end well"),
    }
}

async fn respond(
    script: &Script,
    sender: &mpsc::Sender<ProcessingRequest>,
    inbound: &mut Streaming<ProcessingResponse>,
) -> Result<(), &'static str> {
    let closed = |_| "the stream was closed";
    let headers = HttpHeaders {
        headers: Some(script.response_headers.clone()),
        end_of_stream: false,
    };
    sender
        .send(message(Request::ResponseHeaders(headers)))
        .await
        .map_err(closed)?;
    next(inbound).await?;
    for number in 1..=script.response_chunks {
        let end = number == script.response_chunks;
        let chunk = body(script.response_chunk.clone(), end);
        sender
            .send(message(Request::ResponseBody(chunk)))
            .await
            .map_err(closed)?;
        // One reply each: these chunks are far smaller than what a reply holds.
        next(inbound).await?;
    }
    Ok(())
}

async fn next(
    inbound: &mut Streaming<ProcessingResponse>,
) -> Result<ProcessingResponse, &'static str> {
    match inbound.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("the stream was closed early"),
        Err(_) => Err("the stream failed"),
    }
}

// === impl Seen ===

impl Seen {
    fn take(&mut self, reply: ProcessingResponse) -> Result<(), &'static str> {
        let common = match reply.response {
            Some(Response::RequestHeaders(headers)) => headers.response,
            Some(Response::RequestBody(body)) => body.response,
            Some(Response::ImmediateResponse(_)) => return Err("immediate response"),
            _ => return Err("a reply of an unexpected kind came"),
        };
        let CommonResponse {
            header_mutation,
            body_mutation,
            ..
        } = common.unwrap_or_default();
        let set = header_mutation
            .map(|mutation| mutation.set_headers)
            .unwrap_or_default();
        let is_destination = |key: &str| key == DESTINATION;
        self.destination |= set.iter().any(|option| {
            option
                .header
                .as_ref()
                .is_some_and(|h| is_destination(&h.key))
        });
        if let Some(Mutation::StreamedResponse(piece)) = body_mutation.and_then(|b| b.mutation) {
            self.bytes += piece.body.len();
            self.ended |= piece.end_of_stream;
        }
        Ok(())
    }
}
