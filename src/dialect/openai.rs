//! What OpenAI's requests look like.

use super::facts::{Read, Shape};

/// `…/chat/completions`, and `/render` beneath it.
pub(super) const CHAT: Shape = Shape {
    prompt: &[("messages", Read::Messages), ("tools", Read::Raw)],
    required: Some((
        "messages",
        "invalid chat completions request: must have valid messages field",
    )),
    max_tokens: &["max_completion_tokens", "max_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/completions`, and `/render` beneath it.
pub(super) const COMPLETIONS: Shape = Shape {
    prompt: &[("prompt", Read::Prompt)],
    required: Some((
        "prompt",
        "invalid completions request: must have prompt field",
    )),
    max_tokens: &["max_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/embeddings`.
pub(super) const EMBEDDINGS: Shape = Shape {
    prompt: &[("input", Read::Prompt)],
    required: Some(("input", "invalid embeddings request: must have input field")),
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/responses`.
pub(super) const RESPONSES: Shape = Shape {
    prompt: &[
        ("instructions", Read::Text),
        ("input", Read::Items),
        ("tools", Read::Raw),
    ],
    required: Some(("input", "invalid responses request: must have input field")),
    max_tokens: &["max_output_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/conversations`.
pub(super) const CONVERSATIONS: Shape = Shape {
    prompt: &[("items", Read::Items)],
    required: Some((
        "items",
        "invalid conversations request: must have items field",
    )),
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/images/generations`.
pub(super) const IMAGES: Shape = Shape {
    prompt: &[("prompt", Read::Text)],
    required: Some((
        "prompt",
        "invalid images generations request: must have prompt field",
    )),
    max_tokens: &[],
    sampled_max_tokens: None,
    lora: None,
};
