//! What a server lists under `/v1/models`.

use serde::Deserialize;
use serde_json::error::Category;

use super::super::failure::Fault;

/// More models and adapters than one server has.
pub const MOST_MODELS: usize = 1024;
/// Bytes of a name; a longer one is no model that a client asks for.
const LONGEST_NAME: usize = 256;

/// What one endpoint lists as served. Bounded, whatever the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    /// The first [`MOST_MODELS`] of them, in the server's order.
    pub models: Box<[Model]>,
    /// How many it listed beyond that, or under a name that is none.
    pub omitted: usize,
    /// When it was read, in milliseconds of [`crate::pool::clock_ms`].
    pub read_at: u64,
}

/// A model that clients may ask a server for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// As requests name it.
    pub id: Box<str>,
    /// The model that it adapts: it is a LoRA adapter. `None`: a model of its own, or the server does not say.
    pub parent: Option<Box<str>>,
}

/// Only what is read; engines say much more.
#[derive(Deserialize)]
struct Page {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    parent: Option<String>,
}

// === impl ModelList ===

impl ModelList {
    /// Reads a list as OpenAI's API has it: `{"data": [{"id": …, "parent": …}]}`. A list that is empty, or has no usable
    /// name, is an error: a server that serves nothing is not up yet, or it is the wrong page. An error is one for the gauge
    /// and in words.
    pub fn parse(page: &[u8], now_ms: u64) -> Result<Self, (Fault, String)> {
        if page.trim_ascii().is_empty() {
            return Err((Fault::Empty, "the page is empty".to_owned()));
        }
        let page: Page = serde_json::from_slice(page).map_err(|error| {
            let fault = match error.classify() {
                // JSON, of something else.
                Category::Data => Fault::Missing,
                Category::Syntax | Category::Eof | Category::Io => Fault::Malformed,
            };
            (fault, format!("not a list of models: {error}"))
        })?;
        let listed = page.data.len();
        let is_name = |name: &str| !name.is_empty() && name.len() <= LONGEST_NAME;
        let models: Box<[Model]> = page
            .data
            .into_iter()
            .filter(|entry| is_name(&entry.id))
            .take(MOST_MODELS)
            .map(|entry| Model {
                // Some servers name a model as its own parent, or write none as an empty name.
                parent: entry
                    .parent
                    .filter(|parent| is_name(parent) && *parent != entry.id)
                    .map(Into::into),
                id: entry.id.into(),
            })
            .collect();
        if models.is_empty() {
            return Err((Fault::Missing, "no model is listed".to_owned()));
        }
        Ok(Self {
            omitted: listed - models.len(),
            models,
            read_at: now_ms,
        })
    }

    /// Names of LoRA adapters in it.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        let adapters = self.models.iter().filter(|model| model.parent.is_some());
        adapters.map(|model| &*model.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_adapters_of_known_engines() {
        let vllm = br#"{"object":"list","data":[
            {"id":"base","object":"model","created":1,"owned_by":"vllm","root":"/m","parent":null,"max_model_len":4096,"permission":[]},
            {"id":"sql","object":"model","root":"/l","parent":"base","permission":[]}]}"#;
        let list = ModelList::parse(vllm, 7).unwrap();
        let ids: Vec<&str> = list.models.iter().map(|model| &*model.id).collect();
        assert_eq!(
            (ids, list.omitted, list.read_at),
            (vec!["base", "sql"], 0, 7)
        );
        assert_eq!(list.adapters().collect::<Vec<_>>(), ["sql"]);
        let own = br#"{"data":[{"id":"m","parent":"m"},{"id":"n","parent":""}]}"#;
        assert_eq!(ModelList::parse(own, 1).unwrap().adapters().count(), 0);
    }

    #[test]
    fn what_is_no_list_is_told() {
        for (page, expected) in [
            ("", Fault::Empty),
            ("\n", Fault::Empty),
            ("vllm:num_requests_waiting 1", Fault::Malformed),
            ("<html>", Fault::Malformed),
            (r#"{"data":["#, Fault::Malformed),
            ("[]", Fault::Missing),
            (r#"{"data":{}}"#, Fault::Missing),
            (r#"{"models":[{"id":"m"}]}"#, Fault::Missing),
            (r#"{"data":[{"name":"m"}]}"#, Fault::Missing),
            (r#"{"data":[{"id":7}]}"#, Fault::Missing),
            (r#"{"data":[]}"#, Fault::Missing),
            (r#"{"data":[{"id":""}]}"#, Fault::Missing),
        ] {
            let (fault, text) = ModelList::parse(page.as_bytes(), 1).unwrap_err();
            assert_eq!(fault, expected, "{page}: {text}");
        }
    }

    #[test]
    fn a_list_of_any_length_is_bounded() {
        let entries: Vec<String> = (0..MOST_MODELS + 9)
            .map(|n| format!(r#"{{"id":"a{n}","parent":"m"}}"#))
            .chain([format!(r#"{{"id":"{}"}}"#, "x".repeat(LONGEST_NAME + 1))])
            .collect();
        let page = format!(r#"{{"data":[{}]}}"#, entries.join(","));
        let list = ModelList::parse(page.as_bytes(), 1).unwrap();
        assert_eq!((list.models.len(), list.omitted), (MOST_MODELS, 10));
    }
}
