//! What SGLang's own requests look like.

use super::facts::{Read, Shape};

/// `…/generate`. Nothing is required: a prompt may also come as embeddings.
pub(super) const GENERATE: Shape = Shape {
    prompt: &[("text", Read::Prompt), ("input_ids", Read::Prompt)],
    required: None,
    max_tokens: &[],
    sampled_max_tokens: Some("max_new_tokens"),
    lora: Some("lora_path"),
};
