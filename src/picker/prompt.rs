//! What endpoints have cached of a request's prompt: looked up before the decision, remembered after it.
//!
//! The prompt becomes a chain of block hashes ([`crate::prefix`]). What an endpoint holds of it is weighed by how far such
//! predictions came true there, and that is what plugins see. An endpoint that is sent the prompt is taken to hold it at
//! once: the next request with the same beginning must see that, long before any metric could show it. The response then
//! says how much was cached indeed.
//!
//! Where a gateway goes elsewhere because the picked endpoint failed it, that endpoint stays credited with a prompt that it
//! never got, and the one that served is not: to set it right takes the chain, which has up to 50 KB and is gone with the
//! decision. The breaker counts the failure, the prediction is not held against the server that did not make it, and what is
//! wrong in the index costs trust as soon as it is relied on, and ages out like the rest.

use bytes::Bytes;

use crate::dialect::{Api, RequestFacts};
use crate::pool::Snapshot;
use crate::prefix::chain::TOKEN_BYTES;
use crate::prefix::{Blocks, ChainHasher, Prediction, PrefixCache, Scope, Who};
use crate::scheduling::{ApproxPrefix, PrefixView};

/// A prompt as the index knows it.
#[derive(Debug)]
pub struct Prompt {
    chain: Vec<u64>,
    blocks: Blocks,
    /// Of all of it, in blocks.
    length: f32,
}

/// What a worker keeps from one look-up to the next. All but the first are by position.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_number: Vec<u32>,
    blocks: Vec<u32>,
    tokens: Vec<u32>,
    total: u32,
}

// === impl Prompt ===

impl Prompt {
    /// A prompt that is known by its chain alone, cut into `blocks`; `length` is all of it, in blocks.
    pub fn of_chain(chain: Vec<u64>, blocks: Blocks, length: f32) -> Option<Self> {
        (!chain.is_empty()).then_some(Self {
            chain,
            blocks,
            length,
        })
    }

    /// `None`: there is nothing in it that could be cached.
    pub(super) fn of(
        approx: &ApproxPrefix,
        snapshot: &Snapshot,
        scope: &Scope<'_>,
        body: &[Bytes],
        facts: &RequestFacts,
    ) -> Option<Self> {
        let blocks = approx.blocks(snapshot);
        let mut hasher = ChainHasher::new(scope, blocks);
        hasher.prompt(body, &facts.prompt, &facts.attached);
        let block_bytes = (blocks.tokens() * TOKEN_BYTES) as f32;
        let rest = hasher.rest() as f32 / block_bytes;
        let chain = hasher.finish();
        // What is attached is a block of its own, whatever its size in bytes.
        let length = match facts.attached.is_empty() {
            true => facts.prompt_bytes as f32 / block_bytes,
            false => chain.len() as f32 + rest,
        };
        Self::of_chain(chain, blocks, length)
    }

    /// The endpoint at `position`, which holds `blocks` of it so far, is sent it.
    pub(super) fn sent(
        &self,
        cache: &PrefixCache,
        approx: &ApproxPrefix,
        snapshot: &Snapshot,
        position: u32,
        blocks: u32,
    ) -> Prediction {
        let who = who(snapshot, position);
        let capacity = approx.capacity(self.blocks, snapshot, position);
        cache.sent(who, &self.chain, capacity);
        Prediction {
            who,
            share: (blocks as f32 / self.length).min(1.0),
        }
    }

    /// What its last block is known by, and with it all that comes before.
    pub(super) fn last(&self) -> u64 {
        self.chain.last().copied().unwrap_or_default()
    }

    /// Bytes of prompt in so many blocks of it, and blocks in all.
    pub(super) fn hit(&self, blocks: u32) -> (f64, f64) {
        let bytes = blocks as usize * self.blocks.tokens() * TOKEN_BYTES;
        (bytes as f64, f64::from(blocks) / self.chain.len() as f64)
    }
}

// === impl Held ===

impl Held {
    /// Looks up who holds what of `prompt`; without one, nothing is known.
    pub(super) fn look_up(
        &mut self,
        cache: &PrefixCache,
        snapshot: &Snapshot,
        prompt: Option<&Prompt>,
    ) {
        self.blocks.clear();
        self.tokens.clear();
        self.total = 0;
        let Some(prompt) = prompt else { return };
        let endpoints = (snapshot.numbers(), snapshot.lives());
        cache.matched(
            &prompt.chain,
            endpoints,
            &mut self.by_number,
            &mut self.blocks,
        );
        let tokens = prompt.blocks.tokens() as u32;
        self.total = prompt.chain.len() as u32 * tokens;
        let believed = (0u32..).zip(&self.blocks).map(|(position, &blocks)| {
            if blocks == 0 {
                return 0;
            }
            let trust = cache.trust(who(snapshot, position));
            ((blocks * tokens) as f32 * trust).round() as u32
        });
        self.tokens.extend(believed);
    }

    /// As plugins see it.
    pub(super) fn view(&self) -> PrefixView<'_> {
        PrefixView {
            matched_tokens: &self.tokens,
            total_tokens: self.total,
        }
    }

    /// Blocks that the endpoint at `position` holds.
    pub(super) fn blocks(&self, position: u32) -> u32 {
        self.blocks.get(position as usize).copied().unwrap_or(0)
    }
}

/// Whose cache a prompt may be in: the tenant and the request's own salt keep requests apart.
pub(super) fn scope<'a>(
    tenant: Option<&'a str>,
    model: &'a str,
    facts: &'a RequestFacts,
) -> Scope<'a> {
    Scope {
        tenant: tenant.unwrap_or_default(),
        model,
        adapter: facts.lora.as_deref().unwrap_or_default(),
        cache_salt: facts.cache_salt.as_deref().unwrap_or_default(),
    }
}

/// The others leave nothing in a server's prefix cache.
pub(super) fn is_prefilled(api: Api) -> bool {
    matches!(
        api,
        Api::ChatCompletions
            | Api::Completions
            | Api::Responses
            | Api::Messages
            | Api::VllmGenerate
            | Api::SglangGenerate
    )
}

fn who(snapshot: &Snapshot, position: u32) -> Who {
    let at = position as usize;
    Who {
        number: snapshot.numbers()[at],
        life: snapshot.lives()[at],
    }
}
