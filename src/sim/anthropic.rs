//! Messages, as Anthropic's API answers them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::engine;
use super::fields::Fields;
use super::reply::{self, Refused, WORD, event};
use super::server::Server;

pub(super) async fn messages(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let answer = answer(&server, &body).await;
    answer.unwrap_or_else(|refused| refused.anthropic())
}

/// How long the prompt is; nothing is generated.
pub(super) async fn count_tokens(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    match Prompt::read(&server, &body) {
        Ok(prompt) => Json(json!({"input_tokens": prompt.prompt.tokens})).into_response(),
        Err(refused) => refused.anthropic(),
    }
}

/// What both have in common.
struct Prompt<'a> {
    fields: Fields<'a>,
    model: String,
    adapter: Option<String>,
    prompt: engine::Prompt,
}

impl<'a> Prompt<'a> {
    fn read(server: &Server, body: &'a [u8]) -> Result<Self, Refused> {
        let fields = Fields::read(body)?;
        let model: String = fields.required("model")?;
        let messages: &RawValue = fields.required("messages")?;
        let adapter = server.find(&model)?;
        let scope = [adapter.as_deref().unwrap_or_default(), ""];
        let size = server.engine().config().block_size;
        Ok(Self {
            prompt: engine::Prompt::new(messages.get().as_bytes(), &scope, size),
            adapter,
            fields,
            model,
        })
    }
}

async fn answer(server: &Server, body: &[u8]) -> Result<Response, Refused> {
    let prompt = Prompt::read(server, body)?;
    let streams = prompt.fields.flag("stream")?;
    let limit = prompt.fields.required("max_tokens")?;
    let prompt_tokens = prompt.prompt.tokens;
    let generation =
        server
            .engine()
            .start(prompt.prompt, Some(limit), prompt.adapter.as_deref())?;
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let model = prompt.model;
    if !streams {
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
    let token = event(
        "content_block_delta",
        json!({"index": 0, "delta": {"type": "text_delta", "text": WORD}}),
    );
    Ok(reply::stream(
        first,
        generation,
        [token.clone(), token],
        |generation| {
            let output = generation.tokens().1;
            event("content_block_stop", json!({"index": 0}))
                + &event(
                    "message_delta",
                    json!({"delta": {"stop_reason": "max_tokens", "stop_sequence": null}, "usage": {"output_tokens": output}}),
                )
                + &event("message_stop", json!({}))
        },
    ))
}
