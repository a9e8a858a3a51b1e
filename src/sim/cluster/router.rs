//! Who says where requests go.

use std::sync::Arc;

use super::sights::GpuReading;
use crate::sim::step::LoraUse;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Requests in the queue.
    pub waiting: u32,
    /// Requests running.
    pub running: u32,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: f32,
    /// Its counters of tokens, together.
    pub progress: f64,
    /// KV cache blocks.
    pub kv_blocks: u32,
    /// Tokens in one.
    pub block_size: u32,
    /// Its adapters; `None`: it has no LoRA.
    pub loras: Option<Box<LoraUse>>,
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

    /// Whether it looks at each token, and at its endpoints from time to time: [`Router::tokens`] and [`Router::tick`] are
    /// for those who do.
    fn watches(&self) -> bool {
        false
    }

    /// A token after the first of each of these requests came by.
    fn tokens(&mut self, ids: &[u64], now: f64) {
        let _ = (ids, now);
    }

    /// Time to look at the endpoints.
    fn tick(&mut self, now: f64) {
        let _ = now;
    }

    /// Whether it is told of GPUs: [`Router::gpu`] and [`Router::xid`].
    fn sees_gpus(&self) -> bool {
        false
    }

    /// An agent read the GPU of an engine.
    fn gpu(&mut self, endpoint: u32, reading: &GpuReading, now: f64) {
        let _ = (endpoint, reading, now);
    }

    /// The driver of an engine's GPU told of an XID.
    fn xid(&mut self, endpoint: u32, xid: u64, now: f64) {
        let _ = (endpoint, xid, now);
    }
}

// === impl Chain ===

impl Chain {
    /// Tokens in a block.
    pub const BLOCK: u32 = 64;
}
