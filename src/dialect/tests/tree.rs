//! What a request asks for, read the slow way: the judge of `inspect`.

use serde_json::Value;

use crate::dialect::Api;

/// What `inspect` should find, from a tree: limit and prompt, or the lack of a needed field.
pub(super) struct Tree {
    pub(super) max_tokens: Option<u64>,
    /// Sorted.
    pub(super) prompt: Vec<String>,
    pub(super) usable: bool,
}

impl Tree {
    pub(super) fn of(api: Api, doc: &Value) -> Self {
        let mut prompt = Vec::new();
        let mut limits = vec![&doc["max_tokens"]];
        let usable = match api {
            Api::ChatCompletions | Api::ChatCompletionsRender => {
                limits.insert(0, &doc["max_completion_tokens"]);
                raw(&doc["tools"], &mut prompt);
                messages(&doc["messages"], &mut prompt)
            }
            Api::Completions | Api::CompletionsRender => {
                prompts(&doc["prompt"], &mut prompt) | elsewhere(&doc["prompt_embeds"])
            }
            Api::Embeddings => {
                limits.clear();
                prompts(&doc["input"], &mut prompt) | messages(&doc["messages"], &mut prompt)
            }
            Api::Responses => {
                limits.clear();
                string(&doc["instructions"], &mut prompt);
                raw(&doc["tools"], &mut prompt);
                string(&doc["input"], &mut prompt);
                messages(&doc["input"], &mut prompt);
                raw(&doc["prompt"], &mut prompt)
                    | !doc["input"].is_null()
                    | elsewhere(&doc["previous_response_id"])
                    | elsewhere(&doc["conversation"])
            }
            Api::Conversations => {
                limits.clear();
                string(&doc["items"], &mut prompt);
                messages(&doc["items"], &mut prompt);
                true
            }
            Api::ImagesGenerations => {
                limits.clear();
                string(&doc["prompt"], &mut prompt)
            }
            Api::Messages | Api::CountTokens => {
                content(&doc["system"], &mut prompt);
                raw(&doc["tools"], &mut prompt);
                messages(&doc["messages"], &mut prompt) || api == Api::CountTokens
            }
            Api::VllmGenerate => {
                limits = vec![&doc["sampling_params"]["max_tokens"]];
                let ids = &doc["token_ids"];
                let usable = ids.as_array().is_some_and(|ids| !ids.is_empty());
                prompt.extend(usable.then(|| ids.to_string()));
                usable
            }
            Api::SglangGenerate => {
                limits.clear();
                prompts(&doc["text"], &mut prompt);
                prompts(&doc["input_ids"], &mut prompt);
                true
            }
            Api::Passthrough => {
                limits.clear();
                true
            }
        };
        prompt.sort_unstable();
        let max_tokens = limits.into_iter().find_map(Value::as_u64);
        Self {
            max_tokens,
            prompt,
            usable,
        }
    }
}

fn string(value: &Value, to: &mut Vec<String>) -> bool {
    let text = value.as_str().filter(|text| !text.is_empty());
    to.extend(text.map(str::to_owned));
    text.is_some()
}

fn raw(value: &Value, to: &mut Vec<String>) -> bool {
    let some = value.is_string() || value.is_array() || value.is_object();
    to.extend(some.then(|| value.to_string()));
    some
}

fn elsewhere(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        other => other.is_object(),
    }
}

fn content(value: &Value, to: &mut Vec<String>) {
    string(value, to);
    let parts = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    for part in parts {
        if value.is_array() {
            string(part, to);
        }
        if part.is_object() {
            string(&part["text"], to);
            raw(&part["input"], to);
            content(&part["content"], to);
        }
    }
}

fn messages(value: &Value, to: &mut Vec<String>) -> bool {
    let Some(list) = value.as_array() else {
        return false;
    };
    for message in list {
        string(message, to);
        if message.is_object() {
            string(&message["role"], to);
            content(&message["content"], to);
            raw(&message["tool_calls"], to);
            string(&message["arguments"], to);
            content(&message["output"], to);
        }
    }
    !list.is_empty() && list.iter().all(Value::is_object)
}

fn prompts(value: &Value, to: &mut Vec<String>) -> bool {
    let Some(list) = value.as_array() else {
        return string(value, to);
    };
    match list.first() {
        None => return false,
        Some(Value::String(_) | Value::Array(_)) => {
            for one in list {
                string(one, to);
                to.extend(
                    one.as_array()
                        .filter(|ids| !ids.is_empty())
                        .map(|_| one.to_string()),
                );
            }
        }
        Some(_) => to.push(value.to_string()),
    }
    true
}
