//! API dialects: what a request asks for and what its response used, read from the bytes as they are.
//!
//! [`resolve`] says which API a path belongs to, [`inspect`] what its request asks for, [`ResponseScanner`]
//! what the response used. Where a model's name has to change, [`spliced_parts`] and [`ModelRewriter`] replace
//! its bytes and no other. Nothing here builds a tree or prints a document anew.

mod anthropic;
mod encoding;
mod envelope;
mod escape;
mod facts;
mod first_token;
mod json;
mod openai;
mod rewrite;
mod sglang;
mod splice;
mod stream;
#[cfg(test)]
mod tests;
mod usage;
mod vllm;

use std::ops::Range;

pub use encoding::decode;
pub use envelope::error_body;
pub use rewrite::ModelRewriter;
pub use splice::{inserted_parts, spliced_parts};
pub use usage::ResponseScanner;

/// Which API a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `…/chat/completions`
    ChatCompletions,
    /// `…/completions`
    Completions,
    /// `…/embeddings`
    Embeddings,
    /// `…/responses`
    Responses,
    /// `…/conversations`
    Conversations,
    /// `…/chat/completions/render`
    ChatCompletionsRender,
    /// `…/completions/render`
    CompletionsRender,
    /// `…/images/generations`
    ImagesGenerations,
    /// `…/messages` (Anthropic)
    Messages,
    /// `…/messages/count_tokens` (Anthropic)
    CountTokens,
    /// `…/inference/v1/generate` (vLLM)
    VllmGenerate,
    /// `…/generate` (SGLang)
    SglangGenerate,
    /// Anything else: routed on load, body not read.
    Passthrough,
}

/// Whose error envelope and usage fields an API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// vLLM's own.
    Vllm,
    /// SGLang's own.
    Sglang,
    /// Not known.
    Passthrough,
}

/// What one pass over a request body found. Ranges are into the (decoded) body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFacts {
    /// The model asked for, escapes resolved. An empty name is none.
    pub model: Option<String>,
    /// The value of the model field, quotes included: what [`spliced_parts`] replaces. It is there although
    /// `model` is `None` when the value is an empty string or no string: a model inserted beside it would not count.
    pub model_span: Option<Range<usize>>,
    /// `stream: true`.
    pub stream: bool,
    /// The limit on output tokens, whichever field of the dialect gives it.
    pub max_tokens: Option<u64>,
    /// An adapter named beside the model (SGLang `lora_path`); elsewhere the model's name is the adapter's.
    pub lora: Option<String>,
    /// The prompt, in order, as ranges of raw JSON: string contents without their quotes (escapes as they
    /// stand), or arrays of token ids. At most 65,536 of them, 1 MiB: the first ones.
    pub prompt: Vec<Range<usize>>,
    /// More of the prompt, which comes before this, is not in the body: the model server keeps it, or it is embeddings.
    pub continues: bool,
    /// Length of the whole prompt, in bytes of raw JSON: of all ranges, those that `prompt` has no room for included.
    pub prompt_bytes: usize,
    /// A message has an image, sound or a video: a content part with `image_url`, `audio_url`, `video_url` or
    /// `input_audio`.
    pub multimodal: bool,
    /// What messages hold beside text (images, sound, videos, files), in order, as ranges of raw JSON: whole values. At most
    /// 65,536 of them.
    pub attached: Vec<Range<usize>>,
    /// vLLM's `cache_salt`, SGLang's `extra_key`: requests that differ in it share no prefix cache.
    pub cache_salt: Option<String>,
}

/// Why a request body cannot be read. All are the client's fault: HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialectError(pub String);

/// Tokens, as the model server counted them. `None` = it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: Option<u64>,
    /// Tokens generated.
    pub output: Option<u64>,
    /// Prompt tokens that were in the prefix cache.
    pub cached: Option<u64>,
}

/// Why an encoded body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// `Content-Encoding` names something that we cannot read: route on load.
    #[error("content-encoding {0:?} is not supported")]
    Unsupported(String),
    /// The body is not what `Content-Encoding` says: HTTP 400.
    #[error("body is not valid {encoding}: {reason}")]
    Corrupt {
        /// The encoding.
        encoding: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// More plain bytes than the cap: HTTP 413.
    #[error("decoded body exceeds {0} bytes")]
    TooLarge(usize),
}

/// Path suffixes, longer before shorter.
const PATHS: [(&str, Api); 12] = [
    ("chat/completions/render", Api::ChatCompletionsRender),
    ("inference/v1/generate", Api::VllmGenerate),
    ("messages/count_tokens", Api::CountTokens),
    ("images/generations", Api::ImagesGenerations),
    ("completions/render", Api::CompletionsRender),
    ("chat/completions", Api::ChatCompletions),
    ("conversations", Api::Conversations),
    ("completions", Api::Completions),
    ("embeddings", Api::Embeddings),
    ("responses", Api::Responses),
    ("messages", Api::Messages),
    ("generate", Api::SglangGenerate),
];

/// The API that a path belongs to: the longest known suffix that starts at a path segment, query string and
/// trailing slashes aside.
pub fn resolve(path: &str) -> Api {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = path.trim_end_matches('/');
    let known = PATHS.iter().find(|(suffix, _)| {
        path.strip_suffix(suffix)
            .is_some_and(|before| before.is_empty() || before.ends_with('/'))
    });
    known.map_or(Api::Passthrough, |(_, api)| *api)
}

/// Reads a request body, decoded ([`decode`]) and whole, in one pass.
///
/// A body that is not JSON, or lacks what the API needs, is an error; a missing model is none, because a
/// rewrite may supply it. Of duplicate keys the last one counts, as in the model servers. A passthrough body
/// is not read, and a `count_tokens` body that cannot be read is left to the model server: default facts. A byte order
/// mark before the JSON is passed over.
pub fn inspect(api: Api, body: &[u8]) -> Result<RequestFacts, DialectError> {
    match api {
        Api::Passthrough => Ok(RequestFacts::default()),
        Api::CountTokens => Ok(facts::read(&anthropic::COUNT_TOKENS, body).unwrap_or_default()),
        Api::Messages => facts::read(&anthropic::MESSAGES, body),
        Api::VllmGenerate => facts::read(&vllm::GENERATE, body),
        Api::SglangGenerate => facts::read(&sglang::GENERATE, body),
        Api::ChatCompletions | Api::ChatCompletionsRender => facts::read(&openai::CHAT, body),
        Api::Completions | Api::CompletionsRender => facts::read(&openai::COMPLETIONS, body),
        Api::Embeddings => facts::read(&openai::EMBEDDINGS, body),
        Api::Responses => facts::read(&openai::RESPONSES, body),
        Api::Conversations => facts::read(&openai::CONVERSATIONS, body),
        Api::ImagesGenerations => facts::read(&openai::IMAGES, body),
    }
}

// === impl Api ===

impl Api {
    /// Whose API it is.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Embeddings
            | Self::Responses
            | Self::Conversations
            | Self::ChatCompletionsRender
            | Self::CompletionsRender
            | Self::ImagesGenerations => Dialect::OpenAi,
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::VllmGenerate => Dialect::Vllm,
            Self::SglangGenerate => Dialect::Sglang,
            Self::Passthrough => Dialect::Passthrough,
        }
    }
}
