//! Tests of the whole room, and the generators that its files' own tests share.

mod media;
mod requests;
mod responses;
mod tree;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::{Api, resolve};

/// A JSON document that may have duplicate keys and keys written with escapes.
#[derive(Clone, Debug)]
enum Doc {
    Leaf(String),
    List(Vec<Doc>),
    Object(Vec<(String, bool, Doc)>),
}

/// All field names that mean something somewhere, and one that does not.
const KEYS: [&str; 25] = [
    "model",
    "stream",
    "messages",
    "messages",
    "role",
    "content",
    "content",
    "text",
    "tools",
    "tool_calls",
    "input",
    "prompt",
    "prompt_embeds",
    "previous_response_id",
    "conversation",
    "instructions",
    "items",
    "output",
    "max_tokens",
    "max_completion_tokens",
    "sampling_params",
    "token_ids",
    "input_ids",
    "lora_path",
    "other",
];

impl Doc {
    fn print(&self, to: &mut String, space: &str) {
        match self {
            Doc::Leaf(text) => to.push_str(text),
            Doc::List(items) => {
                to.push('[');
                for (n, item) in items.iter().enumerate() {
                    to.push_str(if n > 0 { "," } else { "" });
                    to.push_str(space);
                    item.print(to, space);
                }
                to.push_str(space);
                to.push(']');
            }
            Doc::Object(members) => {
                to.push('{');
                for (n, (key, escape, value)) in members.iter().enumerate() {
                    to.push_str(if n > 0 { "," } else { "" });
                    to.push_str(space);
                    if *escape {
                        let escaped: String = key.bytes().map(|b| format!("\\u{b:04X}")).collect();
                        to.push_str(&format!("\"{escaped}\""));
                    } else {
                        to.push_str(&format!("\"{key}\""));
                    }
                    to.push_str(space);
                    to.push(':');
                    to.push_str(space);
                    value.print(to, space);
                }
                to.push('}');
                to.push_str(space);
            }
        }
    }
}

fn members(value: impl Strategy<Value = Doc>) -> impl Strategy<Value = Doc> {
    let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
    let member = (key, prop::bool::weighted(0.1), value);
    prop::collection::vec(member, 0..7).prop_map(Doc::Object)
}

fn doc() -> impl Strategy<Value = Doc> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<u32>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| Value::from(n).to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        r#"[a-c]|\\n|\\"|\\ud83d\\ude00|é"#.prop_map(|text| format!("\"{text}\"")),
    ]
    .prop_map(Doc::Leaf);
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Doc::List),
            prop::collection::vec(members(inner.clone()), 0..4).prop_map(Doc::List),
            members(inner),
        ]
    })
}

/// The text of a JSON object, in many spellings.
pub(super) fn document_text() -> impl Strategy<Value = String> {
    let space = prop::sample::select(&["", " ", "\r\n\t"][..]);
    (members(doc()), space).prop_map(|(doc, space)| {
        let mut text = String::new();
        doc.print(&mut text, space);
        text
    })
}

/// A JSON object.
pub(super) fn document() -> impl Strategy<Value = Value> {
    document_text().prop_map(|text| serde_json::from_str(&text).unwrap())
}

/// `bytes` cut at the given places, each counted from the one before.
pub(super) fn split(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut parts = Vec::new();
    for cut in cuts {
        parts.push(rest.split_to((*cut).min(rest.len())));
    }
    parts.push(rest);
    parts
}

#[test]
fn paths() {
    for (path, api) in [
        ("/v1/chat/completions", Api::ChatCompletions),
        (
            "/v1/chat/completions/?api-version=1/embeddings",
            Api::ChatCompletions,
        ),
        (
            "/openai/deployments/x/chat/completions//",
            Api::ChatCompletions,
        ),
        ("/v1/completions", Api::Completions),
        ("completions", Api::Completions),
        ("/v1/embeddings", Api::Embeddings),
        ("/v1/responses", Api::Responses),
        ("/v1/conversations", Api::Conversations),
        ("/v1/chat/completions/render", Api::ChatCompletionsRender),
        ("/v1/completions/render", Api::CompletionsRender),
        ("/v1/images/generations", Api::ImagesGenerations),
        ("/v1/messages", Api::Messages),
        ("/v1/messages/count_tokens", Api::CountTokens),
        ("/inference/v1/generate", Api::VllmGenerate),
        ("/generate", Api::SglangGenerate),
        ("/v1/generate", Api::SglangGenerate),
        ("/v1/regenerate", Api::Passthrough),
        ("/v1/mycompletions", Api::Passthrough),
        ("/v1/models", Api::Passthrough),
        ("/v1/responses/resp_1", Api::Passthrough),
        ("/v1/audio/transcriptions", Api::Passthrough),
        ("/vllm.grpc.engine.VllmEngine/Generate", Api::Passthrough),
        ("/?x=/v1/completions", Api::Passthrough),
        ("/", Api::Passthrough),
        ("", Api::Passthrough),
    ] {
        assert_eq!(resolve(path), api, "{path}");
    }
}
