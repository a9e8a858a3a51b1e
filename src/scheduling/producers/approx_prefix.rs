//! `approx-prefix-cache-producer`: how much of a prompt each endpoint has in its prefix cache, by what was sent there.
//!
//! It says how the index in [`crate::prefix`] is used; the index itself outlives a reload of the configuration. Parameters:
//!
//! - `autoTune` (true): blocks of the engine's own size, as the first endpoint that tells one has it, but at least 64
//!   tokens; and each endpoint holds as many as its engine's KV cache has. What engines do not tell is taken from the two
//!   parameters below.
//! - `blockSizeTokens` (16), `lruCapacityPerServer` (31250 blocks): without `autoTune`, or for want of what engines tell. A
//!   token is four bytes of prompt.
//! - `maxPrefixTokensToMatch` (131072), and if that is 0 `maxPrefixBlocksToMatch` (2048): what is longer is not looked at.
//!
//! Capacity is counted in blocks of the size that is indexed: the llm-d picker, whose producer this is, takes the engine's
//! number of blocks for a number of its own, larger blocks **[bug]**. It is added where a plugin needs it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::config::{PluginUse, Problem};
use crate::pool::Snapshot;
use crate::prefix::Blocks;
use crate::prefix::chain::{DEFAULT_BLOCK_TOKENS, MAX_PREFIX_TOKENS};
use crate::telemetry::metrics::{Metrics, PrefixHits};

/// See the module.
#[derive(Clone, Debug)]
pub struct ApproxPrefix {
    /// Its name in the configuration.
    pub name: Arc<str>,
    params: Params,
    hits: OnceLock<PrefixHits>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    auto_tune: bool,
    block_size_tokens: usize,
    max_prefix_tokens_to_match: usize,
    max_prefix_blocks_to_match: usize,
    lru_capacity_per_server: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            auto_tune: true,
            block_size_tokens: 16,
            max_prefix_tokens_to_match: MAX_PREFIX_TOKENS,
            max_prefix_blocks_to_match: 2048,
            lru_capacity_per_server: crate::prefix::DEFAULT_CAPACITY,
        }
    }
}

// === impl ApproxPrefix ===

impl ApproxPrefix {
    pub(super) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let problem = |field: &str, message: &str| plugin.parameters.field_problem(field, message);
        if !(1..=MAX_PREFIX_TOKENS).contains(&params.block_size_tokens) {
            let message = format!("is not from 1 to {MAX_PREFIX_TOKENS}");
            return Err(problem("blockSizeTokens", &message));
        }
        if params.lru_capacity_per_server == 0 {
            return Err(problem(
                "lruCapacityPerServer",
                "is 0: nothing would be remembered",
            ));
        }
        if params
            .max_prefix_tokens_to_match
            .max(params.max_prefix_blocks_to_match)
            == 0
        {
            let message = "is 0, and so is maxPrefixBlocksToMatch: nothing would match";
            return Err(problem("maxPrefixTokensToMatch", message));
        }
        Ok(Self {
            name: plugin.name.as_str().into(),
            params,
            hits: OnceLock::new(),
        })
    }

    /// Its series, looked up once.
    pub fn hits(&self, metrics: &Metrics) -> &PrefixHits {
        let of_name = || metrics.prefix_hits(&self.name, "approx-prefix-cache-producer");
        self.hits.get_or_init(of_name)
    }

    /// How prompts for `snapshot` are cut.
    pub fn blocks(&self, snapshot: &Snapshot) -> Blocks {
        let mut tokens = self.params.block_size_tokens;
        if self.params.auto_tune {
            let sizes = (0..snapshot.len() as u32).map(|position| {
                let (segment, i) = snapshot.cell(position);
                segment.block_size[i].load(Ordering::Relaxed) as usize
            });
            let told = sizes.into_iter().find(|&size| size > 0);
            tokens = told.unwrap_or(tokens).max(DEFAULT_BLOCK_TOKENS);
        }
        let blocks = Blocks::of_tokens(tokens);
        match self.params.max_prefix_tokens_to_match {
            0 => blocks.at_most(self.params.max_prefix_blocks_to_match),
            most => blocks.at_most(most / blocks.tokens()),
        }
    }

    /// How many of `blocks` the endpoint at `position` holds at most.
    pub fn capacity(&self, blocks: Blocks, snapshot: &Snapshot, position: u32) -> u32 {
        let (segment, i) = snapshot.cell(position);
        let told = self.params.auto_tune.then(|| {
            let (count, size) = (&segment.kv_blocks[i], &segment.block_size[i]);
            blocks.capacity(count.load(Ordering::Relaxed), size.load(Ordering::Relaxed))
        });
        told.flatten()
            .unwrap_or(self.params.lru_capacity_per_server)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{producer, snapshot};
    use super::*;
    use crate::pool::slab::Scrape;

    fn of(parameters: &str) -> Result<ApproxPrefix, Problem> {
        ApproxPrefix::of(&producer("approx-prefix-cache-producer", parameters))
    }

    #[test]
    fn blocks_and_capacities() {
        let silent = snapshot(2);
        let telling = snapshot(2);
        let page = Scrape {
            block_size: Some(128),
            kv_blocks: Some(1_000),
            ..Default::default()
        };
        telling.member(1).slot.record(&page, 0, 1);
        let small = snapshot(1);
        let page = Scrape {
            block_size: Some(16),
            ..page
        };
        small.member(0).slot.record(&page, 0, 1);
        for (parameters, snapshot, tokens, most, capacity) in [
            ("{}", &silent, 64, 2048, 31_250),
            // The second tells the size, and its own number.
            ("{}", &telling, 128, 1024, 1_000),
            // 1,000 blocks of 16 tokens are 250 of 64.
            ("{}", &small, 64, 2048, 250),
            ("{autoTune: false}", &telling, 16, 8192, 31_250),
            (
                "{autoTune: false, blockSizeTokens: 5, maxPrefixTokensToMatch: 16384, lruCapacityPerServer: 7}",
                &small,
                5,
                3276,
                7,
            ),
            (
                "{blockSizeTokens: 100, maxPrefixTokensToMatch: 0}",
                &silent,
                100,
                2048,
                31_250,
            ),
        ] {
            let approx = of(parameters).unwrap();
            let blocks = approx.blocks(snapshot);
            let last = snapshot.len() as u32 - 1;
            assert_eq!(blocks.tokens(), tokens, "{parameters}");
            assert_eq!(
                blocks,
                Blocks::of_tokens(tokens).at_most(most),
                "{parameters}"
            );
            assert_eq!(
                approx.capacity(blocks, snapshot, last),
                capacity,
                "{parameters}"
            );
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            ("{blockSizeTokens: 0}", "blockSizeTokens: is not from 1"),
            ("{lruCapacityPerServer: 0}", "lruCapacityPerServer: is 0"),
            (
                "{maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 0}",
                "maxPrefixTokensToMatch: is 0",
            ),
            ("{blockSize: 5}", "did you mean `blockSizeTokens`?"),
        ] {
            let got = of(parameters).unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
