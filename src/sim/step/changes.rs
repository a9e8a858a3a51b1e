//! What becomes of the prefix cache, for those who want to be told.

use std::ops::Range;
use std::sync::Arc;

use super::keys::{Chain, Origin};

/// What becomes of what can be hit. Hashes are names with all that precedes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockChange {
    /// Blocks that follow one another can be hit from now on.
    Stored {
        /// The hash of the block before them.
        parent: Option<u64>,
        /// Theirs.
        hashes: Vec<u64>,
        /// Which blocks of their request they are.
        blocks: Range<u32>,
        /// What is in them.
        origin: Arc<Origin>,
    },
    /// They cannot any more; the last one was the first to go.
    Removed {
        /// Theirs.
        hashes: Vec<u64>,
    },
    /// No block can.
    Cleared,
}

/// Changes that have not been asked for; `None` where nobody asks.
#[derive(Debug, Default)]
pub(super) struct Log(Option<Vec<BlockChange>>);

// === impl Log ===

impl Log {
    /// From now on changes are kept.
    pub(super) fn begin(&mut self) {
        self.0.get_or_insert_default();
    }

    /// Those since the last call, in their order.
    pub(super) fn take(&mut self) -> Vec<BlockChange> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn stored(&mut self, chain: &Chain, blocks: Range<u32>) {
        if let (Some(changes), Some(origin)) = (&mut self.0, chain.keys.origin()) {
            let parent = blocks.start.checked_sub(1).map(|at| chain.block(at));
            changes.push(BlockChange::Stored {
                parent,
                hashes: blocks.clone().map(|at| chain.block(at)).collect(),
                blocks,
                origin: Arc::clone(origin),
            });
        }
    }

    pub(super) fn removed(&mut self, chain: &Chain, blocks: Range<u32>) {
        if let Some(changes) = &mut self.0 {
            let hashes = blocks.rev().map(|at| chain.block(at)).collect();
            changes.push(BlockChange::Removed { hashes });
        }
    }

    pub(super) fn cleared(&mut self) {
        if let Some(changes) = &mut self.0 {
            changes.push(BlockChange::Cleared);
        }
    }
}
