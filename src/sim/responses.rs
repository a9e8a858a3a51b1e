//! Responses, as OpenAI's API answers them: the events that carry text, model and usage, and no others.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::engine::Generation;
use super::openai::{Prompt, Started};
use super::reply::{self, Refused, event};
use super::server::Server;
use super::text::{Read, Text, WORD};

pub(super) async fn responses(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let answer = answer(&server, &body).await;
    answer.unwrap_or_else(|refused| refused.openai())
}

async fn answer(server: &Server, body: &[u8]) -> Result<Response, Refused> {
    let any: [(&str, Read); 2] = [("input", Text::chat), ("prompt", Text::chat)];
    let prompt = Prompt::read(server, body, &any)?;
    let streams = prompt.fields.flag("stream")?;
    let limit = prompt.fields.get("max_output_tokens")?;
    let Started { generation, model } = prompt.start(server, limit)?;
    let id = format!("resp_{}", uuid::Uuid::new_v4().simple());
    let head = json!({"id": id, "object": "response", "created_at": reply::now(), "model": model, "output": [], "status": "in_progress"});
    if !streams {
        return reply::whole(generation, |generation| completed(&head, generation)).await;
    }
    let first = event("response.created", json!({"response": head}));
    let token = event(
        "response.output_text.delta",
        json!({"output_index": 0, "content_index": 0, "delta": WORD}),
    );
    Ok(reply::stream(
        move |_| first.clone(),
        generation,
        [token.clone(), token],
        move |generation| {
            let response = completed(&head, generation);
            event("response.completed", json!({"response": response}))
        },
    ))
}

fn completed(head: &Value, generation: &Generation) -> Value {
    let (input, output) = generation.tokens();
    let text = WORD.repeat(output as usize);
    let mut response = head.clone();
    response["status"] = "completed".into();
    response["output"] = json!([{"type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]}]);
    let mut usage =
        json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    if let Some(cached) = generation.cached_tokens() {
        usage["input_tokens_details"] = json!({"cached_tokens": cached});
    }
    response["usage"] = usage;
    response
}
