//! The index: which endpoint holds which blocks of which chains.

use std::sync::Arc;

use parking_lot::Mutex;

use super::heads::{Heads, Runs};
use super::writer::Writer;

/// Blocks that an endpoint holds unless it says otherwise (the reference's default).
pub const DEFAULT_CAPACITY: u32 = 31_250;

/// Memory that an index takes at most unless it is said otherwise, in bytes: room for 100 endpoints that are full of long prompts.
pub const DEFAULT_BUDGET: usize = 64 << 20;

/// Endpoint numbers are below: what is kept per number stays small, whatever comes in.
pub const MAX_ENDPOINTS: u32 = 1 << 16;

/// Which endpoints hold which blocks.
///
/// What it promises, literally (and [`super::reference::Model`] does it literally):
/// - An endpoint holds a block from when a chain with it was inserted until it is evicted. Inserting a chain uses all its blocks.
/// - An endpoint's match is the length of the longest prefix of the chain of which it holds every block.
/// - The block to evict is the one that was used longest ago; of those that one insert used, the deepest. So a block goes
///   before the blocks that it stands on, and what an endpoint holds has no holes.
///
/// A chain's hashes must be chained, as [`super::ChainHasher`] makes them: equal hashes mean equal prefixes.
///
/// Readers take no lock and never wait: they see each run as it was at one moment. Writers wait for each other.
pub struct PrefixIndex {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    budget: usize,
}

/// What readers see.
pub(super) struct Shared {
    pub(super) heads: Heads,
    pub(super) runs: Runs,
}

/// How large the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Memory, in bytes.
    pub bytes: usize,
    /// Blocks held, counted for each endpoint that holds them.
    pub blocks: u64,
    /// Runs: stretches of chains.
    pub runs: usize,
    /// Blocks evicted so far, for whatever reason.
    pub evicted: u64,
}

/// What is evicted before others may have the lock: spans of an endpoint, or blocks of all.
const BATCH: u32 = 256;

// === impl PrefixIndex ===

impl PrefixIndex {
    /// An index of at most `budget` bytes (but never less than its empty tables need, 10 KB or so).
    pub fn new(budget: usize) -> Self {
        let shared = Arc::new(Shared {
            heads: Heads::new(),
            runs: Runs::new(),
        });
        Self {
            writer: Mutex::new(Writer::new(Arc::clone(&shared))),
            shared,
            budget,
        }
    }

    /// For each endpoint number below `out.len()`: how many blocks of `chain`, from its first, it holds. Overwrites all of
    /// `out`.
    pub fn match_into(&self, chain: &[u64], out: &mut [u32]) {
        out.fill(0);
        let heads = self.shared.heads.load();
        let mut at = 0;
        while let Some(&head) = chain.get(at) {
            let Some((_, run)) = heads.find(head, at, &self.shared.runs) else {
                return;
            };
            let Some(run) = run.as_ref() else { return };
            let matched = run.matched(&chain[at..]);
            if !run.score(at as u32, matched as u32, out) {
                return;
            }
            at += matched;
        }
    }

    /// The endpoint is about to hold `chain`, and holds at most `capacity` blocks. What no longer fits is evicted: first of
    /// the endpoint, then, over the byte budget, of all. A number of [`MAX_ENDPOINTS`] or more is passed over.
    pub fn insert(&self, endpoint: u32, chain: &[u64], capacity: u32) {
        if endpoint >= MAX_ENDPOINTS {
            return;
        }
        let chain = &chain[..chain.len().min(capacity as usize)];
        let mut writer = self.writer.lock();
        writer.insert(endpoint, chain);
        writer.truncate(endpoint, capacity, u32::MAX);
        while writer.bytes() > self.budget && writer.evict(BATCH) > 0 {}
    }

    /// The endpoint holds at most `blocks` blocks.
    pub fn truncate(&self, endpoint: u32, blocks: u32) {
        while self.writer.lock().truncate(endpoint, blocks, BATCH) {}
    }

    /// The endpoint is gone, or restarted: it holds nothing.
    pub fn forget(&self, endpoint: u32) {
        self.truncate(endpoint, 0);
    }

    /// Evicts `blocks` blocks, whoever holds them. Returns how many there were to evict.
    pub fn evict(&self, blocks: u64) -> u64 {
        let mut left = blocks;
        while left > 0 {
            let most = u32::try_from(left).unwrap_or(u32::MAX).min(BATCH);
            let gone = self.writer.lock().evict(most);
            if gone == 0 {
                break;
            }
            left -= u64::from(gone);
        }
        blocks - left
    }

    /// Blocks that an endpoint holds.
    pub fn blocks_of(&self, endpoint: u32) -> u32 {
        self.writer.lock().blocks_of(endpoint)
    }

    /// How large the index is now.
    pub fn size(&self) -> Size {
        self.writer.lock().size()
    }

    /// Panics if what is kept twice does not agree.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.writer.lock().check();
    }
}
