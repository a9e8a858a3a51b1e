//! What the prefix benches run on: chats in groups that share a system prompt, each kept by some endpoints.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Chats, each as the chain of its blocks.
pub(crate) struct Traffic {
    /// One chain a chat.
    pub(crate) chains: Vec<Vec<u64>>,
    /// The endpoints that hold each.
    pub(crate) holders: Vec<Vec<u32>>,
}

/// How much traffic.
pub(crate) struct Amount {
    /// Chats.
    pub(crate) chats: u64,
    /// Blocks in each.
    pub(crate) blocks: u64,
    /// Blocks that the chats of a group have in common, from the first.
    pub(crate) shared: u64,
    /// Chats in a group.
    pub(crate) group: u64,
    /// Endpoints.
    pub(crate) endpoints: u32,
    /// Endpoints that hold each chat.
    pub(crate) copies: u32,
}

/// 2.06 M endpoint-blocks over 64 endpoints.
pub(crate) const MANY_CHATS: Amount = Amount {
    chats: 2_300,
    blocks: 512,
    shared: 128,
    group: 50,
    endpoints: 64,
    copies: 2,
};

/// Prompts of 6,250 blocks (100k tokens in blocks of 16) over 1,000 endpoints, ten on each; 6,000 blocks are shared.
pub(crate) const LONG_PROMPTS: Amount = Amount {
    chats: 20,
    blocks: 6_250,
    shared: 6_000,
    group: 20,
    endpoints: 1_000,
    copies: 500,
};

/// A chain of `blocks` blocks after `chain`, of content that only `name` has.
pub(crate) fn continued(mut chain: Vec<u64>, name: u64, blocks: u64) -> Vec<u64> {
    for block in 0..blocks {
        let last = chain.last().copied().unwrap_or_default();
        let content = [name.to_le_bytes(), block.to_le_bytes()].concat();
        chain.push(xxh3_64_with_seed(&content, last));
    }
    chain
}

#[allow(dead_code, reason = "each bench uses its part")]
impl Traffic {
    /// Traffic of the given amount; always the same.
    pub(crate) fn new(amount: &Amount) -> Self {
        let chat = |chat: u64| {
            let system = continued(Vec::new(), 1 << 32 | (chat / amount.group), amount.shared);
            continued(system, chat, amount.blocks - amount.shared)
        };
        let holders = |chat: u64| {
            let first = xxh3_64_with_seed(&chat.to_le_bytes(), 7) as u32 % amount.endpoints;
            let apart = amount.endpoints / amount.copies;
            (0..amount.copies)
                .map(|copy| (first + copy * apart) % amount.endpoints)
                .collect()
        };
        Self {
            chains: (0..amount.chats).map(chat).collect(),
            holders: (0..amount.chats).map(holders).collect(),
        }
    }

    /// The chats in an order that the caches do not know.
    pub(crate) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let chats = self.chains.len();
        (0_u64..).map(move |at| xxh3_64_with_seed(&at.to_le_bytes(), 3) as usize % chats)
    }
}
