//! Messages, as Anthropic's API answers them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::reply::{self, WORD};
use super::server::Server;

#[derive(Debug, Deserialize)]
struct Request<'a> {
    model: String,
    max_tokens: u64,
    #[serde(default)]
    stream: bool,
    #[serde(borrow)]
    messages: &'a RawValue,
}

pub(super) async fn messages(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let request: Request<'_> = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return reply::error(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                &error.to_string(),
            );
        }
    };
    let adapter = match server.find(&request.model) {
        Ok(adapter) => adapter,
        Err(message) => return reply::error(StatusCode::NOT_FOUND, "not_found_error", &message),
    };
    let prompt_tokens = reply::tokens(request.messages.get().len());
    let limit = request.max_tokens.max(1);
    let generation = server
        .engine()
        .start(prompt_tokens, limit, adapter.as_deref())
        .await;
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let model = request.model;
    if !request.stream {
        return reply::whole(generation, |generation| {
            let (input, output) = generation.tokens();
            json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": WORD.repeat(output as usize)}], "stop_reason": "max_tokens", "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": output}})
        })
        .await;
    }
    let message = json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": prompt_tokens, "output_tokens": 0}});
    let first = event("message_start", json!({"message": message}))
        + &event(
            "content_block_start",
            json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
        );
    reply::stream(
        first,
        generation,
        |_| {
            event(
                "content_block_delta",
                json!({"index": 0, "delta": {"type": "text_delta", "text": WORD}}),
            )
        },
        |generation| {
            let output = generation.tokens().1;
            event("content_block_stop", json!({"index": 0}))
                + &event(
                    "message_delta",
                    json!({"delta": {"stop_reason": "max_tokens", "stop_sequence": null}, "usage": {"output_tokens": output}}),
                )
                + &event("message_stop", json!({}))
        },
    )
}

fn event(kind: &str, mut data: Value) -> String {
    data["type"] = kind.into();
    format!("event: {kind}\ndata: {data}\n\n")
}
