//! What OpenAI's requests look like.

use super::facts::{Read, Shape};

/// `…/chat/completions`, and `/render` beneath it.
pub(super) const CHAT: Shape = Shape {
    prompt: &[("messages", Read::Messages), ("tools", Read::Raw)],
    required: Some((
        &["messages"],
        "invalid chat completions request: must have valid messages field",
    )),
    max_tokens: &["max_completion_tokens", "max_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/completions`, and `/render` beneath it. vLLM takes embeddings instead of a prompt.
pub(super) const COMPLETIONS: Shape = Shape {
    prompt: &[("prompt", Read::Prompt), ("prompt_embeds", Read::Elsewhere)],
    required: Some((
        &["prompt", "prompt_embeds"],
        "invalid completions request: must have prompt field",
    )),
    max_tokens: &["max_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/embeddings`. vLLM embeds conversations too.
pub(super) const EMBEDDINGS: Shape = Shape {
    prompt: &[("input", Read::Prompt), ("messages", Read::Messages)],
    required: Some((
        &["input", "messages"],
        "invalid embeddings request: must have input field",
    )),
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/responses`. The prompt may also be a template (`prompt`) or what the server keeps of earlier requests.
pub(super) const RESPONSES: Shape = Shape {
    prompt: &[
        ("instructions", Read::Text),
        ("input", Read::Items),
        ("tools", Read::Raw),
        ("prompt", Read::Raw),
        ("previous_response_id", Read::Elsewhere),
        ("conversation", Read::Elsewhere),
    ],
    required: Some((
        &["input", "prompt", "previous_response_id", "conversation"],
        "invalid responses request: must have input field",
    )),
    max_tokens: &["max_output_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/conversations`. One may begin empty.
pub(super) const CONVERSATIONS: Shape = Shape {
    prompt: &[("items", Read::Items)],
    required: None,
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/images/generations`.
pub(super) const IMAGES: Shape = Shape {
    prompt: &[("prompt", Read::Text)],
    required: Some((
        &["prompt"],
        "invalid images generations request: must have prompt field",
    )),
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};
