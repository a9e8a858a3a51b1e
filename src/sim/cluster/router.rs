//! Who says where requests go.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The names of a prompt's blocks, of [`Chain::BLOCK`] tokens each: equal only where two prompts are equal up to there.
#[derive(Clone, Debug, Default)]
pub struct Chain(pub Arc<[u64]>);

/// A request, as far as a router sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number.
    pub id: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The most that it lets the engine generate, if it says so.
    pub max_tokens: Option<u32>,
    /// Its prompt.
    pub chain: Chain,
    /// The LoRA adapter it is for.
    pub adapter: Option<u32>,
}

/// An engine's page, as far as routers read it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Page {
    /// Requests in the queue.
    pub waiting: u32,
    /// Requests running.
    pub running: u32,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: f32,
    /// KV cache blocks.
    pub kv_blocks: u32,
    /// Tokens in one.
    pub block_size: u32,
}

/// Why a request was turned away.
pub type Refused = &'static str;

/// Says where requests go, and is told what becomes of them. Times are seconds, and never go back.
pub trait Router {
    /// Where a request goes that is there `now`.
    fn pick(&mut self, asked: &Asked, now: f64) -> Result<u32, Refused>;

    /// The first token of a request came by.
    fn first_token(&mut self, id: u64, now: f64);

    /// A request has ended; so many of its prompt's tokens were cached.
    fn ended(&mut self, id: u64, cached_tokens: u32, now: f64);

    /// A request failed, by the engine's fault or because its client gave up waiting.
    fn failed(&mut self, id: u64, fault: bool, now: f64);

    /// A scrape of an engine begins.
    fn scrape_begins(&mut self, endpoint: u32, now: f64) {
        let _ = (endpoint, now);
    }

    /// It ended: what the page read when it began.
    fn scraped(&mut self, endpoint: u32, page: Page, now: f64);
}

// === impl Chain ===

impl Chain {
    /// Tokens in a block.
    pub const BLOCK: u32 = 64;

    /// Of `keys` that each stand for `each` tokens, for a prompt of so many tokens: full blocks only.
    pub fn of(keys: &[u64], each: u32, prompt_tokens: u32) -> Self {
        let blocks = prompt_tokens / Self::BLOCK;
        let (mut taken, mut chained) = (0, 0u64);
        let names = (0..blocks).map_while(|block| {
            // A block is named by all keys up to the one that has its last token; where one key has several blocks, the
            // place within it tells them apart.
            let last = (block + 1) * Self::BLOCK - 1;
            let wanted = (last / each) as usize;
            if wanted >= keys.len() {
                return None;
            }
            for key in keys.get(taken..=wanted).unwrap_or_default() {
                chained = xxh3_64_with_seed(&key.to_le_bytes(), chained);
            }
            taken = wanted + 1;
            Some(xxh3_64_with_seed(&(last % each).to_le_bytes(), chained))
        });
        Self(names.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_equal_as_far_as_their_keys_are() {
        let of = |keys: &[u64], each, tokens| Chain::of(keys, each, tokens).0.to_vec();
        // Mooncake: 512 tokens a key.
        let (a, b) = (of(&[1, 2], 512, 1024), of(&[1, 3], 512, 1024));
        assert_eq!((a.len(), &a[..8]), (16, &b[..8]));
        assert!(a[8..].iter().zip(&b[8..]).all(|(a, b)| a != b));
        // All names differ.
        let mut sorted = a.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 16);
        // 16 tokens a key: each fourth names a block.
        let keys: Vec<u64> = (10..30).collect();
        assert_eq!(of(&keys, 16, 320).len(), 5);
        assert_eq!(of(&keys, 16, 319).len(), 4);
        let mut other = keys.clone();
        other[7] = 99;
        let (a, b) = (of(&keys, 16, 320), of(&other, 16, 320));
        assert_eq!(a[0], b[0]);
        assert_ne!(a[1], b[1]);
        // Fewer keys than tokens.
        assert_eq!(of(&[1], 512, 2048).len(), 8);
    }
}
