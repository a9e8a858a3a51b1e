//! Messages, as Anthropic's API answers them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::engine::{self, Generation};
use super::fields::Fields;
use super::reply::{self, Refused, event};
use super::server::Server;
use super::text::{Text, WORD};

pub(super) async fn messages(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let answer = answer(&server, &body).await;
    answer.unwrap_or_else(|refused| refused.anthropic())
}

/// How long the prompt is; nothing is generated.
pub(super) async fn count_tokens(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    match Prompt::read(&server, &body) {
        Ok(prompt) => Json(json!({"input_tokens": prompt.prompt.len()})).into_response(),
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
        let mut text = Text::default();
        for before in ["tools", "system"] {
            if let Some(before) = fields.raw(before) {
                text.system(before);
            }
        }
        text.chat(messages);
        Ok(Self {
            prompt: engine::Prompt::new(text.into_tokens(), None),
            adapter: server.find(&model)?,
            fields,
            model,
        })
    }
}

async fn answer(server: &Server, body: &[u8]) -> Result<Response, Refused> {
    let prompt = Prompt::read(server, body)?;
    let streams = prompt.fields.flag("stream")?;
    let limit = prompt.fields.required("max_tokens")?;
    let adapter = prompt.adapter.as_deref();
    let asked = prompt.prompt.streaming(streams);
    let generation = server.engine().start(asked, Some(limit), adapter)?;
    let block = server.engine().config().block_size;
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let model = prompt.model;
    if !streams {
        return reply::whole(generation, |generation| {
            let output = generation.tokens().1;
            let mut usage = usage(generation, block);
            usage["output_tokens"] = output.into();
            json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": WORD.repeat(output as usize)}], "stop_reason": stop_reason(generation), "stop_sequence": null, "usage": usage})
        })
        .await;
    }
    let first = move |generation: &Generation| {
        let mut usage = usage(generation, block);
        usage["output_tokens"] = 0.into();
        let message = json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
        event("message_start", json!({"message": message}))
            + &event(
                "content_block_start",
                json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
            )
    };
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
                    json!({"delta": {"stop_reason": stop_reason(generation), "stop_sequence": null}, "usage": {"output_tokens": output}}),
                )
                + &event("message_stop", json!({}))
        },
    ))
}

/// Of the prompt, once it was read. Anthropic's three numbers add up to it: what was found in the cache, what was written
/// there (the other full blocks), and the rest. Without a cache all of it is the rest, and there are no other two.
fn usage(generation: &Generation, block: u64) -> Value {
    let prompt = generation.tokens().0;
    let Some(read) = generation.cached_tokens().map(u64::from) else {
        return json!({"input_tokens": prompt});
    };
    let written = (prompt / block * block).saturating_sub(read);
    json!({
        "input_tokens": prompt - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    })
}

/// Anthropic has no word for an answer that its server ended.
fn stop_reason(generation: &Generation) -> &'static str {
    if generation.is_aborted() {
        "end_turn"
    } else {
        "max_tokens"
    }
}
