//! API dialects: what a request asks for and what its response used, read from the bytes as they are.

use std::ops::Range;

use bytes::Bytes;

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
    /// The model asked for, escapes resolved.
    pub model: Option<String>,
    /// The JSON string of the model, quotes included: what [`splice_model`] replaces.
    pub model_span: Option<Range<usize>>,
    /// `stream: true`.
    pub stream: bool,
    /// The limit on output tokens, whichever field of the dialect gives it.
    pub max_tokens: Option<u64>,
    /// An adapter named beside the model (SGLang `lora_path`); elsewhere the model's name is the adapter's.
    pub lora: Option<String>,
    /// The prompt, in order, as ranges of raw JSON: string contents without their quotes (escapes as they
    /// stand), or arrays of token ids.
    pub prompt: Vec<Range<usize>>,
    /// Sum of the lengths of `prompt`, in bytes.
    pub prompt_bytes: usize,
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
    /// Input and output.
    pub total: Option<u64>,
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
