//! Chat completions, completions and models, as vLLM answers them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::engine::{self, Generation};
use super::fields::Fields;
use super::reply::{self, Refused};
use super::server::Server;
use super::text::{Read, Text, WORD};

/// What all requests have.
pub(super) struct Prompt<'a> {
    pub(super) fields: Fields<'a>,
    pub(super) model: String,
    adapter: Option<String>,
    tokens: Vec<u32>,
}

/// A request that is queued.
pub(super) struct Started {
    pub(super) generation: Generation,
    pub(super) model: String,
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
    let answer = answer(&server, &body, CHAT).await;
    answer.unwrap_or_else(|refused| refused.openai())
}

pub(super) async fn completions(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let answer = answer(&server, &body, TEXT).await;
    answer.unwrap_or_else(|refused| refused.openai())
}

pub(super) async fn models(State(server): State<Arc<Server>>) -> Response {
    let longest = server.engine().config().longest();
    let entry = |id: &str, parent: Option<&str>| json!({"id": id, "object": "model", "created": reply::now(), "owned_by": "vllm", "root": id, "parent": parent, "max_model_len": longest});
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

async fn answer(server: &Server, body: &[u8], shape: Shape) -> Result<Response, Refused> {
    let any: [(&str, Read); 2] = [("messages", Text::chat), ("prompt", Text::plain)];
    let prompt = Prompt::read(server, body, &any)?;
    let streams = prompt.fields.flag("stream")?;
    let limit = prompt.fields.get("max_completion_tokens")?;
    let limit = limit.or(prompt.fields.get("max_tokens")?);
    let options = prompt.fields.raw("stream_options");
    let include_usage = match options {
        Some(options) => Fields::read(options.get().as_bytes())?.flag("include_usage")?,
        None => false,
    };
    let Started { generation, model } = prompt.start(server, limit)?;
    let id = format!("{}{}", shape.id, uuid::Uuid::new_v4().simple());
    let created = reply::now();
    if !streams {
        return reply::whole(generation, |generation| {
            let text = WORD.repeat(generation.tokens().1 as usize);
            json!({"id": id, "object": shape.object, "created": created, "model": model, "choices": [(shape.choice)(&text, Some(generation.finish()))], "usage": usage(generation)})
        })
        .await;
    }
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
    let token = |text, finish| event(json!([(shape.delta)(text, finish)]), None);
    let tokens = [token(WORD, None), token(WORD, Some("length"))];
    let aborted = token("", Some("abort"));
    Ok(reply::stream(
        move |_| first.clone(),
        generation,
        tokens,
        move |generation| {
            let aborted = generation.is_aborted().then_some(&*aborted);
            let usage = include_usage.then(|| event(json!([]), Some(usage(generation))));
            let (aborted, usage) = (aborted.unwrap_or_default(), usage.unwrap_or_default());
            format!("{aborted}{usage}data: [DONE]\n\n")
        },
    ))
}

/// The details are those of vLLM's `--enable-prompt-tokens-details`. Without a prefix cache there are none: "0 cached" would be
/// an answer to whoever predicts what is cached.
fn usage(generation: &Generation) -> Value {
    let (prompt, generated) = generation.tokens();
    let mut usage = json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated});
    if let Some(cached) = generation.cached_tokens() {
        usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
    }
    usage
}

// === impl Prompt ===

impl<'a> Prompt<'a> {
    /// Reads a body whose prompt is in one of the fields `any`; the first that is there counts.
    pub(super) fn read(
        server: &Server,
        body: &'a [u8],
        any: &[(&str, Read)],
    ) -> Result<Self, Refused> {
        let fields = Fields::read(body)?;
        let found = any
            .iter()
            .find_map(|(name, read)| Some((read, fields.raw(name)?)));
        let Some((read, prompt)) = found else {
            let names: Vec<_> = any.iter().map(|(name, _)| *name).collect();
            return Err(Refused::Bad(format!("{} is missing", names.join(" or "))));
        };
        let mut text = Text::default();
        for before in ["tools", "instructions"] {
            if let Some(before) = fields.raw(before) {
                text.system(before);
            }
        }
        read(&mut text, prompt);
        let model: Option<String> = fields.get("model")?;
        let model = model.unwrap_or_else(|| server.model().to_owned());
        Ok(Self {
            tokens: text.into_tokens(),
            adapter: server.find(&model)?,
            fields,
            model,
        })
    }

    /// Queues it.
    pub(super) fn start(self, server: &Server, limit: Option<u64>) -> Result<Started, Refused> {
        let salt: Option<String> = self.fields.get("cache_salt")?;
        let streams = self.fields.flag("stream")?;
        let prompt = engine::Prompt::new(self.tokens, salt).streaming(streams);
        let adapter = self.adapter.as_deref();
        Ok(Started {
            generation: server.engine().start(prompt, limit, adapter)?,
            model: self.model,
        })
    }
}
