//! `always-disagg-multimodal-decider`: requests with an image, sound or a video: a content part with `image_url`, `audio_url`,
//! `video_url` or `input_audio`. Source: the llm-d picker. For the encode stage.

use super::super::{Context, Decider};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Multimodal;

impl Decider for Multimodal {
    fn disaggregate(&self, cx: &Context<'_>, _decode: Option<u32>) -> bool {
        cx.request.multimodal
    }
}
