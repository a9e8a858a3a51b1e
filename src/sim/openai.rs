//! Chat completions, completions and models, as vLLM answers them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::engine::Generation;
use super::reply::{self, WORD};
use super::server::Server;

#[derive(Debug, Deserialize)]
struct Request<'a> {
    model: Option<String>,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// What tells one API from the other.
#[derive(Clone, Copy)]
struct Shape {
    id: &'static str,
    object: &'static str,
    chunk: &'static str,
    choice: fn(&str, Option<&str>) -> Value,
    delta: fn(&str, Option<&str>) -> Value,
}

const CHAT: Shape = Shape {
    id: "chatcmpl-",
    object: "chat.completion",
    chunk: "chat.completion.chunk",
    choice: |text, finish| json!({"index": 0, "message": {"role": "assistant", "content": text, "tool_calls": []}, "logprobs": null, "finish_reason": finish}),
    delta: |text, finish| json!({"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": finish}),
};

const TEXT: Shape = Shape {
    id: "cmpl-",
    object: "text_completion",
    chunk: "text_completion",
    choice: |text, finish| json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null}),
    delta: |text, finish| json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null}),
};

pub(super) async fn chat_completions(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    answer(&server, &body, CHAT).await
}

pub(super) async fn completions(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    answer(&server, &body, TEXT).await
}

pub(super) async fn models(State(server): State<Arc<Server>>) -> Response {
    let entry = |id: &str, parent: Option<&str>| json!({"id": id, "object": "model", "created": reply::now(), "owned_by": "vllm", "root": id, "parent": parent, "max_model_len": 131_072});
    let base = server.model();
    let mut data = vec![entry(base, None)];
    data.extend(
        server
            .adapters()
            .iter()
            .map(|adapter| entry(adapter, Some(base))),
    );
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn answer(server: &Server, body: &[u8], shape: Shape) -> Response {
    let bad = |message: &str| reply::error(StatusCode::BAD_REQUEST, "BadRequestError", message);
    let request: Request<'_> = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return bad(&error.to_string()),
    };
    let Some(prompt) = request.messages.or(request.prompt) else {
        return bad("messages or prompt is missing");
    };
    let model = request.model.unwrap_or_else(|| server.model().to_owned());
    let adapter = match server.find(&model) {
        Ok(adapter) => adapter,
        Err(message) => return reply::error(StatusCode::NOT_FOUND, "NotFoundError", &message),
    };
    let limit = request
        .max_completion_tokens
        .or(request.max_tokens)
        .unwrap_or(server.default_tokens())
        .max(1);
    let prompt_tokens = reply::tokens(prompt.get().len());
    let generation = server
        .engine()
        .start(prompt_tokens, limit, adapter.as_deref())
        .await;
    let id = format!("{}{}", shape.id, uuid::Uuid::new_v4().simple());
    let created = reply::now();
    if !request.stream {
        return reply::whole(generation, |generation| {
            let text = WORD.repeat(generation.tokens().1 as usize);
            json!({"id": id, "object": shape.object, "created": created, "model": model, "choices": [(shape.choice)(&text, Some("length"))], "usage": usage(generation)})
        })
        .await;
    }
    let include_usage = request.stream_options.unwrap_or_default().include_usage;
    let head = json!({"id": id, "object": shape.chunk, "created": created, "model": model});
    let event = move |choices: Value, usage: Option<Value>| {
        let mut chunk = head.clone();
        chunk["choices"] = choices;
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let first = match shape.object {
        "chat.completion" => event(
            json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]),
            None,
        ),
        _ => String::new(),
    };
    let of_token = event.clone();
    reply::stream(
        first,
        generation,
        move |generation| {
            let finish = generation.is_done().then_some("length");
            of_token(json!([(shape.delta)(WORD, finish)]), None)
        },
        move |generation| {
            let usage = include_usage.then(|| event(json!([]), Some(usage(generation))));
            format!("{}data: [DONE]\n\n", usage.unwrap_or_default())
        },
    )
}

fn usage(generation: &Generation) -> Value {
    let (prompt, generated) = generation.tokens();
    json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated, "prompt_tokens_details": {"cached_tokens": 0}})
}
