//! What Anthropic's requests look like.

use super::facts::{Read, Shape};

/// `…/messages`.
pub(super) const MESSAGES: Shape = Shape {
    prompt: &[
        ("system", Read::Content),
        ("messages", Read::Messages),
        ("tools", Read::Raw),
    ],
    required: Some((
        &["messages"],
        "invalid messages request: must have valid messages field",
    )),
    max_tokens: &["max_tokens"],
    sampled_max_tokens: None,
    lora: None,
};

/// `…/messages/count_tokens`: the model server alone judges it.
pub(super) const COUNT_TOKENS: Shape = Shape {
    required: None,
    ..MESSAGES
};
