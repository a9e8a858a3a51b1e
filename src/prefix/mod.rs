//! What each endpoint has in its KV cache, as far as the picker can know without being told: what it sent there.
//!
//! [`ChainHasher`] turns a prompt into a chain of block hashes, [`PrefixIndex`] says how much of a chain each
//! endpoint holds, [`Trust`] how far that turned out to be true; [`PrefixCache`] is both, for endpoints that come and go. A pick looks the chain up, inserts it for the endpoint it picked at
//! once, and feeds what the response says of cached tokens to the trust. The reference's contract (reference §5.1) without
//! its defects: only what an endpoint holds without a gap counts, leaves are evicted before what they stand on, and
//! capacity is counted in blocks of the size that is indexed.
//!
//! # How the index is made
//!
//! - **Hashes are chained**, so one hash stands for a whole prefix. One table from hash to run serves every level of the tree; a
//!   run is compared by its last hash alone, and by halving where that differs; 6,250 blocks cost as much as 50.
//! - **A run** is a stretch of a chain with the endpoints that hold some of it and how much each. Another chain that
//!   leaves it half-way becomes a run of its own, which begins there; nothing is split.
//! - **Readers** take one state of the table and of each run on their way (`arc-swap`) and wait for nobody. **Writers** take
//!   turns. A changed run replaces the old one: copying a run's hashes costs a hundredth of what hashing its text did.
//! - **Spans** keep the order of use: a stretch of a run that one endpoint used in one go. The spans form one list an endpoint
//!   and one over all, exact to the block, at 32 bytes a span and nothing a block.
//!
//! # Why not `kv-index`
//!
//! `kv-index` 2.0 (Apache-2.0, `unsafe` for prefetching alone, builds here) has the best index that we know of, and ours
//! learnt from it. It is made for another job, though: it mirrors what engines report. Weighed:
//!
//! - It evicts nothing by itself: every eviction names its blocks, through a map from hash to place that the caller keeps for each
//!   endpoint. That map takes 17 bytes a slot, at most three quarters of them full, doubling: 1.06 MiB for 31,250
//!   blocks, 106 MiB for 100 endpoints, of the 200 MiB that the whole picker may take. An exact order of use
//!   on top is one more entry a block. Spans need a few bytes a block at worst, and next to nothing for long prompts.
//! - At most 1,024 endpoints, fixed when the index is made.
//! - Two hashes a block, because an engine's hashes are not the router's. Here they are the same, and a lookup that compares
//!   each block's hash does without need what one comparison does.
//! - It brings bincode 1 (no longer maintained), blake3 with its C build, and two more trees for other uses.
//!
//! It is the one to come back to where engines do report their blocks (precise prefix cache). The measured comparison is in
//! `benches/prefix.md`, made by `benches/prefix-peers`.

mod cache;
pub mod chain;
mod chunks;
mod heads;
mod index;
mod recency;
#[doc(hidden)]
pub mod reference;
mod run;
#[cfg(test)]
mod tests;
pub mod trust;
mod writer;

pub use cache::{Prediction, PrefixCache, Who};
pub use chain::{Blocks, ChainHasher, Scope};
pub use index::{DEFAULT_BUDGET, DEFAULT_CAPACITY, MAX_ENDPOINTS, PrefixIndex, Size};
pub use trust::{Outcome, Totals, Trust};
