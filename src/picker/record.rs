//! What a capture gets of a request: [`crate::telemetry::record`].
//!
//! Its blocks are always the same, whatever the configuration makes of prompts, so that a capture can be replayed under any.

use super::Picker;
use super::decide::{Question, Read, adapter};
use super::prompt::{is_prefilled, scope};
use crate::prefix::{Blocks, ChainHasher};
use crate::scheduling::input_tokens;
use crate::telemetry::record::{Asked, BLOCK_TOKENS, Recorded};

impl Picker {
    /// Puts the request into the capture, if there is one and the request is of the kind that is prefilled and decoded.
    pub(super) fn record(
        &self,
        question: &Question,
        model: &str,
        read: &Read,
        refused: bool,
    ) -> Option<Recorded> {
        let recorder = self.recorder.as_ref()?;
        if recorder.is_over() || !is_prefilled(question.api) {
            return None;
        }
        let facts = &read.facts;
        let tenant = self.tenant(question);
        let scope = scope(tenant, model, facts);
        let mut hasher = ChainHasher::new(&scope, Blocks::of_tokens(BLOCK_TOKENS));
        hasher.prompt(&read.plain, &facts.prompt, &facts.attached);
        let own = adapter(facts, model);
        let producers = &question.policy.scheduler.producers;
        recorder.asked(Asked {
            at: question.asked,
            tokens: input_tokens(facts.prompt_bytes),
            chain: hasher.finish(),
            max_tokens: facts.max_tokens,
            model,
            adapter: if own == model { "" } else { own },
            session: producers.session_of(&*question.headers).unwrap_or_default(),
            tenant: tenant.unwrap_or_default(),
            refused,
        })
    }
}
