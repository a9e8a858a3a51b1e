//! From the blocks of a file to the chain of hashes for blocks of another size.
//!
//! ```text
//! h[j] = fold(xxh3, seed h[j-1]) over the numbers of the file's blocks that block j touches, then over where it begins in the first
//! ```
//!
//! What two prompts share of the file's blocks is `k` of them, so their first `⌊k · file's tokens / tokens⌋` hashes agree, and no
//! others do. A block that the file does not name is hashed with the request's own number.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::traffic::Arrival;
use super::{Run, Trace};

/// Seed of all chains; what differs in its adapter shares nothing.
const ROOT: u64 = 0x9E37_79B9_7F4A_7C15;
/// Before a number that is a request's, not a block's.
const OWN: u64 = 1 << 63;

/// The numbers of a prompt's blocks, asked for in their order.
struct Walk<'a> {
    runs: &'a [Run],
    /// Blocks before the first of `runs`.
    before: u32,
}

// === impl Walk ===

impl Walk<'_> {
    /// The number of the block at `index`, which is not less than the one asked for before.
    fn number(&mut self, index: u32) -> Option<u32> {
        loop {
            let run = self.runs.first()?;
            if index - self.before < run.length {
                return Some(run.first + (index - self.before));
            }
            self.before += run.length;
            self.runs = &self.runs[1..];
        }
    }
}

// === impl Trace ===

impl Trace {
    /// Blocks of its prompt that the file names.
    pub(super) fn named(&self, arrival: &Arrival) -> u32 {
        self.runs_of(arrival).iter().map(|run| run.length).sum()
    }

    fn runs_of(&self, arrival: &Arrival) -> &[Run] {
        let row = &self.rows[arrival.row as usize];
        &self.runs[row.runs as usize..row.runs_end as usize]
    }

    /// Replaces `chain` by that of the arrival's prompt in blocks of `tokens` tokens, `most` of them at most. Only full
    /// blocks count, as in [`crate::prefix::chain`].
    pub fn chain(&self, arrival: &Arrival, tokens: u32, most: usize, chain: &mut Vec<u64>) {
        chain.clear();
        let tokens = tokens.max(1);
        let blocks = (arrival.prompt / tokens).min(u32::try_from(most).unwrap_or(u32::MAX));
        chain.reserve(blocks as usize);
        let file = self.block_tokens.max(1);
        let mut walk = Walk {
            runs: self.runs_of(arrival),
            before: 0,
        };
        let epoch = u64::from(arrival.epoch) << 32;
        let own = (arrival.number | OWN).to_le_bytes();
        let mut last = ROOT ^ u64::from(arrival.adapter);
        for block in 0..blocks {
            // A prompt has less than 2³² tokens, and so all that is counted here fits.
            let begin = block * tokens;
            let first = begin / file;
            for index in first..=(begin + (tokens - 1)) / file {
                last = match walk.number(index) {
                    Some(number) => {
                        xxh3_64_with_seed(&(u64::from(number) | epoch).to_le_bytes(), last)
                    }
                    None => xxh3_64_with_seed(&own, last),
                };
            }
            last = xxh3_64_with_seed(&(begin % file).to_le_bytes(), last);
            chain.push(last);
        }
    }
}
