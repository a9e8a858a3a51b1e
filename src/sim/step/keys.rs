//! Names of KV cache blocks.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// The names of a prompt's blocks, chained: two prompts have the same key at a place only if all names up to it are the
/// same. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    chain: Arc<[u64]>,
    /// Blocks that one key stands for.
    each: u32,
    /// Blocks that have a name. Those of the answer have none as a rule, and are then the request's own.
    blocks: u32,
    origin: Option<Arc<Origin>>,
}

/// What names stand for: for those who are told which blocks the cache has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Of the prompt.
    pub tokens: Vec<u32>,
    /// Every token of the answer.
    pub answer: u32,
    /// The LoRA adapter.
    pub adapter: Option<String>,
    /// What else keeps it apart from the same tokens.
    pub salt: Option<String>,
}

/// 2⁶⁴ over the golden ratio, to keep small numbers away from 0.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The blocks of one request: named ones first, then its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    pub(super) keys: Keys,
    /// What tells the own blocks of one request from another's.
    pub(super) own: u64,
}

/// For keys of hash maps that are hashes already, or small numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix(u64);

pub(super) type BuildMix = BuildHasherDefault<Mix>;

// === impl Keys ===

impl Keys {
    /// Each of `names` stands for `each` blocks (at least 1); of all these, the first `blocks` exist. Mooncake's
    /// `hash_ids` name 32 blocks of 16 tokens each.
    pub fn new(names: impl IntoIterator<Item = u64>, each: u32, blocks: u32) -> Self {
        let each = each.max(1);
        let mut key = u64::from(each);
        let chained = names.into_iter().map(|name| {
            key = scramble(key.rotate_left(1) ^ scramble(name.wrapping_add(GOLDEN)));
            key
        });
        let chain: Arc<[u64]> = chained.collect();
        let named = (chain.len() as u64).saturating_mul(u64::from(each));
        Self {
            blocks: u64::from(blocks).min(named) as u32,
            chain,
            each,
            origin: None,
        }
    }

    /// The same, with what they stand for.
    pub fn with_origin(self, origin: Arc<Origin>) -> Self {
        Self {
            origin: Some(origin),
            ..self
        }
    }

    pub(super) fn origin(&self) -> Option<&Arc<Origin>> {
        self.origin.as_ref()
    }

    /// How many blocks have a name.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The name of a block; `at < blocks`.
    fn block(&self, at: u32) -> u64 {
        let key = self.chain[(at / self.each) as usize];
        match at % self.each {
            0 => key,
            within => mixed(key, within),
        }
    }
}

// === impl Origin ===

impl Origin {
    /// The token at that place.
    pub fn token(&self, at: usize) -> u32 {
        self.tokens.get(at).copied().unwrap_or(self.answer)
    }
}

// === impl Chain ===

impl Chain {
    /// For the cache to keep: it lives longer than its request, and needs the names alone.
    pub(super) fn bare(&self) -> Self {
        let mut bare = self.clone();
        bare.keys.origin = None;
        bare
    }

    pub(super) fn block(&self, at: u32) -> u64 {
        if at < self.keys.blocks {
            self.keys.block(at)
        } else {
            mixed(self.own.wrapping_mul(GOLDEN), at)
        }
    }

    /// How many blocks of `start..start + len` both have; the first one is known to be the same.
    pub(super) fn common(&self, other: &Self, start: u32, len: u32) -> u32 {
        if self.keys.blocks <= start || other.keys.blocks <= start {
            return if self.own == other.own { len } else { 1 };
        }
        let len = len
            .min(self.keys.blocks - start)
            .min(other.keys.blocks - start);
        if Arc::ptr_eq(&self.keys.chain, &other.keys.chain) {
            return len;
        }
        // Keys are chains: where one differs, all that follow do.
        let (mut same, mut differ) = (1, len + 1);
        if self.keys.block(start + len - 1) == other.keys.block(start + len - 1) {
            return len;
        }
        while differ - same > 1 {
            let middle = same.midpoint(differ);
            if self.keys.block(start + middle - 1) == other.keys.block(start + middle - 1) {
                same = middle;
            } else {
                differ = middle;
            }
        }
        same
    }
}

fn mixed(key: u64, at: u32) -> u64 {
    scramble(key ^ scramble(u64::from(at) + 1))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

// === impl Mix ===

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = scramble(self.0 ^ key);
    }
}
