//! Embeddings: the vectors mean nothing, their number and the time they take do.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::openai::{Prompt, Started};
use super::reply::{self, Refused};
use super::server::Server;
use super::text::{Read, Text};

/// Every text's.
const VECTOR: [f64; 8] = [0.5, -0.5, 0.25, -0.25, 0.5, -0.25, 0.25, -0.125];

pub(super) async fn embeddings(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let answer = answer(&server, &body).await;
    answer.unwrap_or_else(|refused| refused.openai())
}

/// The engine reads the prompt and generates one token, which it counts: there is no other way to occupy it.
async fn answer(server: &Server, body: &[u8]) -> Result<Response, Refused> {
    let any: [(&str, Read); 2] = [("input", Text::plain), ("messages", Text::chat)];
    let prompt = Prompt::read(server, body, &any)?;
    let texts = prompt.fields.raw("input").map_or(1, number_of_texts);
    let Started { generation, model } = prompt.start(server, Some(1))?;
    reply::whole(generation, |generation| {
        let tokens = generation.tokens().0;
        let data: Vec<_> = (0..texts)
            .map(|index| json!({"object": "embedding", "index": index, "embedding": VECTOR}))
            .collect();
        json!({"id": format!("embd-{}", uuid::Uuid::new_v4().simple()), "object": "list", "created": reply::now(), "model": model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    })
    .await
}

/// A list of texts or of lists of tokens has many; a text or one list of tokens is one.
fn number_of_texts(input: &RawValue) -> usize {
    let list: Result<Vec<&RawValue>, _> = serde_json::from_str(input.get());
    let list = list.unwrap_or_default();
    let is_text = |one: &&RawValue| one.get().starts_with(['"', '[']);
    if list.first().is_some_and(is_text) {
        list.len()
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted() {
        for (input, texts) in [
            (r#""a""#, 1),
            (r#"["a","b"]"#, 2),
            ("[1,2,3]", 1),
            ("[[1],[2,3]]", 2),
            ("[]", 1),
        ] {
            let input: &RawValue = serde_json::from_str(input).unwrap();
            assert_eq!(number_of_texts(input), texts, "{input}");
        }
    }
}
