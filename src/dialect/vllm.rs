//! What vLLM's own requests look like.

use super::facts::{Read, Shape};

/// `…/inference/v1/generate`.
pub(super) const GENERATE: Shape = Shape {
    prompt: &[("token_ids", Read::Tokens)],
    required: Some((
        &["token_ids"],
        "invalid generate request: must have non-empty token_ids field",
    )),
    max_tokens: &[],
    sampled_max_tokens: Some("max_tokens"),
    lora: None,
};
